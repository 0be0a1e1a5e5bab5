//! Parts of dictionaries: every rank of any mesh finds its part in a plain file or in the parts of another mesh, parts join into
//! the file that one rank writes, random starting values do not depend on the division, and divisions that cannot be are refused.

use lm_saes::{
    dictionary::{
        Dictionary, Place, RandomInit, build, build_part,
        checkpoint::{self, LoadOptions},
    },
    settings::{DTypeName, DictionarySettings, from_tree},
};
use lm_saes_runtime::{Queue, RandomKind};
use lm_saes_tests::queue;
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

const STRICT: LoadOptions = LoadOptions { strict: true, fold: false };

/// One dictionary of every variant, and what its heads can be divided by.
fn variants() -> Vec<(Value, usize)> {
    let sae = json!({"sae_type": "sae", "hook_point_in": "a", "hook_point_out": "b", "d_model": 6, "expansion_factor": 4});
    let with = |more: Value| {
        let mut all = sae.clone();
        more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
        all
    };
    let clt = json!({
        "sae_type": "clt", "hook_points_in": ["a", "b", "c"], "hook_points_out": ["d", "e", "f"], "d_model": 6,
        "expansion_factor": 2, "act_fn": "jumprelu",
    });
    let crosscoder = json!({
        "sae_type": "crosscoder", "hook_points": ["a", "b"], "d_model": 6, "expansion_factor": 2, "act_fn": "jumprelu",
    });
    let lorsa = json!({
        "sae_type": "lorsa", "hook_point_in": "a", "hook_point_out": "b", "d_model": 6, "expansion_factor": 4,
        "n_qk_heads": 4, "d_qk_head": 4, "n_ctx": 8, "rotary_dim": 4, "act_fn": "topk", "top_k": 3,
        "use_post_qk_ln": true, "normalization_type": "RMS",
    });
    let molt = json!({
        "sae_type": "molt", "hook_point_in": "a", "hook_point_out": "b", "d_model": 6, "expansion_factor": 2,
        "rank_counts": {"1": 8, "3": 4}, "act_fn": "jumprelu",
    });
    vec![
        (with(json!({"act_fn": "jumprelu", "use_glu_encoder": true, "use_skip_connection": true})), 1),
        (with(json!({"act_fn": "batchtopk", "top_k": 4})), 1),
        (with(json!({"sae_type": "gated", "apply_b_dec_to_input": false})), 1),
        (with(json!({"sae_type": "matryoshka", "act_fn": "topk", "top_k": 4})), 1),
        (clt, 1),
        (crosscoder, 2),
        (lorsa, 1),
        (molt, 1),
    ]
}

fn settings(tree: &Value) -> DictionarySettings {
    from_tree(tree).unwrap()
}

/// Every parameter random, norms known.
fn scrambled(q: &mut Queue, tree: &Value) -> Box<dyn Dictionary> {
    let mut d = build(q, &settings(tree)).unwrap();
    for (i, p) in d.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 0.5), 7 + i as u64, 0, &mut p.value).unwrap();
    }
    let hooks = d.hook_points_in().into_iter().chain(d.hook_points_out());
    let norms = hooks.enumerate().map(|(i, h)| (h, 1.0 + i as f32)).collect();
    d.set_norms(norms);
    if d.running_thresholds_mut().set(Some(vec![0.25])) {
        assert!(d.running_thresholds().values().is_some());
    }
    d
}

/// Places of every rank of a mesh.
fn mesh(model: usize, head: usize) -> Vec<(Place, Place)> {
    let of = |h: usize| (0..model).map(move |m| (Place::new(model, m), Place::new(head, h)));
    (0..head).flat_map(of).collect()
}

/// Each rank loads its part from `from` and saves it to `to`.
fn pass_on(q: &mut Queue, from: &Path, to: &Path, mesh: &[(Place, Place)], dtype: DTypeName) {
    for &(model, head) in mesh {
        let part = checkpoint::load_part(q, from, STRICT, model, head).unwrap().dictionary;
        checkpoint::save(q, &*part, to, dtype, &Map::new()).unwrap();
    }
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |e: fs::DirEntry| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).unwrap());
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| read(e.unwrap())).collect();
    all.sort();
    all
}

