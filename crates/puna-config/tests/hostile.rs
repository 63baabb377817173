//! Mutated configs: whatever the text, a parser answers with a value or an error.

use crate::gguf_file::{FakeGguf, Value as GgufEntry};
use puna_config::{HeadWeight, MetaFacts, ModelConfig, Quantization, preset, preset_names};
use serde_json::{Value, json};

/// All presets, parsed once.
fn all_presets() -> Vec<ModelConfig> {
    let names = preset_names().expect("parses");
    names.iter().map(|name| preset(name).expect("parses").expect("a preset")).collect()
}

/// SplitMix64 (Steele et al. 2014): small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Values that break arithmetic: extremes, zeros, the wrong kind.
fn odd_value(random: &mut Random) -> Value {
    let odd = [
        json!(null),
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1u64 << 32),
        json!(65_536),
        json!(1e308),
        json!(1e-308),
        json!(-0.5),
        json!(0.0),
        json!(""),
        json!("default"),
        json!("yarn"),
        json!("llama3"),
        json!("longrope"),
        json!("dynamic"),
        json!(true),
        json!(false),
        json!([]),
        json!([0, 1]),
        json!([1.5, 1e300]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 1}),
        json!({"rope_type": "llama3", "factor": 1e-300, "low_freq_factor": 1e-9,
            "high_freq_factor": 1e300, "original_max_position_embeddings": 4294967296u64}),
        json!({"type": "dynamic", "factor": 1e308}),
        json!({"quant_method": "gptq", "bits": 4, "group_size": 1048576}),
    ];
    odd[random.below(odd.len())].clone()
}

const KEYS: [&str; 32] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "sliding_window_pattern",
    "layer_types",
    "use_sliding_window",
    "max_window_layers",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "num_local_experts",
    "num_experts_per_tok",
    "num_experts",
    "moe_intermediate_size",
    "tie_word_embeddings",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "hidden_act",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "quantization_config",
    "model_type",
];

/// Everything that can be asked of an accepted config.
fn use_fully(config: &ModelConfig) {
    let d = &config.decoder;
    d.validate().expect("an accepted config is valid");
    for seq_len in [0, 1, d.max_seq_len, usize::MAX] {
        let rope = &d.layers.global_rope;
        if rope.rotary_dim < 4096 {
            assert_eq!(rope.inverse_frequencies(seq_len).inv_freq.len(), rope.rotary_dim / 2);
        }
        let _ = d.forward_flops_per_token(seq_len);
    }
    assert!(d.kv_bytes_per_token(2) > 0);
    let _ = (config.to_hf_json(), config.to_gguf_metadata(), config.to_meta_json());
}

#[test]
fn mutated_configs_never_panic() {
    let presets = all_presets();
    let mut random = Random(1);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..4000 {
        let config = &presets[random.below(presets.len())];
        let mut json = config.to_hf_json().expect("expressible");
        for _ in 0..=random.below(3) {
            json[KEYS[random.below(KEYS.len())]] = odd_value(&mut random);
        }
        match ModelConfig::from_hf_json(&json.to_string()) {
            Ok(config) => {
                use_fully(&config);
                accepted += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    // Both outcomes were really exercised.
    assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn mutated_bytes_never_panic() {
    let mut random = Random(2);
    let config = preset("gemma-3-1b").expect("parses").expect("a preset");
    let text = config.to_hf_json().expect("expressible").to_string().into_bytes();
    let facts = MetaFacts { vocab_size: 32_000, head: HeadWeight::Tied };
    for _ in 0..4000 {
        let mut bytes = text.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = (random.next() & 0x7f) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => drop(bytes.remove(at)),
            }
            bytes.push(b'}');
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(config) = ModelConfig::from_hf_json(&text) {
            use_fully(&config);
        }
        let _ = ModelConfig::from_meta_json(&text, &facts);
        let _ = Quantization::from_quantize_config_json(&text);
    }
}

#[test]
fn mutated_params_never_panic() {
    let mut random = Random(3);
    let keys = ["dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of"];
    let more = ["ffn_dim_multiplier", "norm_eps", "rope_theta", "use_scaled_rope", "max_seq_len"];
    let keys: Vec<&str> = keys.into_iter().chain(more).collect();
    let facts = MetaFacts { vocab_size: 32_000, head: HeadWeight::Separate };
    let config = preset("llama-3.1-8b").expect("parses").expect("a preset");
    for _ in 0..3000 {
        let mut json = config.to_meta_json().expect("expressible");
        json["vocab_size"] = json!(-1);
        json[keys[random.below(keys.len())]] = odd_value(&mut random);
        if let Ok(config) = ModelConfig::from_meta_json(&json.to_string(), &facts) {
            use_fully(&config);
        }
    }
}

#[test]
fn mutated_gguf_metadata_never_panics() {
    let mut random = Random(4);
    let presets = all_presets();
    let odd = [
        GgufEntry::Int(0),
        GgufEntry::Int(1),
        GgufEntry::Int(3),
        GgufEntry::Int(-1),
        GgufEntry::Int(i64::MAX),
        GgufEntry::Float(0.0),
        GgufEntry::Float(f64::NAN),
        GgufEntry::Float(f64::INFINITY),
        GgufEntry::Float(-1.0),
        GgufEntry::Bool(true),
        GgufEntry::Str("yarn".into()),
        GgufEntry::Str("longrope".into()),
        GgufEntry::Str("from:99999999999999999999".into()),
        GgufEntry::Str("all_but_every:0".into()),
        GgufEntry::Ints(vec![]),
        GgufEntry::Ints(vec![u64::MAX; 3]),
        GgufEntry::Floats(vec![f64::NAN]),
        GgufEntry::Strings(usize::MAX),
    ];
    for _ in 0..4000 {
        let mut file = FakeGguf::written(&presets[random.below(presets.len())]);
        for _ in 0..=random.below(3) {
            let keys: Vec<String> = file.values.keys().cloned().collect();
            let key = keys[random.below(keys.len())].clone();
            file.set(&key, odd[random.below(odd.len())].clone());
        }
        if let Ok(config) = ModelConfig::from_gguf(&file) {
            use_fully(&config);
        }
    }
}
