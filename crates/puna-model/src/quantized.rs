//! Matrices that Hugging Face checkpoints hold in several tensors: GPTQ, AWQ, bitsandbytes, FP8.
//!
//! Which one a tensor is in is decided by the tensors present and the config's settings together;
//! a setting without its tensors leaves the matrix dense (heads and routers usually are).

mod awq;
mod bitsandbytes;
mod fp8;
mod gptq;
mod groups;

use puna_config::Quantization;
use puna_nn::Weight;

use crate::ModelError;
use crate::loader::Loader;

/// The matrix under `name` (`….weight`), if it is stored in a quantized form.
pub(crate) fn load(
    loader: &Loader<'_>,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Option<Weight>, ModelError> {
    let base = name.strip_suffix(".weight").unwrap_or(name);
    let packed = loader.has(&format!("{base}.qweight"));
    match &loader.config.quantization {
        Some(Quantization::Gptq { bits, group_size, zeros, .. }) if packed => {
            let settings = gptq::Settings { bits: *bits, group_size: *group_size, zeros: *zeros };
            gptq::load(loader, base, rows, cols, &settings).map(Some)
        }
        Some(Quantization::Awq { group_size }) if packed => {
            awq::load(loader, base, rows, cols, *group_size).map(Some)
        }
        _ if packed => Err(loader.quantized_error(
            &format!("{base}.qweight"),
            "packed integers, but neither config.json nor quantize_config.json says how",
        )),
        _ if loader.has(&format!("{name}.absmax")) => {
            bitsandbytes::load_4bit(loader, name, rows, cols).map(Some)
        }
        _ if loader.has(&format!("{base}.SCB")) => {
            bitsandbytes::load_int8(loader, base, rows, cols).map(Some)
        }
        Some(Quantization::Fp8Block { block }) if loader.has(&format!("{name}_scale_inv")) => {
            fp8::load(loader, name, rows, cols, *block).map(Some)
        }
        _ => Ok(None),
    }
}
