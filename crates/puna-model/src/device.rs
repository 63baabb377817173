//! Devices other than the CPU.

use std::str::FromStr;

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

/// Where to compute, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU, if there is one and puna was built for it.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

impl DeviceChoice {
    /// What can be written.
    pub const EXPECTED: &str = "auto, cpu, cuda or cuda:N";

    /// The device for tensors; `None` is the CPU with its kernels. `note` is told why a GPU that might
    /// have been taken is not.
    ///
    /// # Errors
    /// If there is no such GPU, where one was asked for by its number.
    pub fn open(self, note: impl FnOnce(&ModelError)) -> Result<Option<Device>, ModelError> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(index) => cuda_device(index).map(Some),
            Self::Auto => match cuda_device(0) {
                Ok(device) => Ok(Some(device)),
                Err(ModelError::BuiltWithoutCuda) => Ok(None),
                Err(error) => {
                    note(&error);
                    Ok(None)
                }
            },
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                index.map(Self::Cuda).ok_or_else(|| Self::EXPECTED.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceChoice::{self, Auto, Cpu, Cuda};

    #[test]
    fn devices_are_written_as_elsewhere() {
        let read = |text: &str| text.parse::<DeviceChoice>().ok();
        let expected = [("auto", Auto), ("cpu", Cpu), ("cuda", Cuda(0)), ("cuda:3", Cuda(3))];
        for (text, choice) in expected {
            assert_eq!(read(text), Some(choice));
        }
        assert!(["gpu", "cuda:", "cuda:x", ""].iter().all(|text| read(text).is_none()));
    }
}
