//! Values as Python writes them: `str()` for output, `json.dumps` for `tojson`.

use minijinja::value::{Value as Dynamic, ValueKind};
use minijinja::{Error, ErrorKind, Output};
use serde_json::{Map, Number, Value};

/// Deepest nesting that is written; JSON parsers stop there too.
const MOST_DEPTH: usize = 128;

/// `json.dumps` options.
#[derive(Debug, Clone, Default)]
pub(crate) struct JsonStyle {
    /// Spaces per level; on one line without.
    pub(crate) indent: Option<usize>,
    pub(crate) ensure_ascii: bool,
    pub(crate) sort_keys: bool,
    /// Between items, and after keys.
    pub(crate) separators: Option<(String, String)>,
}

/// A JSON value as the engine's.
pub(crate) fn from_json(value: &Value) -> Dynamic {
    Dynamic::from(minijinja::value::Serde(value))
}

/// The engine's value as JSON.
pub(crate) fn to_json(value: &Dynamic) -> Result<Value, Error> {
    to_json_at(value, 0)
}

fn to_json_at(value: &Dynamic, depth: usize) -> Result<Value, Error> {
    if depth > MOST_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply"));
    }
    let unsupported = || {
        let detail = format!("{} is not JSON serializable", value.kind());
        Error::new(ErrorKind::BadSerialization, detail)
    };
    Ok(match value.kind() {
        ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match i64::try_from(value.clone()) {
            Ok(number) => Value::Number(number.into()),
            Err(_) => Value::Number(u64::try_from(value.clone())?.into()),
        },
        ValueKind::Number => {
            let number = f64::try_from(value.clone())?;
            Number::from_f64(number).map_or(Value::Null, Value::Number)
        }
        ValueKind::String => Value::String(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()?.checked() {
                items.push(to_json_at(&item?, depth + 1)?);
            }
            Value::Array(items)
        }
        ValueKind::Map => {
            let mut map = Map::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let item = to_json_at(&value.get_item(&key)?, depth + 1)?;
                let name = match key.as_str() {
                    Some(name) => name.to_owned(),
                    None => dumps(&to_json_at(&key, depth + 1)?, &JsonStyle::default()),
                };
                map.insert(name, item);
            }
            Value::Object(map)
        }
        _ => return Err(unsupported()),
    })
}

/// Writes a value as Jinja2 prints it: Python's `str`.
pub(crate) fn print(out: &mut Output<'_>, value: &Dynamic) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Undefined => return Ok(()),
        ValueKind::String => return write(out, value.as_str().unwrap_or_default()),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => repr(&to_json(value)?),
        ValueKind::Seq | ValueKind::Map => repr(&to_json(value)?),
        _ => value.to_string(),
    };
    write(out, &text)
}

fn write(out: &mut Output<'_>, text: &str) -> Result<(), Error> {
    out.write_str(text).map_err(|_| Error::from(ErrorKind::WriteFailure))
}

/// Python's `repr` of a JSON value.
fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number_text(number),
        Value::String(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    c if c == quote || c == '\\' => out.extend(['\\', c]),
                    c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                    c => out.push(c),
                }
            }
            out.push(quote);
            out
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let item = |(key, value): (&String, &Value)| {
                format!("{}: {}", repr(&Value::String(key.clone())), repr(value))
            };
            format!("{{{}}}", map.iter().map(item).collect::<Vec<_>>().join(", "))
        }
    }
}

/// `json.dumps`.
pub(crate) fn dumps(value: &Value, style: &JsonStyle) -> String {
    let mut out = String::new();
    dump(value, style, 0, &mut out);
    out
}

fn dump(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::String(text) => dump_string(text, style, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(index, style, depth + 1, out);
                dump(item, style, depth + 1, out);
            }
            close(items.is_empty(), style, depth, out);
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            if style.sort_keys {
                entries.sort_by_key(|(key, _)| *key);
            }
            out.push('{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                separate(index, style, depth + 1, out);
                dump_string(key, style, out);
                out.push_str(style.separators.as_ref().map_or(": ", |(_, after_key)| after_key));
                dump(item, style, depth + 1, out);
            }
            close(map.is_empty(), style, depth, out);
            out.push('}');
        }
    }
}

/// What stands before an item.
fn separate(index: usize, style: &JsonStyle, depth: usize, out: &mut String) {
    if index > 0 {
        let plain = if style.indent.is_some() { "," } else { ", " };
        out.push_str(style.separators.as_ref().map_or(plain, |(item, _)| item));
    }
    if let Some(width) = style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width * depth));
    }
}

/// What stands before a closing bracket.
fn close(empty: bool, style: &JsonStyle, depth: usize, out: &mut String) {
    if let Some(width) = style.indent.filter(|_| !empty) {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width * depth));
    }
}

fn dump_string(text: &str, style: &JsonStyle, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{C}' => out.push_str("\\f"),
            c if c < ' ' || (style.ensure_ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as Python's `repr` writes it: `1e+16`, `1e-05`, `0.0001`, `2.0`.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => float_text(value),
        _ => number.to_string(),
    }
}

fn float_text(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return if value.fract() == 0.0 { format!("{value:.1}") } else { value.to_string() };
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let cases = [(1e16, "1e+16"), (1e-5, "1e-05"), (0.0001, "0.0001"), (2.0, "2.0")];
        for (value, text) in cases {
            assert_eq!(float_text(value), text);
        }
        assert_eq!(float_text(-1.5e-7), "-1.5e-07");
    }

    #[test]
    fn json_is_spaced_and_indented_as_by_json_dumps() {
        let value = json!({ "b": [1, "é\u{1}"], "a": {} });
        assert_eq!(dumps(&value, &JsonStyle::default()), "{\"b\": [1, \"é\\u0001\"], \"a\": {}}");
        let style =
            JsonStyle { indent: Some(2), ensure_ascii: true, sort_keys: true, separators: None };
        let expected = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    \"\\u00e9\\u0001\"\n  ]\n}";
        assert_eq!(dumps(&value, &style), expected);
    }

    #[test]
    fn containers_print_as_python_repr() {
        assert_eq!(repr(&json!({ "a": [true, null, "it's"] })), "{'a': [True, None, \"it's\"]}");
    }
}
