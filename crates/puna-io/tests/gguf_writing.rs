//! What the GGUF writer writes is read back as it was, whole and split.

use std::fs;
use std::path::Path;

use puna_io::gguf::Array;
use puna_io::{Dtype, Gguf, GgufValue, GgufWriter, IoError, TensorBytes, TensorInfo};

use crate::support::golden;

type Keys = Vec<(String, GgufValue)>;
type Plan = Vec<(String, TensorInfo)>;

fn contents(gguf: &Gguf) -> (Keys, Plan) {
    let metadata = gguf.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    let tensors = gguf.tensors().map(|(n, i)| (n.to_owned(), i.clone())).collect();
    (metadata, tensors)
}

#[test]
fn a_golden_file_is_copied_byte_for_byte() {
    let dir = tempfile::tempdir().expect("temp");
    for (case, file) in [("q4_k_m", "model-q4_k_m"), ("gemma2", "model-bf16"), ("f32", "model-f32")]
    {
        let Some(golden) = golden(&format!("gguf/{case}")) else { return };
        let source_path = golden.join(format!("{file}.gguf"));
        let source = Gguf::open(&source_path).expect("sound");
        let (metadata, tensors) = contents(&source);
        let path = dir.path().join("copy.gguf");
        let written = GgufWriter::new(metadata)
            .write(&path, &tensors, |name| source.tensor(name).map(|t| t.bytes))
            .expect("written");
        assert_eq!(written, std::slice::from_ref(&path));
        let (old, new) = (fs::read(&source_path).expect("read"), fs::read(&path).expect("read"));
        assert!(old == new, "{case}: the copy differs");
    }
}

#[test]
fn every_kind_of_value_survives() {
    let metadata: Vec<(String, GgufValue)> = [
        GgufValue::U8(255),
        GgufValue::I8(-128),
        GgufValue::U16(65_535),
        GgufValue::I16(-2),
        GgufValue::U32(1 << 31),
        GgufValue::I32(-3),
        GgufValue::U64(u64::MAX),
        GgufValue::I64(i64::MIN),
        GgufValue::F32(0.1),
        GgufValue::F64(-0.1),
        GgufValue::Bool(true),
        GgufValue::String("Ünï\0".into()),
        GgufValue::strings(vec![String::new(), "▁a".into()]),
        GgufValue::f32s(vec![1.5, -2.5]),
        GgufValue::i32s(Vec::new()),
        GgufValue::u32s(vec![7]),
        GgufValue::Array(Array::Bool(vec![true, false])),
        GgufValue::Array(Array::U8(vec![1, 2, 3])),
        GgufValue::Array(Array::I64(vec![-1])),
        GgufValue::Array(Array::F64(vec![1e300])),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, value)| (format!("puna.key.{i}"), value))
    .collect();
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("values.gguf");
    GgufWriter::new(metadata.clone())
        .write(&path, &[], |_| Err(IoError::invalid(&path, "no tensor", "none", "one")))
        .expect("written");
    let gguf = Gguf::open(&path).expect("sound");
    assert_eq!(contents(&gguf), (metadata, Vec::new()));
}

fn vector(name: &str, length: usize) -> (String, TensorInfo) {
    (name.to_owned(), TensorInfo { dtype: Dtype::F32, shape: vec![length] })
}

/// Bytes that differ by tensor.
fn filled(tensors: &[(String, TensorInfo)], name: &str) -> TensorBytes {
    let i = tensors.iter().position(|(n, _)| n == name).expect("planned");
    TensorBytes::from_vec(vec![i as u8 + 1; tensors[i].1.byte_len().expect("small")])
}

