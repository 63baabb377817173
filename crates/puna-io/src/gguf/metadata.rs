//! The metadata of a GGUF: an ordered map with typed getters.

use std::collections::HashMap;

use super::value::{Array, Value};

/// Keys and values in the order of the file.
///
/// A getter gives `None` both for an absent key and for one of another kind; [`Metadata::get`]
/// tells the two apart.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    /// Adds a key at the end; `false`, and no change, if it is there already.
    pub(super) fn insert(&mut self, key: String, value: Value) -> bool {
        if self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Keys and values in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&i| &self.entries[i].1)
    }

    /// An integer of any type that is not negative.
    pub fn get_u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// An integer of any type.
    pub fn get_i64(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_i64()
    }

    /// A floating-point number of any type, or an integer as one.
    pub fn get_f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// A boolean.
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// An array of any type.
    pub fn get_array(&self, key: &str) -> Option<&Array> {
        match self.get(key)? {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn get_strings(&self, key: &str) -> Option<&[String]> {
        match self.get_array(key)? {
            Array::Strings(v) => Some(v),
            _ => None,
        }
    }

    /// An array of `f32`.
    pub fn get_f32s(&self, key: &str) -> Option<&[f32]> {
        match self.get_array(key)? {
            Array::F32(v) => Some(v),
            _ => None,
        }
    }

    /// An array of `i32`.
    pub fn get_i32s(&self, key: &str) -> Option<&[i32]> {
        match self.get_array(key)? {
            Array::I32(v) => Some(v),
            _ => None,
        }
    }

    /// An array of integers of any type, none negative.
    pub fn get_u64s(&self, key: &str) -> Option<Vec<u64>> {
        self.get_array(key)?.map_all(Value::as_u64)
    }

    /// An array of integers of any type.
    pub fn get_i64s(&self, key: &str) -> Option<Vec<i64>> {
        self.get_array(key)?.map_all(Value::as_i64)
    }

    /// An array of numbers of any type.
    pub fn get_f64s(&self, key: &str) -> Option<Vec<f64>> {
        self.get_array(key)?.map_all(Value::as_f64)
    }

    /// An array of booleans.
    pub fn get_bools(&self, key: &str) -> Option<&[bool]> {
        match self.get_array(key)? {
            Array::Bool(v) => Some(v),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut meta = Metadata::default();
        for (key, value) in [
            ("small", Value::U8(7)),
            ("negative", Value::I64(-1)),
            ("huge", Value::U64(u64::MAX)),
            ("half", Value::F32(0.5)),
            ("yes", Value::Bool(true)),
            ("counts", Value::u32s(vec![1, 2])),
            ("words", Value::strings(vec!["a".into()])),
        ] {
            assert!(meta.insert(key.into(), value));
        }
        meta
    }

    #[test]
    fn integers_are_read_from_any_type_without_wrapping() {
        let meta = sample();
        assert_eq!(meta.get_u64("small"), Some(7));
        assert_eq!((meta.get_u64("negative"), meta.get_i64("negative")), (None, Some(-1)));
        assert_eq!((meta.get_u64("huge"), meta.get_i64("huge")), (Some(u64::MAX), None));
        assert_eq!(meta.get_u64s("counts"), Some(vec![1, 2]));
        assert_eq!(meta.get_f64s("counts"), Some(vec![1.0, 2.0]));
        assert_eq!((meta.get_f64("half"), meta.get_f64("small")), (Some(0.5), Some(7.0)));
    }

    #[test]
    fn a_value_of_another_kind_is_not_converted() {
        let meta = sample();
        assert_eq!(meta.get_u64("yes"), None);
        assert_eq!(meta.get_bool("small"), None);
        assert_eq!(meta.get_str("words"), None);
        assert_eq!(meta.get_u64s("words"), None);
        assert_eq!(meta.get_u64("absent"), None);
    }

    #[test]
    fn keys_keep_their_order_and_occur_once() {
        let mut meta = sample();
        assert!(!meta.insert("small".into(), Value::U8(8)));
        assert_eq!(meta.get_u64("small"), Some(7));
        assert_eq!(meta.keys().take(3).collect::<Vec<_>>(), ["small", "negative", "huge"]);
    }
}
