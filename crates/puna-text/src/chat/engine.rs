//! The Jinja engine as chat templates expect it.
//!
//! minijinja with Python's string methods, and with the functions and the whitespace rules of
//! transformers' `_compile_jinja_template`. Work and memory of a render are bounded by its fuel
//! (about one unit per instruction or 64 bytes), which grows with the conversation: published
//! templates take 25 to 75 units for a message. Recursion of macros has the engine's own limit;
//! values nested in each other have none there and are dropped recursively, so that a render runs
//! on a thread whose stack is deep enough for all that its fuel can nest (8 units a level, up to
//! 400 bytes of stack).

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value as Dynamic};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value;

use super::clock::CivilTime;
use super::{GenerationPrompt, RenderInput, python};
use crate::TextError;

/// Fuel of a render: for the template itself, for each message, and at most.
const FUEL_BASE: usize = 20_000;
const FUEL_PER_MESSAGE: usize = 1_000;
const FUEL_LIMIT: usize = 2_500_000;
/// Stack of a render's thread; reserved, not used.
const STACK_BYTES: usize = 256 << 20;
/// Largest template that is compiled; the longest known has 20 kB.
const MOST_SOURCE_BYTES: usize = 1 << 20;

/// transformers' `{% generation %}` blocks mark the assistant's text for training masks.
static GENERATION_TAG: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})").ok());

/// What `raise_exception` was called with.
#[derive(Debug)]
struct RaisedMessage(String);

impl fmt::Display for RaisedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RaisedMessage {}

/// Compiles a template to see whether it is sound.
pub(super) fn check(source: &str) -> Result<(), TextError> {
    if source.len() > MOST_SOURCE_BYTES {
        let expected = "at most 1 MiB of source";
        return Err(TextError::invalid(
            "chat template",
            expected,
            format!("{} bytes", source.len()),
        ));
    }
    let environment = environment(None, FUEL_BASE).map_err(failure)?;
    environment.template_from_str(&plain_blocks(source)).map_err(failure)?;
    Ok(())
}

/// Renders a conversation.
pub(super) fn render(source: &str, input: &RenderInput<'_>) -> Result<String, TextError> {
    let failed = |source: std::io::Error| TextError::Template {
        detail: "no thread to render on".into(),
        source: Box::new(source),
    };
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, || render_here(source, input)).map_err(failed)?;
        thread.join().unwrap_or_else(|_| Err(failed(std::io::Error::other("the engine panicked"))))
    })
}

/// What a conversation may cost.
fn fuel(input: &RenderInput<'_>) -> usize {
    let messages = input.messages.as_array().map_or(0, Vec::len);
    let bytes = size(input.messages) + input.tools.map_or(0, size);
    FUEL_LIMIT.min(FUEL_BASE + FUEL_PER_MESSAGE * messages + bytes)
}

/// Bytes of a value's texts.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 1,
    }
}

fn render_here(source: &str, input: &RenderInput<'_>) -> Result<String, TextError> {
    let source = plain_blocks(source);
    let environment = environment(input.now, fuel(input)).map_err(failure)?;
    let template = environment.template_from_str(&source).map_err(failure)?;
    let given = |value: Option<&Value>| value.map(python::from_json);
    let mut variables: Vec<(String, Dynamic)> = vec![
        ("messages".into(), python::from_json(input.messages)),
        ("tools".into(), given(input.tools).unwrap_or_else(|| Dynamic::from(()))),
        ("documents".into(), Dynamic::from(())),
        (
            "add_generation_prompt".into(),
            Dynamic::from(input.add_generation_prompt == GenerationPrompt::Add),
        ),
        ("bos_token".into(), Dynamic::from(input.bos_token)),
        ("eos_token".into(), Dynamic::from(input.eos_token)),
    ];
    variables.extend(input.variables.iter().map(|(k, v)| (k.clone(), python::from_json(v))));
    let extra = Dynamic::from_pairs(variables);
    template.render(context! { ..extra }).map_err(failure)
}

/// `{% generation %}` blocks as blocks that the engine knows.
fn plain_blocks(source: &str) -> Cow<'_, str> {
    let Some(tag) = GENERATION_TAG.as_ref().filter(|_| source.contains("generation")) else {
        return Cow::Borrowed(source);
    };
    tag.replace_all(source, |found: &fancy_regex::Captures<'_>| {
        let group = |index| found.get(index).map_or("", |m| m.as_str());
        let name = if group(2).is_empty() { "if true" } else { "endif" };
        format!("{}{name}{}", group(1), group(3))
    })
}

fn environment(now: Option<CivilTime>, fuel: usize) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    let syntax = syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false);
    environment.set_syntax(syntax.build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(|out, _, value| python::print(out, value));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_debug(false);
    environment.set_fuel(Some(fuel as u64));
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Dynamic, Error> {
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        Err(error.with_source(RaisedMessage(message)))
    });
    if let Some(now) = now {
        environment.add_function("strftime_now", move |format: &str| now.format(format));
    }
    Ok(environment)
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Dynamic, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let style = python::JsonStyle {
        indent: indent.map(|width| width.min(16)),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: match separators.as_deref() {
            None => None,
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => {
                return Err(Error::new(ErrorKind::InvalidOperation, "separators are two strings"));
            }
        },
    };
    kwargs.assert_all_used()?;
    Ok(python::dumps(&python::to_json(value)?, &style))
}

/// The engine's error as ours.
fn failure(error: Error) -> TextError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = source {
        if let Some(raised) = current.downcast_ref::<RaisedMessage>() {
            return TextError::Raised { message: raised.0.clone() };
        }
        source = current.source();
    }
    TextError::Template { detail: error.to_string(), source: Box::new(error) }
}
