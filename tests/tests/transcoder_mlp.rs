//! Transcoders that start from the language model's own MLP, against the MLP computed by hand.

use lm_saes::{
    dictionary::{Dictionary, ModelParts, RandomInit, build},
    lm::Lm,
    runners::{self, Start},
    settings::{DictionarySettings, LanguageModelSettings, from_tree},
    tensorfile::TensorFile,
    training::Silent,
};
use lm_saes_runtime::{Queue, View};
use lm_saes_tests::{noise, queue, tiny};
use serde_json::{Value, json};
use std::path::Path;

const D: usize = 48;
const D_MLP: usize = 80;
const S: usize = 96;
const ROWS: usize = 30;
const LAYER: usize = 1;
const IN: &str = "blocks.1.ln2.hook_normalized";
const OUT: &str = "blocks.1.hook_mlp_out";

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lm/llama_gqa/model"))
}

fn settings(more: Value) -> DictionarySettings {
    let mut all = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 2.0, "hook_point_in": IN, "hook_point_out": OUT,
        "act_fn": "topk", "top_k": 5,
    });
    more.as_object().unwrap().iter().for_each(|(k, v)| all[k] = v.clone());
    serde_json::from_value(all).unwrap()
}

/// The gated MLP of the layer on what its norm gives before the gain, in f64, from the file's tensors.
struct ByHand {
    gain: Vec<f64>,
    gate: Vec<f64>,
    up: Vec<f64>,
    down: Vec<f64>,
}

impl ByHand {
    fn read() -> Self {
        let file = TensorFile::open(folder().join("model.safetensors")).unwrap();
        let read = |name: &str| -> Vec<f64> {
            let (_, values) = file.f32(&format!("model.layers.{LAYER}.{name}.weight")).unwrap();
            values.into_iter().map(f64::from).collect()
        };
        Self {
            gain: read("post_attention_layernorm"),
            gate: read("mlp.gate_proj"),
            up: read("mlp.up_proj"),
            down: read("mlp.down_proj"),
        }
    }

    fn answer(&self, x: &[f64]) -> Vec<f64> {
        let x: Vec<f64> = x.iter().zip(&self.gain).map(|(x, g)| x * g).collect();
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let hidden: Vec<f64> = (0..D_MLP)
            .map(|i| {
                let (gate, up) =
                    (dot(&self.gate[i * D..(i + 1) * D], &x), dot(&self.up[i * D..(i + 1) * D], &x));
                gate / (1.0 + (-gate).exp()) * up
            })
            .collect();
        self.down.chunks_exact(D_MLP).map(|row| dot(row, &hidden)).collect()
    }
}

fn values(q: &mut Queue, d: &dyn Dictionary, name: &str) -> Vec<f64> {
    let p = d.params().into_iter().find(|p| p.name == name).expect("the parameter");
    q.download::<f32>(&p.value).unwrap().into_iter().map(f64::from).collect()
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn decoder_rows_are_what_the_models_mlp_answers_to_the_encoders_directions() {
    let q = &mut queue();
    let lm = Lm::load(q, folder(), &LanguageModelSettings::default()).unwrap();
    let mut d = build(q, &settings(json!({}))).unwrap();
    let init = RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: None, seed: 3 };
    d.init_random(q, &init).unwrap();
    d.set_norms([(IN.to_string(), 3.0), (OUT.to_string(), 0.4)].into());
    let drawn = values(q, &*d, "W_E");
    // Normalised inputs that do not lie around 0, the last third of them padding.
    let x: Vec<f32> = noise(5, ROWS * D).iter().enumerate().map(|(i, v)| v + (i % D) as f32 * 0.02).collect();
    let weight: Vec<f32> = (0..ROWS).map(|r| if r < 20 { 1.0 / 20.0 } else { 0.0 }).collect();
    let (inputs, weights) = (q.tensor(ROWS, D, &x).unwrap(), q.tensor(ROWS, 1, &weight).unwrap());
    let mut mlp = |q: &mut Queue, x: View<'_>| lm.mlp(q, LAYER, IN, x);
    d.transcoder_from_mlp(q, &[inputs.view()], weights.view(), &mut mlp).unwrap();

    let raw: Vec<f64> = x.iter().map(|v| f64::from(*v) * 3.0 / (D as f64).sqrt()).collect();
    let rows: Vec<&[f64]> = raw.chunks_exact(D).take(20).collect();
    let mean: Vec<f64> = (0..D).map(|c| rows.iter().map(|r| r[c]).sum::<f64>() / 20.0).collect();
    let away = |r: &&[f64]| norm(&r.iter().zip(&mean).map(|(x, m)| x - m).collect::<Vec<_>>());
    let radius = rows.iter().map(away).sum::<f64>() / 20.0;
    let by_hand = ByHand::read();
    let units: Vec<Vec<f64>> =
        drawn.chunks_exact(D).map(|w| w.iter().map(|v| v / norm(w)).collect()).collect();
    let answers: Vec<Vec<f64>> = units
        .iter()
        .map(|w| by_hand.answer(&w.iter().zip(&mean).map(|(w, m)| m + radius * w).collect::<Vec<_>>()))
        .collect();
    let centre: Vec<f64> = (0..D).map(|c| answers.iter().map(|a| a[c]).sum::<f64>() / S as f64).collect();
    let (w_e, w_d) = (values(q, &*d, "W_E"), values(q, &*d, "W_D"));
    for (i, answer) in answers.iter().enumerate() {
        let off: Vec<f64> = answer.iter().zip(&centre).map(|(a, c)| a - c).collect();
        for c in 0..D {
            let (e, want) = (w_e[i * D + c], units[i][c]);
            assert!((e - want).abs() < 1e-5, "encoder {i}, {c}: {e} {want}");
            let (got, want) = (w_d[i * D + c], off[c] / norm(&off));
            assert!((got - want).abs() < 1e-4, "decoder {i}, {c}: {got} {want}");
        }
    }
}

