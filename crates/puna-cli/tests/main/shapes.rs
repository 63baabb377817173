//! The JSON that scripts rely on, and what the options do, on the built-in model.

use crate::run::{arg, ids, puna, puna_with, tokens};
use serde_json::Value;

fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "`{key}` is missing in {value}");
    }
}

#[test]
fn generate_reports_tokens_text_and_timings() {
    let args = ["generate", "A vector", "-n", "6", "--temperature", "0", "--json"];
    let json = puna(&args).json();
    has_keys(&json, &["token_ids", "logprobs", "text", "finish_reason", "timings"]);
    let timings = [
        "load_seconds",
        "prefill_tokens",
        "prefill_seconds",
        "decode_tokens",
        "decode_seconds",
        "peak_rss_bytes",
    ];
    has_keys(&json["timings"], &timings);
    assert_eq!(tokens(&json["token_ids"]).len(), 6);
    assert_eq!(json["logprobs"].as_array().map(Vec::len), Some(6));
    assert_eq!(json["timings"]["decode_tokens"], 6);
    assert!(json.get("completions").is_none(), "one completion is the object itself");
    let text = json["text"].as_str().expect("text");
    let plain = puna(&args[..args.len() - 1]);
    assert_eq!(plain.stdout, format!("{text}\n"), "the stream is the text");
}

#[test]
fn a_prompt_and_its_ids_are_continued_alike() {
    let prompt = tokens(&puna(&["tokenize", "The slice", "--json"]).json()["token_ids"]);
    let greedy = ["-n", "6", "--temperature", "0", "--json"];
    let by_text = puna(&[&["generate", "The slice"], &greedy[..]].concat()).json();
    let by_ids = puna(&[&["generate", "--token-ids", &ids(&prompt)], &greedy[..]].concat()).json();
    assert_eq!(by_text["token_ids"], by_ids["token_ids"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "The slice").expect("written");
    let by_file = puna(&[&["generate", "--prompt-file", arg(&file)], &greedy[..]].concat()).json();
    assert_eq!(by_text["token_ids"], by_file["token_ids"]);
}

#[test]
fn several_completions_and_beams_stand_in_an_array() {
    let sampled =
        puna(&["generate", "The", "-n", "5", "--num-return-sequences", "3", "--json"]).json();
    let completions = sampled["completions"].as_array().expect("completions");
    assert_eq!(completions.len(), 3);
    assert_eq!(completions[0]["token_ids"], sampled["token_ids"]);
    assert_ne!(completions[0]["text"], completions[1]["text"]);
    let beams = puna(&[
        "generate",
        "The",
        "-n",
        "5",
        "--num-beams",
        "3",
        "--num-return-sequences",
        "2",
        "--json",
    ]);
    assert_eq!(beams.json()["completions"].as_array().map(Vec::len), Some(2));
}

#[test]
fn stop_strings_and_stop_tokens_end_the_text() {
    let greedy = ["generate", "The", "-n", "20", "--temperature", "0", "--json"];
    let json = puna(&greedy).json();
    let text = json["text"].as_str().expect("text").to_string();
    let word = text.split_whitespace().nth(3).expect("a few words").to_string();
    let stopped = puna(&[&greedy[..], &["--stop", &word]].concat()).json();
    assert_eq!(stopped["finish_reason"], "stop");
    let until = text.find(&word).expect("the word is there");
    assert_eq!(stopped["text"], text[..until]);
    let third = tokens(&json["token_ids"])[2];
    let stopped = puna(&[&greedy[..], &["--stop-token", &third.to_string()]].concat()).json();
    assert_eq!(stopped["finish_reason"], "stop");
    assert!(tokens(&stopped["token_ids"]).len() <= 3);
}

#[test]
fn a_forbidden_token_is_not_chosen() {
    let greedy = ["generate", "The", "-n", "1", "--temperature", "0", "--json"];
    let first = tokens(&puna(&greedy).json()["token_ids"])[0];
    let bias = format!("{first}=-inf");
    let other =
        tokens(&puna(&[&greedy[..], &["--logit-bias", &bias]].concat()).json()["token_ids"]);
    assert_ne!(other[0], first);
}

#[test]
fn score_reports_log_probabilities_and_their_sums() {
    let ran = puna_with(
        &["score", "--text-file", "-", "--window", "8", "--json"],
        "A slice is a view into a block of memory.",
    );
    let json = ran.json();
    has_keys(&json, &["token_ids", "logprobs", "nll", "perplexity", "bytes", "bits_per_byte"]);
    let logprobs = json["logprobs"].as_array().expect("logprobs");
    assert_eq!(logprobs.len(), tokens(&json["token_ids"]).len());
    assert!(
        logprobs[0].is_null() && logprobs[1..].iter().all(|l| l.as_f64().is_some_and(|l| l < 0.0))
    );
    assert_eq!(json["bytes"], 41);
    let sum: f64 = logprobs[1..].iter().filter_map(Value::as_f64).sum();
    let nll = json["nll"].as_f64().expect("nll");
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
    assert!(close(nll, -sum / (logprobs.len() - 1) as f64));
    assert!(close(json["perplexity"].as_f64().expect("perplexity"), nll.exp()));
    let bits = json["bits_per_byte"].as_f64().expect("bits");
    assert!(close(bits, -sum / std::f64::consts::LN_2 / 41.0));
}

#[test]
fn bench_reports_each_test_with_its_spread() {
    let json = puna(&["bench", "-p", "16", "-n", "4", "-r", "2", "-t", "1", "--json"]).json();
    let names: Vec<&str> =
        json.as_array().expect("tests").iter().filter_map(|t| t["test"].as_str()).collect();
    assert_eq!(names, ["pp16", "tg4"]);
    for test in json.as_array().expect("tests") {
        has_keys(test, &["peak_rss_bytes"]);
        let rate = |key: &str| test["tokens_per_second"][key].as_f64().expect("a rate");
        assert!(
            0.0 < rate("min") && rate("min") <= rate("median") && rate("median") <= rate("max")
        );
    }
}

#[test]
fn bench_decodes_behind_a_depth_and_in_a_batch_beside_the_machines_limits() {
    let alone = puna(&["bench", "--machine", "-t", "1", "--json"]).json();
    assert_eq!(alone["tests"].as_array().map(Vec::len), Some(0));
    let args = "bench -m puna-mini -p 8 -n 4 -d 0,16 -b 1,3 -r 1 -t 1 --machine --json";
    let json = puna(&args.split(' ').collect::<Vec<_>>()).json();
    let tests = json["tests"].as_array().expect("tests");
    let names: Vec<&str> = tests.iter().filter_map(|t| t["test"].as_str()).collect();
    assert_eq!(names, ["pp8", "tg4", "tg4@b3", "pp8@d16", "tg4@d16", "tg4@d16,b3"]);
    let memory = json["machine"]["one_thread"]["read_bytes_per_second"].as_f64();
    assert!(memory.is_some_and(|speed| speed > 0.0), "{json}");
    for test in tests {
        has_keys(test, &["depth", "batch", "load_seconds"]);
    }
    assert_eq!(tests[1]["limit"]["limit"], "read");
    assert!(tests[1]["limit"]["share"].as_f64().is_some_and(|share| share > 0.0));
}

#[test]
fn info_has_the_promised_keys_and_a_table() {
    let json = puna(&["info", "--json"]).json();
    has_keys(
        &json,
        &[
            "architecture",
            "parameters",
            "active_parameters",
            "bytes",
            "format",
            "quantization",
            "context",
            "layers",
            "hidden_size",
            "heads",
            "kv_heads",
            "vocab_size",
            "kv_bytes_per_token",
            "kv_bytes_per_token_by_type",
        ],
    );
    assert_eq!(json["parameters"], 3_000_384);
    assert_eq!(json["quantization"], "Q8_0");
    let table = puna(&["info", "--tensors"]).stdout;
    assert!(table.contains("3.00 M") && table.contains("token_embd.weight"), "{table}");
}

#[test]
fn template_shows_text_and_ids() {
    let messages = r#"[{"role": "user", "content": "Hi"}]"#;
    let args = ["template", "--template", "llama2", "--messages", "-"];
    let plain = puna_with(&args, messages);
    assert!(plain.stdout.contains("[INST] Hi [/INST]"), "{}", plain.stdout);
    let json = puna_with(&[&args[..], &["--json"]].concat(), messages).json();
    assert_eq!(json["text"], plain.stdout.as_str());
    let ids = tokens(&json["token_ids"]);
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 1, "exactly one bos: {ids:?}");
}

