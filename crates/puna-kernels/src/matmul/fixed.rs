//! Products of Q8_0 in integers of 16 bits (`amx/fixed.rs`), where the instruction set has them.

use super::{AHEAD, Target};
use crate::blocks::panel::ROWS;
use crate::kernels::Kernels;
use crate::line::Line;
use crate::matrix::{Matrix, RowScales, panel_head};
use crate::parallel::OutPtr;
use crate::{BlockFormat, pool};
use std::cell::RefCell;
use std::ops::Range;

/// Panels that are multiplied together: they meet a part of the tokens' columns before the next one comes.
pub(crate) const PANELS: usize = 16;

/// Tokens that are multiplied together at most: their sums with all panels of a tile take a MiB of a
/// second-level cache.
pub(super) const TOKENS: usize = 512;

/// Tokens up to which all of a row's columns of two panels are taken before the next.
const FEW: usize = 64;

/// Most tokens that are multiplied by vectors. Tiles take sixteen as soon as one.
const BY_VECTORS: usize = 8;

/// Tokens of a tile.
const SIXTEEN: usize = 16;

/// Columns of a step of tiles.
const STEP: usize = 64;

/// Bytes of the weights of a panel that are unpacked at a time, 512 columns in two bytes: those of two
/// panels fill two thirds of a first-level cache.
pub(crate) const WEIGHT_BYTES: usize = 16 * 1024;

/// Bytes of the sums of a panel and 16 tokens: two of 32 bits for each output.
pub(crate) const SUM_BYTES: usize = 2048;

/// Most columns whose sums of byte products fit into 32 bits.
const MOST_COLS: usize = 60 * 1024;

/// The inner loops.
pub(crate) struct FixedKernels {
    /// A token as a row of tiles; returns its scale.
    pub(crate) digits: unsafe fn(&[f32], *mut u8) -> f32,
    /// One of few tokens as words; returns its scale.
    pub(crate) words: unsafe fn(&[f32], *mut i32) -> f32,
    /// So many blocks of a panel times few tokens.
    pub(crate) few: unsafe fn(&FixedPanel, usize, &FewTokens, *mut f32),
    pub(crate) multiply: unsafe fn(&FixedTile),
}

/// Tokens as words.
pub(crate) struct FewTokens {
    pub(crate) words: *const i32,
    /// Words from token to token.
    pub(crate) stride: usize,
    pub(crate) scales: *const f32,
    pub(crate) count: usize,
}

/// 16 rows.
#[derive(Clone, Copy)]
pub(crate) struct FixedPanel {
    /// Their first block.
    pub(crate) at: *const u8,
    /// Bytes from row to row; interleaved where there is none.
    pub(crate) stride: Option<usize>,
    /// The largest scales of the rows; null where they are not known, which is only where these are not
    /// interleaved.
    pub(crate) largest: *const f32,
    /// How many bytes ahead of its use memory is asked for, where there are few tokens.
    pub(crate) ahead: usize,
    /// Bytes of a panel with its head, where they are interleaved.
    pub(crate) bytes: usize,
    /// The rows whose outputs are wanted, a bit each.
    pub(crate) lanes: u16,
    /// Where they go, from the tile's first output on (wrapping).
    pub(crate) row: usize,
}

/// Panels against some tokens.
pub(crate) struct FixedTile<'a> {
    /// One to sixteen.
    pub(crate) panels: &'a [FixedPanel],
    /// Blocks of a row.
    pub(crate) blocks: usize,
    /// Pairs of tiles of the first 16 tokens, step after step.
    pub(crate) x: *const u8,
    pub(crate) x_scales: *const f32,
    pub(crate) tokens: usize,
    pub(crate) to: super::Place,
    /// Memory for the weights of two panels, and for the sums of each with all tokens.
    pub(crate) weights: *mut u8,
    pub(crate) sums: *mut u8,
}

impl FixedTile<'_> {
    /// The sums of a panel and the 16 tokens from `token` on.
    #[inline(always)]
    pub(crate) fn sums_at(&self, panel: usize, token: usize) -> *mut u8 {
        let index = panel * self.tokens.div_ceil(SIXTEEN) + token / SIXTEEN;
        self.sums.wrapping_add(index * SUM_BYTES)
    }
}

