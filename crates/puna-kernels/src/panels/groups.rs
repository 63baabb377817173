//! Group matrices (GPTQ, AWQ, int8) interleaved by 16 rows, as one stream.
//!
//! A panel is a row of bundles, each of four groups: the scales of its groups `[4, 16]`, their zeros
//! `[4, 16]`, then the integers of its columns, `[columns / 32, bits, 16]` dwords. All three parts are
//! whole cache lines. The alternative, three arrays, is two thin streams beside a thick one, and
//! decoding reached a twentieth less of the memory's speed on it.

use crate::blocks::panel::ROWS;
use crate::numbers::{f16_to_f32, f32_to_f16};
use crate::parallel::for_each_chunk_mut;
use crate::{GroupMatrix, GroupQuants, GroupZeros, StreamBytes, nibble_row_bytes};

/// Groups of a bundle.
const BUNDLE: usize = 4;

/// How scales are stored in panels: in half the memory where nothing is lost by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScales {
    /// IEEE halfs, as GPTQ and AWQ files usually have them.
    F16,
    /// Floats.
    F32,
}

impl GroupScales {
    const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Where what lies in the panels of a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLayout {
    pub(crate) bits: u8,
    pub(crate) scales: GroupScales,
    pub(crate) group_size: usize,
}

impl GroupLayout {
    /// Bytes of a bundle's scales and zeros.
    #[inline(always)]
    pub(crate) const fn factor_bytes(self) -> usize {
        BUNDLE * ROWS * (self.scales.bytes() + 1)
    }

    /// Bytes of 32 columns' integers.
    #[inline(always)]
    pub(crate) const fn block_bytes(self) -> usize {
        4 * ROWS * self.bits as usize
    }

    /// Bytes of a panel; `None` if no memory has so many.
    pub(crate) fn panel_bytes(self, cols: usize) -> Option<usize> {
        let bundles = cols.div_ceil(self.group_size.max(1)).div_ceil(BUNDLE);
        let factors = bundles.checked_mul(self.factor_bytes())?;
        (cols / 32).checked_mul(self.block_bytes())?.checked_add(factors)
    }

    /// Where the integers of block `block` are, whose columns are of group `group`.
    #[inline(always)]
    pub(crate) const fn integers_at(self, block: usize, group: usize) -> usize {
        block * self.block_bytes() + (group / BUNDLE + 1) * self.factor_bytes()
    }

    /// Where the scales of a group are.
    #[inline(always)]
    pub(crate) const fn scales_at(self, group: usize) -> usize {
        self.bundle_at(group) + group % BUNDLE * ROWS * self.scales.bytes()
    }

    /// Where the zeros of a group are.
    #[inline(always)]
    pub(crate) const fn zeros_at(self, group: usize) -> usize {
        self.bundle_at(group) + ROWS * (BUNDLE * self.scales.bytes() + group % BUNDLE)
    }

    /// Whether a group is the first of its bundle.
    #[inline(always)]
    pub(crate) const fn begins_bundle(group: usize) -> bool {
        group.is_multiple_of(BUNDLE)
    }

    #[inline(always)]
    const fn bundle_at(self, group: usize) -> usize {
        let bundle = group / BUNDLE;
        let blocks = bundle * BUNDLE * (self.group_size / 32);
        blocks * self.block_bytes() + bundle * self.factor_bytes()
    }

    /// The scale of one row of a panel.
    pub(crate) fn scale(self, panel: &[u8], group: usize, lane: usize) -> f32 {
        let at = &panel[self.scales_at(group) + lane * self.scales.bytes()..];
        match self.scales {
            GroupScales::F16 => f16_to_f32(u16::from_le_bytes([at[0], at[1]])),
            GroupScales::F32 => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
        }
    }

    fn set_scale(self, panel: &mut [u8], (group, lane): (usize, usize), scale: f32) {
        let at = self.scales_at(group) + lane * self.scales.bytes();
        match self.scales {
            GroupScales::F16 => {
                panel[at..at + 2].copy_from_slice(&f32_to_f16(scale).to_le_bytes());
            }
            GroupScales::F32 => panel[at..at + 4].copy_from_slice(&scale.to_le_bytes()),
        }
    }
}

/// What [`GroupPanels`](crate::GroupPanels) borrows, without the order of its inputs.
#[derive(Debug)]
pub struct PackedGroups {
    /// Bits of an integer.
    pub bits: u8,
    /// How the scales are stored.
    pub scales: GroupScales,
    /// The panels.
    pub bytes: StreamBytes,
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
    let zero = |at: usize| match group.zeros {
        GroupZeros::PerGroup(zeros) => zeros[at],
        GroupZeros::Zero => 0,
    };
    let groups = cols.div_ceil(group.group_size);
    if (0..rows * groups).any(|at| zero(at).checked_add(offset).is_none()) {
        return None;
    }
    let is_half = |scale: &f32| f16_to_f32(f32_to_f16(*scale)).to_bits() == scale.to_bits();
    let halfs = group.scales.iter().all(is_half);
    let scales = if halfs { GroupScales::F16 } else { GroupScales::F32 };
    let layout = GroupLayout { bits, scales, group_size: group.group_size };
    let panel_bytes = layout.panel_bytes(cols)?;
    let mut bytes = StreamBytes::zeros(panel_bytes.checked_mul(rows.div_ceil(ROWS))?)?;
    for_each_chunk_mut(&mut bytes, panel_bytes, |first, panel| {
        let first = first / panel_bytes * ROWS;
        for row in first..rows.min(first + ROWS) {
            let lane = row % ROWS;
            for g in 0..groups {
                let at = row * groups + g;
                layout.set_scale(panel, (g, lane), group.scales[at]);
                panel[layout.zeros_at(g) + lane] = zero(at) + offset;
            }
            for block in 0..cols / 32 {
                let out = &mut panel[layout.integers_at(block, 32 * block / group.group_size)..];
                let from = row * stride + block * 4 * usize::from(bits);
                for (i, dword) in out[..layout.block_bytes()]
                    .chunks_exact_mut(4)
                    .skip(lane)
                    .step_by(ROWS)
                    .enumerate()
                {
                    for (k, out) in dword.iter_mut().enumerate() {
                        *out = byte(from + 4 * i + k) ^ flip;
                    }
                }
            }
        }
    });
    Some(PackedGroups { bits, scales, bytes })
}
