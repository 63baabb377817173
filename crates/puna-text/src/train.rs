//! Trains a byte-level BPE, by the `tokenizers` crate's trainer.
//!
//! The result is a `tokenizer.json` like GPT-2's (its split pattern, the byte alphabet, no unknown
//! token) with Llama 3's names for the ends of a text, so that transformers and llama.cpp load it.
//! Ids: special tokens 0 to 2, the 256 bytes, then the merges in the order of their frequency.

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Library};

use crate::TextError;
use crate::fast::{Frame, guarded};
use crate::tokenizer::template_processing;

/// Begins a text; encoding puts it.
const BOS: &str = "<|begin_of_text|>";
/// Ends a text.
const EOS: &str = "<|end_of_text|>";
/// Fills up a batch.
const PAD: &str = "<|pad|>";

/// Vocabularies below this have no room for the special tokens and the bytes.
pub const SMALLEST_VOCAB: usize = 3 + 256;

/// Text a trainer may see: it counts pairs in 32 bits, and a byte begins at most one pair.
pub const MOST_TRAINING_BYTES: u64 = i32::MAX as u64;

/// The files of a trained tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// `tokenizer.json`.
    pub tokenizer_json: String,
    /// `tokenizer_config.json`.
    pub tokenizer_config_json: String,
}

/// Trains on texts of at most [`MOST_TRAINING_BYTES`] together. The same texts, in any order and
/// on any number of threads, give the same tokenizer.
///
/// # Units
/// `vocab_size` counts special tokens and bytes too. Fewer come out where the texts have too few
/// pairs that occur twice.
///
/// # Errors
/// A vocabulary that is too small, or the library's.
pub fn train_bpe<I, S>(texts: I, vocab_size: usize) -> Result<TrainedTokenizer, TextError>
where
    I: Iterator<Item = S> + Send,
    S: AsRef<str> + Send,
{
    if vocab_size < SMALLEST_VOCAB {
        let expected = "at least 259 (3 special tokens and 256 bytes)";
        return Err(TextError::invalid("vocabulary size", expected, vocab_size));
    }
    let specials: Vec<AddedToken> =
        [BOS, EOS, PAD].iter().map(|text| AddedToken::from(*text, true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.clone())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut library = Library::new(BPE::default());
    library.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    library.with_decoder(Some(ByteLevel::default()));
    guarded("add a token", || library.add_special_tokens(specials).map(|_| ()))?;
    let mut trainer = TrainerWrapper::from(trainer);
    guarded("train", || library.train(&mut trainer, texts).map(|_| ()))?;
    let frame = Frame { prefix: vec![0], suffix: Vec::new() };
    let json = guarded("write the file", || library.to_string(false))?;
    let mut json: serde_json::Value = serde_json::from_str(&json)?;
    json["post_processor"] = template_processing(&frame, |_| BOS.to_owned());
    let config = serde_json::json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": false,
        "eos_token": EOS,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    Ok(TrainedTokenizer {
        tokenizer_json: serde_json::to_string_pretty(&json)?,
        tokenizer_config_json: serde_json::to_string_pretty(&config)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodeSpecials, SpecialTokens, Tokenizer};

    const TEXTS: [&str; 3] =
        ["the llama and the alpaca", "the puna is high and the llama is there", "ŝŭ 草 é"];

    #[test]
    fn a_trained_tokenizer_has_its_special_tokens_first_and_encodes_every_byte() {
        let trained = train_bpe(TEXTS.iter(), 280).expect("trained");
        let tokenizer =
            Tokenizer::from_json_bytes(trained.tokenizer_json.as_bytes()).expect("loads");
        assert_eq!(tokenizer.id("<|begin_of_text|>"), Some(0));
        assert_eq!(tokenizer.id("<|end_of_text|>"), Some(1));
        assert_eq!(tokenizer.id("<|pad|>"), Some(2));
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
            (Some(0), vec![1], Some(2))
        );
        assert!(tokenizer.adds_bos());
        assert!(tokenizer.vocab_size() <= 280 && tokenizer.vocab_size() > 259);
        for text in ["the llama", "你好, 世界\n\t\u{7f}\u{0}", "ß🦙"] {
            let ids = tokenizer.encode(text, SpecialTokens::Add).expect("encodes");
            assert_eq!(ids[0], 0);
            assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).expect("decodes"), text);
        }
    }

    #[test]
    fn the_order_of_the_texts_does_not_matter() {
        let forward = train_bpe(TEXTS.iter(), 290).expect("trained");
        assert_eq!(forward, train_bpe(TEXTS.iter().rev(), 290).expect("trained"));
    }

    #[test]
    fn a_vocabulary_without_room_for_the_bytes_is_refused() {
        let error = train_bpe(TEXTS.iter(), 258).expect_err("too small");
        assert!(error.to_string().contains("at least 259"), "{error}");
    }
}
