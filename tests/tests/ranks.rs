//! Whole jobs on several ranks, from their settings alone: features, hook points and rows divided in training; snapshots taken up on
//! any mesh; caches, evaluations, analyses and sweeps that are those of one rank. Ranks are threads here; `mpirun` starts them as
//! processes in `cli/tests`.

use lm_saes::{
    hub::{Format, Hub, OpenOptions},
    runners::{self, Conversion, Outcome, Start},
    settings::{
        AnalyzeSettings, EvaluateSettings, GenerateSettings, SweepSettings, TrainSettings, apply_override,
        from_tree,
    },
    store::{self, FeatureAnalysis},
    tensorfile::TensorFile,
    training::{Advance, Ended, MemberProgress, Observer, Progress, Silent, evaluate::Downstream, snapshot},
};
use lm_saes_backends::registry;
use lm_saes_runtime::Group;
use lm_saes_tests::{
    ranks::on_ranks,
    tiny::{D_MODEL, HOOK, dictionary, job, world},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    rc::Rc,
};

const STEPS: u64 = 12;
const INTO: [&str; 2] = ["blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized"];
const OUT: [&str; 2] = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"];
const OTHER: &str = "blocks.1.hook_resid_post";

/// Remembers losses; stops after a step, or after so many tokens, where told to.
#[derive(Default)]
struct Watch {
    losses: Vec<f64>,
    stop: Option<u64>,
}

