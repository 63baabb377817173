//! Layers in inference on a GPU: the kernels of puna-cuda where they take a layer's weights, else what
//! the layers do as tensors.
//!
//! Nothing is adapted here and no gradients flow; whoever has either calls `forward`.

use candle_core::{DType, Device, Tensor};
use puna_config::LayerKind;

use crate::kv_tensors::KeptAs;
use crate::{
    Attention, Context, FeedForward, Linear, Mlp, NnError, Pass, RmsNorm, Segment, Tokens, Value,
    Vector, Weight, ops,
};

impl Linear {
    /// The layer as kernels take it.
    fn matrix(&self) -> Option<puna_cuda::Matrix<'_>> {
        let Weight::Dense(weight) = &**self.weight() else { return None };
        let bias = match self.bias() {
            None => None,
            Some(Vector::Fixed(bias)) => Some(bias),
            Some(Vector::Trained(_)) => return None,
        };
        Some(puna_cuda::Matrix { weight, bias })
    }

    /// The layer for many tokens, which have the type of its weight already.
    fn multiplied(&self, x: &Tensor, add: Option<&Tensor>, pass: &Pass) -> Result<Tensor, NnError> {
        if let Some(puna_cuda::Matrix { weight, bias }) = self.matrix() {
            let matrix = puna_cuda::Matrix { weight, bias: None };
            if let Some(y) = puna_cuda::matmul(x, matrix, add)? {
                return Ok(match bias {
                    None => y,
                    Some(bias) => y.broadcast_add(bias)?,
                });
            }
        }
        let x = Value::constant(x.to_dtype(DType::F32)?);
        let y = self.forward(&x, pass)?.tensor().clone();
        Ok(match add {
            None => y,
            Some(add) => (y + add)?,
        })
    }
}

impl RmsNorm {
    /// The norm, whose result has some type.
    fn rounded(&self, x: &Tensor, dtype: DType) -> Result<Tensor, NnError> {
        if let Some(norm) = self.as_kernel()
            && let Some(y) = puna_cuda::rms_norm(x, norm, dtype)?
        {
            return Ok(y.reshape(x.shape())?);
        }
        Ok(self.forward_tensor(x)?.to_dtype(dtype)?)
    }

    /// The norm as kernels take it.
    fn as_kernel(&self) -> Option<puna_cuda::Norm<'_>> {
        match self.weight() {
            Vector::Fixed(weight) => Some(puna_cuda::Norm { weight, eps: self.eps() }),
            Vector::Trained(_) => None,
        }
    }

    fn forward_tensor(&self, x: &Tensor) -> Result<Tensor, NnError> {
        Ok(self.forward(&Value::constant(x.clone()))?.tensor().clone())
    }
}

/// Applies layers to one input, behind a norm if there is one, and adds `add` to what a single one
/// gives.
///
/// # Shapes
/// `x` `[N, C]` → `[N, R_i]` each, rows of any stride
///
/// # Errors
/// If widths do not agree.
pub fn project<const L: usize>(
    x: &Tensor,
    norm: Option<&RmsNorm>,
    linears: [&Linear; L],
    add: Option<&Tensor>,
    pass: &Pass,
) -> Result<[Tensor; L], NnError> {
    if let Some(all) = projected(x, norm, &linears, add)? {
        let mut first = 0;
        return each(linears, |linear| {
            let rows = linear.weight().rows();
            first += rows;
            Ok(all.narrow(1, first - rows, rows)?)
        });
    }
    let dtype = linears.first().map_or(DType::F32, |linear| linear.weight().tensor_dtype());
    let x = match norm {
        None => x.to_dtype(dtype)?,
        Some(norm) => norm.rounded(x, dtype)?,
    };
    each(linears, |linear| linear.multiplied(&x, add, pass))
}