#[test]
fn a_folder_with_only_a_template_can_be_rendered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ end }}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("written");
    let messages = r#"[{"role": "user", "content": "Hi"}]"#;
    let args =
        ["template", "-m", arg(folder.path()), "--messages", "-", "--variable", "end=.", "--json"];
    let json = puna_with(&args, messages).json();
    assert_eq!(json["text"], "<user>Hi.");
    assert!(json["token_ids"].is_null());
}

#[test]
fn the_kv_cache_may_be_8_bit_and_a_gpu_that_is_not_there_is_an_error_with_a_hint() {
    let greedy = ["generate", "A vector", "-n", "6", "--temperature", "0", "--json"];
    for kv_type in ["f32", "f16", "q8_0"] {
        let json = puna(&[&greedy[..], &["--kv-type", kv_type]].concat()).json();
        assert_eq!(tokens(&json["token_ids"]).len(), 6, "{kv_type}");
    }
    let by_default = puna(&greedy).json();
    let on_cpu = puna(&[&greedy[..], &["--device", "cpu"]].concat()).json();
    assert_eq!(by_default["token_ids"], on_cpu["token_ids"]);
    let unknown = puna_with(&[&greedy[..], &["--device", "tpu"]].concat(), "");
    assert!(unknown.stderr.contains("auto, cpu, cuda or cuda:N"), "{}", unknown.stderr);
    let absent = puna_with(&[&greedy[..], &["--device", "cuda:99"]].concat(), "");
    assert!(absent.stderr.contains("--features cuda"), "{}", absent.stderr);
    let adapted = [&greedy[..], &["--device", "cuda", "--adapter", "somewhere"]].concat();
    let adapted = puna_with(&adapted, "");
    assert!(adapted.stderr.contains("adapters run on the CPU only"), "{}", adapted.stderr);
    assert!(adapted.stderr.contains("puna merge"), "{}", adapted.stderr);
}
