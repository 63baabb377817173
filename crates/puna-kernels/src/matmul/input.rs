//! Activations on their way into products, in each form that a product has asked for.

use super::activations::Prepared;
use super::tokens::AlignedTokens;
use super::{FEW_TOKENS, Path, Ready, Target, choose};
use crate::gemm::{MatRef, Write, gemm_to};
use crate::kernels::{FloatPair, Kernels};
use crate::matrix::Matrix;
use crate::parallel::{Grid, OutPtr};
use crate::pool;
use crate::{Isa, Precision};
use std::sync::atomic::{AtomicBool, Ordering};

/// See [`set_prompt_tiles`].
static PROMPT_TILES: AtomicBool = AtomicBool::new(false);

/// Chooses whether products of bfloat16 weights with more than eight tokens are made of tiles on
/// processors that have them (AMX), for [`Precision::Fast`]: a prompt is read four times as fast, but
/// the last bits of a token then depend on how many others are computed with it. One token, for which
/// rows stream from memory one by one, would be an eighth slower in tiles. Quantized weights and
/// training are not concerned.
pub fn set_prompt_tiles(wanted: bool) {
    PROMPT_TILES.store(wanted, Ordering::Relaxed);
}

/// Memory that the forms of inputs reuse, one input after another.
#[derive(Default)]
pub struct InputBuffers {
    floats: AlignedTokens,
    bf16: AlignedTokens,
    /// The 8-bit form in the order of the columns, and those in act-order.
    prepared: Vec<Prepared>,
}

/// Tokens that one or more matrices are multiplied with.
pub struct Input<'a> {
    kernels: &'static Kernels,
    x: &'a [f32],
    buffers: &'a mut InputBuffers,
    tiles: bool,
    /// Which of the float forms are of this input.
    aligned: bool,
    rounded: bool,
    /// How many of the buffers hold forms of this input.
    prepared: usize,
}

/// Where a product goes.
#[derive(Debug)]
pub enum Output<'a> {
    /// `y = x Wᵀ`.
    Set(&'a mut [f32]),
    /// `y += x Wᵀ`.
    Add(&'a mut [f32]),
}

impl Output<'_> {
    /// Number of outputs.
    #[expect(clippy::len_without_is_empty, reason = "a length to compare, no collection")]
    pub fn len(&self) -> usize {
        match self {
            Output::Set(y) | Output::Add(y) => y.len(),
        }
    }

    /// The outputs as they are.
    pub fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Output::Set(y) | Output::Add(y) => y,
        }
    }

    /// The same outputs for a shorter time.
    pub fn reborrow(&mut self) -> Output<'_> {
        match self {
            Output::Set(y) => Output::Set(y),
            Output::Add(y) => Output::Add(y),
        }
    }

    fn target(&mut self, rows: usize) -> Target {
        match self {
            Output::Set(y) => Target { y: OutPtr::new(y), rows, add: false },
            Output::Add(y) => Target { y: OutPtr::new(y), rows, add: true },
        }
    }
}

impl<'a> Input<'a> {
    /// Tokens one behind the other.
    pub fn new(x: &'a [f32], buffers: &'a mut InputBuffers) -> Self {
        let tiles = PROMPT_TILES.load(Ordering::Relaxed);
        Self::with_kernels(Kernels::get(), x, buffers).in_tiles(tiles)
    }

    /// [`Input::new`] with an instruction set.
    pub fn with_kernels(
        kernels: &'static Kernels,
        x: &'a [f32],
        buffers: &'a mut InputBuffers,
    ) -> Self {
        Self { kernels, x, buffers, tiles: false, aligned: false, rounded: false, prepared: 0 }
    }

    /// With or without [`set_prompt_tiles`].
    #[must_use]
    pub fn in_tiles(self, tiles: bool) -> Self {
        Self { tiles, ..self }
    }

    /// `x Wᵀ` of each matrix into its output, in one parallel region. Ends the input: its forms know the
    /// orders of the matrices by where they lie.
    ///
    /// # Shapes
    /// Input `[tokens, cols]`, outputs `[tokens, rows]`; all matrices have the same columns.
    ///
    /// # Panics
    /// If the buffers of a matrix do not fit its shape ([`Matrix::validate`]), or input and outputs
    /// do not fit the matrices.
    pub fn matmul_all(mut self, products: &mut [(Matrix, Output)], precision: Precision) {
        let Some(cols) = products.first().map(|(w, _)| w.cols) else { return };
        let tokens = self.x.len().checked_div(cols).unwrap_or(0);
        for (w, y) in products.iter_mut() {
            if let Err(error) = w.check_sizes() {
                panic!("matmul: {error}");
            }
            assert_eq!(w.cols, cols, "columns of matrices with one input");
            if cols == 0 || w.rows == 0 {
                if let Output::Set(y) = y {
                    y.fill(0.0);
                }
                continue;
            }
            assert_eq!(self.x.len(), tokens * cols, "activations of {cols} columns");
            assert_eq!(y.len(), tokens * w.rows, "outputs of {tokens} tokens x {} rows", w.rows);
        }
        if tokens == 0 {
            return;
        }
        let paths: Vec<_> =
            products.iter().map(|(w, _)| choose(self.kernels.isa(), w, precision)).collect();
        for (path, (w, _)) in paths.iter().zip(products.iter()) {
            self.prepare(path, w);
        }
        let mut ready = Vec::with_capacity(products.len());
        for (path, (w, y)) in paths.into_iter().zip(products.iter_mut()) {
            let to = y.target(w.rows);
            match self.tile_operands(&path, w, tokens) {
                Some((x, weights)) => {
                    let write = if to.add { Write::Add } else { Write::Set };
                    let shape = (tokens, w.rows, w.cols);
                    gemm_to(self.kernels, shape, (x, weights.t()), (to.y, w.rows), write);
                }
                None => ready.push((self.ready(path, w), *w, to)),
            }
        }
        self.run(&ready, tokens);
    }