/// `[N, ΣR]` by a kernel.
fn projected(
    x: &Tensor,
    norm: Option<&RmsNorm>,
    linears: &[&Linear],
    add: Option<&Tensor>,
) -> Result<Option<Tensor>, NnError> {
    if x.dims().first().is_none_or(|&tokens| tokens > puna_cuda::FEW_TOKENS) {
        return Ok(None);
    }
    let matrices: Option<Vec<_>> = linears.iter().map(|linear| linear.matrix()).collect();
    let norm = norm.map(RmsNorm::as_kernel);
    let (Some(matrices), None | Some(Some(_))) = (matrices, norm) else { return Ok(None) };
    Ok(puna_cuda::project(x, norm.flatten(), &matrices, add)?)
}

fn each<T, U, const L: usize>(
    items: [T; L],
    mut f: impl FnMut(T) -> Result<U, NnError>,
) -> Result<[U; L], NnError> {
    let made: Vec<U> = items.into_iter().map(&mut f).collect::<Result<_, _>>()?;
    let got = made.len();
    made.try_into().map_err(|_| NnError::Shape { what: "layers", expected: L, got })
}

impl FeedForward {
    /// The part behind its norm, on a GPU; `add` is added to it.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    ///
    /// # Errors
    /// If widths do not agree.
    pub fn infer_on_device(
        &self,
        x: &Tensor,
        norm: &RmsNorm,
        add: Option<&Tensor>,
        ctx: &mut Context<'_, '_>,
    ) -> Result<Tensor, NnError> {
        match self {
            FeedForward::Dense(mlp) => mlp.infer_on_device(x, norm, add, &ctx.pass),
            FeedForward::Moe(_) => {
                let normed = Value::constant(norm.forward_tensor(x)?);
                let y = self.forward(&normed, ctx)?.tensor().clone();
                Ok(match add {
                    None => y,
                    Some(add) => (y + add)?,
                })
            }
        }
    }
}

impl Mlp {
    fn infer_on_device(
        &self,
        x: &Tensor,
        norm: &RmsNorm,
        add: Option<&Tensor>,
        pass: &Pass,
    ) -> Result<Tensor, NnError> {
        let hidden = match self.gated_on_device(x, norm)? {
            Some(hidden) => hidden,
            None => {
                let [gate, up] = project(x, Some(norm), [&self.gate, &self.up], None, pass)?;
                let dtype = self.down.weight().tensor_dtype();
                match puna_cuda::gated(
                    &gate,
                    &up,
                    ops::kernel_activation(self.gate_activation()),
                    dtype,
                )? {
                    Some(hidden) => hidden,
                    None => {
                        let [gate, up] = [gate, up].map(Value::constant);
                        ops::gated(self.gate_activation(), &gate, &up, pass.precision)?
                            .tensor()
                            .clone()
                    }
                }
            }
        }; // [N, F]
        let [y] = project(&hidden, None, [&self.down], add, pass)?;
        Ok(y)
    }

    fn gated_on_device(&self, x: &Tensor, norm: &RmsNorm) -> Result<Option<Tensor>, NnError> {
        match (norm.as_kernel(), self.gate.matrix(), self.up.matrix()) {
            (Some(norm), Some(gate), Some(up)) => Ok(puna_cuda::gate(
                x,
                Some(norm),
                [gate, up],
                ops::kernel_activation(self.gate_activation()),
            )?),
            _ => Ok(None),
        }
    }
}