fn write(path: &Path, limit: Option<u64>) -> Vec<String> {
    let tensors = [vector("a", 8), vector("b", 8), vector("c", 100), vector("d", 3)];
    let metadata = vec![
        ("general.architecture".to_owned(), GgufValue::String("llama".into())),
        ("split.count".to_owned(), GgufValue::U16(9)),
    ];
    let files = GgufWriter::new(metadata)
        .max_part_bytes(limit)
        .write(path, &tensors, |name| Ok::<_, IoError>(filled(&tensors, name)))
        .expect("written");
    let gguf = Gguf::open(&files[0]).expect("sound");
    assert_eq!(contents(&gguf).1, tensors);
    for (name, _) in &tensors {
        assert_eq!(*gguf.tensor(name).expect(name).bytes, *filled(&tensors, name), "{name}");
    }
    assert_eq!(gguf.files(), files);
    assert_eq!(gguf.metadata().get_str("general.architecture"), Some("llama"));
    files.iter().map(|f| f.file_name().expect("a name").to_string_lossy().into_owned()).collect()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("listable");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_limit_splits_and_stale_parts_go() {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("m.gguf");
    fs::write(dir.path().join("other-00001-of-00009.gguf"), b"kept").expect("write");
    let three = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    assert_eq!(write(&path, Some(64)), three);
    let two = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    assert_eq!(write(&path, Some(464)), two);
    assert_eq!(names_in(dir.path()), [two[0], two[1], "other-00001-of-00009.gguf"]);
    assert_eq!(write(&path, None), ["m.gguf"]);
    assert_eq!(names_in(dir.path()), ["m.gguf", "other-00001-of-00009.gguf"]);
}

/// Tries to write and gives the error; the file that was there must be as it was.
fn refused(metadata: Keys, tensors: &[(String, TensorInfo)]) -> String {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("m.gguf");
    fs::write(&path, b"old").expect("write");
    let error = GgufWriter::new(metadata)
        .write(&path, tensors, |_| Ok::<_, IoError>(TensorBytes::from_vec(vec![0; 32])))
        .expect_err("refused");
    assert_eq!(fs::read(&path).expect("read"), b"old");
    assert_eq!(names_in(dir.path()), ["m.gguf"], "nothing is left beside it");
    error.to_string()
}

#[test]
fn what_gguf_cannot_hold_is_refused() {
    let of = |dtype, shape: &[usize]| {
        [("w".to_owned(), TensorInfo { dtype, shape: shape.to_vec() })].to_vec()
    };
    let fp8 = refused(Vec::new(), &of(Dtype::F8E4M3, &[8]));
    assert!(fp8.contains("tensor `w`") && fp8.contains("F8_E4M3"), "{fp8}");
    let axes = refused(Vec::new(), &of(Dtype::F32, &[1; 5]));
    assert!(axes.contains("1 to 4 axes"), "{axes}");
    let split_block = refused(Vec::new(), &of(Dtype::Q8_0, &[2, 40]));
    assert!(split_block.contains("a shape that Q8_0 can store"), "{split_block}");
    let short = refused(Vec::new(), &of(Dtype::F32, &[9]));
    assert!(short.contains("tensor `w`") && short.contains("32 bytes"), "{short}");
    let long = refused(Vec::new(), &[vector(&"n".repeat(64), 8)]);
    assert!(long.contains("at most 63 bytes, got 64"), "{long}");
    let twice = refused(Vec::new(), &[vector("w", 8), vector("w", 8)]);
    assert!(twice.contains("each name once"), "{twice}");
    let keys = vec![("k".to_owned(), GgufValue::U8(1)), ("k".to_owned(), GgufValue::U8(1))];
    assert!(refused(keys, &[]).contains("`k`: expected each key once"));
    let alignment = vec![("general.alignment".to_owned(), GgufValue::U32(7))];
    assert!(refused(alignment, &[]).contains("a power of two"));
}

#[test]
fn an_error_of_the_source_comes_back_as_it_is() {
    let dir = tempfile::tempdir().expect("temp");
    let path = dir.path().join("m.gguf");
    let result = GgufWriter::new(Vec::new()).write(&path, &[vector("w", 8)], |name| {
        Err(IoError::MissingTensor { path: "source".into(), tensor: name.to_owned() })
    });
    assert!(matches!(result, Err(IoError::MissingTensor { tensor, .. }) if tensor == "w"));
    assert!(names_in(dir.path()).is_empty());
}
