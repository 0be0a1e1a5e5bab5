//! Known bugs of the reference system: which test holds each of them off here, and tests of those that belong to no one variant.

use lm_saes::{
    dictionary::{
        Codes, build,
        checkpoint::{self, LoadOptions},
    },
    runners::{self, Start},
    settings::{GenerateSettings, from_tree},
    training::Silent,
};
use lm_saes_backends::registry;
use lm_saes_runtime::Queue;
use lm_saes_tests::{
    apply, noise, queue,
    tiny::{self, HOOK},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};

/// Numbers as in VARIANTS §16, and as in the list of FEATURES.
const KNOWN: [(&str, &str, &str); 54] = [
    (
        "VARIANTS 1",
        "tests/tests/dictionary.rs",
        "defects_1_and_4_folding_changes_no_reconstruction_for_any_activation_gating_and_gate",
    ),
    (
        "VARIANTS 1",
        "tests/tests/clt.rs",
        "defect_1_folding_keeps_the_function_of_every_activation_and_gating",
    ),
    (
        "VARIANTS 1",
        "tests/tests/lorsa.rs",
        "defect_1_folding_is_exact_for_every_activation_also_jumprelu_with_gating_and_without_a_decoder_bias",
    ),
    (
        "VARIANTS 2, 3",
        "tests/tests/heads.rs",
        "defects_1_2_and_3_folding_keeps_the_function_of_every_activation_and_gating",
    ),
    (
        "VARIANTS 4",
        "tests/tests/dictionary.rs",
        "defect_4_the_bias_of_a_glu_gate_starts_at_zero_whatever_was_there",
    ),
    ("VARIANTS 5", "tests/tests/heads.rs", "defect_5_a_mask_takes_rows_out_of_loss_gradient_and_metrics"),
    (
        "VARIANTS 5",
        "tests/tests/heads.rs",
        "defect_5_explained_variance_and_l2_errors_of_a_crosscoder_are_numbers",
    ),
    ("VARIANTS 6", "tests/tests/clt.rs", "defect_6_metrics_come_for_each_layer"),
    ("VARIANTS 7", "tests/tests/heads.rs", "defect_7_tanh_quad_is_a_loss_of_every_variant"),
    (
        "VARIANTS 8",
        "tests/tests/gradients/sae.rs",
        "defect_8_the_auxiliary_loss_takes_the_error_as_constant_or_as_the_reference_system_does",
    ),
    (
        "VARIANTS 9",
        "tests/tests/gradients/sae.rs",
        "defect_9_the_threshold_penalty_compares_gated_values_or_as_the_reference_system_does",
    ),
    (
        "VARIANTS 10",
        "tests/tests/parallel_model.rs",
        "ranks_that_divide_a_cross_layer_transcoder_train_it_as_one_rank_does",
    ),
    (
        "VARIANTS 10",
        "tests/tests/parallel_model.rs",
        "of_equal_candidates_of_several_ranks_the_same_are_selected_as_on_one",
    ),
    (
        "VARIANTS 11",
        "tests/tests/lorsa.rs",
        "defect_11_z_patterns_add_up_to_pre_activations_also_with_one_feature_a_qk_head",
    ),
    ("VARIANTS 12", "tests/tests/defects.rs", "defect_12_sparse_codes_decode_to_what_dense_ones_do"),
    ("VARIANTS 13", "tests/tests/clt.rs", "defect_13_one_layer_encodes_as_among_all_with_gating_and_without"),
    (
        "VARIANTS 14",
        "tests/tests/heads.rs",
        "defect_14_features_of_a_mixture_are_in_the_order_of_ascending_ranks",
    ),
    (
        "VARIANTS 14",
        "tests/tests/parallel_model.rs",
        "ranks_that_divide_every_rank_group_of_a_molt_train_it_as_one_rank_does",
    ),
    ("VARIANTS 15", "tests/tests/heads.rs", "defect_15_transforms_of_norm_1_leave_the_function_as_it_was"),
    (
        "VARIANTS 15",
        "tests/tests/dictionary.rs",
        "defect_15_unit_decoder_norms_are_made_up_for_by_the_encoder",
    ),
    (
        "FEATURES 1",
        "tests/tests/dictionary.rs",
        "a_folded_dictionary_is_saved_as_folded_and_never_folded_twice",
    ),
    ("FEATURES 2", "tests/tests/variants.rs", "folding_changes_no_reconstruction_of_any_variant"),
    ("FEATURES 3", "tests/tests/heads.rs", "defect_5_a_mask_takes_rows_out_of_loss_gradient_and_metrics"),
    (
        "FEATURES 3",
        "tests/tests/parallel_model.rs",
        "ranks_that_divide_features_and_hook_points_of_a_crosscoder_train_it_as_one_rank_does",
    ),
    (
        "FEATURES 4",
        "tests/tests/gradients/lorsa.rs",
        "defect_7_every_sparsity_loss_has_its_gradient_tanh_quad_too",
    ),
    ("FEATURES 5", "tests/tests/clt.rs", "rows_that_do_not_count_change_neither_loss_nor_gradient"),
    ("FEATURES 6", "sae/src/training/schedules.rs", "snapshots_fall_inside_the_run_in_both_modes"),
    (
        "FEATURES 7",
        "tests/tests/train_job.rs",
        "a_dictionary_that_reconstructs_exactly_recovers_all_of_the_loss",
    ),
    (
        "FEATURES 8",
        "tests/tests/gradients/sae.rs",
        "defect_8_the_auxiliary_loss_takes_the_error_as_constant_or_as_the_reference_system_does",
    ),
    ("FEATURES 9", "cli/tests/export.rs", "every_kind_is_trained_analysed_shown_and_exported"),
    (
        "FEATURES 9",
        "tests/tests/parallel_model.rs",
        "ranks_that_divide_every_rank_group_of_a_molt_train_it_as_one_rank_does",
    ),
    ("FEATURES 10", "tests/tests/golden_lm.rs", "golden_lm_cases_agree"),
    ("FEATURES 11", "cli/tests/web/pages.rs", "typed_text_gives_the_activations_that_the_analysis_found"),
    (
        "FEATURES 12",
        "tests/tests/lorsa.rs",
        "defect_11_z_patterns_add_up_to_pre_activations_also_with_one_feature_a_qk_head",
    ),
    ("FEATURES 12", "tests/tests/defects.rs", "defect_12_sparse_codes_decode_to_what_dense_ones_do"),
    (
        "FEATURES 13",
        "tests/tests/golden_saelens.rs",
        "what_a_saelens_dictionary_cannot_be_here_is_refused_by_its_key",
    ),
    (
        "FEATURES 14",
        "tests/tests/heads.rs",
        "defect_4_starting_values_leave_nothing_of_what_memory_held_also_in_the_bias_of_a_gate",
    ),
    ("FEATURES 15", "tests/tests/stream.rs", "whole_contexts_carry_every_position_and_say_which_count"),
    ("FEATURES 15", "tests/tests/parallel.rs", "batchtopk_selects_over_the_rows_of_all_ranks"),
    ("FEATURES 16", "sae/src/training/schedules.rs", "phases_without_steps_leave_every_curve_finite"),
    (
        "FEATURES 17",
        "tests/tests/defects.rs",
        "known_bug_17_a_store_without_bookmarks_says_that_there_are_none",
    ),
    (
        "FEATURES 18",
        "tests/tests/store/suite.rs",
        "a_new_analysis_replaces_the_old_one_and_keeps_what_people_added",
    ),
    ("FEATURES 19", "tests/tests/store/suite.rs", "a_dictionary_is_registered_replaced_renamed_and_removed"),
    (
        "FEATURES 20",
        "cli/tests/web/safety.rs",
        "a_silent_client_is_sent_away_and_does_not_keep_others_waiting",
    ),
    ("FEATURES 21", "tests/tests/store/suite.rs", "features_are_sorted_filtered_and_paged"),
    (
        "FEATURES 22",
        "tests/tests/defects.rs",
        "known_bug_22_a_database_neither_demands_a_model_and_text_nor_stands_in_for_them",
    ),
    ("FEATURES 23", "sae/src/settings/trainer.rs", "gradient_accumulation_is_refused_by_name"),
    ("FEATURES 23", "sae/src/settings/load.rs", "an_unknown_key_is_named_in_full_with_the_nearest_known_one"),
    ("FEATURES 24", "tests/tests/parallel.rs", "topk_with_dead_features_and_clipping"),
    ("FEATURES 25", "tests/tests/defects.rs", "known_bug_25_a_crosscoder_is_trained_on_from_a_saved_one"),
    (
        "FEATURES 26",
        "tests/tests/cache.rs",
        "a_dictionary_is_evaluated_on_cached_contexts_and_not_on_cached_single_tokens",
    ),
    (
        "FEATURES 26",
        "tests/tests/cache.rs",
        "single_tokens_and_several_batches_a_chunk_are_read_back_in_order",
    ),
    (
        "FEATURES 27",
        "tests/tests/autointerp.rs",
        "known_bug_27_contexts_of_any_length_and_contexts_without_activation_become_examples",
    ),
    ("FEATURES 27", "tests/tests/autointerp.rs", "features_are_explained_scored_and_counted_as_planned"),
];

