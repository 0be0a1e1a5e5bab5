//! The whole loss of the SAE, for every activation function and loss term: terms and every parameter's gradient from
//! `train_step` on the reference device against the f64 model.

use super::{
    encoders::Encoder,
    model::{Forms, Model},
    reference, values,
};
use lm_saes::{
    dictionary::{self, Coefficients, DeadFeatures, StepInput},
    settings::{ActFn, DictionarySettings},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, DType, Queue};

const D: usize = 5;
pub const S: usize = 12;
const ROWS: usize = 7;

pub const GATED: Encoder = Encoder::Linear { glu: true };

/// One configuration.
#[derive(Clone, Debug)]
pub struct Setting {
    pub act: ActFn,
    pub gated: bool,
    pub encoder: Encoder,
    pub decoder_bias: bool,
    pub masked: bool,
    /// Labels of their own.
    pub two_hooks: bool,
    pub forms: Forms,
    pub loss: LossSettings,
}

pub fn plain(act: ActFn) -> Setting {
    Setting {
        act,
        gated: true,
        encoder: Encoder::Linear { glu: false },
        decoder_bias: true,
        masked: false,
        two_hooks: false,
        forms: Forms::default(),
        loss: LossSettings {
            sparsity: None,
            tanh_stretch: 1.5,
            frequency_scale: 0.2,
            p: 1.0,
            target_l0: 50.0,
            lp: false,
            auxk: false,
            k_aux: 2,
            lp_gated: true,
            auxk_detached: true,
        },
    }
}

fn dictionary_settings(c: &Setting) -> DictionarySettings {
    let mut json = serde_json::json!({
        "d_model": D, "expansion_factor": S as f64 / D as f64 + 0.01,
        "act_fn": c.act, "use_decoder_bias": c.decoder_bias,
        "sparsity_include_decoder_norm": c.gated, "top_k": 3, "jumprelu_threshold_window": 0.4,
        "norm_activation": "inference", "hook_point_in": "in",
        "hook_point_out": if c.two_hooks { "out" } else { "in" },
    });
    let own = c.encoder.settings();
    own.as_object().expect("a table").iter().for_each(|(key, value)| json[key] = value.clone());
    let Forms { skip, centred, direct, widths } = &c.forms;
    if *skip {
        json["use_skip_connection"] = true.into();
    }
    if *direct {
        json["use_direct_jumprelu_threshold"] = true.into();
    }
    if *centred || matches!(c.encoder, Encoder::Gate) {
        json["apply_b_dec_to_input"] = (*centred).into();
    }
    if !widths.is_empty() {
        json["sae_type"] = "matryoshka".into();
        json["widths"] = widths.clone().into();
        json.as_object_mut().expect("a table").remove("use_glu_encoder");
    }
    serde_json::from_value(json).expect("the settings of this test are valid")
}

fn rows(values: &[f32]) -> Vec<Vec<f64>> {
    values.chunks(D).map(|row| row.iter().map(|&v| v.into()).collect()).collect()
}

/// Loss terms and gradients of the device, and the model of the same step.
pub struct Both {
    pub terms: [f64; 4],
    pub gradients: Vec<(String, Vec<f32>)>,
    params: Vec<Vec<f64>>,
    model: Model,
}

