#![no_main]
//! Conversations for fine-tuning: a hostile file of Alpaca, ShareGPT or OpenAI records. What parses
//! ends with an answer and is rendered, with functions through the template and as text. The first
//! byte chooses what is asked of the reader.

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use puna_data::SftReader;
use puna_data::sft::{Renderer, SftFormat, ToolStyle, Unusable, split};
use puna_text::{Builtin, ChatTemplate, GenerationPrompt, Tokenizer};

const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
    "use_regex": true}, "post_processor": null, "decoder": null, "model": {"type": "BPE",
    "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZERS: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZERS.get_or_init(|| Tokenizer::from_bytes(TOKENIZER.as_bytes()).expect("a sound tokenizer"))
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let format = match kind & 3 {
        0 => None,
        1 => Some(SftFormat::Alpaca),
        2 => Some(SftFormat::ShareGpt),
        _ => Some(SftFormat::Messages),
    };
    let unusable = if kind & 4 == 0 { Unusable::Refuse } else { Unusable::Skip };
    let reader = SftReader { format, unusable, ..SftReader::default() };
    let path = if kind & 8 == 0 { "a.jsonl" } else { "a.json" };
    let Ok(file) = reader.parse(data, Path::new(path)) else { return };
    assert!(unusable == Unusable::Skip || file.unusable.is_empty());
    let builtin = if kind & 16 == 0 { Builtin::ChatMl } else { Builtin::Alpaca };
    let template = ChatTemplate::builtin(builtin);
    for tools in [ToolStyle::Template, ToolStyle::Text] {
        let renderer = Renderer { tools, ..Renderer::new(&template, tokenizer()) };
        for talk in &file.conversations {
            let last = talk.messages.last().expect("a conversation has messages");
            assert_eq!(last["role"], "assistant");
            let _ = renderer.text(talk, talk.messages.len(), GenerationPrompt::Omit);
            let _ = renderer.text(talk, talk.messages.len() - 1, GenerationPrompt::Add);
        }
    }
    let count = file.conversations.len();
    let (train, held_out) = split(file.conversations, 0.5);
    assert_eq!(train.len() + held_out.len(), count);
});
