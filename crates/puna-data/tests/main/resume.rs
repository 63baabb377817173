//! A preparation that is cut off and continued gives the bytes of one that was not.

use std::fs;
use std::ops::ControlFlow;

use puna_data::prepare::{Duplicates, Source, TokenizerChoice};
use puna_data::{DataError, PrepareOptions};

use crate::fixture::{Place, contents, prepare, story};

/// Two sources of many small files, so that there are many batches to stop after.
fn place() -> (Place, PrepareOptions) {
    let place = Place::new();
    let mut line = String::new();
    for number in 0..400 {
        let name = if number < 250 { "a" } else { "b" };
        line.clear();
        line.push_str(&story(number));
        place.file(&format!("{name}/{number:03}.txt"), &line);
    }
    let mut options = place.options();
    let input = |name: &str| vec![place.path("in").join(name).to_str().expect("UTF-8").to_owned()];
    options.sources = vec![Source::new("a", input("a")), Source::new("b", input("b"))];
    options.validation_fraction = 0.1;
    options.threads = 1; // small batches
    options.shard_tokens = 2000;
    options.duplicates = Duplicates::DropNear { threshold: 0.8 };
    options.tokenizer = TokenizerChoice::TrainBpe { vocab_size: 320, most_bytes: 1 << 30 };
    (place, options)
}

/// The folder after a run is stopped when it has told of progress `calls` times.
fn stopped_after(options: &PrepareOptions, calls: usize) -> bool {
    let mut left = calls;
    let result = puna_data::prepare(options, &mut |_| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        ControlFlow::Continue(())
    });
    match result {
        Ok(_) => false,
        Err(DataError::Stopped { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_run_stopped_anywhere_continues_to_the_same_bytes() {
    let (place, mut options) = place();
    prepare(&options).expect("prepared");
    let expected = contents(&options.output);
    for calls in 0.. {
        options.output = place.path(&format!("stopped{calls}"));
        if !stopped_after(&options, calls) {
            break;
        }
        prepare(&options).expect("continued");
        assert_eq!(contents(&options.output), expected, "stopped after {calls} calls");
    }
}

#[test]
fn a_kill_behind_the_manifest_leaves_finished_data() {
    let (place, mut options) = place();
    assert!(stopped_after(&options, 3));
    let progress = options.output.join("progress.json");
    let begun = fs::read(&progress).expect("progress");
    let made = prepare(&options).expect("continued");
    let expected = contents(&options.output);
    fs::write(&progress, begun).expect("written");
    assert_eq!(prepare(&options).expect("it was finished"), made);
    assert_eq!(contents(&options.output), expected);
    // Finished data is not made again, nor taken for that of other settings.
    assert!(matches!(prepare(&options), Err(DataError::AlreadyPrepared { .. })));
    options.validation_fraction = 0.2;
    options.output = place.path("other");
    assert!(stopped_after(&options, 3));
    fs::copy(options.output.join("progress.json"), &progress).expect("copied");
    options.output = place.path("out");
    options.validation_fraction = 0.1;
    assert!(matches!(prepare(&options), Err(DataError::AlreadyPrepared { .. })));
}

#[test]
fn a_kill_between_a_shard_and_its_record_and_half_written_files_do_no_harm() {
    let (place, mut options) = place();
    prepare(&options).expect("prepared");
    let expected = contents(&options.output);
    // What a kill can leave: the progress file of an earlier moment, shards beyond it, halves.
    for finished in 0..4 {
        options.output = place.path(&format!("killed{finished}"));
        fs::create_dir(&options.output).expect("a folder");
        for (name, bytes) in &expected {
            fs::write(options.output.join(name), bytes).expect("written");
        }
        let manifest = puna_data::Manifest::read(&options.output).expect("there");
        assert!(manifest.train.len() >= 4, "{} shards", manifest.train.len());
        let state = serde_json::json!({
            "options": manifest.options,
            "tokenizer": manifest.tokenizer.sha256,
            "shards": [manifest.train[..finished], manifest.validation[..finished.min(1)]],
        });
        fs::remove_file(options.output.join("manifest.json")).expect("removed");
        fs::write(options.output.join("progress.json"), state.to_string()).expect("written");
        let half = options.output.join(".train-00003.safetensors.123.tmp");
        fs::write(half, "half").expect("written");
        fs::write(options.output.join("train-00003.safetensors"), "torn").expect("written");
        prepare(&options).expect("continued");
        assert_eq!(contents(&options.output), expected, "after {finished} shards");
    }
}

#[test]
fn other_settings_and_changed_inputs_are_refused_and_new_files_at_the_end_are_not() {
    let (place, mut options) = place();
    options.tokenizer = crate::fixture::bytes_tokenizer();
    options.sources.truncate(1);
    options.shard_tokens = 500;
    // Stopped by a bad document at the end, after many shards.
    place.file("a/zz.jsonl", "{broken");
    prepare(&options).expect_err("a bad document");

    let mut other = options.clone();
    other.validation_fraction = 0.2;
    let error = prepare(&other).expect_err("other settings");
    assert!(matches!(error, DataError::OtherSettings { .. }), "{error}");

    place.file("a/zz.jsonl", "\"mended\"");
    place.file("a/zzz.txt", "one more");
    let finished = place.path("out/train-00000.safetensors");
    let written = fs::metadata(&finished).and_then(|m| m.modified());
    let before = written.ok();
    prepare(&options).expect("continued");
    assert_eq!(fs::metadata(&finished).and_then(|m| m.modified()).ok(), before, "not again");

    fs::rename(place.path("out/manifest.json"), place.path("manifest.json")).expect("moved");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("manifest.json")).expect("read"))
            .expect("JSON");
    let state = serde_json::json!({
        "options": manifest["options"],
        "tokenizer": manifest["tokenizer"]["sha256"],
        "shards": [manifest["train"], manifest["validation"]],
    });
    fs::write(place.path("out/progress.json"), state.to_string()).expect("written");
    place.file("a/000.txt", "another text");
    let error = prepare(&options).expect_err("changed inputs");
    assert!(matches!(error, DataError::InputsChanged { .. }), "{error}");
}

#[test]
fn what_failed_before_anything_was_finished_may_be_tried_with_other_settings() {
    let place = Place::new();
    place.file("a.jsonl", "{\"body\": \"some text\"}\n");
    let mut options = place.options();
    options.tokenizer = TokenizerChoice::TrainBpe { vocab_size: 300, most_bytes: 1 << 20 };
    prepare(&options).expect_err("no key `text`");
    options.tokenizer = crate::fixture::bytes_tokenizer();
    prepare(&options).expect_err("no key `text`");
    options.text_key = "body".to_owned();
    let manifest = prepare(&options).expect("prepared");
    assert_eq!(manifest.vocab_size, 259);
}
