//! `puna chat` through a pipe, with the built-in model.

use crate::run::{arg, puna, puna_with};
use serde_json::Value;

#[test]
fn each_line_of_a_pipe_is_answered_in_order() {
    let ran = puna_with(&["chat", "-n", "8"], "What is a vector?\n\nAnd a slice?\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stdout.trim().is_empty());
    assert!(ran.stderr.contains("knows nothing"), "an honest banner: {}", ran.stderr);
    assert!(!ran.stderr.contains("no chat template"), "{}", ran.stderr);
}

#[test]
fn the_built_in_model_answers_in_sentences() {
    let ran = puna_with(&["chat", "--temperature", "0"], "Who are you?\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let answer = ran.stdout.trim();
    assert!(answer.starts_with("I am puna-mini") && answer.ends_with('.'), "{answer}");
}

#[test]
fn a_model_without_a_template_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    let made = puna(&["convert", "-m", "puna-mini", "--to", "hf", "--out", arg(&model)]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let config = model.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config).expect("the tokenizer's settings");
    let mut settings: Value = serde_json::from_str(&text).expect("JSON");
    assert!(settings.as_object_mut().expect("an object").remove("chat_template").is_some());
    std::fs::write(&config, settings.to_string()).expect("writing them");
    let ran = puna_with(&["chat", "-m", arg(&model), "-n", "8"], "What is a vector?\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("no chat template"), "{}", ran.stderr);
}

#[test]
fn the_same_seed_gives_the_same_answer_and_another_seed_another() {
    let ask = |seed: &str| {
        puna_with(&["chat", "-n", "24", "--seed", seed, "--temperature", "1"], "The\n").stdout
    };
    assert_eq!(ask("1"), ask("1"));
    assert_ne!(ask("1"), ask("2"));
}

#[test]
fn a_conversation_is_saved_as_messages() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("talk.json");
    let input = format!(
        "/system Be brief.\nHello there\n/regenerate\n/stats\n/save {}\n/quit\nnot read\n",
        arg(&file)
    );
    let ran = puna_with(&["chat", "-n", "8", "--template", "vicuna"], &input);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("tokens/s"), "stats: {}", ran.stderr);
    let saved = std::fs::read_to_string(&file).expect("the saved file");
    let saved: Value = serde_json::from_str(&saved).expect("JSON");
    let roles: Vec<&str> = saved["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .filter_map(|m| m["role"].as_str())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(saved["messages"][1]["content"], "Hello there");
    let again = puna_with(&["chat"], &format!("/save {}\n", arg(&file)));
    assert_eq!(again.code, 2, "an existing file is not overwritten");
}

#[test]
fn a_conversation_beyond_the_context_is_an_error_with_numbers() {
    let long = "word ".repeat(2000);
    let ran = puna_with(&["chat", "-n", "8"], &format!("{long}\n"));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("1024"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("hint:") && ran.stderr.contains("--context-shift"),
        "{}",
        ran.stderr
    );
    let ran = puna_with(&["chat", "-n", "8", "--context-shift"], &format!("{long}\n"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}
