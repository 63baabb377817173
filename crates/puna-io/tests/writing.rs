//! What is written is read back the same, in every container, and nothing is lost on failure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use puna_io::write::{EmbeddingSplit, HfOptions, MetaOptions, write_hf_folder, write_meta_folder};
use puna_io::{Checkpoint, Container, Dtype, IoError, TensorBytes, TensorInfo};

type Tensors = BTreeMap<String, (TensorInfo, Vec<u8>)>;

fn tensor(dtype: Dtype, shape: &[usize], seed: u8) -> (TensorInfo, Vec<u8>) {
    let info = TensorInfo { dtype, shape: shape.to_vec() };
    let len = info.byte_len().expect("small");
    (info, (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect())
}

fn plan(tensors: &Tensors) -> Vec<(String, TensorInfo)> {
    tensors.iter().map(|(name, (info, _))| (name.clone(), info.clone())).collect()
}

fn source(tensors: &Tensors) -> impl FnMut(&str) -> Result<TensorBytes, IoError> {
    |name| Ok(TensorBytes::from_vec(tensors[name].1.clone()))
}

fn assert_same(dir: &Path, tensors: &Tensors) {
    let read = Checkpoint::open(dir).expect("what was written is sound");
    assert_eq!(read.names().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
    for (name, (info, bytes)) in tensors {
        let got = read.tensor(name).expect(name);
        assert_eq!(&got.info, info, "{name}");
        assert!(*got.bytes == **bytes, "{name}: other bytes");
    }
}

fn hf_tensors() -> Tensors {
    BTreeMap::from([
        ("lm_head.weight".to_owned(), tensor(Dtype::BF16, &[7, 3], 1)),
        ("model.norm.weight".to_owned(), tensor(Dtype::F32, &[5], 2)),
        ("model.odd".to_owned(), tensor(Dtype::U8, &[3], 3)),
        ("model.scalar".to_owned(), tensor(Dtype::I64, &[], 4)),
        ("model.empty".to_owned(), tensor(Dtype::F16, &[0, 4], 5)),
        ("model.big".to_owned(), tensor(Dtype::F8E4M3, &[40, 10], 6)),
    ])
}

fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("listable").map(|e| e.expect("entry").file_name());
    let mut names: Vec<String> = names.map(|n| n.into_string().expect("ascii")).collect();
    names.sort();
    names
}

#[test]
fn a_hugging_face_folder_comes_back_the_same() {
    let dir = tempfile::tempdir().expect("temp");
    let out = dir.path().join("new/model");
    let tensors = hf_tensors();
    let written = write_hf_folder(&out, &plan(&tensors), &HfOptions::default(), source(&tensors))
        .expect("ok");
    assert_eq!(written, [out.join("model.safetensors")]);
    assert_same(&out, &tensors);
    let file = puna_io::safetensors::SafetensorsFile::open(&written[0]).expect("sound");
    assert_eq!(file.metadata()["format"], "pt");
}

#[test]
fn shards_replace_older_ones_and_leave_other_files() {
    let dir = tempfile::tempdir().expect("temp");
    let tensors = hf_tensors();
    for stale in ["model-00001-of-00009.safetensors", "model.safetensors", "notes.txt"] {
        fs::write(dir.path().join(stale), b"old").expect("write");
    }
    let options = HfOptions {
        max_shard_bytes: Some(100),
        extra_files: vec![("config.json".to_owned(), b"{}".to_vec())],
        ..HfOptions::default()
    };
    write_hf_folder(dir.path(), &plan(&tensors), &options, source(&tensors)).expect("ok");
    assert_eq!(
        names_in(dir.path()),
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json",
            "notes.txt"
        ]
    );
    assert_same(dir.path(), &tensors);
    let index = fs::read(dir.path().join("model.safetensors.index.json")).expect("index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("json");
    let total: usize = tensors.values().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    // And back to one file: shards and index go.
    let one = HfOptions::default();
    write_hf_folder(dir.path(), &plan(&tensors), &one, source(&tensors)).expect("ok");
    assert_eq!(names_in(dir.path()), ["config.json", "model.safetensors", "notes.txt"]);
    assert_same(dir.path(), &tensors);
}

#[test]
fn a_failing_source_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().expect("temp");
    let tensors = hf_tensors();
    fs::write(dir.path().join("model.safetensors"), b"old").expect("write");
    let mut calls = 0;
    let result: Result<_, IoError> =
        write_hf_folder(dir.path(), &plan(&tensors), &HfOptions::default(), |name| {
            calls += 1;
            if calls == 4 {
                let path = dir.path().to_path_buf();
                return Err(IoError::MissingTensor { path, tensor: name.to_owned() });
            }
            Ok(TensorBytes::from_vec(tensors[name].1.clone()))
        });
    assert!(matches!(result, Err(IoError::MissingTensor { .. })));
    assert_eq!(names_in(dir.path()), ["model.safetensors"]);
    assert_eq!(fs::read(dir.path().join("model.safetensors")).expect("read"), b"old");
    let fresh = dir.path().join("a/b");
    let wrong: Result<_, IoError> =
        write_hf_folder(&fresh, &plan(&tensors), &HfOptions::default(), |_| {
            Ok(TensorBytes::from_vec(vec![0; 3]))
        });
    assert!(wrong.expect_err("short").to_string().contains("3 bytes"));
    assert_eq!(names_in(dir.path()), ["model.safetensors"], "folders made are removed again");
}

