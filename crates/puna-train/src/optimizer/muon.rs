//! Muon: the momentum's nearest orthogonal matrix instead of the momentum (Jordan 2024), with
//! decoupled decay and updates of AdamW's size (arXiv:2502.16982, eq. 4), so that one learning rate
//! suits both.

use puna_kernels::{AdamWStep, Elements, MatRef, Write, gemm};

/// Coefficients of the quintic iteration, which drives singular values to about 1.
const QUINTIC: (f32, f32, f32) = (3.4445, -4.775, 2.0315);

/// Iterations.
const ITERATIONS: usize = 5;

pub(super) fn update(
    values: &mut [f32],
    gradient: &[f32],
    (momentum, (rows, cols)): (&mut [f32], (usize, usize)),
    step: &AdamWStep,
    decay: f64,
) {
    let decay = decay as f32;
    let mut direction = vec![0f32; gradient.len()];
    for ((m, g), d) in momentum.iter_mut().zip(gradient).zip(&mut direction) {
        let g = g * step.gradient_scale;
        *m = decay * *m + g;
        *d = g + decay * *m; // Nesterov
    }
    let direction = orthogonal(direction, rows, cols);
    let size = 0.2 * (rows.max(cols) as f32).sqrt();
    let keep = 1.0 - step.lr * step.weight_decay;
    for (w, d) in values.iter_mut().zip(direction) {
        *w = *w * keep - step.lr * size * d;
    }
}

/// The matrix with its singular values brought to about 1, by `X ← a X + (b A + c A²) X`,
/// `A = X Xᵀ`, on the wide orientation.
fn orthogonal(x: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
    if rows > cols {
        return transposed(&orthogonal(transposed(&x, rows, cols), cols, rows), cols, rows);
    }
    let norm = puna_kernels::sum_of_squares(&x).sqrt() as f32 + 1e-7;
    let mut x: Vec<f32> = x.iter().map(|v| v / norm).collect();
    let (a, b, c) = QUINTIC;
    let (mut gram, mut square) = (vec![0f32; rows * rows], vec![0f32; rows * rows]);
    let mut next = vec![0f32; x.len()];
    for _ in 0..ITERATIONS {
        let view = MatRef::rows(&x, cols);
        let set = Write::Set;
        gemm((rows, rows, cols), (view, view.t()), (&mut gram, rows), set, Elements::F32);
        let of = MatRef::rows(&gram, rows);
        gemm((rows, rows, rows), (of, of), (&mut square, rows), set, Elements::F32);
        square.iter_mut().zip(&gram).for_each(|(s, g)| *s = b * g + c * *s);
        let polynomial = MatRef::rows(&square, rows);
        gemm((rows, cols, rows), (polynomial, view), (&mut next, cols), set, Elements::F32);
        next.iter_mut().zip(&x).for_each(|(n, x)| *n += a * x);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_come_near_one_in_both_orientations() {
        for (rows, cols) in [(8, 20), (20, 8)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| ((i * i) as f32 * 1.7).sin()).collect();
            let y = orthogonal(x, rows, cols);
            // Of the smaller Gram matrix the diagonal is a mean of squared singular values.
            let squares: f32 = y.iter().map(|v| v * v).sum::<f32>() / 8.0;
            assert!((0.5..1.4).contains(&squares), "{squares}");
        }
    }
}