    /// Tokens and weights of a product that is made of tiles ([`set_prompt_tiles`]).
    fn tile_operands<'b>(
        &'b self,
        path: &Path<'b>,
        w: &Matrix<'_>,
        tokens: usize,
    ) -> Option<(MatRef<'b>, MatRef<'b>)> {
        match *path {
            Path::InPlace { pair: FloatPair::Bf16Bf16, weights }
                if self.tiles && self.kernels.isa() == Isa::Amx && tokens > FEW_TOKENS =>
            {
                let x = &self.buffers.bf16;
                let x = MatRef::rounded_rows(x.as_words(), x.stride() / size_of::<f32>());
                Some((x, MatRef::bf16_rows(weights, w.cols)?))
            }
            _ => None,
        }
    }

    fn run(&self, ready: &[(Ready<'_>, Matrix<'_>, Target)], tokens: usize) {
        let grids: Vec<_> =
            ready.iter().map(|(_, w, _)| Grid::new(w.rows, tokens, w.cols)).collect();
        let total = grids.iter().map(Grid::cells).sum();
        pool::run(total, |mut cell| {
            for (grid, (ready, w, target)) in grids.iter().zip(ready) {
                match cell.checked_sub(grid.cells()) {
                    Some(further) => cell = further,
                    None => return ready.run(self.kernels, w, grid.cell(cell), *target),
                }
            }
        });
    }

    /// Makes the form that a product needs, if it is not there.
    fn prepare(&mut self, path: &Path, w: &Matrix) {
        match path {
            Path::InPlace { pair: FloatPair::Bf16Bf16, .. } if !self.rounded => {
                let kernels = self.kernels;
                let round = |x: &[f32], out: &mut [u16]| kernels.round_bf16(x, out);
                self.buffers.bf16.fill(self.x, w.cols, round);
                self.rounded = true;
            }
            Path::InPlace { pair: FloatPair::Bf16Bf16, .. } => {}
            Path::InPlace { .. } if !self.aligned => {
                self.buffers
                    .floats
                    .fill(self.x, w.cols, |x, out: &mut [f32]| out.copy_from_slice(x));
                self.aligned = true;
            }
            Path::Panels(source) => {
                let index = self.find(order(w)).unwrap_or_else(|| {
                    if self.prepared == self.buffers.prepared.len() {
                        self.buffers.prepared.push(Prepared::default());
                    }
                    let form = &mut self.buffers.prepared[self.prepared];
                    form.quantize(self.kernels, self.x, w.cols, order(w));
                    self.prepared += 1;
                    self.prepared - 1
                });
                self.buffers.prepared[index].add_zero_terms(source.layout());
            }
            Path::InPlace { .. } => {}
            Path::Dequantized => {
                if let Some(order) = order(w)
                    && self.find(Some(order)).is_none()
                {
                    if self.prepared == self.buffers.prepared.len() {
                        self.buffers.prepared.push(Prepared::default());
                    }
                    self.buffers.prepared[self.prepared].reorder(self.x, w.cols, order);
                    self.prepared += 1;
                }
            }
        }
    }

    /// The buffer with this order of columns.
    fn find(&self, order: Option<&[u32]>) -> Option<usize> {
        self.buffers.prepared[..self.prepared].iter().position(|form| form.is_in(order))
    }

    fn ready<'b>(&'b self, path: Path<'b>, w: &'b Matrix<'b>) -> Ready<'b> {
        let form = self.find(order(w)).map(|index| &self.buffers.prepared[index]);
        match (path, form) {
            (Path::InPlace { pair, weights }, _) => {
                let tokens = match pair {
                    FloatPair::Bf16Bf16 => &self.buffers.bf16,
                    _ => &self.buffers.floats,
                };
                let (x, x_stride) = (OutPtr::shared(tokens.as_ptr()), tokens.stride());
                Ready::InPlace { pair, weights, x, x_stride }
            }
            (Path::Panels(source), Some(form)) => Ready::Panels(form.product(source, w)),
            (Path::Dequantized, Some(form)) if order(w).is_some() => {
                Ready::Dequantized { x: form.reordered() }
            }
            (Path::Dequantized | Path::Panels(_), _) => Ready::Dequantized { x: self.x },
        }
    }
}

/// The act-order of a matrix.
fn order<'a>(w: &Matrix<'a>) -> Option<&'a [u32]> {
    w.input_order()
}
