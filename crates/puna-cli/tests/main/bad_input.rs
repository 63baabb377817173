//! What `puna data prepare` and `puna train` say of input that cannot be used: the file, for text
//! the line, and what to do; exit code 2, no panic, and nothing lost.

use std::fs;
use std::path::Path;

use puna_testkit::skipped;

use crate::run::{Ran, arg, puna};
use crate::train::Run;

/// Asserts an error that names all of `named` and gives advice with `hint` in it.
fn fails(what: &str, ran: &Ran, named: &[&str], hint: &str) {
    let said = &ran.stderr;
    assert_eq!(ran.code, 2, "{what}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    for name in named {
        assert!(error.contains(name), "{what}: {name} is not in: {said}");
    }
    let hints = said.lines().filter(|line| line.starts_with("hint: ")).collect::<String>();
    assert!(hints.contains(hint), "{what}: no hint with {hint:?} in: {said}");
}

#[test]
fn files_that_cannot_be_prepared_are_named_with_the_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("empty")).expect("a folder");
    fs::create_dir(path("pictures")).expect("a folder");
    fs::write(path("pictures/a.png"), "x").expect("written");
    let cases: [(&str, &[u8], &[&str], &str); 7] = [
        (
            "a.jsonl",
            b"{\"text\": \"x\"}\n{\"text\": \"y\n",
            &["a.jsonl: line 2: ", "column 11"],
            "skip",
        ),
        ("b.txt", b"", &["b.txt: the file is empty"], "mend or remove it"),
        ("c.txt", b"ab\xFF", &["c.txt: not UTF-8 at byte 2"], "iconv"),
        ("d.jsonl", b"{\"body\": 1}\n", &["d.jsonl: line 1: no key", "body"], "--text-key"),
        ("e.csv", b"id,body\n1,x\n", &["e.csv: line 1: no key or column `text`"], "--text-key"),
        ("f.parquet", b"PAR1", &["f.parquet: damaged Parquet file"], "mend or remove it"),
        ("g.pdf", b"%PDF", &["g.pdf: unknown ending; known are txt"], ""),
    ];
    let out = path("out");
    let prepare = |input: &Path, out: &Path| {
        puna(&["data", "prepare", arg(input), "-o", arg(out), "--train-bpe", "300"])
    };
    for (name, bytes, named, hint) in cases {
        fs::write(path(name), bytes).expect("written");
        fails(name, &prepare(&path(name), &out), named, hint);
        assert!(!out.join("manifest.json").exists(), "{name}");
        let _ = fs::remove_dir_all(&out);
    }
    fails("missing", &prepare(&path("nowhere"), &out), &["nowhere: no such file"], "");
    fails("empty", &prepare(&path("empty"), &out), &["empty: there is no file in it"], "");
    fails("pictures", &prepare(&path("pictures"), &out), &["none of its 1 files", "jsonl"], "");
    fs::write(path("good.txt"), "some text").expect("written");
    for output in [path("good.txt"), path("good.txt/out")] {
        let said = prepare(&path("good.txt"), &output);
        fails("a file as output", &said, &["good.txt", "cannot create"], "choose another folder");
    }
    assert_eq!(fs::read(path("good.txt")).expect("there"), b"some text");
}

