//! bitsandbytes as transformers saves it: NF4 and FP4 (Dettmers et al. 2023, arXiv:2305.14314)
//! with or without double quantization, and LLM.int8() (arXiv:2208.07339).

use std::sync::Arc;

use puna_nn::{
    CodebookScales, CodebookWeight, GroupWeight, GroupWeightQuants, SharedBytes, Weight,
};
use serde::Deserialize;

use crate::ModelError;
use crate::loader::{Loader, Shared};
use puna_io::Dtype;

/// The JSON in `….quant_state.bitsandbytes__nf4` (or `__fp4`).
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

pub(super) fn load_4bit(
    loader: &Loader<'_>,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Weight, ModelError> {
    let state = quant_state(loader, name)?;
    loader.expect_shape(name, &state.shape, &[rows, cols])?;
    if state.blocksize == 0 {
        return Err(loader.quantized_error(name, "a block size of 0"));
    }
    let stored = loader.stored(name)?;
    if stored.info.dtype != Dtype::U8 {
        return Err(loader.dtype_error(name, stored.info.dtype, "bytes"));
    }
    if stored.bytes.len() != (rows * cols).div_ceil(2) {
        return Err(loader.quantized_error(name, "not half a byte per value"));
    }
    let codebook = loader.floats(&format!("{name}.quant_map"), "a codebook")?;
    let codebook = <[f32; 16]>::try_from(codebook)
        .map_err(|_| loader.quantized_error(name, "a codebook of other than 16 values"))?;
    let blocks = (rows * cols).div_ceil(state.blocksize);
    let absmax_name = format!("{name}.absmax");
    let scales = match (state.nested_blocksize, state.nested_offset) {
        (Some(block), Some(offset)) => {
            let quants = bytes(loader, &absmax_name)?;
            let code = loader.floats(&format!("{name}.nested_quant_map"), "a codebook")?;
            let absmax = loader.floats(&format!("{name}.nested_absmax"), "scales")?;
            let outer = blocks.checked_div(block).map(|_| blocks.div_ceil(block));
            if quants.len() != blocks || code.len() != 256 || outer != Some(absmax.len()) {
                return Err(loader.quantized_error(&absmax_name, "nested scales of wrong length"));
            }
            CodebookScales::Nested { quants, code, absmax, block, offset }
        }
        _ => {
            let absmax = loader.floats(&absmax_name, "scales")?;
            if absmax.len() != blocks {
                return Err(loader.quantized_error(&absmax_name, "not one scale per block"));
            }
            CodebookScales::Single(absmax)
        }
    };
    let block = state.blocksize;
    // Where the file has them.
    let nibbles: SharedBytes = Arc::new(Shared(stored.bytes));
    Ok(Weight::Codebook(CodebookWeight { rows, cols, nibbles, codebook, scales, block }))
}

fn quant_state(loader: &Loader<'_>, name: &str) -> Result<QuantState, ModelError> {
    let tensor = ["nf4", "fp4"]
        .map(|kind| format!("{name}.quant_state.bitsandbytes__{kind}"))
        .into_iter()
        .find(|tensor| loader.has(tensor))
        .ok_or_else(|| loader.quantized_error(name, "no quant_state.bitsandbytes__nf4 or __fp4"))?;
    let json = bytes(loader, &tensor)?;
    serde_json::from_slice(&json)
        .map_err(|_| loader.quantized_error(&tensor, "not the JSON that bitsandbytes writes"))
}

fn bytes(loader: &Loader<'_>, name: &str) -> Result<Vec<u8>, ModelError> {
    let stored = loader.stored(name)?;
    match stored.info.dtype {
        Dtype::U8 => Ok(stored.bytes.to_vec()),
        other => Err(loader.dtype_error(name, other, "bytes")),
    }
}

pub(super) fn load_int8(
    loader: &Loader<'_>,
    base: &str,
    rows: usize,
    cols: usize,
) -> Result<Weight, ModelError> {
    let name = format!("{base}.weight");
    let stored = loader.stored(&name)?;
    loader.expect_shape(&name, &stored.info.shape, &[rows, cols])?;
    if stored.info.dtype != Dtype::I8 {
        return Err(loader.dtype_error(&name, stored.info.dtype, "signed bytes"));
    }
    let quants = stored.bytes.iter().map(|b| *b as i8).collect();
    let scales_name = format!("{base}.SCB");
    let scales: Vec<f32> =
        loader.floats(&scales_name, "scales")?.iter().map(|s| s / 127.0).collect();
    if scales.len() != rows {
        return Err(loader.quantized_error(&scales_name, "not one scale per row"));
    }
    Ok(Weight::Group(GroupWeight {
        rows,
        cols,
        quants: GroupWeightQuants::Signed(quants),
        scales,
        zeros: Vec::new(),
        group_size: cols,
        input_order: None,
    }))
}
