//! What preparation makes of documents: order, splits, filters, duplicates, tokenizers.

use std::fs;

use puna_data::manifest::{MANIFEST, TokenType};
use puna_data::prepare::{Duplicates, Existing, Mark, Source, TokenizerChoice};
use puna_data::{DataError, Manifest, Split, TokenData};

use crate::fixture::{Place, bytes_tokenizer, contents, prepare, story, texts};

/// Lines of JSON, one per document.
fn lines(documents: impl Iterator<Item = String>) -> String {
    documents.map(|text| serde_json::to_string(&text).expect("JSON") + "\n").collect()
}

#[test]
fn documents_stay_in_order_whatever_the_number_of_threads() {
    let place = Place::new();
    place.file("b.jsonl", lines((0..300).map(story)));
    place.file("a.txt", "the first");
    let mut results = Vec::new();
    for threads in [1, 2, 7] {
        let mut options = place.options();
        options.output = place.path(&format!("out{threads}"));
        options.threads = threads;
        options.validation_fraction = 0.1;
        options.shard_tokens = 3000;
        options.duplicates = Duplicates::DropNear { threshold: 0.8 };
        options.tokenizer = TokenizerChoice::TrainBpe { vocab_size: 400, most_bytes: 1 << 30 };
        prepare(&options).expect("prepared");
        results.push(contents(&options.output));
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    let names: Vec<&str> = results[0].iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"train-00001.safetensors"), "{names:?}");
    assert!(names.contains(&"validation-00000.safetensors"), "{names:?}");
    assert!(!names.contains(&"progress.json"), "{names:?}");
    let train = texts(&place.path("out1"), Split::Train);
    assert_eq!(train[0], "the first");
    let held_out = texts(&place.path("out1"), Split::Validation);
    assert!((10..60).contains(&held_out.len()), "{} of 301 held out", held_out.len());
}

#[test]
fn the_manifest_counts_documents_tokens_and_bytes() {
    let place = Place::new();
    place.file("a.jsonl", "\"one\"\n\"\"\n\"one\"\n\" one \"\n\"three\"\n");
    place.file("left.out", "x");
    let manifest = prepare(&place.options()).expect("prepared");
    assert_eq!(manifest, Manifest::read(&place.path("out")).expect("readable"));
    assert_eq!((manifest.vocab_size, manifest.dtype), (259, TokenType::U16));
    assert_eq!((manifest.tokenizer.bos, manifest.tokenizer.eos), (Some(0), None));
    let source = &manifest.sources[0];
    assert_eq!((source.files, source.files_left_out), (1, 1));
    let counts = source.documents;
    assert_eq!((counts.read, counts.empty, counts.exact_duplicates, counts.train), (5, 1, 2, 2));
    let shard = &manifest.train[0];
    // bos and the bytes of "one" and "three"
    assert_eq!((shard.tokens, shard.documents, shard.text_bytes), (4 + 6, 2, 8));
    assert!(manifest.validation.is_empty());
}

#[test]
fn bos_and_eos_are_the_tokenizer_s_unless_asked_otherwise() {
    let cases = [
        (Mark::AsTokenizer, Mark::AsTokenizer, 1 + 3),
        (Mark::Never, Mark::AsTokenizer, 3),
        (Mark::AsTokenizer, Mark::Always, 1 + 3 + 1),
        (Mark::Never, Mark::Never, 3),
    ];
    for (bos, eos, tokens) in cases {
        let place = Place::new();
        place.file("a.txt", "abc");
        let mut options = place.options();
        (options.bos, options.eos) = (bos, eos);
        let manifest = prepare(&options).expect("prepared");
        assert_eq!(manifest.tokens(Split::Train), tokens, "{bos:?} {eos:?}");
    }
}

#[test]
fn near_duplicates_are_dropped_across_sources_and_the_first_stays() {
    let place = Place::new();
    let text: String = (0..200).map(|i| format!("word{i} ")).collect();
    place.file("a/1.txt", &text);
    place.file("b/1.txt", text.replace("word77 ", "other "));
    place.file("b/2.txt", story(5));
    let mut options = place.options();
    let input = |name: &str| vec![place.path("in").join(name).to_str().expect("UTF-8").to_owned()];
    options.sources = vec![Source::new("a", input("a")), Source::new("b", input("b"))];
    for (threshold, near) in [(0.8, 1), (1.0, 0)] {
        options.existing = Existing::Replace;
        options.duplicates = Duplicates::DropNear { threshold };
        let manifest = prepare(&options).expect("prepared");
        assert_eq!(manifest.sources[1].documents.near_duplicates, near, "{threshold}");
        assert_eq!(texts(&place.path("out"), Split::Train)[0], text);
    }
}

