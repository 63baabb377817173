//! Training: kernels/train.cu, and products by cuBLAS with sums in float32.
//!
//! What is trained, and all gradients, are float32 tensors; what only products take is bfloat16 where
//! these are.

use candle_core::{DType, Device, Result, Tensor};

use crate::call::{Arguments, Factor, Product, THREADS};
use crate::launch::{self, Kernels, address};
use crate::tensors::{address_of, aligned, floats, suffix};
use crate::{Activation, AdamW, LossRows, Norm, Operand};

/// Rows that one block of a sum over rows adds up, at least.
const ROWS: usize = 64;

/// Parts of a sum over rows at most.
const MOST_PARTS: usize = 64;

/// Values that a block adds the squares of.
const SQUARES: usize = 1 << 15;

fn blocks_of(len: usize) -> [u32; 3] {
    [len.div_ceil(THREADS as usize) as u32, 1, 1]
}

/// Blocks whose warps have a row each.
fn warps_of(rows: usize) -> [u32; 3] {
    [rows.div_ceil(THREADS as usize / 32) as u32, 1, 1]
}

/// Blocks whose threads have four values each.
fn blocks_of_fours(len: usize) -> [u32; 3] {
    blocks_of(len.div_ceil(4))
}

/// Float32 values rounded to bfloat16.
///
/// # Errors
/// If the driver refuses.
pub fn round(x: &Tensor) -> Result<Tensor> {
    let len = x.elem_count();
    let kernels = launch::kernels(x)?;
    let Some(kernels) = kernels.filter(|_| floats(&[x]) && len > 0) else {
        return x.to_dtype(DType::BF16);
    };
    let (x, y) = (&aligned(x)?, kernels.output(DType::BF16, (1, len))?);
    let mut arguments =
        Arguments::default().wide(address::<f32>(x)?).wide(address_of(&y)?).wide(len as u64);
    kernels.launch("round_f32", (blocks_of_fours(len), THREADS), 0, &mut arguments)?;
    y.reshape(x.shape())
}

/// `a + b` of float32 values.
///
/// # Errors
/// If the driver refuses.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(a)? else { return Ok(None) };
    let len = a.elem_count();
    if !floats(&[a, b]) || a.dims() != b.dims() || len == 0 {
        return Ok(None);
    }
    let (a, b, y) = (&aligned(a)?, &aligned(b)?, kernels.output(DType::F32, (1, len))?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(a)?)
        .wide(address::<f32>(b)?)
        .wide(address::<f32>(&y)?)
        .wide(len as u64);
    kernels.launch("add_f32", (blocks_of_fours(len), THREADS), 0, &mut arguments)?;
    y.reshape(a.shape()).map(Some)
}

/// `act(gate) · up` of any number of values, rounded to `dtype`.
///
/// # Shapes
/// both `[N, F]`, contiguous float32 → `[N, F]`
///
/// # Errors
/// If the driver refuses.
pub fn gated(
    gate: &Tensor,
    up: &Tensor,
    activation: Activation,
    dtype: DType,
) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(gate)? else { return Ok(None) };
    let len = gate.elem_count();
    let fits = floats(&[gate, up]) && up.elem_count() == len && gate.dims().len() == 2 && len > 0;
    let (Some(suffix), true) = (suffix(dtype), fits) else { return Ok(None) };
    let (gate, up, y) = (&aligned(gate)?, &aligned(up)?, kernels.output(dtype, gate.dims2()?)?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(gate)?)
        .wide(address::<f32>(up)?)
        .int(activation as usize)
        .wide(address_of(&y)?)
        .wide(len as u64);
    let name = format!("gated_forward_{suffix}");
    kernels.launch(&name, (blocks_of_fours(len), THREADS), 0, &mut arguments)?;
    Ok(Some(y))
}

