//! Tokens that begin at cache lines, for products that load them as vectors.
//!
//! Where rows of floats lie as they come, each vector load crosses two lines, and rows a multiple of
//! 4 KiB apart meet in the same sets of the first-level cache (`docs/performance.md` has what it
//! gains).

use super::activations::MIN_PARALLEL;
use crate::gemm::MatRef;
use crate::kernels::Kernels;
use crate::line::Line;
use crate::parallel::for_each_chunk_mut;

/// Rows of one type, a line more than their values apart.
#[derive(Default)]
pub(super) struct AlignedTokens {
    lines: Vec<Line>,
    /// Lines from one token to the next.
    step: usize,
}

/// Types without padding or invalid values.
pub(super) trait Plain: Copy {}
impl Plain for u16 {}
impl Plain for f32 {}

impl AlignedTokens {
    /// Takes tokens of `cols` values over, each converted by `convert(values, out)`.
    pub(super) fn fill<T: Plain>(
        &mut self,
        x: &[f32],
        cols: usize,
        convert: impl Fn(&[f32], &mut [T]) + Sync,
    ) {
        self.step = (cols * size_of::<T>()).div_ceil(size_of::<Line>()) + 1;
        let (step, tokens) = (self.step, x.len() / cols);
        self.lines.resize(tokens * step, Line::ZERO);
        let lines = &mut self.lines[..tokens * step];
        for_each_chunk_mut(lines, MIN_PARALLEL.div_ceil(cols) * step, |first, lines| {
            let x = x[first / step * cols..].chunks_exact(cols);
            for (x, lines) in x.zip(lines.chunks_exact_mut(step)) {
                // SAFETY: a token's lines have room for `cols` values of a type that any bytes are
                // valid for, at an address that suits it.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<T>(), cols) };
                convert(x, out);
            }
        });
    }

    /// Takes tokens over as bfloat16.
    pub(super) fn round(&mut self, kernels: &Kernels, x: &[f32], cols: usize) {
        self.fill(x, cols, |x, out: &mut [u16]| kernels.round_bf16(x, out));
    }

    /// The tokens as rows of pairs of bfloat16.
    pub(super) fn pairs(&self) -> MatRef<'_> {
        MatRef::rounded_rows(self.as_words(), self.stride() / size_of::<f32>())
    }

    /// The first token.
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// All tokens with what lies between them, as words of any type.
    fn as_words(&self) -> &[f32] {
        // SAFETY: lines are plain bytes, and every pattern of bits is a float.
        unsafe { self.lines.align_to().1 }
    }

    /// Bytes from one token to the next.
    pub(super) fn stride(&self) -> usize {
        self.step * size_of::<Line>()
    }
}
