//! Processes whose parameters are on GPUs: gradients and values go between these by NCCL, everything else
//! as before.

use std::sync::Arc;

use puna_cuda::nccl::{self, Communicator, ID_BYTES};
use puna_model::{Device, Parameter};

use crate::{Ranks, TrainError};

/// Processes with a GPU each.
struct OverDevices {
    ranks: Arc<dyn Ranks>,
    gpus: Communicator,
}

/// Processes that sum between their GPUs, if each has its own and NCCL is there; else they sum through the
/// CPU, and it is noted why. All processes call this.
///
/// # Errors
/// If a process is gone, or NCCL refuses.
pub(crate) fn over_devices(
    ranks: Arc<dyn Ranks>,
    device: Option<&Device>,
    notes: &mut Vec<String>,
) -> Result<Arc<dyn Ranks>, TrainError> {
    if ranks.size() == 1 {
        return Ok(ranks);
    }
    let slow = |why: &str| format!("gradients are summed through the CPU: {why}");
    let with_gpu = ranks.sum(vec![f64::from(u8::from(device.is_some()))])?[0] as usize;
    let device = match device {
        Some(device) if with_gpu == ranks.size() => device,
        _ => {
            if with_gpu > 0 {
                notes.push(slow("not every process has a GPU"));
            }
            return Ok(ranks);
        }
    };
    if shares(&*ranks, device)? {
        notes.push(slow("several processes share a GPU"));
        return Ok(ranks);
    }
    match join(&ranks, device)? {
        Some(gpus) => Ok(Arc::new(OverDevices { ranks, gpus })),
        None => {
            notes.push(slow("a process finds no NCCL (libnccl.so.2)"));
            Ok(ranks)
        }
    }
}

/// Whether a GPU is that of several processes.
fn shares(ranks: &dyn Ranks, device: &Device) -> Result<bool, TrainError> {
    let identity = nccl::identity(device)?.unwrap_or_default();
    // Every process fills its own row; small integers add up exactly.
    let mut rows = vec![0.0; ranks.size() * identity.len()];
    let own = ranks.rank() * identity.len();
    rows[own..own + identity.len()].copy_from_slice(&identity.map(f64::from));
    let rows = ranks.sum(rows)?;
    let mut rows: Vec<Vec<u8>> =
        rows.chunks(identity.len()).map(|row| row.iter().map(|&v| v as u8).collect()).collect();
    rows.sort();
    rows.dedup();
    Ok(rows.len() < ranks.size())
}

/// `None` if a process has no NCCL.
fn join(ranks: &Arc<dyn Ranks>, device: &Device) -> Result<Option<Communicator>, TrainError> {
    let own = nccl::new_id()?;
    let without = ranks.sum(vec![f64::from(u8::from(own.is_none()))])?[0];
    let (Some(own), 0.0) = (own, without) else { return Ok(None) };
    // That of the first process is everybody's.
    let mine = if ranks.rank() == 0 { own } else { [0; ID_BYTES] };
    let sum = ranks.sum(mine.iter().map(|&byte| f64::from(byte)).collect())?;
    let mut id = [0; ID_BYTES];
    id.iter_mut().zip(sum).for_each(|(byte, sum)| *byte = sum as u8);
    Ok(Communicator::join(device, id, (ranks.rank(), ranks.size()))?)
}

impl Ranks for OverDevices {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn reduce_gradient(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError> {
        parameter.with_device_gradient(|gradient| Ok(self.gpus.reduce(gradient, owner)?))?;
        Ok(())
    }

    fn finish(&self) -> Result<(), TrainError> {
        self.gpus.finish()?;
        self.ranks.finish()
    }

    fn broadcast(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError> {
        parameter.with_device_values(|values| Ok(self.gpus.broadcast(values, owner)?))?;
        Ok(self.gpus.finish()?)
    }

    fn sum(&self, values: Vec<f64>) -> Result<Vec<f64>, TrainError> {
        self.ranks.sum(values)
    }

    fn reaches_devices(&self) -> bool {
        true
    }

    fn abort(&self) {
        self.ranks.abort();
    }
}
