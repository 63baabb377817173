//! Integer products: panels of 16 rows of bytes against 8-bit activations.
//!
//! Weights of 16 rows are unpacked so that a vector holds four columns of all 16 rows; a lane then
//! is an output. Activations are broadcast, so there is no horizontal sum, and one unpacking
//! serves all tokens. Each output is, over its sub-blocks from left to right,
//! `acc += float(sum (q - zero) x) * (scale_w * scale_x)`, for formats with biases followed by
//! `acc += bias_w * sum_x`: the same for one token as for many. Superblocks, whose scales and minimums
//! are integers, stay integers up to their end:
//! `acc += scale_x (d sum scale sum (q - zero) x - dmin sum minimum sum x)`. A constant zero costs
//! nothing: it is where the integer sum starts. The alternative, a dot product per row as ggml has
//! it, needs a reduction per block.

mod tile;
pub(crate) use tile::{
    PANEL_SCALES, PANEL_STRIDE, PANEL_SUPERS, PanelTile, Place, panel_tile, put_sums,
};

use super::activations::ZeroTermsOf;
use super::{AHEAD, Target};
use crate::BlockFormat;
use crate::blocks::panel::{
    Blocks, Columns, From16, GroupPanel, GroupRows, Integers, PanelBuffers, ROWS,
};
use crate::blocks::{CHUNK, Layout, SUPERBLOCK, Scales, Zero};
use crate::kernels::Kernels;
use crate::matrix::{
    GroupMatrix, GroupPanels, GroupQuants, GroupZeros, Matrix, nibble_row_bytes, panel_head,
};
use std::cell::RefCell;
use std::ops::Range;

/// Sub-blocks of a chunk, at most.
const SUBS: usize = CHUNK / 16;

/// Superblocks of a chunk, at most.
const SUPERS: usize = CHUNK / SUPERBLOCK;

/// Panels of a chunk, at most.
const PANELS: usize = 2;

