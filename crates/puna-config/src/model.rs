//! A checkpoint's config as a whole: the decoder and what is said about its files and tokens.

use crate::DecoderConfig;

/// What a checkpoint's config says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The arithmetic.
    pub decoder: DecoderConfig,
    /// Whose tensor names and config keys the files use; decides dialect, never arithmetic.
    pub family: Family,
    /// Type that the dense weights are stored in, where the config says so.
    pub dtype: Option<WeightDtype>,
    /// How the weights are quantized, where the config says so.
    pub quantization: Option<Quantization>,
    /// Token ids named by the config.
    pub tokens: ConfigTokens,
}

/// Whose dialect a checkpoint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// LLaMA 1, 2, 3, 3.x and everything with `LlamaForCausalLM`.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Mixtral.
    Mixtral,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text.
    Gemma3,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Qwen 3 MoE.
    Qwen3Moe,
    /// OLMoE.
    Olmoe,
    /// Phi-3.
    Phi3,
}

/// Type of the dense weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDtype {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
}

/// Token ids that a config names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigTokens {
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// Any of these ends a sequence.
    pub eos: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// How a Hugging Face checkpoint's matrices are quantized.
#[derive(Debug, Clone, PartialEq)]
pub enum Quantization {
    /// GPTQ as AutoGPTQ writes it.
    Gptq {
        /// 2, 3, 4 or 8.
        bits: u32,
        /// Inputs per scale; `None` is one group per row (`-1`).
        group_size: Option<usize>,
        /// What `qzeros` holds.
        zeros: GptqZeros,
        /// Whether quantization followed the activation order.
        act_order: ActOrder,
    },
    /// AWQ, `gemm` version, 4 bit.
    Awq {
        /// Inputs per scale; `None` is one group per row (`-1`).
        group_size: Option<usize>,
    },
    /// bitsandbytes; each tensor's own `quant_state` says the rest.
    BitsAndBytes {
        /// 4-bit codebook or 8-bit rows.
        kind: BitsAndBytesKind,
    },
    /// F8_E4M3 with one scale per block of the matrix.
    Fp8Block {
        /// Rows and columns of a block.
        block: [usize; 2],
    },
}

/// What GPTQ's `qzeros` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GptqZeros {
    /// The zero point minus one (`checkpoint_format: gptq`).
    MinusOne,
    /// The zero point (`gptq_v2`).
    Stored,
}

/// Whether GPTQ reordered the inputs (`desc_act`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActOrder {
    /// Groups are contiguous inputs.
    Sequential,
    /// `g_idx` says each input's group.
    Reordered,
}

/// Kinds of bitsandbytes quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitsAndBytesKind {
    /// NF4 or FP4 (the tensor says which).
    FourBit,
    /// LLM.int8().
    Int8,
}
