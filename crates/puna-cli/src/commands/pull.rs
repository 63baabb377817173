//! `puna pull`: brings a model from the Hub into the cache that all Hugging Face tools share.

use anyhow::anyhow;
use serde_json::json;

use crate::model_ref;
use crate::output;
use crate::report::{Hint, Outcome};

/// Downloads a model; files that are in the cache already are not downloaded again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  puna pull org/name\n  puna pull org/name:model-Q4_K_M.gguf\n  \
    puna pull org/name --revision v1.0\n\n\
    Environment: HF_HOME and HF_HUB_CACHE (where the cache is), HF_ENDPOINT, HF_TOKEN, \
    HF_HUB_OFFLINE."
)]
pub(crate) struct Args {
    /// org/name, or org/name:file for one file
    id: String,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Print {"path": …} instead of the path
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let request = model_ref::hub_request(&args.id, args.revision.as_deref())
        .ok_or_else(|| anyhow!("`{}` is no Hub id", args.id))
        .hint("write org/name, or org/name:file.gguf for one file")?;
    let path = model_ref::download(&request)?;
    if args.json {
        output::json(&json!({ "path": path }))?;
    } else {
        output::line(&path.display().to_string())?;
    }
    Ok(Outcome::Done)
}
