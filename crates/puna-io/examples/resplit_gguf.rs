//! Copies a GGUF, split or not, into one file or into parts: `resplit_gguf FROM TO [MAX_BYTES]`.

use std::path::Path;
use std::process::ExitCode;

use puna_io::{Gguf, GgufWriter, IoError, write::parse_size};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (from, to, limit) = match arguments.as_slice() {
        [from, to] => (from, to, None),
        [from, to, limit] => (from, to, Some(limit.as_str())),
        _ => return fail("arguments: FROM TO [MAX_BYTES]"),
    };
    match copy(Path::new(from), Path::new(to), limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn copy(from: &Path, to: &Path, limit: Option<&str>) -> Result<(), IoError> {
    let source = Gguf::open(from)?;
    let metadata = source.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    let tensors: Vec<_> = source.tensors().map(|(n, info)| (n.to_owned(), info.clone())).collect();
    GgufWriter::new(metadata).max_part_bytes(limit.map(parse_size).transpose()?).write(
        to,
        &tensors,
        |name| source.tensor(name).map(|t| t.bytes),
    )?;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "an example talks to its user")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}
