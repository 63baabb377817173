//! `y = down(act(gate(x)) · up(x))` in training, as one operation: what lies between the products is
//! never a tensor. Where products are rounded anyhow (tiles of bfloat16), gate, up and the gradients
//! of all three are written once, in half the bytes.
//!
//! Backward, with `h = act(g) · u`: `dh = dy W_down`, `dg` and `du` as in [`super::gated()`],
//! `dx = dg W_gate + du W_up`; trained weights get `dyᵀ x`, thin matrices what [`super::low_rank()`]
//! says.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{
    Elements, Factors, GateActivation, MatRef, RoundedRows, gemm_sum_new, rounds_products,
};

use super::linear::{Rows, elements, input_gradient, weight_gradient, with_right};
use super::{LowRank, with_f32};
use crate::{NnError, Precision, Value, Weight};

/// A linear layer without a bias, and the thin matrices that adapt it.
#[derive(Debug, Clone)]
pub struct Projection {
    /// `[out, in]`
    pub weight: Arc<Weight>,
    /// Trained in its place, if there are any.
    pub low_rank: Option<LowRank>,
}

/// What a layer multiplies: its input, and that behind the first thin matrix.
struct Inputs {
    x: Arc<Rows>,
    h: Option<Rows>,
}

impl Projection {
    fn check(&self, width: usize, out: usize, tokens: usize) -> Result<(), NnError> {
        for (what, expected, got) in [
            ("width of a feed-forward weight", width, self.weight.cols()),
            ("rows of a feed-forward weight", out, self.weight.rows()),
        ] {
            if expected != got {
                return Err(NnError::Shape { what, expected, got });
            }
        }
        self.low_rank.as_ref().map_or(Ok(()), |of| of.check((tokens, width), (tokens, out)))
    }

    fn inputs(&self, x: Arc<Rows>, tokens: usize, elements: Elements) -> Result<Inputs, NnError> {
        let h = self.low_rank.as_ref().map(|of| x.with(|x| of.inner(x, tokens, elements)));
        Ok(Inputs { h: h.transpose()?.transpose()?, x })
    }

