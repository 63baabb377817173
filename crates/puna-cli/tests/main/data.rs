//! `puna data`: from files to shards and back, as a user calls it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::run::{arg, command, puna};

/// Files of several formats with made-up prose.
fn inputs(folder: &Path) {
    let story = |n: usize| -> String {
        (0..200)
            .map(|i| format!("{} ", ["llama", "puna", "high", "walks"][(i * n + i / 7) % 4]))
            .collect()
    };
    fs::create_dir_all(folder.join("web")).expect("a folder");
    fs::write(folder.join("book.txt"), story(1)).expect("written");
    fs::write(folder.join("web/page.html"), format!("<p>{}</p>", story(2))).expect("written");
    let lines: String = (3..60)
        .map(|n| serde_json::json!({ "text": story(n) + &n.to_string() }).to_string() + "\n")
        .collect();
    fs::write(folder.join("web/lines.jsonl"), lines).expect("written");
}

#[test]
fn files_become_shards_that_info_describes_and_verifies() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    inputs(folder.path());
    let out = folder.path().join("tokens");
    let web = format!("web={}", arg(&folder.path().join("web")));
    let book = format!("book={}", arg(&folder.path().join("*.txt")));
    let args = [
        "data",
        "prepare",
        &web,
        &book,
        "--weight",
        "web=0.75",
        "--weight",
        "book=0.25",
        "-o",
        arg(&out),
        "--train-bpe",
        "270",
        "--validation-fraction",
        "0.2",
        "--eos",
        "--json",
    ];
    let made = puna(&args).json();
    assert_eq!(made["vocab_size"], 270);
    assert_eq!((&made["tokenizer"]["bos"], &made["tokenizer"]["eos"]), (&0.into(), &1.into()));
    assert_eq!(made["sources"][0]["weight"], 0.75);
    assert_eq!(made["sources"][0]["documents"]["read"], 58);
    assert!(made["tokens"]["train"].as_u64() > made["tokens"]["validation"].as_u64());

    let described = puna(&["data", "info", arg(&out), "--verify", "--json"]).json();
    assert_eq!(described, made);
    let text = puna(&["data", "info", arg(&out)]);
    assert!(text.stdout.contains("validation") && text.stdout.contains("book"), "{}", text.stdout);

    // The tokenizer is one that the other commands take.
    let tokens = puna(&["tokenize", "--tokenizer", arg(&out), "llama puna", "--json"]).json();
    assert_eq!(tokens["token_ids"][0], 0);

    let again = puna(&args);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("hint: choose another folder"), "{}", again.stderr);
}

#[test]
fn bad_input_names_file_and_line_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bad = folder.path().join("bad.jsonl");
    fs::write(&bad, "{\"text\": \"fine\"}\n{\"text\": \"brok\n").expect("written");
    let out = folder.path().join("tokens");
    let args = ["data", "prepare", arg(&bad), "-o", arg(&out), "--train-bpe", "300"];
    let ran = puna(&args);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("bad.jsonl: line 2: not valid JSON"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--skip-bad"), "{}", ran.stderr);
    let info = puna(&["data", "info", arg(&out)]);
    assert!(info.stderr.contains("its preparation is not finished"), "{}", info.stderr);
    let skipped = puna(&[&args[..], &["--skip-bad", "--force", "--json"]].concat()).json();
    assert_eq!(skipped["sources"][0]["documents"]["bad"], 1);

    let ran = puna(&[
        "data",
        "prepare",
        arg(&bad),
        "-o",
        arg(&out),
        "--train-bpe",
        "300",
        "--near-threshold",
        "0.5",
    ]);
    assert!(ran.stderr.contains("no effect without --dedup near"), "{}", ran.stderr);
}

#[test]
fn sources_come_from_a_toml_file_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    inputs(folder.path());
    let sources = folder.path().join("sources.toml");
    let text = "[[source]]\nname = \"web\"\ninputs = [\"web\"]\nweight = 2\n\n\
        [[source]]\nname = \"book\"\ninputs = [\"book.txt\"]\nweight = 1\n";
    fs::write(&sources, text).expect("written");
    let out = folder.path().join("tokens");
    let args = [
        "data",
        "prepare",
        "--sources",
        arg(&sources),
        "-o",
        arg(&out),
        "--json",
        "--tokenizer",
        "puna-mini",
    ];
    let made = puna(&args).json();
    assert_eq!(made["vocab_size"], 4096);
    assert_eq!(made["sources"][1]["documents"]["read"], 1);
}

/// Killed at many moments, one run after the other, the data in the end is that of one run.
#[test]
fn a_killed_preparation_continues_to_the_same_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = folder.path().join("in");
    fs::create_dir(&input).expect("a folder");
    for n in 0..40 {
        let text: String = (0..20_000).map(|i| format!("{} ", (i * i + n) % 9973)).collect();
        fs::write(input.join(format!("{n:02}.txt")), text).expect("written");
    }
    let prepare = |out: &Path| {
        let mut command = command(&["data", "prepare", arg(&input), "-o", arg(out)]);
        command.args(["--train-bpe", "300", "--shard-tokens", "100000", "--threads", "1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let whole = folder.path().join("whole");
    assert!(prepare(&whole).status().expect("it runs").success());
    let killed = folder.path().join("killed");
    // Killed between its last file and its exit, a run has nothing left to do either.
    let finished =
        || killed.join("manifest.json").exists() && !killed.join("progress.json").exists();
    for round in 1..60 {
        let mut child = prepare(&killed).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(60 * round));
        let _ = child.kill();
        child.wait().expect("gone");
        if finished() {
            break;
        }
    }
    if !finished() {
        assert!(prepare(&killed).status().expect("it runs").success());
    }
    assert_eq!(contents(&whole), contents(&killed));
    let manifest: Value =
        serde_json::from_slice(&fs::read(whole.join("manifest.json")).expect("read"))
            .expect("JSON");
    assert!(manifest["train"].as_array().expect("shards").len() > 3);
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).expect("read")))
        .collect();
    files.sort();
    files
}
