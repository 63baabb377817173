//! GPTQ (Frantar et al. 2022, arXiv:2210.17323) in AutoGPTQ's layout.
//!
//! `w[o, i] = scales[g, o] · (q[i, o] − zero[g, o])`, `g = g_idx[i]`; `qweight` packs along the
//! inputs, `qzeros` along the outputs and holds the zero minus one in the first version. With
//! act-order the inputs of a group are scattered: they are brought together once, here, and the
//! order is kept beside the weight.

use puna_config::GptqZeros;
use puna_kernels::BlockFormat;
use puna_nn::{BlockWeight, GroupWeight, Weight};
use std::sync::Arc;

use super::groups::{self, bit_field, pack};
use crate::loader::Loader;
use crate::{ModelError, float};

pub(super) struct Settings {
    pub(super) bits: u32,
    pub(super) group_size: Option<usize>,
    pub(super) zeros: GptqZeros,
}

pub(super) fn load(
    loader: &Loader<'_>,
    base: &str,
    rows: usize,
    cols: usize,
    settings: &Settings,
) -> Result<Weight, ModelError> {
    let bits = settings.bits;
    let group_size = settings.group_size.unwrap_or(cols);
    let groups = cols.div_ceil(group_size);
    let words = (cols * bits as usize).div_ceil(32);
    let qweight = ints(loader, &format!("{base}.qweight"), &[words, rows])?;
    let zero_words = (rows * bits as usize).div_ceil(32);
    let qzeros = ints(loader, &format!("{base}.qzeros"), &[groups, zero_words])?;
    let scales = groups::scales(loader, base, groups, rows)?;
    let zeros = zero_points(loader, base, &qzeros, (groups, rows), settings)?;
    let group_of = group_indices(loader, base, cols, group_size)?;
    let value = |row: usize, col: usize| {
        bit_field(|word| qweight[word * rows + row] as u32, col, bits) as u8
    };
    let order = stored_order(&group_of);
    if !groups_are_even(&group_of, &order, group_size) {
        return irregular(rows, &group_of, &scales, &zeros, value);
    }
    let quants = pack(rows, cols, bits, |row, stored| value(row, order[stored] as usize));
    let natural = order.iter().enumerate().all(|(i, &input)| i == input as usize);
    Ok(Weight::Group(GroupWeight {
        rows,
        cols,
        quants,
        scales,
        zeros,
        group_size,
        input_order: (!natural).then(|| loader.shared_order(order)),
    }))
}

pub(super) fn ints(
    loader: &Loader<'_>,
    name: &str,
    shape: &[usize],
) -> Result<Vec<i32>, ModelError> {
    let stored = loader.stored(name)?;
    loader.expect_shape(name, &stored.info.shape, shape)?;
    float::to_i32(&stored)
        .ok_or_else(|| loader.dtype_error(name, stored.info.dtype, "packed integers"))
}

/// `[rows, groups]`
fn zero_points(
    loader: &Loader<'_>,
    base: &str,
    qzeros: &[i32],
    (groups, rows): (usize, usize),
    settings: &Settings,
) -> Result<Vec<u8>, ModelError> {
    let words = qzeros.len() / groups.max(1);
    let offset = match settings.zeros {
        GptqZeros::MinusOne => 1,
        GptqZeros::Stored => 0,
    };
    let mut zeros = Vec::with_capacity(rows * groups);
    for row in 0..rows {
        for group in 0..groups {
            let stored =
                bit_field(|w| qzeros[group * words + w] as u32, row, settings.bits) + offset;
            zeros.push(u8::try_from(stored).map_err(|_| {
                loader.quantized_error(&format!("{base}.qzeros"), "a zero point of 256")
            })?);
        }
    }
    Ok(zeros)
}

/// Each input's group: `g_idx` where present, else consecutive groups.
fn group_indices(
    loader: &Loader<'_>,
    base: &str,
    cols: usize,
    group_size: usize,
) -> Result<Vec<usize>, ModelError> {
    let name = format!("{base}.g_idx");
    if !loader.has(&name) {
        return Ok((0..cols).map(|i| i / group_size).collect());
    }
    let groups = cols.div_ceil(group_size);
    ints(loader, &name, &[cols])?
        .into_iter()
        .map(|g| match usize::try_from(g) {
            Ok(g) if g < groups => Ok(g),
            _ => Err(loader.quantized_error(&name, "a group index outside the groups")),
        })
        .collect()
}

/// Inputs sorted by group, ties in their own order.
fn stored_order(group_of: &[usize]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..group_of.len() as u32).collect();
    order.sort_by_key(|&input| group_of[input as usize]);
    order
}

fn groups_are_even(group_of: &[usize], order: &[u32], group_size: usize) -> bool {
    order.iter().enumerate().all(|(i, &input)| group_of[input as usize] == i / group_size)
}

/// Groups of uneven sizes have no packed form here: the matrix becomes float32.
fn irregular(
    rows: usize,
    group_of: &[usize],
    scales: &[f32],
    zeros: &[u8],
    value: impl Fn(usize, usize) -> u8,
) -> Result<Weight, ModelError> {
    let cols = group_of.len();
    let groups = scales.len() / rows.max(1);
    let mut bytes = Vec::with_capacity(rows * cols * 4);
    for row in 0..rows {
        for (col, &group) in group_of.iter().enumerate() {
            let at = row * groups + group;
            let w = scales[at] * (f32::from(value(row, col)) - f32::from(zeros[at]));
            bytes.extend(w.to_le_bytes());
        }
    }
    Ok(Weight::Block(BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes))?))
}
