//! `y = down(act(gate(x)) · up(x))` in training, as one operation: what lies between the products is
//! never a tensor. Where products are rounded anyhow (tiles of bfloat16), gate, up and the gradients
//! of all three are written once, in half the bytes.
//!
//! Backward, with `h = act(g) · u`: `dh = dy W_down`, `dg` and `du` as in [`super::gated()`],
//! `dx = dg W_gate + du W_up`; trained weights get `dyᵀ x`, thin matrices what [`super::low_rank()`]
//! says.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{Elements, GateActivation, RoundedRows, gemm_sum_new};

use super::linear::{Rows, elements};
use super::with_f32;
use crate::projection::{Projection, input_gradient_of, product};
use crate::{NnError, Precision, Value};

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
        let parts = [(&gate, &dg, &dh_gate), (&up, &du, &dh_up)];
        let dx = input_gradient_of(&parts, (tokens, width), before, elements)?;
        Ok(vec![dx])
    })
    .fresh())
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
            Rows::of_values(y, g.dims2()?, elements)
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
            let shape = g.dims2()?;
            Ok([Rows::of_values(dg, shape, elements)?, Rows::of_values(du, shape, elements)?])
        }
        _ => Err(NnError::Tracked { op: "a gate of two kinds" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Weight;
    use crate::ops::gated as gate_op;
    use crate::projection::tests::{are_alike, frozen, parameter, thin};
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, random_tensor};

    const SHAPE: (usize, usize, usize) = (6, 5, 8);

    /// Frozen with thin matrices, trained with and without them.
    fn parts() -> [Projection; 3] {
        let (_, c, f) = SHAPE;
        [
            Projection { weight: frozen(1, (f, c)), low_rank: Some(thin(2, (f, c))) },
            Projection { weight: Arc::new(Weight::Trained(parameter(4, &[f, c]))), low_rank: None },
            Projection {
                weight: Arc::new(Weight::Trained(parameter(5, &[c, f]))),
                low_rank: Some(thin(6, (c, f))),
            },
        ]
    }

    fn one_by_one(x: &Value, parts: &[Projection; 3], precision: Precision) -> Value {
        let layer = |x: &Value, part: &Projection| part.alone(x, precision);
        let (g, u) = (layer(x, &parts[0]), layer(x, &parts[1]));
        layer(&gate_op(GateActivation::Silu, &g, &u, precision).unwrap(), &parts[2])
    }

    #[test]
    fn it_is_what_its_operations_are_one_by_one() {
        for (precision, bound) in [(Precision::Exact, 1e-5), (Precision::Fast, 0.03)] {
            let parts = parts();
            let x = || Value::leaf(random_tensor(3, &[SHAPE.0, SHAPE.1]));
            let silu = GateActivation::Silu;
            let at_once = |x: &Value| feed_forward(x, parts.clone(), silu, precision).unwrap();
            are_alike((&x(), at_once), (&x(), |x| one_by_one(x, &parts, precision)), &parts, bound);
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
