//! The loss on a GPU, where the head's product and that of its gradient are cuBLAS's.

use candle_core::{DType, Tensor};
use puna_cuda::Operand;

use super::super::linear::on_device;
use super::super::on_device::{no_kernel, operand, product, write_product};
use super::{CrossEntropy, LossSum, Losses};
use crate::{NnError, Value, Weight};

/// Logits that exist at once.
const LOGITS: usize = 1 << 28;

/// [`super::cross_entropy`] whose arguments have been checked.
pub(super) fn cross_entropy(
    x: &Value,
    head: &Weight,
    of: &CrossEntropy<'_>,
) -> Result<(Losses, Option<Tensor>), NnError> {
    if of.consistency.is_some() {
        return Err(NnError::Tracked { op: "a consistency loss on this device" });
    }
    let device = x.tensor().device();
    let weight = on_device(head, of.precision)?;
    let dtype = weight.dtype();
    let wanted: Vec<u32> =
        (0..of.targets.len()).filter(|&n| of.targets[n].is_some()).map(|n| n as u32).collect();
    let targets: Vec<u32> = of.targets.iter().copied().flatten().collect();
    let is_whole = wanted.len() == of.targets.len();
    let mut dx = match x.is_tracked() {
        true => Some(Tensor::zeros(x.tensor().shape(), DType::F32, device)?),
        false => None,
    };
    let mut losses = Vec::new();
    let all = operand(x.tensor(), dtype)?;
    let chunk = (LOGITS / head.rows().max(1)).max(64);
    for (index, (places, targets)) in wanted.chunks(chunk).zip(targets.chunks(chunk)).enumerate() {
        let at = Tensor::new(places, device)?;
        let rows = match is_whole {
            true => all.narrow(0, index * chunk, places.len())?,
            false => all.index_select(&at, 0)?,
        }; // [n, C]
        let logits = product(Operand::rows(&rows), Operand::transposed(&weight))?; // [n, V]
        let targets = Tensor::new(targets, device)?;
        let loss = puna_cuda::LossRows { softcap: of.softcap, scale: of.scale, z_loss: of.z_loss };
        let wants = dx.is_some().then_some(dtype);
        let found = puna_cuda::cross_entropy(&logits, &targets, &loss, wants)?;
        let (loss, gradients) = found.ok_or_else(no_kernel)?;
        losses.push(loss);
        let (Some(d_logits), Some(dx)) = (gradients, &mut dx) else { continue };
        let d_rows = product(Operand::rows(&d_logits), Operand::rows(&weight))?; // [n, C]
        match is_whole {
            true => dx.slice_set(&d_rows, 0, index * chunk)?,
            false => *dx = dx.index_add(&at, &d_rows, 0)?,
        }
        if let Weight::Trained(parameter) = head {
            parameter.add_device_gradient(|dw, adds| {
                write_product(Operand::transposed(&d_logits), Operand::rows(&rows), dw, adds)
            })?;
        }
    }
    // Read when all of the pass has been begun: reading waits.
    Ok((Losses { known: LossSum::default(), on_device: losses }, dx))
}
