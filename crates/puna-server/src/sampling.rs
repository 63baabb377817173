//! The fields of OpenAI's requests that choose tokens, and those of vLLM and llama.cpp beside them.

use puna_infer::{GenerationConfig, SamplingParams};
use serde_json::{Map, Value, json};

use crate::api_error::ApiError;
use crate::fields::Fields;
use crate::model::Grammar;

/// Stop strings in a request, and bytes of each.
const MOST_STOPS: usize = 16;
const MOST_STOP_BYTES: usize = 512;
/// Alternatives that a token's log-probability can come with.
pub(crate) const MOST_LOGPROBS: usize = 20;
/// Continuations of one prompt.
pub(crate) const MOST_CHOICES: usize = 64;

/// Reads what chooses tokens. Where a field is absent, the checkpoint's own recommendation holds,
/// else OpenAI's default: temperature 1 and nothing else.
pub(crate) fn read(
    fields: &mut Fields,
    generation: &GenerationConfig,
) -> Result<SamplingParams, ApiError> {
    let seed = match fields.take::<i64>("seed")? {
        Some(seed) => seed as u64,
        None => fresh_seed(),
    };
    let base = defaults(generation, seed);
    let unit = |x: f64| x > 0.0 && x <= 1.0;
    let penalty = |x: f64| (-2.0..=2.0).contains(&x);
    Ok(SamplingParams {
        temperature: fields
            .number("temperature", |x| (0.0..=2.0).contains(&x), "0 to 2")?
            .unwrap_or(base.temperature),
        top_p: off_at(fields.number("top_p", unit, "above 0 and at most 1")?, 1.0)
            .or_else(base.top_p),
        top_k: top_k(fields, base.top_k)?,
        min_p: off_at(fields.number("min_p", |x| (0.0..=1.0).contains(&x), "0 to 1")?, 0.0)
            .or_else(base.min_p),
        typical_p: off_at(fields.number("typical_p", unit, "above 0 and at most 1")?, 1.0)
            .or_else(base.typical_p),
        repetition_penalty: fields
            .number("repetition_penalty", |x| x > 0.0 && x <= 10.0, "above 0 and at most 10")?
            .unwrap_or(base.repetition_penalty),
        presence_penalty: fields
            .number("presence_penalty", penalty, "-2 to 2")?
            .unwrap_or(base.presence_penalty),
        frequency_penalty: fields
            .number("frequency_penalty", penalty, "-2 to 2")?
            .unwrap_or(base.frequency_penalty),
        logit_bias: logit_bias(fields)?,
        ..base
    })
}

/// The checkpoint's recommendation, with OpenAI's temperature where it says none.
pub(crate) fn defaults(generation: &GenerationConfig, seed: u64) -> SamplingParams {
    let recommended = generation.sampling(seed);
    match generation.do_sample {
        Some(true) => recommended,
        _ => SamplingParams { temperature: 1.0, ..recommended },
    }
}

/// A seed nobody can know beforehand.
pub(crate) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Keyed afresh from the operating system for every value.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A setting that may have been given, or given as "off".
enum Given {
    Absent,
    Off,
    Value(f32),
}

impl Given {
    fn or_else(self, default: Option<f32>) -> Option<f32> {
        match self {
            Self::Absent => default,
            Self::Off => None,
            Self::Value(value) => Some(value),
        }
    }
}

fn off_at(value: Option<f32>, off: f32) -> Given {
    match value {
        None => Given::Absent,
        Some(value) if value == off => Given::Off,
        Some(value) => Given::Value(value),
    }
}

/// −1 and 0 are "off", as in vLLM and llama.cpp.
fn top_k(fields: &mut Fields, default: Option<usize>) -> Result<Option<usize>, ApiError> {
    match fields.take::<i64>("top_k")? {
        None => Ok(default),
        Some(-1 | 0) => Ok(None),
        Some(k) => usize::try_from(k)
            .map(Some)
            .map_err(|_| ApiError::field("top_k", "expected -1 or a whole number from 0 on")),
    }
}

