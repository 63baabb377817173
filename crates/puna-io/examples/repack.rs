//! Rewrites a checkpoint's tensors in another container, names unchanged:
//! `repack FROM TO hf [MAX_SHARD_SIZE]` or `repack FROM TO meta SHARDS`.
//!
//! Shows the whole way from reading to writing; `tests/check_written.py` runs it and loads the
//! result with torch and safetensors.

use std::path::Path;
use std::process::ExitCode;

use puna_io::write::{
    EmbeddingSplit, HfOptions, MetaOptions, parse_size, write_hf_folder, write_meta_folder,
};
use puna_io::{Checkpoint, IoError, TensorInfo};

fn repack(from: &Path, to: &Path, kind: &str, argument: Option<&str>) -> Result<(), IoError> {
    let checkpoint = Checkpoint::open(from)?;
    let plan: Vec<(String, TensorInfo)> = checkpoint
        .names()
        .filter_map(|name| Some((name.to_owned(), checkpoint.info(name)?.clone())))
        .collect();
    let bytes_of = |name: &str| Ok::<_, IoError>(checkpoint.tensor(name)?.bytes);
    if kind == "hf" {
        let max_shard_bytes = argument.map(parse_size).transpose()?;
        let options = HfOptions { max_shard_bytes, ..HfOptions::default() };
        write_hf_folder(to, &plan, &options, bytes_of)?;
    } else {
        let shards = argument.and_then(|n| n.parse().ok()).unwrap_or(1);
        let params = from.join("params.json");
        let params_json = std::fs::read(&params).map_err(IoError::os(&params, "read"))?;
        let embedding = EmbeddingSplit::Hidden;
        let options = MetaOptions { shards, embedding, params_json, extra_files: Vec::new() };
        write_meta_folder(to, &plan, &options, bytes_of)?;
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "an example is a program")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, kind, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: repack FROM TO hf|meta [MAX_SHARD_SIZE|SHARDS]");
        return ExitCode::from(2);
    };
    let argument = rest.first().map(String::as_str);
    match repack(Path::new(from), Path::new(to), kind, argument) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
