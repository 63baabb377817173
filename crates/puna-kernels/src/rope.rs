//! Rotary position embedding (Su et al. 2021, eq. 34) in Hugging Face's half-split layout.

use crate::parallel::for_each_chunk_mut;

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
    rotate(None, x, (heads, head_dim), table);
}

/// [`rope`] of `x` into `out`.
///
/// # Panics
/// As there, or if the lengths differ.
pub fn rope_into(x: &[f32], out: &mut [f32], heads: usize, head_dim: usize, table: &RopeTable) {
    assert_eq!(x.len(), out.len(), "input and output");
    rotate(Some(x), out, (heads, head_dim), table);
}

/// Rotates what is in `x`, or what is copied there first.
fn rotate(
    from: Option<&[f32]>,
    x: &mut [f32],
    (heads, head_dim): (usize, usize),
    table: &RopeTable,
) {
    let half = table.rotary_dim / 2;
    assert!(table.rotary_dim == 2 * half && table.rotary_dim <= head_dim, "rotary_dim");
    let row = heads * head_dim;
    if x.is_empty() || half == 0 {
        if let Some(from) = from {
            x.copy_from_slice(from);
        }
        return;
    }
    let tokens = x.len() / row;
    assert_eq!(x.len(), tokens * row, "rows of {heads} heads of {head_dim}");
    assert_eq!((table.cos.len(), table.sin.len()), (tokens * half, tokens * half), "rope table");
    let rotate = |(x, (cos, sin)): (&mut [f32], (&[f32], &[f32]))| {
        for head in x.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    };
    for_each_chunk_mut(x, MIN_PARALLEL.div_ceil(row) * row, |first, x| {
        if let Some(from) = from {
            x.copy_from_slice(&from[first..first + x.len()]);
        }
        let first = first / row * half;
        let angles =
            table.cos[first..].chunks_exact(half).zip(table.sin[first..].chunks_exact(half));
        x.chunks_exact_mut(row).zip(angles).for_each(rotate);
    });
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
}
