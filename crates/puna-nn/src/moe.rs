//! Mixture of experts (Shazeer et al. 2017, arXiv:1701.06538; Mixtral, arXiv:2401.04088).
//!
//! Tokens are grouped by expert, so each expert's weights are read once per pass. Each token adds
//! its experts in ascending order, whatever the batch, so that a sequence's result does not depend
//! on its neighbours. The router runs in float32 always: a rounded logit can pick another expert.

use candle_core::Tensor;
use puna_config::Routing;
use puna_kernels::Output;

use crate::workspace::{apply, sized};
use crate::{Linear, Mlp, NnError, Precision, Workspace};

/// A mixture of experts.
#[derive(Clone, Debug)]
pub struct Moe {
    /// `[E, C]`
    pub router: Linear,
    /// The experts.
    pub experts: Vec<Mlp>,
    /// Experts that each token uses.
    pub experts_per_token: usize,
    /// How router logits become weights.
    pub routing: Routing,
}

impl Moe {
    /// Applies the part. Routing happens on the CPU: which experts are read depends on it.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    pub(crate) fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor, NnError> {
        let logits = self.router.forward(x, Precision::Exact)?; // [N, E]
        let chosen = self.route(&logits.flatten_all()?.to_vec1::<f32>()?);
        let mut out = x.zeros_like()?;
        for (expert, uses) in self.experts.iter().zip(chosen) {
            if uses.is_empty() {
                continue;
            }
            let (tokens, weights): (Vec<u32>, Vec<f32>) = uses.into_iter().unzip();
            let weights = Tensor::new(weights, x.device())?.reshape((tokens.len(), 1))?;
            let tokens = Tensor::new(tokens, x.device())?;
            let y = expert.forward(&x.index_select(&tokens, 0)?, precision)?; // [n, C]
            out = out.index_add(&tokens, &y.broadcast_mul(&weights)?, 0)?;
        }
        Ok(out)
    }

    /// Applies the part to `x` `[N, C]`: `out = …` or `out += …`, `[N, C]`.
    pub(crate) fn infer(
        &self,
        x: &[f32],
        mut out: Output<'_>,
        ws: &mut Workspace,
        precision: Precision,
    ) -> Result<(), NnError> {
        let hidden = self.router.weight().cols().max(1);
        let logits = sized(&mut ws.branch, x.len() / hidden * self.experts.len()); // [N, E]
        apply(x, &mut ws.buffers, &mut [(&self.router, Output::Set(logits))], Precision::Exact)?;
        let chosen = self.route(logits);
        if let Output::Set(out) = &mut out {
            out.fill(0.0);
        }
        for (expert, uses) in self.experts.iter().zip(&chosen) {
            if uses.is_empty() {
                continue;
            }
            let rows = sized(&mut ws.rows, uses.len() * hidden); // [n, C]
            for (row, (token, _)) in rows.chunks_exact_mut(hidden).zip(uses) {
                row.copy_from_slice(&x[*token as usize * hidden..][..hidden]);
            }
            let y = sized(&mut ws.branch, rows.len()); // [n, C]
            expert.infer(rows, Output::Set(y), (&mut ws.ffn, &mut ws.buffers), precision)?;
            for (row, (token, weight)) in y.chunks_exact(hidden).zip(uses) {
                let sum = &mut out.values_mut()[*token as usize * hidden..][..hidden];
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        Ok(())
    }

    /// For each expert the tokens that use it, with their weights.
    fn route(&self, logits: &[f32]) -> Vec<Vec<(u32, f32)>> {
        let experts = self.experts.len();
        let mut uses = vec![Vec::new(); experts];
        let mut best = Vec::with_capacity(self.experts_per_token);
        for (token, row) in logits.chunks_exact(experts).enumerate() {
            puna_kernels::top_k(row, self.experts_per_token, &mut best);
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = match self.routing {
                Routing::SoftmaxOverChosen => best.iter().map(|(_, l)| (l - max).exp()).sum(),
                Routing::SoftmaxOverAll => row.iter().map(|l| (l - max).exp()).sum(),
            };
            for (expert, logit) in &best {
                uses[*expert].push((token as u32, (logit - max).exp() / sum));
            }
        }
        uses
    }
}
