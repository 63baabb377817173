//! Running cargo with its output shown as it comes and kept.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::repo::Repo;

/// A finished program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    /// Standard output, then standard error.
    pub(crate) output: String,
}

pub(crate) fn cargo(repo: &Repo, args: &[&str]) -> Result<Finished> {
    cargo_env(repo, args, &[])
}

pub(crate) fn cargo_env(repo: &Repo, args: &[&str], env: &[(&str, &str)]) -> Result<Finished> {
    println!("$ cargo {}", args.join(" "));
    let mut command = cargo_command(repo, args);
    command.envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cargo")?;
    let stdout = child.stdout.take().context("no pipe")?;
    let stderr = child.stderr.take().context("no pipe")?;
    let from_stderr = std::thread::spawn(move || echo(stderr));
    let mut output = echo(stdout);
    output.push_str(&from_stderr.join().unwrap_or_default());
    Ok(Finished { success: child.wait().context("cargo")?.success(), output })
}

/// True if `cargo NAME` exists.
pub(crate) fn has_subcommand(repo: &Repo, name: &str) -> bool {
    let mut command = cargo_command(repo, &[name, "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn cargo_command(repo: &Repo, args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(&repo.root);
    command
}

fn echo(stream: impl Read) -> String {
    let mut kept = String::new();
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        kept.push_str(&text);
        line.clear();
    }
    kept
}
