//! What a user reads before anything runs.

use crate::run::{command, puna};
use std::io::Read;
use std::process::Stdio;

const COMMANDS: [&str; 20] = [
    "chat",
    "generate",
    "score",
    "serve",
    "info",
    "convert",
    "data",
    "tokenize",
    "detokenize",
    "template",
    "plan",
    "pull",
    "bench",
    "fit",
    "sweep",
    "completions",
    "train",
    "merge",
    "compare-adapters",
    "pet",
];

#[test]
fn every_command_explains_itself_with_an_example() {
    let overview = puna(&["--help"]);
    for name in COMMANDS {
        assert!(overview.stdout.contains(name), "{name} is missing in puna --help");
        let help = puna(&[name, "--help"]);
        assert_eq!(help.code, 0);
        assert!(help.stdout.contains("Example"), "{name} --help has no example");
        assert!(help.stdout.contains(&format!("puna {name}")), "{name} --help shows no call");
    }
}

#[test]
fn the_version_is_the_package_s() {
    let ran = puna(&["--version"]);
    assert_eq!(ran.stdout, format!("puna {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = puna(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("detokenize"), "{shell}");
    }
}

#[test]
fn wrong_arguments_end_with_code_2() {
    for args in
        [&["frobnicate"][..], &["generate"], &["score"], &["tokenize", "a", "--text-file", "b"]]
    {
        let ran = puna(args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = command(&["generate", "A vector", "-n", "400", "--ignore-eos"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut byte = [0];
    stdout.read_exact(&mut byte).expect("some text comes");
    drop(stdout);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    let code = child.wait().expect("it ends").code();
    assert_eq!((code, stderr.contains("error")), (Some(0), false), "{stderr}");
}
