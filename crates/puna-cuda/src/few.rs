//! Steps over few tokens: kernels/decode.cu.

use candle_core::{DType, Result, Tensor};

use crate::call::{Arguments, MOST_ARRIVALS, PLACES, PlaceTable, THREADS};
use crate::launch::{self, Kernels, address};
use crate::tensors::{address_of, floats, optional, suffix};
use crate::{Activation, FEW_TOKENS, Heads, Matrix, Norm, Places, Rotation, Scores};

/// Multiplies few tokens by one to three matrices over the same input, which may be normalized first,
/// and adds `add` to what one gives.
///
/// # Shapes
/// `x` `[N, C]`, matrices `[R_i, C]`, `add` `[N, ΣR]` → `[N, ΣR]`
///
/// # Errors
/// If the driver refuses.
pub fn project(
    x: &Tensor,
    norm: Option<Norm<'_>>,
    matrices: &[Matrix<'_>],
    add: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let Some(input) = Input::of(x, norm, matrices)? else { return Ok(None) };
    if matrices.len() > 3 || add.is_some_and(|add| !floats(&[add])) {
        return Ok(None);
    }
    let rows: Vec<usize> = matrices.iter().map(|m| m.weight.dims()[0]).collect();
    let total: usize = rows.iter().sum();
    let y = input.kernels.output(DType::F32, (input.tokens, total))?;
    let mut arguments = input.arguments()?;
    for i in 0..3 {
        arguments = arguments.wide(matrices.get(i).map_or(Ok(0), |m| address_of(m.weight))?);
    }
    for i in 0..3 {
        arguments = arguments.wide(optional(matrices.get(i).and_then(|m| m.bias))?);
    }
    for i in 0..3 {
        arguments = arguments.int(rows.get(i).copied().unwrap_or(0));
    }
    let mut arguments = arguments.wide(optional(add)?).wide(address_of(&y)?).int(input.cols);
    input.launch("project", total, &mut arguments)?;
    Ok(Some(y))
}

/// `act(gate(x)) · up(x)` of few tokens, which may be normalized first.
///
/// # Shapes
/// `x` `[N, C]`, matrices `[F, C]` → `[N, F]`
///
/// # Errors
/// If the driver refuses.
pub fn gate(
    x: &Tensor,
    norm: Option<Norm<'_>>,
    matrices: [Matrix<'_>; 2],
    activation: Activation,
) -> Result<Option<Tensor>> {
    let Some(input) = Input::of(x, norm, &matrices)? else { return Ok(None) };
    let rows = matrices[0].weight.dims()[0];
    if matrices[1].weight.dims()[0] != rows {
        return Ok(None);
    }
    let y = input.kernels.output(DType::F32, (input.tokens, rows))?;
    let mut arguments = input
        .arguments()?
        .wide(address_of(matrices[0].weight)?)
        .wide(address_of(matrices[1].weight)?)
        .wide(optional(matrices[0].bias)?)
        .wide(optional(matrices[1].bias)?)
        .int(rows)
        .int(activation as usize)
        .wide(address_of(&y)?)
        .int(input.cols);
    input.launch("gate", rows, &mut arguments)?;
    Ok(Some(y))
}

/// Rotates new queries where they lie, and writes rotated keys, and the values, to their places.
///
/// # Shapes
/// `q` `[T, H·D]`, `k`, `v` `[T, K·D]`, rows of any stride; nothing else may look at `q`
///
/// # Errors
/// If the driver refuses.
pub fn rotate(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    rotation: &Rotation<'_>,
    places: &Places<'_>,
) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(q)? else { return Ok(None) };
    let tokens = q.dims2()?.0;
    let Some(mut kept) = Kept::of(places, heads, tokens)? else { return Ok(None) };
    let strides = [q, k, v].map(row_stride);
    let [Some(q_stride), Some(k_stride), Some(v_stride)] = strides else { return Ok(None) };
    let (cos, sin) = rotation.tables;
    let (q_norm, k_norm) = rotation.norms;
    let fits = rotation.rotary_dim <= heads.dim
        && cos.elem_count() == tokens * (rotation.rotary_dim / 2)
        && q_norm.zip(k_norm).is_none_or(|(q, k)| q.eps == k.eps)
        && [q_norm, k_norm].iter().flatten().all(|norm| norm.weight.elem_count() == heads.dim);
    if !floats(&[cos, sin]) || !fits {
        return Ok(None);
    }
    let name = format!("rotate_{}", kept.dtype);
    let norm = |norm: Option<Norm<'_>>| optional(norm.map(|norm| norm.weight));
    let mut arguments = Arguments::default()
        .wide(address::<f32>(q)?)
        .wide(address::<f32>(k)?)
        .wide(address::<f32>(v)?)
        .int(q_stride)
        .int(k_stride)
        .int(v_stride)
        .wide(norm(q_norm)?)
        .wide(norm(k_norm)?)
        .float(q_norm.or(k_norm).map_or(0.0, |norm| norm.eps))
        .wide(address::<f32>(cos)?)
        .wide(address::<f32>(sin)?)
        .int(rotation.rotary_dim)
        .table(&mut kept.table)
        .int(tokens)
        .int(heads.query)
        .int(heads.kv)
        .int(heads.dim);
    let warps = tokens * (heads.query + 2 * heads.kv);
    let blocks = warps.div_ceil(THREADS as usize / 32) as u32;
    kernels.launch(&name, ([blocks, 1, 1], THREADS), 0, &mut arguments)?;
    Ok(Some(()))
}

/// Keys of one block of attention, while the blocks are not more than [`MANY_PARTS`].
const PARTS: [usize; 3] = [64, 128, 256];
const MANY_PARTS: usize = 64;

/// Attends with few rotated queries to caches that have their own keys already.
///
/// # Shapes
/// `q` `[T, H·D]`, rows of any stride → `out` `[T, H·D]`, float32 or of the type of the keys, contiguous,
/// written as a whole
///
/// # Errors
/// If the driver refuses.
pub fn attend(
    q: &Tensor,
    heads: Heads,
    places: &Places<'_>,
    scores: &Scores,
    out: &Tensor,
) -> Result<Option<()>> {
    let Some(kernels) = launch::kernels(q)? else { return Ok(None) };
    let tokens = q.dims2()?.0;
    let Some(mut kept) = Kept::of(places, heads, tokens)? else { return Ok(None) };
    let Some(stride) = row_stride(q) else { return Ok(None) };
    let seen = scores.window.unwrap_or(usize::MAX).min(kept.end);
    let few = |part: &&usize| seen.div_ceil(**part) <= MANY_PARTS;
    let part = PARTS.iter().find(few).copied().unwrap_or(PARTS[2]);
    let parts = seen.div_ceil(part);
    let group = heads.query / heads.kv;
    let shared = 4 * (group * heads.dim + group * part + 2 * group);
    let fits = tokens <= FEW_TOKENS
        && tokens * heads.kv <= MOST_ARRIVALS
        && shared <= kernels.shared_bytes
        && heads.dim.is_multiple_of(8)
        && out.elem_count() == tokens * heads.query * heads.dim;
    let to = match (kept.dtype, out.dtype()) {
        (_, DType::F32) => "f32",
        ("bf16", DType::BF16) => "bf16",
        _ => return Ok(None),
    };
    if !out.is_contiguous() || !fits {
        return Ok(None);
    }
    let name = format!("attend_{}_{to}", kept.dtype);
    let (partial, arrived) = kernels.scratch(tokens * heads.query * parts * (heads.dim + 2))?;
    let mut arguments = Arguments::default()
        .wide(address::<f32>(q)?)
        .int(stride)
        .table(&mut kept.table)
        .wide(address_of(out)?)
        .wide(partial)
        .wide(arrived)
        .int(heads.query)
        .int(heads.kv)
        .int(heads.dim)
        .int(scores.window.unwrap_or(0).min(i32::MAX as usize))
        .float(scores.scale)
        .float(scores.softcap.unwrap_or(0.0))
        .int(part);
    let grid = [parts as u32, heads.kv as u32, tokens as u32];
    kernels.launch(&name, (grid, THREADS), shared, &mut arguments)?;
    Ok(Some(()))
}

/// Few tokens before a product.
struct Input<'a> {
    kernels: std::sync::Arc<Kernels>,
    x: &'a Tensor,
    norm: Option<Norm<'a>>,
    tokens: usize,
    cols: usize,
    dtype: DType,
}

