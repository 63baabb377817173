//! Packed integers of GPTQ and AWQ, repacked to one row per output feature.

use puna_kernels::{for_each_chunk_mut, nibble_place, nibble_row_bytes};
use puna_nn::GroupWeightQuants;

use crate::ModelError;
use crate::loader::Loader;

/// Rows repacked together: their current cache lines stay in the first-level cache.
const ROW_BLOCK: usize = 64;

/// Integer `index` of `bits` bits, laid end to end from the low bits of 32-bit words.
pub(super) fn bit_field(words: impl Fn(usize) -> u32, index: usize, bits: u32) -> u32 {
    let offset = index * bits as usize;
    let (word, shift) = (offset / 32, (offset % 32) as u32);
    let mut value = words(word) >> shift;
    if shift + bits > 32 {
        value |= words(word + 1) << (32 - shift);
    }
    value & (((1u64 << bits) - 1) as u32)
}

/// Builds `[rows, cols]` integers: two per byte up to 4 bits, one per byte above.
pub(super) fn pack(
    rows: usize,
    cols: usize,
    bits: u32,
    value: impl Fn(usize, usize) -> u8 + Sync,
) -> GroupWeightQuants {
    let nibbles = bits <= 4;
    let stride = if nibbles { nibble_row_bytes(cols) } else { cols };
    let mut bytes = vec![0u8; rows * stride];
    for_each_chunk_mut(&mut bytes, ROW_BLOCK * stride, |first, bytes| {
        let first = first / stride.max(1);
        for col in 0..cols {
            let (byte, shift) = if nibbles { nibble_place(col) } else { (col, 0) };
            for (row, bytes) in bytes.chunks_exact_mut(stride).enumerate() {
                bytes[byte] |= value(first + row, col) << shift;
            }
        }
    });
    if nibbles { GroupWeightQuants::Nibbles(bytes) } else { GroupWeightQuants::Bytes(bytes) }
}

/// The scales of a module, stored `[groups, rows]`, as `[rows, groups]`.
pub(super) fn scales(
    loader: &Loader<'_>,
    base: &str,
    groups: usize,
    rows: usize,
) -> Result<Vec<f32>, ModelError> {
    let name = format!("{base}.scales");
    let shape = loader.stored(&name)?.info.shape.clone();
    loader.expect_shape(&name, &shape, &[groups, rows])?;
    let stored = loader.floats(&name, "scales")?;
    let row_scales = |row: usize| stored.iter().skip(row).step_by(rows).copied();
    Ok((0..rows).flat_map(row_scales).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bit_values_straddle_words() {
        // values 0..8 repeated: value 10 (= 2) lies in bits 30, 31 and 0 of the next word
        let mut stream = [0u32; 3];
        for i in 0..32usize {
            for bit in 0..3 {
                let at = 3 * i + bit;
                stream[at / 32] |= (((i % 8) >> bit) as u32 & 1) << (at % 32);
            }
        }
        for i in 0..32 {
            assert_eq!(bit_field(|w| stream[w], i, 3), (i % 8) as u32);
        }
    }
}
