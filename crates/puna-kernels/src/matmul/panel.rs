//! Integer products: panels of 16 rows of bytes against 8-bit activations.
//!
//! Weights of 16 rows are unpacked so that a vector holds four columns of all 16 rows; a lane then
//! is an output. Activations are broadcast, so there is no horizontal sum, and one unpacking
//! serves all tokens. Each output is, over its sub-blocks from left to right,
//! `acc += float(sum (q - zero) x) * (scale_w * scale_x)`, for formats with biases followed by
//! `acc += bias_w * sum_x`: the same for one token as for many. A constant zero costs nothing: it
//! is where the integer sum starts. The alternative, a dot product per row as ggml has it, needs a
//! reduction per block.

mod tile;
pub(crate) use tile::{PanelTile, panel_tile};

use super::activations::{QuantizedActivations, ZeroTerms};
use crate::BlockFormat;
use crate::blocks::panel::{GroupTask, Integers, PanelTask, ROWS};
use crate::blocks::{CHUNK, Layout, Width, Zero};
use crate::kernels::Kernels;
use crate::matrix::{GroupMatrix, GroupQuants, GroupZeros, Matrix, nibble_row_bytes};
use crate::parallel::OutPtr;
use std::cell::RefCell;
use std::ops::Range;

/// Sub-blocks of a chunk, at most.
const SUBS: usize = CHUNK / 16;

/// Panels of a chunk, at most.
const PANELS: usize = 2;

/// Weights that become panels.
pub(super) enum PanelSource<'a> {
    Block { format: BlockFormat, layout: Layout, bytes: &'a [u8] },
    Group(GroupMatrix<'a>),
}

/// One chunk of columns of some panels.
#[repr(align(64))]
struct Scratch {
    /// `[cols / 4, row, 4]` each.
    quants: [[u8; CHUNK * ROWS]; PANELS],
    /// `[sub, row]` each.
    scales: [[f32; SUBS * ROWS]; PANELS],
    /// `[sub, row]` each.
    bias: [[f32; SUBS * ROWS]; PANELS],
}

thread_local! {
    /// A thread's chunk and its sums: a product of one token is too short to allocate for.
    static SCRATCH: RefCell<(Box<Scratch>, Vec<f32>)> = RefCell::new((
        Box::new(Scratch {
            quants: [[0; CHUNK * ROWS]; PANELS],
            scales: [[0.0; SUBS * ROWS]; PANELS],
            bias: [[0.0; SUBS * ROWS]; PANELS],
        }),
        Vec::new(),
    ));
}

impl PanelSource<'_> {
    pub(super) fn layout(&self) -> Layout {
        match self {
            PanelSource::Block { layout, .. } => *layout,
            PanelSource::Group(group) => {
                let nibbles = matches!(group.quants, GroupQuants::Nibbles(_));
                let width = if nibbles { Width::Seven } else { Width::Eight };
                Layout { sub: 32, zero: Zero::Bias, width }
            }
        }
    }

    /// The integers' first byte, and the bytes of a row and of a block of columns.
    fn rows(&self, w: &Matrix) -> (*const u8, usize, (usize, usize)) {
        match self {
            PanelSource::Block { format, bytes, .. } => {
                let block = (format.block_len(), format.block_bytes());
                (bytes.as_ptr(), bytes.len() / w.rows, block)
            }
            PanelSource::Group(group) => match group.quants {
                GroupQuants::Nibbles(q) => (q.as_ptr(), nibble_row_bytes(w.cols), (32, 16)),
                GroupQuants::Bytes(q) => (q.as_ptr(), w.cols, (32, 32)),
                GroupQuants::Signed(q) => (q.as_ptr().cast(), w.cols, (32, 32)),
            },
        }
    }

    /// Unpacks columns of the 16 rows from `row` on into panel `panel` of the scratch.
    fn fill(&self, kernels: &Kernels, w: &Matrix, at: Corner, scratch: &mut Scratch) {
        let (first, stride, (block_len, block_bytes)) = self.rows(w);
        let byte = |row: usize| row * stride + at.cols.start / block_len * block_bytes;
        let next = at.next_row.min(w.rows) * stride + ROWS * byte(0);
        let panel = PanelTask {
            rows: first.wrapping_add(byte(at.row)),
            stride,
            blocks: at.cols.len() / block_len,
            // Sixteen rows are more streams than hardware follows; they lie behind one another, so
            // this asks for them in the order of memory.
            ahead: first.wrapping_add(next),
            quants: scratch.quants[at.panel].as_mut_ptr(),
            scales: scratch.scales[at.panel].as_mut_ptr(),
            bias: scratch.bias[at.panel].as_mut_ptr(),
        };
        // SAFETY: `Matrix::check_sizes` holds and the corner's 16 rows and columns lie in the
        // matrix; the scratch holds a whole chunk.
        unsafe {
            match self {
                PanelSource::Block { format, .. } => kernels.fill(*format, &panel),
                PanelSource::Group(group) => kernels.fill_group(&group_task(group, w, &at, panel)),
            }
        }
    }
}

