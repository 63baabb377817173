//! Conversion: bit-exact round trips, and the same logits from every container.

use std::path::Path;

use puna_io::{Checkpoint, Dtype, StoredTensor};
use puna_model::convert::{OutType, Target, convert};
use puna_model::{LoadOptions, Model, Precision};
use puna_testkit::golden_root;

use crate::support::{cases, load, max_abs, model_path, prefill, prompts};

fn run(source: &Path, target: Target, out_type: OutType, out: &Path) {
    let checkpoint = Checkpoint::open(&model_path(source)).unwrap();
    let mut last = 0;
    let report = convert(&checkpoint, target, out_type, out, &mut |done, total| {
        assert!(done <= total);
        last = done;
    })
    .unwrap_or_else(|e| panic!("{} to {target:?}: {e}", source.display()));
    assert_eq!(last, report.bytes);
}

/// Tensors of two checkpoints are the same, byte for byte; those missing on one side are named.
fn assert_same_tensors(a: &Path, b: &Path) {
    let (a, b) = (Checkpoint::open(a).unwrap(), Checkpoint::open(b).unwrap());
    let mut names: Vec<&str> = a.names().filter(|n| !n.contains("rotary_emb")).collect();
    let mut others: Vec<&str> = b.names().collect();
    names.sort_unstable();
    others.sort_unstable();
    assert_eq!(names, others);
    for name in names {
        let (x, y) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
        assert_eq!(x.info, y.info, "{name}");
        assert!(x.bytes[..] == y.bytes[..] || same_factors(&x, &y), "{name}: bytes differ");
    }
}

/// GGUF holds Gemma's norms as 1 + w in float32, where the last bits of a small w are lost: what
/// comes back must then be a w with the same 1 + w.
fn same_factors(x: &StoredTensor, y: &StoredTensor) -> bool {
    let factors = |t: &StoredTensor| -> Vec<f32> {
        let values = t.bytes.as_chunks::<2>().0.iter();
        values.map(|b| 1.0 + half::bf16::from_le_bytes(*b).to_f32()).collect()
    };
    x.info.dtype == Dtype::BF16 && x.info.shape.len() == 1 && factors(x) == factors(y)
}

const HF: Target = Target::Hf { max_shard_bytes: None };

#[test]
fn hf_to_gguf_to_hf_is_the_identity_for_every_family() {
    let Some(cases) = cases("text") else { return };
    for case in cases.iter().filter(|c| !c.ends_with("llama4-text")) {
        let dir = tempfile::tempdir().unwrap();
        let (gguf, back) = (dir.path().join("model.gguf"), dir.path().join("back"));
        run(case, Target::Gguf, OutType::Auto, &gguf);
        run(&gguf, HF, OutType::Auto, &back);
        assert_same_tensors(&case.join("model.safetensors"), &back.join("model.safetensors"));
        let config = |dir: &Path| {
            let model = Model::load(dir, &LoadOptions::new(Precision::Exact)).unwrap();
            model.config.decoder
        };
        assert_eq!(config(case).ffn, config(&back).ffn);
    }
}

