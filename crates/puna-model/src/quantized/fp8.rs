//! F8_E4M3 weights with one float32 factor per block (DeepSeek's layout, `weight_scale_inv`).

use std::sync::Arc;

use puna_io::Dtype;
use puna_nn::{Fp8Weight, Weight};

use crate::ModelError;
use crate::loader::{Loader, Shared};

pub(super) fn load(
    loader: &Loader<'_>,
    name: &str,
    rows: usize,
    cols: usize,
    block: [usize; 2],
) -> Result<Weight, ModelError> {
    let stored = loader.stored(name)?;
    loader.expect_shape(name, &stored.info.shape, &[rows, cols])?;
    if stored.info.dtype != Dtype::F8E4M3 {
        return Err(loader.dtype_error(name, stored.info.dtype, "F8_E4M3 weights"));
    }
    let scales_name = format!("{name}_scale_inv");
    let shape = loader.stored(&scales_name)?.info.shape.clone();
    let expected = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    loader.expect_shape(&scales_name, &shape, &expected)?;
    let scales = loader.floats(&scales_name, "block scales")?;
    Ok(Weight::Fp8(Fp8Weight { rows, cols, bytes: Arc::new(Shared(stored.bytes)), scales, block }))
}
