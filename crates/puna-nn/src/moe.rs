//! Mixture of experts (Shazeer et al. 2017, arXiv:1701.06538; Mixtral, arXiv:2401.04088).
//!
//! Tokens are grouped by expert, so each expert's weights are read once per pass. Each token adds
//! its experts in ascending order, whatever the batch, so that a sequence's result does not depend
//! on its neighbours. The router runs in float32 always: a rounded logit can pick another expert.

use candle_core::Tensor;
use puna_config::Routing;
use puna_kernels::Output;

use crate::workspace::{apply, sized};
use crate::{Balance, Linear, Mlp, NnError, Pass, Precision, Value, Workspace, ops};

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
    pub(crate) fn forward(
        &self,
        x: &Value,
        pass: &Pass,
        balance: Option<&mut Balance>,
    ) -> Result<Value, NnError> {
        let mut logits = self.router.forward(x, &pass.with_precision(Precision::Exact))?; // [N, E]
        let chosen = self.route(&logits.tensor().flatten_all()?.to_vec1::<f32>()?);
        // A block that only runs to be run again is not counted.
        if let Some(balance) = balance.filter(|_| logits.is_tracked()) {
            let uses: Vec<usize> = chosen.iter().map(Vec::len).collect();
            let (loss, with_gradient) = ops::load_balance(&logits, &uses, balance.weight)?;
            logits = with_gradient;
            balance.sum += loss;
            balance.mixtures += 1;
        }
        let weights = self.weights(&logits, &chosen)?; // [N, E], zero where not chosen
        let mut out = Value::constant(x.tensor().zeros_like()?);
        for (expert, (mlp, uses)) in self.experts.iter().zip(chosen).enumerate() {
            if uses.is_empty() {
                continue;
            }
            let tokens: Vec<u32> = uses.into_iter().map(|(token, _)| token).collect();
            let tokens = Tensor::new(tokens, x.tensor().device())?;
            let at = tokens.clone();
            let rows = Value::by_candle(&[x], move |x| x[0].index_select(&at, 0))?; // [n, C]
            let y = mlp.forward(&rows, pass)?; // [n, C]
            out = Value::by_candle(&[&out, &y, &weights], move |x| {
                let weights = x[2].narrow(1, expert, 1)?.contiguous()?; // [N, 1]
                let weights = weights.index_select(&tokens, 0)?; // [n, 1]
                x[0].index_add(&tokens, &x[1].broadcast_mul(&weights)?, 0)
            })?;
        }
        Ok(out)
    }

    /// What each expert counts for each token, `[N, E]`, from the router's logits.
    fn weights(&self, logits: &Value, chosen: &[Vec<(u32, f32)>]) -> Result<Value, NnError> {
        let (tokens, experts) = logits.tensor().dims2()?;
        let mut mask = vec![0f32; tokens * experts];
        for (expert, uses) in chosen.iter().enumerate() {
            uses.iter().for_each(|(token, _)| mask[*token as usize * experts + expert] = 1.0);
        }
        let mask = Tensor::from_vec(mask, (tokens, experts), logits.tensor().device())?;
        let routing = self.routing;
        Value::by_candle(&[logits], move |x| {
            let max = x[0].max_keepdim(1)?.detach();
            let exp = x[0].broadcast_sub(&max)?.exp()?;
            let sum = match routing {
                Routing::SoftmaxOverChosen => (&exp * &mask)?.sum_keepdim(1)?,
                Routing::SoftmaxOverAll => exp.sum_keepdim(1)?,
            };
            exp.broadcast_div(&sum)? * &mask
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use crate::{Parameter, Weight};
    use puna_config::Activation;
    use puna_testkit::{GradTolerance, random_tensor};
    use std::sync::Arc;

    fn linear(seed: u64, rows: usize, cols: usize) -> Linear {
        let values = random_tensor(seed, &[rows, cols]).flatten_all().unwrap().to_vec1().unwrap();
        let parameter = Parameter::new("w", &[rows, cols], values);
        Linear::new(Arc::new(Weight::Trained(Arc::new(parameter))), None)
    }

    /// The step of the check changes no token's experts here.
    #[test]
    fn gradients_through_experts_and_router_match_central_differences() {
        for routing in [Routing::SoftmaxOverChosen, Routing::SoftmaxOverAll] {
            let expert = |i: u64| Mlp {
                gate: linear(10 + i, 4, 3),
                up: linear(20 + i, 4, 3),
                down: linear(30 + i, 3, 4),
                activation: Activation::Silu,
            };
            let moe = Moe {
                router: linear(40, 3, 3),
                experts: (0..3).map(expert).collect(),
                experts_per_token: 2,
                routing,
            };
            gradcheck(
                |x| moe.forward(&x[0], &Pass::new(Precision::Exact), None),
                &[random_tensor(51, &[4, 3])],
                GradTolerance::default(),
            );
        }
    }
}
