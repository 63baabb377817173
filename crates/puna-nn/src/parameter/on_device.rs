//! A parameter in the memory of a GPU, where passes then compute.
//!
//! The copy on the CPU is the one that files are read into and written from, and the one that
//! optimizers and processes without kernels of a GPU work on: [`Parameter::download`] and
//! [`Parameter::upload`] go between them, and nothing does so unasked.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::Parameter;
use crate::NnError;

/// Tensors on one device, all of the parameter's shape.
#[derive(Debug)]
pub(super) struct OnDevice {
    values: Tensor,
    /// The values as products in bfloat16 take them.
    words: Option<Tensor>,
    gradient: Option<Tensor>,
    /// Whether a pass has written the gradient since it was cleared.
    is_written: bool,
}

/// What an optimizer works on: tensors that it writes to where they lie.
#[derive(Debug, Clone)]
pub struct DeviceParameter {
    /// Float32.
    pub values: Tensor,
    /// The values rounded to bfloat16, to be kept so.
    pub words: Option<Tensor>,
    /// The gradient, float32; `None` if no pass has written one since it was cleared.
    pub gradient: Option<Tensor>,
}

fn not_moved() -> NnError {
    NnError::Tracked { op: "a parameter that has not moved to the device" }
}

impl Parameter {
    /// Moves to a device: passes compute there from now on.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn move_to(&self, device: &Device) -> Result<(), NnError> {
        let values = Tensor::from_slice(&self.values(), self.shape(), device)?;
        let made = OnDevice { values, words: None, gradient: None, is_written: false };
        match self.device.get() {
            Some(device) => *device.lock().unwrap_or_else(PoisonError::into_inner) = made,
            None => drop(self.device.set(Mutex::new(made))),
        }
        Ok(())
    }

    fn on_device(&self) -> Option<MutexGuard<'_, OnDevice>> {
        Some(self.device.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it has moved to a device.
    #[must_use]
    pub fn is_on_device(&self) -> bool {
        self.device.get().is_some()
    }

    /// Its tensors on the device that it has moved to.
    #[must_use]
    pub fn device_parameter(&self) -> Option<DeviceParameter> {
        let device = self.on_device()?;
        let gradient = device.gradient.clone().filter(|_| device.is_written);
        let (values, words) = (device.values.clone(), device.words.clone());
        Some(DeviceParameter { values, words, gradient })
    }

    /// The values on its device, as products of some type take them.
    pub(crate) fn device_operand(&self, dtype: DType) -> Result<Option<Tensor>, NnError> {
        let Some(mut device) = self.on_device() else { return Ok(None) };
        if dtype != DType::BF16 {
            return Ok(Some(device.values.clone()));
        }
        if let Some(words) = &device.words {
            return Ok(Some(words.clone()));
        }
        let words = puna_cuda::round(&device.values)?;
        device.words = Some(words.clone());
        Ok(Some(words))
    }

    /// Lets `add` write its gradient there, or add to it if that is `true`.
    pub(crate) fn add_device_gradient(
        &self,
        add: impl FnOnce(&Tensor, bool) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        let Some(mut device) = self.on_device() else {
            return Err(not_moved());
        };
        let gradient = match &device.gradient {
            Some(gradient) => gradient.clone(),
            None => device.values.zeros_like()?,
        };
        add(&gradient, device.is_written)?;
        device.gradient = Some(gradient);
        device.is_written = true;
        Ok(())
    }

    /// Lends its gradient there, zero if no pass has written one, to be changed where it lies.
    ///
    /// # Errors
    /// If it has not moved to a device, or `f` fails.
    pub fn with_device_gradient(
        &self,
        f: impl FnOnce(&Tensor) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        self.add_device_gradient(|gradient, adds| {
            if !adds {
                gradient.zero_set()?;
            }
            f(gradient)
        })
    }

    /// Lends its values there, to be changed where they lie.
    ///
    /// # Errors
    /// If it has not moved to a device, or `f` fails.
    pub fn with_device_values(
        &self,
        f: impl FnOnce(&Tensor) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        let Some(mut device) = self.on_device() else { return Err(not_moved()) };
        device.words = None;
        f(&device.values)
    }

    pub(super) fn clear_device_gradient(&self) {
        if let Some(mut device) = self.on_device() {
            device.is_written = false;
        }
    }

    /// Copies the values from the device, if it has moved to one.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn download(&self) -> Result<(), NnError> {
        let Some(device) = self.on_device() else { return Ok(()) };
        let values = device.values.flatten_all()?.to_vec1::<f32>()?;
        drop(device);
        self.values_mut().copy_from_slice(&values);
        Ok(())
    }

    /// Copies the values to the device, if it has moved to one.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn upload(&self) -> Result<(), NnError> {
        let Some(mut device) = self.on_device() else { return Ok(()) };
        let values = Tensor::from_slice(&self.values(), self.shape(), device.values.device())?;
        device.values.slice_set(&values, 0, 0)?;
        device.words = None;
        Ok(())
    }

    /// Copies the gradient from the device, if it has moved to one and has one.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn download_gradient(&self) -> Result<(), NnError> {
        let gradient = self.device_parameter().and_then(|device| device.gradient);
        let Some(gradient) = gradient else { return Ok(()) };
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        self.clear_host_gradient();
        self.add_gradient(|values, _| values.copy_from_slice(&gradient));
        Ok(())
    }

    /// Copies the gradient to the device, if it has moved to one and has one.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn upload_gradient(&self) -> Result<(), NnError> {
        if !self.is_on_device() {
            return Ok(());
        }
        self.with_gradient(|gradient| {
            let Some(gradient) = gradient else { return Ok(()) };
            self.add_device_gradient(|to, _| {
                let from = Tensor::from_slice(gradient, self.shape(), to.device())?;
                Ok(to.slice_set(&from, 0, 0)?)
            })
        })
    }
}
