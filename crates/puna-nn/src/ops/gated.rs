//! `y = act(gate) · up` (Shazeer 2020, arXiv:2002.05202): SwiGLU and GeGLU.
//!
//! Backward: `dup = dy · act(gate)`, `dgate = dy · up · act'(gate)` with
//! SiLU' = s + x·s·(1 − s), s = sigmoid(x);
//! GELU-tanh' = ½(1 + t) + ½x(1 − t²)·√(2/π)(1 + 3·0.044715x²), t = tanh(√(2/π)(x + 0.044715x³));
//! GELU-erf' = Φ(x) + x·φ(x).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use puna_kernels::GateActivation;

use super::f32_slice;
use crate::NnError;

struct Gated {
    activation: GateActivation,
}

/// √(2/π)
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

impl Gated {
    fn composed(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.value_and_slope(gate)?.0 * up
    }

    /// `(act(x), act'(x))`
    fn value_and_slope(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        match self.activation {
            GateActivation::Silu => {
                let s = (x.neg()?.exp()? + 1.0)?.recip()?;
                let value = (x * &s)?;
                let slope = (&s + (&value * (1.0 - &s)?)?)?;
                Ok((value, slope))
            }
            GateActivation::GeluTanh => {
                let square = x.sqr()?;
                let inner = ((x * ((&square * GELU_CUBIC)? + 1.0)?)? * SQRT_2_OVER_PI)?;
                let t = inner.tanh()?;
                let half = ((&t + 1.0)? * 0.5)?;
                let inner_slope = (((square * (3.0 * GELU_CUBIC))? + 1.0)? * SQRT_2_OVER_PI)?;
                let slope = (&half + ((x * 0.5)? * (1.0 - t.sqr()?)? * inner_slope)?)?;
                Ok(((x * half)?, slope))
            }
            GateActivation::GeluErf => {
                let cdf = (((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)? * 0.5)?;
                // φ(x) = exp(−x²/2) / √(2π), and 1/√(2π) = ½√(2/π)
                let density = ((x.sqr()? * -0.5)?.exp()? * (0.5 * SQRT_2_OVER_PI))?;
                let slope = (&cdf + (x * density)?)?;
                Ok(((x * cdf)?, slope))
            }
        }
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = f32_slice(gate, gate_layout, "gated")?;
        let up = f32_slice(up, up_layout, "gated")?;
        let mut y = vec![0f32; gate.len()];
        puna_kernels::gated(self.activation, gate, up, &mut y);
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (value, slope) = self.value_and_slope(gate)?;
        Ok((Some(((dy * up)? * slope)?), Some((dy * value)?)))
    }
}

/// Gates `up` by the activation of `gate`.
///
/// # Shapes
/// both `[N, F]` → `[N, F]`
///
/// # Errors
/// If the shapes differ.
pub fn gated(
    activation: GateActivation,
    gate: &Tensor,
    up: &Tensor,
) -> std::result::Result<Tensor, NnError> {
    if gate.dims() != up.dims() {
        let (expected, got) = (gate.elem_count(), up.elem_count());
        return Err(NnError::Shape { what: "values to gate", expected, got });
    }
    let op = Gated { activation };
    if gate.device().is_cpu() {
        Ok(gate.contiguous()?.apply_op2(&up.contiguous()?, op)?)
    } else {
        Ok(op.composed(gate, up)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_testkit::{GradTolerance, gradcheck, random_tensor};

    #[test]
    fn silu_of_zero_closes_the_gate() {
        let device = candle_core::Device::Cpu;
        let gate = Tensor::new(&[[0f32, 1.0]], &device).unwrap();
        let up = Tensor::new(&[[5f32, 2.0]], &device).unwrap();
        let y = gated(GateActivation::Silu, &gate, &up).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y[0][0], 0.0);
        assert!((y[0][1] - 1.462_117_2).abs() < 1e-6); // 2 · sigmoid(1)
    }

    #[test]
    fn the_composition_is_the_kernel_for_every_activation() {
        let (gate, up) = (random_tensor(4, &[2, 9]), random_tensor(5, &[2, 9]));
        for activation in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf]
        {
            let values = |y: Tensor| y.to_vec2::<f32>().unwrap().concat();
            let ours = values(Gated { activation }.composed(&gate, &up).unwrap());
            let theirs = values(gated(activation, &gate, &up).unwrap());
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
                |inputs| {
                    gated(activation, &inputs[0], &inputs[1]).map_err(candle_core::Error::wrap)
                },
                &[random_tensor(4, &[2, 9]), random_tensor(5, &[2, 9])],
                GradTolerance::default(),
            );
        }
    }
}
