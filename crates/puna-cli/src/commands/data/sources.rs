//! Which sources the command line or a TOML file names.

use std::path::Path;

use anyhow::{Context, anyhow};
use puna_data::prepare::Source;
use serde::Deserialize;

use crate::args::read_text;
use crate::report::Hint;

/// The source of inputs that name none.
const DEFAULT: &str = "data";

/// Inputs as typed: `PATH` or `NAME=PATH`, and weights `NAME=SHARE`.
pub(super) fn from_arguments(inputs: &[String], weights: &[String]) -> anyhow::Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    for input in inputs {
        // A file whose name has an equals sign is a file.
        let (name, path) = match input.split_once('=') {
            Some((name, path)) if is_name(name) && !Path::new(input).exists() => (name, path),
            _ => (DEFAULT, input.as_str()),
        };
        match sources.iter_mut().find(|source| source.name == name) {
            Some(source) => source.inputs.push(path.to_owned()),
            None => sources.push(Source::new(name, vec![path.to_owned()])),
        }
    }
    for weight in weights {
        let parsed = weight.split_once('=').and_then(|(name, share)| {
            let share: f64 = share.parse().ok()?;
            Some((name, share))
        });
        let (name, share) = parsed
            .ok_or_else(|| anyhow!("--weight {weight}: expected NAME=SHARE, as in web=0.67"))?;
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        let unknown = format!("--weight {weight}: no source is called {name}");
        let hint =
            format!("the sources are {}; an input's is given as NAME=PATH", names.join(", "));
        let source = sources.iter_mut().find(|source| source.name == name);
        let source = source.ok_or_else(|| anyhow!(unknown)).hint(hint)?;
        if source.weight.replace(share).is_some() {
            return Err(anyhow!("--weight {weight}: {name} has a weight already"));
        }
    }
    Ok(sources)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

/// A file of sources.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: Vec<Table>,
}

/// One `[[source]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    inputs: Vec<String>,
    weight: Option<f64>,
    text_key: Option<String>,
}

/// Reads a file of sources; inputs are relative to its folder.
pub(super) fn from_toml(path: &Path) -> anyhow::Result<Vec<Source>> {
    let text = read_text(path)?;
    let file: File = toml::from_str(&text).with_context(|| format!("{}", path.display())).hint(
        "a source is [[source]] with name, inputs (a list) and, if wanted, weight and text_key",
    )?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let absolute = |input: &String| folder.join(input).to_string_lossy().into_owned();
    let sources = file.source.into_iter().map(|table| Source {
        inputs: table.inputs.iter().map(absolute).collect(),
        name: table.name,
        weight: table.weight,
        text_key: table.text_key,
    });
    Ok(sources.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn inputs_and_weights_go_to_their_sources() {
        let inputs = strings(&["web=a", "b", "web=c", "./x=y/d"]);
        let sources =
            from_arguments(&inputs, &strings(&["web=0.67", "data=0.33"])).expect("sources");
        assert_eq!(sources[0].name, "web");
        assert_eq!(sources[0].inputs, ["a", "c"]);
        assert_eq!(sources[0].weight, Some(0.67));
        assert_eq!(sources[1].name, "data");
        assert_eq!(sources[1].inputs, ["b", "./x=y/d"]);
        assert!(from_arguments(&inputs, &strings(&["wep=1"])).is_err());
        assert!(from_arguments(&inputs, &strings(&["web=1", "web=2"])).is_err());
        assert!(from_arguments(&inputs, &strings(&["web"])).is_err());
    }

    #[test]
    fn an_unknown_key_in_the_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("sources.toml");
        let text = "[[source]]\nname = \"a\"\ninputs = [\"x\"]\nweight = 0.5\n";
        std::fs::write(&path, text).expect("written");
        let sources = from_toml(&path).expect("sources");
        assert_eq!(Path::new(&sources[0].inputs[0]), dir.path().join("x"));
        std::fs::write(&path, format!("{text}wieght = 1\n")).expect("written");
        let error = format!("{:#}", from_toml(&path).expect_err("unknown key"));
        assert!(error.contains("sources.toml"), "{error}");
    }
}
