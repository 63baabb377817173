//! Examples in JSON, and texts made of their fields.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::PetRecipe;
use crate::TrainError;

/// An example.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Example {
    /// Its texts, without the label.
    pub(super) fields: BTreeMap<String, String>,
    /// Index of its label.
    pub(super) label: Option<usize>,
    pub(super) path: Arc<Path>,
    /// Its number in the file, from 1: that of its line where each has one.
    number: usize,
}

impl Example {
    /// An error that names it.
    pub(super) fn problem(&self, path: &Path, problem: String) -> TrainError {
        TrainError::Example { path: path.to_path_buf(), number: self.number, problem }
    }
}

/// A text with fields in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Pattern {
    /// Doubled braces stand for themselves.
    pub(super) fn parse(text: &str) -> Result<Self, TrainError> {
        let wrong = |expected| TrainError::Setting {
            key: "pet.patterns",
            value: format!("{text:?}"),
            expected,
        };
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            let Some((name, behind)) = rest.split_once('}').filter(|_| brace == "{") else {
                return Err(wrong("fields as {name}, and {{ and }} for braces"));
            };
            parts.push(Part::Text(std::mem::take(&mut literal)));
            parts.push(Part::Field(name.trim().to_owned()));
            rest = behind;
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        if !parts.iter().any(|part| matches!(part, Part::Field(_))) {
            return Err(wrong("at least one field of the examples, as {text}"));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The names of its fields.
    fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text of an example, which was read with this pattern.
    pub(super) fn render(&self, example: &Example) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(name) => example.fields.get(name).cloned().unwrap_or_default(),
        };
        self.parts.iter().map(part).collect()
    }
}

/// Reads a file's examples: objects, one to a line or in a list.
pub(super) fn read(
    path: &Path,
    recipe: &PetRecipe,
    patterns: &[Pattern],
) -> Result<Vec<Example>, TrainError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| TrainError::Read { path: path.to_path_buf(), source })?;
    let wrong = |number, problem| TrainError::Example { path: path.to_path_buf(), number, problem };
    let parse = |number, text: &str| -> Result<Value, TrainError> {
        serde_json::from_str(text).map_err(|error| wrong(number, format!("no JSON: {error}")))
    };
    let values: Vec<(usize, Value)> = if text.trim_start().starts_with('[') {
        match parse(1, &text)? {
            Value::Array(values) => {
                values.into_iter().enumerate().map(|(i, v)| (i + 1, v)).collect()
            }
            _ => Vec::new(),
        }
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(i, line)| Ok((i + 1, parse(i + 1, line)?)))
            .collect::<Result<_, TrainError>>()?
    };
    if values.is_empty() {
        return Err(wrong(1, "there are no examples".to_owned()));
    }
    let shared: Arc<Path> = Arc::from(PathBuf::from(path));
    let mut examples = Vec::with_capacity(values.len());
    for (number, value) in values {
        let Value::Object(object) = value else {
            return Err(wrong(number, "is no object".to_owned()));
        };
        let example = example(object, recipe, (&shared, number));
        let example = example.map_err(|problem| wrong(number, problem))?;
        for name in patterns.iter().flat_map(Pattern::fields) {
            if !example.fields.contains_key(name) {
                let has: Vec<&String> = example.fields.keys().collect();
                let problem = format!("has no {name:?}, which a pattern asks for; it has {has:?}");
                return Err(wrong(number, problem));
            }
        }
        examples.push(example);
    }
    Ok(examples)
}

/// An object's texts and label.
fn example(
    mut object: Map<String, Value>,
    recipe: &PetRecipe,
    (path, number): (&Arc<Path>, usize),
) -> Result<Example, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    let label = match object.remove(&recipe.pet.label_field) {
        None | Some(Value::Null) => None,
        Some(value) => {
            let name = text(&value).ok_or_else(|| format!("label {value} is no word"))?;
            let known = recipe.pet.labels.keys().position(|label| *label == name);
            let known = known.ok_or_else(|| {
                let labels: Vec<&String> = recipe.pet.labels.keys().collect();
                format!("label {name:?} is none of pet.labels {labels:?}")
            })?;
            Some(known)
        }
    };
    let fields = object.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?)));
    Ok(Example { fields: fields.collect(), label, path: Arc::clone(path), number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Example {
        let fields = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Example { fields, label: None, path: Arc::from(Path::new("x")), number: 1 }
    }

    #[test]
    fn fields_take_the_place_of_braces_and_doubled_ones_stay() {
        let pattern = Pattern::parse("{{\"a\": {a}}} {b }! It was").unwrap();
        let example = of(&[("a", "{x}"), ("b", "2")]);
        assert_eq!(pattern.render(&example), "{\"a\": {x}} 2! It was");
        assert_eq!(pattern.fields().collect::<Vec<_>>(), ["a", "b"]);
        for wrong in ["no field", "{open", "close}", "{{a}}"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
