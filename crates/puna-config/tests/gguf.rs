//! GGUF metadata: golden files, llama.cpp's conventions, refusals.

use crate::gguf_file::{FakeGguf, Value};
use crate::support::{golden_root, golden_text, hf, skipped};
use puna_config::{
    Family, HeadWeight, LocalLayers, ModelConfig, NormWeight, RopeScaling, WeightDtype, preset,
};

fn golden(case: &str, file: &str) -> Option<FakeGguf> {
    let path = golden_root()?.join("gguf").join(case).join(file);
    let file = FakeGguf::open(&path);
    if file.is_none() {
        skipped(&format!("gguf/{case}"));
    }
    file
}

fn read(file: &FakeGguf) -> ModelConfig {
    ModelConfig::from_gguf(file).unwrap_or_else(|e| panic!("{e}"))
}

fn error(file: &FakeGguf) -> String {
    match ModelConfig::from_gguf(file) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(e) => e.to_string(),
    }
}

/// A small model as GGUF.
fn written(name: &str) -> FakeGguf {
    FakeGguf::written(&preset(name).expect("parses").expect("a preset"))
}

#[test]
fn the_golden_f32_file_has_the_config_it_was_converted_from() {
    let Some(file) = golden("f32", "model-f32.gguf") else { return };
    let Some(text) = golden_text("text/llama2-gqa/config.json") else { return };
    let (got, want) = (read(&file), hf(&text));
    assert_eq!(got.decoder, want.decoder);
    assert_eq!((got.family, got.dtype), (Family::Llama, Some(WeightDtype::F32)));
    assert_eq!(got.tokens.eos, want.tokens.eos);
}

#[test]
fn the_golden_gemma2_file_gets_its_scale_from_the_key_length() {
    let Some(file) = golden("gemma2", "model-bf16.gguf") else { return };
    let d = read(&file).decoder;
    assert_eq!(d.attention.scale, 0.25);
    assert_eq!(d.norm.weight, NormWeight::Direct);
    assert_eq!((d.attention.logit_softcap, d.final_logit_softcap), (Some(4.0), Some(6.0)));
    let local = d.layers.local.expect("a window");
    assert_eq!((local.window, local.which), (8, LocalLayers::AllButEvery(2)));
    assert_eq!(d.embedding.head, HeadWeight::Tied);
    assert_eq!(d.norm.eps, 1e-6);
}

#[test]
fn every_golden_gguf_file_has_a_config() {
    let Some(root) = golden_root() else { return skipped("gguf") };
    let Ok(cases) = std::fs::read_dir(root.join("gguf")) else { return skipped("gguf") };
    let mut seen = 0;
    for case in cases {
        let folder = case.expect("a folder entry").path();
        let files = std::fs::read_dir(&folder).expect("a folder");
        let files = files.map(|f| f.expect("a file").path());
        for path in files.filter(|p| p.extension().is_some_and(|e| e == "gguf")) {
            let config = read(&FakeGguf::open(&path).expect("opens"));
            assert!(config.decoder.parameters().total > 0);
            seen += 1;
        }
    }
    assert!(seen >= 16, "{seen}");
}

#[test]
fn llama3_factors_without_parameters_are_read_as_one_table() {
    let config = preset("llama-3.2-1b").expect("parses").expect("a preset");
    let mut file = FakeGguf::written(&config);
    file.values.retain(|key, _| !key.starts_with("puna."));
    let rope = read(&file).decoder.layers.global_rope;
    let RopeScaling::LongRope { ref short_factor, ref long_factor, attention_factor, .. } =
        rope.scaling
    else {
        panic!("{:?}", rope.scaling);
    };
    assert_eq!((short_factor, attention_factor), (long_factor, 1.0));
    // llama.cpp's converter: 1 for short wavelengths, the factor for long ones.
    assert_eq!((short_factor[0], short_factor[31]), (1.0, 32.0));
    let want = config.decoder.layers.global_rope.inverse_frequencies(1).inv_freq;
    for (got, want) in rope.inverse_frequencies(200_000).inv_freq.iter().zip(want) {
        assert!((got - want).abs() <= 1e-7 * want, "{got} against {want}");
    }
    // And it stays writable.
    let again = FakeGguf::written(&read(&file));
    assert_eq!(read(&again).decoder, read(&file).decoder);
}

#[test]
fn the_27b_gemmas_scale_by_embedding_over_heads() {
    for (name, scalar) in [("gemma-2-27b", 144.0), ("gemma-3-27b-text", 168.0)] {
        let file = written(name);
        assert!(!file.values.contains_key("puna.attention.scale"), "{name}");
        assert_eq!(read(&file).decoder.attention.scale, 1.0 / f64::sqrt(scalar), "{name}");
    }
    assert_eq!(read(&written("gemma-2-9b")).decoder.attention.scale, 0.0625);
}

