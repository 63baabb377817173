//! Adapters through the binary: beside a model, merged, as GGUF, trained, compared.

use std::fs;
use std::path::Path;

use puna_testkit::golden_dir;
use serde_json::Value;

use crate::run::{Ran, arg, puna};
use crate::train::Run;

const IDS: &str = "5,17,42,7,99,23,8";

/// Log-probabilities of some ids.
fn logprobs(model: &Path, more: &[&str]) -> Vec<f64> {
    let of = ["score", "--exact", "--json", "--token-ids", IDS, "-m", arg(model)];
    let ran = puna(&[&of, more].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    json["logprobs"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn succeeds(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_merged_model_is_the_model_with_its_adapter_and_scale_zero_is_the_model() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let Some(adapter) = golden_dir("peft/lora") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let merged = folder.path().join("merged");
    let merge = ["merge", "-m", arg(&model), "--adapter", arg(&adapter), "--out", arg(&merged)];
    succeeds(&puna(&[&merge[..], &["--outtype", "f32"]].concat()));
    let (alone, adapted) = (logprobs(&model, &[]), logprobs(&model, &["--adapter", arg(&adapter)]));
    assert!(distance(&alone, &adapted) > 0.1, "the adapter does nothing");
    assert!(distance(&logprobs(&merged, &[]), &adapted) < 1e-4);
    let none = format!("{}=0", adapter.display());
    assert!(distance(&logprobs(&model, &["--adapter", &none]), &alone) < 1e-6);
    let again = puna(&merge);
    assert!(again.code == 2 && again.stderr.contains("--force"), "{}", again.stderr);
}

#[test]
fn what_no_weight_does_is_not_merged_and_gguf_holds_lora_only() {
    let Some(model) = golden_dir("text/llama2-gqa") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.gguf");
    for (case, command, named) in [
        ("adapters/pfeiffer", "merge", "cannot be merged"),
        ("peft/prefix-tuning", "merge", "cannot be merged"),
        ("peft/ia3", "convert", "no plain LoRA"),
        ("peft/dora", "convert", "DoRA"),
    ] {
        let Some(adapter) = golden_dir(case) else { return };
        let more: &[&str] = if command == "convert" { &["--to", "gguf"] } else { &[] };
        let of = [command, "-m", arg(&model), "--adapter", arg(&adapter), "--out", arg(&out)];
        let ran = puna(&[&of, more].concat());
        assert!(ran.code == 2 && ran.stderr.contains(named), "{case}: {}", ran.stderr);
        assert!(!out.exists());
    }
    let Some(adapter) = golden_dir("peft/lora") else { return };
    let of = ["convert", "-m", arg(&model), "--adapter", arg(&adapter), "--to", "gguf"];
    succeeds(&puna(&[&of[..], &["--out", arg(&out)]].concat()));
    assert!(fs::read(&out).expect("written").starts_with(b"GGUF"));
}

#[test]
fn an_adapter_is_trained_resumed_and_bound_to_its_model() {
    let run = Run::new();
    let recipe = run.path("recipe.toml");
    succeeds(&run.train("base", &["train.steps=2"], &[]));
    let text = fs::read_to_string(&recipe).expect("a recipe");
    let config = text.lines().find(|line| line.starts_with("config = ")).expect("a config");
    let model = run.path("base/model");
    let from = format!("from = {:?}", arg(&model));
    let adapter = "[adapter]\nmethod = \"lora\"\nr = 4\nlora_dropout = 0.1\n[data]";
    fs::write(&recipe, text.replace(config, &from).replace("[data]", adapter)).expect("written");
    let constant = "schedule.name=constant";
    succeeds(&run.train("whole", &[constant], &[]));
    succeeds(&run.train("parts", &[constant, "train.steps=5"], &[]));
    succeeds(&run.train("parts", &[constant], &["--resume"]));
    let weights = |output: &str| {
        fs::read(run.path(output).join("adapter/adapter_model.safetensors")).expect("an adapter")
    };
    // The recipe in the metadata names the output: what is behind the header is compared.
    let values = |output: &str| {
        let bytes = weights(output);
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
        bytes[8 + header..].to_vec()
    };
    assert!(values("whole") == values("parts"), "5 steps and 7 are not 12");
    let adapter = run.path("whole/adapter");
    let with = |model: &Path, more: &[&str]| {
        let of = ["generate", "-m", arg(model), "--adapter", arg(&adapter), "--token-ids", "3,5,8"];
        puna(&[&of, &["-n", "2"][..], more].concat())
    };
    succeeds(&with(&model, &[]));
    let changed = run.train("parts", &[constant, "adapter.r=8"], &["--resume"]);
    assert!(changed.code == 2 && changed.stderr.contains("adapter"), "{}", changed.stderr);
    let Some(other) = golden_dir("text/llama2-gqa") else { return };
    let refused = with(&other, &[]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("was trained for another model"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
}

#[test]
fn info_tells_what_an_adapter_is() {
    for (name, method, setting) in [
        ("peft/lora", "LORA", Some(("r", "lora_alpha"))),
        ("peft/prompt-tuning", "PROMPT_TUNING", None),
        ("adapters/pfeiffer", "bottleneck", None),
        ("adapters/mam", "union", None),
    ] {
        let Some(adapter) = golden_dir(name) else { continue };
        let ran = puna(&["info", "-m", arg(&adapter), "--json", "--tensors"]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(json["method"], method, "{name}");
        assert!(json["parameters"].as_u64() > Some(0), "{name}: {json}");
        assert!(json["tensors"].as_array().is_some_and(|list| !list.is_empty()), "{name}");
        let shown = puna(&["info", "-m", arg(&adapter)]);
        assert!(shown.code == 0 && shown.stdout.contains(method), "{name}: {}", shown.stdout);
        if let Some((rank, alpha)) = setting {
            for key in [rank, alpha] {
                assert!(json["settings"][key].is_number(), "{name}: {json}");
                assert!(shown.stdout.contains(key), "{name}: {}", shown.stdout);
            }
        }
    }
}
