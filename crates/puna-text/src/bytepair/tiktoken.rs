//! Llama 3's `tokenizer.model`: tiktoken's rank file.
//!
//! A line per token, `<base64 of its bytes> <rank>`. The file names neither the pattern nor the
//! special tokens: they are Llama 3's (source: `llama_models/llama3/api/tokenizer.py` of
//! meta-llama/llama-models), which follow the ranks in the order below.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::split::LLAMA3;
use super::{BytePair, MergeOrder, Special, Splitter};
use crate::TextError;

/// Number of special tokens after the ranks.
const SPECIAL_TOKENS: usize = 256;
/// Most tokens a rank file may have.
const MOST_TOKENS: usize = 1 << 22;

/// The special tokens of Llama 3.1 and later that have names; the rest is reserved.
const NAMED: [&str; 12] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
];

/// Whether bytes look like a rank file: a first line of base64, a space and a number.
pub(crate) fn is_rank_file(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(4096)];
    let Some(line) = head.split(|&b| b == b'\n').find(|line| !line.is_empty()) else {
        return false;
    };
    parse_line(line).is_some()
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (token, rank) = line.split_once(' ')?;
    Some((STANDARD.decode(token).ok().filter(|t| !t.is_empty())?, rank.parse().ok()?))
}

/// Reads a rank file with Llama 3's pattern and special tokens.
pub(crate) fn parse(bytes: &[u8]) -> Result<BytePair, TextError> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let lines = bytes.split(|&b| b == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let invalid = |got: String| {
            let expected = "`<base64> <rank>` with the ranks 0, 1, 2, …";
            TextError::invalid(format!("line {}", number + 1), expected, got)
        };
        let Some((token, rank)) = parse_line(line) else {
            let shown = String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
            return Err(invalid(format!("`{shown}`")));
        };
        if rank as usize != tokens.len() || tokens.len() >= MOST_TOKENS {
            return Err(invalid(format!("rank {rank} after {} tokens", tokens.len())));
        }
        tokens.push(token);
    }
    let count = tokens.len();
    let specials = (0..SPECIAL_TOKENS).map(|index| Special {
        id: (count + index) as u32,
        text: special_name(index),
        control: true,
    });
    let splitter = Splitter::new(&[LLAMA3])?;
    let model = BytePair::new(tokens, MergeOrder::Rank, splitter, specials.collect())?;
    match model.missing_byte() {
        Some(byte) => Err(TextError::NoTokenForByte { byte }),
        None => Ok(model.with_whole_words()),
    }
}

fn special_name(index: usize) -> String {
    match NAMED.get(index) {
        Some(name) => (*name).to_owned(),
        None => format!("<|reserved_special_token_{}|>", index - NAMED.len() + 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_file_is_told_from_protobuf() {
        assert!(is_rank_file(b"IQ== 0\nIg== 1\n"));
        assert!(!is_rank_file(b"\x0a\x0d\x0a\x05<unk>"));
        assert!(!is_rank_file(b""));
    }

    #[test]
    fn the_last_special_token_is_reserved_245() {
        assert_eq!(special_name(255), "<|reserved_special_token_245|>");
    }
}
