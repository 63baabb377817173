//! `puna info`: what a checkpoint or an adapter holds, read from config and headers; no weights are
//! loaded.

mod adapter;
pub(crate) mod facts;

use puna_io::Checkpoint;
use puna_model::read_config;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::model_ref::ModelRef;
use crate::report::Outcome;
use crate::{loaded, output, units};
use facts::Facts;

/// Prints architecture, sizes and storage of a model, or method and settings of an adapter.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  puna info -m ./model\n  puna info -m model.gguf --tensors --json\n  \
                  puna info -m ./my-lora"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor too
    #[arg(long)]
    tensors: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The facts, and the tensors if asked for.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    facts: Facts,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorRow>>,
}

/// One tensor under its name in the files.
#[derive(Debug, Serialize)]
struct TensorRow {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let origin = args.model.resolve()?;
    if let ModelRef::Path(folder) = &origin
        && adapter::is_adapter(folder)
    {
        adapter::report(folder, args.tensors, args.json)?;
        return Ok(Outcome::Done);
    }
    let checkpoint = loaded::open(&origin)?;
    let config = read_config(&checkpoint)?;
    let facts = Facts::new(&origin, &checkpoint, &config);
    let tensors = args.tensors.then(|| tensors(&checkpoint));
    if args.json {
        output::json(&Report { facts, tensors })?;
        return Ok(Outcome::Done);
    }
    output::text(&describe(&facts))?;
    if let Some(tensors) = tensors {
        output::text(&format!("\n{}", tensor_table(&tensors)))?;
    }
    Ok(Outcome::Done)
}

fn tensors(checkpoint: &Checkpoint) -> Vec<TensorRow> {
    let row = |name: &str| {
        checkpoint.info(name).map(|info| TensorRow {
            name: name.to_string(),
            dtype: info.dtype.name(),
            shape: info.shape.clone(),
            bytes: info.byte_len().unwrap_or(0) as u64,
        })
    };
    checkpoint.names().filter_map(row).collect()
}

fn describe(facts: &Facts) -> String {
    let mut rows: Vec<(&str, String)> = vec![
        ("model", facts.model.clone()),
        ("architecture", facts.architecture.clone()),
        ("parameters", units::count(facts.parameters)),
    ];
    if facts.active_parameters != facts.parameters {
        rows.push(("active per token", units::count(facts.active_parameters)));
    }
    rows.push(("size", format!("{} in {} files", units::bytes(facts.bytes), facts.files)));
    rows.push(("format", facts.format.to_string()));
    rows.push(("quantization", facts.quantization.clone().unwrap_or_else(|| "none".into())));
    let dtypes: Vec<String> = facts
        .dtypes
        .iter()
        .map(|(name, facts)| {
            format!("{name}: {} tensors, {}", facts.tensors, units::bytes(facts.bytes))
        })
        .collect();
    rows.push(("stored as", dtypes.join("; ")));
    rows.push(("context", format!("{} tokens", units::grouped(facts.context as u64))));
    rows.push(("layers", facts.layers.to_string()));
    rows.push(("hidden size", facts.hidden_size.to_string()));
    rows.push(("ffn size", facts.ffn_size.to_string()));
    if let Some(experts) = facts.experts {
        rows.push(("experts", experts.to_string()));
    }
    rows.push((
        "heads",
        format!("{} of {}, {} for keys and values", facts.heads, facts.head_dim, facts.kv_heads),
    ));
    rows.push(("vocabulary", units::grouped(facts.vocab_size as u64)));
    let by_type = facts.kv_bytes_per_token_by_type.iter();
    let cache: Vec<String> =
        by_type.map(|(kv_type, bytes)| format!("{kv_type}: {}", units::bytes(*bytes))).collect();
    rows.push(("cache per token", cache.join("; ")));
    rows.iter().map(|(name, value)| format!("{name:<18}{value}\n")).collect()
}

fn tensor_table(tensors: &[TensorRow]) -> String {
    let rows: Vec<Vec<String>> = tensors
        .iter()
        .map(|tensor| {
            let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            vec![
                tensor.name.clone(),
                tensor.dtype.to_string(),
                shape.join(" x "),
                units::bytes(tensor.bytes),
            ]
        })
        .collect();
    output::table(&rows)
}
