//! Blocks of products of bfloat16 pairs: 32 x 32 outputs in four tiles.

use super::{Config, FULL, ROWS, Tiles, WORDS};
use crate::gemm::{Block, Words, room};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::simd::{Avx512Bf16, Simd};
use std::arch::asm;
use std::cell::RefCell;
use std::ops::Range;

/// Columns of a panel: two tiles.
const COLS: usize = 2 * WORDS;

/// Words of a tile whose rows lie behind one another.
const TILE: usize = ROWS * WORDS;

thread_local! {
    /// Tiles of left operands that do not lie in memory as such.
    static TILES_OF_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// [`crate::gemm::block`] in tiles. The sums are those of `tdpbf16ps`: over 32 elements at a time,
/// even and odd ones apart.
///
/// # Safety
/// The block's pointers must cover its shape, with panels of 32 columns; this machine must have AMX,
/// and `avx512` be its table.
pub(crate) unsafe fn gemm_block(avx512: &Kernels, block: &Block) {
    if block.words == Words::F32 {
        // SAFETY: by contract.
        return unsafe { avx512.gemm_block(block) };
    }
    TILES_OF_A.with_borrow_mut(|own| {
        // SAFETY: by contract.
        unsafe {
            let left =
                if block.a_step == 1 { Left::rows(block, own) } else { transposed(block, own) };
            let pairs = block.rows / (2 * ROWS);
            if pairs > 0 {
                let _tiles = Tiles::configure(&FULL);
                all::<true>(block, &left, 0..pairs);
            }
            let rest = block.rows % (2 * ROWS);
            let (top, bottom) = (rest.min(ROWS) as u8, rest.saturating_sub(ROWS) as u8);
            let rows = [top, top, bottom, bottom, top, bottom, 16, 16];
            let config = Config::new(rows.map(|rows| (rows, 64)));
            if rest > 0 {
                let _tiles = Tiles::configure(&config);
                if bottom > 0 {
                    all::<true>(block, &left, pairs..pairs + 1);
                } else {
                    all::<false>(block, &left, pairs..pairs + 1);
                }
            }
        }
    });
}

/// Tiles of the left operand, 16 rows x 16 words, of which one lies below the other.
#[derive(Clone, Copy)]
struct Below {
    at: *const u32,
    /// Words between the rows of a tile.
    row: usize,
    /// Words between tiles.
    group: usize,
}

/// The left operand in tiles.
struct Left {
    first: Below,
    /// Words from a tile to its right neighbor.
    step: usize,
    /// The rightmost ones, filled up with zeros, where rows do not end with a tile.
    last: Below,
}

impl Left {
    /// Rows as they lie in memory; only their ends are copied.
    ///
    /// # Safety
    /// The block's rows must be readable.
    unsafe fn rows(block: &Block, own: &mut Vec<Line>) -> Self {
        let end = block.steps % WORDS;
        let rows = if end > 0 { block.rows } else { 0 };
        let ends = room(own, rows * WORDS);
        for row in 0..rows {
            // SAFETY: the last words of a row, and a row of the room.
            unsafe {
                let to = ends.add(row * WORDS);
                to.copy_from_nonoverlapping(
                    block.a.add(row * block.a_row + block.steps - end),
                    end,
                );
                to.add(end).write_bytes(0, WORDS - end);
            }
        }
        Self {
            first: Below { at: block.a, row: block.a_row, group: ROWS * block.a_row },
            step: WORDS,
            last: Below { at: ends, row: WORDS, group: TILE },
        }
    }
}

/// Steps, in each of which the words of all rows lie together, as tiles.
///
/// # Safety
/// The block's words must be readable, up to a multiple of 16 of each step; the machine must have
/// AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn transposed(block: &Block, own: &mut Vec<Line>) -> Left {
    debug_assert!(block.a_row == 1 && block.a_step.is_multiple_of(ROWS), "steps of whole vectors");
    let (groups, tiles) = (block.rows.div_ceil(ROWS), block.steps.div_ceil(WORDS));
    let at = room(own, groups * tiles * TILE);
    let whole = block.steps / WORDS;
    let mut end = [[0u32; ROWS]; WORDS];
    for group in 0..groups {
        // SAFETY: the steps hold whole groups of rows, and there is room for all tiles.
        unsafe {
            let s = Avx512Bf16::assume();
            let from = block.a.add(group * ROWS);
            let put = |tile: usize, from: *const u32, stride: usize| {
                for row in (0..ROWS).step_by(4) {
                    let rows = s.rows16(from.add(row).cast(), 4 * stride);
                    let out = at.add((group * tiles + tile) * TILE + row * WORDS);
                    for (i, words) in rows.into_iter().enumerate() {
                        s.store_i(out.add(i * WORDS).cast(), words);
                    }
                }
            };
            for tile in 0..whole {
                put(tile, from.add(tile * WORDS * block.a_step), block.a_step);
            }
            if whole < tiles {
                for (step, end) in (whole * WORDS..block.steps).zip(&mut end) {
                    end.as_mut_ptr().copy_from_nonoverlapping(from.add(step * block.a_step), ROWS);
                }
                put(whole, end.as_ptr().cast(), ROWS);
            }
        }
    }
    let first = Below { at, row: WORDS, group: tiles * TILE };
    Left { first, step: TILE, last: Below { at: at.wrapping_add(whole * TILE), ..first } }
}