#[test]
fn every_known_bug_has_the_test_that_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (bug, file, test) in KNOWN {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{bug}: {file}: {e}"));
        assert!(text.contains(&format!("fn {test}(")), "{bug}: {file} has no test {test}");
    }
    let numbers = |list: &str| -> BTreeSet<u32> {
        let of = KNOWN.iter().filter_map(|(bug, ..)| bug.strip_prefix(list));
        of.flat_map(|n| n.split(", ").map(|n| n.trim().parse().unwrap())).collect()
    };
    assert_eq!(numbers("VARIANTS"), (1..=15).collect());
    assert_eq!(numbers("FEATURES"), (1..=27).collect());
}

/// The reference system's sparse kernel is handed the decoder transposed; that it has more features than dimensions shows it.
#[test]
fn defect_12_sparse_codes_decode_to_what_dense_ones_do() {
    let (q, d, s, rows) = (&mut queue(), 6, 18, 10);
    for act_fn in ["topk", "batchtopk"] {
        let settings = json!({"sae_type": "sae", "hook_point_in": "a", "hook_point_out": "b", "d_model": d,
            "expansion_factor": s / d, "act_fn": act_fn, "top_k": 4, "norm_activation": "inference"});
        let mut dictionary = build(q, &from_tree(&settings).unwrap()).unwrap();
        for (i, p) in dictionary.params_mut().into_iter().enumerate() {
            q.upload(&noise(i as u64 + 1, p.value.len()), &mut p.value).unwrap();
        }
        let (codes, made) = apply(q, &mut *dictionary, &[noise(9, rows * d)], None).unwrap();
        assert!(matches!(dictionary.codes()[0], Codes::Sparse(_)), "{act_fn}");
        let value = |q: &mut Queue, name: &str| -> Vec<f32> {
            let p = dictionary.params().into_iter().find(|p| p.name == name).unwrap();
            q.download(&p.value).unwrap()
        };
        let (w, b) = (value(q, "W_D"), value(q, "b_D"));
        for (r, (f, y)) in codes.chunks(s).zip(made[0].chunks(d)).enumerate() {
            assert!(f.iter().any(|f| *f > 0.0) || act_fn == "batchtopk", "row {r}");
            for c in 0..d {
                let sum =
                    f.iter().enumerate().map(|(i, f)| f64::from(*f) * f64::from(w[i * d + c])).sum::<f64>();
                let want = sum + f64::from(b[c]);
                assert!((f64::from(y[c]) - want).abs() < 1e-5, "{act_fn} [{r}, {c}]: {} {want}", y[c]);
            }
        }
    }
}

