//! Collectives between processes: one client for each rank, all of them with the same name. The root goes from the first to the
//! others through a file.

use crate::{
    acl::{self, Acl, P},
    call, clients,
};
use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const INT32: u32 = 2;
const FP32: u32 = 4;
const SUM: u32 = 0;
const MAX: u32 = 2;

fn number(name: &str) -> u32 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).expect("the test says which rank this is")
}

/// This process as a rank: on the device of its number, with a communicator of all.
struct Rank<'a> {
    acl: &'a Acl,
    rank: u32,
    n: u32,
    comm: P,
}

/// The root that rank 0 got, in every rank.
fn root(acl: &Acl, rank: u32) -> Vec<u8> {
    let path = PathBuf::from(std::env::var_os("ACL_SIM_ROOT").expect("the test names a file"));
    let mut bytes = vec![0u8; 4108];
    if rank == 0 {
        assert_eq!(call!(acl, HcclGetRootInfo(bytes.as_mut_ptr() => *mut u8) -> u32), 0, "{}", acl.message());
        let aside = path.with_extension("tmp");
        std::fs::write(&aside, &bytes).expect("the root is written");
        std::fs::rename(aside, path).expect("the root is renamed");
        return bytes;
    }
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no root came");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::fs::read(path).expect("the root is read")
}

fn join(acl: &Acl, root: &[u8], n: u32, rank: u32) -> (u32, P) {
    let mut comm = acl.null();
    let code = call!(acl, HcclCommInitRootInfo(
        n => u32, root.as_ptr() => *const u8, rank => u32, &mut comm => *mut P
    ) -> u32);
    (code, comm)
}

fn begin(acl: &Acl, device: u32) {
    assert_eq!(call!(acl, aclInit(std::ptr::null() => *const i8)), 0);
    assert_eq!(acl.set_device(device as i32), 0);
}

impl<'a> Rank<'a> {
    fn start(acl: &'a Acl) -> Self {
        let (rank, n) = (number("ACL_SIM_RANK"), number("ACL_SIM_RANKS"));
        begin(acl, rank);
        let (code, comm) = join(acl, &root(acl, rank), n, rank);
        assert_eq!(code, 0, "{}", acl.message());
        Self { acl, rank, n, comm }
    }

    fn all_reduce(&self, from: usize, to: usize, count: u64, dtype: u32, op: u32) -> u32 {
        call!(self.acl, HcclAllReduce(
            from as P => P, to as P => P, count => u64, dtype => u32, op => u32, self.comm => P, self.acl.null() => P
        ) -> u32)
    }
    fn barrier(&self) -> u32 {
        call!(self.acl, HcclBarrier(self.comm => P, self.acl.null() => P) -> u32)
    }
    fn wait(&self) -> i32 {
        self.acl.sync(self.acl.null())
    }
    fn leave(&self) -> u32 {
        call!(self.acl, HcclCommDestroy(self.comm => P) -> u32)
    }
    fn finish(&self, blocks: &[usize]) {
        for p in blocks {
            assert_eq!(self.acl.free(*p), 0);
        }
        assert_eq!(call!(self.acl, aclrtResetDevice(self.rank as i32 => i32)), 0);
        assert_eq!(call!(self.acl, aclFinalize()), 0);
    }
}

