//! `y = x Wᵀ` for every storage of `W`: which kernel, in which arithmetic, on which thread.
//!
//! Three inner loops cover everything. Floats are multiplied where they lie (`float.rs`). Block
//! and group formats in [`Precision::Fast`] become panels of 16 rows of bytes that meet 8-bit
//! activations (`panel.rs`). The rest is dequantized to f32 rows and then is a float product. Rows
//! are split over the thread pool; an output never depends on the split, nor on how many tokens
//! there are.
//!
//! Products of one input (query, key and value; gate and up) share its 8-bit or bfloat16 form and
//! one parallel region: see [`Input::matmul_all`].

mod activations;
mod fixed;
mod float;
mod input;
mod pairs;
mod panel;
mod tokens;

pub(crate) use activations::{Sizes, quantize_activations, round_bf16};
pub(crate) use fixed::{
    FewTokens, FixedKernels, FixedPanel, FixedTile, PANELS as FIXED_PANELS,
    SUM_BYTES as FIXED_SUM_BYTES, WEIGHT_BYTES as FIXED_WEIGHT_BYTES,
};
use fixed::{FixedProduct, FixedWeights};
use float::FEW_TOKENS;
pub(crate) use float::{FloatTile, float_tile};
pub use input::{Input, InputBuffers, Output, prompt_tiles, set_prompt_tiles};
pub(crate) use pairs::round_panel;
pub(crate) use panel::{
    PANEL_SCALES, PANEL_STRIDE, PANEL_SUPERS, PanelTile, Place, panel_tile, put_sums,
};

use crate::blocks::layout;
use crate::blocks::panel::ROWS;
use crate::gemm::MatRef;
use crate::kernels::{FloatPair, Kernels};
use crate::matrix::{DequantizeScratch, Matrix, MatrixData, dequantize_cols};
use crate::parallel::{Grid, OutPtr};
use crate::{BlockFormat, Isa};
use pairs::Rounded;
use panel::{PanelProduct, PanelSource};
use std::ops::Range;

/// Arithmetic of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 arithmetic on dequantized weights and f32 activations.
    Exact,
    /// The quickest kernel for the format: BF16 with activations rounded to bfloat16 (AVX2 has no
    /// instruction for it and takes f32 ones), block and group formats with 8-bit activations (one
    /// scale per 32, per 256 for superblocks; with AMX Q8_0 has weights and activations of 16 bits);
    /// F32, F16, codebook and FP8 weights as [`Precision::Exact`]. So are groups
    /// that are not whole blocks of 32 columns, and matrices of fewer than 16 rows.
    Fast,
}

/// How far ahead weights are asked for when they are multiplied with one token: of 0 to 32 KiB in
/// powers of two the quickest for Q4_0, Q8_0, Q4_K, Q6_K and BF16 (without, Q6_K streams at half the
/// speed).
const AHEAD: usize = 4096;

/// Dequantized rows of a task at a time; 8 MiB of scratch at most for rows of 64 Ki columns.
const DEQUANTIZED_ROWS: usize = 32;

/// `y[t, o] = sum_i x[t, i] w[o, i]` with the best instruction set of the machine, on the thread
/// pool.
///
/// # Shapes
/// `x`: `[tokens, cols]`, `y`: `[tokens, rows]`, row-major; the number of tokens is that of `x`.
///
/// # Panics
/// If the buffers of `w` do not fit its shape ([`Matrix::validate`]) or `x` and `y` do not fit
/// `w`.
pub fn matmul(w: &Matrix, x: &[f32], y: &mut [f32], precision: Precision) {
    Kernels::get().matmul(w, x, y, precision);
}

impl Kernels {
    /// [`matmul`] with this instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn matmul(&'static self, w: &Matrix, x: &[f32], y: &mut [f32], precision: Precision) {
        let mut buffers = InputBuffers::default();
        Input::with_kernels(self, x, &mut buffers)
            .matmul_all(&mut [(*w, Output::Set(y))], precision);
    }
}