/// Some pairs of tiles of rows against all panels; without `BOTTOM` the lower tile of the pair is
/// empty. Rows of C are written from left to right, as what writes to memory wants: the other order
/// takes half as long again where C is not in the caches.
///
/// # Safety
/// The block's pointers must cover its shape, and tiles be configured for these rows.
unsafe fn all<const BOTTOM: bool>(block: &Block, left: &Left, pairs: Range<usize>) {
    let (whole, end) = (block.steps / WORDS, block.steps % WORDS);
    // Words that are not written stay zero.
    let mut panel_end = Padded([[0; COLS]; WORDS]);
    for pair in pairs {
        let row = 2 * ROWS * pair;
        for (panel, col) in (0..block.cols).step_by(COLS).enumerate() {
            let b = block.b.wrapping_add(panel * block.b_panel);
            // SAFETY: the panel lies in the block by contract, and so do the tiles of rows.
            unsafe {
                if end > 0 {
                    let to = panel_end.0.as_mut_ptr().cast::<u32>();
                    to.copy_from_nonoverlapping(b.add(whole * WORDS * COLS), end * COLS);
                }
                let c = block.c.add(row * block.c_stride + col);
                let shape = ((block.rows - row).min(2 * ROWS), (block.cols - col).min(COLS));
                let panel = ((b, whole), panel_end.0.as_ptr().cast());
                if shape.1 > WORDS {
                    one::<BOTTOM, true>(block, left, (2 * pair, panel), (c, shape));
                } else {
                    one::<BOTTOM, false>(block, left, (2 * pair, panel), (c, shape));
                }
            }
        }
    }
}

/// A pair of tiles of rows against a panel (its whole tiles, and what is behind them).
///
/// # Safety
/// As [`all`]; the outputs of this shape must be readable and writable at `c`.
#[inline(always)]
unsafe fn one<const BOTTOM: bool, const RIGHT: bool>(
    block: &Block,
    left: &Left,
    (group, ((b, whole), end)): (usize, ((*const u32, usize), *const u32)),
    (c, shape): (*mut f32, (usize, usize)),
) {
    // SAFETY: by contract.
    unsafe {
        in_full::<RIGHT>(block, (c, shape), |c, stride| {
            let mut walk =
                Walk { a: left.first, step: left.step, group, b, tiles: whole, add: block.add };
            if whole > 0 {
                walk.run::<BOTTOM, RIGHT>(c, stride);
                walk.add = true;
            }
            if !block.steps.is_multiple_of(WORDS) {
                Walk { a: left.last, b: end, tiles: 1, ..walk }.run::<BOTTOM, RIGHT>(c, stride);
            }
        });
    }
}

/// The end of a panel of columns.
#[repr(C, align(64))]
struct Padded([[u32; COLS]; WORDS]);

