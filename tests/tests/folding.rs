//! `forward(fold(d))` is `denormalise(forward(d))` for every variant, with every activation it has, gated and not, for norms of
//! hook points drawn at random; in every other mode of normalisation there is nothing that could be folded, which is said, and
//! the dictionary stays what it was.

use lm_saes::{
    dictionary::{Dictionary, build, checkpoint, variants::Variant},
    settings::{DTypeName, DictionarySettings, NormActivation, from_tree},
};
use lm_saes_runtime::{Queue, RandomKind};
use lm_saes_tests::{apply, noise, queue};
use serde_json::{Map, Value, json};

const D: usize = 12;
const S: usize = 36;
const LEN: usize = 8;
const ROWS: usize = 3 * LEN;
const ACTIVATIONS: [&str; 8] =
    ["relu", "jumprelu", "topk", "batchtopk", "layertopk", "batchlayertopk", "abstopk", "groupmax"];
const MODES: [&str; 5] = ["token-wise", "batch-wise", "dataset-wise", "layer-norm", "inference"];

/// Forms of a variant beside its activation.
fn forms(tag: &str) -> Vec<Value> {
    let one = json!({"hook_point_in": "a", "hook_point_out": "b"});
    let same = json!({"hook_point_in": "a", "hook_point_out": "a"});
    let with = |base: &Value, more: Value| {
        let mut all = base.clone();
        more.as_object().unwrap().iter().for_each(|(key, v)| all[key] = v.clone());
        all
    };
    match tag {
        "sae" => vec![
            same.clone(),
            one.clone(),
            with(&one, json!({"use_glu_encoder": true})),
            with(&one, json!({"use_skip_connection": true})),
            with(&one, json!({"use_decoder_bias": false})),
            with(&same, json!({"apply_b_dec_to_input": true})),
            with(&one, json!({"use_direct_jumprelu_threshold": true})),
        ],
        "gated" => vec![same, with(&one, json!({"apply_b_dec_to_input": false}))],
        "matryoshka" => vec![with(&one, json!({"widths": [6, 18, S]}))],
        "crosscoder" => vec![json!({"hook_points": ["a", "b", "c"]})],
        "clt" => vec![json!({"hook_points_in": ["a", "b", "c"], "hook_points_out": ["d", "e", "f"]})],
        "molt" => vec![with(&one, json!({"rank_counts": {"1": 18, "2": 12, "3": 6}}))],
        "lorsa" => {
            let lorsa = json!({"n_qk_heads": 6, "d_qk_head": 4, "rotary_dim": 4, "n_ctx": LEN});
            let lorsa = with(&one, lorsa);
            let norm = with(&lorsa, json!({"use_post_qk_ln": true, "normalization_type": "RMS"}));
            vec![with(&lorsa, json!({"positional_embedding_type": "none"})), lorsa, norm]
        }
        // Read from other tools only, with their own scaling.
        "matching_pursuit" | "temporal" => Vec::new(),
        new => panic!("say here what forms {new} has"),
    }
}

/// All settings that exist.
fn all_settings() -> Vec<DictionarySettings> {
    let mut all = Vec::new();
    for tag in Variant::TAGS {
        for form in forms(tag) {
            for act_fn in ACTIVATIONS {
                for gated in [true, false] {
                    let mut tree = form.clone();
                    for (key, value) in [
                        ("sae_type", json!(tag)),
                        ("d_model", json!(D)),
                        ("expansion_factor", json!(S / D)),
                        ("act_fn", json!(act_fn)),
                        ("top_k", json!(6)),
                        ("sparsity_include_decoder_norm", json!(gated)),
                        ("jumprelu_threshold_window", json!(0.5)),
                    ] {
                        tree[key] = value;
                    }
                    let Ok(settings) = from_tree::<DictionarySettings>(&tree) else { continue };
                    if settings.validate().is_ok() {
                        all.push(settings);
                    }
                }
            }
        }
    }
    all
}

/// Every parameter random, and norms of every hook point between 0.2 and 5.
fn scrambled(q: &mut Queue, settings: &DictionarySettings, seed: u64) -> Box<dyn Dictionary> {
    let mut d = build(q, settings).unwrap();
    for (i, p) in d.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 0.5), 100 * seed + i as u64, 0, &mut p.value).unwrap();
        if p.name == "activation_function.jumprelu_threshold" {
            let size: Vec<f32> = q.download::<f32>(&p.value).unwrap().iter().map(|v| v.abs()).collect();
            q.upload(&size, &mut p.value).unwrap();
        }
    }
    let hooks = [d.hook_points_in(), d.hook_points_out()].concat();
    let norm = |hook: &String| 5f32.powf(noise(seed + 7 * u64::from(hook.as_bytes()[0]), 1)[0]);
    d.set_norms(hooks.iter().map(|hook| (hook.clone(), norm(hook))).collect());
    d
}