/// `to = a b` or `to += a b`, summed in float32.
///
/// # Shapes
/// `a` `[m, k]`, `b` `[k, n]` of one type, as they are or transposed → `to` float32 `[m, n]`
///
/// # Errors
/// If cuBLAS refuses.
pub fn product(a: Operand<'_>, b: Operand<'_>, to: &Tensor, adds: bool) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(to)? else { return Ok(None) };
    let ((rows, inner), (same, cols)) = (a.shape()?, b.shape()?);
    let dtype = a.matrix.dtype();
    let fits = inner == same
        && to.dims() == [rows, cols]
        && floats(&[to])
        && b.matrix.dtype() == dtype
        && suffix(dtype).is_some()
        && a.matrix.is_contiguous()
        && b.matrix.is_contiguous()
        && rows * cols * inner > 0;
    if !fits {
        return Ok(None);
    }
    let factor = |operand: Operand<'_>| -> Result<Factor> {
        let address = address_of(operand.matrix)?;
        Ok(Factor { address, is_transposed: operand.is_transposed })
    };
    let product = Product {
        shape: (rows, cols, inner),
        a: factor(a)?,
        b: factor(b)?,
        to: address::<f32>(to)?,
        is_bf16: dtype == DType::BF16,
        adds,
    };
    kernels.multiply(&product).map(Some)
}

/// Normalizes rows of the weight's length, rounded to `dtype`.
///
/// # Shapes
/// `x` `[.., n·C]`, contiguous float32 → the same number of values, `[rows, C]`
///
/// # Errors
/// If the driver refuses.
pub fn rms_norm(x: &Tensor, norm: Norm<'_>, dtype: DType) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(x)? else { return Ok(None) };
    let width = norm.weight.elem_count();
    let rows = x.elem_count() / width.max(1);
    let (Some(suffix), true) = (suffix(dtype), floats(&[x, norm.weight]) && rows > 0) else {
        return Ok(None);
    };
    let (x, y) = (&aligned(x)?, kernels.output(dtype, (rows, width))?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(x)?)
        .wide(address::<f32>(norm.weight)?)
        .float(norm.eps)
        .wide(address_of(&y)?)
        .int(rows)
        .int(width);
    let name = format!("rms_norm_rows_{suffix}");
    kernels.launch(&name, (warps_of(rows), THREADS), 0, &mut arguments)?;
    Ok(Some(y))
}

/// The gradient of a norm's input, with what that had before, and adds or writes that of its weight.
///
/// # Shapes
/// `x`, `dy`, `before` `[.., n·C]`, `dw` `[C]`, all contiguous float32 → the shape of `x`
///
/// # Errors
/// If the driver refuses.
pub fn rms_norm_back(
    (x, dy): (&Tensor, &Tensor),
    norm: Norm<'_>,
    before: Option<&Tensor>,
    dw: Option<(&Tensor, bool)>,
) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(x)? else { return Ok(None) };
    let (len, width) = (x.elem_count(), norm.weight.elem_count());
    let rows = len / width.max(1);
    let same = |other: &Tensor| other.elem_count() == len && floats(&[other]);
    let fits = floats(&[x, norm.weight]) && rows > 0 && same(dy) && before.is_none_or(same);
    if !fits {
        return Ok(None);
    }
    let (x, dy) = (&aligned(x)?, &aligned(dy)?);
    let before = before.map(aligned).transpose()?;
    let before = before.as_ref();
    let (dx, roots) =
        (kernels.output(DType::F32, (rows, width))?, kernels.output(DType::F32, (rows, 1))?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(x)?)
        .wide(address::<f32>(norm.weight)?)
        .wide(address::<f32>(dy)?)
        .wide(before.map_or(Ok(0), address::<f32>)?)
        .wide(address::<f32>(&dx)?)
        .wide(address::<f32>(&roots)?)
        .float(norm.eps)
        .int(rows)
        .int(width);
    kernels.launch("rms_norm_back_f32", (warps_of(rows), THREADS), 0, &mut arguments)?;
    if let Some(dw) = dw {
        let sum = Arguments::default()
            .wide(address::<f32>(x)?)
            .wide(address::<f32>(dy)?)
            .wide(address::<f32>(&roots)?);
        sum_rows(&kernels, "rms_norm_weight", sum, (rows, width), dw)?;
    }
    dx.reshape(x.shape()).map(Some)
}