impl Watch {
    fn flow(&self, at: u64) -> ControlFlow<()> {
        if self.stop.is_some_and(|stop| at >= stop) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Observer for Watch {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        self.losses.push(p.loss);
        self.flow(p.step)
    }
    fn advanced(&mut self, a: &Advance) -> ControlFlow<()> {
        self.flow(a.done)
    }
    fn members(&mut self, members: &[MemberProgress<'_>]) -> ControlFlow<()> {
        members.iter().map(|m| m.progress.step).max().map_or(ControlFlow::Continue(()), |s| self.flow(s))
    }
}

fn merged(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

/// Every variant, with the hook points it needs and what its job sets.
fn variants() -> Vec<(Value, Vec<&'static str>, Vec<&'static str>)> {
    let sae = json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D_MODEL,
                     "expansion_factor": 4, "act_fn": "topk", "top_k": 8});
    let plain = ["initializer.init_encoder_with_decoder_transpose=false"];
    let clt = json!({"sae_type": "clt", "hook_points_in": INTO, "hook_points_out": OUT, "d_model": D_MODEL,
                     "expansion_factor": 2, "act_fn": "batchtopk", "top_k": 8});
    let cross = json!({"sae_type": "crosscoder", "hook_points": [HOOK, OTHER], "d_model": D_MODEL,
                       "expansion_factor": 4, "act_fn": "topk", "top_k": 8});
    let molt = json!({"sae_type": "molt", "hook_point_in": INTO[0], "hook_point_out": OUT[0], "d_model": D_MODEL,
                      "rank_counts": {"1": 24, "2": 16, "4": 8}, "expansion_factor": 1, "act_fn": "relu"});
    let attention = ["blocks.0.ln1.hook_normalized", "blocks.0.hook_attn_out"];
    let lorsa = json!({"sae_type": "lorsa", "hook_point_in": attention[0], "hook_point_out": attention[1],
                       "d_model": D_MODEL, "n_qk_heads": 6, "d_qk_head": 8, "rotary_dim": 8, "n_ctx": 24,
                       "expansion_factor": 2, "act_fn": "topk", "top_k": 8});
    let contexts = vec![
        "initializer.init_encoder_with_decoder_transpose=false",
        "activation_factory.target=activations-2d",
        "activation_factory.batch_size=8",
        "activation_factory.buffer_size=16",
        "trainer.total_training_tokens=2304",
    ];
    let auxk = vec!["trainer.auxk_coefficient=0.03", "trainer.k_aux=8", "trainer.dead_threshold=150"];
    let l1 = vec!["trainer.sparsity_loss_type=tanh", "trainer.l1_coefficient=0.01"];
    let mlp = vec![
        "initializer.initialize_tc_with_mlp=true",
        "initializer.model_layer=0",
        "initializer.grid_search_init_norm=false",
    ];
    vec![
        (sae.clone(), vec![HOOK], auxk.clone()),
        (merged(&sae, json!({"act_fn": "batchtopk"})), vec![HOOK], auxk),
        (merged(&sae, json!({"act_fn": "jumprelu", "use_glu_encoder": true})), vec![HOOK], l1.clone()),
        (
            merged(&sae, json!({"hook_point_in": INTO[0], "hook_point_out": OUT[0]})),
            vec![INTO[0], OUT[0]],
            mlp,
        ),
        (merged(&sae, json!({"sae_type": "gated", "act_fn": "relu"})), vec![HOOK], l1.clone()),
        (
            merged(&sae, json!({"sae_type": "matryoshka", "act_fn": "batchtopk", "widths": [48, 192]})),
            vec![HOOK],
            vec![],
        ),
        (clt, [INTO, OUT].concat(), [&plain[..], &["initializer.grid_search_init_norm=false"]].concat()),
        (cross, vec![HOOK, OTHER], l1.clone()),
        (molt, vec![INTO[0], OUT[0]], [&plain[..], &l1].concat()),
        (lorsa, attention.to_vec(), contexts),
    ]
}

fn tree(dir: &Path, result: &str, sae: &Value, hooks: &[&str], more: &[&str]) -> Value {
    let mut tree = job(dir, result, &[]);
    tree["sae"] = sae.clone();
    tree["activation_factory"]["hook_points"] = json!(hooks);
    tree["trainer"]["total_training_tokens"] = json!(STEPS * 64);
    tree["trainer"]["n_checkpoints"] = json!(0);
    tree["initializer"]["init_log_jumprelu_threshold_value"] = json!(-2.0);
    tree["initializer"]["grid_search_init_norm"] = json!(false);
    more.iter().for_each(|o| apply_override(&mut tree, o).unwrap());
    tree
}

/// Trains on data × head × model ranks; how each ended, and the losses it saw.
fn train(tree: &Value, [data, head, model]: [usize; 3], start: Start, stop: Option<u64>) -> Vec<Vec<f64>> {
    let mut tree = tree.clone();
    tree["data_parallel_size"] = json!(data);
    tree["head_parallel_size"] = json!(head);
    tree["model_parallel_size"] = json!(model);
    if head > 1 {
        tree["eval"] = json!(false);
    }
    let settings: TrainSettings = from_tree(&tree).unwrap();
    on_ranks(data * head * model, |rank, comm| {
        let mut watch = Watch { losses: Vec::new(), stop };
        let report = runners::train_with(&settings, &registry(), &mut watch, start, Group::new(comm));
        let what = format!(
            "{} {} rank {rank} of {data} × {head} × {model}",
            tree["sae"]["sae_type"], tree["sae"]["act_fn"]
        );
        let report = report.unwrap_or_else(|e| panic!("{what}: {e}"));
        let ended = if stop.is_some() { Ended::Stopped } else { Ended::Complete };
        assert_eq!(report.ended, ended, "{what}");
        watch.losses
    })
}

fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * w.abs().max(1e-3), "{what}, {i}: {g} and {w}");
    }
}

/// Tensors of a result, by name.
fn weights(dir: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let file = TensorFile::open(dir.join("sae_weights.safetensors")).unwrap();
    // Lorsa's constants have truth values among them.
    let numbers = file.list().into_iter().filter(|t| format!("{:?}", t.dtype) != "BOOL");
    numbers.map(|t| (t.name.clone(), file.f32(&t.name).unwrap())).collect()
}

