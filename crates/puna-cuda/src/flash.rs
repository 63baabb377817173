//! Attention over whole rows in training: kernels/flash.cu.

use candle_core::{DType, Result, Tensor};

use crate::call::{Arguments, THREADS};
use crate::launch::{self, address};
use crate::tensors::{address_of, floats};
use crate::{Heads, Rows, Scores};

/// Values of a head that there are kernels for.
const DIMS: [usize; 8] = [16, 32, 48, 64, 80, 96, 112, 128];

/// Rows of a tile; `TILE` of flash.cu.
const TILE: usize = 64;

/// Threads of a block; `TEAM` of flash.cu.
const TEAM: u32 = 128;

/// Whether there are kernels of attention in training for heads on a tensor's GPU: its tensor cores have to
/// know bfloat16 (compute capability 8).
///
/// # Errors
/// If the driver refuses.
pub fn flash_takes(x: &Tensor, heads: Heads) -> Result<bool> {
    let Some(kernels) = launch::kernels(x)? else { return Ok(false) };
    let fits = DIMS.contains(&heads.dim) && heads.kv > 0 && heads.query.is_multiple_of(heads.kv);
    Ok(fits && kernels.major >= 8)
}

/// What a launch of attention is told behind its tensors.
fn with_shape<'a>(
    arguments: Arguments<'a>,
    heads: Heads,
    rows: Rows<'_>,
    of: &Scores,
) -> Arguments<'a> {
    arguments
        .int(rows.len)
        .int(heads.query)
        .int(heads.kv)
        .int(of.window.unwrap_or(0).min(i32::MAX as usize))
        .float(of.scale)
        .float(of.softcap.unwrap_or(0.0))
}

/// Rows that the kernels of gradients have of a tile at a time; `FEW` of flash.cu.
fn rows_at_once(dim: usize) -> usize {
    if dim <= 32 { 64 } else { 32 }
}

/// Shared memory for rows of a head, which are padded there.
fn bytes_of(rows: usize, dim: usize) -> usize {
    rows * (dim + 8) * 2
}

fn fits_kernels([q, k, v]: [&Tensor; 3], heads: Heads, rows: Rows<'_>) -> Result<bool> {
    let tokens = rows.visible_from.elem_count();
    let is = |x: &Tensor, heads_of: usize| {
        x.dtype() == DType::BF16 && x.is_contiguous() && x.dims() == [tokens, heads_of * heads.dim]
    };
    Ok(flash_takes(q, heads)?
        && is(q, heads.query)
        && is(k, heads.kv)
        && is(v, heads.kv)
        && rows.visible_from.dtype() == DType::U32
        && rows.len > 0
        && tokens.is_multiple_of(rows.len)
        && tokens > 0)
}

/// Attention within rows: the output, and the logarithms of the softmax's sums, `[N, H]`.
///
/// # Shapes
/// `q` `[N, H·D]`, `k`, `v` `[N, K·D]`, bfloat16 → bfloat16 `[N, H·D]`
///
/// # Errors
/// If the driver refuses.
pub fn flash(
    qkv: [&Tensor; 3],
    heads: Heads,
    rows: Rows<'_>,
    of: &Scores,
) -> Result<Option<(Tensor, Tensor)>> {
    let Some(kernels) = launch::kernels(qkv[0])? else { return Ok(None) };
    if !fits_kernels(qkv, heads, rows)? {
        return Ok(None);
    }
    let tokens = rows.visible_from.elem_count();
    let out = kernels.output(DType::BF16, (tokens, heads.query * heads.dim))?;
    let logs = kernels.output(DType::F32, (tokens, heads.query))?;
    let mut arguments = Arguments::default();
    for x in qkv {
        arguments = arguments.wide(address_of(x)?);
    }
    let arguments = arguments
        .wide(address::<u32>(rows.visible_from)?)
        .wide(address_of(&out)?)
        .wide(address::<f32>(&logs)?);
    let mut arguments = with_shape(arguments, heads, rows, of);
    let grid = [rows.len.div_ceil(TILE), heads.query, tokens / rows.len].map(|n| n as u32);
    let name = format!("flash_{}", heads.dim);
    kernels.launch(&name, (grid, TEAM), bytes_of(5 * TILE, heads.dim), &mut arguments)?;
    Ok(Some((out, logs)))
}

/// The gradients of [`flash`] by queries, keys and values, float32, from that of its output, `[N, H·D]`
/// float32.
///
/// # Errors
/// If the driver refuses.
pub fn flash_back(
    qkv: [&Tensor; 3],
    (out, logs, d_out): (&Tensor, &Tensor, &Tensor),
    heads: Heads,
    rows: Rows<'_>,
    of: &Scores,
) -> Result<Option<[Tensor; 3]>> {
    let Some(kernels) = launch::kernels(qkv[0])? else { return Ok(None) };
    let tokens = rows.visible_from.elem_count();
    let whole = tokens * heads.query * heads.dim;
    let fits = fits_kernels(qkv, heads, rows)?
        && out.dtype() == DType::BF16
        && floats(&[logs, d_out])
        && out.elem_count() == whole
        && d_out.elem_count() == whole
        && logs.elem_count() == tokens * heads.query;
    if !fits {
        return Ok(None);
    }
    let rounded = kernels.output(DType::BF16, (tokens, heads.query * heads.dim))?;
    let sums = kernels.output(DType::F32, (tokens, heads.query))?;
    let of_heads = tokens * heads.query;
    let mut arguments = Arguments::default()
        .wide(address::<f32>(d_out)?)
        .wide(address_of(out)?)
        .wide(address_of(&rounded)?)
        .wide(address::<f32>(&sums)?)
        .int(heads.dim)
        .int(of_heads);
    let grid = [of_heads.div_ceil(THREADS as usize / 32) as u32, 1, 1];
    kernels.launch("flash_sums", (grid, THREADS), 0, &mut arguments)?;
    let common = || -> Result<Arguments<'_>> {
        let mut arguments = Arguments::default();
        for x in [qkv[0], qkv[1], qkv[2], &rounded] {
            arguments = arguments.wide(address_of(x)?);
        }
        Ok(arguments
            .wide(address::<f32>(logs)?)
            .wide(address::<f32>(&sums)?)
            .wide(address::<u32>(rows.visible_from)?))
    };
    let output = |heads_of: usize| kernels.output(DType::F32, (tokens, heads_of * heads.dim));
    let (dq, dk, dv) = (output(heads.query)?, output(heads.kv)?, output(heads.kv)?);
    let tiles = rows.len.div_ceil(TILE);
    let bytes = bytes_of(2 * TILE + 4 * rows_at_once(heads.dim), heads.dim);
    let mut arguments = with_shape(
        common()?.wide(address::<f32>(&dk)?).wide(address::<f32>(&dv)?),
        heads,
        rows,
        of,
    );
    let grid = [tiles, heads.kv, tokens / rows.len].map(|n| n as u32);
    let name = format!("flash_keys_{}", heads.dim);
    kernels.launch(&name, (grid, TEAM), bytes, &mut arguments)?;
    let mut arguments = with_shape(common()?.wide(address::<f32>(&dq)?), heads, rows, of);
    let grid = [tiles, heads.query, tokens / rows.len].map(|n| n as u32);
    let name = format!("flash_queries_{}", heads.dim);
    kernels.launch(&name, (grid, TEAM), bytes, &mut arguments)?;
    Ok(Some([dq, dk, dv]))
}
