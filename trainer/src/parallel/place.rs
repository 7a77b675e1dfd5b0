//! Which rank this process is, as whoever started it says, and how it reaches the others.

use tch::Device;

use super::Ranks;
use crate::error::{Result, TrainError};

/// The place of this process among those that were started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Among the processes of this machine, from 0: the GPU to use.
    pub local_rank: usize,
    /// Who said so.
    pub starter: Starter,
}

/// What started the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starter {
    /// `mpirun` or another starter of MPI programs.
    Mpi,
    /// `torchrun` or anything else that sets RANK and WORLD_SIZE.
    Environment,
}

/// Rank, size, local rank; of Open MPI, of MPICH and Intel MPI, of SLURM's PMIx.
const MPI_VARIABLES: [[&str; 3]; 2] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
];
const VARIABLES: [&str; 3] = ["RANK", "WORLD_SIZE", "LOCAL_RANK"];

impl Place {
    /// Reads the environment; `None` for a single process.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] naming a variable that is no number or out of range.
    pub fn from_environment() -> Result<Option<Self>> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        // What is said to us by name comes first; mpirun's children may carry both.
        let own = std::iter::once((VARIABLES, Starter::Environment));
        let all = own.chain(MPI_VARIABLES.map(|names| (names, Starter::Mpi)));
        for (names, starter) in all {
            let (Some(_), Some(_)) = (get(names[0]), get(names[1])) else { continue };
            let number = |name: &str, below: usize| -> Result<usize> {
                let text = get(name).unwrap_or_else(|| "0".into());
                match text.trim().parse() {
                    Ok(value) if value < below => Ok(value),
                    _ => Err(TrainError::Invalid {
                        what: format!("environment variable {name}"),
                        expected: format!("a number from 0 to {}", below - 1),
                        got: format!("`{text}`"),
                        remedy: format!("start all processes with the same starter, or unset {}", names.join(", ")),
                    }),
                }
            };
            let size = number(names[1], 1 << 16)?.max(1);
            let place = Place { rank: number(names[0], size)?, size, local_rank: number(names[2], size)?, starter };
            if size > 1 {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// Connects this process with those that were started together with it; alone when it was started by itself.
///
/// GPUs are connected by NCCL (feature `nccl`), CPUs by MPI (feature `mpi`). `device` is where tensors live.
///
/// # Errors
/// When this build lacks what is needed: going on would make every process write into the same run folder. When a
/// library is missing, or another process does not come.
pub fn connect(device: Device) -> Result<Ranks> {
    let Some(place) = Place::from_environment()? else { return Ok(Ranks::alone()) };
    match device {
        Device::Cuda(_) => connect_gpus(&place, device),
        _ => connect_cpus(&place),
    }
}

#[cfg(feature = "nccl")]
fn connect_gpus(place: &Place, device: Device) -> Result<Ranks> {
    super::nccl::connect(place, device)
}

#[cfg(not(feature = "nccl"))]
fn connect_gpus(place: &Place, _: Device) -> Result<Ranks> {
    Err(not_compiled(&format!("training on {} GPUs", place.size), "nccl"))
}

fn connect_cpus(place: &Place) -> Result<Ranks> {
    if place.starter == Starter::Environment {
        return Err(TrainError::Invalid {
            what: "WORLD_SIZE".into(),
            expected: "one process, as there is no GPU".into(),
            got: place.size.to_string(),
            remedy: "start processes on CPUs with `mpirun -n N hsg-train …`".into(),
        });
    }
    #[cfg(feature = "mpi")]
    return super::mpi::connect();
    #[cfg(not(feature = "mpi"))]
    Err(not_compiled(&format!("training in {} processes", place.size), "mpi"))
}

/// The error for a part that is a cargo feature.
#[allow(dead_code, reason = "with all features on there is nothing missing")]
pub(super) fn not_compiled(what: &str, feature: &str) -> TrainError {
    TrainError::Missing {
        what: what.to_owned(),
        remedy: format!("build it with the cargo feature: cargo build --release -p trainer --features {feature}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Place::from_variables(find)
    }

    #[test]
    fn starters_say_who_we_are() {
        assert_eq!(place(&[]).unwrap(), None);
        // mpirun -n 1 is one process.
        assert_eq!(place(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]).unwrap(), None);
        let ompi = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
        let expected = Place { rank: 3, size: 4, local_rank: 1, starter: Starter::Mpi };
        assert_eq!(place(&ompi).unwrap(), Some(expected));
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")];
        let expected = Place { rank: 1, size: 2, local_rank: 1, starter: Starter::Environment };
        assert_eq!(place(&torchrun).unwrap(), Some(expected));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let message = place(&[("RANK", "2"), ("WORLD_SIZE", "2")]).unwrap_err().to_string();
        assert!(message.contains("RANK") && message.contains("0 to 1"), "{message}");
        let message = place(&[("RANK", "0"), ("WORLD_SIZE", "two")]).unwrap_err().to_string();
        assert!(message.contains("WORLD_SIZE") && message.contains("two"), "{message}");
    }
}
