//! Devices other than the CPU.

use candle_core::{Device, utils};

use crate::ModelError;

/// GPU number `index` that CUDA knows.
///
/// # Errors
/// If puna was built without the feature `cuda`, or there is no such GPU or no driver.
pub fn cuda_device(index: usize) -> Result<Device, ModelError> {
    if !utils::cuda_is_available() {
        return Err(ModelError::BuiltWithoutCuda);
    }
    Device::new_cuda(index)
        .map_err(|source| ModelError::NoDevice { index, source: Box::new(source) })
}

/// The first GPU where there is one and puna was built for it, else `None`: the CPU.
#[must_use]
pub fn best_device() -> Option<Device> {
    cuda_device(0).ok()
}
