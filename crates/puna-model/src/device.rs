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
    puna_cuda::open(index)
        .map_err(|source| ModelError::NoDevice { index, source: Box::new(source) })
}
