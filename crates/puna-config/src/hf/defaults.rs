//! What transformers takes for keys that a `config.json` leaves out, per architecture.
//!
//! Source: the signatures in `transformers/models/*/configuration_*.py` (5.0). LLaMA 1's files
//! lean on them (no `num_key_value_heads`, no `rope_theta`), Gemma 3's image models even more.

use crate::Family;

/// Defaults of one architecture.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub ffn_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    /// `None`: as many as heads.
    pub num_kv_heads: Option<usize>,
    /// `None`: hidden size divided by heads.
    pub head_dim: Option<usize>,
    pub max_seq_len: usize,
    pub norm_eps: f64,
    pub tied: bool,
    /// bos, eos, pad.
    pub tokens: (Option<u32>, Option<u32>, Option<u32>),
}

/// Base of the rotary frequencies (for Gemma 3 of the global layers).
pub(super) fn theta(family: Family) -> f64 {
    match family {
        Family::Mixtral | Family::Gemma3 => 1e6,
        _ => 1e4,
    }
}

/// Base of the rotary frequencies of Gemma 3's local layers.
pub(super) const LOCAL_THETA: f64 = 1e4;

pub(super) fn of(family: Family) -> Defaults {
    let llama = Defaults {
        vocab_size: 32_000,
        hidden_size: 4096,
        ffn_size: 11_008,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: None,
        head_dim: None,
        max_seq_len: 2048,
        norm_eps: 1e-6,
        tied: false,
        tokens: (Some(1), Some(2), None),
    };
    let mistral =
        Defaults { ffn_size: 14_336, num_kv_heads: Some(8), max_seq_len: 4096 * 32, ..llama };
    let gemma2 = Defaults {
        vocab_size: 256_000,
        hidden_size: 2304,
        ffn_size: 9216,
        num_layers: 26,
        num_heads: 8,
        num_kv_heads: Some(4),
        head_dim: Some(256),
        max_seq_len: 8192,
        tied: true,
        tokens: (Some(2), Some(1), Some(0)),
        ..llama
    };
    let qwen2 = Defaults {
        vocab_size: 151_936,
        ffn_size: 22_016,
        num_kv_heads: Some(32),
        max_seq_len: 32_768,
        tokens: (None, None, None),
        ..llama
    };
    match family {
        Family::Llama => llama,
        Family::Mistral => mistral,
        Family::Mixtral => Defaults { norm_eps: 1e-5, ..mistral },
        Family::Gemma => Defaults {
            hidden_size: 3072,
            ffn_size: 24_576,
            num_layers: 28,
            num_heads: 16,
            num_kv_heads: Some(16),
            ..gemma2
        },
        Family::Gemma2 => gemma2,
        Family::Gemma3 => Defaults { vocab_size: 262_208, max_seq_len: 131_072, ..gemma2 },
        Family::Qwen2 => qwen2,
        Family::Qwen3 => Defaults { head_dim: Some(128), ..qwen2 },
        Family::Qwen3Moe => Defaults {
            hidden_size: 2048,
            ffn_size: 6144,
            num_layers: 24,
            num_kv_heads: Some(4),
            ..qwen2
        },
        Family::Olmoe => Defaults {
            vocab_size: 50_304,
            hidden_size: 2048,
            ffn_size: 2048,
            num_layers: 16,
            num_heads: 16,
            max_seq_len: 4096,
            norm_eps: 1e-5,
            tokens: (None, Some(50_279), Some(1)),
            ..llama
        },
        Family::Phi3 => Defaults {
            vocab_size: 32_064,
            hidden_size: 3072,
            ffn_size: 8192,
            max_seq_len: 4096,
            norm_eps: 1e-5,
            tokens: (Some(1), Some(32_000), Some(32_000)),
            ..llama
        },
    }
}
