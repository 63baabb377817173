//! The largest singular values of a matrix and their vectors.
//!
//! Randomized subspace iteration (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithm 4.4)
//! with the products of puna-kernels; what is left is a small square matrix, decomposed by one-sided
//! Jacobi rotations (Hestenes 1958) in float64. A whole LAPACK would be a large dependency for the
//! beginning of a training.

use puna_kernels::{Elements, MatRef, gemm_new};

use crate::init::Random;

/// `W ≈ U diag(S) Vᵀ`, singular values descending.
#[derive(Debug)]
pub(crate) struct Svd {
    /// Left vectors as rows, `[R, rows]`.
    pub(crate) u: Vec<f32>,
    /// Singular values, `[R]`.
    pub(crate) s: Vec<f32>,
    /// Right vectors as rows, `[R, cols]`.
    pub(crate) v: Vec<f32>,
}

/// Vectors beyond the wanted ones: they take in what does not converge.
const OVERSAMPLING: usize = 10;

/// Rounds over all pairs of columns; ten are usual.
const SWEEPS: usize = 60;

/// The `rank` largest singular values of a matrix `[rows, cols]`, or all if it has fewer; the more
/// iterations, the better the small ones.
pub(crate) fn truncated_svd(
    w: &[f32],
    (rows, cols): (usize, usize),
    rank: usize,
    iterations: usize,
    random: &mut Random,
) -> Svd {
    let rank = rank.min(rows).min(cols);
    let l = (rank + OVERSAMPLING).min(rows).min(cols);
    let times_w = |q: &[f32]| {
        let operands = (MatRef::rows(q, rows), MatRef::rows(w, cols));
        gemm_new((l, cols, rows), operands, Elements::F32)
    };
    let times_wt = |z: &[f32]| {
        let operands = (MatRef::rows(z, cols), MatRef::rows(w, cols).t());
        gemm_new((l, rows, cols), operands, Elements::F32)
    };
    let mut z = random.normal(l * cols, 1.0); // [l, cols]
    orthonormalize(&mut z, cols);
    let mut q = Vec::new();
    let mut r = Vec::new();
    for _ in 0..=iterations {
        q = times_wt(&z); // [l, rows]
        orthonormalize(&mut q, rows);
        z = times_w(&q); // [l, cols]
        r = orthonormalize(&mut z, cols);
    }
    // Rows of Qᵀ W are sums of rows of Z with coefficients r, so W ≈ Q r Zᵀ.
    let columns = (0..l).map(|c| (0..l).map(|row| r[row][c]).collect()).collect();
    let (left, s, right) = jacobi(columns);
    Svd {
        u: combine(&left[..rank], &q, rows),
        s: s[..rank].to_vec(),
        v: combine(&right[..rank], &z, cols),
    }
}

/// Sums of rows of `basis` with `weights`, `[weights, n]`.
fn combine(weights: &[Vec<f64>], basis: &[f32], n: usize) -> Vec<f32> {
    let l = basis.len() / n;
    let flat: Vec<f32> = weights.iter().flatten().map(|&w| w as f32).collect();
    let operands = (MatRef::rows(&flat, l), MatRef::rows(basis, n));
    gemm_new((weights.len(), n, l), operands, Elements::F32)
}

/// Makes rows of length `n` orthonormal (Gram-Schmidt, twice, as once is not enough in float32);
/// gives the coefficients of each row as it was in the rows as they are. Rows that depend on others become
/// zero.
fn orthonormalize(vectors: &mut [f32], n: usize) -> Vec<Vec<f64>> {
    let l = vectors.len() / n;
    let mut coefficients = vec![vec![0f64; l]; l];
    for (i, coefficients) in coefficients.iter_mut().enumerate() {
        let (before, rest) = vectors.split_at_mut(i * n);
        let row = &mut rest[..n];
        let length = dot(row, row).sqrt();
        for _ in 0..2 {
            for (other, to) in before.chunks_exact(n).zip(coefficients.iter_mut()) {
                let along = dot(other, row);
                *to += along;
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= (along * f64::from(*o)) as f32);
            }
        }
        let norm = dot(row, row).sqrt();
        let is_new = norm > 1e-6 * length && norm > 0.0;
        coefficients[i] = if is_new { norm } else { 0.0 };
        let factor = if is_new { 1.0 / norm } else { 0.0 };
        row.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
    }
    coefficients
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

type Columns = Vec<Vec<f64>>;

