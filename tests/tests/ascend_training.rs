//! Training on the simulated NPU: every op of steps compared with the reference, losses with the CPU's, ranks that are NPUs of several
//! processes, and runs that failures of the device end and that are taken up again.
#![cfg(all(feature = "ascend", target_os = "linux"))]

#[path = "../acl-sim/client.rs"]
mod client;

use client::{Files, finished, home, on_ranks, program, started};
use lm_saes::{
    lm::{Lm, Run, Tokens},
    runners::{self, Start},
    settings::{LanguageModelSettings, TrainSettings, apply_override, from_tree},
    training::{Ended, Observer, Progress, Silent, snapshot},
};
use lm_saes_backends::{comm::on_device, registry, shadow::Shadow};
use lm_saes_runtime::{Addr, Backend, Device, DeviceInfo, Group, Op, Queue, Result, Stream, Unsupported};
use lm_saes_tests::tiny::{self, D_MODEL, HOOK};
use serde_json::{Value, json};
use std::{ffi::CString, fs, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

const MLP: [&str; 2] = ["blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"];
const MLPS: [&str; 4] = [
    "blocks.0.ln2.hook_normalized",
    "blocks.1.ln2.hook_normalized",
    "blocks.0.hook_mlp_out",
    "blocks.1.hook_mlp_out",
];
const ATTENTION: [&str; 2] = ["blocks.0.ln1.hook_normalized", "blocks.0.hook_attn_out"];

/// Settings of a short job below `dir` with this dictionary; every step is a record and a snapshot.
fn tree(dir: &Path, result: &str, device: &str, steps: u64, kind: &str) -> Value {
    let (sae, hooks): (Value, &[&str]) = match kind {
        "topk" => (
            json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "act_fn": "topk"}),
            &[HOOK],
        ),
        "matryoshka" => (
            json!({"sae_type": "matryoshka", "hook_point_in": MLP[0], "hook_point_out": MLP[1], "act_fn": "batchtopk",
                   "widths": [32, 64, 192]}),
            &MLP,
        ),
        "clt" => (
            json!({"sae_type": "clt", "hook_points_in": MLPS[..2], "hook_points_out": MLPS[2..], "act_fn": "layertopk"}),
            &MLPS,
        ),
        _ => (
            json!({"sae_type": "lorsa", "hook_point_in": ATTENTION[0], "hook_point_out": ATTENTION[1], "act_fn": "topk",
                   "n_qk_heads": 6, "d_qk_head": 8, "rotary_dim": 8, "n_ctx": 24}),
            &ATTENTION,
        ),
    };
    let mut tree = tiny::job(dir, result, &[]);
    tree["sae"] = sae;
    tree["sae"]["d_model"] = json!(D_MODEL);
    tree["sae"]["expansion_factor"] = json!(4);
    tree["sae"]["top_k"] = json!(8);
    tree["device_type"] = json!(device);
    tree["activation_factory"]["hook_points"] = json!(hooks);
    let mut more = vec![
        "eval=false".to_owned(),
        format!("trainer.total_training_tokens={}", steps * 64),
        "trainer.log_frequency=1".into(),
        "trainer.snapshot_frequency=2".into(),
        "trainer.lr_warm_up_steps=2".into(),
        "trainer.n_checkpoints=0".into(),
        "initializer.grid_search_init_norm=false".into(),
        "initializer.init_encoder_with_decoder_transpose=false".into(),
    ];
    if kind == "lorsa" {
        let contexts = ["target=activations-2d", "batch_size=4", "buffer_size=8"];
        more.extend(contexts.map(|c| format!("activation_factory.{c}")));
        more.push(format!("trainer.total_training_tokens={}", steps * 4 * 24));
    }
    more.iter().for_each(|o| apply_override(&mut tree, o).expect("an override"));
    tree
}

/// Losses as they come.
#[derive(Default)]
struct Watch(Vec<f64>);

impl Observer for Watch {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        self.0.push(p.loss);
        ControlFlow::Continue(())
    }
}

/// The losses of a job from its start.
fn losses(tree: &Value, registry: &lm_saes_runtime::Registry, group: Group) -> Vec<f64> {
    let settings: TrainSettings = from_tree(tree).expect("settings that parse");
    let mut watch = Watch::default();
    let done = runners::train_with(&settings, registry, &mut watch, Start::Overwrite, group);
    assert_eq!(done.unwrap_or_else(|e| panic!("{e}")).ended, Ended::Complete);
    watch.0
}

fn close(what: &str, got: &[f64], want: &[f64]) {
    assert!(got.len() == want.len() && !got.is_empty(), "{what}: {got:?} and {want:?}");
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs() / w.abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{what}: {got:?} on the NPU, {want:?} on the CPU");
    println!("{what}: {} steps agree to {worst:.1e}", got.len());
}