#[test]
fn experts_make_a_llama_a_mixtral() {
    assert_eq!(read(&written("mixtral-8x7b-v0.1")).family, Family::Mixtral);
    assert_eq!(read(&written("mistral-7b-v0.1")).family, Family::Mistral);
    let mut file = written("mistral-7b-v0.3");
    file.values.remove("puna.family");
    assert_eq!(read(&file).family, Family::Llama);
}

#[test]
fn linear_and_yarn_scaling_are_read_from_llama_cpps_keys() {
    let mut file = written("llama-2-7b");
    file.set("llama.rope.scaling.type", Value::Str("linear".into()));
    file.set("llama.rope.scaling.factor", Value::Float(4.0));
    let scaling = |file: &FakeGguf| read(file).decoder.layers.global_rope.scaling;
    assert_eq!(scaling(&file), RopeScaling::Linear { factor: 4.0 });
    file.set("llama.rope.scaling.type", Value::Str("yarn".into()));
    file.set("llama.rope.scaling.original_context_length", Value::Int(1024));
    let RopeScaling::Yarn { original_max: 1024, beta_fast: 32.0, attention_factor, .. } =
        scaling(&file)
    else {
        panic!("{:?}", scaling(&file));
    };
    assert!((attention_factor - 1.138629436111989).abs() < 1e-12);
    file.set("llama.rope.scaling.type", Value::Str("cubic".into()));
    assert!(error(&file).contains("llama.rope.scaling.type is cubic"));
}

#[test]
fn phi3_factor_tensors_are_longrope() {
    let text = golden_text("text/phi3-longrope/config.json");
    let Some(text) = text else { return };
    let config = hf(&text);
    let mut file = FakeGguf::written(&config);
    file.values.retain(|key, _| !key.starts_with("puna."));
    let rope = read(&file).decoder.layers.global_rope;
    for seq_len in [32, 33] {
        let want = config.decoder.layers.global_rope.inverse_frequencies(seq_len);
        let got = rope.inverse_frequencies(seq_len);
        assert!((got.attention_factor - want.attention_factor).abs() < 1e-7);
        for (got, want) in got.inv_freq.iter().zip(want.inv_freq) {
            assert!((got - want).abs() <= 1e-6 * want, "{got} against {want}");
        }
    }
}

#[test]
fn refused_metadata_names_the_key() {
    let cases: [(&str, Value, &str); 8] = [
        ("general.architecture", Value::Str("bert".into()), "unsupported architecture bert"),
        ("llama.logit_scale", Value::Float(0.5), "unknown key llama.logit_scale"),
        ("llama.block_count", Value::Str("2".into()), "llama.block_count should be"),
        ("llama.attention.head_count_kv", Value::Int(5), "kv heads must divide"),
        ("llama.attention.value_length", Value::Int(7), "llama.attention.value_length is 7"),
        ("llama.vocab_size", Value::Int(5), "llama.vocab_size is 5"),
        ("llama.rope.dimension_count", Value::Int(3), "llama.rope.dimension_count is 3"),
        ("llama.expert_shared_count", Value::Int(1), "unknown key llama.expert_shared_count"),
    ];
    for (key, value, want) in cases {
        let mut file = written("tinyllama-1.1b");
        file.set(key, value);
        let got = error(&file);
        assert!(got.contains(want), "{got}");
    }
    for key in ["llama.block_count", "llama.attention.layer_norm_rms_epsilon"] {
        let mut file = written("tinyllama-1.1b");
        file.values.remove(key);
        assert_eq!(error(&file), format!("missing key {key}"));
    }
}

#[test]
fn harmless_keys_and_other_namespaces_are_passed_over() {
    let mut file = written("tinyllama-1.1b");
    let want = read(&file);
    file.set("general.name", Value::Str("a name".into()));
    file.set("tokenizer.ggml.tokens", Value::Strings(32_000));
    file.set("split.count", Value::Int(1));
    file.set("llama.expert_count", Value::Int(0));
    file.set("llama.rope.scaling.finetuned", Value::Bool(true));
    file.set("llama.expert_shared_count", Value::Int(0));
    assert_eq!(read(&file), want);
}

#[test]
fn per_layer_lists_must_be_uniform() {
    let mut file = written("tinyllama-1.1b");
    let want = read(&file);
    file.set("llama.attention.head_count_kv", Value::Ints(vec![4; 22]));
    assert_eq!(read(&file), want);
    file.set("llama.attention.head_count_kv", Value::Ints(vec![4, 8]));
    assert!(error(&file).contains("llama.attention.head_count_kv should be a whole number"));
}
