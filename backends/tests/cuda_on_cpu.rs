//! The CUDA back end without a GPU: its host code unchanged, its kernels from the same `.cu` files, on the stand-in driver of
//! `tests/cuda_on_cpu`. One test binary, because the driver library is one for the process.
#![cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]

use lm_saes_backends::{conformance, registry};
use lm_saes_runtime::{DType, Device, Error, GemmOpts, MapKind, Queue, Result, Stream};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

/// The device with our own Gemm, and the one with the stand-in of cuBLASLt, which is there from then on.
struct Devices {
    own: Arc<dyn Device>,
    library: Arc<dyn Device>,
}

/// Builds the stand-ins and opens them, so that the bindings find them under the libraries' names. Without a C++ compiler
/// the tests say so and prove nothing.
fn devices() -> Option<&'static Devices> {
    static READY: OnceLock<Option<Devices>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        let Some(folder) = stand_in() else {
            println!("NOT TESTED: the stand-in driver needs g++ (or CXX)");
            return None;
        };
        let load = |path: &str| {
            // SAFETY: the stand-ins' initialisers only register kernels.
            let library = unsafe { libloading::Library::new(folder.join(path)) };
            // Never closed: the bindings keep its functions.
            std::mem::forget(library.unwrap_or_else(|e| panic!("{e}")));
            registry().open("cuda:0").unwrap_or_else(|e| panic!("{e}"))
        };
        Some(Devices { own: load("libcuda.so.1"), library: load("blas/libcublasLt.so.13") })
    });
    ready.as_ref()
}

fn device() -> Option<Arc<dyn Device>> {
    devices().map(|d| d.own.clone())
}

/// Folder of the stand-ins: built here, or ready-made where `LM_SAES_CUDA_STAND_IN` names it.
fn stand_in() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("LM_SAES_CUDA_STAND_IN") {
        return Some(folder.into());
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    Command::new(compiler).arg("--version").output().ok()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_on_cpu");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cuda_on_cpu/build.sh");
    let output = Command::new(script).arg(&folder).output().unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

/// All cases, or every n-th where `LM_SAES_EVERY` is n: for slow builds of the stand-in.
#[test]
fn every_op_agrees_with_the_reference() {
    let Some(device) = device() else { return };
    let every = std::env::var("LM_SAES_EVERY").map_or(1, |n| n.parse().expect("LM_SAES_EVERY is a number"));
    let cases = conformance::cases().into_iter().step_by(every);
    let results = cases.map(|c| (c.clone(), conformance::run_case(&device, &c))).collect();
    let report = conformance::Report { device: device.info().name.clone(), results };
    println!("{report}");
    let wrong: Vec<String> = report
        .failures()
        .chain(report.refusals())
        .map(|(case, why)| format!("{}: {why}", case.name()))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} cases, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

