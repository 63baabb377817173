//! Grammars over tokens, by llguidance: which tokens may come next so that the text stays a
//! sentence of the grammar.
//!
//! The crate walks the vocabulary as a trie of bytes, so it wants each token's bytes once per model
//! ([`GrammarSide`]) and a parser per sequence ([`Matcher`]). Compiling and stepping are bounded by
//! the crate's fuel: a hostile schema is an error, not a stall. Reference: Lark's grammar language as
//! llguidance extends it (github.com/guidance-ai/llguidance, docs/syntax.md).

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use puna_infer::{Constraint, InferError};
use puna_text::Tokenizer;
use serde_json::Value;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::api_error::ApiError;

/// What the text has to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Grammar {
    /// JSON that fits a schema.
    Schema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// A sentence of a Lark grammar.
    Lark(String),
}

/// Parsing work one request may cause: an eighth of the crate's own limits, which are meant for
/// trusted grammars.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 500_000,
        step_lexer_fuel: 100_000,
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        step_max_items: 25_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// A tokenizer's vocabulary as grammars need it.
pub(crate) struct GrammarSide {
    factory: ParserFactory,
    vocab_size: usize,
}

impl GrammarSide {
    /// # Errors
    /// In words, where a grammar could not work with this tokenizer.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        eos: &[u32],
        vocab_size: usize,
    ) -> Result<Self, String> {
        let Some(&first_eos) = eos.first() else {
            return Err("this model has no end-of-sequence token".to_owned());
        };
        let words: Vec<Vec<u8>> = (0..vocab_size as u32).map(|id| word(tokenizer, id)).collect();
        let info = TokRxInfo::new(vocab_size as u32, first_eos);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(eos);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, vocab_size })
    }

    /// A parser at the beginning of a text.
    pub(crate) fn compile(
        &self,
        grammar: &Grammar,
        param: &str,
    ) -> Result<Box<dyn Constraint>, ApiError> {
        let grammar = match grammar {
            Grammar::Schema(schema) => TopLevelGrammar::from_json_schema(compact(schema.clone())),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let parser = self.factory.create_parser(grammar);
        let refused = |error: &dyn std::fmt::Display| {
            let text: String = error.to_string().chars().take(300).collect();
            ApiError::field(param, format!("cannot be used as a grammar: {text}"))
        };
        let parser = parser.map_err(|error| refused(&error))?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar without any sentence shows here.
        let mask = matcher.compute_mask_or_eos().map_err(|error| refused(&error))?;
        if mask.is_zero() {
            return Err(ApiError::field(param, "no text fits this grammar"));
        }
        Ok(Box::new(Guided { matcher, vocab_size: self.vocab_size }))
    }
}

/// JSON without blanks between its parts, unless the schema says otherwise: small models would
/// write blanks without an end.
pub(crate) fn compact(mut schema: Value) -> Value {
    if let Value::Object(map) = &mut schema
        && !map.contains_key("x-guidance")
    {
        let style = serde_json::json!({
            "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?",
        });
        map.insert("x-guidance".to_owned(), style);
    }
    schema
}

/// The bytes of a token; special ones are marked, so that no text matches them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if id as usize >= tokenizer.vocab_size() {
        return Vec::new();
    }
    if tokenizer.is_special(id) {
        let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        word.extend(tokenizer.token(id).unwrap_or_default().into_bytes());
        return word;
    }
    tokenizer.token_bytes(id).unwrap_or_default()
}

/// One sequence's parser.
struct Guided {
    matcher: Matcher,
    vocab_size: usize,
}

fn failed(error: impl std::fmt::Display) -> InferError {
    InferError::Text(format!("the grammar's parser gave up: {error}").into())
}

impl Constraint for Guided {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), InferError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(failed)?;
        let known = self.vocab_size.min(logits.len());
        for (token, logit) in logits.iter_mut().enumerate() {
            if token >= known || !mask.is_allowed(token as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), InferError> {
        // The end-of-sequence token that follows a finished text is not part of it.
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(failed)
    }
}
