//! Sixteen rows at a time: quantized blocks as panels whose lanes are rows.
//!
//! Quants of one sub-block are written as `[column / 4, row, column % 4]` bytes, scales (and biases)
//! as `[sub-block, row]`. Bytes of 16 rows are transposed when they are loaded, four dwords at a
//! time; from there on a lane is a row and each format's bit arithmetic is that of one row, with
//! scales and minimums unpacked for 16 rows at once. The form is that of [`super::unpack`], which
//! does single rows for exact dequantization, and a test compares the two.

mod group;
mod k_quant;
mod legacy;
pub(crate) use group::{GroupTask, Integers, fill_group};

use crate::BlockFormat;
use crate::simd::{LANES, Simd};

/// Rows of a panel.
pub(crate) const ROWS: usize = LANES;

/// Blocks of 16 rows, and where their panel goes.
#[derive(Clone, Copy)]
pub(crate) struct PanelTask {
    /// The first block of row 0.
    pub(crate) rows: *const u8,
    /// Bytes between rows.
    pub(crate) stride: usize,
    /// Blocks per row.
    pub(crate) blocks: usize,
    /// What will be wanted next; as many bytes as this task reads are prefetched from here on.
    pub(crate) ahead: *const u8,
    /// `[cols / 4, 16, 4]`.
    pub(crate) quants: *mut u8,
    /// `[cols / sub, 16]`.
    pub(crate) scales: *mut f32,
    /// `[cols / sub, 16]`; not written where the zero is constant.
    pub(crate) bias: *mut f32,
}

/// Writes a panel.
///
/// # Safety
/// The task's pointers must cover its shape.
#[inline(always)]
pub(crate) unsafe fn fill<S: Simd>(s: S, format: BlockFormat, task: &PanelTask) {
    use BlockFormat as F;
    // SAFETY: the caller vouches for the task.
    unsafe {
        match format {
            F::F32 | F::F16 | F::BF16 => {}
            F::Q4_0 => legacy::q4_0(s, task),
            F::Q4_1 => legacy::q4_1(s, task),
            F::Q5_0 => legacy::q5_0(s, task),
            F::Q5_1 => legacy::q5_1(s, task),
            F::Q8_0 => legacy::q8_0(s, task),
            F::Iq4Nl => legacy::iq4_nl(s, task),
            F::Q2K => k_quant::q2_k(s, task),
            F::Q3K => k_quant::q3_k(s, task),
            F::Q4K => k_quant::q4_k(s, task),
            F::Q5K => k_quant::q5_k(s, task),
            F::Q6K => k_quant::q6_k(s, task),
        }
    }
}

impl PanelTask {
    /// Block `index` of row 0; asks for the memory of a later block of the same size.
    ///
    /// # Safety
    /// `index` is below the number of blocks.
    #[inline(always)]
    unsafe fn block<S: Simd, const BYTES: usize>(&self, s: S, index: usize) -> *const u8 {
        let (first, end) = (index * BYTES * ROWS, (index + 1) * BYTES * ROWS);
        // Lines that begin in this block's share.
        for line in first.div_ceil(64)..end.div_ceil(64) {
            s.prefetch(self.ahead.wrapping_add(64 * line));
        }
        // SAFETY: by contract.
        unsafe { self.rows.add(index * BYTES) }
    }

    /// Writes `N` dwords of columns `col ..` of a panel.
    ///
    /// # Safety
    /// The columns lie in the task.
    #[inline(always)]
    unsafe fn put<S: Simd, const N: usize>(&self, s: S, col: usize, quants: [S::I; N]) {
        for (i, v) in quants.into_iter().enumerate() {
            // SAFETY: by contract.
            unsafe { s.store_i(self.quants.add((col + 4 * i) * ROWS), v) }
        }
    }

    /// Writes the scales of sub-block `sub`.
    ///
    /// # Safety
    /// The sub-block lies in the task.
    #[inline(always)]
    unsafe fn put_scale<S: Simd>(&self, s: S, sub: usize, scale: S::F) {
        // SAFETY: by contract.
        unsafe { s.store(self.scales.add(sub * ROWS), scale) }
    }

    /// Writes the biases of sub-block `sub`.
    ///
    /// # Safety
    /// The sub-block lies in the task, whose format has biases.
    #[inline(always)]
    unsafe fn put_bias<S: Simd>(&self, s: S, sub: usize, bias: S::F) {
        // SAFETY: by contract.
        unsafe { s.store(self.bias.add(sub * ROWS), bias) }
    }
}

/// The low nibbles of four dwords, then the high ones.
#[inline(always)]
fn nibbles<S: Simd>(s: S, packed: [S::I; 4]) -> [S::I; 8] {
    let low = s.splat_i(0x0f0f_0f0f);
    std::array::from_fn(|i| {
        let v = packed[i % 4];
        s.and_i(if i < 4 { v } else { s.shr_i(v, 4) }, low)
    })
}
