//! Bad inputs: an error that names file and place, nothing that looks finished; or skipped and
//! counted, as asked.

use std::fs;

use puna_data::prepare::{BadDocuments, TokenizerChoice};
use puna_data::{DataError, Split, TokenData};

use crate::fixture::{Place, prepare, texts};
use crate::formats::write_parquet;

/// The message of a preparation that fails; the folder is not taken for finished data.
fn fails(place: &Place) -> String {
    let error = prepare(&place.options()).expect_err("the input is bad").to_string();
    let open = TokenData::open(&place.path("out")).expect_err("nothing is finished");
    assert!(matches!(open, DataError::NoManifest { unfinished: true, .. }), "{open}");
    error
}

#[test]
fn bad_files_are_named_with_the_place() {
    let cases: [(&str, &[u8], &str); 15] = [
        ("a.jsonl", b"{\"text\":\"x\"}\n{\"text\": \"y\n", "a.jsonl: line 2: not valid JSON: "),
        (
            "b.jsonl",
            b"{\"body\":\"x\"}\n",
            "b.jsonl: line 1: no key or column `text`; there are: body",
        ),
        ("c.jsonl", b"{\"text\":7}\n", "c.jsonl: line 1: expected a string under the text's key"),
        ("d.jsonl", b"\"a\"\n\"\xFF\"\n", "d.jsonl: line 2: not UTF-8 at byte 1 of the line"),
        ("e.txt", b"abc\xC3(", "e.txt: not UTF-8 at byte 3 of the file"),
        ("f.txt", b"\xFF\xFEa\0b\0", "it looks like UTF-16"),
        ("g.txt", b"", "g.txt: the file is empty"),
        ("h.jsonl", b"\n\n", "h.jsonl: the file is empty"),
        ("i.json", b"[\"a\",\n{\"text\": \"b\"},\n oops]", "i.json: line 3: not valid JSON: "),
        ("j.json", b"[1]", "j.json: element 1: expected an object or a string, got a number"),
        ("k.csv", b"id,body\n1,x\n", "k.csv: line 1: no key or column `text`; there are: id, body"),
        (
            "l.csv",
            b"id,text\n1,x\n2\n",
            "l.csv: line 3: damaged CSV file: 1 fields, but the header has 2",
        ),
        ("m.parquet", b"PAR1 this is no table", "m.parquet: damaged Parquet file: "),
        ("n.txt.gz", b"\x1F\x8B\x08\0\0\0\0\0\0\x03oops", "n.txt.gz: cannot read on: "),
        ("o.txt.zst", b"no zstd", "o.txt.zst: cannot read on: "),
    ];
    for (name, bytes, expected) in cases {
        let place = Place::new();
        place.file(name, bytes);
        let message = fails(&place);
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.contains("in/"), "the path is missing: {message}");
    }
}

#[test]
fn a_null_in_a_table_is_named_with_its_row() {
    let place = Place::new();
    place.file("a.txt", "x");
    write_parquet(&place.path("in/t.parquet"), &[Some("a"), None]);
    assert!(fails(&place).contains("t.parquet: row 2: expected a string, got null"));
}

#[test]
fn a_truncated_parquet_file_is_an_error_at_every_length() {
    let place = Place::new();
    let path = place.path("in/t.parquet");
    write_parquet(&path, &[Some("some text"), Some("and more")]);
    let bytes = fs::read(&path).expect("read");
    for keep in (0..bytes.len()).step_by(7) {
        let place = Place::new();
        place.file("t.parquet", &bytes[..keep]);
        assert!(fails(&place).contains("t.parquet: "));
    }
}

#[test]
fn bad_documents_are_skipped_and_counted_when_asked() {
    let place = Place::new();
    place.file("a.jsonl", "\"one\"\n{broken\n{\"other\": 1}\n\"two\"\n");
    place.file("b.txt", b"\xFF");
    place.file("c.txt", b"");
    place.file("d.csv", "text,id\nthree,1\nx\nfour,2\n");
    place.file("e.json", "[\"five\", 6, oops");
    let mut options = place.options();
    options.bad_documents = BadDocuments::Skip;
    let manifest = prepare(&options).expect("prepared");
    assert_eq!(texts(&place.path("out"), Split::Train), ["one", "two", "three", "four", "five"]);
    let counts = manifest.sources[0].documents;
    assert_eq!((counts.read, counts.bad, counts.train), (12, 7, 5));
}

#[test]
fn a_tokenizer_that_cannot_be_is_named() {
    let place = Place::new();
    place.file("a.txt", "x");
    let path = place.path("tokenizer.json");
    let mut options = place.options();
    options.tokenizer = TokenizerChoice::Path(path.clone());
    assert!(prepare(&options).expect_err("none there").to_string().contains("tokenizer.json"));
    fs::write(&path, "{}").expect("written");
    let error = prepare(&options).expect_err("malformed");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    options.tokenizer = TokenizerChoice::TrainBpe { vocab_size: 258, most_bytes: 1 << 20 };
    let error = prepare(&options).expect_err("too small");
    assert!(error.to_string().contains("at least 259"), "{error}");
}

#[test]
fn settings_that_cannot_be_are_refused_before_anything_is_written() {
    let place = Place::new();
    place.file("a.txt", "x");
    let mut options = place.options();
    options.validation_fraction = 1.5;
    assert!(prepare(&options).is_err());
    let mut options = place.options();
    options.sources.push(options.sources[0].clone());
    assert!(prepare(&options).expect_err("twice").to_string().contains("data twice"));
    let mut options = place.options();
    options.sources[0].inputs = vec!["no/such/file.txt".to_owned()];
    let error = prepare(&options).expect_err("no input");
    assert!(error.to_string().contains("no/such/file.txt"), "{error}");
    assert!(!place.path("out").exists());
}

#[test]
fn a_preparation_that_keeps_nothing_says_why() {
    let place = Place::new();
    place.file("a.jsonl", "\"\"\n\"  \"\n");
    let error = prepare(&place.options()).expect_err("nothing kept");
    assert_eq!(error.to_string(), "no document is left of 2: 2 empty");
}

#[test]
fn damaged_shards_are_found() {
    let place = Place::new();
    place.file("a.txt", "some text of which tokens are made");
    prepare(&place.options()).expect("prepared");
    let out = place.path("out");
    TokenData::open(&out).expect("sound").verify(&mut |_| {}).expect("sound");
    let shard = out.join("train-00000.safetensors");
    let bytes = fs::read(&shard).expect("read");

    fs::write(&shard, &bytes[..bytes.len() - 2]).expect("written");
    let error = TokenData::open(&out).expect_err("too short");
    assert!(error.to_string().contains("train-00000.safetensors: size: expected"), "{error}");

    let mut other = bytes.clone();
    *other.last_mut().expect("bytes") ^= 0x40; // the high byte of the last token
    fs::write(&shard, &other).expect("written");
    let data = TokenData::open(&out).expect("headers and sizes are sound");
    let error = data.verify(&mut |_| {}).expect_err("changed");
    assert!(error.to_string().contains("SHA-256"), "{error}");

    fs::remove_file(&shard).expect("removed");
    assert!(TokenData::open(&out).expect_err("gone").to_string().contains("train-00000"));
}