#[test]
fn the_mlp_on_the_residual_stream_normalises_it_first() {
    let q = &mut queue();
    let lm = Lm::load(q, folder(), &LanguageModelSettings::default()).unwrap();
    let x = noise(9, 3 * D);
    let stream = q.tensor(3, D, &x).unwrap();
    let got = lm.mlp(q, LAYER, "blocks.1.hook_resid_mid", stream.view()).unwrap();
    let got: Vec<f32> = q.download(&got).unwrap();
    let by_hand = ByHand::read();
    for (x, got) in x.chunks_exact(D).zip(got.chunks_exact(D)) {
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let size = (norm(&x).powi(2) / D as f64 + 1e-5).sqrt();
        let want = by_hand.answer(&x.iter().map(|v| v / size).collect::<Vec<_>>());
        let largest = want.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert!(want.iter().zip(got).all(|(w, g)| (w - f64::from(*g)).abs() < 1e-5 * largest.max(1e-3)));
    }
    let wrong =
        |q: &mut Queue, layer, hook: &str| lm.mlp(q, layer, hook, stream.view()).err().unwrap().to_string();
    assert!(wrong(q, 2, IN).contains("model_layer"));
    assert!(wrong(q, 0, IN).contains("ln2.hook_normalized"));
    assert!(wrong(q, 1, "blocks.1.hook_resid_post").contains("does not read"));
}

#[test]
fn a_job_starts_a_transcoder_from_the_models_mlp_and_says_what_that_needs() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 60);
    let with = |more: &[&str]| {
        let hooks = format!("activation_factory.hook_points=[\"{IN}\",\"{OUT}\"]");
        let (input, output) = (format!("sae.hook_point_in={IN}"), format!("sae.hook_point_out={OUT}"));
        let mut all = vec![hooks.as_str(), &input, &output, "initializer.initialize_tc_with_mlp=true"];
        all.extend(["trainer.total_training_tokens=640", "eval=false"]);
        all.extend(more);
        let tree = tiny::job(dir.path(), "out", &all);
        let s = from_tree(&tree).unwrap();
        runners::train(&s, &lm_saes_backends::registry(), &mut Silent, Start::Overwrite)
    };
    let done = with(&["initializer.model_layer=1"]).unwrap();
    assert_eq!(done.steps, 10);
    let refused = |more: &[&str]| with(more).err().unwrap().to_string();
    assert!(refused(&[]).contains("initializer.model_layer"));
    assert!(refused(&["initializer.model_layer=0"]).contains("initialize_tc_with_mlp"));
    let same = format!("sae.hook_point_out={IN}");
    assert!(refused(&["initializer.model_layer=1", &same]).contains("for transcoders"));
    let tokenwise = ["initializer.model_layer=1", "sae.norm_activation=token-wise"];
    assert!(refused(&tokenwise).contains("dataset-wise"));
}
