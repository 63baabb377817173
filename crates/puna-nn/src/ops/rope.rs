//! Rotary position embedding on half-split pairs (arXiv:2104.09864, eq. 34):
//! `y_i = x_i cos − x_{i+R/2} sin`, `y_{i+R/2} = x_{i+R/2} cos + x_i sin` for `i < R/2`.
//!
//! The rotation is orthogonal up to the attention factor, so backward is the same rotation with
//! the sine negated.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use puna_kernels::RopeTable;

use super::f32_slice;
use crate::{NnError, RopeTables};

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Backward,
}

struct RopeOp {
    tables: Arc<RopeTables>,
    heads: usize,
    direction: Direction,
}

impl CustomOp1 for RopeOp {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = f32_slice(storage, layout, "rope")?.to_vec();
        let tokens = self.tables.tokens();
        let head_dim = y.len() / (tokens * self.heads).max(1);
        let negated: Vec<f32>;
        let sin = match self.direction {
            Direction::Forward => self.tables.sin(),
            Direction::Backward => {
                negated = self.tables.sin().iter().map(|s| -s).collect();
                &negated
            }
        };
        let rotary_dim = self.tables.rotary_dim();
        let table = RopeTable { cos: self.tables.cos(), sin, rotary_dim };
        puna_kernels::rope(&mut y, self.heads, head_dim, &table);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let direction = match self.direction {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        };
        let op = RopeOp { tables: Arc::clone(&self.tables), heads: self.heads, direction };
        Ok(Some(dy.contiguous()?.apply_op1(op)?))
    }
}

/// Rotates the heads of every token.
///
/// # Shapes
/// `x` `[N, heads·D]`, tables of `N` positions → the shape of `x`
///
/// # Errors
/// If the number of tokens differs from that of the tables or a head is narrower than the
/// rotation.
pub fn rope(
    x: &Tensor,
    heads: usize,
    tables: &Arc<RopeTables>,
) -> std::result::Result<Tensor, NnError> {
    let (tokens, width) = x.dims2()?;
    if tokens != tables.tokens() {
        let expected = tables.tokens();
        return Err(NnError::Shape { what: "tokens to rotate", expected, got: tokens });
    }
    if width < heads * tables.rotary_dim() {
        let expected = heads * tables.rotary_dim();
        return Err(NnError::Shape { what: "width to rotate", expected, got: width });
    }
    if !x.device().is_cpu() {
        return Ok(composed(x, heads, tables)?);
    }
    let op = RopeOp { tables: Arc::clone(tables), heads, direction: Direction::Forward };
    Ok(x.contiguous()?.apply_op1(op)?)
}

fn composed(x: &Tensor, heads: usize, tables: &RopeTables) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (head_dim, rotary_dim) = (width / heads, tables.rotary_dim());
    let half = rotary_dim / 2;
    let (cos, sin) = tables.on_device(x.device())?; // [N, 1, R/2]
    let by_head = x.reshape((tokens, heads, head_dim))?;
    let (a, b) = (by_head.narrow(2, 0, half)?, by_head.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rest = by_head.narrow(2, rotary_dim, head_dim - rotary_dim)?;
    let parts = if rotary_dim < head_dim { vec![first, second, rest] } else { vec![first, second] };
    Tensor::cat(&parts, 2)?.reshape((tokens, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_testkit::{GradTolerance, gradcheck, random_tensor};

    /// Two pairs at three positions.
    fn three_positions() -> Arc<RopeTables> {
        let angles: Vec<f32> = (0..6).map(|i| i as f32 * 0.7).collect();
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        Arc::new(RopeTables::new(cos, sin, 4))
    }

    #[test]
    fn rope_turns_a_unit_pair_by_its_angle() {
        let tables = Arc::new(RopeTables::new(vec![0.6], vec![0.8], 2));
        let x = Tensor::new(&[[1f32, 0.0]], &candle_core::Device::Cpu).unwrap();
        let y = rope(&x, 1, &tables).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, vec![vec![0.6, 0.8]]);
    }

    #[test]
    fn the_composition_is_the_kernel_for_whole_and_partial_rotations() {
        let tables = three_positions();
        for width in [8, 12] {
            let x = random_tensor(3, &[3, width]);
            let values = |y: Tensor| y.to_vec2::<f32>().unwrap().concat();
            let ours = values(composed(&x, 2, &tables).unwrap());
            let theirs = values(rope(&x, 2, &tables).unwrap());
            for (a, b) in ours.into_iter().zip(theirs) {
                assert!((a - b).abs() < 1e-6, "{width}: {a} {b}");
            }
        }
    }

    #[test]
    fn rope_backward_matches_central_differences() {
        let tables = three_positions();
        gradcheck(
            |inputs| rope(&inputs[0], 2, &tables).map_err(candle_core::Error::wrap),
            &[random_tensor(3, &[3, 12])],
            GradTolerance::default(),
        );
    }
}