/// Tokens as integers of 16 bits.
#[derive(Default)]
pub(super) struct FixedTokens {
    lines: Vec<Line>,
    scales: Vec<f32>,
    is_live: bool,
}

impl FixedTokens {
    pub(super) fn begin(&mut self) {
        self.is_live = false;
    }

    /// Takes tokens of `cols` values over, if they are not there in this form.
    pub(super) fn convert(&mut self, kernels: &FixedKernels, (x, cols): (&[f32], usize)) {
        if std::mem::replace(&mut self.is_live, true) {
            return;
        }
        let tokens = x.len() / cols;
        self.scales.resize(tokens, 0.0);
        let words = tokens <= BY_VECTORS;
        let sixteen = cols.div_ceil(STEP) * 2 * SIXTEEN;
        let lines =
            if words { tokens * word_lines(cols) } else { tokens.div_ceil(SIXTEEN) * sixteen };
        self.lines.resize(lines, Line::ZERO);
        let (at, scales) = (OutPtr::new(&mut self.lines), OutPtr::new(&mut self.scales));
        let chunk = super::activations::MIN_PARALLEL.div_ceil(cols);
        pool::run(tokens.div_ceil(chunk), |index| {
            for token in index * chunk..tokens.min((index + 1) * chunk) {
                let x = &x[token * cols..][..cols];
                let row = token / SIXTEEN * sixteen + token % SIXTEEN;
                // SAFETY: the table's instructions exist; the lines have room for every token, each
                // has its own rows of them, and its own scale.
                unsafe {
                    *scales.at(token) = if words {
                        (kernels.words)(x, at.at(token * word_lines(cols)).cast())
                    } else {
                        (kernels.digits)(x, at.at(row).cast())
                    };
                }
            }
        });
    }
}

/// Lines of a token in words: as many as it has values, and one more.
fn word_lines(cols: usize) -> usize {
    (cols + 1).div_ceil(size_of::<Line>() / size_of::<i32>())
}

thread_local! {
    /// A thread's weights and sums.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Rows of Q8_0, interleaved or not.
#[derive(Clone, Copy)]
pub(super) struct FixedWeights<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) in_panels: bool,
    /// Of rows that are not interleaved.
    pub(super) scales: Option<&'a RowScales>,
}

impl<'a> FixedWeights<'a> {
    /// Whether a matrix of this format can be multiplied so.
    pub(super) fn takes(kernels: &Kernels, format: BlockFormat, cols: usize) -> bool {
        kernels.fixed.is_some() && format == BlockFormat::Q8_0 && cols <= MOST_COLS
    }

    /// The largest scales of rows that many tokens are multiplied with. Few look for them on the way, as
    /// that brings the rows into the cache in their order, which is what they wait for.
    pub(super) fn scales(&self, w: &Matrix, tokens: usize) -> Option<&'a [f32]> {
        let scales = self.scales.filter(|_| tokens > FEW)?;
        Some(scales.of_rows(self.bytes, row_bytes(w)))
    }
}

/// What all cells of a product share.
pub(super) struct FixedProduct<'a> {
    pub(super) weights: FixedWeights<'a>,
    /// The largest scales of rows that are not interleaved, where they are known.
    pub(super) scales: Option<&'a [f32]>,
    pub(super) w: &'a Matrix<'a>,
    pub(super) tokens: &'a FixedTokens,
}

