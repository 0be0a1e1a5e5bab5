//! How this process was started: alone, or as one rank of a job, as the environment says.

use super::{mpi::Mpi, tcp::Tcp};
use lm_saes_runtime::{Comm, Error, Result};
use std::{process, time::Duration};

/// Who started this process as one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// `mpiexec` of MPICH or one of its relatives.
    Mpich,
    /// `srun`.
    Slurm,
    /// torchrun, or a script that sets the same variables.
    Torchrun,
}

/// A process's place in its job, as its launcher says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Who.
    pub launcher: Launcher,
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// This rank among those of its machine, where the launcher says.
    pub local_rank: Option<usize>,
}

/// Variables with rank, number of ranks, and rank on the machine.
const VARIABLES: [(Launcher, [&str; 3]); 4] = [
    (Launcher::OpenMpi, ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]),
    (Launcher::Mpich, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]),
    // Only in a step that srun started; a batch script alone is no job of several ranks.
    (Launcher::Slurm, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"]),
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
];

impl Launch {
    /// What `variable` says; `None` for a process that is alone.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.trim().parse().ok();
        VARIABLES.into_iter().find_map(|(launcher, [rank, size, local])| {
            let (rank, size): (usize, usize) = (number(rank)?, number(size)?);
            (size > 1 && rank < size).then(|| Self { launcher, rank, size, local_rank: number(local) })
        })
    }

    /// [`Launch::read`] of the environment.
    pub fn from_env() -> Option<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Joins the job's other ranks: by MPI where its launcher or `srun --mpi` started them, otherwise by TCP. One that does not take part in
    /// a collective within `patience` ends it.
    ///
    /// # Errors
    /// No address to meet at, no MPI library, or one that is not the launcher's.
    pub fn join(&self, patience: Duration) -> Result<Joined> {
        self.join_as(patience, |name| std::env::var(name).ok())
    }

    fn join_as(&self, patience: Duration, variable: impl Fn(&str) -> Option<String>) -> Result<Joined> {
        let by_mpi = match self.launcher {
            Launcher::OpenMpi | Launcher::Mpich => true,
            // Where srun was told to start MPI programs, and only if there is an MPI to be started.
            Launcher::Slurm => variable("PMIX_RANK").is_some() && Mpi::is_installed(),
            Launcher::Torchrun => false,
        };
        if !by_mpi {
            let address = self.meeting_place(variable)?;
            return Ok(Joined::Tcp(Tcp::join(&address, self.rank, self.size, patience)?));
        }
        let mpi = Mpi::join(self.launcher != Launcher::Mpich, patience)?;
        if mpi.size() != self.size {
            let text = format!(
                "the launcher started {} ranks but the MPI library sees {}; name the launcher's own library in \
                 LM_SAES_MPI",
                self.size,
                mpi.size()
            );
            return Err(Error::Driver { device: "mpi".into(), call: "MPI_Init_thread", code: 0, text });
        }
        Ok(Joined::Mpi(mpi))
    }

    /// `host:port` at which rank 0 of a job without MPI listens.
    fn meeting_place(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String> {
        let set = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let refuse = |text: String| Error::Driver { device: "tcp".into(), call: "rendezvous", code: 0, text };
        let port = match set("MASTER_PORT") {
            Some(text) => Some(text.parse::<u16>().ok().filter(|&p| p > 0).ok_or_else(|| {
                refuse(format!("MASTER_PORT is {text:?}; it is the port at which rank 0 listens"))
            })?),
            None => None,
        };
        if let (Some(host), Some(port)) = (set("MASTER_ADDR"), port) {
            // torchrun's own agent listens at the port it names.
            let taken = set("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True");
            let port = if taken { port.checked_add(1).unwrap_or(port - 1) } else { port };
            return Ok(at(&host, port));
        }
        let nodes = set("SLURM_STEP_NODELIST").or_else(|| set("SLURM_NODELIST"));
        match (self.launcher, nodes.as_deref().and_then(first_node)) {
            (Launcher::Slurm, Some(host)) => {
                let number = |name: &str| set(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
                // Jobs on one node, and steps of one job, need ports of their own.
                let own = number("SLURM_JOB_ID") * 31 + number("SLURM_STEP_ID");
                Ok(at(&set("MASTER_ADDR").unwrap_or(host), port.unwrap_or(20_000 + (own % 20_000) as u16)))
            }
            _ => Err(refuse(format!(
                "{} ranks were started without MPI (RANK and WORLD_SIZE are set, as torchrun does), but MASTER_ADDR and \
                 MASTER_PORT do not say where they meet: set both, start the job with torchrun, mpirun or srun, or unset RANK \
                 and WORLD_SIZE for a job of one",
                self.size
            ))),
        }
    }
}

fn at(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The first name of a list as Slurm writes it: `node[03-07,12],other`.
fn first_node(list: &str) -> Option<String> {
    let (name, rest) = match list.find(['[', ',']) {
        Some(i) if list[i..].starts_with('[') => (&list[..i], &list[i + 1..]),
        Some(i) => return Some(list[..i].into()),
        None => return Some(list.into()).filter(|l: &String| !l.is_empty()),
    };
    let (numbers, after) = rest.split_once(']')?;
    let first = numbers.split([',', '-']).next()?;
    let after = after.split(',').next().unwrap_or("");
    Some(format!("{name}{first}{after}"))
}

/// This process among the ranks of its job.
pub enum Joined {
    /// By MPI.
    Mpi(Mpi),
    /// By TCP.
    Tcp(Tcp),
}

impl Joined {
    /// This rank.
    pub const fn rank(&self) -> usize {
        match self {
            Self::Mpi(mpi) => mpi.rank(),
            Self::Tcp(tcp) => tcp.rank(),
        }
    }

    /// Number of ranks.
    pub const fn size(&self) -> usize {
        match self {
            Self::Mpi(mpi) => mpi.size(),
            Self::Tcp(tcp) => tcp.size(),
        }
    }

    /// All ranks. Groups must be gone before this value is dropped.
    pub fn world(&self) -> Box<dyn Comm> {
        match self {
            Self::Mpi(mpi) => mpi.world(),
            Self::Tcp(tcp) => tcp.world(),
        }
    }

    /// Ends this process at once and sees to it that the others end: MPI ends them, without it they find this one gone.
    pub fn abort(&self, code: i32) {
        match self {
            Self::Mpi(mpi) => mpi.abort(code),
            Self::Tcp(_) => process::exit(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Option<Launch> {
        Launch::read(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
    }

    #[test]
    fn every_launcher_is_known_by_its_variables() {
        let open_mpi = read(&[
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        ]);
        let expected = Launch { launcher: Launcher::OpenMpi, rank: 1, size: 4, local_rank: Some(0) };
        assert_eq!(open_mpi, Some(expected));
        assert_eq!(read(&[("PMI_RANK", "2"), ("PMI_SIZE", "3")]).unwrap().launcher, Launcher::Mpich);
        let slurm = read(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")]).unwrap();
        assert_eq!((slurm.launcher, slurm.local_rank), (Launcher::Slurm, None));
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap().launcher, Launcher::Torchrun);
    }

    #[test]
    fn one_rank_and_a_batch_script_are_no_job_of_several() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]), None);
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
        assert_eq!(read(&[("RANK", "5"), ("WORLD_SIZE", "2")]), None);
    }

    fn place(launch: Launch, set: &[(&str, &str)]) -> Result<String> {
        launch.meeting_place(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
    }

    #[test]
    fn ranks_without_mpi_meet_where_their_launcher_says() {
        let torch = read(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap();
        let set = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")];
        assert_eq!(place(torch, &set).unwrap(), "10.0.0.1:29500");
        // The agent of torchrun has that port.
        let agent = [set[0], set[1], ("TORCHELASTIC_USE_AGENT_STORE", "True")];
        assert_eq!(place(torch, &agent).unwrap(), "10.0.0.1:29501");
        let v6 = [("MASTER_ADDR", "fe80::1"), ("MASTER_PORT", "29500")];
        assert_eq!(place(torch, &v6).unwrap(), "[fe80::1]:29500");
        let slurm = read(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")]).unwrap();
        let step =
            [("SLURM_STEP_NODELIST", "gpu[03-07,12],login"), ("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "1")];
        assert_eq!(place(slurm, &step).unwrap(), "gpu03:20218");
        assert_eq!(place(slurm, &[step[0], step[1], step[2], set[1]]).unwrap(), "gpu03:29500");
        assert_eq!(first_node("one").unwrap(), "one");
        assert_eq!(first_node("one,two[1-2]").unwrap(), "one");
    }

    #[test]
    fn ranks_without_a_place_to_meet_are_told_how_to_start() {
        let launch = read(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap();
        let e = place(launch, &[]).err().unwrap().to_string();
        assert!(e.contains("set both") && e.contains("mpirun") && e.contains("MASTER_ADDR"), "{e}");
        let e = place(launch, &[("MASTER_PORT", "here")]).err().unwrap().to_string();
        assert!(e.contains("MASTER_PORT is \"here\""), "{e}");
    }
}