/// The sum of the rows, written or added to `to`.
///
/// # Shapes
/// `x` `[N, C]`, `to` `[C]`, contiguous float32
///
/// # Errors
/// If the driver refuses.
pub fn row_sum(x: &Tensor, (to, adds): (&Tensor, bool)) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(x)? else { return Ok(None) };
    let (rows, cols) = x.dims2()?;
    if !floats(&[x, to]) || to.elem_count() != cols || rows * cols == 0 {
        return Ok(None);
    }
    let sum = Arguments::default().wide(address::<f32>(x)?);
    sum_rows(&kernels, "row_sum", sum, (rows, cols), (to, adds)).map(Some)
}

/// A sum over rows in two launches: parts, and their sum.
fn sum_rows(
    kernels: &Kernels,
    name: &str,
    sum: Arguments<'_>,
    (rows, cols): (usize, usize),
    (to, adds): (&Tensor, bool),
) -> Result<()> {
    let parts = rows.div_ceil(ROWS).min(MOST_PARTS);
    let partial = kernels.output(DType::F32, (parts, cols))?;
    let mut arguments = sum.wide(address::<f32>(&partial)?).int(rows).int(cols);
    let grid = [cols.div_ceil(32) as u32, parts as u32, 1];
    kernels.launch(name, (grid, THREADS), 0, &mut arguments)?;
    let mut arguments = Arguments::default()
        .wide(address::<f32>(&partial)?)
        .wide(address::<f32>(to)?)
        .int(parts)
        .int(cols)
        .int(usize::from(adds));
    kernels.launch("add_parts", (blocks_of(cols), THREADS), 0, &mut arguments)
}

/// The gradients of `act(gate) · up` by both, of some type.
///
/// # Shapes
/// all `[N, F]`, contiguous float32 → `[N, F]` each
///
/// # Errors
/// If the driver refuses.
pub fn gated_back(
    (gate, up): (&Tensor, &Tensor),
    dy: &Tensor,
    activation: Activation,
    dtype: DType,
) -> Result<Option<(Tensor, Tensor)>> {
    let Some(kernels) = launch::kernels(gate)? else { return Ok(None) };
    let len = gate.elem_count();
    let fits = floats(&[gate, up, dy]) && up.elem_count() == len && dy.elem_count() == len;
    let (Some(suffix), true) = (suffix(dtype), fits && len > 0) else { return Ok(None) };
    let (gate, up, dy, shape) = (&aligned(gate)?, &aligned(up)?, &aligned(dy)?, gate.dims2()?);
    let (d_gate, d_up) = (kernels.output(dtype, shape)?, kernels.output(dtype, shape)?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(gate)?)
        .wide(address::<f32>(up)?)
        .wide(address::<f32>(dy)?)
        .int(activation as usize)
        .wide(address_of(&d_gate)?)
        .wide(address_of(&d_up)?)
        .wide(len as u64);
    let name = format!("gated_back_{suffix}");
    kernels.launch(&name, (blocks_of_fours(len), THREADS), 0, &mut arguments)?;
    Ok(Some((d_gate, d_up)))
}

/// Rotates the first `rotary_dim` dimensions of each head, or back; the result has some type.
///
/// # Shapes
/// `x` `[N, heads·D]`, tables `[N, R/2]` values each, contiguous float32 → the shape of `x`
///
/// # Errors
/// If the driver refuses.
pub fn turn(
    x: &Tensor,
    (cosines, sines): (&Tensor, &Tensor),
    (heads, rotary_dim): (usize, usize),
    backward: bool,
    dtype: DType,
) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(x)? else { return Ok(None) };
    let (tokens, width) = x.dims2()?;
    let (dim, half) = (width / heads.max(1), rotary_dim / 2);
    let fits = floats(&[x, cosines, sines])
        && heads > 0
        && rotary_dim <= dim
        && cosines.elem_count() == tokens * half
        && sines.elem_count() == tokens * half
        && tokens > 0;
    let (Some(suffix), true) = (suffix(dtype), fits) else { return Ok(None) };
    let (x, y) = (&aligned(x)?, kernels.output(dtype, (tokens, width))?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(x)?)
        .wide(address::<f32>(cosines)?)
        .wide(address::<f32>(sines)?)
        .float(if backward { -1.0 } else { 1.0 })
        .wide(address_of(&y)?)
        .int(heads)
        .int(dim)
        .int(rotary_dim);
    let name = format!("turn_{suffix}");
    kernels.launch(&name, ([tokens as u32, 1, 1], THREADS), 0, &mut arguments)?;
    Ok(Some(y))
}

