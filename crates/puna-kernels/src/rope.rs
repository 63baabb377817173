//! Rotary position embedding (Su et al. 2021, eq. 34) in Hugging Face's half-split layout.

use crate::gemm::RoundedRows;
use crate::parallel::{Begin, for_each_chunk_mut, made};

/// Values from which tokens are worth a second thread.
const MIN_PARALLEL: usize = 16 * 1024;

/// The rotations of some tokens.
#[derive(Debug, Clone, Copy)]
pub struct RopeTable<'a> {
    /// `[tokens, rotary_dim / 2]`.
    pub cos: &'a [f32],
    /// `[tokens, rotary_dim / 2]`.
    pub sin: &'a [f32],
    /// Rotated features at the start of each head; even.
    pub rotary_dim: usize,
}

/// Rotates the pairs `(i, i + rotary_dim / 2)` of every head, in place.
///
/// # Shapes
/// `x`: `[tokens, heads, head_dim]`.
///
/// # Panics
/// If the lengths do not agree, or `rotary_dim` is odd or above `head_dim`.
pub fn rope(x: &mut [f32], heads: usize, head_dim: usize, table: &RopeTable) {
    let row = table.check(x.len(), (heads, head_dim));
    for_each_chunk_mut(x, MIN_PARALLEL.div_ceil(row) * row, |first, x| {
        table.rotate(first / row, x, (heads, head_dim));
    });
}

/// [`rope`] of `x` in new memory.
///
/// # Panics
/// As there.
#[must_use]
pub fn rope_new(x: &[f32], heads: usize, head_dim: usize, table: &RopeTable) -> Vec<f32> {
    let row = table.check(x.len(), (heads, head_dim));
    made(Begin::Copy(x), MIN_PARALLEL.div_ceil(row) * row, |first, x| {
        table.rotate(first / row, x, (heads, head_dim));
    })
}

/// [`rope`] of rows of bfloat16.
///
/// # Panics
/// As there.
#[must_use]
pub fn rope_rounded(
    x: RoundedRows,
    heads: usize,
    head_dim: usize,
    table: &RopeTable,
) -> RoundedRows {
    let (rows, cols) = x.shape();
    assert_eq!(table.check(rows * cols, (heads, head_dim)), cols.max(1), "width of the heads");
    x.changed(|row, x| table.rotate(row, x, (heads, head_dim)))
}

impl RopeTable<'_> {
    /// Elements of a token, at least one.
    fn check(&self, len: usize, (heads, head_dim): (usize, usize)) -> usize {
        let half = self.rotary_dim / 2;
        assert!(self.rotary_dim == 2 * half && self.rotary_dim <= head_dim, "rotary_dim");
        let row = (heads * head_dim).max(1);
        let tokens = len / row;
        assert_eq!(len, tokens * row, "rows of {heads} heads of {head_dim}");
        let expected = (tokens * half, tokens * half);
        assert_eq!((self.cos.len(), self.sin.len()), expected, "rope table");
        row
    }

    /// Rotates some tokens.
    fn rotate(&self, first: usize, x: &mut [f32], (heads, head_dim): (usize, usize)) {
        let half = self.rotary_dim / 2;
        if half == 0 {
            return;
        }
        let angles = (self.cos[first * half..].chunks_exact(half))
            .zip(self.sin[first * half..].chunks_exact(half));
        for (x, (cos, sin)) in x.chunks_exact_mut(heads * head_dim).zip(angles) {
            for head in x.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rope_turns_the_first_and_the_second_half_against_each_other() {
        let table = RopeTable { cos: &[0.0, 1.0], sin: &[1.0, 0.0], rotary_dim: 4 };
        let mut x = [1.0, 2.0, 3.0, 4.0, 9.0];
        rope(&mut x, 1, 5, &table);
        // The pair (1, 3) by 90 degrees, (2, 4) not at all, feature 4 is not rotary.
        assert_eq!(x, [-3.0, 2.0, 1.0, 4.0, 9.0]);
    }

    #[test]
    fn rounded_rows_are_turned_as_float32() {
        if !crate::takes_rounded(crate::Elements::Bf16) {
            println!("skipped: no instruction for products of bfloat16");
            return;
        }
        let (tokens, heads, dim, half) = (70, 3, 6, 2);
        let angles: Vec<f32> = (0..tokens * half).map(|i| i as f32 * 0.1).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let table = RopeTable { cos: &cos, sin: &sin, rotary_dim: 2 * half };
        let x: Vec<f32> = (0..tokens * heads * dim).map(|i| (i as f32).sin()).collect();
        let rows = |x: &RoundedRows| -> Vec<f32> {
            (0..tokens).flat_map(|row| x.row(row).into_iter().take(heads * dim)).collect()
        };
        let rounded = RoundedRows::new(&x, heads * dim);
        let mut expected = rows(&rounded);
        rope(&mut expected, heads, dim, &table);
        let expected = rows(&RoundedRows::new(&expected, heads * dim));
        assert_eq!(rows(&rope_rounded(rounded, heads, dim, &table)), expected);
    }
}
