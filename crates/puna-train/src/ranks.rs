//! The processes of a run, each of which sees a part of every batch and keeps the optimizer's states
//! of some parameters (ZeRO stage 1, arXiv:1910.02054).

#[cfg(feature = "mpi")]
mod mpi;
mod over_devices;

use std::sync::Arc;

use puna_model::Parameter;

use crate::TrainError;

pub(crate) use over_devices::over_devices;

/// What processes do together. Every process calls the same methods in the same order.
pub trait Ranks: Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Begins to sum the gradients of a parameter over all processes for `owner`; the others' are
    /// then of no use. Goes on beside the caller until [`Self::finish`].
    ///
    /// # Errors
    /// If a process is gone.
    fn reduce_gradient(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError>;

    /// Waits for all that was begun.
    ///
    /// # Errors
    /// If a process is gone.
    fn finish(&self) -> Result<(), TrainError>;

    /// Replaces the parameter's values everywhere by those of `owner`.
    ///
    /// # Errors
    /// If a process is gone.
    fn broadcast(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError>;

    /// Sums over all processes.
    ///
    /// # Errors
    /// If a process is gone.
    fn sum(&self, values: Vec<f64>) -> Result<Vec<f64>, TrainError>;

    /// Whether gradients and values of parameters that have moved to a device are summed and sent from
    /// there; else from the CPU.
    fn reaches_devices(&self) -> bool {
        false
    }

    /// Ends all processes, after an error of one.
    fn abort(&self);
}

/// One process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn reduce_gradient(&self, _: &Arc<Parameter>, _: usize) -> Result<(), TrainError> {
        Ok(())
    }

    fn finish(&self) -> Result<(), TrainError> {
        Ok(())
    }

    fn broadcast(&self, _: &Arc<Parameter>, _: usize) -> Result<(), TrainError> {
        Ok(())
    }

    fn sum(&self, values: Vec<f64>) -> Result<Vec<f64>, TrainError> {
        Ok(values)
    }

    fn abort(&self) {}
}

/// The processes that started this one together, or itself alone.
///
/// # Errors
/// If puna was built without MPI but is one of several processes, or MPI cannot be started.
pub fn connect() -> Result<Arc<dyn Ranks>, TrainError> {
    let launched = |name: &str| {
        std::env::var(name).ok().and_then(|size| size.parse::<usize>().ok()).unwrap_or(1)
    };
    // Open MPI's, MPICH's and Slurm's word for the number of processes.
    let processes = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].map(launched).into_iter().max();
    let processes = processes.unwrap_or(1);
    if processes == 1 {
        return Ok(Arc::new(Alone));
    }
    over_mpi(processes)
}

#[cfg(feature = "mpi")]
fn over_mpi(_: usize) -> Result<Arc<dyn Ranks>, TrainError> {
    Ok(Arc::new(mpi::MpiRanks::start()?))
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(processes: usize) -> Result<Arc<dyn Ranks>, TrainError> {
    Err(TrainError::NoMpi { processes })
}

/// Number of this process among those on its machine, as whoever started them says.
pub(crate) fn local_rank() -> Option<usize> {
    // Open MPI's, MPICH's and Slurm's word for it.
    let names = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Owner of each parameter, given their sizes: the largest first, each to who has least.
#[must_use]
pub(crate) fn owners(sizes: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    let mut loads = vec![0; ranks.max(1)];
    let mut owners = vec![0; sizes.len()];
    for i in order {
        let least = (0..loads.len()).min_by_key(|&rank| loads[rank]).unwrap_or(0);
        owners[i] = least;
        loads[least] += sizes[i];
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::owners;

    #[test]
    fn parameters_are_shared_out_evenly() {
        assert_eq!(owners(&[5, 1, 4, 2], 2), [0, 0, 1, 1]);
        assert_eq!(owners(&[3, 3, 3], 1), [0, 0, 0]);
    }
}