/// How a product is computed.
enum Path<'a> {
    InPlace { pair: FloatPair, weights: &'a [u8] },
    Panels(PanelSource<'a>),
    Fixed(FixedWeights<'a>),
    Dequantized,
}

/// What is multiplied in tiles of bfloat16 ([`set_prompt_tiles`]).
enum Tiled<'a> {
    /// bfloat16 weights with activations rounded to bfloat16.
    Rounded(MatRef<'a>),
    /// bfloat16 weights with float32 activations, each as the sum of three bfloat16.
    Split(MatRef<'a>),
    /// Quantized weights and activations, both rounded to bfloat16.
    Quantized(Rounded<'a>),
}

/// Least tokens that quantized weights are rounded to bfloat16 for.
const ROUNDED_TOKENS: usize = 32;

impl<'a> Path<'a> {
    /// The same in tiles, or itself where that cannot be or does not pay.
    fn in_tiles(self, w: &Matrix<'a>, tokens: usize) -> Result<Tiled<'a>, Self> {
        match self {
            Path::InPlace { pair, weights } if tokens > FEW_TOKENS => {
                match (pair, MatRef::bf16_rows(weights, w.cols)) {
                    (FloatPair::Bf16Bf16, Some(w)) => Ok(Tiled::Rounded(w)),
                    (FloatPair::Bf16, Some(w)) => Ok(Tiled::Split(w)),
                    _ => Err(self),
                }
            }
            Path::Panels(source) if tokens >= ROUNDED_TOKENS && Rounded::takes(w) => {
                Ok(Tiled::Quantized(Rounded { source, w: *w }))
            }
            path => Err(path),
        }
    }
}

fn choose<'a>(kernels: &Kernels, w: &Matrix<'a>, precision: Precision) -> Path<'a> {
    let fast = precision == Precision::Fast;
    let panels = fast && w.rows >= ROWS;
    match w.data {
        MatrixData::Block { format, bytes, scales } => {
            let pair = match format {
                BlockFormat::F32 => FloatPair::F32,
                BlockFormat::F16 => FloatPair::F16,
                BlockFormat::BF16 if fast && kernels.isa() != Isa::Avx2 => FloatPair::Bf16Bf16,
                BlockFormat::BF16 => FloatPair::Bf16,
                _ => {
                    if panels && FixedWeights::takes(kernels, format, w.cols) {
                        return Path::Fixed(FixedWeights { bytes, in_panels: false, scales });
                    }
                    return match layout(format) {
                        Some(layout) if panels => {
                            Path::Panels(PanelSource::Block { format, layout, bytes })
                        }
                        _ => Path::Dequantized,
                    };
                }
            };
            Path::InPlace { pair, weights: bytes }
        }
        MatrixData::Panels { format, bytes }
            if fast && FixedWeights::takes(kernels, format, w.cols) =>
        {
            Path::Fixed(FixedWeights { bytes, in_panels: true, scales: None })
        }
        MatrixData::Panels { format, bytes } => match layout(format) {
            Some(layout) if fast => Path::Panels(PanelSource::Panels { format, layout, bytes }),
            _ => Path::Dequantized,
        },
        MatrixData::GroupPanels(panels) if fast => Path::Panels(PanelSource::GroupPanels(panels)),
        // Sub-blocks of 32 must not straddle groups.
        MatrixData::Group(group)
            if panels
                && w.cols.is_multiple_of(32)
                && (group.group_size.is_multiple_of(32) || group.group_size >= w.cols) =>
        {
            Path::Panels(PanelSource::Group(group))
        }
        _ => Path::Dequantized,
    }
}

/// Where the outputs of a product go.
#[derive(Clone, Copy)]
struct Target {
    y: OutPtr,
    /// Outputs per token.
    rows: usize,
    /// Whether to add to what is there.
    add: bool,
}

impl Target {
    /// The first of consecutive outputs of a token.
    fn place(self, token: usize, row: usize) -> Place {
        Place { y: self.y.at(token * self.rows + row), stride: self.rows, add: self.add }
    }

    /// Writes consecutive outputs of a token.
    ///
    /// # Safety
    /// The outputs exist, and no other task writes them.
    unsafe fn put(self, token: usize, row: usize, values: &[f32]) {
        let first = token * self.rows + row;
        // SAFETY: by contract.
        let out = unsafe { self.y.slice(first..first + values.len()) };
        if self.add {
            out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
        } else {
            out.copy_from_slice(values);
        }
    }
}

/// A product with everything that its cells need.
enum Ready<'a> {
    /// Weights that are floats already; the address of the activations, and bytes between tokens.
    InPlace {
        pair: FloatPair,
        weights: &'a [u8],
        x: OutPtr,
        x_stride: usize,
    },
    Panels(PanelProduct<'a>),
    Fixed(FixedProduct<'a>),
    /// Weights that are dequantized a few rows at a time.
    Dequantized {
        x: &'a [f32],
    },
}

impl Ready<'_> {
    /// How a product is cut into tasks.
    fn grid(&self, w: &Matrix, tokens: usize) -> Grid {
        let grid = Grid::new(w.rows, tokens, w.cols);
        match self {
            Ready::Fixed(_) => grid.of_tokens(fixed::TOKENS),
            _ => grid,
        }
    }

    /// The outputs of some rows and tokens.
    fn run(
        &self,
        kernels: &Kernels,
        w: &Matrix,
        (rows, tokens): (Range<usize>, Range<usize>),
        to: Target,
    ) {
        match self {
            Ready::Panels(product) => product.run(kernels, (rows, tokens), to),
            Ready::Fixed(product) => {
                if let Some(kernels) = kernels.fixed {
                    product.run(kernels, (rows, tokens), to);
                }
            }
            Ready::InPlace { pair, weights, x, x_stride } => {
                let w_stride = weights.len() / w.rows;
                let tile = FloatTile {
                    w: weights[rows.start * w_stride..].as_ptr(),
                    w_stride,
                    rows: rows.len(),
                    x: x.bytes().wrapping_add(tokens.start * x_stride),
                    x_stride: *x_stride,
                    tokens: tokens.len(),
                    cols: w.cols,
                    y: to.y.at(tokens.start * w.rows + rows.start),
                    y_stride: w.rows,
                    add: to.add,
                };
                // SAFETY: weights, activations and outputs have the sizes that `matmul_all`
                // checked, and tasks write disjoint parts of y.
                unsafe { kernels.float_tile(*pair, &tile) }
            }
            Ready::Dequantized { x } => dequantized(kernels, w, x, (rows, tokens), to),
        }
    }
}

fn dequantized(
    kernels: &Kernels,
    w: &Matrix,
    x: &[f32],
    (rows, tokens): (Range<usize>, Range<usize>),
    to: Target,
) {
    let mut scratch = DequantizeScratch::new();
    let mut buffer = vec![0.0; DEQUANTIZED_ROWS.min(rows.len()) * w.cols];
    for first in rows.clone().step_by(DEQUANTIZED_ROWS) {
        let count = DEQUANTIZED_ROWS.min(rows.end - first);
        for (row, out) in (first..first + count).zip(buffer.chunks_exact_mut(w.cols)) {
            dequantize_cols(kernels, w, row, 0..w.cols, (out, &mut scratch));
        }
        let tile = FloatTile {
            w: buffer.as_ptr().cast(),
            w_stride: 4 * w.cols,
            rows: count,
            x: x[tokens.start * w.cols..].as_ptr().cast(),
            x_stride: 4 * w.cols,
            tokens: tokens.len(),
            cols: w.cols,
            y: to.y.at(tokens.start * w.rows + first),
            y_stride: w.rows,
            add: to.add,
        };
        // SAFETY: as for products in place; the buffer holds `count` rows.
        unsafe { kernels.float_tile(FloatPair::F32, &tile) }
    }
}