/// Losses of rows of logits, `[n, 2]`: cross-entropy, and the square of the softmax's logarithm; and the
/// gradients of the logits if they are wanted, of some type, in place for float32.
///
/// # Shapes
/// `logits` `[n, V]`, contiguous float32, which nothing else looks at; `targets` n ids below `V`
///
/// # Errors
/// If the driver refuses.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    of: &LossRows,
    gradients: Option<DType>,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let Some(kernels) = launch::kernels(logits)? else { return Ok(None) };
    let (rows, vocab) = logits.dims2()?;
    let ids = targets.dtype() == DType::U32 && targets.is_contiguous();
    let fits = floats(&[logits]) && ids && targets.elem_count() == rows && rows * vocab > 0;
    let (Some(suffix), true) = (suffix(gradients.unwrap_or(DType::F32)), fits) else {
        return Ok(None);
    };
    let losses = kernels.output(DType::F32, (rows, 2))?;
    let to = match gradients {
        None => None,
        Some(DType::F32) => Some(logits.clone()),
        Some(dtype) => Some(kernels.output(dtype, (rows, vocab))?),
    };
    let mut arguments = Arguments::default()
        .wide(address::<f32>(logits)?)
        .wide(address::<u32>(targets)?)
        .float(of.softcap.unwrap_or(0.0))
        .float(of.scale)
        .float(of.z_loss)
        .wide(address::<f32>(&losses)?)
        .wide(to.as_ref().map_or(Ok(0), address_of)?)
        .int(vocab);
    let name = format!("cross_entropy_{suffix}");
    kernels.launch(&name, ([rows as u32, 1, 1], THREADS), 0, &mut arguments)?;
    Ok(Some((losses, to)))
}

/// Rows of a matrix, times a factor.
///
/// # Shapes
/// `w` `[V, C]`, contiguous float32, `N` ids below `V` → `[N, C]`
///
/// # Errors
/// If the driver refuses.
pub fn look_up(w: &Tensor, tokens: &Tensor, scale: f32) -> Result<Option<Tensor>> {
    let Some(kernels) = launch::kernels(w)? else { return Ok(None) };
    let (count, (_, cols)) = (tokens.elem_count(), w.dims2()?);
    if !floats(&[w]) || tokens.dtype() != DType::U32 || count * cols == 0 {
        return Ok(None);
    }
    let y = kernels.output(DType::F32, (count, cols))?;
    let mut arguments = Arguments::default()
        .wide(address::<f32>(w)?)
        .wide(address::<u32>(tokens)?)
        .float(scale)
        .wide(address::<f32>(&y)?)
        .int(cols);
    kernels.launch("look_up", ([count as u32, 1, 1], THREADS), 0, &mut arguments)?;
    Ok(Some(y))
}

