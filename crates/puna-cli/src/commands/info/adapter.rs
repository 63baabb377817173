//! `puna info` on an adapter's folder.

use std::path::Path;

use puna_peft::AdapterFacts;
use serde_json::{Map, Value, json};

use crate::{output, units};

/// Whether a folder is an adapter's and no model's.
pub(super) fn is_adapter(folder: &Path) -> bool {
    AdapterFacts::are_in(folder) && !folder.join("config.json").is_file()
}

/// Reports a folder, with all tensors if asked for.
pub(super) fn report(folder: &Path, tensors: bool, as_json: bool) -> anyhow::Result<()> {
    let facts = AdapterFacts::read(folder)?;
    if as_json {
        let mut value = json!({
            "adapter": folder,
            "method": facts.method,
            "base": facts.base,
            "parameters": facts.parameters(),
            "bytes": facts.bytes,
            "settings": facts.settings,
            "metadata": facts.metadata,
        });
        if tensors {
            let row =
                |(name, shape): &(String, Vec<usize>)| json!({ "name": name, "shape": shape });
            value["tensors"] = facts.tensors.iter().map(row).collect();
        }
        return output::json(&value);
    }
    let mut rows = vec![
        ("adapter".to_owned(), folder.display().to_string()),
        ("method".to_owned(), facts.method.clone()),
        ("base".to_owned(), facts.base.clone().unwrap_or_else(|| "not named".to_owned())),
        ("parameters".to_owned(), units::count(facts.parameters())),
        ("size".to_owned(), units::bytes(facts.bytes)),
    ];
    flat("", &facts.settings, &mut rows);
    rows.extend(facts.metadata.iter().map(|(key, value)| (format!("of the {key}"), value.clone())));
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    let lines = rows.iter().map(|(name, value)| format!("{name:<width$}{value}\n"));
    output::text(&lines.collect::<String>())?;
    if tensors {
        let rows: Vec<Vec<String>> = facts
            .tensors
            .iter()
            .map(|(name, shape)| {
                let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
                vec![name.clone(), shape.join(" x ")]
            })
            .collect();
        output::text(&format!("\n{}", output::table(&rows)))?;
    }
    Ok(())
}

/// Settings as lines; those inside others have their names before them.
fn flat(before: &str, settings: &Map<String, Value>, rows: &mut Vec<(String, String)>) {
    for (name, value) in settings {
        let name = format!("{before}{name}");
        match value {
            Value::Null => {}
            Value::Object(inner) => flat(&format!("{name}."), inner, rows),
            Value::String(text) => rows.push((name, text.clone())),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (index, item) in items.iter().enumerate() {
                    let inner = Map::from_iter([(index.to_string(), item.clone())]);
                    flat(&format!("{name}."), &inner, rows);
                }
            }
            Value::Array(items) => {
                let items: Vec<String> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                    .collect();
                rows.push((name, items.join(", ")));
            }
            other => rows.push((name, other.to_string())),
        }
    }
}
