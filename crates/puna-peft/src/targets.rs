//! Which modules are adapted, as peft's `check_target_module_exists` decides it.

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{Base, Module, PeftError};

/// Names of modules, a regular expression, or `all-linear`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// A regular expression that matches whole paths, or `all-linear`: every linear layer but the
    /// head.
    Pattern(String),
    /// Last parts of paths, or whole paths.
    Names(Vec<String>),
}

/// Every linear layer but the head.
const ALL_LINEAR: &str = "all-linear";

impl Targets {
    /// `all-linear`.
    #[must_use]
    pub fn all_linear() -> Self {
        Targets::Pattern(ALL_LINEAR.to_owned())
    }

    /// Some names.
    #[must_use]
    pub fn names(names: &[&str]) -> Self {
        Targets::Names(names.iter().map(|&name| name.to_owned()).collect())
    }

    /// Whether a module is meant.
    ///
    /// # Errors
    /// If the regular expression is none.
    pub fn has(&self, path: &str) -> Result<bool, PeftError> {
        match self {
            Targets::Names(names) => Ok(names.iter().any(|name| matches_module(name, path))),
            Targets::Pattern(pattern) if pattern == ALL_LINEAR => {
                Ok(path != "lm_head" && !path.ends_with("embed_tokens"))
            }
            Targets::Pattern(pattern) => Ok(whole(pattern)?.is_match(path)),
        }
    }

    /// The linear layers of a model that are meant; none is an error, unless the embedding is.
    ///
    /// # Errors
    /// If there is none, or the regular expression is none.
    pub fn of<'a>(&self, base: &Base<'a>) -> Result<Vec<Module<'a>>, PeftError> {
        let mut found = Vec::new();
        let modules = base.modules();
        for module in &modules {
            if self.has(&module.path)? {
                found.push(module.clone());
            }
        }
        if found.is_empty() && !self.has(&base.embedding_path())? {
            let mut known: Vec<&str> =
                modules.iter().map(|m| m.path.rsplit('.').next().unwrap_or(&m.path)).collect();
            known.sort_unstable();
            known.dedup();
            let (targets, known) = (format!("{self:?}"), known.join(", "));
            return Err(PeftError::NoTarget { targets, known });
        }
        Ok(found)
    }
}

/// Whether a name means a module: its whole path, or the end of it behind a dot.
#[must_use]
pub fn matches_module(name: &str, path: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// A regular expression that matches whole texts.
pub(crate) fn whole(pattern: &str) -> Result<Regex, PeftError> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| PeftError::Setting {
        key: "target_modules",
        value: pattern.to_owned(),
        expected: format!("a regular expression ({error})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_paths_and_patterns_match_them_whole() {
        let path = "model.layers.1.self_attn.q_proj";
        for (targets, expected) in [
            (Targets::names(&["q_proj"]), true),
            (Targets::names(&["proj"]), false),
            (Targets::names(&["self_attn.q_proj"]), true),
            (Targets::names(&[path]), true),
            (Targets::Pattern(r".*\.(q|v)_proj".into()), true),
            (Targets::Pattern(r"(q|v)_proj".into()), false),
            (Targets::all_linear(), true),
        ] {
            assert_eq!(targets.has(path).unwrap(), expected, "{targets:?}");
        }
        assert!(!Targets::all_linear().has("lm_head").unwrap());
        let error = Targets::Pattern("(".into()).has(path).unwrap_err().to_string();
        assert!(error.starts_with("adapter.target_modules = (:"), "{error}");
    }
}