#[test]
fn every_variant_trains_on_any_mesh_from_settings_alone() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    for (n, (sae, hooks, more)) in variants().into_iter().enumerate() {
        let result = |mesh: &str| format!("{n}-{mesh}");
        let of = |mesh: &str| tree(dir.path(), &result(mesh), &sae, &hooks, &more);
        let want = train(&of("1"), [1, 1, 1], Start::Fresh, None).remove(0);
        let one = weights(&dir.path().join(result("1")));
        let mut meshes = vec![[1, 1, 2], [2, 1, 2]];
        if sae["sae_type"] == "crosscoder" {
            meshes.extend([[1, 2, 1], [2, 2, 1], [1, 2, 2]]);
        }
        for mesh in meshes {
            let what = format!("{} {} on {mesh:?}", sae["sae_type"], sae["act_fn"]);
            let name = format!("{mesh:?}").replace(", ", "");
            let each = train(&of(&name), mesh, Start::Fresh, None);
            for losses in &each {
                assert_eq!(losses, &each[0], "{what}: ranks see different losses");
            }
            close(&what, &each[0], &want, 1e-4);
            let folder = dir.path().join(result(&name));
            let got = weights(&folder);
            assert_eq!(got.keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>(), "{what}");
            for (name, (shape, values)) in &one {
                assert_eq!(&got[name].0, shape, "{what}: {name}");
                let most = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let off = got[name].1.iter().zip(values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off <= 2e-2 * most.max(1e-2), "{what}: {name} is off by {off}, of {most}");
            }
            let parts = fs::read_dir(&folder).unwrap().flatten();
            let parts = parts.filter(|f| f.file_name().to_string_lossy().contains("-of-")).count();
            assert_eq!(parts, 0, "{what}: parts are left beside the whole");
        }
    }
}

#[test]
fn a_run_goes_on_on_any_mesh() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let all = variants();
    for n in [1, 6, 7] {
        let (sae, hooks, more) = &all[n];
        let of = |name: &str| tree(dir.path(), &format!("{n}-{name}"), sae, hooks, more);
        let whole = train(&of("whole"), [1, 1, 1], Start::Fresh, None).remove(0);
        let mut losses = Vec::new();
        let mut meshes =
            vec![([1, 1, 1], Some(3)), ([1, 1, 2], Some(6)), ([2, 1, 1], Some(9)), ([1, 1, 1], None)];
        if sae["sae_type"] == "crosscoder" {
            meshes.insert(3, ([1, 2, 2], Some(11)));
        }
        for (mesh, stop) in meshes {
            let start = if losses.is_empty() { Start::Fresh } else { Start::Resume };
            losses.append(&mut train(&of("parts"), mesh, start, stop)[0]);
            if mesh == [1, 1, 2] {
                let kept = snapshot::latest(&dir.path().join(format!("{n}-parts"))).unwrap().unwrap();
                let parts =
                    ["sae_weights-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"];
                parts.iter().for_each(|f| assert!(kept.join(f).is_file(), "{f} is missing"));
            }
        }
        close(&format!("{} resumed from mesh to mesh", sae["sae_type"]), &losses, &whole, 1e-4);
    }
}

#[test]
fn what_does_not_divide_is_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let all = variants();
    let refused = |n: usize, size: usize, more: &[&str]| {
        let (sae, hooks, own) = &all[n];
        let settings: TrainSettings =
            from_tree(&tree(dir.path(), "out", sae, hooks, &[&own[..], more].concat())).unwrap();
        let mut told = on_ranks(size, |_, comm| {
            let done =
                runners::train_with(&settings, &registry(), &mut Silent, Start::Fresh, Group::new(comm));
            done.err().unwrap().to_string()
        });
        told.remove(0)
    };
    let e = refused(0, 5, &["model_parallel_size=5"]);
    assert!(e.contains("model_parallel_size: 5 does not divide the number of features, 192"), "{e}");
    let e = refused(9, 4, &["model_parallel_size=4"]);
    assert!(e.contains("does not divide the number of QK heads, n_qk_heads, 6"), "{e}");
    let e = refused(0, 2, &["head_parallel_size=2", "eval=false"]);
    assert!(e.contains("head_parallel_size: 2 groups of heads do not divide 1"), "{e}");
    let e = refused(0, 2, &["model_parallel_size=2", "data_parallel_size=2"]);
    assert!(e.contains("2 data × 1 head × 2 model ranks are 4, the job was started with 2"), "{e}");
}

