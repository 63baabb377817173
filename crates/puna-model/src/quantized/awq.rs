//! AWQ (Lin et al. 2023, arXiv:2306.00978), `gemm` layout, 4 bit.
//!
//! `w[o, i] = scales[g, o] · (q[i, o] − zero[g, o])`; a word of `qweight` `[in, out/8]` holds the
//! outputs `8c + [0, 2, 4, 6, 1, 3, 5, 7][n]` in its nibbles `n`; zeros are stored as they are.

use puna_nn::{GroupWeight, Weight};

use super::gptq::ints;
use super::groups::{self, pack};
use crate::ModelError;
use crate::loader::Loader;

/// Nibble, from the lowest, of each output of a word.
const NIBBLE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

pub(super) fn load(
    loader: &Loader<'_>,
    base: &str,
    rows: usize,
    cols: usize,
    group_size: Option<usize>,
) -> Result<Weight, ModelError> {
    let group_size = group_size.unwrap_or(cols);
    let groups = cols.div_ceil(group_size);
    let name = format!("{base}.qweight");
    if !rows.is_multiple_of(8) {
        return Err(loader.quantized_error(&name, "output features are not a multiple of 8"));
    }
    let words = rows / 8;
    let qweight = ints(loader, &name, &[cols, words])?;
    let qzeros = ints(loader, &format!("{base}.qzeros"), &[groups, words])?;
    let scales = groups::scales(loader, base, groups, rows)?;
    let nibble = |words: &[i32], line: usize, output: usize| {
        let word = words[line * (rows / 8) + output / 8] as u32;
        (word >> (4 * NIBBLE[output % 8])) as u8 & 15
    };
    let quants = pack(rows, cols, 4, |row, col| nibble(&qweight, col, row));
    let mut zeros = Vec::with_capacity(rows * groups);
    for row in 0..rows {
        zeros.extend((0..groups).map(|group| nibble(&qzeros, group, row)));
    }
    Ok(Weight::Group(GroupWeight {
        rows,
        cols,
        quants,
        scales,
        zeros,
        group_size,
        input_order: None,
    }))
}
