//! Six claims that planners of language models repeat, each computed in front of the reader.
//!
//! A claim without its assumptions is no fact: each stands here with the reading under which it can
//! be checked, the numbers that follow, and a verdict made of those numbers.

mod consumer;
mod fill;
mod node;
mod smaller;
mod tokens;
mod units;

pub use fill::{
    CARDS, Card, Fill, MIN_FILL, RESERVED_GIB, TrainingFill, WEIGHT_FACTOR, inference_fill,
    training_fill,
};

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::hardware::GIB;

/// How a figure is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Parameters or tokens.
    Count,
    /// Operations.
    Flops,
    /// GiB.
    Gib,
    /// 1e9 bytes.
    Gb,
    /// Days.
    Days,
    /// Nats per token.
    Loss,
    /// A factor or a share.
    Ratio,
    /// As it stands.
    Plain,
}

/// One computed number.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its key in JSON.
    pub key: String,
    /// What it is, in words.
    pub what: String,
    /// The number, or what stands for it.
    pub value: Value,
    /// How to read it.
    pub unit: Unit,
}

/// A claim, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Its name.
    pub id: &'static str,
    /// The claim.
    pub quote: &'static str,
    /// What has to be assumed before it can be computed.
    pub assumptions: Vec<String>,
    /// The numbers that go in.
    pub inputs: Map<String, Value>,
    /// The numbers that come out.
    pub figures: Vec<Figure>,
    /// What they say of the claim.
    pub verdict: String,
}

impl Claim {
    /// The figures by key.
    #[must_use]
    pub fn computed(&self) -> Map<String, Value> {
        self.figures.iter().map(|f| (f.key.clone(), f.value.clone())).collect()
    }

    /// The number of a key.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.key == key)?.value.as_f64()
    }
}

/// All claims.
///
/// # Errors
/// Never for the embedded presets and table, which tests read.
pub fn claims() -> Result<Vec<Claim>> {
    Ok(vec![
        tokens::claim(),
        consumer::claim()?,
        node::claim()?,
        fill::claim()?,
        units::claim()?,
        smaller::claim(),
    ])
}

fn figure(key: &str, what: impl Into<String>, unit: Unit, value: f64) -> Figure {
    Figure { key: key.to_owned(), what: what.into(), value: json!(value), unit }
}

/// GiB of bytes.
fn gib(bytes: f64) -> f64 {
    bytes / GIB
}

/// Exact parameters of a preset.
fn preset_config(name: &'static str) -> Result<puna_config::DecoderConfig> {
    let preset = puna_config::preset(name)?;
    let missing = || puna_config::ConfigError::MissingKey { key: format!("preset {name}") };
    Ok(preset.ok_or_else(missing)?.decoder)
}

/// "a, b and c".
fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_has_numbers_and_a_verdict_of_its_own() {
        let claims = claims().unwrap();
        assert_eq!(claims.len(), 6);
        for claim in &claims {
            assert!(claim.figures.len() >= 6, "{}", claim.id);
            assert_eq!(claim.computed().len(), claim.figures.len(), "{}: a key twice", claim.id);
            assert!(!claim.assumptions.is_empty() && !claim.verdict.is_empty(), "{}", claim.id);
        }
    }
}
