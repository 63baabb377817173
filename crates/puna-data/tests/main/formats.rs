//! Every input format, plain and compressed, gives the same documents.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use puna_data::Split;

use crate::fixture::{Place, prepare, texts};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("compressed")
}

/// A table with a column `id` of numbers and one `text` of strings.
pub(crate) fn write_parquet(path: &Path, texts: &[Option<&str>]) {
    let schema = "message t { required int32 id; optional binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let file = File::create(path).expect("a file");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("ok").expect("the column id");
    let ids: Vec<i32> = (0..texts.len() as i32).collect();
    column.typed::<parquet::data_type::Int32Type>().write_batch(&ids, None, None).expect("ids");
    column.close().expect("closed");
    let mut column = group.next_column().expect("ok").expect("the column text");
    let values: Vec<ByteArray> = texts.iter().flatten().map(|t| ByteArray::from(*t)).collect();
    let there: Vec<i16> = texts.iter().map(|t| i16::from(t.is_some())).collect();
    column.typed::<ByteArrayType>().write_batch(&values, Some(&there), None).expect("texts");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
}

#[test]
fn every_format_gives_its_documents() {
    let parquet = {
        let place = Place::new();
        let path = place.path("t.parquet");
        write_parquet(&path, &[Some("first"), Some("sécond\n")]);
        std::fs::read(path).expect("read")
    };
    let cases: [(&str, &[u8]); 9] = [
        ("a.txt", b"first"),
        ("a.md", b"# first"),
        ("a.html", b"<html><body><p>first</p><p>s&eacute;cond</p></body></html>"),
        ("a.json", r#"[{"text": "first", "id": 1}, "sécond\n"]"#.as_bytes()),
        ("lines.json", "{\"text\": \"first\"}\n{\"text\": \"sécond\\n\"}\n".as_bytes()),
        ("a.jsonl", "\u{feff}{\"text\": \"first\"}\r\n\n\"sécond\\n\"".as_bytes()),
        ("a.csv", "id,text\n1,first\n2,\"sécond\n\"\n".as_bytes()),
        ("a.tsv", "text\tid\nfirst\t1\n\"sécond\n\"\t2\n".as_bytes()),
        ("a.parquet", &parquet),
    ];
    for (name, bytes) in cases {
        let expected: &[&str] = match name {
            "a.txt" => &["first"],
            "a.md" => &["# first"],
            "a.html" => &["first\n\nsécond\n"],
            _ => &["first", "sécond\n"],
        };
        let packed = [
            (name.to_owned(), bytes.to_vec()),
            (format!("{name}.gz"), gzip(bytes)),
            (format!("{name}.zst"), zstd(bytes)),
        ];
        for (name, bytes) in packed {
            let place = Place::new();
            place.file(&name, bytes);
            let manifest = prepare(&place.options()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(texts(&place.path("out"), Split::Train), expected, "{name}");
            assert_eq!(manifest.sources[0].documents.read, expected.len() as u64, "{name}");
        }
    }
}

#[test]
fn the_text_s_key_can_be_chosen_for_all_and_for_a_source() {
    let place = Place::new();
    place.file("a.jsonl", r#"{"body": "from a"}"#);
    place.file("b.csv", "content\nfrom b\n");
    let mut options = place.options();
    options.text_key = "body".to_owned();
    let input = |name: &str| place.path("in").join(name).to_str().expect("UTF-8").to_owned();
    options.sources[0].inputs = vec![input("a.jsonl")];
    let mut other = puna_data::prepare::Source::new("b", vec![input("b.csv")]);
    other.text_key = Some("content".to_owned());
    options.sources.push(other);
    prepare(&options).expect("prepared");
    assert_eq!(texts(&place.path("out"), Split::Train), ["from a", "from b"]);
}

#[test]
fn several_gzip_members_and_zstd_frames_are_one_file() {
    for (name, pack) in [("a.txt.gz", gzip as fn(&[u8]) -> Vec<u8>), ("a.txt.zst", zstd)] {
        let place = Place::new();
        place.file(name, [pack(b"one "), pack(b"two")].concat());
        prepare(&place.options()).expect("prepared");
        assert_eq!(texts(&place.path("out"), Split::Train), ["one two"], "{name}");
    }
}