#[test]
fn products_by_the_library_agree_with_the_reference() {
    let Some(devices) = devices() else { return };
    assert!(
        devices.library.info().model.contains("products by cuBLASLt"),
        "{}",
        devices.library.info().model
    );
    let report = conformance::run(&devices.library, "Gemm: ");
    println!("{report}");
    let wrong: Vec<String> = report.failures().map(|(case, why)| format!("{}: {why}", case.name())).collect();
    assert!(report.results.len() > 100 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_device_says_what_it_is() {
    let Some(device) = device() else { return };
    let info = device.info();
    assert_eq!(info.name, "cuda:0");
    assert!(info.model.contains("compute capability 9.0, products by our own kernel"), "{}", info.model);
    assert!(info.memory > 0 && info.deterministic);
    let missing = registry().open("cuda:7").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(missing.contains("cuda:0"), "{missing}");
}

#[test]
fn copies_longer_than_the_pinned_buffers_arrive_whole() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let mut q = Queue::new(&device)?;
    // Three buffers and a bit, so that each is used twice while its copies may still be waiting.
    let values: Vec<u32> = (0..(13 << 20) / 4 + 5).collect();
    let t = q.tensor(1, values.len(), &values)?;
    assert!(q.download::<u32>(&t)? == values);
    Ok(())
}

#[test]
fn a_failure_in_a_kernel_stops_the_queue_with_its_reason() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let mut q = Queue::new(&device)?;
    let table = q.zeros(4, 3, DType::F32)?;
    let idx = q.tensor(1, 2, &[1u32, 9])?;
    let mut y = q.empty(2, 3, DType::F32)?;
    q.gather(&table, &idx, &mut y)?;
    let first = q.sync().expect_err("index 9 of 4 rows").to_string();
    assert!(first.contains("Gather") && first.contains("index 9 is not below 4"), "{first}");
    assert!(matches!(q.fill(&mut y, 0.0), Err(Error::Poisoned { .. })));
    // The failure belongs to that queue alone.
    let mut other = Queue::new(&device)?;
    assert_eq!(other.tensor(1, 1, &[2.5f32]).and_then(|t| other.download::<f32>(&t))?, [2.5]);
    Ok(())
}

#[test]
fn more_memory_than_there_is_is_an_error_that_names_it() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let error = device.alloc(1 << 50).expect_err("a petabyte");
    assert!(matches!(error, Error::OutOfMemory { asked, .. } if asked == 1 << 50), "{error}");
    Ok(())
}

/// A chain of ops that uses scratch memory, a product and an in-place map: `w` changes with every run.
fn step(q: &mut Queue, x: &lm_saes_runtime::Tensor, w: &mut lm_saes_runtime::Tensor) -> Result<()> {
    let mut y = q.empty(64, 32, DType::F32)?;
    q.gemm(x, &*w, &mut y, GemmOpts { alpha: 0.1, ..GemmOpts::default() })?;
    q.gemm(x, &y, w.view_mut(), GemmOpts { ta: true, beta: 0.5, ..GemmOpts::default() })?;
    q.map_in_place(MapKind::Tanh, 1.0, 0.0, w.view_mut())
}

#[test]
fn ten_recorded_runs_equal_ten_launched_ones() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let start: Vec<f32> = (0..48 * 32).map(|i| (i % 17) as f32 * 0.05 - 0.4).collect();
    let input: Vec<f32> = (0..64 * 48).map(|i| (i % 23) as f32 * 0.04 - 0.4).collect();
    let mut q = Queue::new(&device)?;
    let x = q.tensor(64, 48, &input)?;
    let mut w = q.tensor(48, 32, &start)?;
    for _ in 0..10 {
        step(&mut q, &x, &mut w)?;
    }
    let eager: Vec<f32> = q.download(&w)?;

    let shared = Shared::new(&device)?;
    let mut q = Queue::with_stream(&device, Box::new(shared.clone()));
    let x = q.tensor(64, 48, &input)?;
    let mut w = q.tensor(48, 32, &start)?;
    step(&mut q, &x, &mut w)?;
    q.sync()?;
    shared.with(|s| s.begin_capture()).unwrap_or_else(|e| panic!("{}", e.0));
    step(&mut q, &x, &mut w)?;
    let graph = shared.with(|s| s.end_capture()).unwrap_or_else(|e| panic!("{}", e.0));
    for _ in 0..9 {
        shared.with(|s| graph.replay(s))?;
    }
    let replayed: Vec<f32> = q.download(&w)?;
    assert!(eager.iter().zip(&replayed).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(eager.iter().any(|v| v.abs() > 1e-3), "the chain died out, nothing was compared");
    Ok(())
}

/// A stream that the queue and the test both hold.
#[derive(Clone)]
struct Shared(Arc<std::sync::Mutex<Box<dyn Stream>>>);

impl Shared {
    fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self(Arc::new(std::sync::Mutex::new(device.stream()?))))
    }
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