#[test]
fn a_dictionary_is_divided_into_parts_and_joined_again_bit_for_bit() {
    for (sae, _, _) in variants() {
        let what = format!("{} {}", sae["sae_type"], sae["act_fn"]);
        let dir = tempfile::tempdir().unwrap();
        dictionary(dir.path(), &sae);
        let convert = |from: &str, to: &str, parts: usize, format: &str| {
            let job = Conversion {
                from: dir.path().join(from).to_string_lossy().into_owned(),
                to: dir.path().join(to),
                format: Format::named(format).unwrap(),
                dtype: None,
                unit_decoder_norm: false,
                parts,
                options: OpenOptions { fold: false, ..OpenOptions::default() },
            };
            runners::convert(&job, &Rc::new(Hub::from_env().offline()), &registry())
                .map_err(|e| e.to_string())
        };
        convert("dictionary", "two", 2, "lm-saes").unwrap();
        for part in 1..=2 {
            let file = dir.path().join(format!("two/sae_weights-0000{part}-of-00002.safetensors"));
            assert!(file.is_file(), "{what}: {} is missing", file.display());
        }
        assert!(!dir.path().join("two/sae_weights.safetensors").exists(), "{what}");
        // From one division to another, and back to one file.
        convert("two", "one", 1, "lm-saes").unwrap();
        let [got, want] = ["one", "dictionary"].map(|name| weights(&dir.path().join(name)));
        assert!(got == want, "{what}: joined parts are not what was divided");
        let e = convert("dictionary", "five", 5, "lm-saes").unwrap_err();
        assert!(e.starts_with("setting parts: 5 does not divide"), "{what}: {e}");
        let e = convert("dictionary", "other", 2, "saelens").unwrap_err();
        assert!(e.contains("parts") && e.contains("--to-format"), "{what}: {e}");
        assert!(!dir.path().join("five").exists() && !dir.path().join("other").exists(), "{what}");
    }
}

