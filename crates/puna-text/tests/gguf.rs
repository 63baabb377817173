//! Vocabularies inside GGUF files: read, written, converted.

use std::path::{Path, PathBuf};

use puna_text::{DecodeSpecials, GgufVocab, SpecialTokens, TextError, Tokenizer, TokenizerKind};
use serde_json::Value;

use crate::golden::{case, foreign, rows};

/// The vocabulary of the golden gguf/ files.
fn fixture() -> GgufVocab {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf-f32-vocab.json");
    let data: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let list = |key: &str| data[key].as_array().unwrap().clone();
    let id = |key: &str| data[key].as_u64().map(|id| id as u32);
    let texts = list("tokens").iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let scores = list("scores").iter().map(|s| s.as_f64().unwrap() as f32).collect();
    let types = list("token_types").iter().map(|t| t.as_i64().unwrap() as i32).collect();
    GgufVocab {
        model: "llama".into(),
        pre: Some("default".into()),
        tokens: texts,
        scores: Some(scores),
        token_types: Some(types),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unk"),
        add_bos: data["add_bos"].as_bool(),
        add_eos: data["add_eos"].as_bool(),
        ..GgufVocab::default()
    }
}

/// A small byte-level vocabulary: the 256 bytes, two merges, a control token.
fn byte_level(pre: &str) -> GgufVocab {
    let mut vocab = GgufVocab { model: "gpt2".into(), pre: Some(pre.into()), ..fixture_free() };
    let printable = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    for byte in 0..256 {
        let code = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocab.tokens.push(char::from_u32(code).unwrap().to_string());
    }
    vocab.tokens.extend(["he", "hel", "<|end|>"].map(str::to_owned));
    let mut types = vec![1; vocab.tokens.len()];
    types[258] = 3;
    vocab.token_types = Some(types);
    vocab.merges = Some(vec!["h e".into(), "he l".into()]);
    vocab.eos = Some(258);
    vocab
}

fn fixture_free() -> GgufVocab {
    GgufVocab::default()
}

/// The model that the fixture was made from: this repository's, whatever set the tests run on.
fn fixture_source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/text/llama2-gqa")
}

const TEXTS: [&str; 6] = [
    "The red river opens the old window.",
    "  Spaces   and\n\nlines\t. ",
    "12 naïve 世界 😀",
    "<s> is text here",
    "",
    "The\u{2581}mark",
];

#[test]
fn the_vocabulary_written_from_a_sentencepiece_model_is_that_of_the_reference_converter() {
    let folder = fixture_source();
    let tokenizer = Tokenizer::from_path(&folder.join("tokenizer.model")).unwrap();
    let (written, reference) = (tokenizer.to_gguf_vocab().unwrap(), fixture());
    assert_eq!(written.tokens, reference.tokens);
    assert_eq!(written.scores, reference.scores);
    assert_eq!(written.token_types, reference.token_types);
    assert_eq!((written.bos, written.eos, written.unk), (Some(1), Some(2), Some(0)));
    assert_eq!((written.add_bos, written.add_eos), (Some(true), Some(false)));
    assert_eq!(written.tokenizer_json, None);
}

#[test]
fn the_vocabulary_inside_a_gguf_gives_the_ids_of_its_tokenizer_model() {
    let folder = fixture_source();
    let model = Tokenizer::from_path(&folder.join("tokenizer.model")).unwrap();
    let gguf = Tokenizer::from_gguf(&fixture()).unwrap();
    assert_eq!(gguf.kind(), TokenizerKind::GgufLlama);
    for text in TEXTS {
        let ids = model.encode(text, SpecialTokens::Add).unwrap();
        assert_eq!(gguf.encode(text, SpecialTokens::Add).unwrap(), ids, "{text:?}");
        // U+2581 itself cannot be told from a space any more
        let shown = text.replace('\u{2581}', " ");
        assert_eq!(gguf.decode(&ids, DecodeSpecials::Skip).unwrap(), shown);
    }
}

#[test]
fn a_tokenizer_json_travels_whole_and_its_llama_vocabulary_merges_alike() {
    let folder = fixture_source();
    let json = Tokenizer::from_path(&folder.join("tokenizer.json")).unwrap();
    let mut vocab = json.to_gguf_vocab().unwrap();
    assert_eq!((vocab.model.as_str(), vocab.add_space_prefix), ("llama", Some(true)));
    assert_eq!(vocab.token_types, fixture().token_types);
    let whole = Tokenizer::from_gguf(&vocab).unwrap();
    assert_eq!(whole.kind(), TokenizerKind::TokenizerJson);
    vocab.tokenizer_json = None;
    let native = Tokenizer::from_gguf(&vocab).unwrap();
    for text in TEXTS {
        let ids = json.encode(text, SpecialTokens::Add).unwrap();
        assert_eq!(whole.encode(text, SpecialTokens::Add).unwrap(), ids);
        if !text.contains("<s>") {
            assert_eq!(native.encode(text, SpecialTokens::Add).unwrap(), ids, "{text:?}");
        }
    }
}

