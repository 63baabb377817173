//! A JSON object that remembers which of its keys were read.
//!
//! serde's derive with `deny_unknown_fields` would need one struct per architecture and could
//! neither tell a missing key from a null one (`sliding_window: null` is not its default) nor
//! accept the keys that are known to change nothing. So: read by name, then [`Object::finish`]
//! refuses whatever nobody asked for.

use crate::error::{ConfigError, Result};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Longest value quoted in an error, in characters.
const QUOTED_CHARS: usize = 80;

pub(crate) struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
    read: RefCell<BTreeSet<&'static str>>,
}

/// What stands at a key.
pub(crate) enum Slot<T> {
    Missing,
    Null,
    Value(T),
}

impl<T> Slot<T> {
    /// A missing key takes the default, a null one is `None`.
    pub(crate) fn or(self, default: Option<T>) -> Option<T> {
        match self {
            Self::Missing => default,
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }

    /// `None` if missing or null.
    pub(crate) fn value(self) -> Option<T> {
        self.or(None)
    }
}

/// A key that changes nothing, whatever (or only if) its value.
pub(crate) enum Harmless {
    /// Keys that never matter to the arithmetic.
    Any(&'static [&'static str]),
    /// Keys that matter unless they are null, false, zero, one of `""`, `[]`, `{}`.
    IfOff(&'static [&'static str]),
    /// Keys that matter unless they are null, true or one.
    IfOn(&'static [&'static str]),
}

impl Harmless {
    fn covers(&self, key: &str, value: &Value) -> bool {
        match self {
            Self::Any(keys) => keys.contains(&key),
            Self::IfOff(keys) => keys.contains(&key) && is_off(value),
            Self::IfOn(keys) => keys.contains(&key) && is_on(value),
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn is_on(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() == Some(1.0),
        _ => false,
    }
}

/// The value as JSON, cut to a quotable length.
pub(crate) fn quote(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl<'a> Object<'a> {
    pub(crate) fn new(path: &str, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { path: path.to_owned(), map, read: RefCell::default() }),
            other => Err(ConfigError::WrongType {
                key: if path.is_empty() { "the file".to_owned() } else { path.to_owned() },
                expected: "an object",
                got: quote(other),
            }),
        }
    }

    /// The key with the path to this object.
    pub(crate) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The same object, nothing read yet.
    pub(crate) fn reread(&self) -> Self {
        Self { path: self.path.clone(), map: self.map, read: RefCell::default() }
    }

    pub(crate) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    fn slot<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Slot<T>> {
        self.read.borrow_mut().insert(key);
        match self.map.get(key) {
            None => Ok(Slot::Missing),
            Some(Value::Null) => Ok(Slot::Null),
            Some(value) => convert(value).map(Slot::Value).ok_or_else(|| ConfigError::WrongType {
                key: self.key(key),
                expected,
                got: quote(value),
            }),
        }
    }

    pub(crate) fn usize(&self, key: &'static str) -> Result<Slot<usize>> {
        self.slot(key, "a whole number not below 0", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    pub(crate) fn i64(&self, key: &'static str) -> Result<Slot<i64>> {
        self.slot(key, "a whole number", Value::as_i64)
    }

    pub(crate) fn f64(&self, key: &'static str) -> Result<Slot<f64>> {
        self.slot(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub(crate) fn bool(&self, key: &'static str) -> Result<Slot<bool>> {
        self.slot(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&self, key: &'static str) -> Result<Slot<&'a str>> {
        self.slot(key, "a string", Value::as_str)
    }

    pub(crate) fn value(&self, key: &'static str) -> Result<Slot<&'a Value>> {
        self.slot(key, "a value", Some)
    }

    pub(crate) fn f64s(&self, key: &'static str) -> Result<Slot<Vec<f64>>> {
        self.slot(key, "a list of numbers", |v| {
            v.as_array()?.iter().map(|x| x.as_f64().filter(|x| x.is_finite())).collect()
        })
    }

    pub(crate) fn usizes(&self, key: &'static str) -> Result<Slot<Vec<usize>>> {
        self.slot(key, "a list of whole numbers", |v| {
            v.as_array()?.iter().map(|x| x.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
        })
    }

    pub(crate) fn strs(&self, key: &'static str) -> Result<Slot<Vec<&'a str>>> {
        self.slot(key, "a list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    pub(crate) fn object(&self, key: &'static str) -> Result<Option<Object<'a>>> {
        match self.slot(key, "an object", |v| v.is_object().then_some(v))? {
            Slot::Value(value) => Object::new(&self.key(key), value).map(Some),
            _ => Ok(None),
        }
    }

    /// A required whole number.
    pub(crate) fn required_usize(&self, key: &'static str) -> Result<usize> {
        self.usize(key)?.value().ok_or_else(|| ConfigError::MissingKey { key: self.key(key) })
    }

    /// A required number.
    pub(crate) fn required_f64(&self, key: &'static str) -> Result<f64> {
        self.f64(key)?.value().ok_or_else(|| ConfigError::MissingKey { key: self.key(key) })
    }

    /// Refuses the first key that was neither read nor is known to be harmless.
    pub(crate) fn finish(&self, harmless: &[Harmless]) -> Result<()> {
        let read = self.read.borrow();
        for (key, value) in self.map {
            if !read.contains(key.as_str()) && !harmless.iter().any(|h| h.covers(key, value)) {
                let got = quote(value);
                return Err(ConfigError::UnknownKey { key: self.key(key), got });
            }
        }
        Ok(())
    }
}