clients! {
    moves_data(acl) {
        let r = Rank::start(acl);
        let (own, n) = (r.rank as f32, r.n as usize);
        let (mut rank, mut size) = (9, 9);
        assert_eq!(call!(acl, HcclGetRankId(r.comm => P, &mut rank => *mut u32) -> u32), 0);
        assert_eq!(call!(acl, HcclGetRankSize(r.comm => P, &mut size => *mut u32) -> u32), 0);
        assert_eq!((rank, size as usize), (r.rank, n));
        let line: Vec<f32> = (0..n).map(|i| 10.0 * own + i as f32).collect();
        let (x, y) = (acl.upload(&line), acl.upload(&vec![-1.0; n * n]));
        let of = |f: &dyn Fn(f32) -> f32| (0..n).map(|i| f(i as f32)).collect::<Vec<f32>>();
        let highest = n as f32 - 1.0;
        assert_eq!((r.all_reduce(x, y, n as u64, FP32, SUM), r.wait()), (0, 0));
        let ranks: f32 = of(&|i| i).iter().sum();
        assert_eq!(acl.download(y, n), of(&|i| 10.0 * ranks + n as f32 * i));
        assert_eq!((r.all_reduce(x, y, n as u64, FP32, MAX), r.wait()), (0, 0));
        assert_eq!(acl.download(y, n), of(&|i| 10.0 * highest + i));
        let null = acl.null();
        let gather = || call!(acl, HcclAllGather(
            x as P => P, y as P => P, n as u64 => u64, FP32 => u32, r.comm => P, null => P
        ) -> u32);
        assert_eq!((gather(), r.wait()), (0, 0));
        let all: Vec<f32> = (0..n * n).map(|i| 10.0 * (i / n) as f32 + (i % n) as f32).collect();
        assert_eq!(acl.download(y, n * n), all);
        assert_eq!(call!(acl, HcclAlltoAll(
            x as P => P, 1 => u64, FP32 => u32, y as P => P, 1 => u64, FP32 => u32, r.comm => P, null => P
        ) -> u32), 0);
        assert_eq!(r.wait(), 0);
        assert_eq!(acl.download(y, n), of(&|i| 10.0 * i + own));
        assert_eq!(call!(acl, HcclReduceScatter(
            x as P => P, y as P => P, 1 => u64, FP32 => u32, SUM => u32, r.comm => P, null => P
        ) -> u32), 0);
        assert_eq!(r.wait(), 0);
        assert_eq!(acl.download(y, 1), [10.0 * ranks + n as f32 * own]);
        assert_eq!(call!(acl, HcclReduce(
            x as P => P, y as P => P, 1 => u64, FP32 => u32, SUM => u32, 1 => u32, r.comm => P, null => P
        ) -> u32), 0);
        assert_eq!(r.wait(), 0);
        assert_eq!(acl.download(y, 1), [if r.rank == 1 { 10.0 * ranks } else { 10.0 * ranks + n as f32 * own }]);
        assert_eq!(call!(acl, HcclBroadcast(
            x as P => P, n as u64 => u64, FP32 => u32, 1 => u32, r.comm => P, null => P
        ) -> u32), 0);
        assert_eq!(r.wait(), 0);
        assert_eq!(acl.download(x, n), of(&|i| 10.0 + i));
        assert_eq!((r.barrier(), r.wait(), r.leave()), (0, 0, 0));
        r.finish(&[x, y]);
    }
    sums_in_no_order(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[[1e8, 1.0, -1e8][r.rank as usize]]);
        assert_eq!((r.all_reduce(x, x, 1, FP32, SUM), r.wait(), r.leave()), (0, 0, 0));
        println!("sum {}", acl.download(x, 1)[0]);
        r.finish(&[x]);
    }
    counts_differ(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        r.all_reduce(x, x, 4 + u64::from(r.rank), FP32, SUM);
        r.wait();
    }
    types_differ(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        r.all_reduce(x, x, 4, if r.rank == 0 { FP32 } else { INT32 }, SUM);
        r.wait();
    }
    order_differs(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        if r.rank == 0 {
            r.barrier();
        }
        r.all_reduce(x, x, 4, FP32, SUM);
        r.wait();
    }
    sizes_differ(acl) {
        let (rank, n) = (number("ACL_SIM_RANK"), number("ACL_SIM_RANKS"));
        begin(acl, rank);
        join(acl, &root(acl, rank), n + rank, rank);
    }
    share_a_device(acl) {
        let (rank, n) = (number("ACL_SIM_RANK"), number("ACL_SIM_RANKS"));
        begin(acl, 0);
        join(acl, &root(acl, rank), n, rank);
    }
    spoils_the_root(acl) {
        let (rank, n) = (number("ACL_SIM_RANK"), number("ACL_SIM_RANKS"));
        begin(acl, rank);
        let mut root = root(acl, rank);
        root[3000] ^= 1;
        join(acl, &root, n, rank);
    }
    uses_a_destroyed_communicator(acl) {
        let r = Rank::start(acl);
        assert_eq!(r.leave(), 0);
        r.barrier();
    }
    destroys_a_communicator_twice(acl) {
        let r = Rank::start(acl);
        assert_eq!(r.leave(), 0);
        r.leave();
    }
    destroys_before_the_end(acl) {
        let r = Rank::start(acl);
        assert_eq!(r.barrier(), 0);
        r.leave();
    }
    leaves_a_communicator(acl) {
        let r = Rank::start(acl);
        r.finish(&[]);
    }
    frees_what_is_sent(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        assert_eq!(r.all_reduce(x, x, 8, FP32, SUM), 0);
        acl.free(x);
    }
    sends_past_the_end(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        r.all_reduce(x, x, 100, FP32, SUM);
    }
    sends_host_memory(acl) {
        let r = Rank::start(acl);
        let mut x = [1.0f32; 8];
        let p = x.as_mut_ptr().expose_provenance();
        r.all_reduce(p, p, 8, FP32, SUM);
    }
    overlaps(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        call!(acl, HcclAlltoAll(
            x as P => P, 2 => u64, FP32 => u32, (x + 8) as P => P, 2 => u64, FP32 => u32, r.comm => P, acl.null() => P
        ) -> u32);
    }
    is_refused(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        // The number of bf16 in ACL, of u32 and of nothing in HCCL.
        assert_eq!(r.all_reduce(x, x, 8, 27, SUM), 1);
        assert!(acl.message().contains("type 27 does not exist in HCCL"));
        assert_eq!(r.all_reduce(x, x, 8, 9, SUM), 5);
        assert_eq!(r.all_reduce(x, x, 8, FP32, 4), 1);
        assert_eq!(r.all_reduce(0, x, 8, FP32, SUM), 2);
        let broadcast = |root: u32| call!(acl, HcclBroadcast(
            x as P => P, 1 => u64, FP32 => u32, root => u32, r.comm => P, acl.null() => P
        ) -> u32);
        assert_eq!(broadcast(r.n), 1);
        let unlike = call!(acl, HcclAlltoAll(
            x as P => P, 1 => u64, FP32 => u32, x as P => P, 2 => u64, FP32 => u32, r.comm => P, acl.null() => P
        ) -> u32);
        assert_eq!(unlike, 1);
        let (code, _) = join(acl, &[0; 4108], 2, 2);
        assert_eq!(code, 1);
        assert_eq!((r.barrier(), r.wait(), r.leave()), (0, 0, 0));
        r.finish(&[x]);
    }
    has_no_bf16(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        assert_eq!(r.all_reduce(x, x, 8, 11, SUM), 5);
        assert_eq!(r.leave(), 0);
        r.finish(&[x]);
    }
    waits_for_a_rank_that_does_not_come(acl) {
        let (rank, n) = (number("ACL_SIM_RANK"), number("ACL_SIM_RANKS"));
        begin(acl, rank);
        let root = root(acl, rank);
        if rank != 1 {
            let (code, _) = join(acl, &root, n, rank);
            assert_eq!(code, 9);
            assert!(acl.message().contains("ranks [1] of 3 did not come"));
        }
        assert_eq!(call!(acl, aclrtResetDevice(rank as i32 => i32)), 0);
        assert_eq!(call!(acl, aclFinalize()), 0);
    }
    waits_for_a_rank_that_does_nothing(acl) {
        let r = Rank::start(acl);
        let x = acl.upload(&[1.0; 8]);
        if r.rank == 1 {
            std::thread::sleep(Duration::from_millis(4500));
        } else {
            assert_eq!((r.all_reduce(x, x, 8, FP32, SUM), r.wait()), (0, 507_048));
            let text = acl.message();
            assert!(text.contains("EI0002") && text.contains("remote rank 1 did not take part"), "{text}");
            let mut state = 0;
            assert_eq!(call!(acl, HcclGetCommAsyncError(r.comm => P, &mut state => *mut u32) -> u32), 0);
            assert_eq!(state, 21);
            assert_eq!(r.barrier(), 15, "the device is not usable any more");
        }
        assert_eq!(r.leave(), 0);
        r.finish(&[x]);
    }
    waits_for_a_rank_that_ends(acl) {
        let r = Rank::start(acl);
        if r.rank != 1 {
            assert_eq!((r.barrier(), r.wait()), (0, 507_048));
            let text = acl.message();
            // The third rank may have met the failure and left before this one asked.
            let (_, missing) = text.split_once("remote rank ").expect("ranks are named");
            let (missing, _) = missing.split_once(" destroyed the communicator or ended").expect("and why");
            assert!(missing.split(", ").any(|rank| rank == "1"), "{text}");
        }
        assert_eq!(r.leave(), 0);
        r.finish(&[]);
    }
}

