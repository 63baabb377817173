//! Reading the fields of a request so that none is ignored.
//!
//! A request is a map whose entries are taken one by one; what is left at the end is a field that
//! means nothing here, and an error. Taken over serde's derive because requests share groups of
//! fields (`flatten` and `deny_unknown_fields` exclude each other) and because every error has to
//! name its field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api_error::ApiError;

/// Fields not taken yet.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(map: Map<String, Value>) -> Self {
        Self { map }
    }

    /// Of a value that has to be an object.
    pub(crate) fn of(value: Value, param: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map }),
            _ => Err(ApiError::field(param, "expected an object")),
        }
    }

    /// A field as it stands; `null` counts as absent, as in OpenAI's API.
    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// A field, typed.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        serde_path_to_error::deserialize(value).map(Some).map_err(|error| {
            let path = error.path().to_string();
            let param = match path.as_str() {
                "." => name.to_owned(),
                inner if inner.starts_with('[') => format!("{name}{inner}"),
                inner => format!("{name}.{inner}"),
            };
            ApiError::field(param, error.inner().to_string())
        })
    }

    /// A field that has to be there.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::missing(name))
    }

    /// A number for which `allowed` holds; `expected` says which those are.
    pub(crate) fn number(
        &mut self,
        name: &str,
        allowed: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<Option<f32>, ApiError> {
        let Some(number) = self.take::<f64>(name)? else { return Ok(None) };
        if !allowed(number) || !(number as f32).is_finite() {
            return Err(ApiError::field(name, format!("is {number}; expected {expected}")));
        }
        Ok(Some(number as f32))
    }

    /// A whole number within bounds.
    pub(crate) fn count(
        &mut self,
        name: &str,
        bounds: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let (least, most) = (bounds.start(), bounds.end());
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
        count.filter(|n| bounds.contains(n)).map(Some).ok_or_else(|| {
            let expected = if *most == usize::MAX {
                format!("expected a whole number of at least {least}")
            } else {
                format!("expected a whole number from {least} to {most}")
            };
            ApiError::field(name, expected)
        })
    }

    /// A switch; absent is off.
    pub(crate) fn switch(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.take(name)?.unwrap_or(false))
    }

    /// One string or a list of them; absent is none.
    pub(crate) fn strings(&mut self, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
        let expected = || ApiError::field(name, "expected a string or a list of strings");
        let list = match self.value(name) {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(expected))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(expected()),
        };
        if list.len() > most {
            return Err(ApiError::field(name, format!("at most {most} strings")));
        }
        if list.iter().any(String::is_empty) {
            return Err(ApiError::field(name, "an empty string matches everywhere"));
        }
        Ok(list)
    }

    /// Refuses a field unless it has a value that changes nothing.
    pub(crate) fn refuse(
        &mut self,
        name: &str,
        harmless: &[Value],
        reason: &str,
    ) -> Result<(), ApiError> {
        match self.value(name) {
            Some(value) if !harmless.contains(&value) => Err(ApiError::unsupported(name, reason)),
            _ => Ok(()),
        }
    }

    /// Whether nothing is left.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            Some(name) => Err(ApiError::unknown_field(name.chars().take(100).collect::<String>())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;
    use crate::api_error::Dialect;
    use serde_json::{Value, json};

    fn fields(value: Value) -> Fields {
        Fields::of(value, "").unwrap()
    }

    #[test]
    fn a_field_that_nobody_takes_is_named() {
        let mut request = fields(json!({"n": 1, "frequency_penality": 0.5}));
        assert_eq!(request.count("n", 1..=8).unwrap(), Some(1));
        let error = request.finish().unwrap_err().body(Dialect::OpenAi);
        assert_eq!(error["error"]["param"], "frequency_penality");
        assert_eq!(error["error"]["code"], "unknown_parameter");
    }

    #[test]
    fn a_wrong_value_inside_a_field_is_named_with_its_path() {
        let error = fields(json!({"prompt": [1, 2, -3]})).take::<Vec<u32>>("prompt").unwrap_err();
        assert_eq!(error.body(Dialect::OpenAi)["error"]["param"], "prompt[2]");
    }

    #[test]
    fn null_is_absent_and_bounds_hold() {
        let mut request = fields(json!({"n": null, "m": 9, "x": 1e300, "y": 2.5}));
        assert_eq!(request.count("n", 1..=8).unwrap(), None);
        assert!(request.count("m", 1..=8).is_err());
        assert!(request.number("x", |_| true, "anything").is_err());
        assert!(request.count("y", 0..=9).is_err());
        request.finish().unwrap();
    }
}
