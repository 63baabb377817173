//! The gate of gated feed-forward layers (Shazeer 2020) and Gemma 2's soft caps.

use crate::kernels::Kernels;
use crate::math::{self, map_lanes};
use crate::parallel::{Begin, for_each_chunk_mut, made};
use crate::simd::Simd;

/// Values per task: below this another thread costs more than it saves.
const CHUNK: usize = 4 * 1024;

/// The function of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateActivation {
    /// `x sigmoid(x)`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`.
    GeluErf,
}

/// `out = act(gate) * up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn gated(act: GateActivation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    Kernels::get().gated(act, gate, up, out);
}

/// `act(gate) * up`, element by element, in new memory.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn gated_new(act: GateActivation, gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len(), "gate and up");
    let kernels = Kernels::get();
    made(Begin::Copy(gate), CHUNK, |first, gate| {
        kernels.gate(act, &up[first..first + gate.len()], gate);
    })
}

/// `gate = act(gate) * up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn gate_in_place(act: GateActivation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up");
    let kernels = Kernels::get();
    for_each_chunk_mut(gate, CHUNK, |first, gate| {
        kernels.gate(act, &up[first..first + gate.len()], gate);
    });
}

/// `x = cap tanh(x / cap)`, in place (Gemma 2, section 2).
pub fn soft_cap(x: &mut [f32], cap: f32) {
    Kernels::get().soft_cap(x, cap);
}

impl Kernels {
    /// [`gated`] with this instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn gated(&self, act: GateActivation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert_eq!((gate.len(), up.len()), (out.len(), out.len()), "gate, up and output");
        for_each_chunk_mut(out, CHUNK, |first, out| {
            let range = first..first + out.len();
            out.copy_from_slice(&gate[range.clone()]);
            self.gate(act, &up[range], out);
        });
    }

    /// [`soft_cap`] with this instruction set.
    pub fn soft_cap(&self, x: &mut [f32], cap: f32) {
        for_each_chunk_mut(x, CHUNK, |_, x| self.cap(x, cap));
    }
}

/// Slices of equal length; the gate is replaced.
#[inline(always)]
pub(crate) fn gate<S: Simd>(s: S, act: GateActivation, up: &[f32], out: &mut [f32]) {
    match act {
        GateActivation::Silu => {
            map_lanes!(s, out, 0.0, |x| s.mul(x, math::sigmoid(s, x)));
        }
        GateActivation::GeluTanh => map_lanes!(s, out, 0.0, |x| {
            // 0.5 (1 + tanh u) = sigmoid(2 u); 2 sqrt(2 / pi) = 1.5957691.
            let cube = s.mul(s.mul(x, x), s.mul(x, s.splat(0.044_715)));
            let u2 = s.mul(s.splat(1.595_769), s.add(x, cube));
            s.mul(x, math::sigmoid(s, u2))
        }),
        GateActivation::GeluErf => {
            for x in out.iter_mut() {
                *x = 0.5 * *x * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
    }
    for (out, up) in out.iter_mut().zip(up) {
        *out *= up;
    }
}

/// Lanes of `cap tanh(x / cap)`.
#[inline(always)]
pub(crate) fn cap<S: Simd>(s: S, x: &mut [f32], cap: f32) {
    let cap = s.splat(cap);
    map_lanes!(s, x, 0.0, |x| s.mul(cap, math::tanh(s, s.div(x, cap))));
}