#[test]
fn the_plan_of_parts_is_what_ranks_take_and_send() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let all = variants();
    let plain = [
        "trainer.skip_metrics_calculation=true",
        "eval=false",
        "initializer.init_encoder_with_decoder_transpose=false",
    ];
    for (n, axis, ranks) in [(0, "model", 4), (7, "head", 2)] {
        let (sae, hooks, _) = &all[n];
        let mut of = tree(dir.path(), &format!("by-{axis}"), sae, hooks, &plain);
        let one: TrainSettings = from_tree(&of).unwrap();
        of[format!("{axis}_parallel_size")] = json!(ranks);
        let settings: TrainSettings = from_tree(&of).unwrap();
        let [whole, plan] = [one, settings.clone()].map(|s| runners::plan(&s, &registry()).unwrap());
        let parameters =
            |p: &runners::Plan| p.memory.iter().find(|m| m.what.contains("parameters")).unwrap().bytes;
        // Biases of the output may be on all ranks.
        let (share, most) = (parameters(&whole) / ranks, parameters(&whole) / ranks + D_MODEL * 4);
        assert!((share..=most).contains(&parameters(&plan)), "{axis}: {} and {share}", parameters(&plan));
        let each = on_ranks(ranks, |_, comm| {
            runners::train_with(&settings, &registry(), &mut Silent, Start::Fresh, Group::new(comm)).unwrap()
        });
        let planned =
            |what: &str| plan.communication.iter().find(|c| c.what == what).map_or(0, |c| c.bytes as u64);
        for report in each {
            let sent = |kind: &str| report.traffic.get(&format!("{axis} {kind}")).map_or(0, |t| t.sent);
            let reduced = STEPS * (planned("reconstructions") + planned("pre-activations"));
            let gathered = STEPS * planned("candidates of selections");
            assert!(reduced > 0 && (axis == "head" || gathered > 0));
            assert_eq!(sent("all_reduce"), reduced, "{axis}");
            // Beside candidates only a few words are gathered before and after training.
            assert!(
                (gathered..gathered + 4096).contains(&sent("all_gather")),
                "{axis}: {}",
                sent("all_gather")
            );
        }
    }
}

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for path in fs::read_dir(dir).unwrap().flatten().map(|e| e.path()) {
            match path.is_dir() {
                true => walk(root, &path, all),
                false => drop(all.insert(path.strip_prefix(root).unwrap().into(), fs::read(&path).unwrap())),
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

/// The same files, bit for bit.
fn same_cache(got: &Path, want: &Path) {
    let (a, b) = (files(got), files(want));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{} differs", name.display());
    }
}

#[test]
fn activations_that_ranks_write_are_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let train = job(dir.path(), "out", &[]);
    let of = |out: &str, more: &Value| -> GenerateSettings {
        let tree = json!({
            "model": train["model"], "model_name": "tiny", "dataset_name": "text", "dataset": train["datasets"]["text"],
            "hook_points": [HOOK, OUT[0]], "output_dir": dir.path().join(out), "device_type": "cpu",
            "batch_size": 4, "model_batch_size": 5, "context_size": 24, "total_tokens": 1000,
        });
        from_tree(&merged(&tree, more.clone())).unwrap()
    };
    let run = |s: &GenerateSettings, ranks: usize, start: Start, stop: Option<u64>| {
        on_ranks(ranks, |_, comm| {
            let watch = &mut Watch { losses: Vec::new(), stop };
            runners::generate_with(s, &registry(), watch, start, Group::new(comm)).unwrap()
        })
    };
    let shuffled = json!({"target": "activations-1d", "batch_size": 40, "buffer_size": 160});
    for (n, more) in [json!({}), shuffled].iter().enumerate() {
        let one = of(&format!("{n}-1"), more);
        let alone = run(&one, 1, Start::Fresh, None).remove(0);
        for ranks in [2, 3] {
            let s = of(&format!("{n}-{ranks}"), more);
            let stopped = run(&s, ranks, Start::Fresh, Some(300));
            assert!(stopped.iter().all(|r| !r.complete && r.tokens < 1000));
            // The rest by another number of ranks.
            let each = run(&s, 5 - ranks, Start::Resume, None);
            assert!(each.iter().all(|r| r.complete && r.tokens == alone.tokens && r.chunks == alone.chunks));
            same_cache(&s.output_dir, &one.output_dir);
        }
    }
    let rounded = json!({"override_dtype": "bfloat16"});
    let one = of("rounded-1", &rounded);
    let want = run(&one, 1, Start::Fresh, None).remove(0).losses;
    let three = of("rounded-3", &rounded);
    for report in run(&three, 3, Start::Fresh, None) {
        for ((hook, got), (_, want)) in report.losses.iter().zip(&want) {
            // The same f64 terms, those of each rank added up first: each of n additions is off by at most half an ulp of the sum, and
            // the variance, a difference, is no less than a hundredth of what it is taken from.
            let n = (1000 * D_MODEL) as f64;
            let bound = 2.0 * 100.0 * n * f64::EPSILON;
            assert!(*want > 0.0 && (got - want).abs() <= bound * want, "{hook}: {got} and {want}");
        }
    }
    same_cache(&three.output_dir, &one.output_dir);
}