/// Raw activations of each input, about as large as their norms say.
fn raw(d: &dyn Dictionary, seed: u64) -> Vec<Vec<f32>> {
    let one = |hook: String| {
        let size = d.norms()[&hook] / (D as f32).sqrt() * 1.7;
        noise(seed + 31 * u64::from(hook.as_bytes()[0]), ROWS * D).iter().map(|v| v * size).collect()
    };
    d.hook_points_in().into_iter().map(one).collect()
}

#[test]
fn a_folded_dictionary_does_to_raw_activations_what_it_did_with_scaling_around_it() {
    let q = &mut queue();
    let mut seen = std::collections::BTreeMap::new();
    for settings in all_settings() {
        for seed in 1..=3 {
            let mut d = scrambled(q, &settings, seed);
            let xs = raw(&*d, seed);
            let (codes, before) = apply(q, &mut *d, &xs, Some(LEN)).unwrap();
            d.fold(q).unwrap();
            assert_eq!(d.settings().norm_activation(), NormActivation::Inference);
            let (folded, after) = apply(q, &mut *d, &xs, Some(LEN)).unwrap();
            let on = |codes: &[f32]| codes.iter().map(|&c| c != 0.0).collect::<Vec<_>>();
            let active = on(&codes).iter().filter(|on| **on).count();
            assert!((1..codes.len()).contains(&active), "{settings:?}: {active} of {}", codes.len());
            assert_eq!(on(&codes), on(&folded), "{settings:?}, seed {seed}: others are active");
            for (hook, (a, b)) in d.hook_points_out().iter().zip(before.iter().zip(&after)) {
                let size = a.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
                let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
                assert!(worst < 2e-5, "{settings:?}, seed {seed}, {hook}: {worst}");
            }
        }
        let act_fn = serde_json::to_value(settings.act_fn()).unwrap();
        seen.entry(settings.sae_type().to_string())
            .or_insert_with(std::collections::BTreeSet::new)
            .insert(act_fn.as_str().unwrap().to_string());
    }
    // What was refused is what the variant does not have.
    let number: Vec<(&str, usize)> = seen.iter().map(|(tag, acts)| (tag.as_str(), acts.len())).collect();
    let should = [
        ("clt", 6),
        ("crosscoder", 4),
        ("gated", 1),
        ("lorsa", 4),
        ("matryoshka", 2),
        ("molt", 4),
        ("sae", 6),
    ];
    assert_eq!(number, should, "{seen:?}");
}

#[test]
fn only_norms_of_the_data_set_can_be_folded_and_a_refusal_changes_nothing() {
    let q = &mut queue();
    for settings in all_settings() {
        for mode in MODES.into_iter().filter(|m| *m != "dataset-wise") {
            let mut tree = serde_json::to_value(&settings).unwrap();
            tree["norm_activation"] = json!(mode);
            let settings: DictionarySettings = from_tree(&tree).unwrap();
            if settings.validate().is_err() {
                continue;
            }
            let mut d = scrambled(q, &settings, 1);
            let values = |q: &mut Queue, d: &dyn Dictionary| -> Vec<Vec<f32>> {
                d.params().iter().map(|p| q.download(&p.value).unwrap()).collect()
            };
            // As built: what was left to a default may have been given its value.
            let (before, settings) = (values(q, &*d), d.settings().clone());
            let e = d.fold(q).unwrap_err().to_string();
            assert!(e.contains("dataset-wise"), "{settings:?}: {e}");
            assert_eq!(values(q, &*d), before, "{settings:?}");
            assert_eq!(*d.settings(), settings);
        }
    }
}

#[test]
fn a_folded_dictionary_comes_back_from_disk_as_it_was() {
    let q = &mut queue();
    for settings in all_settings() {
        let mut d = scrambled(q, &settings, 2);
        let xs = raw(&*d, 2);
        d.fold(q).unwrap();
        let dir = tempfile::tempdir().unwrap();
        checkpoint::save(q, &*d, dir.path(), DTypeName::F32, &Map::new()).unwrap();
        let options = checkpoint::LoadOptions { strict: true, fold: true };
        let mut back = checkpoint::load(q, dir.path(), options).unwrap().dictionary;
        assert_eq!(back.settings(), d.settings());
        let (one, other) = (apply(q, &mut *d, &xs, Some(LEN)), apply(q, &mut *back, &xs, Some(LEN)));
        assert_eq!(one.unwrap(), other.unwrap(), "{settings:?}");
    }
}