#[test]
fn byte_level_vocabularies_come_back_from_gguf_with_the_same_ids() {
    let bpe_small = case("tokenizers/bpe-small").map(|folder| folder.join("tokenizer.json"));
    let llama3 = foreign("tokenizers/llama3/tokenizer.model");
    let cases = [("bpe-small", bpe_small, "llama-bpe"), ("llama3", llama3, "llama-bpe")];
    for (name, file, pre) in cases {
        let (Some(file), Some(folder)) = (file, case(&format!("tokenizers/{name}"))) else {
            continue;
        };
        let tokenizer = Tokenizer::from_path(&file).unwrap();
        let mut vocab = tokenizer.to_gguf_vocab().unwrap();
        vocab.tokenizer_json = None;
        assert_eq!((vocab.model.as_str(), vocab.pre.as_deref()), ("gpt2", Some(pre)));
        let back = Tokenizer::from_gguf(&vocab).unwrap();
        assert_eq!(back.kind(), TokenizerKind::GgufGpt2);
        assert_eq!((back.bos(), back.adds_bos()), (tokenizer.bos(), true));
        assert_eq!(back.vocab_size(), tokenizer.vocab_size());
        let converted = back.to_tokenizer_json().unwrap();
        let converted = Tokenizer::from_json_bytes(converted.as_bytes()).unwrap();
        for row in rows(&folder.join("encodings.jsonl")) {
            let Some(text) = row["text"].as_str().filter(|text| !text.contains("<|")) else {
                continue;
            };
            let ids = tokenizer.encode(text, SpecialTokens::Add).unwrap();
            assert_eq!(back.encode(text, SpecialTokens::Add).unwrap(), ids, "{name} {text:?}");
            assert_eq!(converted.encode(text, SpecialTokens::Add).unwrap(), ids, "{name} {text:?}");
            assert_eq!(back.decode(&ids, DecodeSpecials::Skip).unwrap(), text);
        }
    }
}

#[test]
fn control_tokens_are_text_in_plain_text_and_ids_in_a_rendered_template() {
    for vocab in [fixture(), byte_level("gpt-2")] {
        let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
        let eos = tokenizer.eos()[0];
        let text = format!("a{}", tokenizer.token(eos).unwrap());
        let plain = tokenizer.encode(&text, SpecialTokens::Omit).unwrap();
        assert!(!plain.contains(&eos));
        assert_eq!(tokenizer.decode(&plain, DecodeSpecials::Skip).unwrap(), text);
        assert_eq!(tokenizer.encode_rendered(&text).unwrap().last(), Some(&eos));
    }
}

#[test]
fn each_known_pre_tokenizer_cuts_and_merges() {
    let names = [
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "tekken",
        "gpt-4o",
        "smollm",
        "dbrx",
        "llama4",
        "command-r",
    ];
    for pre in names {
        let tokenizer = Tokenizer::from_gguf(&byte_level(pre)).unwrap();
        let ids = tokenizer.encode("hello 12", SpecialTokens::Omit).unwrap();
        assert_eq!(ids[0], 257, "{pre}");
        assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), "hello 12");
    }
}

#[test]
fn what_does_not_fit_together_is_refused_with_its_key() {
    let error = |vocab: GgufVocab| Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
    assert_eq!(error(byte_level("klingon")), "tokenizer.ggml.pre `klingon` is not known");
    let other = GgufVocab { model: "bert".into(), ..fixture() };
    assert!(matches!(Tokenizer::from_gguf(&other), Err(TextError::UnknownGgufModel { .. })));
    let short = GgufVocab { scores: Some(vec![0.0]), ..fixture() };
    let expected = "tokenizer.ggml.scores: expected as many entries as tokenizer.ggml.tokens, got 1 \
        for 320 tokens";
    assert_eq!(error(short), expected);
    let far = GgufVocab { bos: Some(320), ..fixture() };
    assert!(error(far).starts_with("tokenizer.ggml.bos_token_id: "));
    let merged = GgufVocab { merges: Some(vec!["h x y".into()]), ..byte_level("gpt-2") };
    assert!(error(merged).contains("`h x y`"));
    let none = GgufVocab { merges: None, ..byte_level("gpt-2") };
    assert!(error(none).starts_with("tokenizer.ggml.merges: "));
    let types = GgufVocab { token_types: Some(vec![9; 320]), ..fixture() };
    assert!(error(types).starts_with("tokenizer.ggml.token_type: "));
    let unknown_but_carried = GgufVocab {
        tokenizer_json: Tokenizer::from_gguf(&fixture()).unwrap().to_tokenizer_json().ok(),
        ..byte_level("klingon")
    };
    assert!(Tokenizer::from_gguf(&unknown_but_carried).is_ok());
}
