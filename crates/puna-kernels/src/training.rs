//! The backward passes and updates that work element by element or row by row.

use crate::activation::GateActivation;
use crate::kernels::Kernels;
use crate::math;
use crate::parallel::{Begin, OutPtr, for_each_chunk_mut, made};
use crate::pool;
use crate::simd::{LANES, Simd};

/// Values per task of what is bound by memory.
const CHUNK: usize = 16 * 1024;

/// Rows whose share of a norm's weight gradient is summed up together, whatever the threads.
const NORM_ROWS: usize = 64;

/// `a + b`, in new memory.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn add_new(a: &[f32], b: &[f32]) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "terms");
    made(Begin::Copy(a), CHUNK, |first, sum| {
        sum.iter_mut().zip(&b[first..]).for_each(|(a, b)| *a += b);
    })
}

/// `a += b`.
///
/// # Panics
/// If the lengths differ.
pub fn add_in_place(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "terms");
    for_each_chunk_mut(a, CHUNK, |first, a| {
        a.iter_mut().zip(&b[first..]).for_each(|(a, b)| *a += b);
    });
}

/// `sum x²` in float64, in an order that does not depend on the number of threads.
#[must_use]
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut parts = vec![0f64; x.len().div_ceil(CHUNK)];
    for_each_chunk_mut(&mut parts, 1, |i, part| {
        let x = &x[i * CHUNK..x.len().min((i + 1) * CHUNK)];
        part[0] = x.chunks(256).map(|x| f64::from(few_squares(x))).sum();
    });
    parts.iter().sum()
}

/// Lanes side by side, as one sum after another waits for each addition.
fn few_squares(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane += x * x);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += x * x);
    lanes.iter().sum()
}

/// The gradients of gate and up of `out = act(gate) * up`, in new memory.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn gated_backward(
    act: GateActivation,
    (gate, up): (&[f32], &[f32]),
    d_out: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let len = gate.len();
    assert_eq!((up.len(), d_out.len()), (len, len), "gate, up and gradient");
    let kernels = Kernels::get();
    let mut d_up = Vec::with_capacity(len);
    let d_up_at = OutPtr::new(&mut d_up.spare_capacity_mut()[..len]);
    let d_gate = made(Begin::Copy(gate), CHUNK, |first, d_gate| {
        let part = first..first + d_gate.len();
        // SAFETY: chunks are disjoint, and both outputs have one length.
        let room = unsafe { d_up_at.slice(part.clone()) };
        let d_up = room.write_copy_of_slice(&d_out[part.clone()]);
        kernels.gate_gradient(act, &up[part], d_gate, d_up);
    });
    // SAFETY: every chunk of it was written.
    unsafe { d_up.set_len(len) };
    (d_gate, d_up)
}

/// Slices of equal length: `x` holds the gate and becomes its gradient, `d` holds the output's
/// gradient and becomes that of `up`.
#[inline(always)]
pub(crate) fn gate_gradient<S: Simd>(
    s: S,
    act: GateActivation,
    up: &[f32],
    x: &mut [f32],
    d: &mut [f32],
) {
    if act == GateActivation::GeluErf {
        for ((x, d), up) in x.iter_mut().zip(d).zip(up) {
            let cdf = 0.5 * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2));
            // 1 / sqrt(2 pi) = 0.3989423
            let density = 0.398_942_3 * (-0.5 * *x * *x).exp();
            (*x, *d) = (*d * *up * (cdf + *x * density), *d * *x * cdf);
        }
        return;
    }
    let mut at = 0;
    while at < x.len() {
        let n = (x.len() - at).min(LANES);
        if n == LANES {
            // SAFETY: 16 values lie behind `at` in all three, which have one length.
            unsafe {
                let (x, d) = (x[at..].as_mut_ptr(), d[at..].as_mut_ptr());
                let (g, dy, u) = (s.load(x), s.load(d), s.load(up[at..].as_ptr()));
                let (value, slope) = value_and_slope(s, act, g);
                s.store(x, s.mul(s.mul(dy, u), slope));
                s.store(d, s.mul(dy, value));
            }
            at += n;
            continue;
        }
        let mut padded = [[0f32; LANES]; 3];
        for (padded, from) in padded.iter_mut().zip([&x[at..], &d[at..], &up[at..]]) {
            padded[..n].copy_from_slice(&from[..n]);
        }
        // SAFETY: arrays of 16.
        unsafe {
            let [g, dy, u] = padded.each_ref().map(|p| s.load(p.as_ptr()));
            let (value, slope) = value_and_slope(s, act, g);
            s.store(padded[0].as_mut_ptr(), s.mul(s.mul(dy, u), slope));
            s.store(padded[1].as_mut_ptr(), s.mul(dy, value));
        }
        x[at..at + n].copy_from_slice(&padded[0][..n]);
        d[at..at + n].copy_from_slice(&padded[1][..n]);
        at += n;
    }
}

