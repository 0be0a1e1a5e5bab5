//! Collectives between processes that a real `mpirun` starts, of every MPI that is installed (Debian: openmpi-bin, mpich). This binary
//! starts itself again: as a rank it runs the test of its name, whose job begins with joining the others.

use lm_saes_backends::comm::launch::Launch;
use lm_saes_runtime::{DType, Group, Queue, Reduction};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

/// Runs this binary's test `name` on `size` ranks of every MPI there is; gives what each said.
fn under_mpirun(name: &str, size: usize) -> Vec<(&'static str, Output, Duration)> {
    let me = std::env::current_exe().unwrap();
    let kinds: [(&str, &[&str]); 2] =
        [("mpirun.openmpi", &["--oversubscribe", "--allow-run-as-root"]), ("mpirun.mpich", &[])];
    let mut all = Vec::new();
    for (mpirun, options) in kinds {
        let began = Instant::now();
        let mut command = Command::new(mpirun);
        command.args(options).args(["-n", &size.to_string()]).arg(&me).args([name, "--exact", "--nocapture"]);
        // Two versions of the launcher must not see each other's variables.
        command.env_remove("LM_SAES_MPI");
        // Two of Open MPI's launchers that start at once in one folder can fail.
        let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "mpi-{}-{}",
            std::process::id(),
            &name[..20]
        ));
        fs::create_dir_all(&own).unwrap();
        command.env("TMPDIR", &own);
        match command.output() {
            Ok(out) => all.push((mpirun, out, began.elapsed())),
            Err(_) => eprintln!("SKIPPED: {mpirun} is not installed"),
        }
    }
    all
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn queue() -> Queue {
    Queue::new(&lm_saes_backends::registry().open("cpu").unwrap()).unwrap()
}

#[test]
fn collectives_are_those_of_threads() {
    let Some(launch) = Launch::from_env() else {
        for (mpirun, out, _) in under_mpirun("collectives_are_those_of_threads", 3) {
            assert!(out.status.success(), "{mpirun}: {}", text(&out));
            assert_eq!(text(&out).matches("all is well").count(), 3, "{mpirun}: {}", text(&out));
        }
        return;
    };
    let mpi = launch.join(Duration::from_secs(60)).unwrap();
    assert_eq!((mpi.rank(), mpi.world().size()), (launch.rank, 3));
    let (mut g, mut q) = (Group::new(mpi.world()), queue());
    let (q, rank) = (&mut q, launch.rank);
    // In another order than that of the ranks the sum has other bits; fewer elements than ranks, and more than one message's.
    for n in [1, 2, 7, 100_000] {
        let mut x = q.tensor(1, n, &vec![[1e8f32, 1.0, -1e8][rank]; n]).unwrap();
        g.all_reduce(q, &mut x, Reduction::Sum).unwrap();
        assert_eq!(q.download::<f32>(&x).unwrap(), vec![0.0; n]);
    }
    let mut top = q.tensor(1, 2, &[rank as u32, 9 - rank as u32]).unwrap();
    g.all_reduce(q, &mut top, Reduction::Max).unwrap();
    assert_eq!(q.download::<u32>(&top).unwrap(), [2, 9]);
    let mine = q.tensor(1, 2, &[rank as f32, 0.5]).unwrap();
    let mut rows = q.empty(3, 2, DType::F32).unwrap();
    g.all_gather(q, &mine, &mut rows).unwrap();
    assert_eq!(q.download::<f32>(&rows).unwrap(), [0.0, 0.5, 1.0, 0.5, 2.0, 0.5]);
    let mut own = q.empty(1, 2, DType::F32).unwrap();
    g.reduce_scatter(q, &rows, &mut own, Reduction::Sum).unwrap();
    assert_eq!(q.download::<f32>(&own).unwrap(), [3.0 * rank as f32, 1.5]);
    let mut told = q.tensor(1, 5, &[rank as f32; 5]).unwrap();
    g.broadcast(q, &mut told, 2).unwrap();
    assert_eq!(q.download::<f32>(&told).unwrap(), [2.0; 5]);
    let texts = g.gather_bytes(q, &b"abc"[..rank]).unwrap();
    assert_eq!(texts, [&b""[..], b"a", b"ab"]);
    let mut pair = g.split(u32::from(rank == 1), 10 - rank as u32).unwrap();
    let members = pair.gather_bytes(q, &[rank as u8]).unwrap().concat();
    assert_eq!(members, if rank == 1 { vec![1] } else { vec![2, 0] });
    g.barrier(q).unwrap();
    println!("all is well");
}

#[test]
fn a_rank_that_hangs_is_named_and_the_job_ends() {
    let Some(launch) = Launch::from_env() else {
        for (mpirun, out, took) in under_mpirun("a_rank_that_hangs_is_named_and_the_job_ends", 3) {
            assert!(!out.status.success(), "{mpirun}");
            assert!(
                text(&out).contains("rank 1 did not take part in barrier within 2 s"),
                "{mpirun}: {}",
                text(&out)
            );
            assert!(took < Duration::from_secs(60), "{mpirun}: {took:?}");
        }
        return;
    };
    let mpi = launch.join(Duration::from_secs(2)).unwrap();
    let (mut g, mut q) = (Group::new(mpi.world()), queue());
    g.barrier(&mut q).unwrap();
    if launch.rank == 1 {
        std::thread::sleep(Duration::from_secs(3600));
    }
    eprintln!("{}", g.barrier(&mut q).unwrap_err());
    mpi.abort(3);
}

#[test]
fn a_rank_that_panics_ends_the_job() {
    let Some(launch) = Launch::from_env() else {
        for (mpirun, out, took) in under_mpirun("a_rank_that_panics_ends_the_job", 3) {
            assert!(!out.status.success() && text(&out).contains("planted"), "{mpirun}: {}", text(&out));
            assert!(took < Duration::from_secs(60), "{mpirun}: {took:?}");
        }
        return;
    };
    let mpi = launch.join(Duration::from_secs(120)).unwrap();
    let (mut g, mut q) = (Group::new(mpi.world()), queue());
    assert!(launch.rank != 2, "planted");
    let _ = g.barrier(&mut q);
}
