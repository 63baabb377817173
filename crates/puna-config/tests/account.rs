//! Counts of 32 published models (`models.csv`: exact counts, most of them equal to published
//! ones) and of every golden checkpoint's tensors.

use crate::support::golden_root;
use puna_config::{
    FfnConfig, HeadWeight, ModelConfig, NormPlacement, QkNorm, WeightDtype, preset, preset_names,
};
use serde_json::Value;
use std::path::Path;

const MODELS: &str = include_str!("models.csv");

/// Rows as (column name, cell); the note, last, may hold quoted commas and is cut off.
fn rows() -> Vec<Vec<(&'static str, &'static str)>> {
    let mut lines = MODELS.lines();
    let header: Vec<_> = lines.next().expect("a header").split(',').collect();
    lines.map(|line| header.iter().copied().zip(line.split(',')).collect()).collect()
}

fn cell(row: &[(&'static str, &'static str)], column: &str) -> &'static str {
    row.iter().find(|(name, _)| *name == column).expect("the column").1
}

fn number(row: &[(&'static str, &'static str)], column: &str) -> u64 {
    cell(row, column).parse().expect("a number")
}

#[test]
fn every_published_model_has_its_exact_counts() {
    let rows = rows();
    assert_eq!(rows.len(), 32);
    for row in &rows {
        let name = cell(row, "name");
        let config = preset(name).expect("parses").unwrap_or_else(|| panic!("no preset {name}"));
        let counts = config.decoder.parameters();
        assert_eq!(counts.total, number(row, "params_exact"), "{name}");
        assert_eq!(counts.active, number(row, "params_active"), "{name}");
        assert_eq!(counts.non_embedding, number(row, "params_non_embedding"), "{name}");
        assert_eq!(counts.matmul, number(row, "params_matmul"), "{name}");
        let kv = config.decoder.kv_bytes_per_token(2);
        assert_eq!(kv, number(row, "kv_bytes_per_token_16bit"), "{name}");
        let bytes = config.decoder.weight_bytes(WeightDtype::BF16);
        assert_eq!(bytes, 2 * number(row, "params_exact"), "{name}");
    }
}

#[test]
fn presets_have_the_shapes_of_the_table() {
    for row in rows() {
        let d = preset(cell(&row, "name")).expect("parses").expect("a preset").decoder;
        let numbers = [
            ("layers", d.num_layers),
            ("hidden", d.hidden_size),
            ("heads", d.attention.num_heads),
            ("kv_heads", d.attention.num_kv_heads),
            ("head_dim", d.attention.head_dim),
            ("vocab", d.vocab_size),
            ("context", d.max_seq_len),
        ];
        for (column, got) in numbers {
            assert_eq!(got as u64, number(&row, column), "{column} of {}", cell(&row, "name"));
        }
        let tied = d.embedding.head == HeadWeight::Tied;
        assert_eq!(if tied { "yes" } else { "no" }, cell(&row, "tied"));
        let qk_norm = d.attention.qk_norm != QkNorm::None;
        assert_eq!(if qk_norm { "yes" } else { "no" }, cell(&row, "qk_norm"));
        let norms = if d.placement == NormPlacement::Sandwich { 4 } else { 2 };
        assert_eq!(norms, number(&row, "norms_per_layer"));
        if let FfnConfig::Moe { num_experts, experts_per_token, .. } = d.ffn {
            assert_eq!(num_experts as u64, number(&row, "experts"));
            assert_eq!(experts_per_token as u64, number(&row, "experts_per_token"));
        }
    }
}

#[test]
fn every_preset_is_a_row_of_the_table() {
    let names: Vec<_> = rows().iter().map(|row| cell(row, "name").to_owned()).collect();
    for preset in preset_names().expect("parses") {
        assert!(names.contains(&preset), "{preset}");
    }
    assert!(preset("no such model").expect("parses").is_none());
}

