#![no_main]
//! Tokenizers: a hostile tokenizer.json, SentencePiece or tiktoken model, or GGUF vocabulary. What
//! loads must encode and decode. The first byte chooses: even is a file, odd is a vocabulary, one
//! token or merge per line.
//!
//! The `tokenizers` library panics on some malformed files, which puna-text catches and makes an error
//! of. So a panic that is caught is no finding here; one that escapes ends the process all the same.

use libfuzzer_sys::fuzz_target;
use puna_text::{DecodeSpecials, GgufVocab, SpecialTokens, Tokenizer};

const TEXT: &str = "a bc  ab\n1234 é <s> </s> 日本 \u{1f999}";

fn vocabulary(text: &str, model: &str) -> GgufVocab {
    let (tokens, merges) = text.split_once("\n\n").unwrap_or((text, ""));
    let tokens: Vec<String> = tokens.lines().map(str::to_owned).collect();
    GgufVocab {
        model: model.to_owned(),
        scores: (model == "llama").then(|| (0..tokens.len()).map(|i| -(i as f32)).collect()),
        merges: (model == "gpt2").then(|| merges.lines().map(str::to_owned).collect()),
        bos: Some(0),
        add_bos: Some(true),
        tokens,
        ..GgufVocab::default()
    }
}

/// In place of libfuzzer's hook, which aborts before anything can be caught.
fn say_panics_in_a_line() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        let ours = info.location().is_some_and(|at| at.file().contains("crates/puna-"));
        if ours {
            std::process::abort();
        }
    }));
}

fuzz_target!(init: say_panics_in_a_line(), |data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let loaded = match (kind % 4, std::str::from_utf8(data)) {
        (1, Ok(text)) => Tokenizer::from_gguf(&vocabulary(text, "llama")),
        (3, Ok(text)) => Tokenizer::from_gguf(&vocabulary(text, "gpt2")),
        _ => Tokenizer::from_bytes(data),
    };
    let Ok(tokenizer) = loaded else { return };
    let Ok(ids) = tokenizer.encode(TEXT, SpecialTokens::Add) else { return };
    let _ = tokenizer.encode_rendered(TEXT);
    let _ = tokenizer.decode(&ids, DecodeSpecials::Keep);
    let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX], DecodeSpecials::Skip);
    let _ = tokenizer.to_gguf_vocab();
});
