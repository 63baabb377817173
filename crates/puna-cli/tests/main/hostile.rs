//! Broken and hostile models: exit code 2 and a message that names the file.

use std::fs;
use std::path::{Path, PathBuf};

use puna_testkit::golden_dir;
use tempfile::TempDir;

use crate::run::{Ran, arg, command, puna};

/// A copy of a case's model, to break; the golden numbers stay behind.
fn copy_of(case: &str) -> Option<(TempDir, PathBuf)> {
    let source = golden_dir(case)?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    for entry in fs::read_dir(source).expect("a case").flatten() {
        let is_golden = entry.file_name().to_string_lossy().starts_with("golden.");
        if entry.path().is_file() && !is_golden {
            fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
        }
    }
    Some((folder, model))
}

/// Generation fails with code 2 and the words are in the message.
fn refuses(model: &Path, words: &[&str]) {
    let ran = puna(&["generate", "-m", arg(model), "--token-ids", "1,2,3", "-n", "2"]);
    assert_eq!(ran.code, 2, "stdout: {} stderr: {}", ran.stdout, ran.stderr);
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    assert!(ran.stdout.is_empty());
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is not in: {}", ran.stderr);
    }
}

#[test]
fn a_truncated_gguf_names_the_file() {
    let Some((_folder, model)) = copy_of("gguf/q8_0") else { return };
    let file = fs::read_dir(&model)
        .expect("a folder")
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "gguf"))
        .expect("a GGUF");
    let bytes = fs::read(&file).expect("read");
    let name = file.file_name().and_then(|n| n.to_str()).expect("a name").to_string();
    for keep in [3, 20, 1000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..keep]).expect("written");
        refuses(&file, &[&name]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let Some((_folder, model)) = copy_of("layout/safetensors-sharded") else { return };
    let shard = fs::read_dir(&model)
        .expect("a folder")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with("model-00002"))
        .expect("a second shard");
    fs::remove_file(model.join(&shard)).expect("removed");
    refuses(&model, &[&shard]);
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused_with_numbers() {
    let Some((_folder, model)) = copy_of("text/llama1") else { return };
    let Some(rows) = vocab_size(&model) else { return };
    let vocab: serde_json::Map<String, serde_json::Value> =
        (0..rows + 7).map(|id| (format!("t{id}"), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    refuses(&model, &[&format!("t{}", rows + 6), &rows.to_string()]);
}

fn vocab_size(model: &Path) -> Option<u64> {
    let config = fs::read_to_string(model.join("config.json")).ok()?;
    serde_json::from_str::<serde_json::Value>(&config).ok()?["vocab_size"].as_u64()
}

fn with_config(case: &str, key: &str, value: serde_json::Value) -> Option<(TempDir, PathBuf)> {
    let (folder, model) = copy_of(case)?;
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).expect("a config");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config[key] = value;
    fs::write(&path, config.to_string()).expect("written");
    Some((folder, model))
}

#[test]
fn an_unknown_architecture_is_named() {
    let Some((_folder, model)) = with_config("text/llama1", "model_type", "mamba9".into()) else {
        return;
    };
    refuses(&model, &["config.json", "mamba9"]);
}

#[test]
fn an_unknown_config_key_is_named() {
    let Some((_folder, model)) = with_config("text/llama1", "frobnication", 3.into()) else {
        return;
    };
    refuses(&model, &["config.json", "frobnication"]);
}

#[test]
fn a_config_of_other_shapes_names_the_tensor() {
    let Some((_folder, model)) = with_config("text/llama1", "vocab_size", 64.into()) else {
        return;
    };
    refuses(&model, &["embed_tokens"]);
}

#[test]
fn a_pickle_that_calls_something_is_refused() {
    let Some((_folder, model)) = copy_of("text/llama1") else { return };
    fs::remove_file(model.join("model.safetensors")).expect("removed");
    // GLOBAL os.system, a string, a tuple of it, REDUCE: what a hostile pickle looks like.
    let pickle = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.";
    fs::write(model.join("pytorch_model.bin"), pickle).expect("written");
    refuses(&model, &["pytorch_model.bin"]);
}

#[test]
fn what_is_no_model_says_what_was_tried() {
    let ran = puna(&["info", "-m", "no-such-model"]);
    assert_eq!(ran.code, 2);
    for word in ["no-such-model", "puna-mini", "hint:"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let ran = puna(&["info", "-m", "nobody/no-such-model"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("HF_HUB_OFFLINE"), "{}", ran.stderr);
}

#[test]
fn a_folder_without_an_adapter_is_refused_not_ignored() {
    for command in ["generate", "score"] {
        let ran = puna(&[command, "--token-ids", "1,2", "--adapter", "some/dir"]);
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains("some/dir has no adapter"), "{}", ran.stderr);
    }
}

#[test]
fn ids_beyond_the_vocabulary_are_refused() {
    let ran = puna(&["generate", "--token-ids", "1,99999", "-n", "1"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("99999") && ran.stderr.contains("4096"), "{}", ran.stderr);
}

#[test]
fn the_environment_limits_the_instruction_set_by_name() {
    let with = |name: &str| {
        let mut command = command(&["bench", "--machine", "--json", "-t", "1"]);
        Ran::of(command.env("PUNA_ISA", name).output().expect("the binary starts"))
    };
    let refused = with("sse9");
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    assert!(refused.stderr.contains("PUNA_ISA is \"sse9\""), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("scalar, avx2, avxvnni, avx512, avx512bf16, amx"),
        "{}",
        refused.stderr
    );
    assert_eq!(with("avx2").code, 0);
}
