//! `puna plan --why`: well-known claims, each computed.

use puna_laws::{Claim, Figure, Unit, claims, short_count, short_power};
use serde_json::{Value, json};

use crate::output;
use crate::report::Outcome;

pub(super) fn run(as_json: bool) -> anyhow::Result<Outcome> {
    let claims = claims()?;
    if as_json {
        let list: Vec<Value> = claims.iter().map(in_json).collect();
        output::json(&list)?;
        return Ok(Outcome::Done);
    }
    let texts: Vec<String> = claims.iter().map(text).collect();
    output::text(&texts.join("\n"))?;
    Ok(Outcome::Done)
}

fn in_json(claim: &Claim) -> Value {
    json!({
        "id": claim.id,
        "quote": claim.quote,
        "assumptions": claim.assumptions,
        "inputs": claim.inputs,
        "computed": claim.computed(),
        "verdict": claim.verdict,
    })
}

fn text(claim: &Claim) -> String {
    let mut out = format!("\"{}\"\n", claim.quote);
    for assumption in &claim.assumptions {
        out.push_str(&format!("  assumed   {assumption}\n"));
    }
    let width = claim.figures.iter().map(|f| f.what.chars().count()).max().unwrap_or(0);
    for figure in &claim.figures {
        out.push_str(&format!("  {:<width$}  {}\n", figure.what, value(figure)));
    }
    out.push_str(&format!("  verdict   {}\n", claim.verdict));
    out
}

fn value(figure: &Figure) -> String {
    let Some(number) = figure.value.as_f64() else {
        return match &figure.value {
            Value::String(text) => text.clone(),
            // The share is last in what fills a machine.
            Value::Array(parts) => parts.last().and_then(Value::as_f64).map_or_else(
                || figure.value.to_string(),
                |share| format!("{:.0} % full", 100.0 * share),
            ),
            other => other.to_string(),
        };
    };
    match figure.unit {
        Unit::Count => short_count(number),
        Unit::Flops => format!("{} FLOP", short_power(number)),
        Unit::Gib => format!("{number:.2} GiB"),
        Unit::Gb => format!("{number:.1} GB"),
        Unit::Days => format!("{number:.1} days"),
        Unit::Loss => format!("{number:.4}"),
        Unit::Ratio => format!("{number:.3}"),
        Unit::Plain => figure.value.to_string(),
    }
}
