//! Log-probabilities as OpenAI writes them: per token in chats, as parallel lists in completions.

use puna_infer::TokenLogprob;
use puna_text::Tokenizer;
use serde_json::{Map, Value, json};

/// A token's text; what is no UTF-8 by itself is written `bytes:\xe2\x80`, as OpenAI does.
pub(crate) fn token_text(tokenizer: &Tokenizer, id: u32) -> (String, Vec<u8>) {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{hex}")
        }
    };
    (text, bytes)
}

/// −∞ has no place in JSON; OpenAI's stand-in for it.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

fn entry(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Map<String, Value> {
    let (text, bytes) = token_text(tokenizer, id);
    let mut entry = Map::new();
    entry.insert("token".to_owned(), json!(text));
    entry.insert("logprob".to_owned(), json!(finite(logprob)));
    entry.insert("bytes".to_owned(), json!(bytes));
    entry
}

/// A chat's `logprobs`.
pub(super) fn of_chat(tokenizer: &Tokenizer, tokens: &[TokenLogprob]) -> Value {
    let content: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let mut shown = entry(tokenizer, token.id, token.logprob);
            let top = token.top.iter().map(|&(id, logprob)| entry(tokenizer, id, logprob).into());
            shown.insert("top_logprobs".to_owned(), Value::Array(top.collect()));
            Value::Object(shown)
        })
        .collect();
    json!({ "content": content, "refusal": null })
}

/// A completion's `logprobs`, growing while tokens come.
#[derive(Debug, Default)]
pub(super) struct Lists {
    offset: usize,
}

impl Lists {
    /// The lists of the next tokens; `None` in place of a log-probability is the first of a prompt.
    pub(super) fn next(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: &[(u32, Option<&TokenLogprob>)],
    ) -> Value {
        let (mut texts, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for &(id, scored) in tokens {
            let (text, bytes) = token_text(tokenizer, id);
            offsets.push(self.offset);
            // Characters begin at every byte that does not continue one.
            self.offset += bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
            logprobs.push(scored.map(|token| finite(token.logprob)));
            tops.push(scored.map(|token| top_map(tokenizer, token, &text)));
            texts.push(text);
        }
        json!({
            "tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops,
            "text_offset": offsets,
        })
    }
}

/// Alternatives by their text, and the token itself; of two tokens with one text the better.
fn top_map(tokenizer: &Tokenizer, token: &TokenLogprob, text: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for &(id, logprob) in &token.top {
        map.entry(token_text(tokenizer, id).0).or_insert_with(|| json!(finite(logprob)));
    }
    map.entry(text.to_owned()).or_insert_with(|| json!(finite(token.logprob)));
    map
}
