//! The loss of rows of logits, which become their own gradients.

use crate::kernels::Kernels;
use crate::math;
use crate::simd::{LANES, Simd};

/// What a row of logits contributes to the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropyRow {
    /// Index of the right class.
    pub target: usize,
    /// Weight of the row in the loss: its gradients are multiplied by it.
    pub weight: f32,
    /// Factor of the square of the logarithm of the softmax's sum (z-loss; PaLM,
    /// arXiv:2204.02311, section 5).
    pub z_loss: f32,
    /// `cap tanh(logit / cap)` before the softmax.
    pub softcap: Option<f32>,
}

/// Cross-entropy of one row of logits, which become their own gradients; returns the unweighted
/// `-log softmax(logits)[target]` and the logarithm of the softmax's sum.
///
/// # Panics
/// If the target is not a class.
pub fn cross_entropy_row(logits: &mut [f32], row: &CrossEntropyRow) -> (f32, f32) {
    let mut out = (0.0, 0.0);
    assert!(row.target < logits.len(), "target {} of {} classes", row.target, logits.len());
    Kernels::get().cross_entropy(logits, row, &mut out);
    out
}

/// One row.
#[inline(always)]
pub(crate) fn cross_entropy<S: Simd>(
    s: S,
    logits: &mut [f32],
    row: &CrossEntropyRow,
    out: &mut (f32, f32),
) {
    cap_logits(s, logits, row.softcap);
    let right = logits[row.target];
    // The capped values are needed for the derivative of the cap.
    let capped = row.softcap.map(|cap| (logits.to_vec(), cap));
    let (sum, log) = exponentials(s, logits);
    let factor = row.weight * (1.0 + 2.0 * row.z_loss * log) / sum;
    logits.iter_mut().for_each(|v| *v *= factor);
    logits[row.target] -= row.weight;
    if let Some((capped, cap)) = capped {
        times_slope(logits, &capped, cap);
    }
    *out = (log - right, log);
}

#[inline(always)]
fn cap_logits<S: Simd>(s: S, logits: &mut [f32], softcap: Option<f32>) {
    if let Some(cap) = softcap {
        crate::activation::cap(s, logits, cap);
    }
}

/// Gradients by capped logits to gradients by the logits themselves.
#[inline(always)]
fn times_slope(d: &mut [f32], capped: &[f32], cap: f32) {
    d.iter_mut().zip(capped).for_each(|(d, c)| *d *= 1.0 - (c / cap) * (c / cap));
}

/// Replaces logits by their exponentials relative to the largest one; their sum, and the logarithm of
/// the softmax's sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, logits: &mut [f32]) -> (f32, f32) {
    let max = math::max(logits);
    let shift = s.splat(max);
    math::map_lanes!(s, logits, f32::NEG_INFINITY, |v| math::exp(s, s.sub(v, shift)));
    let sum = math::sum_lanes!(s, logits, 0.0, |v| v);
    (sum as f32, max + sum.ln() as f32)
}

/// [`cross_entropy_row`] of the first of two rows, and `factor` times how far their predictions are
/// apart: `½ (KL(p ‖ q) + KL(q ‖ p)) = ½ Σ (p − q) d` with `d = log p − log q`. Both rows become their
/// gradients; returns the loss and the logarithm as there, and the divergence.
///
/// `∂/∂aᵢ = ½ (pᵢ (dᵢ − Σ p d) + pᵢ − qᵢ)`, and the same for the second row with `p`, `q` and the sign of
/// `d` exchanged.
///
/// # Panics
/// If the target is not a class, or the rows differ in length.
pub fn consistency_rows(
    (a, b): (&mut [f32], &mut [f32]),
    row: &CrossEntropyRow,
    factor: f32,
) -> (f32, f32, f32) {
    assert_eq!(a.len(), b.len(), "rows of logits");
    assert!(row.target < a.len(), "target {} of {} classes", row.target, a.len());
    let mut out = (0.0, 0.0, 0.0);
    Kernels::get().consistency((a, b), (row, factor), &mut out);
    out
}

