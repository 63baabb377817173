//! How a tensor's elements are stored, over all containers.
//!
//! Plain types are blocks of one element, so that sizes have one formula. The block formats are
//! those of GGUF (ggml-common.h of llama.cpp); their bytes are read by puna-kernels, here they
//! only have sizes.

/// How a tensor's elements or blocks are stored. Little endian throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each name is the name of the format")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
}

impl Dtype {
    /// Elements per block: 1 for plain types, 32 or 256 for block formats.
    pub fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
            _ => 1,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
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

    /// Whether the type is one element per block.
    pub fn is_plain(self) -> bool {
        self.block_len() == 1
    }

    /// Bytes of a tensor of this type and row-major shape; `None` if the size overflows or the
    /// last axis is not a multiple of the block length.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if self.block_len() > 1 && !shape.last().is_some_and(|c| c.is_multiple_of(self.block_len()))
        {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The name users know: safetensors' names for plain types, llama.cpp's for block formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
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

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_block_formula() {
        assert_eq!(Dtype::BF16.tensor_bytes(&[3, 5]), Some(30));
        assert_eq!(Dtype::F32.tensor_bytes(&[]), Some(4));
        assert_eq!(Dtype::Q8_0.tensor_bytes(&[2, 64]), Some(4 * 34));
        assert_eq!(Dtype::Q6K.tensor_bytes(&[1, 256]), Some(210));
    }

    #[test]
    fn sizes_that_overflow_or_split_a_block_are_refused() {
        assert_eq!(Dtype::F64.tensor_bytes(&[usize::MAX, 2]), None);
        assert_eq!(Dtype::F64.tensor_bytes(&[usize::MAX / 4]), None);
        assert_eq!(Dtype::Q4_0.tensor_bytes(&[4, 40]), None);
        assert_eq!(Dtype::Q4_0.tensor_bytes(&[]), None);
    }
}
