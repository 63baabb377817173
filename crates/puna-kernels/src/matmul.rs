//! `y = x Wᵀ` for every storage of `W`: which kernel, in which arithmetic, on which thread.
//!
//! Three inner loops cover everything. Floats are multiplied where they lie (`float.rs`). Block
//! and group formats in [`Precision::Fast`] become panels of 16 interleaved rows of bytes that
//! meet 8-bit activations (`panel.rs`). The rest is dequantized to f32 rows and then is a float
//! product. Rows are split over the thread pool; an output never depends on the split, nor on how
//! many tokens there are.

mod activations;
mod float;
mod panel;

pub(crate) use activations::{quantize_activations, round_bf16};
pub(crate) use float::{FloatTile, float_tile};
pub(crate) use panel::{PanelTile, interleave, panel_tile};

use crate::blocks::layout;
use crate::kernels::{FloatPair, Kernels};
use crate::matrix::{DequantizeScratch, Matrix, MatrixData, dequantize_cols};
use crate::parallel::{Grid, OutPtr};
use crate::{BlockFormat, GroupQuants, Isa};
use activations::{QuantizedActivations, round_tokens};
use panel::PanelSource;
use std::borrow::Cow;

/// Arithmetic of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 arithmetic on dequantized weights and f32 activations.
    Exact,
    /// The quickest kernel for the format: BF16 with activations rounded to bfloat16 (AVX2 has no
    /// instruction for it and takes f32 ones), block and group formats with 8-bit activations (one
    /// scale per 32); F32, F16, codebook and FP8 weights as [`Precision::Exact`]. So are groups
    /// that are not whole blocks of 32 columns.
    Fast,
}

/// Dequantized rows of a task at a time; 8 MiB of scratch at most for rows of 64 Ki columns.
const DEQUANTIZED_ROWS: usize = 32;

/// `y[t, o] = sum_i x[t, i] w[o, i]` with the best instruction set of the machine, on the rayon
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

/// How a product is computed.
enum Path<'a> {
    InPlace { pair: FloatPair, weights: &'a [u8] },
    Panels(PanelSource<'a>),
    Dequantized,
}

fn choose<'a>(isa: Isa, w: &Matrix<'a>, precision: Precision) -> Path<'a> {
    let fast = precision == Precision::Fast;
    match w.data {
        MatrixData::Block { format, bytes } => {
            let pair = match format {
                BlockFormat::F32 => FloatPair::F32,
                BlockFormat::F16 => FloatPair::F16,
                BlockFormat::BF16 if fast && isa != Isa::Avx2 => FloatPair::Bf16Bf16,
                BlockFormat::BF16 => FloatPair::Bf16,
                _ => {
                    return match layout(format) {
                        Some(layout) if fast => {
                            Path::Panels(PanelSource::Block { format, layout, bytes })
                        }
                        _ => Path::Dequantized,
                    };
                }
            };
            Path::InPlace { pair, weights: bytes }
        }
        // Sub-blocks of 32 must not straddle groups.
        MatrixData::Group(group)
            if fast
                && w.cols.is_multiple_of(32)
                && (group.group_size.is_multiple_of(32) || group.group_size >= w.cols) =>
        {
            Path::Panels(PanelSource::Group(group))
        }
        _ => Path::Dequantized,
    }
}

