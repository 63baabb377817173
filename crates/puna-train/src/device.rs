//! Where a run computes.

use std::time::Instant;

use candle_core::{DType, Tensor};
use puna_cuda::Operand;
use puna_kernels::MachineLimits;
use puna_model::{Device, DeviceChoice, Slot};
use puna_peft::Method;

use crate::ranks::local_rank;
use crate::trained::Trained;
use crate::{Ranks, RecipePrecision, TrainError, TrainSection};

/// Rows and columns of the matrices that a GPU's speed is measured with.
const MEASURED: usize = 4096;

/// The device that a recipe asks for; `None` is the CPU. A GPU that might have been taken and is not is
/// noted.
pub(crate) fn open(
    train: &TrainSection,
    ranks: &dyn Ranks,
    notes: &mut Vec<String>,
) -> Result<Option<Device>, TrainError> {
    let written = train.device.as_deref().unwrap_or("auto");
    let mut choice: DeviceChoice = written.parse().map_err(|_| TrainError::Setting {
        key: "train.device",
        value: written.to_owned(),
        expected: DeviceChoice::EXPECTED,
    })?;
    if ranks.size() > 1 && written != "cpu" && !written.contains(':') {
        // Each process of a machine its own GPU, as far as they go.
        let here = local_rank().unwrap_or(ranks.rank());
        choice = match (choice, puna_cuda::nccl::count()) {
            (choice, 0) => choice,
            (_, gpus) => DeviceChoice::Cuda(here % gpus),
        };
    }
    Ok(choice.open(|error| notes.push(format!("computing on the CPU: {error}")))?)
}

/// Whether an adapter can be trained on a GPU: plain LoRA, not of the head.
pub(crate) fn takes(trained: &Trained) -> bool {
    let is_plain = |method: &dyn Method| method.low_rank().is_ok();
    let adapts_head = trained.set().is_some_and(|set| set.linears.contains_key(&Slot::Head));
    trained.method().is_none_or(is_plain) && !adapts_head
}

/// What somebody is told who wants an adapter on a GPU that is trained on the CPU only.
pub(crate) fn refuse(train: &TrainSection, notes: &mut Vec<String>) -> Result<(), TrainError> {
    let value = train.device.clone().unwrap_or_default();
    if value.starts_with("cuda") {
        let expected = "auto or cpu: on a GPU plain LoRA is trained, no other adapter";
        return Err(TrainError::Setting { key: "train.device", value, expected });
    }
    notes.push("computing on the CPU: this adapter is not trained on a GPU".to_owned());
    Ok(())
}

/// Moves what is trained to a device.
pub(crate) fn move_to(trained: &Trained, device: &Device) -> Result<(), TrainError> {
    for member in trained.members() {
        member.parameter.move_to(device)?;
    }
    Ok(())
}

/// Operations per second that products of some precision reach at most, if that can be measured.
pub(crate) fn peak(device: Option<&Device>, precision: RecipePrecision) -> Option<f64> {
    match device {
        None => MachineLimits::measure_peak().map(|peak| match precision {
            RecipePrecision::F32 => peak.f32_flops_per_sec,
            RecipePrecision::Bf16 => peak.bf16_flops_per_sec.unwrap_or(peak.f32_flops_per_sec),
        }),
        Some(device) => of_products(device, precision).ok().flatten(),
    }
}

/// The best of a few products of large matrices on a GPU.
fn of_products(device: &Device, precision: RecipePrecision) -> Result<Option<f64>, TrainError> {
    let shape = (MEASURED, MEASURED);
    let x = Tensor::randn(0f32, 1.0, shape, device)?;
    let x = match precision {
        RecipePrecision::F32 => x,
        RecipePrecision::Bf16 => x.to_dtype(DType::BF16)?,
    };
    let Some(y) = puna_cuda::empty(&x, DType::F32, shape)? else { return Ok(None) };
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        const TURNS: usize = 3;
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..TURNS {
            puna_cuda::product(Operand::rows(&x), Operand::transposed(&x), &y, false)?;
        }
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64() / TURNS as f64);
    }
    Ok(Some(2.0 * (MEASURED as f64).powi(3) / best))
}

/// Bytes of the device's memory that are taken.
pub(crate) fn bytes(device: Option<&Device>) -> Option<u64> {
    let taken = puna_cuda::memory(device?).ok().flatten()?;
    Some(taken.0 as u64)
}