pub fn run(c: &Setting) -> Both {
    let q = &mut reference();
    // Whole contexts, two of them.
    let n_rows = c.encoder.context().map_or(ROWS, |len| 2 * len);
    let settings = dictionary_settings(c);
    let mut sae = dictionary::build(q, &settings).expect("the dictionary");
    for (i, p) in sae.params_mut().into_iter().enumerate() {
        let mut host = values(20 + i as u64, p.value.len());
        // log θ around −1, so that some pre-activations lie in the window.
        if p.name.contains("threshold") {
            let value = |v: f32| if c.forms.direct { (0.3 * v - 1.0).exp() } else { 0.3 * v - 1.0 };
            host.iter_mut().for_each(|v| *v = value(*v));
        }
        // The features that may be dead are positive on most rows, but weaker than the others.
        let weak = |i: usize| c.loss.auxk && i % 3 == 1;
        match p.name.as_str() {
            "W_E" | "W_V" => (0..host.len()).filter(|i| weak(i / D)).for_each(|i| host[i] *= 0.1),
            "b_E" | "b_V" => (0..host.len()).filter(|&i| weak(i)).for_each(|i| host[i] = 0.05),
            _ => {}
        }
        q.upload(&host, &mut p.value).expect("upload");
    }
    let params = sae.params().iter().map(|p| download(q, &p.value)).collect::<Vec<_>>();

    let (x, other) = (values(40, n_rows * D), values(41, n_rows * D));
    let y = if c.two_hooks { other } else { x.clone() };
    let mask: Vec<u8> = (0..n_rows).map(|r| u8::from(!c.masked || r % 3 != 1)).collect();
    let n_tokens: usize = mask.iter().map(|&m| usize::from(m)).sum();
    let weight: Vec<f32> = mask.iter().map(|&m| f32::from(m) / n_tokens as f32).collect();
    let (xt, yt) = (q.tensor(n_rows, D, &x).unwrap(), q.tensor(n_rows, D, &y).unwrap());
    let (wt, mt) = (q.tensor(n_rows, 1, &weight).unwrap(), q.tensor(1, n_rows, &mask).unwrap());
    let coefficients = Coefficients { k: 3, l1: 0.3, lp: 0.2, auxk: 0.5 };

    let mut plan = Arena::planning("step");
    sae.plan(&mut plan, n_rows, 3, Some(&c.loss)).expect("planning");
    let mut arena = Arena::build(&plan, q.device()).expect("memory");
    sae.plan(&mut arena, n_rows, 3, Some(&c.loss)).expect("the plan");
    // Features 1, 4, 7, 10 have been silent for long; those that fire in this batch stop being dead.
    let since: Vec<u32> = (0..S as u32).map(|i| if i % 3 == 1 { 10_000 } else { 0 }).collect();
    let mut dead = DeadFeatures {
        since: q.tensor(1, S, &since).unwrap(),
        fired: q.zeros(1, S, DType::U32).unwrap(),
        dead: q.zeros(1, S, DType::U8).unwrap(),
        threshold: 1000,
    };
    let input = StepInput {
        inputs: vec![xt.view()],
        labels: vec![yt.view()],
        context: c.encoder.context(),
        mask: c.masked.then(|| mt.view()),
        weight: wt.view(),
        n_tokens,
    };
    let terms =
        sae.train_step(q, &input, &c.loss, coefficients, c.loss.auxk.then_some(&mut dead)).expect("a step");
    let gradients = sae.params().into_iter().map(|p| {
        let grad = p.grad.as_ref().expect("planned for training");
        (p.name.clone(), q.download::<f32>(grad).expect("download"))
    });
    let gradients = gradients.collect();
    let dead: Vec<u8> = q.download(&dead.dead).unwrap();
    let model = Model {
        d: D,
        s: S,
        act: c.act,
        gated: c.gated,
        encoder: c.encoder,
        forms: c.forms.clone(),
        decoder_bias: c.decoder_bias,
        window: 0.4,
        loss: c.loss.clone(),
        c: coefficients,
        x: rows(&x),
        y: rows(&y),
        weight: weight.iter().map(|&w| w.into()).collect(),
        dead: dead.iter().map(|&d| d == 1).collect(),
    };
    let part = |v: Option<f32>| v.unwrap_or(0.0).into();
    let terms = [terms.l_rec.into(), part(terms.l_s), part(terms.l_p), part(terms.l_aux)];
    Both { terms, gradients, params, model }
}

fn download(q: &mut Queue, t: &lm_saes_runtime::Tensor) -> Vec<f64> {
    q.download::<f32>(t).expect("download").iter().map(|&v| v.into()).collect()
}