fn folder_settings(dir: &Path, sae: &Value) -> Value {
    let captured = dictionary(dir, sae);
    let train = job(dir, "out", &[]);
    json!({
        "sae": {"pretrained_name_or_path": dir.join("dictionary")}, "sae_name": "d", "sae_series": "s",
        "device_type": "cpu", "model": train["model"], "datasets": train["datasets"],
        "activation_factory": {
            "sources": [{"type": "dataset", "name": "text"}], "target": "activations-2d", "hook_points": captured,
            "batch_size": 5, "context_size": 24, "model_batch_size": 4,
        },
    })
}

#[test]
fn ranks_evaluate_as_one_does() {
    for (sae, _, _) in variants() {
        let dir = tempfile::tempdir().unwrap();
        world(dir.path(), 60);
        let mut tree = folder_settings(dir.path(), &sae);
        // Whole batches alone.
        tree["eval"] = json!({"total_eval_tokens": 300, "downstream_tokens": 500});
        let run = |ranks: usize, model: usize| {
            let mut tree = tree.clone();
            tree["model_parallel_size"] = json!(model);
            let settings: EvaluateSettings = from_tree(&tree).unwrap();
            let mut each = on_ranks(ranks, |_, comm| {
                runners::evaluate_with(&settings, &registry(), &mut Silent, Group::new(comm)).unwrap().0
            });
            assert!(each.iter().all(|r| r.0.tokens == each[0].0.tokens && r.1 == each[0].1));
            each.remove(0)
        };
        let (quality, loss) = run(1, 1);
        for (ranks, model) in [(2, 1), (3, 1), (2, 2), (4, 2)] {
            let what = format!("{} {} on {ranks} ranks, {model} model", sae["sae_type"], sae["act_fn"]);
            let (q, l) = run(ranks, model);
            assert_eq!((q.tokens, l.predictions), (quality.tokens, loss.predictions), "{what}");
            if model == 1 {
                // Whole batches on each rank, put together in their order.
                assert_eq!((&q, &l), (&quality, &loss), "{what}");
                continue;
            }
            // What is cut along the features is added up in another order, in f32: each of d_sae additions is off by at most 2^-24 of
            // the terms' absolute sum, which is at most ten times what comes out.
            let bound = 10.0 * 192.0 * f64::from(f32::EPSILON) / 2.0;
            assert_eq!(q.dead_share, quality.dead_share, "{what}");
            for ((key, got), (_, want)) in q.values.iter().zip(&quality.values) {
                close(&format!("{what}: {key}"), &[*got], &[*want], bound);
            }
            let of = |d: &Downstream| [d.original, d.reconstructed, d.ablated];
            close(&what, &of(&l), &of(&loss), bound);
        }
    }
}

#[test]
fn ranks_analyse_into_the_store_of_one_rank() {
    for (sae, _, _) in variants() {
        let what = format!("{} {}", sae["sae_type"], sae["act_fn"]);
        let dir = tempfile::tempdir().unwrap();
        world(dir.path(), 60);
        let mut tree = folder_settings(dir.path(), &sae);
        tree["analyzer"] = json!({"total_analyzing_tokens": 1000, "n_neighbours": 4, "n_logits": 3});
        let of = |name: &str| -> AnalyzeSettings {
            let mut tree = tree.clone();
            tree["store"] = json!(dir.path().join(format!("{name}.db")));
            tree["output_dir"] = json!(dir.path().join(format!("{name}.work")));
            from_tree(&tree).unwrap()
        };
        let run = |name: &str, ranks: usize, start: Start, stop: Option<u64>| {
            let settings = of(name);
            let mut each = on_ranks(ranks, |_, comm| {
                let watch = &mut Watch { losses: Vec::new(), stop };
                runners::analyze_with(&settings, &registry(), watch, start, Group::new(comm)).unwrap()
            });
            assert!(each.iter().all(|r| r.complete == stop.is_none()));
            each.remove(0)
        };
        let seen = |name: &str, report: &runners::AnalyzeReport| {
            let store = store::open(&of(name).store_address()).unwrap();
            let mut all = Vec::new();
            for key in &report.keys {
                let of_feature = |f| store.feature(key, "default", f).unwrap().unwrap().analysis;
                all.extend((0..report.d_sae as u32 / report.keys.len() as u32).map(of_feature));
            }
            all
        };
        let same = |name: &str, got: &[FeatureAnalysis], want: &[FeatureAnalysis]| {
            assert_eq!(got.len(), want.len(), "{what} {name}");
            for (g, w) in got.iter().zip(want) {
                assert!(g == w, "{what} {name}: feature {}: {g:?} and {w:?}", w.index);
            }
        };
        let report = run("one", 1, Start::Fresh, None);
        let want = seen("one", &report);
        for ranks in [2, 3] {
            let name = format!("on{ranks}");
            run(&name, ranks, Start::Fresh, Some(400));
            let report = run(&name, 5 - ranks, Start::Resume, None);
            same(&name, &seen(&name, &report), &want);
            let whole = format!("whole{ranks}");
            let report = run(&whole, ranks, Start::Fresh, None);
            same(&whole, &seen(&whole, &report), &want);
        }
    }
}