#[test]
fn what_safetensors_cannot_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("temp");
    let write = |tensors: &[(String, TensorInfo)]| {
        let source = |_: &str| -> Result<TensorBytes, IoError> { panic!("not asked for") };
        write_hf_folder(dir.path(), tensors, &HfOptions::default(), source)
            .expect_err("refused")
            .to_string()
    };
    let block = tensor(Dtype::Q8_0, &[2, 32], 0).0;
    assert!(write(&[("a".to_owned(), block)]).contains("Q8_0"));
    let twice = tensor(Dtype::F32, &[1], 0).0;
    let message = write(&[("a".to_owned(), twice.clone()), ("a".to_owned(), twice)]);
    assert!(message.contains("tensor `a`") && message.contains("twice"), "{message}");
}

fn meta_tensors() -> Tensors {
    let (bf16, f32) = (Dtype::BF16, Dtype::F32);
    BTreeMap::from([
        ("tok_embeddings.weight".to_owned(), tensor(bf16, &[12, 8], 1)),
        ("output.weight".to_owned(), tensor(bf16, &[12, 8], 2)),
        ("norm.weight".to_owned(), tensor(f32, &[8], 3)),
        ("layers.0.attention.wq.weight".to_owned(), tensor(bf16, &[8, 8], 4)),
        ("layers.0.attention.wk.weight".to_owned(), tensor(bf16, &[4, 8], 5)),
        ("layers.0.attention.wo.weight".to_owned(), tensor(bf16, &[8, 8], 6)),
        ("layers.0.feed_forward.w1.weight".to_owned(), tensor(bf16, &[16, 8], 7)),
        ("layers.0.feed_forward.w2.weight".to_owned(), tensor(bf16, &[8, 16], 8)),
        ("layers.0.ffn_norm.weight".to_owned(), tensor(f32, &[8], 9)),
    ])
}

fn meta_options(shards: usize, embedding: EmbeddingSplit) -> MetaOptions {
    let params_json = br#"{"dim": 8, "n_heads": 4, "n_kv_heads": 4}"#.to_vec();
    MetaOptions { shards, embedding, params_json, extra_files: Vec::new() }
}

#[test]
fn meta_folders_come_back_the_same_at_every_degree() {
    let tensors = meta_tensors();
    let dir = tempfile::tempdir().expect("temp");
    for shards in [4, 1, 2] {
        for embedding in [EmbeddingSplit::Hidden, EmbeddingSplit::Vocabulary] {
            let options = meta_options(shards, embedding);
            let written =
                write_meta_folder(dir.path(), &plan(&tensors), &options, source(&tensors))
                    .expect("ok");
            assert_eq!(written.len(), shards + 1);
            assert_eq!(names_in(dir.path()).len(), shards + 1, "stale shards are removed");
            assert_same(dir.path(), &tensors);
            let read = Checkpoint::open(dir.path()).expect("sound");
            assert_eq!(read.container(), Container::Meta);
        }
    }
}

#[test]
fn storages_in_a_written_archive_are_aligned_like_torch() {
    let tensors = meta_tensors();
    let dir = tempfile::tempdir().expect("temp");
    let options = meta_options(1, EmbeddingSplit::Hidden);
    write_meta_folder(dir.path(), &plan(&tensors), &options, source(&tensors)).expect("ok");
    let read = Checkpoint::open(dir.path()).expect("sound");
    for name in read.names() {
        let bytes = read.tensor(name).expect(name).bytes;
        assert!(bytes.is_mapped());
        assert_eq!(bytes.as_ptr() as usize % 64, 0, "{name}");
    }
}

#[test]
fn degrees_that_do_not_divide_are_refused_by_name() {
    let tensors = meta_tensors();
    let dir = tempfile::tempdir().expect("temp");
    let write = |options: &MetaOptions| {
        write_meta_folder(dir.path(), &plan(&tensors), options, source(&tensors))
            .expect_err("refused")
            .to_string()
    };
    assert!(write(&meta_options(0, EmbeddingSplit::Hidden)).contains("degree"));
    assert!(write(&meta_options(65, EmbeddingSplit::Hidden)).contains("degree"));
    assert!(write(&meta_options(8, EmbeddingSplit::Hidden)).contains("n_heads"));
    let mut uneven = meta_options(8, EmbeddingSplit::Vocabulary);
    uneven.params_json = b"{}".to_vec();
    let message = write(&uneven);
    assert!(message.contains("tensor `layers.0.attention.wk.weight`"), "{message}");
    assert!(names_in(dir.path()).is_empty());
}
