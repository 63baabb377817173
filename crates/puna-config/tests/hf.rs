//! `config.json` files as they stand on the Hub, in the spellings of several years.

use crate::support::hf;
use puna_config::{
    ActOrder, Activation, AttentionBias, BitsAndBytesKind, Family, FfnConfig, GptqZeros,
    HeadWeight, LocalLayers, Quantization, RopeScaling, WeightDtype, YarnRamp,
};

#[test]
fn vicuna_and_old_llama_files_parse() {
    let config = hf(r#"{"_name_or_path": "vicuna-7b-v1.3", "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 2048,
        "max_sequence_length": 2048, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 32, "pad_token_id": -1, "rms_norm_eps": 1e-06,
        "tie_word_embeddings": false, "torch_dtype": "float16",
        "transformers_version": "4.28.1", "use_cache": true, "vocab_size": 32000}"#);
    assert_eq!(config.tokens.pad, None);
    assert_eq!(config.decoder.parameters().total, 6_738_415_616);
}

#[test]
fn llama_33_instruct_parses() {
    let config = hf(r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 8192, "initializer_range": 0.02, "intermediate_size": 28672,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.47.0.dev0", "use_cache": true, "vocab_size": 128256}"#);
    assert_eq!(config.tokens.eos, [128_001, 128_008, 128_009]);
    assert_eq!(config.decoder.parameters().total, 70_553_706_496);
}

#[test]
fn code_llama_and_tinyllama_parse() {
    let config = hf(r#"{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 11008, "max_position_embeddings": 16384, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 1000000,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.33.0.dev0", "use_cache": true, "vocab_size": 32016}"#);
    assert_eq!(config.decoder.layers.global_rope.theta, 1e6);
    let config = hf(r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 2048,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
        "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": true,
        "vocab_size": 32000}"#);
    assert_eq!(config.decoder.parameters().total, 1_100_048_384);
}

#[test]
fn qwen25_carries_a_window_that_is_not_in_force() {
    let config = hf(r#"{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
        "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
        "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1", "use_cache": true, "use_sliding_window": false,
        "use_mrope": false, "vocab_size": 152064}"#);
    assert_eq!(config.decoder.layers.local, None);
    assert_eq!(config.decoder.attention.bias, AttentionBias::Qkv);
    // 7.61 B, as published.
    assert_eq!(config.decoder.parameters().total, 7_615_616_512);
}

#[test]
fn qwen2_windows_start_at_max_window_layers() {
    let config = hf(r#"{"model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": true,
        "sliding_window": 16, "max_window_layers": 3, "layer_types": ["full_attention",
        "full_attention", "full_attention", "sliding_attention"]}"#);
    let local = config.decoder.layers.local.expect("a window");
    assert_eq!((local.window, local.which), (16, LocalLayers::From(3)));
    let config = hf(r#"{"model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": true,
        "sliding_window": 16, "max_window_layers": 4}"#);
    assert_eq!(config.decoder.layers.local, None);
}

#[test]
fn qwen3_mixture_parses() {
    let config = hf(r#"{"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936}"#);
    // 30.5 B and 3.3 B, as published.
    let counts = config.decoder.parameters();
    assert_eq!((counts.total / 100_000_000, counts.active / 100_000_000), (305, 33));
}

#[test]
fn gemma1_means_the_tanh_form_by_gelu() {
    let activation = |keys: &str| {
        let config = hf(&format!(r#"{{"model_type": "gemma", {keys} "vocab_size": 256000}}"#));
        match config.decoder.ffn {
            FfnConfig::Dense { activation, .. } => activation,
            FfnConfig::Moe { .. } => panic!("no experts"),
        }
    };
    assert_eq!(activation(r#""hidden_act": "gelu","#), Activation::GeluTanh);
    assert_eq!(activation(r#""hidden_act": "gelu", "hidden_activation": null,"#), {
        Activation::GeluTanh
    });
    assert_eq!(activation(r#""hidden_activation": "gelu","#), Activation::GeluErf);
    assert_eq!(activation(""), Activation::GeluTanh);
}

#[test]
fn gemma2_27b_parses() {
    let config = hf(r#"{"architectures": ["Gemma2ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": 1, "final_logit_softcapping": 30.0,
        "head_dim": 128, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608,
        "initializer_range": 0.02, "intermediate_size": 36864, "max_position_embeddings": 8192,
        "model_type": "gemma2", "num_attention_heads": 32, "num_hidden_layers": 46,
        "num_key_value_heads": 16, "pad_token_id": 0, "query_pre_attn_scalar": 144,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
        "sliding_window_size": 4096, "torch_dtype": "float32",
        "transformers_version": "4.42.0.dev0", "use_cache": true, "vocab_size": 256000,
        "_attn_implementation_autoset": true}"#);
    assert_eq!(config.decoder.attention.scale, 1.0 / 12.0);
    assert_eq!(config.decoder.embedding.head, HeadWeight::Tied);
    assert_eq!(config.decoder.parameters().total, 27_227_128_320);
}

#[test]
fn gemma3_image_models_lean_on_the_defaults() {
    let config = hf(r#"{"architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 106],
        "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3", "text_config": {"hidden_size": 2560,
        "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
        "vision_config": {"hidden_size": 1152}}"#);
    let d = &config.decoder;
    assert_eq!(d.parameters().total, 3_880_263_168);
    assert_eq!(config.tokens.eos, [1, 106]);
    assert_eq!(config.dtype, Some(WeightDtype::BF16));
    let local = d.layers.local.as_ref().expect("windows");
    assert_eq!((local.window, local.which), (1024, LocalLayers::AllButEvery(6)));
    assert_eq!((d.layers.global_rope.theta, local.rope.theta), (1e6, 1e4));
}

#[test]
fn both_spellings_of_gemma3_give_the_same_decoder() {
    let old = hf(r#"{"model_type": "gemma3_text", "rope_theta": 1000000, "num_hidden_layers": 4,
        "rope_local_base_freq": 10000, "sliding_window_pattern": 2,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}"#);
    let new = hf(r#"{"model_type": "gemma3_text", "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention",
        "full_attention"], "_sliding_window_pattern": 2, "rope_parameters": {
        "full_attention": {"factor": 8.0, "rope_type": "linear", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}"#);
    assert_eq!(old, new);
}

#[test]
fn phi35_and_phi4_mini_parse() {
    let factors = vec!["1.5"; 48].join(", ");
    let config = hf(&format!(
        r#"{{"_name_or_path": "Phi-3.5-mini-instruct", "architectures": ["Phi3ForCausalLM"],
        "attention_bias": false, "attention_dropout": 0.0, "auto_map": {{"AutoConfig": "x"}},
        "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu",
        "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05, "rope_scaling": {{"long_factor": [{factors}],
        "short_factor": [{factors}], "type": "su"}}, "rope_theta": 10000.0,
        "sliding_window": 262144, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.3", "use_cache": true, "vocab_size": 32064}}"#
    ));
    let RopeScaling::LongRope { original_max: 4096, attention_factor, .. } =
        config.decoder.layers.global_rope.scaling
    else {
        panic!("{:?}", config.decoder.layers.global_rope.scaling);
    };
    // sqrt(1 + ln(32) / ln(4096)) = sqrt(1 + 5 / 12)
    assert!((attention_factor - (17f64 / 12.0).sqrt()).abs() < 1e-15);
    assert_eq!(config.decoder.parameters().total, 3_821_079_552);
    let config = hf(r#"{"model_type": "phi3", "full_attn_mod": 1, "interpolate_factor": 1,
        "lm_head_bias": false, "mlp_bias": false, "partial_rotary_factor": 0.75,
        "hidden_size": 3072, "num_attention_heads": 24, "num_key_value_heads": 8,
        "tie_word_embeddings": true, "vocab_size": 200064}"#);
    assert_eq!(config.decoder.attention.head_dim, 128);
    assert_eq!(config.decoder.layers.global_rope.rotary_dim, 96);
    // 3.8 B, as published.
    assert_eq!(config.decoder.parameters().total, 3_836_021_760);
}

#[test]
fn mistral_takes_its_window_from_the_default_unless_null() {
    let window = |keys: &str| {
        let config = hf(&format!(r#"{{"model_type": "mistral", "vocab_size": 32000{keys}}}"#));
        config.decoder.layers.local.map(|l| (l.window, l.which))
    };
    assert_eq!(window(""), Some((4096, LocalLayers::All)));
    assert_eq!(window(r#", "sliding_window": null"#), None);
    assert_eq!(window(r#", "sliding_window": 512"#), Some((512, LocalLayers::All)));
}

#[test]
fn yarn_takes_the_parameters_it_is_given() {
    let scaling = |dict: &str| {
        let text = format!(
            r#"{{"model_type": "qwen2", "max_position_embeddings": 32768, "rope_scaling": {dict}}}"#
        );
        hf(&text).decoder.layers.global_rope.scaling
    };
    let published = r#"{"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}"#;
    let RopeScaling::Yarn { factor: 4.0, original_max: 32_768, ramp: YarnRamp::Truncated, .. } =
        scaling(published)
    else {
        panic!("{:?}", scaling(published));
    };
    let tuned = r#"{"rope_type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.5,
        "truncate": false, "beta_fast": 16, "finetuned": true}"#;
    let RopeScaling::Yarn { attention_factor, beta_fast: 16.0, ramp: YarnRamp::Exact, .. } =
        scaling(tuned)
    else {
        panic!("{:?}", scaling(tuned));
    };
    let want = (0.1 * 40f64.ln() + 1.0) / (0.05 * 40f64.ln() + 1.0);
    assert!((attention_factor - want).abs() < 1e-15);
}

#[test]
fn quantization_configs_of_the_hub_parse() {
    let quantization = |dict: &str| {
        let text = format!(r#"{{"model_type": "llama", "quantization_config": {dict}}}"#);
        hf(&text).quantization.expect("a quantization")
    };
    let gptq = r#"{"bits": 4, "group_size": 128, "damp_percent": 0.1, "desc_act": true,
        "static_groups": false, "sym": true, "true_sequential": true, "model_name_or_path": null,
        "model_file_base_name": "model", "quant_method": "gptq", "exllama_config": {"version": 1},
        "modules_in_block_to_quantize": null, "lm_head": false, "is_marlin_format": false,
        "meta": {"quantizer": ["gptqmodel:1.4"]}, "pack_dtype": "int32"}"#;
    let want = Quantization::Gptq {
        bits: 4,
        group_size: Some(128),
        zeros: GptqZeros::MinusOne,
        act_order: ActOrder::Reordered,
    };
    assert_eq!(quantization(gptq), want);
    let awq = r#"{"bits": 4, "group_size": 128, "modules_to_not_convert": null,
        "quant_method": "awq", "version": "GEMM", "zero_point": true, "backend": "autoawq",
        "do_fuse": false, "fuse_max_seq_len": null}"#;
    assert_eq!(quantization(awq), Quantization::Awq { group_size: Some(128) });
    let old_bnb = r#"{"load_in_8bit": true, "llm_int8_threshold": 6.0}"#;
    let int8 = Quantization::BitsAndBytes { kind: BitsAndBytesKind::Int8 };
    assert_eq!(quantization(old_bnb), int8);
    let fp8 = r#"{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}"#;
    assert_eq!(quantization(fp8), Quantization::Fp8Block { block: [128, 128] });
}

#[test]
fn an_empty_config_of_each_family_is_its_default_model() {
    let total =
        |name: &str| hf(&format!(r#"{{"model_type": "{name}"}}"#)).decoder.parameters().total;
    assert_eq!(total("llama"), 6_738_415_616);
    assert_eq!(total("mistral"), 7_241_732_096);
    assert_eq!(total("mixtral"), 46_702_792_704);
    assert_eq!(total("gemma"), 8_537_680_896);
    assert_eq!(total("gemma2"), 2_614_341_888);
    assert_eq!(total("phi3"), 3_821_079_552);
    // transformers' default is twice as wide as OLMoE 1B-7B.
    let olmoe = hf(r#"{"model_type": "olmoe", "intermediate_size": 1024}"#);
    assert_eq!(olmoe.decoder.parameters().total, 6_919_161_856);
    for name in ["gemma3_text", "qwen2", "qwen3", "qwen3_moe"] {
        assert!(total(name) > 1_000_000_000, "{name}");
    }
    let family = hf(r#"{"model_type": "qwen3"}"#).family;
    assert_eq!(family, Family::Qwen3);
}
