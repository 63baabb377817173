//! Bits per weight of storage formats.
//!
//! Exact, from the formats' blocks (bytes of a block over its weights). Mixed files such as Q4_K_M
//! are none of them: their size depends on which tensors have which format.

use std::fmt;
use std::str::FromStr;

use crate::error::LawError;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// float16.
    Fp16,
    /// 8-bit floats, a scale per tensor.
    Fp8,
    /// 8-bit integers, a scale per row or tensor.
    Int8,
    /// ggml, 8 bits, a scale per 32.
    Q8_0,
    /// ggml, 6 bits in super-blocks of 256.
    Q6K,
    /// ggml, 5 bits in super-blocks of 256.
    Q5K,
    /// ggml, 5 bits, scale and minimum per 32.
    Q5_1,
    /// ggml, 5 bits, a scale per 32.
    Q5_0,
    /// ggml, 4 bits in super-blocks of 256.
    Q4K,
    /// ggml, 4 bits, scale and minimum per 32.
    Q4_1,
    /// ggml, 4 bits, a scale per 32.
    Q4_0,
    /// bitsandbytes' NF4, doubly quantized: an 8-bit scale per 64, a float32 per 256 of those.
    Nf4,
    /// ggml, 3 bits in super-blocks of 256.
    Q3K,
    /// ggml, 2 bits in super-blocks of 256.
    Q2K,
}

impl WeightFormat {
    /// All, from the largest to the smallest.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::Bf16,
        Self::Fp16,
        Self::Fp8,
        Self::Int8,
        Self::Q8_0,
        Self::Q6K,
        Self::Q5K,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4K,
        Self::Q4_1,
        Self::Q4_0,
        Self::Nf4,
        Self::Q3K,
        Self::Q2K,
    ];

    /// Bytes and weights of a block.
    #[must_use]
    pub fn block(self) -> (u32, u32) {
        match self {
            Self::F32 => (4, 1),
            Self::Bf16 | Self::Fp16 => (2, 1),
            Self::Fp8 | Self::Int8 => (1, 1),
            Self::Q8_0 => (34, 32),
            Self::Q6K => (210, 256),
            Self::Q5K => (176, 256),
            Self::Q5_1 => (24, 32),
            Self::Q5_0 => (22, 32),
            Self::Q4K => (144, 256),
            Self::Q4_1 => (20, 32),
            Self::Q4_0 => (18, 32),
            Self::Nf4 => (8192 + 256 + 4, 16_384),
            Self::Q3K => (110, 256),
            Self::Q2K => (84, 256),
        }
    }

    /// Bits per weight.
    #[must_use]
    pub fn bits(self) -> f64 {
        let (bytes, weights) = self.block();
        8.0 * f64::from(bytes) / f64::from(weights)
    }

    /// The name as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5K => "q5_k",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4K => "q4_k",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::Nf4 => "nf4",
            Self::Q3K => "q3_k",
            Self::Q2K => "q2_k",
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = LawError;

    fn from_str(name: &str) -> Result<Self, LawError> {
        let lower = name.to_ascii_lowercase();
        let wanted = match lower.as_str() {
            "f16" => "fp16",
            other => other,
        };
        Self::ALL.into_iter().find(|format| format.name() == wanted).ok_or_else(|| {
            LawError::UnknownFormat {
                name: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_from_the_blocks() {
        assert_eq!(WeightFormat::Q4_0.bits(), 4.5);
        assert_eq!(WeightFormat::Q8_0.bits(), 8.5);
        assert_eq!(WeightFormat::Q6K.bits(), 6.5625);
        // QLoRA's paper: double quantization brings 0.5 bits of scales down to 0.127.
        assert!((WeightFormat::Nf4.bits() - 4.127).abs() < 1e-3);
        assert_eq!("f16".parse::<WeightFormat>().unwrap(), WeightFormat::Fp16);
        assert!("q4_k_m".parse::<WeightFormat>().unwrap_err().to_string().contains("q4_k"));
    }
}
