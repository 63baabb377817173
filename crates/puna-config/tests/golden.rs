//! Every config.json, quantize_config.json and params.json of the golden cases.

use crate::support::{golden_root, golden_text, hf, hf_error, skipped};
use puna_config::{
    ActOrder, AttentionBias, BitsAndBytesKind, DecoderConfig, Family, FfnBias, FfnConfig,
    GptqZeros, HeadWeight, LocalLayers, ModelConfig, QkNorm, Quantization, RopeScaling, Routing,
    WeightDtype,
};

fn text_case(name: &str) -> Option<ModelConfig> {
    golden_text(&format!("text/{name}/config.json")).map(|text| hf(&text))
}

fn scaling(d: &DecoderConfig) -> &RopeScaling {
    &d.layers.global_rope.scaling
}

#[test]
fn llama1_takes_transformers_defaults_for_missing_keys() {
    let Some(config) = text_case("llama1") else { return };
    let d = &config.decoder;
    assert_eq!(config.family, Family::Llama);
    assert_eq!(config.dtype, Some(WeightDtype::F16));
    assert_eq!((d.attention.num_heads, d.attention.num_kv_heads, d.attention.head_dim), (4, 4, 16));
    assert_eq!(d.layers.global_rope.theta, 1e4);
    assert_eq!((d.norm.eps, d.max_seq_len), (1e-6, 2048));
    assert_eq!(d.attention.scale, 0.25);
    assert_eq!((config.tokens.bos, config.tokens.eos.as_slice()), (Some(1), [2].as_slice()));
}

#[test]
fn both_spellings_of_llama31_give_the_same_decoder() {
    let (Some(old), Some(new)) = (text_case("llama31-rope"), text_case("llama31-rope-v5config"))
    else {
        return;
    };
    assert_eq!(old, new);
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max: 64,
    };
    assert_eq!(*scaling(&old.decoder), expected);
    assert_eq!(old.decoder.layers.global_rope.theta, 5e5);
}

#[test]
fn llama_variants_parse_to_their_parts() {
    let Some(tied) = text_case("llama32-tied") else { return };
    assert_eq!(tied.decoder.embedding.head, HeadWeight::Tied);
    assert!(matches!(scaling(&tied.decoder), RopeScaling::Llama3 { factor: 32.0, .. }));
    let Some(linear) = text_case("llama-linear-rope") else { return };
    assert_eq!(*scaling(&linear.decoder), RopeScaling::Linear { factor: 4.0 });
    let Some(dynamic) = text_case("llama-dynamic-ntk") else { return };
    let expected = RopeScaling::DynamicNtk { factor: 2.0, original_max: 32 };
    assert_eq!(*scaling(&dynamic.decoder), expected);
    let Some(yarn) = text_case("llama-yarn") else { return };
    let RopeScaling::Yarn { original_max: 1024, attention_factor, .. } = *scaling(&yarn.decoder)
    else {
        panic!("{:?}", scaling(&yarn.decoder));
    };
    assert!((attention_factor - 1.138629436111989).abs() < 1e-15);
    let Some(bias) = text_case("llama-bias") else { return };
    assert_eq!(bias.decoder.attention.bias, AttentionBias::QkvOutput);
    assert!(matches!(bias.decoder.ffn, FfnConfig::Dense { bias: FfnBias::All, .. }));
    assert_eq!(bias.dtype, Some(WeightDtype::F32));
}

#[test]
fn windows_parse_to_the_layers_they_are_in() {
    let local = |name| {
        let config = text_case(name)?;
        Some(config.decoder.layers.local.map(|l| (l.window, l.which, l.rope.theta)))
    };
    let Some(mistral) = local("mistral-sliding") else { return };
    assert_eq!(mistral, Some((8, LocalLayers::All, 1e4)));
    assert_eq!(local("phi3"), Some(Some((16, LocalLayers::All, 1e4))));
    assert_eq!(local("gemma2"), Some(Some((8, LocalLayers::AllButEvery(2), 1e4))));
    assert_eq!(local("gemma3-text"), Some(Some((8, LocalLayers::AllButEvery(3), 1e4))));
    for none in ["mixtral", "qwen2", "qwen3", "qwen3-moe", "olmoe", "gemma1", "phi3-longrope"] {
        assert_eq!(local(none), Some(None), "{none}");
    }
}

#[test]
fn gemma_configs_carry_scales_caps_and_norms() {
    let Some(gemma1) = text_case("gemma1") else { return };
    assert_eq!(gemma1.decoder.attention.scale, 1.0 / 24f64.sqrt());
    let Some(gemma2) = text_case("gemma2") else { return };
    let d = gemma2.decoder;
    assert_eq!(d.attention.scale, 1.0 / 10f64.sqrt());
    assert_eq!((d.attention.logit_softcap, d.final_logit_softcap), (Some(4.0), Some(6.0)));
    let Some(gemma3) = text_case("gemma3-text") else { return };
    let d = gemma3.decoder;
    assert_eq!(d.attention.qk_norm, QkNorm::PerHead);
    assert_eq!((d.attention.logit_softcap, d.final_logit_softcap), (None, None));
    assert_eq!(*scaling(&d), RopeScaling::Linear { factor: 8.0 });
    assert_eq!(d.layers.global_rope.theta, 1e6);
    assert_eq!(d.layers.local.map(|l| l.rope.scaling), Some(RopeScaling::None));
}

