//! `y = act(gate) · up` (Shazeer 2020, arXiv:2002.05202): SwiGLU and GeGLU.
//!
//! Backward: `dup = dy · act(gate)`, `dgate = dy · up · act'(gate)` with
//! SiLU' = s + x·s·(1 − s), s = sigmoid(x);
//! GELU-tanh' = ½(1 + t) + ½x(1 − t²)·√(2/π)(1 + 3·0.044715x²), t = tanh(√(2/π)(x + 0.044715x³));
//! GELU-erf' = Φ(x) + x·φ(x).

use candle_core::{Device, Result, Tensor};
use puna_kernels::GateActivation;

use super::with_f32;
use crate::device_products::{factors, no_kernel};
use crate::{NnError, Precision, Value};

/// √(2/π)
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

/// Gates `up` by the activation of `gate`, for a product of some precision: on a GPU the result is
/// rounded as that would do, and the gradients as those of the two products before it.
///
/// # Shapes
/// both `[N, F]` → `[N, F]`
///
/// # Errors
/// If the shapes differ.
pub fn gated(
    activation: GateActivation,
    gate: &Value,
    up: &Value,
    product: Precision,
) -> std::result::Result<Value, NnError> {
    let (g, u) = (gate.tensor(), up.tensor());
    if g.dims() != u.dims() {
        let (expected, got) = (g.elem_count(), u.elem_count());
        return Err(NnError::Shape { what: "values to gate", expected, got });
    }
    if !g.device().is_cpu() {
        return on_device(activation, gate, up, product);
    }
    let y = with_f32(g, |g| with_f32(u, |u| puna_kernels::gated_new(activation, g, u)))??;
    let y = Tensor::from_vec(y, g.shape(), &Device::Cpu)?;
    let (g, u) = (g.clone(), u.clone());
    Ok(Value::derived(y, &[gate, up], move |dy| {
        let (dg, du) = with_f32(&g, |g| {
            with_f32(&u, |u| {
                with_f32(dy, |dy| puna_kernels::gated_backward(activation, (g, u), dy))
            })
        })???;
        let tensor = |values| Tensor::from_vec(values, g.shape(), &Device::Cpu);
        Ok(vec![Some(tensor(dg)?), Some(tensor(du)?)])
    }))
}

fn on_device(
    activation: GateActivation,
    gate: &Value,
    up: &Value,
    product: Precision,
) -> std::result::Result<Value, NnError> {
    let (g, u) = (gate.tensor().contiguous()?, up.tensor().contiguous()?);
    let (of, dtype) = (kernel_activation(activation), factors(product));
    let Some(y) = puna_cuda::gated(&g, &u, of, dtype)? else {
        return Value::by_candle(&[gate, up], move |x| composed(activation, &x[0], &x[1]));
    };
    Ok(Value::derived(y, &[gate, up], move |dy| {
        let dy = dy.contiguous()?;
        let back = puna_cuda::gated_back((&g, &u), &dy, of, dtype)?;
        let (dg, du) = back.ok_or_else(no_kernel)?;
        Ok(vec![Some(dg), Some(du)])
    }))
}

/// As kernels of a GPU call it.
pub(crate) fn kernel_activation(activation: GateActivation) -> puna_cuda::Activation {
    match activation {
        GateActivation::Silu => puna_cuda::Activation::Silu,
        GateActivation::GeluTanh => puna_cuda::Activation::GeluTanh,
        GateActivation::GeluErf => puna_cuda::Activation::GeluErf,
    }
}

fn composed(activation: GateActivation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let x = gate;
    let act = match activation {
        GateActivation::Silu => x.silu()?,
        GateActivation::GeluTanh => {
            let inner = ((x * ((x.sqr()? * GELU_CUBIC)? + 1.0)?)? * SQRT_2_OVER_PI)?;
            (x * ((inner.tanh()? + 1.0)? * 0.5)?)?
        }
        GateActivation::GeluErf => (x * (((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)? * 0.5)?)?,
    };
    act * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, random_tensor};

    fn by_kernel(activation: GateActivation, gate: Tensor, up: Tensor) -> Tensor {
        let (gate, up) = (Value::constant(gate), Value::constant(up));
        gated(activation, &gate, &up, Precision::Exact).unwrap().tensor().clone()
    }

    #[test]
    fn silu_of_zero_closes_the_gate() {
        let device = candle_core::Device::Cpu;
        let gate = Tensor::new(&[[0f32, 1.0]], &device).unwrap();
        let up = Tensor::new(&[[5f32, 2.0]], &device).unwrap();
        let y = by_kernel(GateActivation::Silu, gate, up).to_vec2::<f32>().unwrap();
        assert_eq!(y[0][0], 0.0);
        assert!((y[0][1] - 1.462_117_2).abs() < 1e-6); // 2 · sigmoid(1)
    }

    #[test]
    fn the_composition_is_the_kernel_for_every_activation() {
        let (gate, up) = (random_tensor(4, &[2, 9]), random_tensor(5, &[2, 9]));
        for activation in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf]
        {
            let values = |y: Tensor| y.to_vec2::<f32>().unwrap().concat();
            let ours = values(composed(activation, &gate, &up).unwrap());
            let theirs = values(by_kernel(activation, gate.clone(), up.clone()));
            for (a, b) in ours.into_iter().zip(theirs) {
                assert!((a - b).abs() < 1e-6, "{activation:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn gated_backward_matches_central_differences_for_every_activation() {
        for activation in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf]
        {
            gradcheck(
                |inputs| gated(activation, &inputs[0], &inputs[1], Precision::Exact),
                &[random_tensor(4, &[2, 9]), random_tensor(5, &[2, 9])],
                GradTolerance::default(),
            );
        }
    }
}