#[test]
fn tokens_that_are_not_as_they_were_prepared_are_refused() {
    let run = Run::new();
    let (whole, tokens) = (run.path("tokens"), run.path("damaged"));
    let shard = tokens.join("train-00000.safetensors");
    let manifest = tokens.join("manifest.json");
    let cut = |path: &Path, keep: usize| {
        let bytes = fs::read(path).expect("there");
        fs::write(path, &bytes[..keep.min(bytes.len() - 1)]).expect("written");
    };
    type Damage<'a> = &'a dyn Fn();
    let beyond = || {
        let mut bytes = fs::read(&shard).expect("there");
        let tokens = bytes.len() / 2;
        bytes[tokens..].fill(0xFF);
        fs::write(&shard, bytes).expect("written");
    };
    let cases: [(&str, Damage<'_>, &[&str], &str); 7] = [
        ("a short shard", &|| cut(&shard, usize::MAX), &["train-00000.safetensors: size"], "again"),
        ("ids", &beyond, &["train-00000.safetensors: tokens: expected ids below 280"], "again"),
        ("no shard", &|| fs::remove_file(&shard).expect("removed"), &["train-00000"], "again"),
        ("a short manifest", &|| cut(&manifest, 200), &["manifest.json", "line"], "again"),
        ("an empty manifest", &|| cut(&manifest, 0), &["manifest.json", "line 1"], "again"),
        (
            "no manifest",
            &|| fs::remove_file(&manifest).expect("removed"),
            &["no manifest.json"],
            "data prepare",
        ),
        (
            "no tokenizer",
            &|| fs::remove_file(tokens.join("tokenizer.json")).expect("removed"),
            &["tokenizer.json: missing", "manifest.json"],
            "again",
        ),
    ];
    for (what, damage, named, hint) in cases {
        let _ = fs::remove_dir_all(&tokens);
        fs::create_dir(&tokens).expect("a folder");
        for entry in fs::read_dir(&whole).expect("listed").flatten() {
            fs::copy(entry.path(), tokens.join(entry.file_name())).expect("copied");
        }
        damage();
        let _ = fs::remove_dir_all(run.path("run"));
        let data = format!("data.train={}", arg(&tokens));
        fails(what, &run.train("run", &[&data], &[]), named, hint);
        let checked = puna(&["data", "info", arg(&tokens), "--verify"]);
        fails(what, &checked, &[], hint);
    }
    for (set, named) in [("nowhere", "nowhere: no manifest"), ("text.jsonl", "text.jsonl: no")] {
        let data = format!("data.train={}", arg(&run.path(set)));
        fails(set, &run.train("none", &[&data], &[]), &[named], "data prepare");
    }
}

#[test]
fn conversations_that_cannot_be_read_are_named_with_the_line() {
    let run = Run::new();
    let good = "{\"instruction\": \"Hi\", \"output\": \"Hello\"}\n";
    let talks = run.path("talks.jsonl");
    let tokens = format!("model.tokenizer={}", arg(&run.path("tokens")));
    let train = |path: &Path, set: &[&str]| {
        let _ = fs::remove_dir_all(run.path("sft"));
        let data = format!("data.train={}", arg(path));
        let own = ["task=sft", &data, &tokens, "data.template=alpaca", "data.sequence_length=400"];
        run.train("sft", &[&own[..], set].concat(), &[])
    };
    let line2 = "talks.jsonl, line 2";
    let cases: [(&[u8], &[&str]); 7] = [
        (b"{\"instruction\": \"x\n", &[line2, "column 18", "not valid JSON"]),
        (b"{\"instruction\": \"\xFF\"}\n", &[line2, "not UTF-8"]),
        (b"{\"instruction\": \"x\"}\n", &[line2, "key `output` is missing"]),
        (b"{\"foo\": 1}\n", &[line2, "key `instruction` is missing"]),
        (b"{\"instruction\": 1, \"output\": \"x\"}\n", &[line2, "expected a text"]),
        (b"[1]\n", &[line2, "expected an object"]),
        (b"\"x\"\n", &[line2, "expected an object"]),
    ];
    for (line, named) in cases {
        fs::write(&talks, [good.as_bytes(), line].concat()).expect("written");
        fails(&String::from_utf8_lossy(line), &train(&talks, &[]), named, "");
    }
    fs::write(&talks, "{\"foo\": 1, \"bar\": 2}\n").expect("written");
    let known = "fit no known format (`messages`, `conversations`, or";
    fails("format", &train(&talks, &[]), &["talks.jsonl, line 1", "`foo`, `bar`", known], "");
    fs::write(&talks, "").expect("written");
    fails("empty", &train(&talks, &[]), &["talks.jsonl holds no conversations"], "");
    fails("missing", &train(&run.path("none.jsonl"), &[]), &["none.jsonl", "No such file"], "");
    fs::write(&talks, good).expect("written");
    let long = train(&talks, &["data.sequence_length=8"]);
    fails("long", &long, &["1 longer than a row"], "");
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_the_first_step() {
    let run = Run::new();
    let config = fs::read_to_string(run.path("config.json")).expect("there");
    let cases: [(&str, &str, &[&str], &str); 6] = [
        ("\"vocab_size\":280", "\"vocab_size\":270", &["280 tokens", "270 rows"], "tokenizer"),
        ("\"hidden_size\":32", "\"hidden_size\":33", &["config.json", "hidden_size is 33"], ""),
        ("\"hidden_size\":32", "\"hidden_size\":\"x\"", &["config.json", "hidden_size"], ""),
        ("\"hidden_size\":32", "\"hidden_size\":99999999996", &["config.json", "from 1 to"], ""),
        (
            "\"num_key_value_heads\":2",
            "\"num_key_value_heads\":3",
            &["config.json", "num_key_value_heads is 3"],
            "",
        ),
        ("\"hidden_size\"", "\"hidden_size", &["config.json", "line 1"], ""),
    ];
    for (from, to, named, hint) in cases {
        assert!(config.contains(from), "{from} in {config}");
        fs::write(run.path("config.json"), config.replace(from, to)).expect("written");
        fails(to, &run.train("run", &[], &[]), named, hint);
        assert!(!run.path("run/checkpoints").exists());
    }
    fs::write(run.path("config.json"), config).expect("written");
    let blocked = run.path("text.jsonl");
    for output in ["text.jsonl", "text.jsonl/run"] {
        let said = run.train(output, &[], &[]);
        fails("a file as output", &said, &["text.jsonl", "cannot create"], "another folder");
    }
    assert!(fs::metadata(blocked).expect("there").len() > 1000);
    read_only(&run);
}

/// A folder that may not be written; root may write anywhere.
#[cfg(unix)]
fn read_only(run: &Run) {
    use std::os::unix::fs::PermissionsExt;
    let folder = run.path("read-only");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).expect("read-only");
    if fs::write(folder.join("x"), "x").is_ok() {
        skipped("this user may write into folders that are read-only");
        return;
    }
    let said = run.train("read-only/run", &[], &[]);
    fails("a read-only folder", &said, &["read-only"], "choose a place");
}

#[cfg(not(unix))]
fn read_only(_: &Run) {
    skipped("no permissions of Unix here");
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on() {
    let run = Run::new();
    let set = ["train.steps=6", "schedule.name=constant"];
    assert_eq!(run.train("run", &set, &[]).code, 0);
    let expected = run.tensors("run", 6);
    let newest = run.path("run/checkpoints/step-00000006");
    for name in ["model.safetensors", "optimizer.safetensors", "config.json", "recipe.toml"] {
        let file = newest.join(name);
        let bytes = fs::read(&file).expect("there");
        // Half a recipe may be one.
        let half = if name == "recipe.toml" { 20 } else { bytes.len() / 2 };
        for keep in [0, 20, half] {
            fs::write(&file, &bytes[..keep]).expect("written");
            let said = run.train("run", &set, &["--resume"]);
            let named = ["step-00000006 is damaged", name];
            fails(&format!("{name}, {keep} bytes"), &said, &named, "remove that folder");
        }
        fs::write(&file, &bytes).expect("written");
        if name != "config.json" && name != "model.safetensors" {
            fs::remove_file(&file).expect("removed");
            let said = run.train("run", &set, &["--resume"]);
            fails(name, &said, &[name, "missing"], "remove that folder");
            fs::write(&file, &bytes).expect("written");
        }
    }
    fs::remove_dir_all(&newest).expect("removed");
    let said = run.train("run", &set, &["--resume"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(run.tensors("run", 6) == expected, "the same bits, one step later");
}

#[test]
fn a_run_goes_on_only_with_the_rows_that_it_began_with() {
    let run = Run::new();
    assert_eq!(run.train("run", &["train.steps=2"], &[]).code, 0);
    for (set, key) in [
        ("data.sequence_length=16", "data.sequence_length = 32, not 16"),
        ("data.shuffle=false", "data.shuffle = not set, not false"),
        ("data.document_mask=true", "data.document_mask = false, not true"),
    ] {
        let said = run.train("run", &["train.steps=4", set], &["--resume"]);
        fails(set, &said, &["step-00000002", key], "give it its old value back");
    }
    // The same folder, made of other text.
    let (tokens, text) = (run.path("tokens"), run.path("other.jsonl"));
    fs::write(&text, "{\"text\": \"the wind walks over the grass of the high puna\"}\n".repeat(9))
        .expect("written");
    fs::rename(&tokens, run.path("kept")).expect("renamed");
    let args = ["data", "prepare", arg(&text), "-o", arg(&tokens), "--dedup", "none"];
    let own =
        ["--tokenizer", arg(&run.path("kept")), "--validation-fraction", "0"].map(str::to_owned);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let made = puna(&[&args[..], &own].concat());
    assert_eq!(made.code, 0, "{}", made.stderr);
    let said = run.train("run", &["train.steps=4"], &["--resume"]);
    fails("other tokens", &said, &["data.train", "SHA-256"], "give it its old value back");
    fs::remove_dir_all(&tokens).expect("removed");
    // Where they lie does not matter, nor what says how steps are made.
    let moved = format!("data.train={}", arg(&run.path("kept")));
    let set = ["train.steps=4", &moved, "optimizer.lr=1e-3", "train.micro_batch=4"];
    let said = run.train("run", &set, &["--resume"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
}

#[test]
fn a_continued_run_renders_conversations_as_on_the_day_it_began() {
    let run = Run::new();
    let talks: String = (0..20)
        .map(|i| format!("{{\"instruction\": \"say {i}\", \"output\": \"llama puna {i}\"}}\n"))
        .collect();
    fs::write(run.path("talks.jsonl"), talks).expect("written");
    let template = "{{ strftime_now('%F %T') }}\n{% for m in messages %}{{ m.role }}: \
                    {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n\
                    {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    fs::write(run.path("template.jinja"), template).expect("written");
    let data = format!("data.train={}", arg(&run.path("talks.jsonl")));
    let template = format!("data.template={}", arg(&run.path("template.jinja")));
    let tokens = format!("model.tokenizer={}", arg(&run.path("tokens")));
    let set = ["task=sft", &data, &template, &tokens, "data.sequence_length=400", "train.steps=4"];
    let made = run.train("run", &set, &[]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let expected = run.tensors("run", 4);
    fs::remove_dir_all(run.path("run/checkpoints/step-00000004")).expect("removed");
    // Long enough for the clock to say something else.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let made = run.train("run", &set, &["--resume"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(run.tensors("run", 4) == expected, "the same text, so the same bits");
}