#[test]
fn qwen_phi_and_mixtures_parse_to_their_parts() {
    let Some(qwen2) = text_case("qwen2") else { return };
    assert_eq!(qwen2.decoder.attention.bias, AttentionBias::Qkv);
    let Some(qwen3) = text_case("qwen3") else { return };
    assert_eq!((qwen3.decoder.attention.head_dim, qwen3.decoder.attention.qk_norm), {
        (24, QkNorm::PerHead)
    });
    let moe = |name| {
        let FfnConfig::Moe { ffn_size, num_experts, experts_per_token, routing, .. } =
            text_case(name)?.decoder.ffn
        else {
            return None;
        };
        Some((ffn_size, num_experts, experts_per_token, routing))
    };
    assert_eq!(moe("mixtral"), Some((32, 8, 2, Routing::SoftmaxOverChosen)));
    assert_eq!(moe("qwen3-moe"), Some((32, 8, 3, Routing::SoftmaxOverChosen)));
    assert_eq!(moe("olmoe"), Some((40, 8, 2, Routing::SoftmaxOverAll)));
    let Some(phi3) = text_case("phi3-longrope") else { return };
    let RopeScaling::LongRope { long_factor, original_max: 32, attention_factor, .. } =
        scaling(&phi3.decoder)
    else {
        panic!("{:?}", scaling(&phi3.decoder));
    };
    assert_eq!(long_factor.len(), 8);
    assert!((attention_factor - 1.1832159566199232).abs() < 1e-15);
}

#[test]
fn llama4_is_refused_by_name() {
    let Some(text) = golden_text("text/llama4-text/config.json") else { return };
    let error = hf_error(&text);
    assert!(error.contains("unsupported architecture llama4_text"), "{error}");
}

#[test]
fn every_quantized_case_says_how() {
    let gptq = |bits, group_size, act_order| Quantization::Gptq {
        bits,
        group_size,
        zeros: GptqZeros::MinusOne,
        act_order,
    };
    let quantization = |path: &str| {
        let config = hf(&golden_text(&format!("{path}/config.json"))?);
        config.quantization
    };
    let Some(awq) = quantization("awq/4bit-32g") else { return };
    assert_eq!(awq, Quantization::Awq { group_size: Some(32) });
    let per_row = quantization("awq/4bit-perchannel");
    assert_eq!(per_row, Some(Quantization::Awq { group_size: None }));
    let four = Some(Quantization::BitsAndBytes { kind: BitsAndBytesKind::FourBit });
    for case in ["nf4", "nf4-double", "fp4"] {
        assert_eq!(quantization(&format!("bnb/{case}")), four, "{case}");
    }
    let int8 = Some(Quantization::BitsAndBytes { kind: BitsAndBytesKind::Int8 });
    assert_eq!(quantization("bnb/int8"), int8);
    let sequential = gptq(4, Some(32), ActOrder::Sequential);
    assert_eq!(quantization("gptq/4bit-32g-asym"), Some(sequential));
    let reordered = gptq(3, Some(32), ActOrder::Reordered);
    assert_eq!(quantization("gptq/3bit-32g-sym-act"), Some(reordered));
    let stored = quantization("gptq/4bit-32g-v2");
    assert!(matches!(stored, Some(Quantization::Gptq { zeros: GptqZeros::Stored, .. })));
    let fp8 = Some(Quantization::Fp8Block { block: [48, 48] });
    assert_eq!(quantization("layout/fp8-block"), fp8);
}

#[test]
fn separate_quantize_configs_agree_with_the_config() {
    let Some(root) = golden_root() else { return skipped("gptq") };
    let Ok(cases) = std::fs::read_dir(root.join("gptq")) else { return skipped("gptq") };
    let mut seen = 0;
    for case in cases {
        let folder = case.expect("a folder entry").path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name));
        let config = hf(&read("config.json").expect("config.json"));
        let Ok(text) = read("quantize_config.json") else { continue };
        let separate = Quantization::from_quantize_config_json(&text).expect("parses");
        assert_eq!(config.quantization.unwrap_or(separate.clone()), separate, "{folder:?}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn every_config_of_the_other_groups_parses() {
    let Some(root) = golden_root() else { return skipped("layout") };
    let mut seen = 0;
    for group in ["text", "layout", "gptq", "awq", "bnb"] {
        let Ok(cases) = std::fs::read_dir(root.join(group)) else { continue };
        for case in cases {
            let folder = case.expect("a folder entry").path();
            let Ok(text) = std::fs::read_to_string(folder.join("config.json")) else { continue };
            if !folder.ends_with("llama4-text") {
                hf(&text);
                seen += 1;
            }
        }
    }
    assert!(seen >= 30, "{seen}");
}

#[test]
fn the_text_part_of_a_gemma3_image_model_parses() {
    let Some(text) = golden_text("vision/gemma3/config.json") else { return };
    let config = hf(&text);
    let d = &config.decoder;
    assert_eq!(config.family, Family::Gemma3);
    assert_eq!((d.hidden_size, d.num_layers, d.attention.head_dim), (48, 3, 16));
    assert_eq!(d.attention.scale, 1.0 / 12f64.sqrt());
    assert_eq!(config.dtype, Some(WeightDtype::BF16));
}