/// Adds the gradients of looked-up rows to a matrix's.
///
/// # Shapes
/// `dx` `[N, C]`, `dw` `[V, C]`, contiguous float32; `tokens` N ids below `V`
///
/// # Errors
/// If the driver refuses.
pub fn look_up_back(dx: &Tensor, tokens: &[u32], scale: f32, dw: &Tensor) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(dx)? else { return Ok(None) };
    let ((count, cols), (_, width)) = (dx.dims2()?, dw.dims2()?);
    if !floats(&[dx, dw]) || count != tokens.len() || cols != width || count * cols == 0 {
        return Ok(None);
    }
    // A block to each token that is there, with its places in their order.
    let mut places: Vec<u32> = (0..count as u32).collect();
    places.sort_by_key(|&n| tokens[n as usize]);
    let (mut ids, mut starts) = (Vec::new(), Vec::new());
    for (at, &place) in places.iter().enumerate() {
        let id = tokens[place as usize];
        if ids.last() != Some(&id) {
            ids.push(id);
            starts.push(at as u32);
        }
    }
    starts.push(count as u32);
    let blocks = ids.len() as u32;
    let on_device = |values: Vec<u32>| Tensor::new(values, dx.device());
    let (ids, starts, places) = (on_device(ids)?, on_device(starts)?, on_device(places)?);
    let mut arguments = Arguments::default()
        .wide(address::<f32>(dx)?)
        .wide(address::<u32>(&ids)?)
        .wide(address::<u32>(&starts)?)
        .wide(address::<u32>(&places)?)
        .float(scale)
        .wide(address::<f32>(dw)?)
        .int(cols);
    kernels.launch("look_up_back", ([blocks, 1, 1], THREADS), 0, &mut arguments).map(Some)
}

/// The sums of the squares of tensors' values, in float32 within a part of a tensor.
///
/// # Errors
/// If the driver refuses.
pub fn square_sums(tensors: &[Tensor]) -> Result<Option<f64>> {
    let Some(first) = tensors.first() else { return Ok(Some(0.0)) };
    let Some(kernels) = launch::kernels(first)? else { return Ok(None) };
    // Address and size of each part.
    let mut parts = Vec::new();
    for x in tensors {
        if !floats(&[x]) || !x.layout().start_offset().is_multiple_of(4) {
            return Ok(None);
        }
        let first = address::<f32>(x)?;
        for at in (0..x.elem_count()).step_by(SQUARES) {
            let len = SQUARES.min(x.elem_count() - at);
            parts.extend([first as i64 + (at * size_of::<f32>()) as i64, len as i64]);
        }
    }
    let blocks = parts.len() / 2;
    let parts = Tensor::new(parts, first.device())?;
    let sums = kernels.output(DType::F32, (1, blocks))?;
    let mut arguments =
        Arguments::default().wide(address::<i64>(&parts)?).wide(address::<f32>(&sums)?);
    kernels.launch("square_sums", ([blocks as u32, 1, 1], THREADS), 0, &mut arguments)?;
    let sums = sums.flatten_all()?.to_vec1::<f32>()?;
    Ok(Some(sums.into_iter().map(f64::from).sum()))
}

/// A step of AdamW where the tensors lie; `words` gets the new values rounded.
///
/// # Shapes
/// contiguous float32 tensors of one size; `words` bfloat16 of that size
///
/// # Errors
/// If the driver refuses.
pub fn adamw(
    values: &Tensor,
    gradient: &Tensor,
    (first, second): (&Tensor, &Tensor),
    words: Option<&Tensor>,
    step: &AdamW,
) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(values)? else { return Ok(None) };
    let len = values.elem_count();
    let all = [values, gradient, first, second];
    let fits = floats(&all) && all.iter().all(|x| x.elem_count() == len) && len > 0;
    if !fits || words.is_some_and(|words| words.elem_count() != len) {
        return Ok(None);
    }
    let mut arguments = Arguments::default();
    for x in all {
        arguments = arguments.wide(address::<f32>(x)?);
    }
    let mut arguments = arguments
        .wide(words.map_or(Ok(0), address_of)?)
        .float(step.lr)
        .float(step.betas.0)
        .float(step.betas.1)
        .float(step.eps)
        .float(step.keep)
        .float(step.corrections.0)
        .float(step.corrections.1)
        .float(step.gradient_scale)
        .wide(len as u64);
    kernels.launch("adamw", (blocks_of(len), THREADS), 0, &mut arguments).map(Some)
}

/// Bytes of a GPU's memory that are taken, and all of them.
///
/// # Errors
/// If the driver refuses.
pub fn memory(device: &Device) -> Result<Option<(usize, usize)>> {
    match launch::kernels_on(device)? {
        Some(kernels) => kernels.memory().map(Some),
        None => Ok(None),
    }
}