impl Attention {
    /// What [`Self::forward`] gives to its last layer, from the residual stream in front of the norm.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, H·D]`
    ///
    /// # Errors
    /// If widths do not agree, or the pass is not one over caches of tensors on a GPU.
    pub fn infer_on_device(
        &self,
        x: &Tensor,
        norm: &RmsNorm,
        ctx: &mut Context<'_, '_>,
    ) -> Result<Tensor, NnError> {
        let (parts, shape) = (self.parts(), self.shape());
        let layers = [&parts.query, &parts.key, &parts.value];
        let [q, k, v] = project(x, Some(norm), layers, None, &ctx.pass)?; // [N, H·D], [N, K·D]
        let (q, q_norm) = head_norm(q, parts.query_norm.as_ref(), shape.head_dim)?;
        let (k, k_norm) = head_norm(k, parts.key_norm.as_ref(), shape.head_dim)?;
        let tables = match self.kind() {
            LayerKind::Global => &ctx.global_rope,
            LayerKind::Local { .. } => &ctx.local_rope,
        };
        let (cos, sin) = tables.on_device(x.device())?; // [N, 1, R/2]
        let heads =
            puna_cuda::Heads { query: shape.heads, kv: shape.kv_heads, dim: shape.head_dim };
        let width = shape.heads * shape.head_dim;
        // As the next product takes it.
        let tokens = x.dims2()?.0;
        let dtype = match tokens <= puna_cuda::FEW_TOKENS {
            true => DType::F32,
            false => self.cache_dtype(),
        };
        let Some(out) = puna_cuda::empty(x, dtype, (tokens, width))? else {
            return Err(NnError::Shape { what: "devices with kernels", expected: 1, got: 0 });
        };
        let Tokens::Segments(segments) = &mut ctx.tokens else {
            return Err(NnError::Tracked { op: "inference on a device" });
        };
        let rotation = puna_cuda::Rotation {
            tables: (&cos, &sin),
            rotary_dim: tables.rotary_dim(),
            norms: (q_norm, k_norm),
        };
        let all = Run { qkv: [q, k, v], tables: (cos.clone(), sin.clone()), out: out.clone() };
        // Tokens of short segments attend together, as many as a launch takes.
        let (mut first, mut together) = (0, Vec::new());
        for segment in segments.iter_mut() {
            let place = self.place(segment, x.device())?;
            let is_short = segment.len <= puna_cuda::FEW_TOKENS && shape.head_dim.is_multiple_of(8);
            if !is_short || together.len() + segment.len > puna_cuda::FEW_TOKENS {
                self.attend_together(&all, &rotation, heads, first, &mut together)?;
            }
            if is_short {
                let each = |t| puna_cuda::Place { first: place.first + t, ..place.clone() };
                together.extend((0..segment.len).map(each));
            } else {
                self.attend_run(&all.narrow(first, segment.len)?, &rotation, heads, place)?;
            }
            first += segment.len;
        }
        self.attend_together(&all, &rotation, heads, first, &mut together)?;
        Ok(out)
    }

    /// Keys and values have the type of the products.
    fn cache_dtype(&self) -> DType {
        match self.parts().output.weight().tensor_dtype() {
            DType::BF16 => DType::BF16,
            _ => DType::F32,
        }
    }

    /// Where the keys and values of a segment's tokens go.
    fn place(
        &self,
        segment: &mut Segment<'_>,
        device: &Device,
    ) -> Result<puna_cuda::Place, NnError> {
        let shape = self.shape();
        let dtype = self.cache_dtype();
        let like = KeptAs { heads: shape.kv_heads, head_dim: shape.head_dim, dtype, device };
        let first = segment.cache.positions();
        let (keys, values) = segment.cache.room(self.layer(), segment.len, &like)?;
        Ok(puna_cuda::Place { keys: keys.clone(), values: values.clone(), first })
    }

    /// Attends with the tokens before token `end`, whatever sequences they are of, in two launches.
    fn attend_together(
        &self,
        all: &Run,
        rotation: &puna_cuda::Rotation<'_>,
        heads: puna_cuda::Heads,
        end: usize,
        places: &mut Vec<puna_cuda::Place>,
    ) -> Result<(), NnError> {
        if places.is_empty() {
            return Ok(());
        }
        let run = all.narrow(end - places.len(), places.len())?;
        let ([q, k, v], (cos, sin)) = (&run.qkv, &run.tables);
        let rotation = puna_cuda::Rotation { tables: (cos, sin), ..*rotation };
        let each = puna_cuda::Places { each: places, run: 1 };
        let rotated = puna_cuda::rotate([q, k, v], heads, &rotation, &each)?;
        let attended = puna_cuda::attend(q, heads, &each, &self.transform(), &run.out)?;
        places.clear();
        match (rotated, attended) {
            (Some(()), Some(())) => Ok(()),
            _ => Err(not_rotated(&rotation, heads)),
        }
    }