#[test]
fn members_of_a_sweep_that_ranks_divide_are_what_they_are_on_one_rank() {
    let members = json!([
        {"name": "small", "sae.top_k": 4, "trainer.initial_k": 4, "initializer.seed": 5},
        {"name": "other", "sae.hook_point_in": OTHER, "sae.hook_point_out": OTHER,
         "activation_factory.hook_points": [OTHER], "trainer.total_training_tokens": 1200, "sae.expansion_factor": 6},
        {"name": "raw", "sae.norm_activation": "inference", "initializer.grid_search_init_norm": false},
    ]);
    let settings = |dir: &Path| {
        let mut tree = job(dir, "sweep", &["trainer.total_training_tokens=1920"]);
        tree["sweep"] = members.clone();
        SweepSettings::from_tree(tree).unwrap()
    };
    let run = |s: &SweepSettings, ranks: usize, start: Start, stop: Option<u64>| {
        on_ranks(ranks, |_, comm| {
            let watch = &mut Watch { losses: Vec::new(), stop };
            runners::sweep_with(s, &registry(), watch, start, Group::new(comm)).unwrap()
        })
    };
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    dirs.iter().for_each(|d| world(d.path(), 60));
    let one = run(&settings(dirs[0].path()), 1, Start::Fresh, None).remove(0);
    let compare = |dir: &Path, report: &runners::SweepReport| {
        for (a, b) in report.members.iter().zip(&one.members) {
            assert_eq!((&a.name, &a.outcome), (&b.name, &b.outcome));
            assert!(matches!(a.outcome, Outcome::Complete { .. }));
            let of = |root: &Path| root.join("sweep").join(&a.name);
            assert!(weights(&of(dir)) == weights(&of(dirs[0].path())), "weights of {}", a.name);
            let log = |root: &Path| fs::read(of(root).join("metrics.jsonl")).unwrap();
            assert!(log(dir) == log(dirs[0].path()), "metrics of {}", a.name);
        }
        assert!(snapshot::latest(&settings(dir).root).unwrap().is_none());
    };
    let each = run(&settings(dirs[1].path()), 2, Start::Fresh, None);
    for report in &each {
        compare(dirs[1].path(), report);
        for (a, b) in report.members.iter().zip(&one.members) {
            let (a, b) = (a.evaluation.as_ref().unwrap(), b.evaluation.as_ref().unwrap());
            assert!(a.0.values == b.0.values && a.1 == b.1);
        }
    }
    // Cut off on three ranks, where the first member of the second rank is over, and finished on two.
    for report in run(&settings(dirs[2].path()), 3, Start::Fresh, Some(22)) {
        assert!(report.members.iter().any(|m| m.outcome == Outcome::Stopped));
    }
    for report in run(&settings(dirs[2].path()), 2, Start::Resume, None) {
        compare(dirs[2].path(), &report);
    }
}
