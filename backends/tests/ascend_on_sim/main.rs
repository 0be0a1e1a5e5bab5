//! The Ascend back end without an NPU: on the strict simulator of CANN's libraries in `tests/acl-sim`, which was written apart
//! from it. A mistake that the simulator finds ends its process, so each setting has a process of its own: the tests here start
//! this program again for the ignored ones, and look at what the simulator says when ACL is finished with.
#![cfg(all(feature = "ascend", target_os = "linux"))]

#[path = "../../../tests/acl-sim/client.rs"]
mod client;
mod ranks;

use client::{home, started};
use lm_saes_backends::{conformance, registry};
use lm_saes_runtime::{DType, Device, Error, GemmOpts, MapKind, Queue, Result, Stream, Tensor};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

fn device() -> Arc<dyn Device> {
    registry().open("npu:0").unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_op_agrees_with_the_reference() {
    println!("{}", started("table", home(), None));
}

/// Every case of the table, or every `LM_SAES_EVERY`-th. A chip that refuses some is none of the simulator's usual ones.
#[test]
#[ignore = "started by every_op_agrees_with_the_reference"]
fn table() {
    let every = std::env::var("LM_SAES_EVERY").map_or(1, |n| n.parse().expect("LM_SAES_EVERY is a number"));
    let device = device();
    let cases = conformance::cases().into_iter().step_by(every);
    let results = cases.map(|c| (c.clone(), conformance::run_case(&device, &c))).collect();
    let report = conformance::Report { device: device.info().name.clone(), results };
    println!("{report}");
    let mut wrong: Vec<_> = report.failures().collect();
    if std::env::var("ACL_SIM").is_ok_and(|s| s.contains("perturb=")) {
        // Noise on computed values shows where a root must be exact, and where equal numbers must cancel.
        wrong.retain(|(c, _)| {
            !(c.what.starts_with("Sqrt") || c.op == "AttentionGrad" && c.what.contains("len 1 "))
        });
    }
    if std::env::var_os("LM_SAES_MAY_REFUSE").is_none() {
        wrong.extend(report.refusals());
    }
    let wrong: Vec<_> = wrong.iter().map(|(case, why)| format!("{}: {why}", case.name())).collect();
    assert!(
        wrong.is_empty(),
        "{} cases, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

#[test]
fn a_queue_works_from_any_thread_whatever_the_order_of_the_device_and_leaves_nothing_behind() {
    for settings in ["run=eager", "run=synced", "run=random;seed=7"] {
        started("life", home(), Some(settings));
    }
}

#[test]
#[ignore = "started by a_queue_works_from_any_thread"]
fn life() -> Result<()> {
    let device = device();
    let info = device.info();
    assert_eq!(info.name, "npu:0");
    assert!(info.model.contains("Ascend910B2 (Atlas A2, ACL 1."), "{}", info.model);
    assert!(info.memory > 0 && info.deterministic);
    let missing = registry().open("npu:7").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(missing.contains("npu:0"), "{missing}");
    let error = device.alloc(1 << 50).expect_err("a petabyte");
    assert!(matches!(error, Error::OutOfMemory { asked, .. } if asked == 1 << 50), "{error}");
    // Three pinned buffers and a bit, so that each is used twice while its copies may still be waiting.
    let values: Vec<u32> = (0..(13 << 20) / 4 + 5).collect();
    let mut q = Queue::new(&device)?;
    let t = q.tensor(1, values.len(), &values)?;
    let back = std::thread::scope(|s| s.spawn(|| q.download::<u32>(&t)).join().expect("no panic"))?;
    assert!(back == values);
    a_finding_stops_its_queue_only(&device)
}

fn a_finding_stops_its_queue_only(device: &Arc<dyn Device>) -> Result<()> {
    let mut q = Queue::new(device)?;
    let table = q.zeros(4, 3, DType::F32)?;
    let (good, bad) = (q.tensor(1, 2, &[1u32, 3])?, q.tensor(1, 2, &[1u32, 9])?);
    let mut y = q.empty(2, 3, DType::F32)?;
    // More checked ops than there are places to note what they find.
    for _ in 0..600 {
        q.gather(&table, &good, &mut y)?;
    }
    q.sync()?;
    q.gather(&table, &bad, &mut y)?;
    let first = q.sync().expect_err("index 9 of 4 rows").to_string();
    assert!(first.contains("Gather") && first.contains("an index is not below the 4 rows"), "{first}");
    assert!(matches!(q.fill(&mut y, 0.0), Err(Error::Poisoned { .. })));
    let mut other = Queue::new(device)?;
    assert_eq!(other.tensor(1, 1, &[2.5f32]).and_then(|t| other.download::<f32>(&t))?, [2.5]);
    Ok(())
}

#[test]
fn ten_recorded_runs_equal_ten_launched_ones_where_the_chip_records() {
    started("recorded", home(), Some("run=synced"));
    started("not_recorded", home(), Some("soc=Ascend310P3"));
}

#[test]
#[ignore = "started by ten_recorded_runs"]
fn recorded() -> Result<()> {
    let device = device();
    let start: Vec<f32> = (0..48 * 32).map(|i| (i % 17) as f32 * 0.05 - 0.4).collect();
    let input: Vec<f32> = (0..64 * 48).map(|i| (i % 23) as f32 * 0.04 - 0.4).collect();
    let mut q = Queue::new(&device)?;
    let x = q.tensor(64, 48, &input)?;
    let mut w = q.tensor(48, 32, &start)?;
    for _ in 0..10 {
        step(&mut q, &x, &mut w)?;
    }
    let launched: Vec<f32> = q.download(&w)?;

    let shared = Shared(Arc::new(Mutex::new(device.stream()?)));
    let mut q = Queue::with_stream(&device, Box::new(shared.clone()));
    let x = q.tensor(64, 48, &input)?;
    let mut w = q.tensor(48, 32, &start)?;
    // Its temporary tensor stays in the queue's pool, so that recording allocates nothing.
    step(&mut q, &x, &mut w)?;
    q.sync()?;
    shared.with(|s| s.begin_capture()).unwrap_or_else(|e| panic!("{}", e.0));
    step(&mut q, &x, &mut w)?;
    let graph = shared.with(|s| s.end_capture()).unwrap_or_else(|e| panic!("{}", e.0));
    for _ in 0..9 {
        shared.with(|s| graph.replay(s))?;
    }
    let replayed: Vec<f32> = q.download(&w)?;
    assert!(launched.iter().zip(&replayed).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(launched.iter().any(|v| v.abs() > 1e-3), "the chain died out, nothing was compared");
    Ok(())
}

#[test]
#[ignore = "started by ten_recorded_runs"]
fn not_recorded() -> Result<()> {
    let mut stream = device().stream()?;
    let why = stream.begin_capture().expect_err("a 310P does not record");
    assert!(why.0.contains("Ascend310P3 does not record"), "{}", why.0);
    Ok(())
}

/// A chain of ops that uses scratch memory, a product and an in-place map: `w` changes with every run.
fn step(q: &mut Queue, x: &Tensor, w: &mut Tensor) -> Result<()> {
    let mut y = q.empty(64, 32, DType::F32)?;
    q.gemm(x, &*w, &mut y, GemmOpts { alpha: 0.1, ..GemmOpts::default() })?;
    q.gemm(x, &y, w.view_mut(), GemmOpts { ta: true, beta: 0.5, ..GemmOpts::default() })?;
    q.map_in_place(MapKind::Tanh, 1.0, 0.0, w.view_mut())
}

#[test]
fn every_failure_of_the_driver_is_an_error_in_words_and_nothing_is_left() {
    let cases = [
        ("fail=aclnnMatmulGetWorkspaceSize:1:161002", "aclnnMatmul failed with code 161002"),
        ("fail=aclnnMatmul:1:561003", "ACLNN_ERR_INNER_FIND_KERNEL_ERROR"),
        ("fail=aclrtMalloc:5:207001", "out of memory"),
        ("fail=aclrtCreateStreamWithConfig:1:207008", "ACL_ERROR_RT_NO_STREAM_RESOURCE"),
        ("fail=aclrtMallocHost:1:207001", "aclrtMallocHost failed"),
        ("fail=aclrtSynchronizeStream:1:507046", "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT"),
        ("fault=6:507015", "queued last: "),
    ];
    for (settings, words) in cases {
        let said = started("failing", home(), Some(settings));
        let line = said.lines().find(|l| l.contains("the step: ")).unwrap_or_default();
        assert!(line.contains(words), "{settings}: {line:?} does not say {words:?}");
    }
}

#[test]
#[ignore = "started by every_failure_of_the_driver"]
fn failing() {
    let device = device();
    let run = || -> Result<()> {
        let mut q = Queue::new(&device)?;
        let x = q.tensor(64, 48, &vec![0.25f32; 64 * 48])?;
        let mut w = q.tensor(48, 32, &vec![0.5f32; 48 * 32])?;
        step(&mut q, &x, &mut w)?;
        q.sync()
    };
    println!("the step: {}", run().map_or_else(|e| e.to_string().replace('\n', " "), |()| "done".into()));
}

#[test]
fn without_cann_there_is_one_line_that_says_what_to_do() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-cann");
    std::fs::create_dir_all(folder.join("lib64")).expect("a folder");
    let said = started("absent", &folder, None);
    assert!(said.contains("libacl_rt.so or libascendcl.so") && said.contains("set_env.sh"), "{said}");

    // A library of the right name without a function of it.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("other-cann");
    std::fs::create_dir_all(folder.join("lib64")).expect("a folder");
    for name in ["libascendcl.so", "libopapi.so"] {
        let link = folder.join("lib64").join(name);
        let _ = std::fs::remove_file(&link);
        let libm =
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
        let Some(libm) = libm.iter().find(|p| Path::new(p).exists()) else {
            println!("NOT TESTED: a library without CANN's functions: no libm found");
            return;
        };
        std::os::unix::fs::symlink(libm, &link).expect("a link");
    }
    let said = started("absent", &folder, None);
    assert!(said.contains("this CANN has no aclInit") && said.contains("libascendcl.so"), "{said}");
}

#[test]
#[ignore = "started by without_cann"]
fn absent() {
    let registry = registry();
    let npu = registry.backends().find(|b| b.name() == "npu").expect("built with the feature");
    assert_eq!(npu.count(), 0);
    let why = npu.absence().expect("a reason");
    assert!(!why.contains('\n'), "{why}");
    println!("absent: {why}");
}

/// A stream that the queue and the test both hold.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn Stream>>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut dyn Stream) -> T) -> T {
        f(&mut **self.0.lock().expect("no test panics while it holds the stream"))
    }
}

// SAFETY: every call is passed on to the stream inside.
unsafe impl Stream for Shared {
    unsafe fn launch(&mut self, op: &lm_saes_runtime::Op) -> Result<()> {
        // SAFETY: passed on.
        self.with(|s| unsafe { s.launch(op) })
    }
    unsafe fn upload(&mut self, src: &[u8], dst: lm_saes_runtime::Addr) -> Result<()> {
        // SAFETY: passed on.
        self.with(|s| unsafe { s.upload(src, dst) })
    }
    unsafe fn download(&mut self, src: lm_saes_runtime::Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: passed on.
        self.with(|s| unsafe { s.download(src, dst) })
    }
    fn sync(&mut self) -> Result<()> {
        self.with(|s| s.sync())
    }
}