/// Hands `product` outputs of 32 columns, or without `RIGHT` 16: those of C, or some outside it of which
/// the first are copied.
///
/// # Safety
/// The outputs of this shape must be readable and writable at `c`.
#[inline(always)]
unsafe fn in_full<const RIGHT: bool>(
    block: &Block,
    (c, (rows, cols)): (*mut f32, (usize, usize)),
    product: impl Fn(*mut f32, usize),
) {
    if cols == if RIGHT { COLS } else { WORDS } {
        return product(c, block.c_stride);
    }
    let mut corner = [[0f32; COLS]; 2 * ROWS];
    // SAFETY: by contract.
    unsafe {
        for (row, corner) in corner.iter_mut().take(if block.add { rows } else { 0 }).enumerate() {
            corner.as_mut_ptr().copy_from_nonoverlapping(c.add(row * block.c_stride), cols);
        }
        product(corner.as_mut_ptr().cast(), COLS);
        for (row, corner) in corner.iter().take(rows).enumerate() {
            c.add(row * block.c_stride).copy_from_nonoverlapping(corner.as_ptr(), cols);
        }
    }
}

/// Two by two tiles of C in registers, or fewer: zeroed or loaded, all products along the rows of A, stored.
macro_rules! walk {
    (zero: [$($zero:literal)*], load: [$($load:literal)*], step: [$($step:literal)*],
     store: [$($store:literal)*], $($operands:tt)*) => {
        asm!(
            "test {add:e}, {add:e}",
            "jnz 2f",
            $($zero,)*
            "jmp 3f",
            "2:",
            $($load,)*
            "3:",
            $($step,)*
            "add {b}, {b_tile}",
            "dec {tiles}",
            "jnz 3b",
            $($store,)*
            $($operands)*
        )
    };
}

/// What [`wide`] and [`narrow`] walk along.
#[derive(Clone, Copy)]
struct Walk {
    a: Below,
    /// Words from a tile of A to its right neighbor.
    step: usize,
    /// The upper one of the tiles of rows.
    group: usize,
    b: *const u32,
    /// Tiles along the rows.
    tiles: usize,
    add: bool,
}

impl Walk {
    /// `C = A B` or, with `add`, `C += A B` for a pair of tiles of rows; without `RIGHT` for the first 16
    /// columns only.
    ///
    /// # Safety
    /// All tiles must be readable, C writable, and tiles configured.
    #[inline(always)]
    unsafe fn run<const BOTTOM: bool, const RIGHT: bool>(self, c: *mut f32, stride: usize) {
        // SAFETY: by contract.
        unsafe {
            if RIGHT {
                self.wide::<BOTTOM>(c, stride);
            } else {
                self.narrow::<BOTTOM>(c, stride);
            }
        }
    }

