//! Sums of products in four tiles.

use super::{Digits, ROWS};
use std::arch::asm;

/// Rows of floats in memory, so many apart.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub(super) at: *mut f32,
    pub(super) row: usize,
}

/// `G` groups of 16 rows in four tiles: side by side, or two above two.
impl Sums {
    /// Bytes from row to row, and from the first pair of tiles to the second.
    fn bytes<const G: usize>(self) -> (usize, usize) {
        let row = 4 * self.row;
        (row, if G == 1 { 2 * 64 } else { ROWS * row })
    }

    /// # Safety
    /// They must be readable, and tiles be configured, which nothing else touches up to [`Self::store`].
    #[inline(always)]
    pub(super) unsafe fn load<const G: usize>(self) {
        let (row, second) = self.bytes::<G>();
        // SAFETY: by contract.
        unsafe {
            asm!(
                "tileloadd tmm0, [{at} + 1*{row}]",
                "tileloadd tmm1, [{at} + 1*{row} + 64]",
                "tileloadd tmm2, [{second} + 1*{row}]",
                "tileloadd tmm3, [{second} + 1*{row} + 64]",
                at = in(reg) self.at, second = in(reg) self.at.wrapping_byte_add(second), row = in(reg) row,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, preserves_flags, readonly)
            );
        }
    }

    /// # Safety
    /// They must be writable; after [`Self::load`] or [`begin`].
    #[inline(always)]
    pub(super) unsafe fn store<const G: usize>(self) {
        let (row, second) = self.bytes::<G>();
        // SAFETY: by contract.
        unsafe {
            asm!(
                "tilestored [{at} + 1*{row}], tmm0",
                "tilestored [{at} + 1*{row} + 64], tmm1",
                "tilestored [{second} + 1*{row}], tmm2",
                "tilestored [{second} + 1*{row} + 64], tmm3",
                at = in(reg) self.at, second = in(reg) self.at.wrapping_byte_add(second), row = in(reg) row,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Begins sums with zeros.
///
/// # Safety
/// Tiles must be configured; nothing else touches them up to [`Sums::store`].
#[inline(always)]
pub(super) unsafe fn begin() {
    // SAFETY: by contract.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem, preserves_flags)
        );
    }
}

/// Adds the products of 32 elements of each row with the columns: `h l'`, `h h'` and `l h'`, each of four
/// sums in turn, so that none waits for its last product.
///
/// # Safety
/// The operands must be readable; after [`Sums::load`] or [`begin`].
#[inline(always)]
pub(super) unsafe fn add<const G: usize>(a: Digits, b: Digits) {
    // SAFETY: by contract.
    unsafe {
        if G == 1 {
            asm!(
                "tileloadd tmm4, [{a} + 1*{a_row}]",
                "tileloadd tmm6, [{b_low} + 1*{b_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b_low} + 1*{b_row} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm6, [{b_low} + 1*{b_row} + 128]",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "tileloadd tmm7, [{b_low} + 1*{b_row} + 192]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "tileloadd tmm6, [{b} + 1*{b_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + 1*{b_row} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm6, [{b} + 1*{b_row} + 128]",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "tileloadd tmm7, [{b} + 1*{b_row} + 192]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "tileloadd tmm5, [{a_low} + 1*{a_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + 1*{b_row}]",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tileloadd tmm7, [{b} + 1*{b_row} + 64]",
                "tdpbf16ps tmm1, tmm5, tmm7",
                a = in(reg) a.at, a_low = in(reg) a.at.wrapping_add(a.low), a_row = in(reg) a.row,
                b = in(reg) b.at, b_low = in(reg) b.at.wrapping_add(b.low), b_row = in(reg) b.row,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly)
            );
        } else {
            asm!(
                "tileloadd tmm4, [{a} + 1*{a_row}]",
                "tileloadd tmm6, [{b_low} + 1*{b_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b_low} + 1*{b_row} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{second} + 1*{a_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + 1*{b_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + 1*{b_row} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a_low} + 1*{a_row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{second_low} + 1*{a_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) a.at, a_low = in(reg) a.at.wrapping_add(a.low), a_row = in(reg) a.row,
                second = in(reg) a.at.wrapping_add(ROWS * a.row),
                second_low = in(reg) a.at.wrapping_add(ROWS * a.row + a.low),
                b = in(reg) b.at, b_low = in(reg) b.at.wrapping_add(b.low), b_row = in(reg) b.row,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
}
