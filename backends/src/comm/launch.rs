//! How this process was started: alone, or as one rank of a job, as the environment says.

use super::mpi::Mpi;
use lm_saes_runtime::{Error, Result};
use std::time::Duration;

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

    /// Joins the job's other ranks. One that does not take part in a collective within `patience` ends it.
    ///
    /// # Errors
    /// No engine for this launcher, no MPI library, or one that is not the launcher's.
    pub fn join(&self, patience: Duration) -> Result<Mpi> {
        let refuse = |text: String| {
            Err(Error::Driver { device: "mpi".into(), call: "MPI_Init_thread", code: 0, text })
        };
        if self.launcher == Launcher::Torchrun {
            return refuse(
                "RANK and WORLD_SIZE are set, as torchrun does, but ranks on CPUs are connected by MPI; start the job \
                 with mpirun or srun, or unset them"
                    .into(),
            );
        }
        let mpi = Mpi::join(self.launcher != Launcher::Mpich, patience)?;
        if mpi.size() != self.size {
            return refuse(format!(
                "the launcher started {} ranks but the MPI library sees {}; name the launcher's own library in \
                 LM_SAES_MPI",
                self.size,
                mpi.size()
            ));
        }
        Ok(mpi)
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

    #[test]
    fn ranks_without_an_engine_are_told_how_to_start() {
        let launch = read(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap();
        let e = launch.join(Duration::from_secs(1)).err().unwrap().to_string();
        assert!(e.contains("mpirun"), "{e}");
    }
}