    /// # Safety
    /// As [`Self::run`].
    #[inline(always)]
    unsafe fn wide<const BOTTOM: bool>(self, c: *mut f32, stride: usize) {
        let Self { a, step, group, b, tiles, add } = self;
        let top = a.at.wrapping_add(group * a.group);
        let (c_row, a_row, step, add) = (4 * stride, 4 * a.row, 4 * step, u32::from(add));
        // SAFETY: by contract.
        unsafe {
            if BOTTOM {
                let (bottom, d) = (top.wrapping_add(a.group), c.wrapping_add(ROWS * stride));
                walk!(
                    zero: ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
                    load: [
                        "tileloadd tmm0, [{c} + 1*{c_row}]"
                        "tileloadd tmm1, [{c} + 1*{c_row} + 64]"
                        "tileloadd tmm2, [{d} + 1*{c_row}]"
                        "tileloadd tmm3, [{d} + 1*{c_row} + 64]"
                    ],
                    step: [
                        "tileloadd tmm6, [{b} + 1*{b_row}]"
                        "tileloadd tmm4, [{top} + 1*{a_row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6"
                        "tileloadd tmm7, [{b} + 1*{b_row} + 64]"
                        "tdpbf16ps tmm1, tmm4, tmm7"
                        "tileloadd tmm5, [{bottom} + 1*{a_row}]"
                        "tdpbf16ps tmm2, tmm5, tmm6"
                        "tdpbf16ps tmm3, tmm5, tmm7"
                        "add {top}, {step}"
                        "add {bottom}, {step}"
                    ],
                    store: [
                        "tilestored [{c} + 1*{c_row}], tmm0"
                        "tilestored [{c} + 1*{c_row} + 64], tmm1"
                        "tilestored [{d} + 1*{c_row}], tmm2"
                        "tilestored [{d} + 1*{c_row} + 64], tmm3"
                    ],
                    add = in(reg) add, c = in(reg) c, d = in(reg) d, c_row = in(reg) c_row,
                    top = inout(reg) top => _, bottom = inout(reg) bottom => _, a_row = in(reg) a_row,
                    step = in(reg) step, b = inout(reg) b => _, b_row = in(reg) B_ROW,
                    b_tile = const B_ROW * WORDS, tiles = inout(reg) tiles => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            } else {
                walk!(
                    zero: ["tilezero tmm0" "tilezero tmm1"],
                    load: ["tileloadd tmm0, [{c} + 1*{c_row}]" "tileloadd tmm1, [{c} + 1*{c_row} + 64]"],
                    step: [
                        "tileloadd tmm6, [{b} + 1*{b_row}]"
                        "tileloadd tmm4, [{top} + 1*{a_row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6"
                        "tileloadd tmm7, [{b} + 1*{b_row} + 64]"
                        "tdpbf16ps tmm1, tmm4, tmm7"
                        "add {top}, {step}"
                    ],
                    store: [
                        "tilestored [{c} + 1*{c_row}], tmm0" "tilestored [{c} + 1*{c_row} + 64], tmm1"
                    ],
                    add = in(reg) add, c = in(reg) c, c_row = in(reg) c_row,
                    top = inout(reg) top => _, a_row = in(reg) a_row, step = in(reg) step,
                    b = inout(reg) b => _, b_row = in(reg) B_ROW, b_tile = const B_ROW * WORDS,
                    tiles = inout(reg) tiles => _,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    }

    /// # Safety
    /// As [`Self::run`].
    #[inline(always)]
    unsafe fn narrow<const BOTTOM: bool>(self, c: *mut f32, stride: usize) {
        let Self { a, step, group, b, tiles, add } = self;
        let top = a.at.wrapping_add(group * a.group);
        let (c_row, a_row, step, add) = (4 * stride, 4 * a.row, 4 * step, u32::from(add));
        // SAFETY: by contract.
        unsafe {
            if BOTTOM {
                let (bottom, d) = (top.wrapping_add(a.group), c.wrapping_add(ROWS * stride));
                walk!(
                    zero: ["tilezero tmm0" "tilezero tmm2"],
                    load: ["tileloadd tmm0, [{c} + 1*{c_row}]" "tileloadd tmm2, [{d} + 1*{c_row}]"],
                    step: [
                        "tileloadd tmm6, [{b} + 1*{b_row}]"
                        "tileloadd tmm4, [{top} + 1*{a_row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6"
                        "tileloadd tmm5, [{bottom} + 1*{a_row}]"
                        "tdpbf16ps tmm2, tmm5, tmm6"
                        "add {top}, {step}"
                        "add {bottom}, {step}"
                    ],
                    store: [
                        "tilestored [{c} + 1*{c_row}], tmm0" "tilestored [{d} + 1*{c_row}], tmm2"
                    ],
                    add = in(reg) add, c = in(reg) c, d = in(reg) d, c_row = in(reg) c_row,
                    top = inout(reg) top => _, bottom = inout(reg) bottom => _, a_row = in(reg) a_row,
                    step = in(reg) step, b = inout(reg) b => _, b_row = in(reg) B_ROW,
                    b_tile = const B_ROW * WORDS, tiles = inout(reg) tiles => _,
                    out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                    options(nostack)
                );
            } else {
                walk!(
                    zero: ["tilezero tmm0"],
                    load: ["tileloadd tmm0, [{c} + 1*{c_row}]"],
                    step: [
                        "tileloadd tmm6, [{b} + 1*{b_row}]"
                        "tileloadd tmm4, [{top} + 1*{a_row}]"
                        "tdpbf16ps tmm0, tmm4, tmm6"
                        "add {top}, {step}"
                    ],
                    store: ["tilestored [{c} + 1*{c_row}], tmm0"],
                    add = in(reg) add, c = in(reg) c, c_row = in(reg) c_row,
                    top = inout(reg) top => _, a_row = in(reg) a_row, step = in(reg) step,
                    b = inout(reg) b => _, b_row = in(reg) B_ROW, b_tile = const B_ROW * WORDS,
                    tiles = inout(reg) tiles => _,
                    out("tmm0") _, out("tmm4") _, out("tmm6") _,
                    options(nostack)
                );
            }
        }
    }
}

/// Bytes of a row of B.
const B_ROW: usize = 4 * COLS;