    /// Lends the terms of `x Wᵀ + h Bᵀ`.
    fn terms<T>(
        &self,
        of: &Inputs,
        elements: Elements,
        f: impl FnOnce(&[Factors<'_>]) -> T,
    ) -> Result<T, NnError> {
        with_right(&self.weight, elements, |_, w| {
            of.x.with(|x| {
                let product = (x, w, self.weight.cols());
                let (Some(h), Some(thin)) = (&of.h, &self.low_rank) else {
                    return Ok(f(&[product]));
                };
                h.with(|h| {
                    let (b, rank) = (thin.b.values(), thin.rank());
                    f(&[product, (h, MatRef::rows(&b, rank).t().into(), rank)])
                })
            })?
        })?
    }

    /// Adds the gradients of what is trained; returns that of `h`.
    fn gradients(
        &self,
        of: &Inputs,
        (dy, tokens): (&Rows, usize),
        elements: Elements,
    ) -> Result<Option<Rows>, NnError> {
        dy.with(|dy| match (&self.low_rank, &of.h, &*self.weight) {
            (Some(thin), Some(h), _) => thin.backward((&of.x, h), (dy, tokens), elements).map(Some),
            (_, _, Weight::Trained(parameter)) => {
                of.x.with(|x| weight_gradient(parameter, dy, (x, tokens), elements))?;
                Ok(None)
            }
            _ => Ok(None),
        })?
    }

    /// Lends the terms of `dx = dy W + dh A`.
    fn terms_back<T>(
        &self,
        (dy, d_h): (&Rows, &Option<Rows>),
        elements: Elements,
        f: impl FnOnce(&[Factors<'_>]) -> T,
    ) -> Result<T, NnError> {
        with_right(&self.weight, elements, |w, _| {
            dy.with(|dy| {
                let product = (dy, w, self.weight.rows());
                let (Some(d_h), Some(thin)) = (d_h, &self.low_rank) else {
                    return Ok(f(&[product]));
                };
                d_h.with(|d_h| {
                    let (a, width) = (thin.a.values(), self.weight.cols());
                    f(&[product, (d_h, MatRef::rows(&a, width).into(), thin.rank())])
                })
            })?
        })?
    }
}

/// Applies gate, up and down in training.
///
/// # Shapes
/// `x` `[N, C]`, gate and up `[F, C]`, down `[C', F]` → `[N, C']`
///
/// # Errors
/// If widths do not agree.
pub fn feed_forward(
    x: &Value,
    [gate, up, down]: [Projection; 3],
    activation: GateActivation,
    precision: Precision,
) -> Result<Value, NnError> {
    let ((tokens, width), elements) = (x.tensor().dims2()?, elements(precision));
    let (inner, out) = (down.weight.cols(), down.weight.rows());
    gate.check(width, inner, tokens)?;
    up.check(width, inner, tokens)?;
    down.check(inner, out, tokens)?;
    let x_rows = Arc::new(Rows::of(x, elements)?);
    let (of_gate, of_up) =
        (gate.inputs(Arc::clone(&x_rows), tokens, elements)?, up.inputs(x_rows, tokens, elements)?);
    let shape = (tokens, inner);
    let g = gate.terms(&of_gate, elements, |terms| product(shape, terms, elements))??;
    let u = up.terms(&of_up, elements, |terms| product(shape, terms, elements))??;
    let hidden = gated(activation, (&g, &u), elements)?;
    let of_down = down.inputs(Arc::new(hidden), tokens, elements)?;
    let y = down.terms(&of_down, elements, |terms| gemm_sum_new((tokens, out), terms, elements))?;
    let y = Tensor::from_vec(y, (tokens, out), &Device::Cpu)?;
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let dy = Rows::of(&Value::constant(dy.clone()), elements)?;
        let d_h = down.gradients(&of_down, (&dy, tokens), elements)?;
        let d_hidden =
            down.terms_back((&dy, &d_h), elements, |terms| product(shape, terms, elements))??;
        drop((of_down, dy));
        let [dg, du] = gated_backward(activation, (g, u), d_hidden, elements)?;
        let dh_gate = gate.gradients(&of_gate, (&dg, tokens), elements)?;
        let dh_up = up.gradients(&of_up, (&du, tokens), elements)?;
        let dx = gate.terms_back((&dg, &dh_gate), elements, |by_gate| {
            up.terms_back((&du, &dh_up), elements, |by_up| {
                let terms = [by_gate, by_up].concat();
                input_gradient((tokens, width), &terms, before, elements)
            })
        })???;
        Ok(vec![Some(dx)])
    })
    .fresh())
}

/// A sum of products, rounded where it ends if this machine does that.
fn product(
    shape: (usize, usize),
    terms: &[Factors<'_>],
    elements: Elements,
) -> Result<Rows, NnError> {
    if rounds_products(elements) {
        return Ok(Rows::Rounded(Arc::new(RoundedRows::product(shape, terms))));
    }
    Ok(Rows::Float(Tensor::from_vec(gemm_sum_new(shape, terms, elements), shape, &Device::Cpu)?))
}

/// `act(g) · u` as products take it.
fn gated(
    activation: GateActivation,
    of: (&Rows, &Rows),
    elements: Elements,
) -> Result<Rows, NnError> {
    match of {
        (Rows::Rounded(g), Rows::Rounded(u)) => {
            Ok(Rows::Rounded(Arc::new(RoundedRows::gated(activation, g, u))))
        }
        (Rows::Float(g), Rows::Float(u)) => {
            let y = with_f32(g, |g| with_f32(u, |u| puna_kernels::gated_new(activation, g, u)))??;
            operand(y, g, elements)
        }
        _ => Err(NnError::Tracked { op: "a gate of two kinds" }),
    }
}

fn gated_backward(
    activation: GateActivation,
    (g, u): (Rows, Rows),
    d: Rows,
    elements: Elements,
) -> Result<[Rows; 2], NnError> {
    match (&g, &u, &d) {
        (Rows::Rounded(g), Rows::Rounded(u), Rows::Rounded(d)) => {
            let both = RoundedRows::gated_backward(activation, (g, u), d);
            Ok(both.map(|rows| Rows::Rounded(Arc::new(rows))))
        }
        (Rows::Float(g), Rows::Float(u), Rows::Float(d)) => {
            let back = |g: &[f32], u: &[f32], d: &[f32]| {
                puna_kernels::gated_backward(activation, (g, u), d)
            };
            let (dg, du) = with_f32(g, |x| with_f32(u, |u| with_f32(d, |d| back(x, u, d))))???;
            Ok([operand(dg, g, elements)?, operand(du, g, elements)?])
        }
        _ => Err(NnError::Tracked { op: "a gate of two kinds" }),
    }
}

/// Values of the shape of another tensor, as products take them.
fn operand(values: Vec<f32>, like: &Tensor, elements: Elements) -> Result<Rows, NnError> {
    let values = Tensor::from_vec(values, like.shape(), &Device::Cpu)?;
    Rows::of(&Value::constant(values), elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{gated as gate_op, linear_in_training, low_rank};
    use crate::value::tests::gradcheck;
    use crate::{BlockWeight, Parameter};
    use puna_kernels::BlockFormat;
    use puna_testkit::{GradTolerance, random_tensor};

    const SHAPE: (usize, usize, usize) = (6, 5, 8);

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn parameter(seed: u64, shape: &[usize]) -> Arc<Parameter> {
        Arc::new(Parameter::new("p", shape, flat(&random_tensor(seed, shape))))
    }

    fn thin(seed: u64, (out, width): (usize, usize)) -> LowRank {
        let (a, b) = (parameter(seed, &[3, width]), parameter(seed + 1, &[out, 3]));
        LowRank { a, b, scale: 0.5 }
    }

    fn frozen(seed: u64, (out, width): (usize, usize)) -> Arc<Weight> {
        let values = flat(&random_tensor(seed, &[out, width]));
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let block = BlockWeight::new(BlockFormat::F32, out, width, Arc::new(bytes)).unwrap();
        Arc::new(Weight::Block(block))
    }

    /// Frozen with thin matrices, trained, and frozen alone.
    fn parts() -> [Projection; 3] {
        let (_, c, f) = SHAPE;
        [
            Projection { weight: frozen(1, (f, c)), low_rank: Some(thin(2, (f, c))) },
            Projection { weight: Arc::new(Weight::Trained(parameter(4, &[f, c]))), low_rank: None },
            Projection { weight: frozen(5, (c, f)), low_rank: Some(thin(6, (c, f))) },
        ]
    }

    fn one_by_one(x: &Value, parts: &[Projection; 3], precision: Precision) -> Value {
        let layer = |x: &Value, part: &Projection| {
            let y = linear_in_training(x, &part.weight, precision).unwrap();
            match &part.low_rank {
                Some(of) => low_rank(x, y, of, precision).unwrap(),
                None => y,
            }
        };
        let (g, u) = (layer(x, &parts[0]), layer(x, &parts[1]));
        layer(&gate_op(GateActivation::Silu, &g, &u, precision).unwrap(), &parts[2])
    }

    /// Outputs and all gradients.
    fn results(y: &Value, x: &Value, parts: &[Projection; 3]) -> Vec<Vec<f32>> {
        let seed = random_tensor(9, y.tensor().dims());
        let dx = flat(y.backward(seed).unwrap().of(x).unwrap());
        let mut all = vec![flat(y.tensor()), dx];
        for part in parts {
            let mut take = |p: &Parameter| {
                all.push(p.with_gradient(|g| g.unwrap().to_vec()));
                p.clear_gradient();
            };
            if let Weight::Trained(p) = &*part.weight {
                take(p);
            }
            if let Some(of) = &part.low_rank {
                take(&of.a);
                take(&of.b);
            }
        }
        all
    }

    #[test]
    fn it_is_what_its_operations_are_one_by_one() {
        for (precision, bound) in [(Precision::Exact, 1e-5), (Precision::Fast, 0.03)] {
            let parts = parts();
            let leaf = || Value::leaf(random_tensor(3, &[SHAPE.0, SHAPE.1]));
            let (a, b) = (leaf(), leaf());
            let y = feed_forward(&a, parts.clone(), GateActivation::Silu, precision).unwrap();
            let ours = results(&y, &a, &parts);
            let theirs = results(&one_by_one(&b, &parts, precision), &b, &parts);
            assert_eq!(ours.len(), theirs.len());
            for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                let largest = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (a, b) in ours.iter().zip(theirs) {
                    assert!((a - b).abs() <= bound * largest, "{precision:?} {i}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn its_backward_matches_central_differences() {
        for activation in [GateActivation::Silu, GateActivation::GeluTanh] {
            let parts = parts();
            gradcheck(
                |x| feed_forward(&x[0], parts.clone(), activation, Precision::Exact),
                &[random_tensor(3, &[SHAPE.0, SHAPE.1])],
                GradTolerance::default(),
            );
        }
    }
}