/// Weights that become panels.
pub(super) enum PanelSource<'a> {
    Block { format: BlockFormat, layout: Layout, bytes: &'a [u8] },
    Panels { format: BlockFormat, layout: Layout, bytes: &'a [u8] },
    Group(GroupMatrix<'a>),
    GroupPanels(GroupPanels<'a>),
}

/// One chunk of columns of some panels.
#[repr(align(64))]
pub(super) struct Scratch {
    /// `[cols / 4, row, 4]` each.
    quants: [[u8; CHUNK * ROWS]; PANELS],
    /// `[sub, row]` each.
    scales: [[f32; SUBS * ROWS]; PANELS],
    /// `[sub, row]` each.
    bias: [[f32; SUBS * ROWS]; PANELS],
    /// `[superblock, 2, row]` each.
    supers: [[f32; SUPERS * 2 * ROWS]; PANELS],
}

thread_local! {
    /// A thread's chunk and its sums: a product of one token is too short to allocate for.
    pub(super) static SCRATCH: RefCell<(Box<Scratch>, Vec<f32>)> = RefCell::new((
        Box::new(Scratch {
            quants: [[0; CHUNK * ROWS]; PANELS],
            scales: [[0.0; SUBS * ROWS]; PANELS],
            bias: [[0.0; SUBS * ROWS]; PANELS],
            supers: [[0.0; SUPERS * 2 * ROWS]; PANELS],
        }),
        Vec::new(),
    ));
}

impl PanelSource<'_> {
    pub(super) fn layout(&self) -> Layout {
        match self {
            PanelSource::Block { layout, .. } | PanelSource::Panels { layout, .. } => *layout,
            PanelSource::GroupPanels(panels) => {
                let top = if panels.bits == 4 { 15 } else { 255 };
                Layout { sub: 32, zero: Zero::Bias, top, scales: Scales::Floats }
            }
            PanelSource::Group(group) => {
                let nibbles = matches!(group.quants, GroupQuants::Nibbles(_));
                let top = if nibbles { 15 } else { 255 };
                Layout { sub: 32, zero: Zero::Bias, top, scales: Scales::Floats }
            }
        }
    }

    /// The integers' first byte, and the bytes of a row and of a block of columns.
    fn rows(&self, w: &Matrix) -> (*const u8, usize, (usize, usize)) {
        match self {
            PanelSource::Block { format, bytes, .. }
            | PanelSource::Panels { format, bytes, .. } => {
                let (len, size) = (format.block_len(), format.block_bytes());
                (bytes.as_ptr(), w.cols / len * size, (len, size))
            }
            PanelSource::GroupPanels(panels) => {
                let panel = panels.layout().panel_bytes(w.cols).unwrap_or(0);
                (panels.bytes.as_ptr(), panel / ROWS, (32, 4 * usize::from(panels.bits)))
            }
            PanelSource::Group(group) => match group.quants {
                GroupQuants::Nibbles(q) => (q.as_ptr(), nibble_row_bytes(w.cols), (32, 16)),
                GroupQuants::Bytes(q) => (q.as_ptr(), w.cols, (32, 32)),
                GroupQuants::Signed(q) => (q.as_ptr().cast(), w.cols, (32, 32)),
            },
        }
    }

    /// Bytes of the heads up to the blocks of a row's panel.
    fn heads(&self, row: usize) -> usize {
        match self {
            PanelSource::Panels { format, .. } => (row / ROWS + 1) * panel_head(*format),
            _ => 0,
        }
    }

    /// The blocks of a corner.
    pub(super) fn blocks(&self, w: &Matrix, at: &Corner) -> Blocks {
        let (first, stride, (block_len, block_bytes)) = self.rows(w);
        let col_bytes = at.cols.start / block_len * block_bytes;
        let count = at.cols.len() / block_len;
        let in_rows = first.wrapping_add(at.row * stride + col_bytes);
        let in_panels = first.wrapping_add(at.row * stride + ROWS * col_bytes + self.heads(at.row));
        let from = match self {
            PanelSource::Panels { format, .. } => From16::Panel { format: *format, at: in_panels },
            PanelSource::GroupPanels(panels) => From16::GroupPanel(GroupPanel {
                panel: first.wrapping_add(at.row * stride),
                layout: panels.layout(),
                col: at.cols.start,
                ahead: AHEAD,
            }),
            PanelSource::Block { format, .. } => {
                From16::Rows { format: *format, at: in_rows, stride }
            }
            PanelSource::Group(group) => From16::Group(group_rows(group, w, at, (in_rows, stride))),
        };
        if matches!(self, PanelSource::Panels { .. } | PanelSource::GroupPanels(_)) {
            return Blocks { from, count, ahead: in_panels.wrapping_add(AHEAD) };
        }
        // Sixteen rows are more streams than hardware follows; they lie behind one another, so
        // this asks for the next panel in the order of memory.
        let ahead = at.next_row.min(w.rows) * stride + ROWS * col_bytes;
        Blocks { from, count, ahead: first.wrapping_add(ahead) }
    }
}

fn group_rows(
    group: &GroupMatrix,
    w: &Matrix,
    at: &Corner,
    (integers_at, stride): (*const u8, usize),
) -> GroupRows {
    let groups = w.cols.div_ceil(group.group_size);
    GroupRows {
        integers_at,
        stride,
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
pub(super) struct Corner {
    pub(super) row: usize,
    /// First row of the panel that will take this one's place.
    pub(super) next_row: usize,
    pub(super) cols: Range<usize>,
}

/// What all cells of a product share.
pub(super) struct PanelProduct<'a> {
    pub(super) source: PanelSource<'a>,
    pub(super) w: &'a Matrix<'a>,
    /// `[tokens, cols]`.
    pub(super) quants: &'a [i8],
    /// `[tokens, cols / 32]`, or one per superblock where the weights have these.
    pub(super) scales: &'a [f32],
    /// The same of 16 tokens side by side; empty for other instruction sets than AMX.
    pub(super) by_sixteen: &'a [f32],
    pub(super) terms: ZeroTermsOf<'a>,
}

impl PanelProduct<'_> {
    /// The outputs of a cell of the grid; the matrix has at least 16 rows, or panels.
    pub(super) fn run(
        &self,
        kernels: &Kernels,
        (rows, tokens): (Range<usize>, Range<usize>),
        to: Target,
    ) {
        let in_rows = matches!(self.source, PanelSource::Block { .. });
        if tokens.len() == 1 && !in_rows {
            return self.run_one(kernels, (rows, tokens.start), to);
        }
        SCRATCH.with_borrow_mut(|(scratch, sums)| {
            let step = kernels.panels.min(PANELS) * ROWS;
            for first in rows.clone().step_by(step) {
                let end = rows.end.min(first + step);
                let panels = (end - first).div_ceil(ROWS);
                sums.clear();
                sums.resize(tokens.len() * panels * ROWS, 0.0);
                for col in (0..self.w.cols).step_by(CHUNK) {
                    let cols = col..self.w.cols.min(col + CHUNK);
                    for panel in 0..panels {
                        let row = self.panel_row(first + panel * ROWS);
                        let next_row = first + step + panel * ROWS;
                        let at = Corner { row, next_row, cols: cols.clone() };
                        let to = scratch.panel(panel);
                        // SAFETY: `Matrix::check_sizes` holds and the corner lies in the matrix;
                        // the scratch holds a whole chunk.
                        unsafe { kernels.fill(&self.source.blocks(self.w, &at), &to) }
                    }
                    let tile = self.tile(scratch, cols, tokens.clone(), (panels, sums));
                    // SAFETY: a chunk of weights lies in the scratch, the tokens lie in the
                    // activations, and there are sums for them.
                    unsafe { kernels.panel_tile(&tile) }
                }
                if first == self.panel_row(first) && end - first == panels * ROWS {
                    // SAFETY: outputs of these tokens and of rows that no other task has.
                    unsafe { kernels.put_sums(sums, to.place(tokens.start, first), end - first) }
                    continue;
                }
                for (token, sums) in tokens.clone().zip(sums.chunks_exact(panels * ROWS)) {
                    for (panel, sums) in sums.as_chunks::<ROWS>().0.iter().enumerate() {
                        self.put(token, first + panel * ROWS..end, sums, to);
                    }
                }
            }
        });
    }

    /// One token: weights go from memory through registers into its sums.
    fn run_one(&self, kernels: &Kernels, (rows, token): (Range<usize>, usize), to: Target) {
        let (_, x) = self.columns(token, 0);
        for row in rows.clone().step_by(ROWS) {
            let at =
                Corner { row: self.panel_row(row), next_row: row + ROWS, cols: 0..self.w.cols };
            let mut sums = [0.0; ROWS];
            // SAFETY: `Matrix::check_sizes` holds and the corner lies in the matrix; the token has
            // as many columns.
            unsafe { kernels.dot(&self.source.blocks(self.w, &at), &x, &mut sums) }
            self.put(token, row..rows.end, &sums, to);
        }
    }

    /// First row of the 16 that hold the outputs from `row` on. Stored panels are filled up; the
    /// last one of rows reaches back.
    fn panel_row(&self, row: usize) -> usize {
        match self.source {
            PanelSource::Panels { .. } | PanelSource::GroupPanels(_) => row,
            _ => row.min(self.w.rows - ROWS),
        }
    }

    /// Writes the outputs of a panel that belong to `rows`, at most 16.
    fn put(&self, token: usize, rows: Range<usize>, sums: &[f32; ROWS], to: Target) {
        let skip = rows.start - self.panel_row(rows.start);
        let sums = &sums[skip..][..rows.len().min(ROWS - skip)];
        // SAFETY: outputs of this token and of rows that no other task has.
        unsafe { to.put(token, rows.start, sums) }
    }

    /// The form of the weights, and the activations of a token from `col` on.
    fn columns(&self, token: usize, col: usize) -> (Layout, Columns) {
        let layout = self.source.layout();
        let at = token * self.w.cols + col;
        let (x, scales) = (
            self.quants[at..].as_ptr(),
            self.scales[at / layout.activations_per_scale()..].as_ptr(),
        );
        let mut columns = Columns::new(x, scales);
        columns.short =
            self.terms.short.get(at / SUPERBLOCK..).map_or(std::ptr::null(), <[bool]>::as_ptr);
        if token.is_multiple_of(16) {
            let block = layout.activations_per_scale();
            let first = token * (self.w.cols / block) + col / block * 16;
            columns.by_sixteen =
                self.by_sixteen.get(first..).map_or(std::ptr::null(), <[f32]>::as_ptr);
        }
        match (layout.zero, layout.scales) {
            (Zero::Constant(_), _) => {
                columns.zeros = self.terms.integers[at / layout.sub..].as_ptr()
            }
            (Zero::Bias, Scales::Floats) => {
                columns.sums = self.terms.floats[at / layout.sub..].as_ptr()
            }
            (Zero::Bias, Scales::Integers) => {
                columns.digits = self.terms.digits[2 * at / layout.sub..].as_ptr();
                columns.words = self
                    .terms
                    .words
                    .get(2 * at / layout.sub..)
                    .map_or(std::ptr::null(), <[u16]>::as_ptr);
            }
        }
        (layout, columns)
    }

    fn tile(
        &self,
        scratch: &mut Scratch,
        cols: Range<usize>,
        tokens: Range<usize>,
        (panels, sums): (usize, &mut [f32]),
    ) -> PanelTile {
        let (layout, x) = self.columns(tokens.start, cols.start);
        PanelTile {
            weights: scratch.panel(0),
            panels,
            subs: cols.len() / layout.sub,
            layout,
            x,
            cols: self.w.cols,
            tokens: tokens.len(),
            acc: sums.as_mut_ptr(),
        }
    }
}

impl Scratch {
    pub(super) fn panel(&mut self, panel: usize) -> PanelBuffers {
        PanelBuffers {
            quants: self.quants[panel..].as_mut_ptr().cast(),
            scales: self.scales[panel..].as_mut_ptr().cast(),
            bias: self.bias[panel..].as_mut_ptr().cast(),
            supers: self.supers[panel..].as_mut_ptr().cast(),
        }
    }
}
