//! `y = x · r · w`, `r = 1 / sqrt(mean(x²) + eps)` (arXiv:1910.07467, eq. 4).
//!
//! Backward, per row of length `C`: `dx = r · (w·dy) − x · r³ / C · Σ(w·dy·x)` and
//! `dw = Σ_rows dy · x · r`. Composed of candle operations; only the forward is fused.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::f32_slice;
use crate::NnError;

struct RmsNormOp {
    eps: f32,
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = f32_slice(x, x_layout, "rms_norm")?;
        let w = f32_slice(w, w_layout, "rms_norm")?;
        let mut y = vec![0f32; x.len()];
        puna_kernels::rms_norm(x, w, self.eps, &mut y);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = w.elem_count();
        let shape = x.shape().clone();
        let rows = x.elem_count() / width;
        let (x, dy) = (x.reshape((rows, width))?, dy.reshape((rows, width))?);
        let mean_square = (x.sqr()?.sum_keepdim(D::Minus1)? / width as f64)?; // [rows, 1]
        let r = (mean_square + f64::from(self.eps))?.sqrt()?.recip()?;
        let normed = x.broadcast_mul(&r)?;
        let wdy = dy.broadcast_mul(w)?;
        let dot = ((&wdy * &normed)?.sum_keepdim(D::Minus1)? / width as f64)?;
        let dx = (wdy - normed.broadcast_mul(&dot)?)?.broadcast_mul(&r)?;
        let dw = (dy * normed)?.sum(0)?;
        Ok((Some(dx.reshape(shape)?), Some(dw)))
    }
}

/// Normalizes rows of the weight's length.
///
/// # Shapes
/// `x` `[.., n·C]`, `w` `[C]` → the shape of `x`
///
/// # Errors
/// If the last axis is not a multiple of `C`.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> std::result::Result<Tensor, NnError> {
    let width = w.elem_count();
    let last = x.dim(D::Minus1)?;
    if width == 0 || !last.is_multiple_of(width) {
        return Err(NnError::Shape { what: "width of a norm", expected: width, got: last });
    }
    if x.device().is_cpu() {
        Ok(x.contiguous()?.apply_op2(&w.contiguous()?, RmsNormOp { eps })?)
    } else {
        Ok(composed(x, w, eps)?)
    }
}

fn composed(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    let width = w.elem_count();
    let rows = x.reshape((x.elem_count() / width, width))?;
    let mean_square = (rows.sqr()?.sum_keepdim(D::Minus1)? / width as f64)?; // [rows, 1]
    let root = (mean_square + f64::from(eps))?.sqrt()?;
    rows.broadcast_div(&root)?.broadcast_mul(w)?.reshape(x.shape())
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_testkit::{GradTolerance, gradcheck, random_tensor};

    #[test]
    fn rms_norm_of_three_and_four_divides_by_their_root_mean_square() {
        let device = candle_core::Device::Cpu;
        let x = Tensor::new(&[[3f32, 4.0]], &device).unwrap();
        let w = Tensor::new(&[1f32, 2.0], &device).unwrap();
        let y = rms_norm(&x, &w, 0.0).unwrap().to_vec2::<f32>().unwrap();
        let rms = 12.5f32.sqrt();
        assert!((y[0][0] - 3.0 / rms).abs() < 1e-6 && (y[0][1] - 8.0 / rms).abs() < 1e-6);
    }

    #[test]
    fn the_composition_is_the_kernel() {
        let (x, w) = (random_tensor(1, &[3, 8]), random_tensor(2, &[4]));
        let values = |y: Tensor| y.to_vec2::<f32>().unwrap().concat();
        let (ours, theirs) = (composed(&x, &w, 1e-5).unwrap(), rms_norm(&x, &w, 1e-5).unwrap());
        for (a, b) in values(ours).into_iter().zip(values(theirs)) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn rms_norm_backward_matches_central_differences() {
        gradcheck(
            |inputs| rms_norm(&inputs[0], &inputs[1], 1e-5).map_err(candle_core::Error::wrap),
            &[random_tensor(1, &[3, 8]), random_tensor(2, &[4])],
            GradTolerance::default(),
        );
    }
}
