//! Dictionaries of other tools (SAELens, eai-sparsify, dictionary_learning): their parameters under our names give their own
//! encodings and reconstructions. This tests the forms, not the reading of their files: which tensor is which is written here.

use lm_saes::{dictionary::build, settings::DictionarySettings, training::evaluate::plan_inference};
use lm_saes_tests::{
    dense_codes,
    golden::{self, Case, Differences, Outcome},
    queue,
};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, String>;

fn text<E: std::fmt::Display>(e: E) -> String {
    e.to_string()
}

/// A dictionary of ours for a case: settings beside widths, file, and which of its tensors (transposed?) each parameter is.
struct Form {
    settings: Value,
    file: &'static str,
    names: &'static [(&'static str, &'static str, bool)],
    /// Prefix of the expected tensors.
    expected: &'static str,
}

const SAELENS: &[(&str, &str, bool)] =
    &[("W_E", "W_enc", false), ("b_E", "b_enc", false), ("W_D", "W_dec", false), ("b_D", "b_dec", false)];
const GATED: &[(&str, &str, bool)] = &[
    ("W_E", "W_enc", false),
    ("b_gate", "b_gate", false),
    ("r_mag", "r_mag", false),
    ("b_mag", "b_mag", false),
    ("W_D", "W_dec", false),
    ("b_D", "b_dec", false),
];
const DICTLEARN_GATED: &[(&str, &str, bool)] = &[
    ("W_E", "encoder.weight", true),
    ("b_gate", "gate_bias", false),
    ("r_mag", "r_mag", false),
    ("b_mag", "mag_bias", false),
    ("W_D", "decoder.weight", true),
    ("b_D", "decoder_bias", false),
];
const SPARSIFY: &[(&str, &str, bool)] = &[
    ("W_E", "encoder.weight", true),
    ("b_E", "encoder.bias", false),
    ("W_D", "W_dec", false),
    ("b_D", "b_dec", false),
    ("W_skip", "W_skip", true),
];

/// How a case is written in our settings, or why it cannot be yet.
fn form(case: &Case) -> std::result::Result<Form, &'static str> {
    let options = &case.json["config_options"];
    let own = "sae_weights.safetensors";
    let centred = options["apply_b_dec_to_input"] == true;
    let scaled = options["rescale_acts_by_decoder_norm"] == true;
    let form = |settings: Value, file, names| Ok(Form { settings, file, names, expected: "" });
    let sae = |act_fn: &str, centred: bool| json!({"sae_type": "sae", "act_fn": act_fn, "apply_b_dec_to_input": centred});
    match case.name.as_str() {
        "abstopk" | "topk_bdec" | "topk_few_positive" => {
            let act_fn = if case.name == "abstopk" { "abstopk" } else { "topk" };
            form(sae(act_fn, centred), own, SAELENS)
        }
        "abstopk_rescale" | "topk_rescale_by_decoder_norm" if scaled => {
            Err("activations are multiplied by decoder norms, which a reader has to undo")
        }
        "standard_bdec" => form(sae("relu", centred), own, SAELENS),
        "gated_bdec" | "train_gated" => form(json!({"sae_type": "gated", "act_fn": "relu"}), own, GATED),
        "dictlearn_gated" => {
            form(json!({"sae_type": "gated", "act_fn": "relu"}), "ae_tensors.safetensors", DICTLEARN_GATED)
        }
        "dictlearn_matryoshka" => Ok(Form {
            settings: json!({
                "sae_type": "matryoshka", "act_fn": "batchtopk", "apply_b_dec_to_input": true, "widths": [12, 24, 48],
            }),
            file: "ae_tensors.safetensors",
            names: SAELENS,
            expected: "selected.",
        }),
        "sparsify_topk" | "sparsify_groupmax" => {
            let act_fn = case.name.trim_start_matches("sparsify_");
            form(sae(act_fn, true), "run/layers.1/sae.safetensors", SPARSIFY)
        }
        "sparsify_skip_transcoder" => {
            let settings = json!({
                "sae_type": "sae", "act_fn": "topk", "use_skip_connection": true, "hook_point_out": "b",
            });
            form(settings, "run/layers.1/sae.safetensors", SPARSIFY)
        }
        _ => Err("needs a reader of this tool's settings"),
    }
}

fn check(case: &Case) -> Result<Outcome> {
    let form = match form(case) {
        Ok(form) => form,
        Err(why) => return Ok(Outcome::NotYet(why.into())),
    };
    let (inputs, expected, weights) =
        (case.open("inputs.safetensors")?, case.open("expected.safetensors")?, case.open(form.file)?);
    let (shape, x) = inputs.f32("x").map_err(text)?;
    let (rows, d) = (shape[0], shape[1]);
    let want = |name: &str| expected.f32(&format!("{}{name}", form.expected)).map(|(_, v)| v).map_err(text);
    let acts = want("feature_acts")?;
    let s = acts.len() / rows;
    let k =
        case.json.pointer("/config_options/k").and_then(Value::as_u64).unwrap_or(acts_per_row(&acts, rows));
    let mut settings = json!({
        "d_model": d, "expansion_factor": s as f64 / d as f64, "hook_point_in": "a", "hook_point_out": "a",
        "norm_activation": "inference", "sparsity_include_decoder_norm": false, "top_k": k,
    });
    form.settings.as_object().into_iter().flatten().for_each(|(key, value)| settings[key] = value.clone());
    let settings: DictionarySettings = serde_json::from_value(settings).map_err(text)?;
    let q = &mut queue();
    let mut dictionary = build(q, &settings).map_err(text)?;
    for p in dictionary.params_mut() {
        let (_, theirs, turned) =
            form.names.iter().find(|n| n.0 == p.name).ok_or_else(|| format!("nothing is {}", p.name))?;
        let (_, mut values) = weights.f32(theirs).map_err(text)?;
        if *turned {
            let (rows, cols) = (p.shape[0], p.shape[1]);
            values = (0..rows * cols).map(|i| values[i % cols * rows + i / cols]).collect();
        }
        q.upload(&p.to_held(values), &mut p.value).map_err(text)?;
    }
    let _memory = plan_inference(q, &mut *dictionary, rows).map_err(text)?;
    let x = q.tensor(rows, d, &x).map_err(text)?;
    dictionary.forward(q, &[x.view()], None, k as usize).map_err(text)?;
    let mut differences = Differences::default();
    let tolerance = case.tolerance("/tolerance")?;
    differences.compare("feature_acts", &dense_codes(q, dictionary.codes()), &acts, tolerance);
    let y: Vec<f32> = q.download(dictionary.reconstruction()[0]).map_err(text)?;
    differences.compare("reconstructed", &y, &want("reconstructed")?, tolerance);
    differences.outcome()
}

/// What a selection over the batch keeps in the mean.
fn acts_per_row(acts: &[f32], rows: usize) -> u64 {
    (acts.iter().filter(|v| **v != 0.0).count() as u64).div_ceil(rows as u64)
}

#[test]
fn golden_saelens_cases_agree() {
    golden::run("saelens", check);
}
