//! `params.json`: golden folders, generations, refusals.

use crate::support::golden_text;
use puna_config::{FfnConfig, HeadWeight, MetaFacts, ModelConfig, RopeScaling};

fn facts(vocab_size: usize) -> MetaFacts {
    MetaFacts { vocab_size, head: HeadWeight::Separate }
}

fn read(text: &str, vocab_size: usize) -> ModelConfig {
    ModelConfig::from_meta_json(text, &facts(vocab_size)).unwrap_or_else(|e| panic!("{e}"))
}

fn error(text: &str) -> String {
    match ModelConfig::from_meta_json(text, &facts(32_000)) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(e) => e.to_string(),
    }
}

fn ffn_size(config: &ModelConfig) -> usize {
    match config.decoder.ffn {
        FfnConfig::Dense { ffn_size, .. } => ffn_size,
        FfnConfig::Moe { .. } => panic!("no experts in params.json"),
    }
}

#[test]
fn golden_params_equal_the_config_of_the_same_model() {
    let Some(params) = golden_text("layout/meta/params.json") else { return };
    let Some(config) = golden_text("text/llama2-gqa/config.json") else { return };
    let mut want = crate::support::hf(&config).decoder;
    let vocab_size = want.vocab_size;
    want.max_seq_len = 4096; // params.json does not say it: Llama 2's
    assert_eq!(read(&params, vocab_size).decoder, want);
    let Some(params) = golden_text("layout/meta-mp2/params.json") else { return };
    assert_eq!(read(&params, vocab_size).decoder, want);
}

#[test]
fn golden_llama31_params_have_the_scaled_rope() {
    let Some(params) = golden_text("layout/meta-llama31-mp2/params.json") else { return };
    let d = read(&params, 256).decoder;
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max: 8192,
    };
    assert_eq!(d.layers.global_rope.scaling, scaling);
    assert_eq!((d.layers.global_rope.theta, d.max_seq_len), (5e5, 131_072));
}

#[test]
fn published_params_give_the_published_shapes() {
    // LLaMA 1 7B, Llama 2 70B, Llama 3 8B, Code Llama 7B.
    let llama1 = r#"{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32,
        "norm_eps": 1e-06, "vocab_size": -1}"#;
    let config = read(llama1, 32_000);
    assert_eq!((ffn_size(&config), config.decoder.max_seq_len), (11_008, 2048));
    assert_eq!(config.decoder.parameters().total, 6_738_415_616);
    let llama2 = r#"{"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64,
        "n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1}"#;
    let config = read(llama2, 32_000);
    assert_eq!((ffn_size(&config), config.decoder.max_seq_len), (28_672, 4096));
    assert_eq!(config.decoder.parameters().total, 68_976_648_192);
    let llama3 = r#"{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8,
        "vocab_size": 128256, "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05,
        "rope_theta": 500000.0}"#;
    let config = read(llama3, 128_256);
    assert_eq!((ffn_size(&config), config.decoder.max_seq_len), (14_336, 8192));
    let code = r#"{"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256,
        "ffn_dim_multiplier": 1.0, "norm_eps": 1e-5, "rope_theta": 1000000}"#;
    assert_eq!(read(code, 32_016).decoder.max_seq_len, 16_384);
}

#[test]
fn refused_params_name_the_key() {
    let cases = [
        (r#"{"dim": 64, "n_heads": 4}"#, "missing key n_layers"),
        (r#"{"dim": 64, "n_heads": 5, "n_layers": 2}"#, "dim is 64, but n_heads is 5"),
        (r#"{"dim": 64, "n_heads": 0, "n_layers": 2}"#, "n_heads is 0"),
        (r#"{"dim": 64, "n_heads": 4, "n_kv_heads": 3, "n_layers": 2}"#, "n_kv_heads is 3"),
        (r#"{"dim": 64, "n_heads": 4, "n_layers": 2, "moe": {}}"#, "unknown key moe"),
        (r#"{"dim": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 7}"#, "vocab_size is 7"),
        (r#"{"dim": 64, "n_heads": 4, "n_layers": 2, "multiple_of": 0}"#, "multiple_of is 0"),
        (r#"{"dim": 64, "n_heads": 4, "n_layers": 2, "ffn_dim_multiplier": -1}"#, "is -1"),
        (r#"{"dim": 64, "n_heads": 4, "n_layers": 2, "rope_scaling_factor": 32}"#, "use_scaled"),
        ("[]", "the file should be an object"),
        ("{", "not valid JSON"),
    ];
    for (text, want) in cases {
        let got = error(text);
        assert!(got.contains(want), "{got}");
    }
}
