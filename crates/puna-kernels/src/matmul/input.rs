//! Activations on their way into products, in each form that a product has asked for.

use super::activations::Prepared;
use super::fixed::{FixedProduct, FixedTokens};
use super::tokens::AlignedTokens;
use super::{Path, Ready, Target, Tiled, choose};
use crate::gemm::{Operand, Right, Write, gemm_in_tiles};
use crate::kernels::{FloatPair, Kernels};
use crate::matrix::Matrix;
use crate::numbers::bf16_to_f32;
use crate::parallel::{Grid, OutPtr};
use crate::pool;
use crate::{Isa, Precision};
use std::sync::atomic::{AtomicBool, Ordering};

/// See [`set_prompt_tiles`].
static PROMPT_TILES: AtomicBool = AtomicBool::new(false);

/// Chooses whether prompts are multiplied in tiles of bfloat16 on processors that have them (AMX):
/// several times as fast, but the last bits of a token then depend on how many others are computed
/// with it. For more than eight tokens bfloat16 weights are, with activations rounded as
/// [`Precision::Fast`] has them or, for [`Precision::Exact`], split into three bfloat16 each. From 32
/// tokens on quantized weights but Q8_0 are for [`Precision::Fast`], weights and activations rounded to
/// bfloat16. Training is not concerned.
pub fn set_prompt_tiles(wanted: bool) {
    PROMPT_TILES.store(wanted, Ordering::Relaxed);
}

/// Whether prompts are multiplied in tiles: [`set_prompt_tiles`] wants it, and the kernels have them.
#[must_use]
pub fn prompt_tiles() -> bool {
    PROMPT_TILES.load(Ordering::Relaxed) && Kernels::get().isa() == Isa::Amx
}