/// Token ids as strings to −100 … 100; −100 forbids the token.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(map) = fields.take::<Map<String, Value>>("logit_bias")? else { return Ok(Vec::new()) };
    let mut biases = Vec::with_capacity(map.len());
    for (key, value) in map {
        let param = || format!("logit_bias.{}", key.chars().take(40).collect::<String>());
        let id = key.parse().map_err(|_| ApiError::field(param(), "the key is no token id"))?;
        let bias = value
            .as_f64()
            .filter(|bias| (-100.0..=100.0).contains(bias))
            .ok_or_else(|| ApiError::field(param(), "expected a number from -100 to 100"))?;
        biases.push((id, if bias == -100.0 { f32::NEG_INFINITY } else { bias as f32 }));
    }
    biases.sort_by_key(|&(id, _)| id);
    Ok(biases)
}

/// The strings that end the text.
pub(crate) fn stop(fields: &mut Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let stop = fields.strings(name, MOST_STOPS)?;
    match stop.iter().find(|stop| stop.len() > MOST_STOP_BYTES) {
        Some(_) => Err(ApiError::field(name, format!("at most {MOST_STOP_BYTES} bytes each"))),
        None => Ok(stop),
    }
}

/// What the text has to be, by whichever name: OpenAI's `response_format`, vLLM's `guided_*` and
/// `structured_outputs`, llama.cpp's `grammar` and `json_schema`.
pub(crate) fn grammar(fields: &mut Fields) -> Result<Option<(Grammar, &'static str)>, ApiError> {
    let mut found: Vec<(Grammar, &'static str)> = Vec::new();
    if let Some(grammar) = response_format(fields)? {
        found.push((grammar, "response_format"));
    }
    for name in ["json_schema", "guided_json"] {
        if let Some(schema) = fields.value(name) {
            found.push((Grammar::Schema(schema_value(schema, name)?), name));
        }
    }
    for name in ["regex", "guided_regex"] {
        if let Some(regex) = fields.take(name)? {
            found.push((Grammar::Regex(regex), name));
        }
    }
    for name in ["grammar", "guided_grammar"] {
        if let Some(text) = fields.take::<String>(name)? {
            found.push((crate::gbnf::grammar(text, name)?, name));
        }
    }
    if let Some(choices) = fields.take::<Vec<String>>("guided_choice")? {
        found.push((one_of(choices)?, "guided_choice"));
    }
    match found.as_slice() {
        [_, (_, second), ..] => {
            Err(ApiError::field(*second, "another field already says what the text has to be"))
        }
        _ => Ok(found.pop()),
    }
}

/// A schema, as an object or as the text of one.
fn schema_value(value: Value, param: &str) -> Result<Value, ApiError> {
    let value = match value {
        Value::String(text) => Value::Object(crate::json::object(text.as_bytes())?),
        other => other,
    };
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(value),
        _ => Err(ApiError::field(param, "expected a JSON schema")),
    }
}

fn one_of(choices: Vec<String>) -> Result<Grammar, ApiError> {
    if choices.is_empty() || choices.iter().any(String::is_empty) {
        return Err(ApiError::field("guided_choice", "expected texts, none of them empty"));
    }
    let literals: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
    Ok(Grammar::Lark(format!("start: {}\n", literals.join(" | "))))
}

fn response_format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let name = "response_format";
    let Some(format) = fields.value(name) else { return Ok(None) };
    let mut format = Fields::of(format, name)?;
    let read = |format: &mut Fields| match format.need::<String>("type")?.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(any_object())),
        "json_schema" => {
            let mut inner = Fields::of(format.need("json_schema")?, "json_schema")?;
            named_schema(&mut inner)
                .and_then(|grammar| inner.finish().map(|()| Some(grammar)))
                .map_err(|error| error.within("json_schema"))
        }
        _ => Err(ApiError::field("type", "expected text, json_object or json_schema")),
    };
    let grammar = read(&mut format).map_err(|error| error.within(name))?;
    format.finish().map_err(|error| error.within(name))?;
    Ok(grammar)
}

/// Any JSON object.
pub(crate) fn any_object() -> Grammar {
    Grammar::Schema(json!({ "type": "object" }))
}

/// OpenAI's `{name, schema, strict, description}`.
pub(crate) fn named_schema(fields: &mut Fields) -> Result<Grammar, ApiError> {
    let _: String = fields.need("name")?;
    let _: Option<String> = fields.take("description")?;
    // Schemas are always followed strictly.
    let _: Option<bool> = fields.take("strict")?;
    let schema = fields.value("schema").ok_or_else(|| ApiError::missing("schema"))?;
    Ok(Grammar::Schema(schema_value(schema, "schema")?))
}
