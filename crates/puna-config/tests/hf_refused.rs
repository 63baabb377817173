//! `config.json` files that must be refused, with the key in the error.

use crate::support::{hf, hf_error};
use puna_config::Quantization;

/// The error of a file with these keys.
fn error(model_type: &str, keys: &str) -> String {
    hf_error(&format!(r#"{{"model_type": "{model_type}", {keys}}}"#))
}

fn refused(cases: &[(&str, &str, &str)]) {
    for (model_type, keys, want) in cases {
        let got = error(model_type, keys);
        assert!(got.contains(want), "{keys}\n  got:  {got}\n  want: {want}");
    }
}

#[test]
fn no_config_at_all_is_refused() {
    for (text, want) in [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "the file should be an object"),
        ("{}", "missing key model_type"),
        (r#"{"model_type": 3}"#, "model_type should be a string, but is 3"),
        (r#"{"model_type": "gpt2"}"#, "unsupported architecture gpt2 (in model_type)"),
        (r#"{"model_type": "gemma3"}"#, "missing key text_config"),
        (r#"{"model_type": "gemma3", "text_config": {"model_type": "llama"}}"#, "text_config.mod"),
    ] {
        let got = hf_error(text);
        assert!(got.contains(want), "{got}");
    }
}

#[test]
fn unknown_keys_are_refused_by_name() {
    refused(&[
        ("llama", r#""attention_sinks": 4"#, "unknown key attention_sinks (value 4)"),
        ("llama", r#""sliding_window": 4096"#, "unknown key sliding_window"),
        ("llama", r#""num_local_experts": 8"#, "unknown key num_local_experts"),
        ("llama", r#""query_pre_attn_scalar": 256"#, "unknown key query_pre_attn_scalar"),
        ("llama", r#""rope_scaling": {"type": "linear", "factor": 2, "x": 1}"#, {
            "unknown key rope_scaling.x"
        }),
        ("llama", r#""rope_scaling": {"rope_type": "default", "factor": 2}"#, {
            "unknown key rope_scaling.factor"
        }),
        ("llama", r#""rope_parameters": {"full_attention": {}}"#, {
            "unknown key rope_parameters.full_attention"
        }),
        ("olmoe", r#""clip_qkv": 8.0"#, "unknown key clip_qkv"),
        ("gemma3_text", r#""use_bidirectional_attention": true"#, {
            "unknown key use_bidirectional_attention"
        }),
        ("phi3", r#""full_attn_mod": 2"#, "unknown key full_attn_mod"),
        ("phi3", r#""lm_head_bias": true"#, "unknown key lm_head_bias"),
    ]);
}

#[test]
fn wrong_types_and_sizes_are_refused_by_name() {
    refused(&[
        ("llama", r#""hidden_size": "4096""#, "hidden_size should be a whole number not below 0"),
        ("llama", r#""hidden_size": -1"#, "hidden_size should be a whole number"),
        ("llama", r#""hidden_size": 64.5"#, "hidden_size should be a whole number"),
        ("llama", r#""hidden_size": 0"#, "hidden_size is 0, but must be from 1"),
        ("llama", r#""vocab_size": 0"#, "vocab_size is 0, but must be from 1 to"),
        ("llama", r#""num_hidden_layers": 0"#, "num_hidden_layers is 0"),
        ("llama", r#""num_hidden_layers": 1000000000"#, "num_hidden_layers is 1000000000"),
        ("llama", r#""num_attention_heads": 0"#, "num_attention_heads is 0"),
        ("llama", r#""num_key_value_heads": 0"#, "num_key_value_heads is 0"),
        ("llama", r#""intermediate_size": 0"#, "intermediate_size is 0"),
        ("llama", r#""max_position_embeddings": 0"#, "max_position_embeddings is 0"),
        ("llama", r#""head_dim": 3"#, "rotary dimensions (head_dim * partial_rotary_factor) is 3"),
        ("llama", r#""rms_norm_eps": -1e-5"#, "rms_norm_eps is -0.00001"),
        ("llama", r#""rope_theta": 0"#, "rope_theta is 0"),
        ("llama", r#""eos_token_id": "2""#, "eos_token_id should be a whole number"),
        ("llama", r#""eos_token_id": [2, "3"]"#, "eos_token_id should be a token id"),
        ("llama", r#""bos_token_id": -7"#, "bos_token_id is -7"),
        ("llama", r#""torch_dtype": "int8""#, "torch_dtype is int8, but must be float32"),
        ("llama", r#""hidden_act": "relu""#, "hidden_act is relu, but must be silu"),
        (
            "llama",
            r#""hidden_size": 4194304, "head_dim": 4, "num_hidden_layers": 16384,
            "vocab_size": 67108864, "intermediate_size": 4194304"#,
            "at most 9007199254740992 par",
        ),
        ("gemma2", r#""sliding_window": 0"#, "sliding_window is 0"),
        ("gemma2", r#""query_pre_attn_scalar": 0"#, "query_pre_attn_scalar is inf"),
        ("gemma2", r#""final_logit_softcapping": 0.0"#, "final_logit_softcapping is 0"),
        ("gemma3_text", r#""sliding_window_pattern": 0"#, "sliding_window_pattern is 0"),
    ]);
}

#[test]
fn contradictions_are_refused_with_both_values() {
    refused(&[
        ("llama", r#""num_attention_heads": 32, "num_key_value_heads": 5"#, {
            "num_attention_heads is 32, but num_key_value_heads is 5: the kv heads must divide"
        }),
        ("llama", r#""hidden_size": 100, "num_attention_heads": 3"#, {
            "hidden_size is 100, but num_attention_heads is 3"
        }),
        ("llama", r#""torch_dtype": "float16", "dtype": "bfloat16""#, {
            "torch_dtype is float16, but dtype is bfloat16"
        }),
        ("llama", r#""rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}"#, {
            "rope_parameters.rope_theta is 500000, but rope_theta is 10000"
        }),
        ("llama", r#""rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}"#, {
            "rope_scaling.rope_type is yarn, but rope_scaling.type is linear"
        }),
        (
            "llama",
            r#""rope_scaling": {"type": "linear", "factor": 2},
            "rope_parameters": {"rope_type": "linear", "factor": 4}"#,
            "two spellings",
        ),
        (
            "llama",
            r#""rope_scaling": {"type": "dynamic", "factor": 2,
            "original_max_position_embeddings": 7}"#,
            "starts at max_position_embeddings",
        ),
        ("gemma2", r#""hidden_act": "silu""#, "hidden_act is Silu, but hidden_activation is Gelu"),
        ("gemma2", r#""sliding_window_size": 2048"#, "sliding_window_size is 2048"),
        ("gemma2", r#""layer_types": ["full_attention"]"#, "layer_types is a list of 1, but num_"),
        (
            "gemma3_text",
            r#""sliding_window_pattern": 2, "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"]"#,
            "layer_types is another",
        ),
        ("gemma3_text", r#""sliding_window_pattern": 2, "_sliding_window_pattern": 3"#, {
            "_sliding_window_pattern is 3"
        }),
        (
            "gemma2",
            r#""num_hidden_layers": 4, "layer_types": ["sliding_attention",
            "full_attention", "full_attention", "sliding_attention"]"#,
            { "layer_types is another arrangement" },
        ),
        ("gemma2", r#""num_hidden_layers": 1, "layer_types": ["chunked_attention"]"#, {
            "layer_types is chunked_attention"
        }),
        ("qwen2", r#""num_hidden_layers": 1, "layer_types": ["sliding_attention"]"#, {
            "local layers need a window"
        }),
        ("mixtral", r#""num_experts_per_tok": 9"#, {
            "num_experts_per_tok is 9, but num_local_experts is 8"
        }),
        ("mixtral", r#""num_experts_per_tok": 0"#, "num_experts_per_tok is 0"),
    ]);
}

#[test]
fn unsupported_values_are_refused_by_name() {
    refused(&[
        ("llama", r#""rope_scaling": {"type": "xpos"}"#, "rope_scaling.type is xpos"),
        ("llama", r#""rope_scaling": {"type": "linear"}"#, "missing key rope_scaling.factor"),
        ("llama", r#""rope_scaling": {"type": "linear", "factor": 0}"#, "rope_scaling is 0"),
        ("llama", r#""rope_scaling": {"type": "dynamic", "factor": 0.5}"#, "rope_scaling is 0.5"),
        ("llama", r#""rope_scaling": {"rope_type": "llama3", "factor": 8}"#, {
            "missing key rope_scaling.low_freq_factor"
        }),
        (
            "llama",
            r#""rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
            "high_freq_factor": 4}"#,
            "high_freq_factor is 4, but low_freq_factor is 4",
        ),
        (
            "phi3",
            r#""rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}"#,
            "short_factor is a list of 1",
        ),
        ("phi3", r#""rope_scaling": {"type": "longrope", "short_factor": ["a"]}"#, {
            "rope_scaling.short_factor should be a list of numbers"
        }),
        ("phi3", r#""partial_rotary_factor": 0.01"#, "is 0, but must be even"),
        ("phi3", r#""partial_rotary_factor": 1.5"#, "partial_rotary_factor is 1.5"),
        ("llama", r#""partial_rotary_factor": 0.5"#, "partial_rotary_factor is 0.5"),
        ("mistral", r#""attention_bias": true"#, "attention_bias is true, but must be false"),
        ("gemma", r#""mlp_bias": true"#, "mlp_bias is true, but must be false"),
        ("qwen3_moe", r#""decoder_sparse_step": 2"#, "decoder_sparse_step is 2"),
        ("qwen3_moe", r#""mlp_only_layers": [1]"#, "mlp_only_layers is [1]"),
        ("qwen3_moe", r#""use_sliding_window": true, "max_window_layers": 5"#, {
            "max_window_layers is 5"
        }),
    ]);
}

#[test]
fn quantization_that_puna_cannot_read_is_refused_by_name() {
    let error = |dict: &str| error("llama", &format!(r#""quantization_config": {dict}"#));
    for (dict, want) in [
        (r#"{"quant_method": "aqlm"}"#, "quantization_config.quant_method is aqlm"),
        (r#"{"bits": 4}"#, "missing key quantization_config.quant_method"),
        (r#"{"quant_method": "gptq", "bits": 5, "group_size": 128}"#, "quantization_config.bits"),
        (r#"{"quant_method": "gptq", "bits": 4}"#, "missing key quantization_config.group_size"),
        (r#"{"quant_method": "gptq", "bits": 4, "group_size": 0}"#, "group_size is 0"),
        (r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "is_marlin_format": true}"#, {
            "unknown key quantization_config.is_marlin_format"
        }),
        (r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "m"}"#, {
            "checkpoint_format is m"
        }),
        (r#"{"quant_method": "awq", "group_size": 128, "version": "gemv"}"#, "version is gemv"),
        (r#"{"quant_method": "awq", "group_size": 128, "bits": 8}"#, "bits is 8"),
        (r#"{"quant_method": "awq", "group_size": 128, "zero_point": false}"#, "zero_point is fal"),
        (r#"{"quant_method": "bitsandbytes"}"#, "one of them must be true"),
        (r#"{"quant_method": "fp8"}"#, "missing key quantization_config.weight_block_size"),
        (r#"{"quant_method": "fp8", "weight_block_size": [128]}"#, "weight_block_size is [128]"),
        (r#"{"quant_method": "fp8", "weight_block_size": [0, 1]}"#, "weight_block_size is [0, 1]"),
        (r#"{"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [1, 1]}"#, "fmt is e5m2"),
    ] {
        let got = error(dict);
        assert!(got.contains(want), "{got}");
    }
    let other = Quantization::from_quantize_config_json(r#"{"quant_method": "awq"}"#);
    assert!(other.is_err_and(|e| e.to_string() == "quant_method is awq, but must be gptq"));
}

#[test]
fn harmless_keys_change_nothing() {
    let plain = hf(r#"{"model_type": "llama"}"#);
    let noisy = hf(r#"{"model_type": "llama", "use_cache": false, "initializer_range": 0.1,
        "attention_dropout": 0.3, "transformers_version": "9", "output_attentions": true,
        "auto_map": {"a": "b"}, "clip_qkv": null, "is_decoder": false, "pruned_heads": {},
        "temperature": 0.7, "id2label": {"0": "x"}, "rope_scaling": null,
        "quantization_config": null, "head_dim": null, "pretraining_tp": 2}"#);
    assert_eq!(plain, noisy);
}
