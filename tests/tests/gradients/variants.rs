//! The whole loss of the SAEs other tools have: signed and grouped activations, skip connections, centred inputs, sums of powers,
//! thresholds of their own, gates, prefixes.

use super::{
    encoders::Encoder,
    model::Forms,
    sae::{ACTIVATIONS, Both, GATED, S, Setting, assert_agrees, plain, run},
};
use lm_saes::{
    settings::ActFn,
    training::{LossSettings, SparsityLoss},
};

const LINEAR: Encoder = Encoder::Linear { glu: false };

#[test]
fn activations_of_either_sign_and_the_best_of_each_group() {
    for act in [ActFn::AbsTopK, ActFn::GroupMax] {
        for (gated, encoder) in [(false, LINEAR), (true, GATED)] {
            assert_agrees(&Setting { gated, encoder, masked: gated, ..plain(act) });
            let base = plain(act);
            let loss = LossSettings { auxk: true, ..base.loss.clone() };
            assert_agrees(&Setting { loss, gated, ..base });
        }
    }
}

#[test]
fn skip_connections_and_inputs_less_their_bias() {
    let all = ACTIVATIONS.into_iter().chain([ActFn::AbsTopK, ActFn::GroupMax]);
    for act in all {
        for decoder_bias in [false, true] {
            let forms = Forms { skip: true, ..Forms::default() };
            assert_agrees(&Setting { forms, two_hooks: true, decoder_bias, masked: true, ..plain(act) });
        }
        for encoder in [LINEAR, GATED] {
            let base = plain(act);
            let loss = LossSettings { auxk: true, auxk_detached: false, ..base.loss.clone() };
            let forms = Forms { centred: true, ..Forms::default() };
            assert_agrees(&Setting { loss, forms, encoder, masked: true, ..base });
        }
    }
}

#[test]
fn sums_of_powers_below_one_and_above() {
    for act in ACTIVATIONS {
        for p in [0.4, 1.0, 1.7] {
            let base = plain(act);
            let loss = LossSettings { sparsity: Some(SparsityLoss::PowerSum), p, ..base.loss.clone() };
            assert_agrees(&Setting { loss, masked: true, ..base });
        }
    }
}

#[test]
fn thresholds_trained_directly_and_towards_a_number_of_active_features() {
    for direct in [false, true] {
        for gated in [false, true] {
            let forms = Forms { direct, ..Forms::default() };
            let base = Setting { forms, gated, masked: true, ..plain(ActFn::JumpRelu) };
            assert_agrees(&base);
            let lp = LossSettings { lp: true, ..base.loss.clone() };
            assert_agrees(&Setting { loss: lp, ..base.clone() });
            for target_l0 in [1.0, 9.0] {
                let sparsity = Some(SparsityLoss::TargetL0);
                let loss = LossSettings { sparsity, target_l0, ..base.loss.clone() };
                let setting = Setting { loss, ..base.clone() };
                let Both { gradients, .. } = run(&setting);
                let thresholds = &gradients.last().expect("thresholds").1;
                assert!(thresholds.iter().filter(|g| **g != 0.0).count() > 3, "the windows must be hit");
                assert_agrees(&setting);
            }
        }
    }
}

#[test]
fn gated_saes() {
    let base = Setting { encoder: Encoder::Gate, ..plain(ActFn::Relu) };
    for (centred, masked, two_hooks) in [(true, false, false), (true, true, false), (false, true, true)] {
        let forms = Forms { centred, ..Forms::default() };
        let base = Setting { forms, masked, two_hooks, ..base.clone() };
        assert_agrees(&base);
        for (kind, p) in
            [(SparsityLoss::Power, 1.0), (SparsityLoss::PowerSum, 0.5), (SparsityLoss::Tanh, 1.0)]
        {
            let loss = LossSettings { sparsity: Some(kind), p, ..base.loss.clone() };
            assert_agrees(&Setting { loss, ..base.clone() });
        }
    }
    assert_agrees(&Setting { decoder_bias: false, ..base });
}

#[test]
fn matryoshka_levels() {
    for act in [ActFn::TopK, ActFn::BatchTopK] {
        for widths in [vec![S], vec![5, S], vec![1, 2, 7, S]] {
            for (gated, masked, centred) in [(true, false, false), (false, true, true)] {
                let forms = Forms { widths: widths.clone(), centred, ..Forms::default() };
                let base = Setting { forms, gated, masked, ..plain(act) };
                assert_agrees(&base);
                for auxk_detached in [false, true] {
                    let loss = LossSettings { auxk: true, auxk_detached, ..base.loss.clone() };
                    assert_agrees(&Setting { loss, ..base.clone() });
                }
                let loss = LossSettings { sparsity: Some(SparsityLoss::TanhQuad), ..base.loss.clone() };
                assert_agrees(&Setting { loss, decoder_bias: true, ..base });
            }
        }
    }
}
