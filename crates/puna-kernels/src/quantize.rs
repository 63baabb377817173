//! Quantizing rows, bit-compatible with ggml's reference quantizers (`ggml-quants.c`).

use crate::numbers::f32_to_bf16;
use crate::parallel::for_each_chunk_mut;
use crate::{BlockFormat, KernelError};
use half::f16;

/// Rows quantized per task hold about this many values.
const MIN_PARALLEL: usize = 64 * 1024;

/// Whether [`quantize_rows`] can write the format.
pub fn can_quantize(format: BlockFormat) -> bool {
    quantizer(format).is_some()
}

/// Appends the bytes of rows of `cols` values in `format` to `out`.
///
/// # Errors
/// [`KernelError::CannotQuantize`] where there is no quantizer, [`KernelError::PartialBlock`] where
/// a row is not a whole number of blocks, [`KernelError::Size`] where `x` is not whole rows.
pub fn quantize_rows(
    format: BlockFormat,
    x: &[f32],
    cols: usize,
    out: &mut Vec<u8>,
) -> Result<(), KernelError> {
    let quantize = quantizer(format).ok_or(KernelError::CannotQuantize { format })?;
    let block = format.block_len();
    let row = format.row_bytes(cols).ok_or(KernelError::PartialBlock { format, cols, block })?;
    if cols == 0 || !x.len().is_multiple_of(cols) {
        let expected = x.len().checked_div(cols).map_or(0, |rows| rows * cols);
        return if x.is_empty() {
            Ok(())
        } else {
            Err(KernelError::Size { what: "values to quantize", expected, got: x.len() })
        };
    }
    let start = out.len();
    out.resize(start + x.len() / cols * row, 0);
    for_each_chunk_mut(&mut out[start..], MIN_PARALLEL.div_ceil(cols) * row, |first, out| {
        let x = &x[first / row * cols..];
        x.chunks_exact(cols).zip(out.chunks_exact_mut(row)).for_each(|(x, out)| quantize(x, out));
    });
    Ok(())
}

/// Values of whole blocks to their bytes.
type Quantizer = fn(&[f32], &mut [u8]);

fn quantizer(format: BlockFormat) -> Option<Quantizer> {
    Some(match format {
        BlockFormat::F32 => to_f32,
        BlockFormat::F16 => to_f16,
        BlockFormat::BF16 => to_bf16,
        BlockFormat::Q4_0 => to_q4_0,
        BlockFormat::Q8_0 => to_q8_0,
        _ => return None,
    })
}

fn to_f32(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = x.to_le_bytes();
    }
}

fn to_f16(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = f16::from_f32(*x).to_le_bytes();
    }
}

fn to_bf16(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = f32_to_bf16(*x).to_le_bytes();
    }
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// `d = max |x| / 127`, quants rounded half away from zero.
fn to_q8_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let d = largest / 127.0;
        let id = inverse(d);
        out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for (out, x) in out[2..].iter_mut().zip(x) {
            *out = ((x * id).round() as i8).cast_unsigned();
        }
    }
}

/// `d = m / -8` with `m` the value of largest magnitude, sign included; `q = floor(x / d + 8.5)`.
fn to_q4_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<18>().0) {
        let largest = x.iter().fold(0.0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
        let d = largest / -8.0;
        let id = inverse(d);
        out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        let quant = |x: f32| ((x * id + 8.5) as u8).min(15);
        for (j, out) in out[2..].iter_mut().enumerate() {
            *out = quant(x[j]) | (quant(x[j + 16]) << 4);
        }
    }
}
