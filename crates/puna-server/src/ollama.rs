//! Ollama's endpoints: many front ends speak nothing else.
//!
//! Streams are lines of JSON and the default; durations are nanoseconds. Options keep Ollama's names
//! and defaults (github.com/ollama/ollama, docs/api.md and docs/modelfile.mdx); those about loading
//! (`num_gpu`, `mmap`, …) are refused, because the server decides them. Models are pulled, created
//! and deleted with the command line, not over HTTP.

mod answer;
pub(crate) mod generate;
pub(crate) mod info;
mod options;

use std::time::Duration;

use serde_json::Value;

use crate::api_error::ApiError;
use crate::fields::Fields;
use crate::model::{Grammar, KeepAlive};
use crate::sampling;

/// The model's name without the tag that Ollama adds where none is given.
fn model_name(fields: &mut Fields, first: &str) -> Result<String, ApiError> {
    let name: Option<String> = fields.take("model")?;
    Ok(name.map_or_else(|| first.to_owned(), |name| untagged(&name).to_owned()))
}

fn untagged(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// `keep_alive`: seconds, or a time such as `5m` or `1h30m`; negative is forever.
fn keep_alive(fields: &mut Fields) -> Result<Option<KeepAlive>, ApiError> {
    let expected = || ApiError::field("keep_alive", "expected seconds or a time such as 5m");
    let seconds = match fields.value("keep_alive") {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().ok_or_else(expected)?,
        Some(Value::String(text)) => seconds(&text).ok_or_else(expected)?,
        Some(_) => return Err(expected()),
    };
    if seconds < 0.0 {
        return Ok(Some(KeepAlive::Forever));
    }
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| expected())?;
    Ok(Some(KeepAlive::For(time)))
}

/// Go's notation of durations, without its smaller units.
fn seconds(text: &str) -> Option<f64> {
    let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if let Ok(plain) = text.parse::<f64>() {
        return Some(sign * plain).filter(|seconds| seconds.is_finite());
    }
    let (mut total, mut number) = (0.0, String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            rest = &rest[1..];
            continue;
        }
        let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number.parse::<f64>().ok()? * factor;
        number.clear();
        rest = &rest[unit.len()..];
    }
    (number.is_empty() && !text.is_empty()).then_some(sign * total)
}

/// `format`: `json`, or a schema.
fn format(fields: &mut Fields) -> Result<Option<(Grammar, &'static str)>, ApiError> {
    let grammar = match fields.value("format") {
        None => return Ok(None),
        Some(Value::String(word)) if word.is_empty() => return Ok(None),
        Some(Value::String(word)) if word == "json" => sampling::any_object(),
        Some(schema @ Value::Object(_)) => Grammar::Schema(schema),
        Some(_) => return Err(ApiError::field("format", "expected json or a JSON schema")),
    };
    Ok(Some((grammar, "format")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(super::seconds("5m"), Some(300.0));
        assert_eq!(super::seconds("1h30m"), Some(5400.0));
        assert_eq!(super::seconds("-1"), Some(-1.0));
        assert_eq!(super::seconds("0"), Some(0.0));
        for text in ["", "m", "5x", "five", "5é"] {
            assert_eq!(super::seconds(text), None, "{text}");
        }
    }
}