#[test]
fn a_long_document_is_cut_at_line_ends() {
    let place = Place::new();
    let text: String = (0..100).map(|i| format!("line {i}\n")).collect();
    place.file("a.jsonl", lines(std::iter::once(text.clone())));
    let mut options = place.options();
    options.piece_bytes = 100;
    prepare(&options).expect("prepared");
    let pieces = texts(&place.path("out"), Split::Train);
    assert!(pieces.len() > 8 && pieces.iter().all(|piece| piece.ends_with('\n')));
    assert_eq!(pieces.concat(), text);
}

#[test]
fn a_separator_makes_documents_of_a_text_file() {
    let place = Place::new();
    place.file("a.txt", "one<|endoftext|>two<|endoftext|>\n");
    let mut options = place.options();
    options.separator = Some("<|endoftext|>".to_owned());
    prepare(&options).expect("prepared");
    assert_eq!(texts(&place.path("out"), Split::Train), ["one", "two"]);
}

#[test]
fn a_trained_tokenizer_lies_beside_the_shards_with_its_special_tokens_first() {
    let place = Place::new();
    place.file("a.jsonl", lines((0..50).map(story)));
    let mut options = place.options();
    options.tokenizer = TokenizerChoice::TrainBpe { vocab_size: 300, most_bytes: 1 << 30 };
    let manifest = prepare(&options).expect("prepared");
    assert_eq!(manifest.vocab_size, 300);
    let tokenizer = puna_text::Tokenizer::from_path(&place.path("out")).expect("loads");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(0), vec![1], Some(2)));
    assert_eq!(texts(&place.path("out"), Split::Train).len(), 50);
}

#[test]
fn more_text_than_a_tokenizer_may_see_is_sampled_the_same_way_each_time() {
    let place = Place::new();
    place.file("a.jsonl", lines((0..200).map(story)));
    let mut options = place.options();
    options.tokenizer = TokenizerChoice::TrainBpe { vocab_size: 300, most_bytes: 5000 };
    let first = prepare(&options).expect("prepared");
    options.existing = Existing::Replace;
    options.threads = 5;
    assert_eq!(first, prepare(&options).expect("prepared"));
}

#[test]
fn a_tokenizer_folder_is_copied() {
    let place = Place::new();
    let TokenizerChoice::Files(files) = bytes_tokenizer() else { panic!("files") };
    fs::create_dir(place.path("model")).expect("a folder");
    for (name, bytes) in &files {
        fs::write(place.path("model").join(name), bytes).expect("written");
    }
    fs::write(place.path("model/chat_template.jinja"), "{{ bos_token }}").expect("written");
    place.file("a.txt", "abc");
    let mut options = place.options();
    options.tokenizer = TokenizerChoice::Path(place.path("model"));
    prepare(&options).expect("prepared");
    let names: Vec<String> = contents(&place.path("out")).into_iter().map(|(n, _)| n).collect();
    assert_eq!(
        names,
        [
            "chat_template.jinja",
            "manifest.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "train-00000.safetensors"
        ]
    );
}

#[test]
fn finished_data_and_other_files_are_not_overwritten_unasked() {
    let place = Place::new();
    place.file("a.txt", "abc");
    let mut options = place.options();
    prepare(&options).expect("prepared");
    let error = prepare(&options).expect_err("it is there");
    assert!(matches!(error, DataError::AlreadyPrepared { .. }), "{error}");
    options.existing = Existing::Replace;
    options.sources[0].inputs = vec![place.path("in/a.txt").to_str().expect("UTF-8").to_owned()];
    prepare(&options).expect("replaced");

    options.output = place.path("in");
    let error = prepare(&options).expect_err("a folder of something else");
    assert!(matches!(error, DataError::NotEmpty { .. }), "{error}");
    assert_eq!(contents(&place.path("in")).len(), 1);
}

#[test]
fn a_vocabulary_beyond_two_bytes_gets_four() {
    let place = Place::new();
    place.file("a.txt", "abc<|far|>d");
    let TokenizerChoice::Files(mut files) = bytes_tokenizer() else { panic!("files") };
    let mut json: serde_json::Value = serde_json::from_slice(&files[0].1).expect("JSON");
    json["model"]["vocab"]["<|far|>"] = 70_000.into();
    json["added_tokens"].as_array_mut().expect("a list").push(serde_json::json!({
        "id": 70_000, "content": "<|far|>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true,
    }));
    files[0].1 = json.to_string().into_bytes();
    let mut options = place.options();
    options.tokenizer = TokenizerChoice::Files(files);
    let manifest = prepare(&options).expect("prepared");
    assert_eq!((manifest.dtype, manifest.vocab_size), (TokenType::U32, 70_001));
    assert_eq!(manifest.tokens(Split::Train), 1 + 3 + 1 + 1);
    let data = TokenData::open(&place.path("out")).expect("sound");
    data.verify(&mut |_| {}).expect("sound");
    assert!(place.path("out").join(MANIFEST).is_file());
}
