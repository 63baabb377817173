//! The block formats of GGUF, plain floats included (blocks of one weight).
//!
//! Layouts are those of ggml (`ggml-common.h`); names are those `llama.cpp` prints.

/// How the weights of a row are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// IEEE single precision, little endian.
    F32,
    /// IEEE half precision, little endian.
    F16,
    /// bfloat16, little endian.
    BF16,
    /// 4 bits, blocks of 32, `w = d (q - 8)`.
    Q4_0,
    /// 4 bits, blocks of 32, `w = d q + m`.
    Q4_1,
    /// 5 bits, blocks of 32, `w = d (q - 16)`.
    Q5_0,
    /// 5 bits, blocks of 32, `w = d q + m`.
    Q5_1,
    /// 8 bits, blocks of 32, `w = d q`.
    Q8_0,
    /// 2 bits, superblocks of 256, sub-blocks of 16 with 4-bit scale and minimum.
    Q2K,
    /// 3 bits, superblocks of 256, sub-blocks of 16 with 6-bit scale.
    Q3K,
    /// 4 bits, superblocks of 256, sub-blocks of 32 with 6-bit scale and minimum.
    Q4K,
    /// 5 bits, superblocks of 256, sub-blocks of 32 with 6-bit scale and minimum.
    Q5K,
    /// 6 bits, superblocks of 256, sub-blocks of 16 with 8-bit scale.
    Q6K,
    /// 4 bits into a fixed table of 16 values, blocks of 32.
    Iq4Nl,
}

impl BlockFormat {
    /// Every format.
    pub const ALL: &[BlockFormat] = &[
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
    ];

    /// Weights per block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` weights; `None` where that is not a whole number of blocks or
    /// does not fit into `usize`.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The name ggml prints, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BlockFormat;

    #[test]
    fn row_bytes_counts_whole_blocks_only() {
        assert_eq!(BlockFormat::Q4K.row_bytes(512), Some(288));
        assert_eq!(BlockFormat::Q4K.row_bytes(300), None);
        assert_eq!(BlockFormat::F32.row_bytes(usize::MAX), None);
        assert_eq!(BlockFormat::BF16.row_bytes(7), Some(14));
    }
}
