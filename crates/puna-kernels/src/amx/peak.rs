//! The loops that reach the limit of AMX: products of tiles that stay where they are.

use super::{FULL, Tiles};
use std::arch::asm;

/// Turns of four products per turn of the other loops, so that all take alike.
const TURNS: usize = 4;

/// A loop of four independent sums.
macro_rules! peak {
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $operations:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor must have AMX, and the process its permission.
        pub(crate) unsafe fn $name(turns: usize) -> u64 {
            let turns = turns / TURNS;
            // SAFETY: by contract; tiles are zero after their configuration.
            unsafe {
                let _tiles = Tiles::configure(&FULL);
                asm!(
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {turns}",
                    "jnz 2b",
                    turns = inout(reg) turns => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nomem, nostack)
                );
            }
            (turns * 4 * $operations) as u64
        }
    };
}

peak! {
    /// Products of tiles of bfloat16; the number of operations done.
    peak_bf16, "tdpbf16ps", 16_384
}
peak! {
    /// Products of tiles of bytes; the number of operations done.
    peak_int8, "tdpbssd", 32_768
}
