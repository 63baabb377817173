//! `puna train` in a process of its own, so that one run's memory is not another's.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::interrupt;

/// How often it is asked whether the run has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Trains a recipe. `mode` is `--restart` or `--resume`. After Ctrl-C the run saves a checkpoint and
/// ends, and so does this.
pub(crate) fn train(recipe: &Path, mode: &str, threads: Option<usize>) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("train").arg(recipe).arg(mode).stdout(Stdio::null());
    if let Some(threads) = threads {
        command.args(["-t", &threads.to_string()]);
    }
    apart(&mut command);
    let mut child = command.spawn().context("cannot start this program again")?;
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for puna train")? {
            break status;
        }
        if interrupt::asked() && !told {
            stop(&child).context("cannot stop puna train")?;
            told = true;
        }
        std::thread::sleep(PAUSE);
    };
    if !status.success() {
        bail!("puna train {} ended with {status}", recipe.display());
    }
    Ok(())
}

/// Puts the run into a group of its own: a terminal's Ctrl-C, or a signal to this process alone,
/// then reaches it once and in one way, through [`stop`]. A second one would end it unsaved.
#[cfg(unix)]
fn apart(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(unix)]
fn stop(child: &Child) -> io::Result<()> {
    use nix::sys::signal::{Signal, kill};
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(kill(nix::unistd::Pid::from_raw(id), Signal::SIGINT)?)
}

/// Elsewhere a console's Ctrl-C reaches both.
#[cfg(not(unix))]
fn apart(_: &mut Command) {}

#[cfg(not(unix))]
fn stop(_: &Child) -> io::Result<()> {
    Ok(())
}