/// Memory that the forms of inputs reuse, one input after another.
#[derive(Default)]
pub struct InputBuffers {
    floats: AlignedTokens,
    bf16: AlignedTokens,
    /// What rounding to bfloat16 leaves, and what rounding that leaves.
    rests: [AlignedTokens; 2],
    /// The 8-bit form in the order of the columns, and those in act-order.
    prepared: Vec<Prepared>,
    /// Integers of 16 bits.
    fixed: FixedTokens,
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
    split: bool,
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
        Self::with_kernels(Kernels::get(), x, buffers).in_tiles(prompt_tiles())
    }

    /// [`Input::new`] with an instruction set.
    pub fn with_kernels(
        kernels: &'static Kernels,
        x: &'a [f32],
        buffers: &'a mut InputBuffers,
    ) -> Self {
        buffers.fixed.begin();
        Self {
            kernels,
            x,
            buffers,
            tiles: false,
            aligned: false,
            rounded: false,
            split: false,
            prepared: 0,
        }
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
        let tiles = self.tiles && self.kernels.isa() == Isa::Amx;
        let mut ways = Vec::with_capacity(products.len());
        for (w, _) in products.iter() {
            let path = choose(self.kernels, w, precision);
            let way = if tiles { path.in_tiles(w, tokens) } else { Err(path) };
            match &way {
                Ok(tiled) => self.prepare_tiles(tiled, w),
                Err(path) => self.prepare(path, w),
            }
            ways.push(way);
        }
        let mut ready = Vec::with_capacity(products.len());
        for (way, (w, y)) in ways.into_iter().zip(products.iter_mut()) {
            let to = y.target(w.rows);
            match way {
                Ok(tiled) => self.multiply_in_tiles(&tiled, w, tokens, to),
                Err(path) => ready.push((self.ready(path, w), *w, to)),
            }
        }
        self.run(&ready, tokens);
    }

    fn multiply_in_tiles(&self, tiled: &Tiled<'_>, w: &Matrix<'_>, tokens: usize, to: Target) {
        let InputBuffers { bf16, rests: [middle, low], .. } = &*self.buffers;
        let (lefts, right): (&[_], Operand<'_>) = match tiled {
            Tiled::Rounded(w) => (&[bf16.pairs()], Operand::Stored(Right::Matrix(w.t()))),
            // Small terms first.
            Tiled::Split(w) => (
                &[low.pairs(), middle.pairs(), bf16.pairs()],
                Operand::Stored(Right::Matrix(w.t())),
            ),
            Tiled::Quantized(made) => {
                let in_order = self.find(order(w)).filter(|_| order(w).is_some());
                let form = in_order.map_or(bf16, |index| self.buffers.prepared[index].rounded());
                (&[form.pairs()], Operand::Made(made))
            }
        };
        let write = if to.add { Write::Add } else { Write::Set };
        gemm_in_tiles(
            self.kernels,
            (tokens, w.rows, w.cols),
            (lefts, right),
            (to.y, w.rows),
            write,
        );
    }

    fn run(&self, ready: &[(Ready<'_>, Matrix<'_>, Target)], tokens: usize) {
        let grids: Vec<_> = ready.iter().map(|(ready, w, _)| ready.grid(w, tokens)).collect();
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
            Path::InPlace { pair: FloatPair::Bf16Bf16, .. } => self.round(w.cols),
            Path::InPlace { .. } if !self.aligned => {
                self.buffers
                    .floats
                    .fill(self.x, w.cols, |x, out: &mut [f32]| out.copy_from_slice(x));
                self.aligned = true;
            }
            Path::InPlace { .. } => {}
            Path::Panels(source) => {
                let (kernels, x) = (self.kernels, self.x);
                self.form(w).quantize(kernels, (x, w.cols), source.layout());
            }
            Path::Fixed(weights) => {
                weights.scales(w, self.x.len() / w.cols);
                if let Some(kernels) = self.kernels.fixed {
                    self.buffers.fixed.convert(kernels, (self.x, w.cols));
                }
            }
            Path::Dequantized if order(w).is_some() => {
                self.form(w);
            }
            Path::Dequantized => {}
        }
    }

    /// [`Self::prepare`] for a product in tiles.
    fn prepare_tiles(&mut self, tiled: &Tiled, w: &Matrix) {
        match tiled {
            Tiled::Split(_) => self.split(w.cols),
            Tiled::Quantized(_) if order(w).is_some() => {
                let kernels = self.kernels;
                self.form(w).round(kernels, w.cols);
            }
            Tiled::Rounded(_) | Tiled::Quantized(_) => self.round(w.cols),
        }
    }

    fn round(&mut self, cols: usize) {
        if !std::mem::replace(&mut self.rounded, true) {
            self.buffers.bf16.round(self.kernels, self.x, cols);
        }
    }

    /// Every value as the sum of three bfloat16, which hold all of its bits.
    fn split(&mut self, cols: usize) {
        self.round(cols);
        if std::mem::replace(&mut self.split, true) {
            return;
        }
        let kernels = self.kernels;
        let [middle, low] = &mut self.buffers.rests;
        let rest = |x: &[f32], times: usize, out: &mut [u16]| {
            let mut rest = x.to_vec();
            for _ in 0..times {
                kernels.round_bf16(&rest, out);
                rest.iter_mut().zip(&*out).for_each(|(x, &high)| *x -= bf16_to_f32(high));
            }
            kernels.round_bf16(&rest, out);
        };
        middle.fill(self.x, cols, |x, out: &mut [u16]| rest(x, 1, out));
        low.fill(self.x, cols, |x, out: &mut [u16]| rest(x, 2, out));
    }

    /// The tokens in a matrix's order of columns.
    fn form(&mut self, w: &Matrix) -> &mut Prepared {
        let index = self.find(order(w)).unwrap_or_else(|| {
            if self.prepared == self.buffers.prepared.len() {
                self.buffers.prepared.push(Prepared::default());
            }
            self.buffers.prepared[self.prepared].begin(self.x, w.cols, order(w));
            self.prepared += 1;
            self.prepared - 1
        });
        &mut self.buffers.prepared[index]
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
            (Path::Fixed(weights), _) => {
                let tokens = &self.buffers.fixed;
                let scales = weights.scales(w, self.x.len() / w.cols);
                Ready::Fixed(FixedProduct { weights, scales, w, tokens })
            }
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