impl<'a> Input<'a> {
    /// `None` if no kernel takes it.
    fn of(x: &'a Tensor, norm: Option<Norm<'a>>, matrices: &[Matrix<'_>]) -> Result<Option<Self>> {
        let Some(kernels) = launch::kernels(x)? else { return Ok(None) };
        let (tokens, cols) = x.dims2()?;
        let dtype = matrices.first().map_or(DType::F32, |m| m.weight.dtype());
        let matrix = |m: &Matrix<'_>| {
            let rows = m.weight.dims().first().copied().unwrap_or(0);
            m.weight.dtype() == dtype
                && m.weight.dims() == [rows, cols]
                && m.weight.is_contiguous()
                && m.bias.is_none_or(|b| floats(&[b]) && b.elem_count() == rows)
        };
        let takes = (1..=FEW_TOKENS).contains(&tokens)
            && cols.is_multiple_of(8)
            && cols > 0
            && suffix(dtype).is_some()
            && matrices.iter().all(matrix)
            && floats(&[x])
            && norm.is_none_or(|n| floats(&[n.weight]) && n.weight.elem_count() == cols);
        let input = Self { kernels, x, norm, tokens, cols, dtype };
        Ok((takes && input.shared_bytes() <= input.kernels.shared_bytes).then_some(input))
    }