#[test]
fn parts_of_any_mesh_come_from_parts_of_any_other_and_join_into_the_file_of_one_rank() {
    let q = &mut queue();
    for (tree, heads) in variants() {
        for dtype in [DTypeName::F32, DTypeName::Bf16] {
            let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
            let [one, two, four, back] = [0, 1, 2, 3].map(|i| dirs[i].path());
            let d = scrambled(q, &tree);
            checkpoint::save(q, &*d, one, dtype, &Map::new()).unwrap();
            pass_on(q, one, two, &mesh(2, 1), dtype);
            pass_on(q, two, four, &mesh(4 / heads, heads), dtype);
            assert_eq!(files(four).len(), 5, "{tree}");
            pass_on(q, four, back, &mesh(1, 1), dtype);
            checkpoint::join(four).unwrap();
            for (dir, how) in [(back, "loaded whole"), (four, "joined")] {
                for ((name, bytes), (also, expected)) in files(dir).into_iter().zip(files(one)) {
                    assert!(
                        name == also && bytes == expected,
                        "{tree}: {name} {how} is not {also} of one rank"
                    );
                }
            }
        }
    }
}

#[test]
fn random_starting_values_do_not_depend_on_the_division() {
    let q = &mut queue();
    let init =
        RandomInit { encoder_bound: 0.3, decoder_bound: 0.2, log_jumprelu_threshold: Some(-1.0), seed: 11 };
    for (tree, heads) in variants() {
        let mut whole = build(q, &settings(&tree)).unwrap();
        whole.init_random(q, &init).unwrap();
        for (model, head) in mesh(2, heads) {
            let mut part = build_part(q, &settings(&tree), model, head).unwrap();
            part.init_random(q, &init).unwrap();
            for (p, w) in part.params().into_iter().zip(whole.params()) {
                let held: Vec<f32> = q.download(&w.value).unwrap();
                let expected = p.to_held(p.cut(w.to_stored(&held).into_owned()));
                assert_eq!(q.download::<f32>(&p.value).unwrap(), expected, "{tree}: {}", p.name);
            }
        }
    }
}

#[test]
fn features_of_all_parts_are_those_of_the_whole_once() {
    for (tree, _) in variants() {
        let q = &mut queue();
        let settings = settings(&tree);
        let mut seen = vec![0; settings.d_sae()];
        for (model, head) in mesh(2, 1) {
            let part = build_part(q, &settings, model, head).unwrap();
            let share = part.share();
            let listed: Vec<usize> = share.features().iter().cloned().flatten().collect();
            assert_eq!(listed, (0..share.len()).map(|i| share.global(i)).collect::<Vec<_>>());
            listed.into_iter().for_each(|i| seen[i] += 1);
        }
        assert!(seen.iter().all(|&n| n == 1), "{tree}: {seen:?}");
    }
}

#[test]
fn divisions_that_cannot_be_are_refused_by_name() {
    let q = &mut queue();
    let all = variants();
    let refused = |q: &mut Queue, at: usize, model: usize, head: usize| {
        let places = (Place::new(model, 0), Place::new(head, 0));
        build_part(q, &settings(&all[at].0), places.0, places.1).err().expect("should be refused").to_string()
    };
    assert!(
        refused(q, 0, 5, 1).contains("model_parallel_size: 5 does not divide the number of features, 24")
    );
    assert!(refused(q, 0, 1, 2).contains("head_parallel_size: 2 groups"));
    assert!(refused(q, 6, 8, 1).contains("n_qk_heads, 4"));
    assert!(refused(q, 7, 8, 1).contains("rank_counts, 4"));
}

#[test]
fn incomplete_or_mixed_parts_are_refused() {
    let q = &mut queue();
    let tree = &variants()[1].0;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let extras = |n: u64| Map::from_iter([("n".to_string(), json!(n))]);
    let d = scrambled(q, tree);
    checkpoint::save(q, &*d, one.path(), DTypeName::F32, &Map::new()).unwrap();
    for (i, (model, head)) in mesh(2, 1).into_iter().enumerate() {
        let part = checkpoint::load_part(q, one.path(), STRICT, model, head).unwrap().dictionary;
        checkpoint::save(q, &*part, two.path(), DTypeName::F32, &extras(i as u64)).unwrap();
    }
    let e = checkpoint::load(q, two.path(), STRICT).err().unwrap().to_string();
    assert!(e.contains("another save"), "{e}");
    fs::remove_file(two.path().join("sae_weights-00002-of-00002.safetensors")).unwrap();
    let e = checkpoint::load(q, two.path(), STRICT).err().unwrap().to_string();
    assert!(e.contains("bring the missing ones"), "{e}");
}