/// The NPU, with every op compared with the reference.
struct Shadowed;

impl Backend for Shadowed {
    fn name(&self) -> &str {
        "shadow"
    }
    fn count(&self) -> usize {
        1
    }
    fn open(&self, _: usize) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(ShadowedNpu(registry().open("npu:0")?)))
    }
}

struct ShadowedNpu(Arc<dyn Device>);

// SAFETY: memory is the NPU's.
unsafe impl Device for ShadowedNpu {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn supports(&self, op: &Op) -> std::result::Result<(), Unsupported> {
        self.0.supports(op)
    }
    fn alloc(&self, bytes: usize) -> Result<Addr> {
        self.0.alloc(bytes)
    }
    unsafe fn free(&self, addr: Addr, bytes: usize) {
        // SAFETY: passed on.
        unsafe { self.0.free(addr, bytes) }
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Shadow::new(&self.0, self.0.stream()?)?))
    }
}

#[test]
fn every_op_of_steps_and_of_a_language_model_agrees_with_the_reference_and_losses_with_the_cpu() {
    print!("{}", started("in_the_shadow", home(), None));
}

#[test]
#[ignore = "started by every_op_of_steps_and_of_a_language_model"]
fn in_the_shadow() {
    let dir = tempfile::tempdir().expect("a folder");
    tiny::world(dir.path(), 60);
    let mut registry = registry();
    registry.register(Box::new(Shadowed));
    for kind in ["topk", "matryoshka", "clt", "lorsa"] {
        let of = |device: &str, result: &str| {
            losses(&tree(dir.path(), result, device, 3, kind), &registry, Group::solo())
        };
        close(kind, &of("shadow", &format!("{kind}-npu")), &of("cpu", &format!("{kind}-cpu")));
    }
    let tokens = Tokens { ids: &[5, 9, 33, 120, 7, 7, 64, 2], batch: 2, len: 4, mask: None };
    let logits = |device: &str| -> Vec<f32> {
        let device = registry.open(device).unwrap_or_else(|e| panic!("{e}"));
        let q = &mut Queue::new(&device).expect("a queue");
        let lm =
            Lm::load(q, &dir.path().join("model"), &LanguageModelSettings::default()).expect("the model");
        let out = lm
            .run(q, &tokens, Run { capture: &[], edit: None, logits: true })
            .unwrap_or_else(|e| panic!("{e}"));
        q.download(&out.logits.expect("they were asked for")).expect("a download")
    };
    let (npu, cpu) = (logits("shadow"), logits("cpu"));
    let worst = npu.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(npu.len() == cpu.len() && worst < 1e-4, "logits differ by {worst}");
    println!("a language model's {} logits agree to {worst:.1e}", npu.len());
}

#[test]
fn ranks_on_npus_of_two_processes_train_as_one_rank_on_the_cpu() {
    let dir = tempfile::tempdir().expect("a folder");
    tiny::world(dir.path(), 60);
    let world = dir.path().to_str().expect("a path in UTF-8");
    for kind in ["topk", "clt"] {
        let alone =
            losses(&tree(dir.path(), &format!("{kind}-cpu"), "cpu", 6, kind), &registry(), Group::solo());
        for said in on_ranks("a_rank", 2, "", &[("LM_SAES_TEST_WORLD", world), ("LM_SAES_TEST_KIND", kind)]) {
            let line =
                said.lines().find_map(|l| l.split_once("losses: ")).expect("a rank prints its losses").1;
            let seen: Vec<f64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
            close(&format!("{kind} on two NPUs"), &seen, &alone);
        }
    }
}

#[test]
#[ignore = "started by ranks_on_npus_of_two_processes"]
fn a_rank() {
    let (files, rank) = Files::of_process();
    let (world, kind) = (variable("LM_SAES_TEST_WORLD"), variable("LM_SAES_TEST_KIND"));
    let result = format!("{kind}-npu");
    let mut tree = tree(Path::new(&world), &result, &format!("npu:{rank}"), 6, &kind);
    tree["data_parallel_size"] = json!(2);
    let device = registry().open(&format!("npu:{rank}")).unwrap_or_else(|e| panic!("{e}"));
    let (world, _) = on_device(&device, Box::new(files), Duration::from_secs(60)).expect("a group of ranks");
    drop(device);
    let seen = losses(&tree, &registry(), Group::new(world));
    println!("losses: {}", seen.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the test sets {name}"))
}

/// Has the simulator do something from the end of a step on.
struct Strike(u64, String);

impl Observer for Strike {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        if p.step == self.0 {
            let path = Path::new(&variable("ASCEND_HOME_PATH")).join("lib64/libascendcl.so");
            let text = CString::new(self.1.as_str()).expect("no zero");
            // SAFETY: the library is the simulator, which is loaded; the function takes a C string.
            let code = unsafe {
                let library = libloading::Library::new(path).expect("the simulator");
                library
                    .get::<unsafe extern "C" fn(*const std::ffi::c_char) -> i32>(b"acl_sim_control")
                    .expect("its control")(text.as_ptr())
            };
            assert_eq!(code, 0, "{} is understood", self.1);
        }
        ControlFlow::Continue(())
    }
}

