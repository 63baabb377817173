//! Calling the binary and reading what it says.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("not killed by a signal"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its stdout as JSON, after success.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "stderr: {}", self.stderr);
        serde_json::from_str(&self.stdout).expect("one JSON value on stdout")
    }
}

/// The binary with its environment cut off from the machine's: no Hub, no history.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puna"));
    let nowhere = Path::new(env!("CARGO_TARGET_TMPDIR"));
    command.args(args).env("HF_HUB_OFFLINE", "1").env("HF_HOME", nowhere.join("no-hub"));
    command.env("XDG_STATE_HOME", nowhere.join("state"));
    command
}

/// Runs `puna` without input.
pub(crate) fn puna(args: &[&str]) -> Ran {
    Ran::of(command(args).stdin(Stdio::null()).output().expect("the binary starts"))
}

/// Runs `puna` with `input` on stdin.
pub(crate) fn puna_with(args: &[&str], input: &str) -> Ran {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("the binary reads its stdin");
    drop(stdin);
    Ran::of(child.wait_with_output().expect("the binary ends"))
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Ids as an argument.
pub(crate) fn ids(ids: &[u32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A JSON array of numbers as tokens.
pub(crate) fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().expect("an array").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

/// A JSON array of numbers.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .expect("an array")
        .iter()
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect()
}
