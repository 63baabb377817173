//! `puna data info`: what a folder of token shards holds.

use std::path::PathBuf;

use puna_data::TokenData;

use super::report;
use crate::output;
use crate::progress::{Progress, Unit};
use crate::report::Outcome;

/// Prints what a folder of token shards holds, after checking sizes and headers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  puna data info tokens\n  \
    puna data info tokens --verify --json")]
pub(crate) struct Args {
    /// The folder
    dir: PathBuf,
    /// Also read all of it: hashes, and every token against the vocabulary
    #[arg(long)]
    verify: bool,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let data = TokenData::open(&args.dir)?;
    let manifest = data.manifest();
    if args.verify {
        let total = manifest.train.iter().chain(&manifest.validation).map(|s| s.bytes).sum();
        let mut progress = Progress::new("verifying", Unit::Bytes);
        data.verify(&mut |done| progress.update(done, total))?;
        progress.finish();
        output::note("every hash and token is as it should be");
    }
    if args.json {
        output::json(&report::json(&args.dir, manifest)?)?;
    } else {
        output::text(&report::text(&args.dir, manifest))?;
    }
    Ok(Outcome::Done)
}
