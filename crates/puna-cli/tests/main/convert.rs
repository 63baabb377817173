//! Conversions through the binary: round trips are the identity, and `--verify` says so.

use std::fs;
use std::path::Path;

use puna_testkit::golden_dir;

use crate::run::{Ran, arg, puna};

fn convert(model: &Path, to: &str, out: &Path, more: &[&str]) -> Ran {
    puna(&[&["convert", "-m", arg(model), "--to", to, "--out", arg(out)], more].concat())
}

fn succeeds(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("done:"), "{}", ran.stdout);
}

#[test]
fn bf16_goes_to_gguf_and_meta_and_back_bit_for_bit() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let verify = ["--verify"];
    succeeds(&convert(&model, "hf", &at("direct"), &verify));
    succeeds(&convert(&model, "gguf", &at("m.gguf"), &verify));
    succeeds(&convert(&at("m.gguf"), "hf", &at("from-gguf"), &verify));
    succeeds(&convert(&model, "meta", &at("meta"), &["--model-parallel", "2", "--verify"]));
    succeeds(&convert(&at("meta"), "hf", &at("from-meta"), &verify));
    let weights = |name: &str| fs::read(at(name).join("model.safetensors")).expect("weights");
    assert!(weights("direct") == weights("from-gguf"), "HF → GGUF → HF changes no bit");
    assert!(weights("direct") == weights("from-meta"), "HF → Meta → HF changes no bit");
}

#[test]
fn rounded_types_stay_within_their_bounds() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for outtype in ["f32", "f16", "q8_0"] {
        let out = folder.path().join(format!("{outtype}.gguf"));
        let ran = convert(&model, "gguf", &out, &["--outtype", outtype, "--verify"]);
        succeeds(&ran);
        assert!(ran.stderr.contains("verified"), "{}", ran.stderr);
    }
}

#[test]
fn nothing_is_overwritten_unasked() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("m.gguf");
    fs::write(&out, "precious").expect("written");
    let ran = convert(&model, "gguf", &out, &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    assert_eq!(fs::read(&out).expect("read"), b"precious");
    succeeds(&convert(&model, "gguf", &out, &["--force"]));
}

#[test]
fn what_a_killed_conversion_leaves_does_not_stop_the_next() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let left = folder.path().join(".puna.tmp");
    fs::create_dir(&left).expect("a folder");
    fs::write(left.join("model.safetensors"), "half").expect("a file");
    succeeds(&convert(&model, "hf", folder.path(), &["--verify"]));
    assert!(!left.exists(), "the working folder is cleared");
    fs::write(folder.path().join("mine.txt"), "mine").expect("a file");
    assert_eq!(convert(&model, "hf", folder.path(), &[]).code, 2);
}

#[test]
fn shards_are_no_larger_than_asked() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("sharded");
    succeeds(&convert(&model, "hf", &out, &["--max-shard-size", "100KB", "--verify"]));
    assert!(out.join("model.safetensors.index.json").exists());
    assert!(out.join("model-00001-of-00002.safetensors").exists() || shards(&out) > 2);
    assert!(shards(&out) > 1);
}

fn shards(folder: &Path) -> usize {
    let names = fs::read_dir(folder).expect("a folder").flatten();
    names.filter(|e| e.path().extension().is_some_and(|e| e == "safetensors")).count()
}