impl Kernels {
    /// [`matmul`] with this instruction set.
    ///
    /// # Panics
    /// As there.
    pub fn matmul(&self, w: &Matrix, x: &[f32], y: &mut [f32], precision: Precision) {
        if let Err(error) = w.check_sizes() {
            panic!("matmul: {error}");
        }
        if w.cols == 0 || w.rows == 0 {
            y.fill(0.0);
            return;
        }
        let tokens = x.len() / w.cols;
        assert_eq!(x.len(), tokens * w.cols, "activations of {} columns", w.cols);
        assert_eq!(y.len(), tokens * w.rows, "outputs of {tokens} tokens x {} rows", w.rows);
        if tokens == 0 {
            return;
        }
        let x = in_stored_order(w, x);
        let grid = Grid::new(w.rows, tokens, w.cols);
        let y = OutPtr::new(y);
        match choose(self.isa(), w, precision) {
            Path::InPlace { pair: FloatPair::Bf16Bf16, weights } => {
                let rounded = round_tokens(self, &x);
                let x = rounded.as_ptr().cast();
                self.float_product((FloatPair::Bf16Bf16, weights, x), &grid, y);
            }
            Path::InPlace { pair, weights } => {
                self.float_product((pair, weights, x.as_ptr().cast()), &grid, y);
            }
            Path::Panels(source) => {
                let x = QuantizedActivations::new(self, &x, w.cols);
                grid.run(|rows, tokens| panel::product(self, (&source, w), &x, (rows, tokens), y));
            }
            Path::Dequantized => self.dequantized_product(w, &x, &grid, y),
        }
    }

    /// Weights that are floats already.
    fn float_product(
        &self,
        (pair, weights, x): (FloatPair, &[u8], *const u8),
        grid: &Grid,
        y: OutPtr,
    ) {
        let x = OutPtr::shared(x);
        let w_stride = weights.len() / grid.rows;
        let x_stride = grid.cols * pair.x_bytes();
        grid.run(|rows, tokens| {
            let tile = FloatTile {
                w: weights[rows.start * w_stride..].as_ptr(),
                w_stride,
                rows: rows.len(),
                x: x.bytes().wrapping_add(tokens.start * x_stride),
                x_stride,
                tokens: tokens.len(),
                cols: grid.cols,
                y: y.at(tokens.start * grid.rows + rows.start),
                y_stride: grid.rows,
            };
            // SAFETY: weights, activations and outputs have the sizes that `matmul` checked, and
            // the tasks of the grid write disjoint parts of y.
            unsafe { self.float_tile(pair, &tile) }
        });
    }

    /// Weights that are dequantized a few rows at a time.
    fn dequantized_product(&self, w: &Matrix, x: &[f32], grid: &Grid, y: OutPtr) {
        grid.run(|rows, tokens| {
            let mut scratch = DequantizeScratch::new();
            let mut buffer = vec![0.0; DEQUANTIZED_ROWS.min(rows.len()) * w.cols];
            for first in rows.clone().step_by(DEQUANTIZED_ROWS) {
                let count = DEQUANTIZED_ROWS.min(rows.end - first);
                for (row, out) in (first..first + count).zip(buffer.chunks_exact_mut(w.cols)) {
                    dequantize_cols(self, w, row, 0..w.cols, (out, &mut scratch));
                }
                let tile = FloatTile {
                    w: buffer.as_ptr().cast(),
                    w_stride: 4 * w.cols,
                    rows: count,
                    x: x[tokens.start * w.cols..].as_ptr().cast(),
                    x_stride: 4 * w.cols,
                    tokens: tokens.len(),
                    cols: w.cols,
                    y: y.at(tokens.start * w.rows + first),
                    y_stride: w.rows,
                };
                // SAFETY: as in `float_product`; the buffer holds `count` rows.
                unsafe { self.float_tile(FloatPair::F32, &tile) }
            }
        });
    }
}

/// Activations in the order of the stored columns (act-order).
fn in_stored_order<'x>(w: &Matrix, x: &'x [f32]) -> Cow<'x, [f32]> {
    let MatrixData::Group(group) = w.data else { return Cow::Borrowed(x) };
    let Some(order) = group.input_order else { return Cow::Borrowed(x) };
    let tokens = x.chunks_exact(w.cols);
    Cow::Owned(tokens.flat_map(|x| order.iter().map(|&i| x[i as usize])).collect())
}

impl GroupQuants<'_> {
    /// Bits that the bytes of a panel may need.
    pub(crate) fn is_nibbles(&self) -> bool {
        matches!(self, GroupQuants::Nibbles(_))
    }
}
