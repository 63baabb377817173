//! Attention (Vaswani et al. 2017) with grouped queries (arXiv:2305.13245), over a KV cache.
//!
//! The mask is a descriptor given to the kernel (first position, window), never a tensor. This
//! path has no backward yet and refuses tracked tensors instead of dropping their gradient.

use candle_core::{Device, Tensor};
use puna_config::{AttentionConfig, LayerKind};
use puna_kernels::{AttentionMask, AttentionShape, ScoreTransform};

use crate::{Context, Linear, NnError, Precision, RmsNorm, ops};

/// The layers of an attention part.
#[derive(Clone, Debug)]
pub struct AttentionParts {
    /// `[H·D, C]`
    pub query: Linear,
    /// `[K·D, C]`
    pub key: Linear,
    /// `[K·D, C]`
    pub value: Linear,
    /// `[C, H·D]`
    pub output: Linear,
    /// Norm of the queries, per head or over the whole projection.
    pub query_norm: Option<RmsNorm>,
    /// Norm of the keys.
    pub key_norm: Option<RmsNorm>,
}

/// One attention part of the decoder.
#[derive(Clone, Debug)]
pub struct Attention {
    parts: AttentionParts,
    layer: usize,
    kind: LayerKind,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scores: (f32, Option<f32>),
}

impl Attention {
    /// The attention part of layer `layer`.
    #[must_use]
    pub fn new(
        config: &AttentionConfig,
        layer: usize,
        kind: LayerKind,
        parts: AttentionParts,
    ) -> Self {
        Self {
            parts,
            layer,
            kind,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            scores: (config.scale as f32, config.logit_softcap.map(|c| c as f32)),
        }
    }

    /// The layers.
    #[must_use]
    pub fn parts(&self) -> &AttentionParts {
        &self.parts
    }

    /// Attends, appending the new keys and values to each segment's cache.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    ///
    /// # Errors
    /// If widths do not agree or `x` is tracked.
    pub fn forward(&self, x: &Tensor, ctx: &mut Context<'_, '_>) -> Result<Tensor, NnError> {
        if x.track_op() {
            return Err(NnError::Tracked { op: "attention" });
        }
        let parts = &self.parts;
        let mut q = parts.query.forward(x, score_precision(&parts.query, ctx.precision))?; // [N, H·D]
        let mut k = parts.key.forward(x, score_precision(&parts.key, ctx.precision))?; // [N, K·D]
        let v = parts.value.forward(x, ctx.precision)?; // [N, K·D]
        if let Some(norm) = &parts.query_norm {
            q = norm.forward(&q)?;
        }
        if let Some(norm) = &parts.key_norm {
            k = norm.forward(&k)?;
        }
        let tables = match self.kind {
            LayerKind::Global => &ctx.global_rope,
            LayerKind::Local { .. } => &ctx.local_rope,
        };
        let q = ops::rope(&q, self.heads, tables)?;
        let k = ops::rope(&k, self.kv_heads, tables)?;
        let attended = self.attend(&q, &k, &v, ctx)?; // [N, H·D]
        parts.output.forward(&attended, ctx.precision)
    }

    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        ctx: &mut Context<'_, '_>,
    ) -> Result<Tensor, NnError> {
        let tokens = q.dim(0)?;
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut out = vec![0f32; tokens * q_width];
        let mut run = |q: &[f32], k: &[f32], v: &[f32]| {
            let mut first = 0;
            for segment in ctx.segments.iter_mut() {
                let last = first + segment.len;
                let kv = first * kv_width..last * kv_width;
                segment.cache.write(self.layer, &k[kv.clone()], &v[kv]);
                let rows = first * q_width..last * q_width;
                self.attend_segment(&q[rows.clone()], segment, &mut out[rows]);
                first = last;
            }
        };
        ops::with_f32(q, |q| ops::with_f32(k, |k| ops::with_f32(v, |v| run(q, k, v))))???;
        Ok(Tensor::from_vec(out, (tokens, q_width), &Device::Cpu)?)
    }

    fn attend_segment(&self, q: &[f32], segment: &crate::Segment<'_>, out: &mut [f32]) {
        let shape =
            AttentionShape { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim };
        let view = segment.cache.view(self.layer);
        let window = match self.kind {
            LayerKind::Global => None,
            LayerKind::Local { window } => Some(window),
        };
        let mask = AttentionMask { first_position: segment.cache.len(), window };
        let scores = ScoreTransform { scale: self.scores.0, softcap: self.scores.1 };
        puna_kernels::attention(q, &view, &shape, &mask, &scores, out);
    }
}

/// The softmax amplifies what rounding does to queries and keys: with bf16 weights they are made
/// from float32 activations in both modes. Without this a held-out LongRoPE case was at rms/std
/// 0.0167, above the bound of 0.015; with it no bf16 case is above 0.0095. Its price in prefill was
/// not measured alone; the recorded benchmarks include it.
fn score_precision(projection: &Linear, wanted: Precision) -> Precision {
    match projection.weight().format_name() {
        "BF16" => Precision::Exact,
        _ => wanted,
    }
}
