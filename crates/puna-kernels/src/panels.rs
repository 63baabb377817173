//! Matrices whose rows are interleaved 16 at a time, for decoding at the speed of memory.
//!
//! The bytes are those of the file in another order (`blocks/panel/source.rs`), so that nothing is
//! lost and a row can be taken out again. Reading 16 rows where they lie costs about 70 vector
//! instructions per 16 blocks of Q4_0 only to transpose them and 16 streams of memory; from a panel
//! it is a load each.

use crate::blocks::panel::{ROWS, fields};
use crate::kernels::Kernels;
use crate::parallel::for_each_chunk_mut;
use crate::{
    BlockFormat, GroupMatrix, GroupQuants, GroupScales, GroupZeros, KernelError, StreamBytes,
    nibble_row_bytes, panel_bytes,
};

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
    let block = format.block_len();
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
    let (kernels, panel) = (Kernels::get(), ROWS * row_bytes);
    for_each_chunk_mut(out, panel, |first, out| {
        let from = &bytes[first..bytes.len().min(first + panel)];
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

/// What [`GroupPanels`](crate::GroupPanels) borrows, without the order of its inputs.
#[derive(Debug)]
pub struct PackedGroups {
    /// Bits of an integer.
    pub bits: u8,
    /// The integers.
    pub quants: StreamBytes,
    /// The scales.
    pub scales: GroupScales,
    /// The zeros.
    pub zeros: Vec<u8>,
}

/// The integers, scales and zeros of a group matrix interleaved; `None` where blocks of 32 columns
/// would straddle groups, which products then dequantize, and for signed integers with zeros that
/// no unsigned ones have.
///
/// # Panics
/// If the buffers do not fit the shape.
pub fn pack_groups((rows, cols): (usize, usize), group: &GroupMatrix) -> Option<PackedGroups> {
    let whole = group.group_size.is_multiple_of(32) || group.group_size >= cols;
    if !whole || !cols.is_multiple_of(32) || cols == 0 || rows == 0 {
        return None;
    }
    let (bits, stride) = match group.quants {
        GroupQuants::Nibbles(_) => (4u8, nibble_row_bytes(cols)),
        GroupQuants::Bytes(_) | GroupQuants::Signed(_) => (8, cols),
    };
    // A signed byte is an unsigned one with the zero 128.
    let (flip, offset) =
        if matches!(group.quants, GroupQuants::Signed(_)) { (0x80, 128) } else { (0u8, 0u8) };
    let byte = |at: usize| match group.quants {
        GroupQuants::Nibbles(q) | GroupQuants::Bytes(q) => q[at],
        GroupQuants::Signed(q) => q[at].cast_unsigned(),
    };
    let panels = rows.div_ceil(ROWS);
    let mut quants = StreamBytes::zeros(panels * ROWS * stride)?;
    for_each_chunk_mut(&mut quants, ROWS * stride, |first, out| {
        for row in first / stride..rows.min(first / stride + ROWS) {
            for (i, dword) in out.chunks_exact_mut(4).skip(row % ROWS).step_by(ROWS).enumerate() {
                for (k, out) in dword.iter_mut().enumerate() {
                    *out = byte(row * stride + 4 * i + k) ^ flip;
                }
            }
        }
    });
    let groups = cols.div_ceil(group.group_size);
    let mut scales = vec![0f32; panels * groups * ROWS];
    let mut zeros = vec![0u8; scales.len()];
    for row in 0..rows {
        for g in 0..groups {
            let at = (row / ROWS * groups + g) * ROWS + row % ROWS;
            let zero = match group.zeros {
                GroupZeros::PerGroup(zeros) => zeros[row * groups + g],
                GroupZeros::Zero => 0,
            };
            scales[at] = group.scales[row * groups + g];
            zeros[at] = zero.checked_add(offset)?;
        }
    }
    Some(PackedGroups { bits, quants, scales: GroupScales::new(scales), zeros })
}

/// Copies blocks `first ..` of a row out of panels, as many as fit into `out`.
pub(crate) fn row_blocks(
    format: BlockFormat,
    (panels, blocks_per_row): (&[u8], usize),
    (row, first): (usize, usize),
    out: &mut [u8],
) {
    let (bytes, fields) = (format.block_bytes(), fields(format));
    let panel = &panels[row / ROWS * blocks_per_row * bytes * ROWS..];
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