impl FixedProduct<'_> {
    /// The outputs of a cell of the grid.
    pub(super) fn run(
        &self,
        kernels: &FixedKernels,
        (rows, tokens): (Range<usize>, Range<usize>),
        to: Target,
    ) {
        if self.tokens.scales.len() <= BY_VECTORS {
            return self.run_few(kernels, (rows, tokens), to);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let weights = 2 * WEIGHT_BYTES / size_of::<Line>();
            for tokens in pieces(tokens, TOKENS) {
                let sums = PANELS * tokens.len().div_ceil(SIXTEEN) * SUM_BYTES / size_of::<Line>();
                if scratch.len() < weights + sums {
                    scratch.resize(weights + sums, Line::ZERO);
                }
                let (weights, sums) = scratch.split_at_mut(weights);
                // Few tokens stream weights, and do so panel by panel.
                let together = if tokens.len() <= FEW { 2 } else { PANELS };
                for rows in pieces(rows.clone(), together * ROWS) {
                    let panels: [FixedPanel; PANELS] = std::array::from_fn(|index| {
                        let first = rows.end.min(rows.start + index * ROWS);
                        self.panel(first..rows.end, rows.start)
                    });
                    let lines = tokens.start * self.w.cols.div_ceil(STEP) * 2;
                    let tile = FixedTile {
                        panels: &panels[..rows.len().div_ceil(ROWS)],
                        blocks: self.w.cols / 32,
                        x: self.tokens.lines[lines..].as_ptr().cast(),
                        x_scales: self.tokens.scales[tokens.start..].as_ptr(),
                        tokens: tokens.len(),
                        to: to.place(tokens.start, rows.start),
                        weights: weights.as_mut_ptr().cast(),
                        sums: sums.as_mut_ptr().cast(),
                    };
                    // SAFETY: `Matrix::check_sizes` holds and the panels lie in the matrix; cells begin
                    // at whole tiles of tokens; the scratch has room. Outputs of these tokens and of rows
                    // that no other task has.
                    unsafe { (kernels.multiply)(&tile) }
                }
            }
        });
    }

    /// Tokens by vectors.
    fn run_few(
        &self,
        kernels: &FixedKernels,
        (rows, tokens): (Range<usize>, Range<usize>),
        to: Target,
    ) {
        let lines = word_lines(self.w.cols);
        let x = FewTokens {
            words: self.tokens.lines[tokens.start * lines..].as_ptr().cast(),
            stride: lines * size_of::<Line>() / size_of::<i32>(),
            scales: self.tokens.scales[tokens.start..].as_ptr(),
            count: tokens.len(),
        };
        let mut sums = [[0.0; ROWS]; BY_VECTORS];
        for row in rows.clone().step_by(ROWS) {
            let panel = self.panel(row..rows.end, row);
            let skip = panel.lanes.trailing_zeros() as usize;
            let lanes = skip..skip + panel.lanes.count_ones() as usize;
            // SAFETY: `Matrix::check_sizes` holds and the panel lies in the matrix; the tokens have as
            // many columns. Outputs of these tokens and of rows that no other task has.
            unsafe {
                (kernels.few)(&panel, self.w.cols / 32, &x, sums.as_mut_ptr().cast());
                for (token, sums) in tokens.clone().zip(&sums) {
                    to.put(token, row, &sums[lanes.clone()]);
                }
            }
        }
    }

    /// The panel with the first of some rows, whose outputs go behind those of row `first`; the last one
    /// of rows that are not interleaved reaches back.
    fn panel(&self, rows: Range<usize>, first: usize) -> FixedPanel {
        let FixedWeights { bytes, in_panels, .. } = self.weights;
        let row_bytes = row_bytes(self.w);
        let base = if in_panels { rows.start } else { rows.start.min(self.w.rows - ROWS) };
        let (skip, end) = (rows.start - base, ROWS.min(rows.end - base));
        let lanes = ((1u32 << end) - (1 << skip)) as u16;
        let head = panel_head(BlockFormat::Q8_0);
        let at = bytes.as_ptr();
        let (largest, at, stride) = if in_panels {
            let panel = at.wrapping_add(base / ROWS * (head + ROWS * row_bytes));
            (panel.cast(), panel.wrapping_add(head), None)
        } else {
            let scales = self.scales.map_or(std::ptr::null(), |scales| scales[base..].as_ptr());
            (scales, at.wrapping_add(base * row_bytes), Some(row_bytes))
        };
        let bytes = head + ROWS * row_bytes;
        FixedPanel {
            at,
            stride,
            largest,
            ahead: AHEAD,
            bytes,
            lanes,
            row: base.wrapping_sub(first),
        }
    }
}

fn row_bytes(w: &Matrix) -> usize {
    w.cols / 32 * BlockFormat::Q8_0.block_bytes()
}

/// A range cut into pieces of at most `len`.
fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(len).map(move |start| start..range.end.min(start + len))
}