/// Starts `n` processes of a client and waits for all.
fn run(name: &str, n: usize, settings: &str) -> Vec<Output> {
    let folder =
        std::env::temp_dir().join(format!("acl-sim-{name}-{}-{n}-{}", std::process::id(), settings.len()));
    std::fs::create_dir_all(&folder).expect("a folder for the root");
    let _ = std::fs::remove_file(folder.join("root"));
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().expect("the path of this test"));
        command
            .args(["a_client_of_its_own", "--exact", "--nocapture"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env("ACL_SIM_CLIENT", name).env("ACL_SIM_LIBRARY", acl::library());
        command.env("ACL_SIM", format!("devices=4;{settings}")).env("ACL_SIM_ROOT", folder.join("root"));
        command.env("ACL_SIM_RANK", rank.to_string()).env("ACL_SIM_RANKS", n.to_string());
        command.spawn().expect("the client starts")
    };
    let ranks: Vec<_> = (0..n).map(start).collect();
    let done = ranks.into_iter().map(|r| r.wait_with_output().expect("the client ends")).collect();
    std::fs::remove_dir_all(folder).expect("removing the folder");
    done
}

fn work(name: &str, n: usize, settings: &str) -> Vec<String> {
    let check = |output: Output| {
        let (text, said) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(
            output.status.success() && !text.contains("acl-sim:"),
            "{name} with {settings:?}: {text}{said}"
        );
        said.into_owned()
    };
    run(name, n, settings).into_iter().map(check).collect()
}