#[test]
fn flops_of_llama_2_7b_are_two_per_matmul_parameter_plus_attention() {
    let d = preset("llama-2-7b").expect("parses").expect("a preset").decoder;
    let attention = 4 * 32 * 128 * 32; // 4 H D per key and layer, 32 layers
    assert_eq!(d.forward_flops_per_token(1), 2 * 6_607_077_376 + attention);
    assert_eq!(d.forward_flops_per_token(4096), 2 * 6_607_077_376 + 4096 * attention);
}

#[test]
fn flops_of_local_layers_stop_growing_at_the_window() {
    let d = preset("mistral-7b-v0.1").expect("parses").expect("a preset").decoder;
    let at = |context| d.forward_flops_per_token(context);
    assert!(at(4096) > at(4095));
    assert_eq!(at(4096), at(32_768));
    let mixtral = preset("mixtral-8x7b-v0.1").expect("parses").expect("a preset").decoder;
    let active = mixtral.parameters().active_matmul;
    // Active parameters without the lookup and the 65 norms.
    assert_eq!(active, 12_879_925_248 - 32_000 * 4096 - 65 * 4096);
}

#[test]
fn a_prompt_costs_the_sum_of_its_tokens_without_the_heads_that_are_not_run() {
    let d = preset("mistral-7b-v0.1").expect("parses").expect("a preset").decoder;
    let at = |context| d.forward_flops_per_token(context);
    assert_eq!(d.prefill_flops(100, 3, 3), at(101) + at(102) + at(103));
    let head = 2 * 32_000 * 4096;
    assert_eq!(d.prefill_flops(0, 3, 1), at(1) + at(2) + at(3) - 2 * head);
}

#[test]
fn a_step_reads_the_keys_and_values_inside_the_window() {
    let d = preset("mistral-7b-v0.1").expect("parses").expect("a preset").decoder;
    assert_eq!(d.kv_bytes_read(10, 2), 10 * d.kv_bytes_per_token(2));
    assert_eq!(d.kv_bytes_read(9000, 2), 4096 * d.kv_bytes_per_token(2));
}

/// Sum of the sizes that a safetensors header announces.
fn stored_parameters(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let length = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let header: Value = serde_json::from_slice(bytes.get(8..8 + length)?).ok()?;
    let size = |tensor: &Value| -> Option<u64> {
        tensor.get("shape")?.as_array()?.iter().map(Value::as_u64).product()
    };
    let tensors = header.as_object()?.iter().filter(|(name, _)| *name != "__metadata__");
    tensors.map(|(_, tensor)| size(tensor)).sum()
}

#[test]
fn counts_equal_the_tensor_sizes_of_every_golden_checkpoint() {
    let Some(root) = golden_root() else { return crate::support::skipped("text") };
    let Ok(cases) = std::fs::read_dir(root.join("text")) else {
        return crate::support::skipped("text");
    };
    let mut seen = 0;
    for case in cases {
        let folder = case.expect("a folder entry").path();
        let Ok(text) = std::fs::read_to_string(folder.join("config.json")) else { continue };
        let Ok(config) = ModelConfig::from_hf_json(&text) else { continue };
        let stored = stored_parameters(&folder.join("model.safetensors")).expect("a header");
        assert_eq!(config.decoder.parameters().total, stored, "{folder:?}");
        seen += 1;
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn counting_nonsense_saturates_instead_of_overflowing() {
    let mut d = preset("mixtral-8x7b-v0.1").expect("parses").expect("a preset").decoder;
    d.hidden_size = usize::MAX;
    d.vocab_size = usize::MAX;
    d.attention.head_dim = usize::MAX;
    assert_eq!(d.parameters().total, u64::MAX);
    assert_eq!(d.weight_bytes(WeightDtype::F32), u64::MAX);
    assert_eq!(d.forward_flops_per_token(usize::MAX), u64::MAX);
    assert!(d.validate().is_err());
}
