//! The whole loss of a Lorsa dictionary, for every activation function, loss term and form of attention.

use super::{
    encoders::{Encoder, Heads},
    sae::{ACTIVATIONS, Setting, assert_agrees, plain, run},
};
use lm_saes::{
    settings::ActFn,
    training::{LossSettings, SparsityLoss},
};

const HEADS: Heads = Heads {
    n_qk: 3,
    d_qk: 4,
    len: 4,
    rotary_dim: 4,
    adjacent: true,
    repeat: 1,
    norm: false,
    attn_scale: 1.3,
};

fn lorsa(act: ActFn, heads: Heads) -> Setting {
    Setting { encoder: Encoder::Attention(heads), two_hooks: true, ..plain(act) }
}

#[test]
fn every_form_of_attention() {
    for adjacent in [false, true] {
        for heads in [
            HEADS,
            Heads { rotary_dim: 2, ..HEADS },
            Heads { rotary_dim: 0, ..HEADS },
            Heads { norm: true, ..HEADS },
            Heads { repeat: 2, rotary_dim: 6, ..HEADS },
            Heads { repeat: 2, norm: true, ..HEADS },
        ] {
            let heads = Heads { adjacent, ..heads };
            assert_agrees(&lorsa(ActFn::TopK, heads));
            assert_agrees(&Setting { masked: true, gated: false, ..lorsa(ActFn::Relu, heads) });
        }
    }
}

#[test]
fn one_feature_a_qk_head_and_all_features_on_one() {
    for act in ACTIVATIONS {
        for (n_qk, d_qk) in [(12, 2), (1, 5)] {
            assert_agrees(&lorsa(act, Heads { n_qk, d_qk, rotary_dim: 2, ..HEADS }));
        }
    }
}

#[test]
fn every_activation_and_gating() {
    for act in ACTIVATIONS {
        for gated in [false, true] {
            assert_agrees(&Setting { gated, decoder_bias: gated, ..lorsa(act, HEADS) });
        }
    }
}

#[test]
fn defect_7_every_sparsity_loss_has_its_gradient_tanh_quad_too() {
    for act in ACTIVATIONS {
        for sparsity in [SparsityLoss::Power, SparsityLoss::Tanh, SparsityLoss::TanhQuad] {
            let base = lorsa(act, HEADS);
            let loss = LossSettings { sparsity: Some(sparsity), ..base.loss.clone() };
            assert_agrees(&Setting { loss, masked: sparsity == SparsityLoss::Tanh, ..base });
        }
    }
}

#[test]
fn threshold_penalty_and_auxiliary_loss() {
    for act in ACTIVATIONS {
        for corrected in [false, true] {
            let base = lorsa(act, Heads { norm: true, ..HEADS });
            let loss = LossSettings {
                lp: act == ActFn::JumpRelu,
                lp_gated: corrected,
                auxk: true,
                auxk_detached: corrected,
                ..base.loss.clone()
            };
            let setting = Setting { loss, masked: corrected, ..base };
            let [l_rec, _, _, l_aux] = run(&setting).terms;
            assert!(!act.has_k() || (l_aux - 0.5 * l_rec).abs() > 1e-3, "nothing is dead: {setting:?}");
            assert_agrees(&setting);
        }
    }
}