/// The simulator stops every rank (or, with `only`, at least one), saying this.
fn stopped(name: &str, settings: &str, only: bool, expected: &str) {
    let said = |o: &Output| {
        let text = String::from_utf8_lossy(&o.stderr).into_owned();
        text.lines().find(|l| l.contains("acl-sim: violation")).unwrap_or_default().to_owned()
    };
    let all = run(name, 2, settings);
    let lines: Vec<String> = all.iter().map(said).collect();
    let caught = lines.iter().filter(|l| l.contains(expected)).count();
    let enough = if only { caught > 0 } else { caught == lines.len() };
    assert!(enough, "{name}: expected {expected:?}, got {lines:?}");
    assert!(all.iter().any(|o| !o.status.success()), "{name} went through");
}

#[test]
fn two_and_four_processes_move_data() {
    for (n, settings) in [(2, ""), (2, "run=synced"), (4, "run=random;seed=5")] {
        work("moves_data", n, settings);
    }
    work("is_refused", 2, "");
    work("has_no_bf16", 2, "soc=Ascend910A");
}

#[test]
fn the_order_of_a_sum_is_nobodys_promise() {
    let sums = |seed: u32| -> Vec<String> {
        let said = work("sums_in_no_order", 3, &format!("seed={seed}"));
        said.iter().filter_map(|s| s.lines().find(|l| l.contains("sum ")).map(str::to_owned)).collect()
    };
    let (a, b, c) = (sums(0), sums(1), sums(2));
    assert!(a.len() == 3 && a.iter().all(|s| *s == a[0]), "{a:?}");
    assert!(a != b || a != c, "three orders gave one sum: {a:?}");
}

#[test]
fn ranks_that_disagree_are_stopped_and_told_what_they_state() {
    stopped(
        "counts_differ",
        "",
        false,
        "rank 0 states HcclAllReduce of 4 of type 4, reduction 0 and rank 1 HcclAllReduce of 5",
    );
    stopped("types_differ", "", false, "of type 4, reduction 0 and rank 1 HcclAllReduce of 4 of type 2");
    stopped("order_differs", "", false, "rank 0 states HcclBarrier of nothing and rank 1 HcclAllReduce");
    stopped("sizes_differ", "", true, "ranks, another said");
    stopped("share_a_device", "", true, "are both on device 0");
    stopped("spoils_the_root", "", false, "the root is not what HcclGetRootInfo gave");
}

#[test]
fn communicators_and_memory_live_as_long_as_they_are_used() {
    stopped("uses_a_destroyed_communicator", "", false, "the communicator was destroyed or never made");
    stopped("destroys_a_communicator_twice", "", false, "the communicator was destroyed before");
    stopped("destroys_before_the_end", "run=synced", false, "1 collectives are queued");
    stopped("leaves_a_communicator", "", false, "1 communicators");
    stopped("frees_what_is_sent", "run=synced", false, "is freed while");
    stopped("sends_past_the_end", "", false, "past the end of its block");
    stopped("sends_host_memory", "", false, "is no device memory");
    stopped("overlaps", "", false, "overlap");
}

#[test]
fn a_rank_that_is_missing_is_named_in_time() {
    work("waits_for_a_rank_that_does_not_come", 3, "hccl_timeout=3000");
    work("waits_for_a_rank_that_does_nothing", 3, "hccl_timeout=3000");
    work("waits_for_a_rank_that_ends", 3, "");
}
