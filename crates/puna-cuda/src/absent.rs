//! Without the feature `cuda` there are no kernels: nobody has a [`Kernels`], and no function of this
//! crate takes anything over.

use std::convert::Infallible;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::call::{Arguments, Product};

/// The kernels on one GPU, of which there is none.
pub(crate) struct Kernels {
    none: Infallible,
    pub(crate) multiprocessors: u32,
    pub(crate) shared_bytes: usize,
    pub(crate) major: i32,
}

pub(crate) fn open(index: usize) -> Result<Device> {
    Device::new_cuda(index)
}

pub(crate) fn kernels(x: &Tensor) -> Result<Option<Arc<Kernels>>> {
    kernels_on(x.device())
}

#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
pub(crate) fn kernels_on(_: &Device) -> Result<Option<Arc<Kernels>>> {
    Ok(None)
}

#[expect(
    clippy::extra_unused_type_parameters,
    reason = "with the feature it is the type of values"
)]
pub(crate) fn address<T>(_: &Tensor) -> Result<u64> {
    candle_core::bail!("puna was built without the feature cuda")
}

impl Kernels {
    pub(crate) fn launch(
        &self,
        _: &str,
        _: ([u32; 3], u32),
        _: usize,
        _: &mut Arguments<'_>,
    ) -> Result<()> {
        match self.none {}
    }

    pub(crate) fn multiply(&self, _: &Product) -> Result<()> {
        match self.none {}
    }

    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        match self.none {}
    }

    pub(crate) fn output(&self, _: DType, _: (usize, usize)) -> Result<Tensor> {
        match self.none {}
    }

    pub(crate) fn scratch(&self, _: usize) -> Result<(u64, u64)> {
        match self.none {}
    }
}
