//! The gate of feed-forward layers, and its gradients, on rows of bfloat16: what is rounded anyhow is
//! read and written in half the bytes. The arithmetic is float32.

use crate::activation::{self, GateActivation};
use crate::gemm::RoundedRows;
use crate::kernels::Kernels;
use crate::simd::{LANES, Simd};
use crate::training;

/// Words that are widened at a time.
const WORDS: usize = 256;

impl RoundedRows {
    /// `act(gate) * up`.
    ///
    /// # Panics
    /// If the shapes differ.
    #[must_use]
    pub fn gated(act: GateActivation, gate: &Self, up: &Self) -> Self {
        let kernels = Kernels::get();
        let [out] = Self::made([gate, up], |[gate, up], [out]| {
            // SAFETY: `out` has room for as many words.
            unsafe { kernels.gate_words(act, (gate, up), out) }
        });
        out
    }

    /// The gradients of gate and up of [`Self::gated`].
    ///
    /// # Panics
    /// If the shapes differ.
    #[must_use]
    pub fn gated_backward(
        act: GateActivation,
        (gate, up): (&Self, &Self),
        d_out: &Self,
    ) -> [Self; 2] {
        let kernels = Kernels::get();
        Self::made([gate, up, d_out], |of, to| {
            // SAFETY: both outputs have room for as many words.
            unsafe { kernels.gate_gradient_words(act, of, to) }
        })
    }
}

/// Words of pairs to values.
///
/// # Safety
/// There must be room for them; words are a multiple of 16.
#[inline(always)]
unsafe fn widen<S: Simd>(s: S, words: &[u32], out: &mut [f32]) {
    for at in (0..words.len()).step_by(LANES) {
        // SAFETY: by contract.
        unsafe {
            let from = words.as_ptr().add(at).cast::<u8>();
            s.store(out.as_mut_ptr().add(2 * at), s.load_bf16(from));
            s.store(out.as_mut_ptr().add(2 * at + LANES), s.load_bf16(from.add(2 * LANES)));
        }
    }
}

/// Values to words of pairs.
///
/// # Safety
/// There must be room for them; values are a multiple of 32.
#[inline(always)]
unsafe fn round<S: Simd>(s: S, values: &[f32], out: *mut u32) {
    for at in (0..values.len()).step_by(2 * LANES) {
        // SAFETY: by contract.
        unsafe {
            let from = values.as_ptr().add(at);
            let words = s.round_bf16(s.load(from), s.load(from.add(LANES)));
            s.store_i(out.add(at / 2).cast(), words);
        }
    }
}

/// # Safety
/// Both have as many words, a multiple of 16, and there must be room for as many at `out`.
#[inline(always)]
pub(crate) unsafe fn gate_words<S: Simd>(
    s: S,
    act: GateActivation,
    (gate, up): (&[u32], &[u32]),
    out: *mut u32,
) {
    let [mut g, mut u] = [[0f32; 2 * WORDS]; 2];
    for (at, (gate, up)) in gate.chunks(WORDS).zip(up.chunks(WORDS)).enumerate() {
        let len = 2 * gate.len();
        // SAFETY: by contract.
        unsafe {
            widen(s, gate, &mut g[..len]);
            widen(s, up, &mut u[..len]);
            activation::gate(s, act, &u[..len], &mut g[..len]);
            round(s, &g[..len], out.add(at * WORDS));
        }
    }
}

/// The gradients of gate and up, of gate, up and the gradient of their product.
///
/// # Safety
/// All have as many words, a multiple of 16, and there must be room for as many at both outputs.
#[inline(always)]
pub(crate) unsafe fn gate_gradient_words<S: Simd>(
    s: S,
    act: GateActivation,
    [gate, up, d_out]: [&[u32]; 3],
    [d_gate, d_up]: [*mut u32; 2],
) {
    let [mut g, mut u, mut d] = [[0f32; 2 * WORDS]; 3];
    let chunks = gate.chunks(WORDS).zip(up.chunks(WORDS)).zip(d_out.chunks(WORDS));
    for (at, ((gate, up), d_out)) in chunks.enumerate() {
        let len = 2 * gate.len();
        // SAFETY: by contract.
        unsafe {
            widen(s, gate, &mut g[..len]);
            widen(s, up, &mut u[..len]);
            widen(s, d_out, &mut d[..len]);
            training::gate_gradient(s, act, &u[..len], &mut g[..len], &mut d[..len]);
            round(s, &g[..len], d_gate.add(at * WORDS));
            round(s, &d[..len], d_up.add(at * WORDS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Elements, takes_rounded};

    fn values(rows: &RoundedRows) -> Vec<f32> {
        let (count, cols) = rows.shape();
        (0..count).flat_map(|row| rows.row(row).into_iter().take(cols)).collect()
    }

    #[test]
    fn gates_of_rounded_rows_are_rounded_gates() {
        if !takes_rounded(Elements::Bf16) {
            println!("skipped: no instruction for products of bfloat16");
            return;
        }
        let (rows, cols) = (70, 131);
        let make = |shift: f32| -> RoundedRows {
            let x: Vec<f32> =
                (0..rows * cols).map(|i| (i as f32 * 0.37 + shift).sin() * 3.0).collect();
            RoundedRows::new(&x, cols)
        };
        let (gate, up, d) = (make(0.0), make(1.0), make(2.0));
        let (g, u, dy) = (values(&gate), values(&up), values(&d));
        for act in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf] {
            let rounded = |x: &[f32]| values(&RoundedRows::new(x, cols));
            let mut out = vec![0.0; g.len()];
            crate::gated(act, &g, &u, &mut out);
            assert!(values(&RoundedRows::gated(act, &gate, &up)) == rounded(&out), "{act:?}");
            let (dg, du) = crate::gated_backward(act, (&g, &u), &dy);
            let [d_gate, d_up] = RoundedRows::gated_backward(act, (&gate, &up), &d);
            assert!(values(&d_gate) == rounded(&dg), "{act:?}");
            assert!(values(&d_up) == rounded(&du), "{act:?}");
        }
    }
}