/// Two rows.
#[inline(always)]
pub(crate) fn consistency<S: Simd>(
    s: S,
    (a, b): (&mut [f32], &mut [f32]),
    (row, factor): (&CrossEntropyRow, f32),
    out: &mut (f32, f32, f32),
) {
    cap_logits(s, a, row.softcap);
    cap_logits(s, b, row.softcap);
    let right = a[row.target];
    let (capped_a, capped_b) = (a.to_vec(), b.to_vec());
    let ((sum_a, log_a), (sum_b, log_b)) = (exponentials(s, a), exponentials(s, b));
    let (inverse_a, inverse_b) = (1.0 / sum_a, 1.0 / sum_b);
    a.iter_mut().for_each(|p| *p *= inverse_a);
    b.iter_mut().for_each(|q| *q *= inverse_b);
    // d from the logits: quotients of probabilities that are zero are none.
    let mut d = capped_a.clone();
    d.iter_mut().zip(&capped_b).for_each(|(d, b)| *d = (*d - log_a) - (b - log_b));
    let (of_p, of_q) = (weighted_sum(a, &d), weighted_sum(b, &d));
    let half = 0.5 * factor * row.weight;
    let own = row.weight * (1.0 + 2.0 * row.z_loss * log_a);
    for ((a, b), d) in a.iter_mut().zip(b.iter_mut()).zip(&d) {
        let (p, q) = (*a, *b);
        *a = own * p + half * (p * (d - of_p) + (p - q));
        *b = half * (q * (of_q - d) + (q - p));
    }
    a[row.target] -= row.weight;
    if let Some(cap) = row.softcap {
        times_slope(a, &capped_a, cap);
        times_slope(b, &capped_b, cap);
    }
    *out = (log_a - right, log_a, 0.5 * (of_p - of_q));
}

#[inline(always)]
fn weighted_sum(x: &[f32], y: &[f32]) -> f32 {
    let mut total = 0f64;
    for (x, y) in x.chunks(256).zip(y.chunks(256)) {
        let mut lanes = [0f32; LANES];
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (y, y_rest) = y.as_chunks::<LANES>();
        for (x, y) in x.iter().zip(y) {
            lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
        }
        let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
        total += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    total as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_of_even_logits_is_the_logarithm_of_their_number() {
        let mut logits = [1.0; 4];
        let row = CrossEntropyRow { target: 2, weight: 2.0, z_loss: 0.0, softcap: None };
        let (loss, log) = cross_entropy_row(&mut logits, &row);
        assert!((loss - 4f32.ln()).abs() < 1e-6 && (log - 1.0 - 4f32.ln()).abs() < 1e-6);
        assert_eq!(logits, [0.5, 0.5, -1.5, 0.5]);
    }

    #[test]
    fn rows_that_agree_diverge_by_nothing_and_others_by_hand() {
        let row = CrossEntropyRow { target: 0, weight: 2.0, z_loss: 0.0, softcap: None };
        let (mut a, mut b, mut alone) = ([0.5, -1.0, 2.0], [1.5, 0.0, 3.0], [0.5, -1.0, 2.0]);
        let (loss, log, divergence) = consistency_rows((&mut a, &mut b), &row, 3.0);
        assert_eq!((loss, log), cross_entropy_row(&mut alone, &row));
        assert!(divergence.abs() < 1e-6 && b.iter().all(|d| d.abs() < 1e-5), "{divergence} {b:?}");
        a.iter().zip(alone).for_each(|(a, alone)| assert!((a - alone).abs() < 1e-5));
        // p = (1/4, 3/4), q = (1/2, 1/2): ½ ((1/4 − 1/2) ln ½ + (3/4 − 1/2) ln 1.5)
        let (mut a, mut b) = ([0.0, 3f32.ln()], [7.0, 7.0]);
        let expected = 0.5 * (0.25 * 2f32.ln() + 0.25 * 1.5f32.ln());
        let divergence = consistency_rows((&mut a, &mut b), &row, 1.0).2;
        assert!((divergence - expected).abs() < 1e-6, "{divergence} {expected}");
    }

    #[test]
    fn gradients_of_two_rows_are_the_slopes_of_loss_and_divergence() {
        let a: Vec<f32> = (0..37).map(|i| ((i * 7) % 11) as f32 * 0.3 - 1.0).collect();
        let b: Vec<f32> = (0..37).map(|i| ((i * 5) % 13) as f32 * 0.2 - 1.0).collect();
        for softcap in [None, Some(3.0)] {
            let row = CrossEntropyRow { target: 4, weight: 0.5, z_loss: 0.1, softcap };
            let at = |a: &[f32], b: &[f32]| {
                let (mut a, mut b) = (a.to_vec(), b.to_vec());
                let (loss, log, divergence) = consistency_rows((&mut a, &mut b), &row, 2.0);
                (0.5 * (loss + 0.1 * log * log + 2.0 * divergence), a, b)
            };
            let (_, d_a, d_b) = at(&a, &b);
            for i in 0..37 {
                let moved = |of: &[f32], by: f32| {
                    let mut of = of.to_vec();
                    of[i] += by;
                    of
                };
                let slope_a = (at(&moved(&a, 0.05), &b).0 - at(&moved(&a, -0.05), &b).0) * 10.0;
                let slope_b = (at(&a, &moved(&b, 0.05)).0 - at(&a, &moved(&b, -0.05)).0) * 10.0;
                assert!((slope_a - d_a[i]).abs() < 1e-3, "{i}: {slope_a} {}", d_a[i]);
                assert!((slope_b - d_b[i]).abs() < 1e-3, "{i}: {slope_b} {}", d_b[i]);
            }
        }
    }
}