fn group_task(group: &GroupMatrix, w: &Matrix, at: &Corner, panel: PanelTask) -> GroupTask {
    let groups = w.cols.div_ceil(group.group_size);
    GroupTask {
        panel,
        integers: match group.quants {
            GroupQuants::Nibbles(_) => Integers::Nibbles,
            GroupQuants::Bytes(_) => Integers::Bytes,
            GroupQuants::Signed(_) => Integers::Signed,
        },
        scales: group.scales[at.row * groups..].as_ptr(),
        zeros: match group.zeros {
            GroupZeros::PerGroup(zeros) => zeros[at.row * groups..].as_ptr(),
            GroupZeros::Zero => std::ptr::null(),
        },
        groups,
        group_size: group.group_size,
        col: at.cols.start,
    }
}

/// A chunk of a panel.
struct Corner {
    row: usize,
    /// First row of the panel that will take this one's place.
    next_row: usize,
    panel: usize,
    cols: Range<usize>,
}

/// What all cells of a product share.
pub(super) struct PanelProduct<'a> {
    pub(super) source: PanelSource<'a>,
    pub(super) w: &'a Matrix<'a>,
    pub(super) x: &'a QuantizedActivations,
    pub(super) zeros: &'a ZeroTerms,
}

impl PanelProduct<'_> {
    /// The outputs of a cell of the grid; the matrix has at least 16 rows.
    pub(super) fn run(
        &self,
        kernels: &Kernels,
        (rows, tokens): (Range<usize>, Range<usize>),
        y: OutPtr,
    ) {
        SCRATCH.with_borrow_mut(|(scratch, sums)| {
            let step = kernels.panels.min(PANELS) * ROWS;
            for first in rows.clone().step_by(step) {
                let end = rows.end.min(first + step);
                let panels = (end - first).div_ceil(ROWS);
                sums.clear();
                sums.resize(tokens.len() * panels * ROWS, 0.0);
                let last = self.w.rows - ROWS;
                // The last panel of a matrix reaches back, so that it has 16 rows.
                let start = |panel: usize| (first + panel * ROWS).min(last);
                for col in (0..self.w.cols).step_by(CHUNK) {
                    let cols = col..self.w.cols.min(col + CHUNK);
                    for panel in 0..panels {
                        let (row, next_row) = (start(panel), first + step + panel * ROWS);
                        let at = Corner { row, next_row, panel, cols: cols.clone() };
                        self.source.fill(kernels, self.w, at, scratch);
                    }
                    let tile = self.tile(scratch, cols, tokens.clone(), (panels, sums));
                    // SAFETY: a chunk of weights lies in the scratch, the tokens lie in the
                    // activations, and there are sums for them.
                    unsafe { kernels.panel_tile(&tile) }
                }
                for (token, sums) in tokens.clone().zip(sums.chunks_exact(panels * ROWS)) {
                    for (panel, sums) in sums.chunks_exact(ROWS).enumerate() {
                        let row = first + panel * ROWS;
                        let sums = &sums[row - start(panel)..][..(end - row).min(ROWS)];
                        let out = y.at(token * self.w.rows + row);
                        // SAFETY: outputs of this row range and token; no other task writes them.
                        unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), out, sums.len()) }
                    }
                }
            }
        });
    }

    fn tile(
        &self,
        scratch: &Scratch,
        cols: Range<usize>,
        tokens: Range<usize>,
        (panels, sums): (usize, &mut [f32]),
    ) -> PanelTile {
        let layout = self.source.layout();
        let at = tokens.start * self.w.cols + cols.start;
        let (bias, zeros) = match self.zeros {
            ZeroTerms::Integers(zeros) => (std::ptr::null(), zeros[at / layout.sub..].as_ptr()),
            ZeroTerms::Floats(sums) => (sums[at / layout.sub..].as_ptr(), std::ptr::null()),
        };
        PanelTile {
            quants: scratch.quants.as_ptr().cast(),
            scales: scratch.scales.as_ptr().cast(),
            bias: scratch.bias.as_ptr().cast(),
            panels,
            subs: cols.len() / layout.sub,
            layout,
            x: self.x.quants[at..].as_ptr(),
            x_scales: self.x.scales[at / 32..].as_ptr(),
            x_sums: bias,
            x_zeros: zeros,
            cols: self.w.cols,
            tokens: tokens.len(),
            acc: sums.as_mut_ptr(),
        }
    }
}
