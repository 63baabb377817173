//! A disk that is full: an error that says which file and what to do, nothing lost, and the same
//! command goes on when there is room.
//!
//! A real full disk takes root to make. A limit on the size of a file (`ulimit -f`) makes the same
//! writes fail at the same places, and `/dev/full` is full for everyone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use puna_testkit::skipped;

use crate::run::{Ran, arg, command, puna};
use crate::train::Run;

/// Runs `puna` with files of at most `blocks` · 512 bytes; none where the shell has no such limit.
fn limited(blocks: usize, args: &[&str]) -> Option<Ran> {
    let own = command(args);
    // Ignored, the signal of the limit becomes an error of the write, as a full disk gives it.
    let script = format!("trap '' XFSZ && ulimit -f {blocks} && exec \"$0\" \"$@\"");
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(script).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    if !cfg!(unix) || !Path::new("/bin/sh").exists() {
        skipped("no shell to limit the size of files with");
        return None;
    }
    Some(Ran::of(shell.stdin(Stdio::null()).output().expect("the shell starts")))
}

fn full(ran: &Ran, file: &str, hint: &str) {
    let said = &ran.stderr;
    assert_eq!(ran.code, 2, "{said}");
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains(file), "{file} in {said}");
    assert!(said.contains("hint: make room") && said.contains(hint), "{said}");
}

/// Every file below a folder, with its contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(contents(&path)),
            path => files.push((path.clone(), fs::read(&path).expect("read"))),
        }
    }
    files.sort();
    files
}

#[test]
fn a_preparation_keeps_what_is_finished() {
    let run = Run::new();
    let (text, whole, out) = (run.path("text.jsonl"), run.path("whole"), run.path("out"));
    let args = |out: &Path| -> Vec<String> {
        let own = ["data", "prepare", arg(&text), "-o", arg(out), "--train-bpe", "280"];
        // The last shard is the only one above the limit: see below.
        own.iter().chain(&["--shard-tokens", "8000"]).map(ToString::to_string).collect()
    };
    let prepare = |out: &Path, blocks: Option<usize>| {
        let args = args(out);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match blocks {
            Some(blocks) => limited(blocks, &args),
            None => Some(puna(&args)),
        }
    };
    assert_eq!(prepare(&whole, None).map(|ran| ran.code), Some(0));
    let Some(ran) = prepare(&out, Some(4)) else { return };
    full(&ran, "tokenizer.json", "run the same command again");
    let Some(ran) = prepare(&out, Some(24)) else { return };
    full(&ran, "train-00000.safetensors", "run the same command again");
    assert!(fs::read_dir(&out).expect("a folder").flatten().all(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        !name.ends_with(".tmp") && name != "manifest.json"
    }));
    assert_eq!(prepare(&out, None).map(|ran| ran.code), Some(0));
    let bytes = |folder: &Path| contents(folder).into_iter().map(|(_, b)| b).collect::<Vec<_>>();
    assert_eq!(bytes(&out), bytes(&whole));
}

#[test]
fn a_run_keeps_its_checkpoints_and_goes_on_exactly() {
    let run = Run::new();
    let set = |steps: &'static str| [steps, "schedule.name=constant"];
    assert_eq!(run.train("whole", &set("train.steps=5"), &[]).code, 0);
    assert_eq!(run.train("run", &set("train.steps=3"), &[]).code, 0);
    let checkpoints = run.path("run/checkpoints");
    let before = contents(&checkpoints);
    let model = contents(&run.path("run/model"));
    let mut args = run.args("run", &set("train.steps=5"));
    args.push("--resume".to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // Below the optimizer's states, then below the weights.
    for (blocks, file) in [(300, "optimizer.safetensors"), (100, "model.safetensors")] {
        let Some(ran) = limited(blocks, &args) else { return };
        full(&ran, file, "--resume then goes on from the newest checkpoint");
        assert!(contents(&checkpoints) == before, "whole, and nothing beside them");
    }
    assert!(contents(&run.path("run/model")) == model, "the model of before");
    let ran = puna(&args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(run.tensors("run", 5) == run.tensors("whole", 5));
}

#[test]
fn a_final_model_that_cannot_be_written_is_written_by_resume() {
    let run = Run::new();
    let set = ["train.steps=3", "checkpoint.every_steps=0"];
    fs::create_dir(run.path("run")).expect("a folder");
    fs::write(run.path("run/model"), "in the way").expect("written");
    let ran = run.train("run", &set, &[]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("run/model") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    assert_eq!(fs::read(run.path("run/model")).expect("there"), b"in the way");
    fs::remove_file(run.path("run/model")).expect("removed");
    assert_eq!(run.train("run", &set, &["--resume"]).code, 0);
    assert_eq!(run.train("whole", &set, &[]).code, 0);
    let model = |output: &str| fs::read(run.path(output).join("model/model.safetensors"));
    assert!(model("run").expect("there") == model("whole").expect("there"));
}

#[test]
fn metrics_that_cannot_be_written_end_the_run_with_their_name() {
    let run = Run::new();
    if !Path::new("/dev/full").exists() {
        skipped("no /dev/full here");
        return;
    }
    #[cfg(unix)]
    {
        fs::create_dir(run.path("run")).expect("a folder");
        let metrics = run.path("run/metrics.jsonl");
        std::os::unix::fs::symlink("/dev/full", &metrics).expect("a link");
        full(&run.train("run", &["train.steps=3"], &[]), "metrics.jsonl", "begins again");
        fs::remove_file(&metrics).expect("removed");
        assert_eq!(run.train("run", &["train.steps=3"], &[]).code, 0);
    }
}