/// `act(x)` and its derivative: both activations are `x sigmoid(u)`, so the derivative is
/// `sigmoid(u) + x sigmoid(u) (1 - sigmoid(u)) u'`.
#[inline(always)]
fn value_and_slope<S: Simd>(s: S, act: GateActivation, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let (u, slope) = match act {
        GateActivation::GeluTanh => {
            // u = 2 sqrt(2 / pi) (x + 0.044715 x³), u' = 2 sqrt(2 / pi) (1 + 0.134145 x²)
            let square = s.mul(x, x);
            let factor = s.splat(1.595_769);
            let inner = s.fma(square, s.splat(0.044_715), one);
            (s.mul(factor, s.mul(x, inner)), s.mul(factor, s.fma(square, s.splat(0.134_145), one)))
        }
        _ => (x, one),
    };
    let sigmoid = math::sigmoid(s, u);
    let value = s.mul(x, sigmoid);
    let rest = s.mul(s.sub(one, sigmoid), slope);
    (value, s.fma(value, rest, sigmoid))
}

/// Backward of [`crate::rms_norm`]: the gradient of `x` with what it had `before`, in new memory; adds
/// to `d_weight`.
///
/// With `r = 1 / sqrt(mean(x²) + eps)`: `dx = r (w dy) - x r³ / C sum(w dy x)`,
/// `dw = sum over rows of dy x r`.
///
/// # Shapes
/// `x`, `dy`, `before`, result `[rows, C]`, `weight`, `d_weight` `[C]`; `d_weight` may be empty if it is
/// not wanted.
///
/// # Panics
/// If the lengths do not agree.
#[must_use]
pub fn rms_norm_backward(
    (x, weight, eps): (&[f32], &[f32], f32),
    dy: &[f32],
    before: Option<&[f32]>,
    d_weight: &mut [f32],
) -> Vec<f32> {
    let (len, cols) = (x.len(), weight.len());
    assert!(cols > 0 && len.is_multiple_of(cols), "{len} values in rows of {cols}");
    assert_eq!((dy.len(), before.map_or(len, <[f32]>::len)), (len, len), "gradients");
    assert!(d_weight.is_empty() || d_weight.len() == cols, "gradient of the weight");
    let kernels = Kernels::get();
    let chunk = NORM_ROWS * cols;
    let mut partial = vec![0f32; if d_weight.is_empty() { 0 } else { len.div_ceil(chunk) * cols }];
    let partial_at = OutPtr::new(&mut partial);
    let wanted = !d_weight.is_empty();
    let begin = before.map_or(Begin::Zeros(len), Begin::Copy);
    let dx = made(begin, chunk, |first, dx| {
        let part = first..first + dx.len();
        let own = if wanted { first / chunk * cols..(first / chunk + 1) * cols } else { 0..0 };
        // SAFETY: every chunk has its own.
        let partial = unsafe { partial_at.slice(own) };
        let rows = x[part.clone()].chunks_exact(cols).zip(dy[part].chunks_exact(cols));
        for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(cols)) {
            kernels.norm_gradient((x, weight, eps), dy, dx, partial);
        }
    });
    for partial in partial.chunks_exact(cols) {
        d_weight.iter_mut().zip(partial).for_each(|(d, p)| *d += p);
    }
    dx
}

/// Adds the gradients of one row; `dw` may be empty.
#[inline(always)]
pub(crate) fn norm_gradient<S: Simd>(
    s: S,
    (x, w, eps): (&[f32], &[f32], f32),
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let mean = math::sum_lanes!(s, x, 0.0, |v| s.mul(v, v)) / x.len() as f64;
    let r = 1.0 / (mean + f64::from(eps)).sqrt();
    let mut dot = 0f64;
    for ((x, w), dy) in x.chunks(256).zip(w.chunks(256)).zip(dy.chunks(256)) {
        let mut lanes = [0f32; LANES];
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (w, w_rest) = w.as_chunks::<LANES>();
        let (dy, dy_rest) = dy.as_chunks::<LANES>();
        for ((x, w), dy) in x.iter().zip(w).zip(dy) {
            for (lane, ((x, w), dy)) in lanes.iter_mut().zip(x.iter().zip(w).zip(dy)) {
                *lane += dy * w * x;
            }
        }
        let rest: f32 = x_rest.iter().zip(w_rest).zip(dy_rest).map(|((x, w), dy)| dy * w * x).sum();
        dot += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    let (r, back) = (r as f32, (r * r * r * dot / x.len() as f64) as f32);
    for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
        *dx += dy * w * r - x * back;
    }
    for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
        *dw += dy * (x * r);
    }
}