    /// Attends with a run of tokens of one sequence.
    fn attend_run(
        &self,
        run: &Run,
        rotation: &puna_cuda::Rotation<'_>,
        heads: puna_cuda::Heads,
        place: puna_cuda::Place,
    ) -> Result<(), NnError> {
        let ([q, k, v], (cos, sin)) = (&run.qkv, &run.tables);
        let tokens = q.dims2()?.0;
        let rotation = puna_cuda::Rotation { tables: (cos, sin), ..*rotation };
        let each = std::slice::from_ref(&place);
        let places = puna_cuda::Places { each, run: tokens };
        if puna_cuda::rotate([q, k, v], heads, &rotation, &places)?.is_none() {
            return Err(not_rotated(&rotation, heads));
        }
        let end = place.first + tokens;
        let begin = self.window().map_or(0, |window| (place.first + 1).saturating_sub(window));
        let keys = place.keys.narrow(1, begin, end - begin)?; // [K, S, D]
        let values = place.values.narrow(1, begin, end - begin)?;
        let group = heads.query / heads.kv;
        let q = q
            .contiguous()?
            .reshape((tokens, heads.kv, group, heads.dim))?
            .permute((1, 2, 0, 3))?
            .to_dtype(keys.dtype())?
            .reshape((heads.kv, group * tokens, heads.dim))?; // [K, G·T, D]
        let scores = q.matmul(&keys.t()?)?; // [K, G·T, S]
        let rows = puna_cuda::ScoreRows { tokens, first: place.first, begin };
        if puna_cuda::softmax(&scores, rows, &self.transform())?.is_none() {
            return Err(not_rotated(&rotation, heads));
        }
        let attended = scores
            .matmul(&values)?
            .reshape((heads.kv, group, tokens, heads.dim))?
            .permute((2, 0, 1, 3))?
            .reshape((tokens, heads.query * heads.dim))?
            .to_dtype(run.out.dtype())?;
        Ok(run.out.slice_set(&attended, 0, 0)?)
    }

    fn transform(&self) -> puna_cuda::Scores {
        let scores = self.scores();
        puna_cuda::Scores { scale: scores.scale, softcap: scores.softcap, window: self.window() }
    }
}

/// Tokens with their rows of everything.
struct Run {
    /// `[T, H·D]`, `[T, K·D]`, `[T, K·D]`
    qkv: [Tensor; 3],
    /// `[T, 1, R/2]` each
    tables: (Tensor, Tensor),
    /// `[T, H·D]`
    out: Tensor,
}

impl Run {
    fn narrow(&self, first: usize, len: usize) -> Result<Self, NnError> {
        let rows = |x: &Tensor| x.narrow(0, first, len);
        let [q, k, v] = &self.qkv;
        Ok(Self {
            qkv: [rows(q)?, rows(k)?, rows(v)?],
            tables: (rows(&self.tables.0)?, rows(&self.tables.1)?),
            out: rows(&self.out)?,
        })
    }
}

/// What only a wrong table or a wrong cache leads to.
fn not_rotated(rotation: &puna_cuda::Rotation<'_>, heads: puna_cuda::Heads) -> NnError {
    let (expected, got) = (rotation.rotary_dim, heads.dim);
    NnError::Shape { what: "rotated dimensions of a head", expected, got }
}

/// A norm of queries or keys: of each head, which the rotation applies, or of whole rows, applied
/// here.
fn head_norm<'a>(
    x: Tensor,
    norm: Option<&'a RmsNorm>,
    head_dim: usize,
) -> Result<(Tensor, Option<puna_cuda::Norm<'a>>), NnError> {
    match norm {
        None => Ok((x, None)),
        Some(norm) => match norm.as_kernel() {
            Some(kernel) if norm.weight().len() == head_dim => Ok((x, Some(kernel))),
            _ => Ok((norm.forward_tensor(&x.contiguous()?)?, None)),
        },
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod training_tests;