#[test]
fn hf_to_meta_in_two_shards_and_back_is_the_identity() {
    let Some(cases) = cases("text") else { return };
    for name in ["llama1", "llama2-gqa", "llama3"] {
        let case = cases.iter().find(|c| c.ends_with(name)).unwrap();
        let attention = load(case, Precision::Exact).config.decoder.attention;
        if !attention.num_kv_heads.is_multiple_of(2) || !attention.num_heads.is_multiple_of(2) {
            eprintln!("skipped: {name} of this set has heads that two shards do not divide");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let (meta, back) = (dir.path().join("meta"), dir.path().join("back"));
        run(case, Target::Meta { model_parallel: 2 }, OutType::Auto, &meta);
        assert!(meta.join("consolidated.01.pth").exists());
        run(&meta, HF, OutType::Auto, &back);
        assert_same_tensors(&case.join("model.safetensors"), &back.join("model.safetensors"));
    }
}

#[test]
fn a_gguf_of_every_family_gives_the_logits_of_its_source() {
    let Some(cases) = cases("text") else { return };
    for case in cases.iter().filter(|c| !c.ends_with("llama4-text")) {
        let dir = tempfile::tempdir().unwrap();
        let gguf = dir.path().join("model.gguf");
        run(case, Target::Gguf, OutType::Auto, &gguf);
        let ours = Model::load(&gguf, &LoadOptions::new(Precision::Exact))
            .unwrap_or_else(|e| panic!("{}: {e}", case.display()));
        for prompt in prompts(case) {
            let error = max_abs(&prefill(&ours.decoder, &prompt.input).1, &prompt.logits);
            assert!(error <= 1e-4, "{}: {error}", case.display());
        }
    }
}

#[test]
fn quantized_sources_become_float_folders_with_nearly_the_same_logits() {
    for group in ["gguf", "gptq", "awq", "bnb"] {
        let Some(cases) = cases(group) else { continue };
        for case in &cases {
            let dir = tempfile::tempdir().unwrap();
            run(case, HF, OutType::F32, dir.path());
            let ours = load(dir.path(), Precision::Exact);
            for prompt in prompts(case) {
                let error = max_abs(&prefill(&ours.decoder, &prompt.input).1, &prompt.logits);
                assert!(error <= 1e-4, "{}: {error}", case.display());
            }
        }
    }
}

#[test]
fn q8_0_and_q4_0_matrices_equal_those_of_llama_quantize_bit_for_bit() {
    let Some(root) = golden_root() else { return };
    let source = root.join("text/llama2-gqa");
    for (out_type, name) in [(OutType::Q8_0, "q8_0"), (OutType::Q4_0, "q4_0")] {
        let dir = tempfile::tempdir().unwrap();
        let gguf = dir.path().join("model.gguf");
        run(&source, Target::Gguf, out_type, &gguf);
        let ours = Checkpoint::open(&gguf).unwrap();
        let theirs = root.join("gguf").join(name);
        if !theirs.is_dir() {
            eprintln!("skipped: {} is not there", theirs.display());
            continue;
        }
        let theirs = Checkpoint::open(&model_path(&theirs)).unwrap();
        let mut compared = 0;
        for tensor in theirs.names() {
            let (a, b) = (ours.tensor(tensor).unwrap(), theirs.tensor(tensor).unwrap());
            let outer = tensor == "token_embd.weight" || tensor == "output.weight";
            if out_type == OutType::Q4_0 && outer {
                assert_eq!(a.info.dtype, Dtype::Q8_0); // llama-quantize --pure has Q4_0 here
                continue;
            }
            assert_eq!(a.info, b.info, "{tensor}");
            assert!(a.bytes[..] == b.bytes[..], "{name}: {tensor} differs");
            compared += 1;
        }
        assert!(compared >= 19, "{name}: {compared} tensors");
    }
}

#[test]
fn what_llama_cpp_cannot_see_in_a_gguf_is_said() {
    let Some(cases) = cases("text") else { return };
    let notes = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(cases.iter().find(|c| c.ends_with(name)).unwrap()).unwrap();
        let out = dir.path().join("model.gguf");
        let report = convert(&source, Target::Gguf, OutType::Auto, &out, &mut |_, _| {}).unwrap();
        report.notes.join("\n")
    };
    assert!(notes("mistral-sliding").contains("sliding window"));
    assert!(notes("llama-dynamic-ntk").contains("dynamic NTK"));
    assert!(notes("gemma2").contains("attention scale"));
    let gemma3 = notes("gemma3-text");
    assert!(gemma3.contains("attention scale") && !gemma3.contains("window"), "{gemma3}");
    assert!(!notes("llama3").contains("llama.cpp"));
}

#[test]
fn a_conversion_that_cannot_be_leaves_the_target_as_it_was() {
    let Some(cases) = cases("text") else { return };
    let gemma = cases.iter().find(|c| c.ends_with("gemma2")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("params.json"), "mine").unwrap();
    let checkpoint = Checkpoint::open(gemma).unwrap();
    let target = Target::Meta { model_parallel: 1 };
    let result = convert(&checkpoint, target, OutType::Auto, dir.path(), &mut |_, _| {});
    assert!(result.is_err());
    assert_eq!(std::fs::read_to_string(dir.path().join("params.json")).unwrap(), "mine");
}
