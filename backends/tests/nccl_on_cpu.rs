//! The NCCL engine without a GPU: its host code unchanged, on the stand-ins of `tests/cuda_on_cpu`; ranks are processes, this program
//! once more for each.
#![cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]

use lm_saes_backends::{
    comm::{on_device, tcp::Tcp},
    registry,
};
use lm_saes_runtime::{Background, DType, Exchange, Group, Queue, Reduction, Result};
use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Folder of the stand-ins: built here, or ready-made where `LM_SAES_CUDA_STAND_IN` names it.
fn stand_in() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("LM_SAES_CUDA_STAND_IN") {
        return Some(folder.into());
    }
    let compiler = env::var("CXX").unwrap_or_else(|_| "g++".into());
    if Command::new(compiler).arg("--version").output().is_err() {
        println!("NOT TESTED: the stand-ins need g++ (or CXX)");
        return None;
    }
    // A folder of its own: the other test binary may be building at the same time.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nccl_on_cpu");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cuda_on_cpu/build.sh");
    let output = Command::new(script).arg(&folder).output().unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(folder)
}

/// Starts `size` ranks that do `what`; each prints what it found.
fn start(folder: &Path, size: usize, what: &str) -> Vec<Child> {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let start = |rank: usize| {
        Command::new(env::current_exe().unwrap())
            .args(["a_rank", "--exact", "--nocapture", "--include-ignored"])
            .env("LM_SAES_TEST_RANK", format!("{rank} {size} {address} {what}"))
            .env("LM_SAES_CUDA_STAND_IN", folder)
            .env("LM_SAES_NCCL", folder.join("nccl/libnccl.so.2"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    (0..size).map(start).collect()
}

/// Lines that a rank marked as found, in their order, and everything it said.
fn found(child: Child) -> (Vec<String>, String) {
    let out = child.wait_with_output().unwrap();
    let all = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let lines = all.lines().filter_map(|l| l.strip_prefix("FOUND ")).map(String::from).collect();
    (lines, all)
}

/// One rank, when started as one; nothing otherwise.
#[test]
#[ignore = "started by the other tests"]
fn a_rank() {
    let Ok(place) = env::var("LM_SAES_TEST_RANK") else { return };
    let words: Vec<&str> = place.split(' ').collect();
    let [rank, size] = [words[0], words[1]].map(|n| n.parse().unwrap());
    let folder = PathBuf::from(env::var_os("LM_SAES_CUDA_STAND_IN").unwrap());
    // SAFETY: the stand-in's initialisers only register kernels; it is never closed, the bindings keep its functions.
    std::mem::forget(unsafe { libloading::Library::new(folder.join("libcuda.so.1")) }.unwrap());
    let patience = if words[3] == "dies" { Duration::from_secs(5) } else { PATIENCE };
    let tcp = Tcp::join(words[2], rank, size, patience).unwrap();
    if let Err(e) = work(&tcp, words[3], patience) {
        println!("\nFOUND error {e}");
        // Before destructors, as a command that fails.
        std::process::exit(1);
    }
}

fn work(tcp: &Tcp, what: &str, patience: Duration) -> Result<()> {
    let device = registry().open("cuda:0")?;
    let (comm, by) = on_device(&device, tcp.world(), patience)?;
    println!("\nFOUND by {by}");
    let (mut q, mut g) = (Queue::new(&device)?, Group::new(comm));
    if what == "dies" {
        if tcp.rank() == 1 {
            std::process::exit(7);
        }
        let mut x = q.tensor(1, 9, &[1.0_f32; 9])?;
        g.all_reduce(&mut q, &mut x, Reduction::Sum)?;
        return Ok(());
    }
    collectives(&mut q, &mut g)?;
    let behind = g.split(0, g.rank() as u32)?.into_comm().expect("several ranks");
    exchanges(&mut q, &mut g, Background::new(behind))
}

fn bits(values: &[f32]) -> u64 {
    values.iter().fold(17, |h: u64, v| h.wrapping_mul(1_000_003) ^ u64::from(v.to_bits()))
}

fn collectives(q: &mut Queue, g: &mut Group) -> Result<()> {
    let (r, size) = (g.rank(), g.size());
    // In another order than that of the ranks the sum of the first numbers is another.
    let values: Vec<f32> = (0..1003).map(|i| share(r, i)).collect();
    let mut x = q.tensor(17, 59, &values)?;
    g.all_reduce(q, &mut x, Reduction::Sum)?;
    println!("\nFOUND all_reduce {}", bits(&q.download::<f32>(&x)?));
    let rows: Vec<f32> = (0..size * 40).map(|i| share(r, i)).collect();
    let (src, mut dst) = (q.tensor(size * 4, 10, &rows)?, q.empty(4, 10, DType::F32)?);
    g.reduce_scatter(q, &src, &mut dst, Reduction::Sum)?;
    let mut all = q.empty(size * 4, 10, DType::F32)?;
    g.all_gather(q, &dst, &mut all)?;
    println!("\nFOUND scattered {}", bits(&q.download::<f32>(&all)?));
    let mut n = q.tensor(1, 3, &[r as u32, 7, u32::MAX])?;
    g.all_reduce(q, &mut n, Reduction::Sum)?;
    let mut most = q.tensor(1, 2, &[r as f32, -(r as f32)])?;
    g.all_reduce(q, &mut most, Reduction::Max)?;
    let mut b = q.tensor(1, 2, &[r as f32, 5.0])?;
    g.broadcast(q, &mut b, size - 1)?;
    println!(
        "\nFOUND others {:?} {:?} {:?}",
        q.download::<u32>(&n)?,
        q.download::<f32>(&most)?,
        q.download::<f32>(&b)?
    );
    let mut small = g.split((r % 2) as u32, 0)?;
    println!("\nFOUND {:?}", small.gather_bytes(q, &[r as u8])?.concat());
    let texts = g.gather_bytes(q, &vec![b'x'; r])?;
    assert!(texts.iter().enumerate().all(|(i, t)| t.len() == i));
    Ok(())
}

fn share(r: usize, i: usize) -> f32 {
    [1e8, 1.0, -1e8, 0.3][(r + i) % 4] + (i % 5) as f32
}

fn exchanges(q: &mut Queue, g: &mut Group, mut behind: Background) -> Result<()> {
    let (r, size) = (g.rank(), g.size());
    let mut sums = Vec::new();
    for i in 0..6 {
        let values: Vec<f32> = (0..(size * 3 + 1) * 30).map(|j| share(r, i + j)).collect();
        let x = q.tensor(size * 3 + 1, 30, &values)?;
        let ticket = behind.start(q, Exchange::Sum, x, size * 3 + 1)?;
        let mut y = q.tensor(1, 1, &[r as f32])?;
        g.all_reduce(q, &mut y, Reduction::Sum)?;
        assert_eq!(q.download::<f32>(&y)?, [(0..size).sum::<usize>() as f32]);
        let x = behind.finish(ticket)?;
        let ticket = behind.start(q, Exchange::Gather, x, size * 3 + 1)?;
        sums.extend(q.download::<f32>(&behind.finish(ticket)?)?);
    }
    println!("\nFOUND exchanged {}", bits(&sums));
    // The contract is sums in f32; this library's would not be.
    let mut h = q.tensor(1, 1, &[half::bf16::ONE])?;
    assert!(g.all_reduce(q, &mut h, Reduction::Sum).is_err());
    Ok(())
}

/// Sums in the order of the ranks, as the host adds them.
fn summed(size: usize, n: usize, from: usize) -> Vec<f32> {
    (from..from + n).map(|i| (1..size).fold(share(0, i), |sum, r| sum + share(r, i))).collect()
}

#[test]
fn two_and_four_processes_add_up_in_the_order_of_the_ranks_and_exchange_beside_it() {
    let Some(folder) = stand_in() else { return };
    for size in [2, 4] {
        let exchanged: Vec<f32> = (0..6).flat_map(|i| summed(size, (size * 3 + 1) * 30, i)).collect();
        for (r, child) in start(&folder, size, "works").into_iter().enumerate() {
            let (found, said) = found(child);
            let n = (0..size as u32).sum::<u32>();
            let wrapped = (0..size).fold(0_u32, |s, _| s.wrapping_add(u32::MAX));
            let members: Vec<usize> = (0..size).filter(|m| m % 2 == r % 2).collect();
            let last = size - 1;
            let want = [
                "by NCCL 2.28.9".to_string(),
                format!("all_reduce {}", bits(&summed(size, 1003, 0))),
                format!("scattered {}", bits(&summed(size, size * 40, 0))),
                format!("others {:?} [{last}.0, 0.0] [{last}.0, 5.0]", [n, 7 * size as u32, wrapped])
                    .replace("-0.0", "0.0"),
                format!("{members:?}"),
                format!("exchanged {}", bits(&exchanged)),
            ];
            let got: Vec<String> = found.iter().map(|l| l.replace("-0.0", "0.0")).collect();
            assert_eq!(got, want, "rank {r} of {size}: {said}");
        }
    }
}

#[test]
fn a_process_that_dies_is_named_and_ends_the_others_in_time() {
    let Some(folder) = stand_in() else { return };
    let began = Instant::now();
    let mut children = start(&folder, 3, "dies");
    let first = children.remove(0);
    let (found, said) = found(first);
    assert!(found.iter().any(|l| l.starts_with("error") && l.contains("rank 1 has left the job")), "{said}");
    assert!(began.elapsed() < Duration::from_secs(50));
    for mut other in children {
        assert!(!other.wait().unwrap().success());
    }
}

/// On a machine with a card and NCCL, one rank goes through the real library.
#[test]
fn one_rank_on_a_real_card() {
    // The stand-ins are not for this: it asks for the libraries of the system.
    let script = "import ctypes; ctypes.CDLL('libcuda.so.1'); ctypes.CDLL('libnccl.so.2')";
    let there = Command::new("python3").args(["-c", script]).output().is_ok_and(|o| o.status.success());
    if !there || registry().open("cuda:0").is_err() {
        println!(
            "SKIPPED: no card with NCCL (libcuda.so.1 and libnccl.so.2): the engine has not been run on a GPU"
        );
        return;
    }
    one_rank::run();
}

mod one_rank {
    //! What a group of one never states, stated all the same.
    use super::*;
    use lm_saes_backends::comm::threads::threads;
    use lm_saes_runtime::{Addr, Collective};

    pub fn run() {
        let device = registry().open("cuda:0").unwrap();
        let base = threads(1, PATIENCE).remove(0);
        let (mut comm, by) = on_device(&device, base, PATIENCE).unwrap();
        assert!(by.starts_with("NCCL"), "{by}");
        let (mut stream, n) = (device.stream().unwrap(), 1000);
        let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
        let (from, to) = (device.alloc(4 * n).unwrap(), device.alloc(4 * n).unwrap());
        let count = n as u64;
        let dtype = DType::F32;
        let how = Reduction::Sum;
        let all = [
            Collective::ReduceScatter { src: from, dst: to, n: count, dtype, how },
            Collective::AllReduce { x: to, n: count, dtype, how },
            Collective::AllGather { src: to, dst: to, n: count, dtype },
            Collective::Broadcast { x: to, n: count, dtype, root: 0 },
            Collective::Barrier,
        ];
        let mut back = vec![0.0_f32; n];
        // SAFETY: both stretches are live and as large as is said.
        unsafe {
            stream.upload(bytemuck::cast_slice(&values), from).unwrap();
            for c in &all {
                comm.collective(&mut *stream, c).unwrap();
            }
            stream.download(to, bytemuck::cast_slice_mut(&mut back)).unwrap();
            stream.sync().unwrap();
            assert_eq!(back, values);
            for addr in [from, to] {
                assert_ne!(addr, Addr::NONE);
                device.free(addr, 4 * n);
            }
        }
        println!("one rank went through {by}");
    }
}
