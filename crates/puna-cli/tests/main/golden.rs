//! The reference's numbers through the binary: one case for each way to store a model.

use std::fs;
use std::path::Path;

use puna_testkit::{GoldenCase, Tolerance, assert_close, skipped};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::run::{arg, floats, ids, puna, tokens};

/// Float32 sums in another order than the reference's (golden README).
const LOGITS: Tolerance = Tolerance::MaxAbs(1e-4);

/// Representative cases; every case is tested below the command line in puna-model.
const CASES: [&str; 12] = [
    "text/llama1",
    "text/llama2-gqa",
    "text/mixtral",
    "text/gemma2",
    "layout/safetensors-sharded",
    "layout/pytorch-legacy",
    "layout/meta-mp2",
    "gguf/f32",
    "gguf/q4_k_m",
    "gptq/4bit-32g-sym-act",
    "awq/4bit-32g",
    "bnb/nf4-double",
];

/// Folder or, for GGUF, file.
fn model_path(case: &GoldenCase) -> String {
    let gguf = fs::read_dir(&case.dir)
        .expect("a case is a folder")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "gguf"));
    arg(&gguf.unwrap_or_else(|| case.dir.clone())).to_string()
}

#[test]
fn generate_gives_the_reference_tokens_and_log_probabilities() {
    for case in CASES.iter().filter_map(|name| GoldenCase::open(name)) {
        let model = model_path(&case);
        for prompt in 0..case.prompts() {
            let want = case.greedy(prompt);
            let (prompt_ids, n) = (ids(&case.input_ids(prompt)), want.len().to_string());
            let ran = puna(&[
                "generate",
                "-m",
                &model,
                "--token-ids",
                &prompt_ids,
                "-n",
                &n,
                "--temperature",
                "0",
                "--exact",
                "--json",
            ]);
            let json = ran.json();
            assert_eq!(tokens(&json["token_ids"]), want, "{} prompt {prompt}", case.name);
            let name = format!("{} logprobs of prompt {prompt}", case.name);
            assert_close(&name, &floats(&json["logprobs"]), &case.logprobs(prompt), LOGITS);
            assert_eq!(json["finish_reason"], "length");
        }
    }
}

#[test]
fn score_writes_the_reference_logits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("logits.safetensors");
    for case in CASES.iter().filter_map(|name| GoldenCase::open(name)) {
        let model = model_path(&case);
        for prompt in 0..case.prompts() {
            let prompt_ids = case.input_ids(prompt);
            let ran = puna(&[
                "score",
                "-m",
                &model,
                "--token-ids",
                &ids(&prompt_ids),
                "--exact",
                "--json",
                "--logits-out",
                arg(&out),
            ]);
            let json = ran.json();
            assert_eq!(tokens(&json["token_ids"]), prompt_ids);
            assert!(json["logprobs"][0].is_null());
            let bytes = fs::read(&out).expect("the logits file");
            let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
            let logits = file.tensor("logits").expect("a tensor of this name");
            assert_eq!(logits.shape()[0], prompt_ids.len());
            let (words, _) = logits.data().as_chunks::<4>();
            let got: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
            let name = format!("{} logits of prompt {prompt}", case.name);
            case.logits(prompt).assert_close(&name, &got, LOGITS);
        }
    }
}

#[test]
fn score_gives_the_reference_perplexity_of_a_trained_model() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/model");
    let Ok(expected) = fs::read_to_string(model.join("expected.json")) else {
        skipped("the trained BF16 model and its evaluation text are not here");
        return;
    };
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    let text = model.join("eval.txt");
    let score = |window: &str| {
        puna(&[
            "score",
            "-m",
            arg(&model),
            "--text-file",
            arg(&text),
            "--window",
            window,
            "--exact",
            "--json",
        ])
        .json()
    };
    let four_digits = |got: f64, want: &Value| {
        let want = want.as_f64().expect("a number");
        assert!((got - want).abs() <= 5e-5 * want.abs(), "got {got}, want {want}");
    };
    let windows = score("512");
    assert_eq!(
        windows["token_ids"].as_array().map(Vec::len),
        expected["tokens"].as_u64().map(|n| n as usize)
    );
    assert_eq!(windows["bytes"], expected["bytes"]);
    let number = |key: &str| windows[key].as_f64().expect("a number");
    four_digits(number("nll"), &expected["windows_512_bos_mean_nll"]);
    four_digits(number("perplexity"), &expected["windows_512_bos_perplexity"]);
    four_digits(number("bits_per_byte"), &expected["bits_per_byte_windows"]);
    let whole = score("1024");
    let first: Vec<f64> = whole["logprobs"].as_array().expect("logprobs")[1..1024]
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    four_digits(-first.iter().sum::<f64>() / 1023.0, &expected["first_1024_mean_nll"]);
}

#[test]
fn info_tells_a_golden_model_s_shape() {
    let Some(case) = GoldenCase::open("text/llama2-gqa") else { return };
    let json = puna(&["info", "-m", &model_path(&case), "--json", "--tensors"]).json();
    assert_eq!(json["architecture"], "llama");
    assert_eq!(json["format"], "safetensors");
    assert_eq!(json["vocab_size"], case.json["vocab_size"]);
    let config = fs::read_to_string(case.dir.join("config.json")).expect("a config");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(json["layers"], config["num_hidden_layers"]);
    assert_eq!(json["hidden_size"], config["hidden_size"]);
    assert_eq!(json["heads"], config["num_attention_heads"]);
    assert_eq!(json["kv_heads"], config["num_key_value_heads"]);
    assert_eq!(json["context"], config["max_position_embeddings"]);
    let of_tensor = |t: &Value| -> u64 {
        t["shape"]
            .as_array()
            .expect("a shape")
            .iter()
            .map(|d| d.as_u64().expect("a size"))
            .product()
    };
    let sum: u64 = json["tensors"].as_array().expect("tensors").iter().map(of_tensor).sum();
    assert_eq!(json["parameters"], sum);
    assert_eq!(json["active_parameters"], sum);
    assert!(json["quantization"].is_null());
}

#[test]
fn tokenize_and_detokenize_agree_with_a_golden_tokenizer() {
    let Some(case) = GoldenCase::open("text/llama2-gqa") else { return };
    let model = model_path(&case);
    let text = "a text: éß 中 🦙";
    let plain = puna(&["tokenize", "-m", &model, text, "--no-special", "--json"]).json();
    let plain_ids = tokens(&plain["token_ids"]);
    let added = tokens(&puna(&["tokenize", "-m", &model, text, "--json"]).json()["token_ids"]);
    assert_eq!(added[0], 1, "bos");
    assert_eq!(added[1..], plain_ids);
    assert_eq!(plain["tokens"].as_array().map(Vec::len), Some(plain_ids.len()));
    let file = case.dir.join("tokenizer.model");
    for source in [["-m", model.as_str()], ["--tokenizer", arg(&file)]] {
        let args = ["detokenize", source[0], source[1], "--token-ids", &ids(&plain_ids), "--json"];
        let back = puna(&args).json();
        assert_eq!(back["text"].as_str().map(str::trim_start), Some(text));
    }
}