#[test]
fn known_bug_17_a_store_without_bookmarks_says_that_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = lm_saes::store::open(&dir.path().join("empty.db").display().to_string()).unwrap();
    assert_eq!(store.bookmarks(None, 0, 10).unwrap(), (vec![], 0));
    assert!(store.lists().unwrap().is_empty());
}

/// Settings of a small cache, without the keys in `left_out`.
fn generating(dir: &Path, left_out: &[&str], database: bool) -> lm_saes::Result<GenerateSettings> {
    let job = tiny::job(dir, "out", &[]);
    let mut tree = json!({
        "model": job["model"], "dataset": job["datasets"]["text"], "hook_points": [HOOK], "device_type": "cpu",
        "output_dir": dir.join(format!("cache-{database}")), "batch_size": 4, "context_size": 24, "total_tokens": 480,
    });
    if database {
        tree["mongo"] = json!({"mongo_uri": "mongodb://localhost:27017", "mongo_db": "mechinterp"});
    }
    left_out.iter().for_each(|key| drop(tree.as_object_mut().unwrap().remove(*key)));
    from_tree(&tree)
}

#[test]
fn known_bug_22_a_database_neither_demands_a_model_and_text_nor_stands_in_for_them() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 60);
    let generate = |left_out: &[&str], database| {
        let settings = generating(dir.path(), left_out, database)?;
        runners::generate(&settings, &registry(), &mut Silent, Start::Fresh)
    };
    for database in [false, true] {
        // Whatever is missing is asked for by its key, with a database or without.
        for key in ["model", "dataset"] {
            let e = generate(&[key], database).unwrap_err().to_string();
            assert!(e.starts_with(&format!("setting {key}")), "{database}: {e}");
        }
        assert!(generate(&[], database).is_ok(), "{database}");
    }
}

