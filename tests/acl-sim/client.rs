//! What the tests share that start themselves again as clients of the simulator: where it is laid out, how they are started, what it must
//! not have said of them, and how processes of one job find each other.
#![allow(dead_code)]

use lm_saes_runtime::{Addr, Collective, Comm, DType, Result, Stream};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// The simulator laid out as an installation of CANN: built here, or where `LM_SAES_ACL_SIM` says.
pub fn home() -> &'static PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        if let Some(folder) = std::env::var_os("LM_SAES_ACL_SIM") {
            return folder.into();
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("acl-sim");
        // From whichever crate of the workspace this is a part of.
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/acl-sim/build.sh");
        let status = Command::new(script).arg(&folder).status().expect("the simulator's script runs");
        assert!(status.success(), "building the simulator: {status}");
        folder
    })
}

/// An ignored test of this program, to be started where CANN is in `home`.
pub fn program(test: &str, home: &Path, settings: Option<&str>) -> Command {
    let exe = std::env::current_exe().expect("the path of this test");
    let mut command = Command::new(exe);
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("ASCEND_HOME_PATH", home).env_remove("ASCEND_TOOLKIT_HOME").env_remove("LM_SAES_NPU_GEMM");
    if let Some(settings) = settings {
        command.env("ACL_SIM", settings);
    }
    command
}

/// Runs an ignored test of this program where CANN is in `home`; returns what it printed.
pub fn started(test: &str, home: &Path, settings: Option<&str>) -> String {
    let output = program(test, home, settings).output().expect("this program starts again");
    finished(test, settings, &output)
}

/// What a test printed that ended well, and of which the simulator had nothing to say.
pub fn finished(test: &str, settings: Option<&str>, output: &Output) -> String {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let ran = output.status.success() && said.contains("1 passed");
    assert!(ran && !said.contains("acl-sim:"), "{test}, {settings:?}: {}\n{said}", output.status);
    said
}

/// Starts a test on `n` ranks, each with a machine of four NPUs, and gives what each printed.
pub fn on_ranks(test: &str, n: usize, settings: &str, more: &[(&str, &str)]) -> Vec<String> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let job = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ranks-{}-{job}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let settings = format!("devices=4;{settings}");
    let start = |rank: usize| {
        let mut command = program(test, home(), Some(&settings));
        command.env("LM_SAES_TEST_RANK", rank.to_string()).env("LM_SAES_TEST_RANKS", n.to_string());
        command.env("LM_SAES_TEST_FOLDER", &folder).envs(more.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("this program starts again")
    };
    let ranks: Vec<_> = (0..n).map(start).collect();
    let outputs: Vec<_> = ranks.into_iter().map(|r| r.wait_with_output().expect("the rank ends")).collect();
    fs::remove_dir_all(folder).expect("removing the folder");
    outputs.iter().map(|o| finished(test, Some(&settings), o)).collect()
}

/// Ranks that lay files into a folder. All data goes by HCCL, so that only the roots of its communicators come this way.
pub struct Files {
    folder: PathBuf,
    group: String,
    members: Vec<usize>,
    rank: usize,
    turn: usize,
}

impl Files {
    /// This process's end, and its rank.
    pub fn of_process() -> (Self, usize) {
        let variable = |name: &str| std::env::var(name).expect("the test says which rank this is");
        let number = |name: &str| variable(name).parse().expect("a number");
        let (rank, size): (usize, usize) = (number("LM_SAES_TEST_RANK"), number("LM_SAES_TEST_RANKS"));
        let folder = variable("LM_SAES_TEST_FOLDER").into();
        (Self { folder, group: "world".into(), members: (0..size).collect(), rank, turn: 0 }, rank)
    }

    fn exchange(&mut self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.turn += 1;
        let place = |rank: usize| self.folder.join(format!("{}.{}.{rank}", self.group, self.turn));
        let aside = self.folder.join(format!("aside.{}", std::process::id()));
        fs::write(&aside, mine).expect("the folder takes files");
        fs::rename(aside, place(self.members[self.rank])).expect("files are renamed");
        let begun = Instant::now();
        let read = |rank: &usize| loop {
            if let Ok(bytes) = fs::read(place(*rank)) {
                return bytes;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "rank {rank} wrote nothing");
            thread::sleep(Duration::from_millis(1));
        };
        self.members.iter().map(read).collect()
    }
}

// SAFETY: memory is read and written through the stream, in the sizes of the contract, and waited for.
unsafe impl Comm for Files {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.members.len()
    }
    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        let Collective::AllGather { src, dst, n, dtype: DType::U8 } = *c else {
            panic!("{c:?} should have gone by HCCL")
        };
        let mut mine = vec![0; n as usize];
        // SAFETY: as the caller promises; `mine` outlives the wait.
        unsafe { stream.download(src, &mut mine)? };
        stream.sync()?;
        for (r, bytes) in self.exchange(&mine).iter().enumerate() {
            // SAFETY: as the caller promises.
            unsafe { stream.upload(bytes, Addr(dst.0 + r as u64 * n))? };
        }
        Ok(())
    }
    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>> {
        let wish = [color.to_ne_bytes(), key.to_ne_bytes()].concat();
        let all = self.exchange(&wish);
        let number = |b: &[u8]| b.try_into().map_or(0, u32::from_ne_bytes);
        let mut chosen: Vec<usize> = (0..all.len()).filter(|&r| number(&all[r][..4]) == color).collect();
        chosen.sort_by_key(|&r| number(&all[r][4..]));
        let rank = chosen.iter().position(|&r| r == self.rank).expect("a rank is in its own group");
        Ok(Box::new(Self {
            folder: self.folder.clone(),
            group: format!("{}-{}-{color}", self.group, self.turn),
            members: chosen.into_iter().map(|r| self.members[r]).collect(),
            rank,
            turn: 0,
        }))
    }
}
