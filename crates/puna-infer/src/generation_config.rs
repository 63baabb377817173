//! `generation_config.json`: what a checkpoint's authors recommend.
//!
//! Values keep transformers' meaning, with two of its hidden defaults left out on purpose: it fills
//! in `top_k = 50` when sampling and `max_length = 20`; here an absent key means "not asked for".
//! Keys that say nothing about choosing tokens are ignored silently ([`HARMLESS`]); all others that
//! are not understood are returned, so that the caller can say so.

use crate::beam::EarlyStopping;
use crate::error::InferError;
use crate::sampling::SamplingParams;
use serde_json::{Map, Value};

/// Keys about bookkeeping and output format, which change no token here.
pub const HARMLESS: &[&str] = &[
    "_from_model_config",
    "_commit_hash",
    "cache_implementation",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
];

/// The understood part of a `generation_config.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Sample, or take the best; transformers' default is the latter.
    pub do_sample: Option<bool>,
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingParams::top_k`]; 0 there is "off" here.
    pub top_k: Option<usize>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingParams::typical_p`].
    pub typical_p: Option<f32>,
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingParams::no_repeat_ngram_size`]; 0 there is "off" here.
    pub no_repeat_ngram_size: Option<usize>,
    /// Ids that end a sequence.
    pub eos: Vec<u32>,
    /// First token of a sequence.
    pub bos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Tokens of prompt and answer together.
    pub max_length: Option<usize>,
    /// Tokens of the answer.
    pub max_new_tokens: Option<usize>,
    /// Strings that end a sequence.
    pub stop_strings: Vec<String>,
    /// Beams of the beam search; 1 is none.
    pub num_beams: Option<usize>,
    /// Answers per prompt.
    pub num_return_sequences: Option<usize>,
    /// Exponent of the length in a beam's score.
    pub length_penalty: Option<f32>,
    /// When the beam search may end.
    pub early_stopping: Option<EarlyStopping>,
}

impl GenerationConfig {
    /// Reads the JSON text. Also returns the keys that were neither understood nor harmless, sorted.
    ///
    /// # Errors
    /// [`InferError::GenerationConfigSyntax`] for what is not a JSON object,
    /// [`InferError::GenerationConfigValue`] names a key whose value is of the wrong kind.
    pub fn from_json(json: &str) -> Result<(Self, Vec<String>), InferError> {
        let map: Map<String, Value> =
            serde_json::from_str(json).map_err(InferError::GenerationConfigSyntax)?;
        let mut config = Self::default();
        let mut ignored = Vec::new();
        for (key, value) in &map {
            // An explicit null is transformers' way to write "absent".
            if value.is_null() || HARMLESS.contains(&key.as_str()) {
                continue;
            }
            if !config.set(key, value)? {
                ignored.push(key.clone());
            }
        }
        ignored.sort_unstable();
        Ok((config, ignored))
    }

    /// Takes one key; `false` if it is unknown.
    fn set(&mut self, key: &str, value: &Value) -> Result<bool, InferError> {
        match key {
            "do_sample" => self.do_sample = Some(boolean(key, value)?),
            "temperature" => self.temperature = Some(number(key, value)?),
            "top_k" => self.top_k = Some(count(key, value)?).filter(|&k| k > 0),
            "top_p" => self.top_p = Some(number(key, value)?),
            "min_p" => self.min_p = Some(number(key, value)?),
            "typical_p" => self.typical_p = Some(number(key, value)?),
            "repetition_penalty" => self.repetition_penalty = Some(number(key, value)?),
            "no_repeat_ngram_size" => {
                self.no_repeat_ngram_size = Some(count(key, value)?).filter(|&n| n > 0);
            }
            "eos_token_id" => self.eos = ids(key, value)?,
            "bos_token_id" => self.bos = Some(id(key, value)?),
            "pad_token_id" => self.pad = optional_id(key, value)?,
            "max_length" => self.max_length = Some(count(key, value)?),
            "max_new_tokens" => self.max_new_tokens = Some(count(key, value)?),
            "stop_strings" => self.stop_strings = strings(key, value)?,
            "num_beams" => self.num_beams = Some(count(key, value)?),
            "num_return_sequences" => self.num_return_sequences = Some(count(key, value)?),
            "length_penalty" => self.length_penalty = Some(number(key, value)?),
            "early_stopping" => self.early_stopping = Some(early_stopping(key, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The sampling options it recommends: greedy unless `do_sample` is true, as in transformers.
    pub fn sampling(&self, seed: u64) -> SamplingParams {
        let shared = SamplingParams {
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            seed,
            ..Default::default()
        };
        if self.do_sample != Some(true) {
            return shared;
        }
        // 1 is "off" for the masses, and 0 for min-p.
        SamplingParams {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k,
            top_p: self.top_p.filter(|&p| p != 1.0),
            min_p: self.min_p.filter(|&p| p != 0.0),
            typical_p: self.typical_p.filter(|&p| p != 1.0),
            ..shared
        }
    }
}

fn wrong(key: &str, value: &Value, expected: &'static str) -> InferError {
    let mut got: String = value.to_string().chars().take(60).collect();
    if got.len() < value.to_string().len() {
        got.push('…');
    }
    InferError::GenerationConfigValue { key: key.to_string(), got, expected }
}

fn boolean(key: &str, value: &Value) -> Result<bool, InferError> {
    value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
}

fn number(key: &str, value: &Value) -> Result<f32, InferError> {
    value.as_f64().map(|x| x as f32).ok_or_else(|| wrong(key, value, "a number"))
}

fn count(key: &str, value: &Value) -> Result<usize, InferError> {
    let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
    count.ok_or_else(|| wrong(key, value, "a whole number of at least 0"))
}

fn id(key: &str, value: &Value) -> Result<u32, InferError> {
    let id = value.as_u64().and_then(|n| u32::try_from(n).ok());
    id.ok_or_else(|| wrong(key, value, "a token id"))
}

/// LLaMA 1 checkpoints write −1 for "no padding token".
fn optional_id(key: &str, value: &Value) -> Result<Option<u32>, InferError> {
    if value.as_i64() == Some(-1) { Ok(None) } else { id(key, value).map(Some) }
}

fn ids(key: &str, value: &Value) -> Result<Vec<u32>, InferError> {
    match value {
        Value::Array(items) => items.iter().map(|item| id(key, item)).collect(),
        single => Ok(vec![id(key, single)?]),
    }
}

fn strings(key: &str, value: &Value) -> Result<Vec<String>, InferError> {
    let string = |item: &Value| {
        item.as_str().map(str::to_string).ok_or_else(|| wrong(key, item, "a string or strings"))
    };
    match value {
        Value::Array(items) => items.iter().map(string).collect(),
        single => Ok(vec![string(single)?]),
    }
}

fn early_stopping(key: &str, value: &Value) -> Result<EarlyStopping, InferError> {
    match value {
        Value::Bool(true) => Ok(EarlyStopping::AllBeams),
        Value::Bool(false) => Ok(EarlyStopping::Heuristic),
        Value::String(s) if s == "never" => Ok(EarlyStopping::Never),
        other => Err(wrong(key, other, "true, false or \"never\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::GenerationConfig;
    use crate::beam::EarlyStopping;
    use crate::error::InferError;

    #[test]
    fn llama_3_1_keys_are_understood() {
        let json = r#"{"bos_token_id": 128000, "do_sample": true, "top_p": 0.9,
            "eos_token_id": [128001, 128008, 128009], "temperature": 0.6,
            "transformers_version": "4.42.3"}"#;
        let (config, ignored) = GenerationConfig::from_json(json).unwrap();
        assert!(ignored.is_empty());
        assert_eq!(config.eos, [128001, 128008, 128009]);
        let sampling = config.sampling(3);
        assert_eq!((sampling.temperature, sampling.top_p, sampling.seed), (0.6, Some(0.9), 3));
    }

    #[test]
    fn without_do_sample_the_best_token_is_taken() {
        let (config, _) = GenerationConfig::from_json(r#"{"temperature": 0.6}"#).unwrap();
        assert_eq!(config.sampling(0).temperature, 0.0);
    }

    #[test]
    fn a_single_eos_null_and_off_values_are_read() {
        let json = r#"{"eos_token_id": 2, "pad_token_id": -1, "top_k": 0, "top_p": 1.0,
            "do_sample": true, "min_p": null, "early_stopping": "never"}"#;
        let (config, _) = GenerationConfig::from_json(json).unwrap();
        assert_eq!((config.eos.as_slice(), config.pad), ([2].as_slice(), None));
        assert_eq!(config.early_stopping, Some(EarlyStopping::Never));
        let sampling = config.sampling(0);
        assert_eq!((sampling.top_k, sampling.top_p, sampling.temperature), (None, None, 1.0));
    }

    #[test]
    fn unknown_keys_are_returned() {
        let json = r#"{"penalty_alpha": 0.6, "dola_layers": "low", "use_cache": true}"#;
        let (_, ignored) = GenerationConfig::from_json(json).unwrap();
        assert_eq!(ignored, ["dola_layers", "penalty_alpha"]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_an_error_that_names_the_key() {
        for (json, name) in [
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"eos_token_id": [1, -2]}"#, "eos_token_id"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"stop_strings": [3]}"#, "stop_strings"),
        ] {
            match GenerationConfig::from_json(json) {
                Err(InferError::GenerationConfigValue { key, .. }) => assert_eq!(key, name),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            GenerationConfig::from_json("[]"),
            Err(InferError::GenerationConfigSyntax(_))
        ));
    }
}