const STEPS: u64 = 12;

/// Runs the job on the simulated NPU in a process of its own: from its newest snapshot, struck as told.
fn life(world: &Path, result: &str, strike: &str) -> String {
    let mut command = program("one_life", home(), Some("op_timeout=200"));
    command
        .env("LM_SAES_TEST_WORLD", world)
        .env("LM_SAES_TEST_RESULT", result)
        .env("LM_SAES_TEST_STRIKE", strike);
    let output = command.output().expect("this program starts again");
    // Whatever was left on the device would have been said, and found here.
    let said = finished("one_life", Some(strike), &output);
    said.lines().find_map(|l| l.split_once("the run: ")).unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

#[test]
#[ignore = "started by every_failure_of_the_device"]
fn one_life() {
    let (world, result, strike) =
        (variable("LM_SAES_TEST_WORLD"), variable("LM_SAES_TEST_RESULT"), variable("LM_SAES_TEST_STRIKE"));
    let settings: TrainSettings =
        from_tree(&tree(Path::new(&world), &result, "npu:0", STEPS, "topk")).expect("settings that parse");
    let done = match strike.as_str() {
        "" => runners::train(&settings, &registry(), &mut Silent, Start::Resume),
        text => runners::train(&settings, &registry(), &mut Strike(7, text.into()), Start::Resume),
    };
    let text = done.map_or_else(|e| e.to_string(), |report| format!("{:?}", report.ended));
    println!("the run: {}", text.replace('\n', " "));
}

/// What is left of a run in the end: the weights, and the loss of every step.
fn outcome(world: &Path, result: &str) -> (Vec<u8>, Vec<Value>) {
    let root = world.join(result);
    let weights = fs::read(root.join("sae_weights.safetensors")).expect("final weights");
    let log = fs::read_to_string(root.join("metrics.jsonl")).expect("metrics");
    let record = |l: &str| serde_json::from_str::<Value>(l).expect("a record")["losses/overall_loss"].clone();
    (weights, log.lines().map(record).collect())
}

#[test]
fn every_failure_of_the_device_ends_a_run_in_words_and_the_run_goes_on_from_its_snapshot_to_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = dir.path();
    tiny::world(world, 60);
    assert_eq!(life(world, "whole", ""), "Complete");
    let whole = outcome(world, "whole");
    assert_eq!(whole.1.len() as u64, STEPS);
    let strikes = [
        ("lost", "lost=40", "ACL_ERROR_RT_LOST_HEARTBEAT"),
        ("exception", "fault=40:507015", "ACL_ERROR_RT_AICORE_EXCEPTION"),
        ("hanging", "hang=40", "ACL_ERROR_RT_AICORE_TIMEOUT"),
        ("slow", "fail=aclrtSynchronizeStream:1:507046", "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT"),
        ("operator", "fail=aclnnMatmulGetWorkspaceSize:2:561103", "aclnnMatmul"),
        ("launch", "fail=aclnnInplaceAdd:1:561003", "aclnnInplaceAdd"),
        ("copy", "fail=aclrtMemcpyAsync:1:107017", "aclrtMemcpyAsync"),
    ];
    for (name, strike, words) in strikes {
        let said = life(world, name, strike);
        assert!(said.contains("npu:0") && said.contains(words), "{strike}: {said:?} does not say {words:?}");
        let kept = snapshot::list(&world.join(name)).expect("a list of snapshots");
        assert!(kept.iter().any(|(step, _)| *step >= 6), "{strike}: snapshots {kept:?}");
        assert_eq!(life(world, name, ""), "Complete");
        assert!(outcome(world, name) == whole, "{strike}: the run went another way");
        println!("{strike}: {said}");
    }
}

#[test]
fn a_device_without_room_ends_a_run_before_its_first_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    tiny::world(dir.path(), 60);
    for strike in ["memory=300000", "memory=1500000"] {
        let mut command = program("one_life", home(), Some(strike));
        command.env("LM_SAES_TEST_WORLD", dir.path()).env("LM_SAES_TEST_RESULT", "small");
        command.env("LM_SAES_TEST_STRIKE", "");
        let said = finished("one_life", Some(strike), &command.output().expect("this program starts again"));
        let line = said.lines().find_map(|l| l.split_once("the run: ")).expect("the end of the run").1;
        assert!(line.contains("npu:0") && line.contains("memory"), "{strike}: {line}");
        println!("{strike}: {line}");
    }
}