    /// Tokens that the kernel is compiled for.
    fn width(&self) -> usize {
        self.tokens.next_power_of_two()
    }

    fn shared_bytes(&self) -> usize {
        self.width() * self.cols * size_of::<f32>()
    }

    fn arguments(&self) -> Result<Arguments<'_>> {
        Ok(Arguments::default()
            .wide(address::<f32>(self.x)?)
            .int(self.tokens)
            .wide(optional(self.norm.map(|norm| norm.weight))?)
            .float(self.norm.map_or(0.0, |norm| norm.eps)))
    }

    /// A warp has a row at a time; there are as many as the GPU holds at once, or as are needed.
    fn launch(&self, kernel: &str, rows: usize, arguments: &mut Arguments<'_>) -> Result<()> {
        let name = format!("{kernel}_{}_{}", suffix(self.dtype).unwrap_or_default(), self.width());
        let shared = self.shared_bytes();
        let at_once = (self.kernels.shared_bytes / shared.max(1)).clamp(1, BLOCKS_AT_ONCE);
        let most = self.kernels.multiprocessors * at_once as u32;
        let blocks = (rows.div_ceil(THREADS as usize / 32) as u32).clamp(1, most);
        self.kernels.launch(&name, ([blocks, 1, 1], THREADS), shared, arguments)
    }
}

/// Blocks of a product on a multiprocessor: what their registers allow.
const BLOCKS_AT_ONCE: usize = 4;

/// Places as the kernels take them.
struct Kept {
    table: PlaceTable,
    dtype: &'static str,
    /// Behind the last position that a token of the call has.
    end: usize,
}

impl Kept {
    /// `None` if no kernel takes them.
    fn of(places: &Places<'_>, heads: Heads, tokens: usize) -> Result<Option<Self>> {
        let Some(first) = places.each.first() else { return Ok(None) };
        let fits = |place: &crate::Place| {
            let (keys, values) = (&place.keys, &place.values);
            let dims = keys.dims3().ok();
            dims.is_some_and(|(kv, capacity, dim)| {
                (kv, dim) == (heads.kv, heads.dim) && place.first + places.run <= capacity
            }) && values.dims() == keys.dims()
                && [keys, values].iter().all(|x| x.dtype() == first.keys.dtype())
                && keys.is_contiguous()
                && values.is_contiguous()
        };
        let (Some(dtype), true) = (
            suffix(first.keys.dtype()),
            places.run > 0
                && places.each.len() <= PLACES
                && places.each.len() * places.run >= tokens
                && places.each.iter().all(fits)
                && heads.kv > 0
                && heads.query.is_multiple_of(heads.kv),
        ) else {
            return Ok(None);
        };
        let mut kept = Self { table: PlaceTable::default(), dtype, end: 0 };
        for (i, place) in places.each.iter().enumerate() {
            kept.table.keys[i] = address_of(&place.keys)?;
            kept.table.values[i] = address_of(&place.values)?;
            kept.table.capacity[i] = place.keys.dims()[1] as i32;
            kept.table.first[i] = place.first as i32;
            kept.end = kept.end.max(place.first + places.run);
        }
        kept.table.run = places.run as i32;
        Ok(Some(kept))
    }
}

/// From one row to the next, of float32 rows that lie together.
fn row_stride(x: &Tensor) -> Option<usize> {
    let [stride, 1] = *x.stride() else { return None };
    (x.dtype() == DType::F32).then_some(stride)
}
