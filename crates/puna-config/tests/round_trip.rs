//! What a writer says, a reader understands: every golden config and every preset through every
//! dialect that can express it.

use crate::gguf_file::FakeGguf;
use crate::support::{golden_root, hf};
use puna_config::{
    ConfigError, HeadWeight, LocalLayers, MetaFacts, ModelConfig, NormWeight, RopeScaling, preset,
    preset_names,
};

/// All presets, and all golden text cases that puna supports.
fn models() -> Vec<(String, ModelConfig)> {
    let mut models: Vec<_> = preset_names()
        .expect("parses")
        .into_iter()
        .map(|name| (name.clone(), preset(&name).expect("parses").expect("a preset")))
        .collect();
    let folders = golden_root().and_then(|root| std::fs::read_dir(root.join("text")).ok());
    for folder in folders.into_iter().flatten() {
        let folder = folder.expect("a folder entry").path();
        let Ok(text) = std::fs::read_to_string(folder.join("config.json")) else { continue };
        if !folder.ends_with("llama4-text") {
            models.push((folder.display().to_string(), hf(&text)));
        }
    }
    models.extend(unusual().into_iter().map(|text| (text.to_owned(), hf(text))));
    models
}

/// Configs that use the rarer parts.
fn unusual() -> Vec<&'static str> {
    vec![
        r#"{"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 3.7,
            "original_max_position_embeddings": 512, "mscale": 0.7, "mscale_all_dim": 1.3,
            "beta_fast": 24, "truncate": false}}"#,
        r#"{"model_type": "llama", "rope_scaling": {"rope_type": "longrope", "factor": 3.0,
            "original_max_position_embeddings": 512, "attention_factor": 1.07,
            "short_factor": [1.0, 1.1], "long_factor": [1.3, 2.9]}, "head_dim": 4}"#,
        r#"{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 7,
            "max_window_layers": 3, "num_hidden_layers": 5}"#,
        r#"{"model_type": "qwen3_moe", "use_sliding_window": true, "sliding_window": 7,
            "norm_topk_prob": true}"#,
        r#"{"model_type": "mixtral", "sliding_window": 4096}"#,
        r#"{"model_type": "gemma2", "num_hidden_layers": 4, "query_pre_attn_scalar": 10.5,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention"]}"#,
        r#"{"model_type": "gemma3_text", "sliding_window_pattern": 1}"#,
        r#"{"model_type": "phi3", "partial_rotary_factor": 0.75, "tie_word_embeddings": true,
            "hidden_size": 96, "num_attention_heads": 4, "eos_token_id": [5, 7, 9]}"#,
        r#"{"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": true}"#,
    ]
}

#[test]
fn hf_survives_hf() {
    for (name, config) in models() {
        let json = config.to_hf_json().unwrap_or_else(|e| panic!("{name}: {e}"));
        let again = ModelConfig::from_hf_value(&json).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again, config, "{name}");
        // And as text, whose decimals must be read back to the last bit.
        assert_eq!(hf(&json.to_string()), config, "{name}");
    }
}

#[test]
fn hf_survives_gguf() {
    for (name, config) in models() {
        let file = FakeGguf::written(&config);
        let again = ModelConfig::from_gguf(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut want = config.decoder.clone();
        want.norm.weight = NormWeight::Direct;
        assert_eq!(again.decoder, want, "{name}");
        assert_eq!(again.family, config.family, "{name}");
    }
}

#[test]
fn gguf_configs_can_be_written_as_hf() {
    for (name, config) in models() {
        let file = FakeGguf::written(&config);
        let gguf = ModelConfig::from_gguf(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        let json = gguf.to_hf_json().unwrap_or_else(|e| panic!("{name}: {e}"));
        let again = ModelConfig::from_hf_value(&json).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again.decoder, config.decoder, "{name}");
    }
}

#[test]
fn hf_survives_meta_where_params_json_can_say_it() {
    let mut written = 0;
    for (name, config) in models() {
        let json = match config.to_meta_json() {
            Ok(json) => json.to_string(),
            Err(ConfigError::Inexpressible { .. }) => continue,
            Err(e) => panic!("{name}: {e}"),
        };
        let d = &config.decoder;
        let facts = MetaFacts { vocab_size: d.vocab_size, head: d.embedding.head };
        let again = ModelConfig::from_meta_json(&json, &facts).expect(&name);
        assert_eq!(again.decoder, *d, "{name}: {json}");
        written += 1;
    }
    // 16 Llamas, TinyLlama and Mistral without a window among the presets.
    assert!(written >= 18, "{written}");
}

#[test]
fn llama_2_7b_is_written_as_meta_published_it() {
    let config = preset("llama-2-7b").expect("parses").expect("a preset");
    let json = config.to_meta_json().expect("expressible");
    let want = serde_json::json!({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32,
        "norm_eps": 1e-5, "vocab_size": 32000});
    assert_eq!(json, want);
}

#[test]
fn what_a_dialect_cannot_say_is_an_error() {
    let llama = preset("llama-2-7b").expect("parses").expect("a preset");
    let refused = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = llama.clone();
        change(&mut config);
        let hf = config.to_hf_json().map_err(|e| e.to_string());
        let gguf = config.to_gguf_metadata().map_err(|e| e.to_string());
        let meta = config.to_meta_json().map_err(|e| e.to_string());
        (hf.is_err(), gguf.is_err(), meta.is_err())
    };
    assert_eq!(refused(&|c| c.decoder.embedding.head = HeadWeight::Tied), (false, false, false));
    assert_eq!(refused(&|c| c.decoder.attention.scale = 0.1), (true, false, true));
    assert_eq!(refused(&|c| c.decoder.final_logit_softcap = Some(30.0)), (true, true, true));
    let dynamic = RopeScaling::DynamicNtk { factor: 2.0, original_max: 100 };
    let change = |c: &mut ModelConfig| c.decoder.layers.global_rope.scaling = dynamic.clone();
    assert_eq!(refused(&change), (true, false, true));
    let window = |c: &mut ModelConfig| {
        let rope = c.decoder.layers.global_rope.clone();
        let which = LocalLayers::From(3);
        c.decoder.layers.local = Some(puna_config::LocalAttention { window: 9, rope, which });
    };
    assert_eq!(refused(&window), (true, false, true));
}

#[test]
fn a_written_config_names_the_architecture_and_no_quantization() {
    let mut config = preset("gemma-3-1b").expect("parses").expect("a preset");
    config.quantization = Some(puna_config::Quantization::Awq { group_size: None });
    let json = config.to_hf_json().expect("expressible");
    assert_eq!(json["model_type"], "gemma3_text");
    assert_eq!(json["architectures"][0], "Gemma3ForCausalLM");
    assert_eq!(json["sliding_window_pattern"], 6);
    assert_eq!(json["layer_types"][5], "full_attention");
    assert_eq!(json["torch_dtype"], "bfloat16");
    assert!(json.get("quantization_config").is_none());
}
