#![no_main]
//! Configs: `config.json`, `quantize_config.json`, `params.json`. What parses must also be countable, and
//! what is written as `config.json` must read back as the same decoder.
//! The first byte chooses the dialect.

use libfuzzer_sys::fuzz_target;
use puna_config::{HeadWeight, MetaFacts, ModelConfig, Quantization};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = match kind % 3 {
        0 => ModelConfig::from_hf_json(text),
        1 => {
            let facts = MetaFacts { vocab_size: 32_000, head: HeadWeight::Separate };
            ModelConfig::from_meta_json(text, &facts)
        }
        _ => {
            let _ = Quantization::from_quantize_config_json(text);
            return;
        }
    };
    let Ok(config) = parsed else { return };
    let decoder = &config.decoder;
    for layer in [0, decoder.num_layers.saturating_sub(1)] {
        let rope = decoder.layers.rope(layer);
        assert!(rope.rotary_dim <= decoder.attention.head_dim);
        let _ = rope.inverse_frequencies(decoder.max_seq_len);
    }
    let _ = decoder.parameters();
    let _ = config.to_meta_json();
    if let Ok(json) = config.to_hf_json() {
        let again = ModelConfig::from_hf_json(&json.to_string()).expect("what was written parses");
        assert_eq!(again.decoder, config.decoder);
    }
});