/// Left vectors, singular values (descending) and right vectors of a square matrix given by columns.
fn jacobi(mut a: Columns) -> (Columns, Vec<f32>, Columns) {
    let l = a.len();
    let mut v: Columns =
        (0..l).map(|i| (0..l).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..l {
            for q in p + 1..l {
                let (pp, qq) = (product(&a[p], &a[p]), product(&a[q], &a[q]));
                let pq = product(&a[p], &a[q]);
                if pq.abs() <= 1e-14 * (pp * qq).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (qq - pp) / (2.0 * pq);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(&mut a, (p, q), (c, c * t));
                rotate(&mut v, (p, q), (c, c * t));
            }
        }
        if !rotated {
            break;
        }
    }
    let norms: Vec<f64> = a.iter().map(|column| product(column, column).sqrt()).collect();
    let mut order: Vec<usize> = (0..l).collect();
    order.sort_by(|&i, &j| norms[j].total_cmp(&norms[i]));
    let unit = |i: &usize| {
        let factor = if norms[*i] > 0.0 { 1.0 / norms[*i] } else { 0.0 };
        a[*i].iter().map(|x| x * factor).collect()
    };
    let u = order.iter().map(unit).collect();
    let s = order.iter().map(|&i| norms[i] as f32).collect();
    (u, s, order.iter().map(|&i| v[i].clone()).collect())
}

fn rotate(columns: &mut Columns, (p, q): (usize, usize), (c, s): (f64, f64)) {
    let (first, rest) = columns.split_at_mut(q);
    for (x, y) in first[p].iter_mut().zip(&mut rest[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(svd: &Svd, rows: usize, cols: usize) -> Vec<f32> {
        let mut w = vec![0.0; rows * cols];
        for (i, s) in svd.s.iter().enumerate() {
            for (r, row) in w.chunks_exact_mut(cols).enumerate() {
                let u = s * svd.u[i * rows + r];
                row.iter_mut().zip(&svd.v[i * cols..]).for_each(|(w, v)| *w += u * v);
            }
        }
        w
    }

    #[test]
    fn singular_values_of_three_by_two_by_hand() {
        // WᵀW = [[25, 20], [20, 25]]: eigenvalues 45 and 5.
        let w = [3.0, 0.0, 4.0, 5.0, 0.0, 0.0];
        let svd = truncated_svd(&w, (3, 2), 2, 4, &mut Random::new(1));
        assert!((svd.s[0] - 45f32.sqrt()).abs() < 1e-5, "{:?}", svd.s);
        assert!((svd.s[1] - 5f32.sqrt()).abs() < 1e-5, "{:?}", svd.s);
        let again = product(&svd, 3, 2);
        assert!(again.iter().zip(w).all(|(a, w)| (a - w).abs() < 1e-5), "{again:?}");
    }

    #[test]
    fn the_largest_of_known_singular_values_are_found_and_their_vectors_are_orthonormal() {
        let (rows, cols) = (60, 45);
        let mut random = Random::new(2);
        let mut known = Svd {
            u: random.normal(40 * rows, 1.0),
            s: (0..40).map(|i| 10.0 * 0.7f32.powi(i)).collect(),
            v: random.normal(40 * cols, 1.0),
        };
        orthonormalize(&mut known.u, rows);
        orthonormalize(&mut known.v, cols);
        let w = product(&known, rows, cols);
        let svd = truncated_svd(&w, (rows, cols), 6, 8, &mut random);
        for (found, known) in svd.s.iter().zip(&known.s) {
            assert!((found / known - 1.0).abs() < 1e-4, "{found} by {known}");
        }
        for (vectors, n) in [(&svd.u, rows), (&svd.v, cols)] {
            for (i, a) in vectors.chunks_exact(n).enumerate() {
                for (j, b) in vectors.chunks_exact(n).enumerate() {
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((dot(a, b) - expected).abs() < 1e-5, "{i} {j}");
                }
            }
        }
        // Eckart and Young: what is left is the norm of the other singular values.
        let best = product(&svd, rows, cols);
        let left: f64 = w.iter().zip(&best).map(|(w, b)| f64::from(w - b).powi(2)).sum();
        let least: f64 = known.s[6..].iter().map(|s| f64::from(*s).powi(2)).sum();
        assert!((left / least - 1.0).abs() < 1e-3, "{left} by {least}");
    }

    #[test]
    fn a_matrix_of_lower_rank_than_asked_for_has_zeros() {
        let w: Vec<f32> = (0..30).map(|i| (i / 5) as f32 * (i % 5) as f32).collect();
        let svd = truncated_svd(&w, (6, 5), 3, 2, &mut Random::new(3));
        assert!(svd.s[0] > 1.0 && svd.s[1] < 1e-3 && svd.s[2] < 1e-3, "{:?}", svd.s);
        let again = product(&svd, 6, 5);
        assert!(again.iter().zip(&w).all(|(a, w)| (a - w).abs() < 1e-4));
    }
}