pub fn assert_agrees(c: &Setting) {
    let Both { terms, gradients, params, model } = run(c);
    let frozen = model.freeze(&params);
    let expected = model.terms(&params, &frozen);
    for (i, name) in ["l_rec", "l_s", "l_p", "l_aux"].iter().enumerate() {
        let error = (terms[i] - expected[i]).abs();
        assert!(error <= 1e-5 * (1.0 + expected[i].abs()), "{c:?}\n{name} {} for {}", terms[i], expected[i]);
    }
    let mut moved = params.clone();
    for (which, (name, gradient)) in gradients.iter().enumerate() {
        for i in 0..gradient.len() {
            let step = 1e-5;
            let mut at = |v: f64| {
                moved[which][i] = v;
                model.terms(&moved, &frozen).iter().sum::<f64>()
            };
            let v = params[which][i];
            let slope = (at(v + step) - at(v - step)) / (2.0 * step);
            at(v);
            let error = (f64::from(gradient[i]) - slope).abs();
            assert!(
                error <= 1e-4 * (1.0 + slope.abs()),
                "{c:?}\n{name}[{i}] is {}, central differences give {slope}",
                gradient[i]
            );
        }
    }
}

pub const ACTIVATIONS: [ActFn; 4] = [ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK];

#[test]
fn reconstruction_alone() {
    for act in ACTIVATIONS {
        for gated in [false, true] {
            assert_agrees(&Setting { gated, ..plain(act) });
        }
        assert_agrees(&Setting { decoder_bias: false, masked: true, ..plain(act) });
        assert_agrees(&Setting { two_hooks: true, ..plain(act) });
    }
}

#[test]
fn gated_encoders() {
    for act in ACTIVATIONS {
        assert_agrees(&Setting { encoder: GATED, masked: true, ..plain(act) });
    }
}

#[test]
fn defect_7_every_sparsity_loss_has_its_gradient_tanh_quad_too() {
    for act in ACTIVATIONS {
        for (sparsity, p) in [
            (SparsityLoss::Power, 1.0),
            (SparsityLoss::Power, 1.5),
            (SparsityLoss::Tanh, 1.0),
            (SparsityLoss::TanhQuad, 1.0),
        ] {
            for (gated, masked) in [(true, true), (false, false)] {
                let base = plain(act);
                let loss = LossSettings { sparsity: Some(sparsity), p, ..base.loss.clone() };
                assert_agrees(&Setting { loss, gated, masked, ..base });
            }
        }
    }
}

#[test]
fn defect_9_the_threshold_penalty_compares_gated_values_or_as_the_reference_system_does() {
    for lp_gated in [false, true] {
        for gated in [false, true] {
            let base = plain(ActFn::JumpRelu);
            let loss = LossSettings { lp: true, lp_gated, ..base.loss.clone() };
            assert_agrees(&Setting { loss, gated, masked: true, ..base });
        }
    }
}

#[test]
fn defect_8_the_auxiliary_loss_takes_the_error_as_constant_or_as_the_reference_system_does() {
    for act in ACTIVATIONS {
        for auxk_detached in [false, true] {
            for gated in [false, true] {
                let base = plain(act);
                let loss = LossSettings { auxk: true, auxk_detached, ..base.loss.clone() };
                let setting = Setting { loss, gated, masked: gated, ..base };
                // With a budget, dead features exist that reconstruct something: without, l_aux is auxk·l_rec.
                let [l_rec, _, _, l_aux] = run(&setting).terms;
                assert!(!act.has_k() || (l_aux - 0.5 * l_rec).abs() > 1e-3, "nothing is dead: {setting:?}");
                assert_agrees(&setting);
            }
        }
    }
}

#[test]
fn everything_at_once() {
    for act in ACTIVATIONS {
        let base = plain(act);
        let loss = LossSettings {
            sparsity: Some(SparsityLoss::TanhQuad),
            lp: act == ActFn::JumpRelu,
            auxk: true,
            ..base.loss.clone()
        };
        assert_agrees(&Setting { loss, encoder: GATED, masked: true, two_hooks: true, ..base });
    }
}