/// Values of all parameters, by name.
fn weights(dir: &Path) -> Vec<(String, Vec<f32>)> {
    let q = &mut queue();
    let d = checkpoint::load(q, dir, LoadOptions { strict: true, fold: false }).unwrap().dictionary;
    d.params().into_iter().map(|p| (p.name.clone(), q.download(&p.value).unwrap())).collect()
}

#[test]
fn known_bug_25_a_crosscoder_is_trained_on_from_a_saved_one() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 60);
    let hooks = json!([HOOK, "blocks.1.hook_resid_post"]);
    let crosscoder = |result: &str, sae: Value, more: &[&str]| {
        let overrides =
            [&["fold_activation_scale=false", "eval=false", "trainer.n_checkpoints=0"], more].concat();
        let mut job = tiny::job(dir.path(), result, &overrides);
        job["sae"] = sae;
        job["activation_factory"]["hook_points"] = hooks.clone();
        runners::train(&from_tree(&job).unwrap(), &registry(), &mut Silent, Start::Fresh).unwrap();
        dir.path().join(result)
    };
    let new = json!({"sae_type": "crosscoder", "hook_points": hooks, "d_model": tiny::D_MODEL, "expansion_factor": 2,
                     "act_fn": "topk", "top_k": 8});
    let first = crosscoder("first", new.clone(), &["trainer.total_training_tokens=1280"]);
    // Further steps too small to move anything: what was loaded is what comes out.
    let still = ["trainer.total_training_tokens=640", "trainer.lr=1e-12"];
    let by_entry = crosscoder("second", json!({"pretrained_name_or_path": first}), &still);
    let mut named = new;
    named["sae_pretrained_name_or_path"] = json!(first);
    let by_setting = crosscoder("third", named, &still);
    let before = weights(&first);
    assert!(before.iter().any(|(name, w)| name == "W_D" && w.iter().any(|v| *v != 0.0)));
    for result in [by_entry, by_setting] {
        for ((name, was), (_, is)) in before.iter().zip(weights(&result)) {
            let furthest = was.iter().zip(&is).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(was.len() == is.len() && furthest < 1e-6, "{name} moved by {furthest}");
        }
    }
    // And steps of the usual size go on from there.
    let on = ["trainer.total_training_tokens=640", "trainer.lr_warm_up_steps=0"];
    let further = weights(&crosscoder("fourth", json!({"pretrained_name_or_path": first}), &on));
    assert!(before.iter().zip(&further).any(|(a, b)| a.1 != b.1));
}