/// One step of AdamW (Loshchilov and Hutter, arXiv:1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay rates of the moments.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// `1 - beta^step` of both moments.
    pub corrections: (f32, f32),
    /// Factor of the gradient (clipping).
    pub gradient_scale: f32,
}

/// Updates weights and moments by the gradient.
///
/// # Panics
/// If the lengths differ.
pub fn adamw(
    weights: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    step: &AdamWStep,
) {
    let len = weights.len();
    assert_eq!((gradient.len(), first.len(), second.len()), (len, len, len), "moments");
    let kernels = Kernels::get();
    let (weights, first, second) = (OutPtr::new(weights), OutPtr::new(first), OutPtr::new(second));
    pool::run(len.div_ceil(CHUNK), |i| {
        let part = i * CHUNK..len.min((i + 1) * CHUNK);
        // SAFETY: chunks are disjoint.
        unsafe {
            let moments = (first.slice(part.clone()), second.slice(part.clone()));
            kernels.adamw_part(weights.slice(part.clone()), &gradient[part], moments, step);
        }
    });
}

#[inline(always)]
pub(crate) fn adamw_part(
    weights: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    step: &AdamWStep,
) {
    let (b1, b2) = step.betas;
    let (c1, c2) = (1.0 / step.corrections.0, 1.0 / step.corrections.1);
    let keep = 1.0 - step.lr * step.weight_decay;
    let moments = first.iter_mut().zip(second);
    for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(moments) {
        let g = g * step.gradient_scale;
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * (g * g);
        *w = *w * keep - step.lr * (*m * c1) / ((*v * c2).sqrt() + step.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_of_adamw_moves_by_the_learning_rate() {
        let step = AdamWStep {
            lr: 0.1,
            betas: (0.9, 0.95),
            eps: 0.0,
            weight_decay: 0.5,
            corrections: (0.1, 0.05),
            gradient_scale: 1.0,
        };
        let (mut w, mut m, mut v) = ([2.0], [0.0], [0.0]);
        adamw(&mut w, &[-3.0], (&mut m, &mut v), &step);
        // 2 (1 - 0.1 · 0.5) + 0.1
        assert!((w[0] - 2.0).abs() < 1e-6, "{w:?}");
        assert!((m[0] + 0.3).abs() < 1e-6 && (v[0] - 0.45).abs() < 1e-6);
    }

    #[test]
    fn the_gate_gradient_is_the_slope_of_the_gate() {
        let gate: Vec<f32> = (0..35).map(|i| i as f32 * 0.2 - 3.4).collect();
        let up: Vec<f32> = (0..35).map(|i| 1.0 - i as f32 * 0.05).collect();
        for act in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf] {
            let at = |shift: f32| {
                let moved: Vec<f32> = gate.iter().map(|g| g + shift).collect();
                let mut out = vec![0.0; 35];
                crate::gated(act, &moved, &up, &mut out);
                out
            };
            let (d_gate, d_up) = gated_backward(act, (&gate, &up), &[1.0; 35]);
            let (above, below, value) = (at(1.0 / 64.0), at(-1.0 / 64.0), at(0.0));
            for i in 0..35 {
                let slope = (above[i] - below[i]) * 32.0;
                assert!((slope - d_gate[i]).abs() < 2e-4, "{act:?} {i}: {slope} {}", d_gate[i]);
                assert!((value[i] - d_up[i] * up[i]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_sum_of_squares_does_not_depend_on_the_threads() {
        let x: Vec<f32> = (0..100_000).map(|i| (i % 1013) as f32 * 0.001).collect();
        let sum = |threads| crate::with_threads(threads, || sum_of_squares(&x));
        assert_eq!(sum(1), sum(4));
        let exact: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        assert!((sum(1) / exact - 1.0).abs() < 1e-6);
    }
}
