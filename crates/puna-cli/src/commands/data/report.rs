//! A manifest as people and programs read it.

use std::path::Path;

use puna_data::manifest::{Manifest, Split};
use serde_json::{Value, json};

use crate::{output, units};

/// The manifest with its folder and totals.
pub(super) fn json(dir: &Path, manifest: &Manifest) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(manifest)?;
    value["dir"] = json!(dir);
    value["tokens"] = json!({
        "train": manifest.tokens(Split::Train),
        "validation": manifest.tokens(Split::Validation),
    });
    Ok(value)
}

/// Lines for a terminal.
pub(super) fn text(dir: &Path, manifest: &Manifest) -> String {
    let tokenizer = &manifest.tokenizer;
    let mark = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let mut out = format!(
        "{}: {}, {} tokens (bos {}, eos {}), stored as {:?}\n\n",
        dir.display(),
        tokenizer.file,
        units::grouped(manifest.vocab_size as u64),
        mark(tokenizer.bos),
        mark(tokenizer.eos),
        manifest.dtype,
    );
    out.push_str(&output::table(&splits(manifest)));
    out.push('\n');
    out.push_str(&output::table(&sources(manifest)));
    out
}

fn splits(manifest: &Manifest) -> Vec<Vec<String>> {
    let header = ["split", "shards", "documents", "tokens", "text", "bytes per token"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for split in Split::ALL {
        let shards = manifest.shards(split);
        let documents = shards.iter().map(|shard| shard.documents).sum();
        let text: u64 = shards.iter().map(|shard| shard.text_bytes).sum();
        let tokens = manifest.tokens(split);
        rows.push(vec![
            split.to_string(),
            shards.len().to_string(),
            units::grouped(documents),
            units::grouped(tokens),
            units::bytes(text),
            format!("{:.2}", text as f64 / tokens.max(1) as f64),
        ]);
    }
    rows
}

fn sources(manifest: &Manifest) -> Vec<Vec<String>> {
    // Only counts that are not 0 everywhere have a column.
    let counts: Vec<_> = manifest.sources.iter().map(|s| s.documents.named()).collect();
    let columns: Vec<usize> = (0..counts.first().map_or(0, |c| c.len()))
        .filter(|&column| counts.iter().any(|c| c[column].1 > 0))
        .collect();
    let mut header: Vec<String> =
        ["source", "weight", "files", "left out"].map(str::to_owned).into();
    header.extend(columns.iter().map(|&c| counts[0][c].0.to_owned()));
    let mut rows = vec![header];
    for (source, counts) in manifest.sources.iter().zip(&counts) {
        let mut row = vec![
            source.name.clone(),
            source.weight.map_or_else(|| "all".to_owned(), |weight| weight.to_string()),
            units::grouped(source.files),
            units::grouped(source.files_left_out),
        ];
        row.extend(columns.iter().map(|&column| units::grouped(counts[column].1)));
        rows.push(row);
    }
    rows
}
