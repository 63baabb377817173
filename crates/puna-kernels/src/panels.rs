//! Matrices whose rows are interleaved 16 at a time, for decoding at the speed of memory.
//!
//! The bytes are those of the file in another order (`blocks/panel/source.rs`), so that nothing is
//! lost and a row can be taken out again; panels of Q8_0 begin with the largest scale of each row.
//! Reading 16 rows where they lie costs about 70 vector instructions per 16 blocks of Q4_0 only to
//! transpose them and 16 streams of memory; from a panel it is a load each.

use crate::blocks::panel::{ROWS, fields};
use crate::kernels::Kernels;
use crate::matrix::panel_head;
use crate::numbers::f16_to_f32;
use crate::parallel::for_each_chunk_mut;
use crate::{BlockFormat, KernelError, panel_bytes};

mod groups;
pub(crate) use groups::GroupLayout;
pub use groups::{GroupScales, PackedGroups, pack_groups};

/// Interleaves rows of quantized blocks; `out` gets [`panel_bytes`] bytes. On the thread pool.
///
/// # Errors
/// [`KernelError::Size`] if `bytes` or `out` do not have the sizes of `rows` x `cols` weights,
/// [`KernelError::PartialBlock`] for floats and rows that are not whole blocks.
pub fn pack_panels(
    format: BlockFormat,
    (rows, cols): (usize, usize),
    bytes: &[u8],
    out: &mut [u8],
) -> Result<(), KernelError> {
    let (block, block_bytes) = (format.block_len(), format.block_bytes());
    let partial = KernelError::PartialBlock { format, cols, block };
    let size = panel_bytes(format, rows, cols).ok_or(partial.clone())?;
    let row_bytes = format.row_bytes(cols).ok_or(partial)?;
    let expected = rows * row_bytes;
    if bytes.len() != expected {
        return Err(KernelError::Size { what: "block bytes", expected, got: bytes.len() });
    }
    if out.len() != size {
        return Err(KernelError::Size { what: "panel bytes", expected: size, got: out.len() });
    }
    let (kernels, panel, head) = (Kernels::get(), ROWS * row_bytes, panel_head(format));
    for_each_chunk_mut(out, head + panel, |first, out| {
        let first = first / (head + panel) * panel;
        let from = &bytes[first..bytes.len().min(first + panel)];
        let (head, out) = out.split_at_mut(head);
        put_largest(from, (row_bytes, block_bytes), head);
        let pack = |from: &[u8], out: &mut [u8]| {
            // SAFETY: `from` holds 16 rows and `out` as many bytes.
            unsafe {
                kernels.pack(format, (from.as_ptr(), row_bytes), cols / block, out.as_mut_ptr());
            }
        };
        if from.len() == panel {
            pack(from, out);
        } else {
            let mut padded = from.to_vec();
            padded.resize(panel, 0);
            pack(&padded, out);
        }
    });
    Ok(())
}

/// Writes the largest scale of each row whose blocks begin with it, if there is room for one.
fn put_largest(rows: &[u8], (row_bytes, block_bytes): (usize, usize), out: &mut [u8]) {
    let (largest, _) = out.as_chunks_mut::<4>();
    for (row, out) in rows.chunks_exact(row_bytes.max(1)).zip(largest) {
        *out = largest_scale(row, block_bytes).to_le_bytes();
    }
}

/// The largest of the scales with which blocks begin; NaN if one is.
pub(crate) fn largest_scale(row: &[u8], block_bytes: usize) -> f32 {
    // Bits of |scale| order like the values, with NaN above infinity.
    let scales = row.chunks_exact(block_bytes).map(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7fff);
    f16_to_f32(scales.max().unwrap_or(0))
}

/// Copies blocks `first ..` of a row out of panels, as many as fit into `out`.
pub(crate) fn row_blocks(
    format: BlockFormat,
    (panels, blocks_per_row): (&[u8], usize),
    (row, first): (usize, usize),
    out: &mut [u8],
) {
    let (bytes, fields) = (format.block_bytes(), fields(format));
    let head = panel_head(format);
    let panel = &panels[row / ROWS * (head + blocks_per_row * bytes * ROWS) + head..];
    for (i, out) in out.chunks_exact_mut(bytes).enumerate() {
        let block = &panel[(first + i) * bytes * ROWS..][..bytes * ROWS];
        let (halfs, dwords) = block.split_at(2 * ROWS * fields.halfs);
        let lane = row % ROWS;
        for (k, half) in out[fields.halfs_at..][..2 * fields.halfs].chunks_exact_mut(2).enumerate()
        {
            half.copy_from_slice(&halfs[2 * (k * ROWS + lane)..][..2]);
        }
        let to = &mut out[fields.dwords_at..][..4 * fields.dwords];
        for (k, dword) in to.chunks_exact_mut(4).enumerate() {
            dword.copy_from_slice(&dwords[4 * (k * ROWS + lane)..][..4]);
        }
    }
}
