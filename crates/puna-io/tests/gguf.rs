//! GGUF files as llama.cpp writes them, whole and split.

use std::fs;
use std::path::Path;

use puna_io::{Checkpoint, Container, Dtype, Gguf, GgufValue};

use crate::gguf_builder::{GgufBuilder, kind};
use crate::support::{golden, values};

#[test]
fn every_golden_gguf_opens_and_maps() {
    let Some(group) = golden("gguf") else { return };
    let mut opened = 0;
    for case in fs::read_dir(group).expect("listable") {
        for file in fs::read_dir(case.expect("entry").path()).expect("listable") {
            let path = file.expect("entry").path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let gguf = Gguf::open(&path).expect("a sound golden file");
            assert_eq!((gguf.version(), gguf.alignment()), (3, 32), "{}", path.display());
            assert_eq!(gguf.files(), std::slice::from_ref(&path));
            assert!(gguf.metadata().get_str("general.architecture").is_some());
            for (name, info) in gguf.tensors() {
                let tensor = gguf.tensor(name).expect("readable");
                assert_eq!(Some(tensor.bytes.len()), info.byte_len(), "{name}");
                assert!(tensor.bytes.is_mapped(), "{name} was copied");
            }
            opened += 1;
        }
    }
    assert!(opened >= 16, "{opened} files");
}

/// Tensors that llama.cpp stores as the hub does; q and k are permuted.
const SAME: [(&str, &str); 8] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output.weight", "lm_head.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight"),
    ("blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"),
    ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
    ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"),
    ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
];

#[test]
fn float_files_hold_the_base_weights() {
    for (case, matrix) in [("f32", Dtype::F32), ("bf16", Dtype::BF16), ("f16", Dtype::F16)] {
        let (Some(base), Some(dir)) = (golden("text/llama2-gqa"), golden("gguf")) else { return };
        let base = Checkpoint::open(&base).expect("base");
        let gguf = Gguf::open(&dir.join(format!("{case}/model-{case}.gguf"))).expect(case);
        for (name, hf) in SAME {
            let (expected, got) = (base.tensor(hf).expect(hf), gguf.tensor(name).expect(name));
            assert_eq!(got.info.shape, expected.info.shape, "{name}");
            let is_norm = expected.info.shape.len() == 1;
            assert_eq!(got.info.dtype, if is_norm { Dtype::F32 } else { matrix }, "{name}");
            let mut expected = values(&expected);
            if got.info.dtype == Dtype::F16 {
                expected.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
            }
            assert!(values(&got) == expected, "{case}: {name} differs");
        }
    }
}

#[test]
fn metadata_is_typed_and_ordered() {
    let Some(dir) = golden("gguf/f32") else { return };
    let gguf = Gguf::open(&dir.join("model-f32.gguf")).expect("sound");
    let meta = gguf.metadata();
    assert_eq!(meta.keys().next(), Some("general.architecture"));
    assert_eq!(meta.get_str("general.architecture"), Some("llama"));
    assert_eq!(meta.get("llama.block_count"), Some(&GgufValue::U32(2)));
    assert_eq!(meta.get_f64("llama.attention.layer_norm_rms_epsilon"), Some(f64::from(1e-5f32)));
    assert_eq!(meta.get_bool("tokenizer.ggml.add_bos_token"), Some(true));
    let tokens = meta.get_strings("tokenizer.ggml.tokens").expect("tokens");
    assert_eq!((tokens.len(), &*tokens[3]), (320, "<0x00>"));
    assert_eq!(meta.get_f32s("tokenizer.ggml.scores").map(<[f32]>::len), Some(320));
    assert_eq!(
        meta.get_i32s("tokenizer.ggml.token_type").map(|t| t[..4].to_vec()),
        Some(vec![2, 3, 3, 6])
    );
    assert_eq!(gguf.info("token_embd.weight").expect("there").shape, [320, 64]);
    assert_eq!(gguf.info("blk.0.ffn_down.weight").expect("there").shape, [64, 192]);
}

#[test]
fn a_checkpoint_shows_the_gguf_inside_it() {
    let Some(dir) = golden("gguf/q4_k_m") else { return };
    let checkpoint = Checkpoint::open(&dir).expect("the only model of the folder");
    assert_eq!(checkpoint.container(), Container::Gguf);
    let gguf = checkpoint.gguf().expect("a GGUF");
    assert_eq!(checkpoint.names().count(), gguf.tensors().count());
    let types: std::collections::HashSet<Dtype> = gguf.tensors().map(|(_, i)| i.dtype).collect();
    assert!(types.contains(&Dtype::Q4K) && types.contains(&Dtype::Q6K), "{types:?}");
}

#[test]
fn bytes_in_the_program_are_read_in_place() {
    let bytes: &'static [u8] = Box::leak(GgufBuilder::new().f32s("w", &[1.5]).bytes().into());
    let gguf = Gguf::from_static("mini", bytes).expect("sound");
    let tensor = gguf.tensor("w").expect("there");
    assert_eq!(values(&tensor), [1.5]);
    assert!(bytes.as_ptr_range().contains(&tensor.bytes.as_ptr()));
    assert!(tensor.bytes.is_mapped() && gguf.files().is_empty());
    assert_eq!(gguf.bytes_len(), bytes.len() as u64);
}

#[test]
fn version_two_and_other_alignments_are_read() {
    let mut file = GgufBuilder::new().key("general.alignment", kind::U32, &8u32.to_le_bytes());
    (file.version, file.alignment) = (2, 8);
    let file = file.f32s("a", &[1.0]).f32s("b", &[2.0, 3.0]);
    let gguf = Gguf::from_bytes("v2", puna_io::TensorBytes::from_vec(file.bytes())).expect("sound");
    assert_eq!((gguf.version(), gguf.alignment()), (2, 8));
    assert_eq!(values(&gguf.tensor("b").expect("there")), [2.0, 3.0]);
}

/// A part with one tensor.
fn part(number: u16, count: u16, tensors: i32, tensor: &str) -> GgufBuilder {
    GgufBuilder::new()
        .key("split.no", kind::U16, &number.to_le_bytes())
        .key("split.count", kind::U16, &count.to_le_bytes())
        .key("split.tensors.count", kind::I32, &tensors.to_le_bytes())
        .f32s(tensor, &[f32::from(number)])
}

fn write_parts(dir: &Path, parts: &[GgufBuilder]) {
    for (i, part) in parts.iter().enumerate() {
        let name = format!("m-{:05}-of-{:05}.gguf", i + 1, parts.len());
        fs::write(dir.join(name), part.bytes()).expect("write");
    }
}

#[test]
fn any_part_of_a_split_model_opens_the_whole() {
    let dir = tempfile::tempdir().expect("temp");
    let parts = ["a", "b", "c"].iter().enumerate();
    let parts: Vec<_> = parts.map(|(i, name)| part(i as u16, 3, 3, name)).collect();
    write_parts(dir.path(), &parts);
    for number in 1..=3 {
        let path = dir.path().join(format!("m-0000{number}-of-00003.gguf"));
        let gguf = Gguf::open(&path).expect("sound");
        assert_eq!(gguf.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(gguf.files().len(), 3);
        assert_eq!(gguf.metadata().get_u64("split.no"), Some(0), "the first part's metadata");
        assert_eq!(values(&gguf.tensor("c").expect("there")), [2.0]);
    }
    let folder = Checkpoint::open(dir.path()).expect("the first part stands for all");
    assert_eq!(folder.files().len(), 3);
}

/// Opens part 1 of 2 after `distort`; the error as text.
fn split_error(distort: impl FnOnce(&mut Vec<GgufBuilder>)) -> String {
    let dir = tempfile::tempdir().expect("temp");
    let mut parts = vec![part(0, 2, 2, "a"), part(1, 2, 2, "b")];
    distort(&mut parts);
    write_parts(dir.path(), &parts);
    Gguf::open(&dir.path().join("m-00001-of-00002.gguf")).expect_err("broken").to_string()
}

#[test]
fn parts_that_contradict_each_other_are_refused() {
    let swapped = split_error(|parts| parts.swap(0, 1));
    assert!(swapped.contains("`split.no`: expected 0"), "{swapped}");
    let foreign = split_error(|parts| parts[1] = part(1, 3, 2, "b"));
    assert!(foreign.contains("of-00002.gguf") && foreign.contains("`split.count`"), "{foreign}");
    let fewer = split_error(|parts| parts[1] = part(1, 2, 3, "b"));
    assert!(fewer.contains("`split.tensors.count`: expected 2"), "{fewer}");
    let twice = split_error(|parts| parts[1] = part(1, 2, 2, "a"));
    assert!(twice.contains("tensor `a`: expected each name once"), "{twice}");
    let plain = split_error(|parts| parts[1] = GgufBuilder::new().f32s("b", &[1.0]));
    assert!(plain.contains("got no such key"), "{plain}");
}

#[test]
fn a_missing_part_is_named() {
    let dir = tempfile::tempdir().expect("temp");
    write_parts(dir.path(), &[part(0, 2, 2, "a"), part(1, 2, 2, "b")]);
    fs::remove_file(dir.path().join("m-00001-of-00002.gguf")).expect("remove");
    let error = Gguf::open(&dir.path().join("m-00002-of-00002.gguf")).expect_err("missing");
    assert!(error.to_string().contains("m-00001-of-00002.gguf: missing"), "{error}");
    let renamed = dir.path().join("renamed.gguf");
    fs::rename(dir.path().join("m-00002-of-00002.gguf"), &renamed).expect("rename");
    let error = Gguf::open(&renamed).expect_err("no name of a part").to_string();
    assert!(error.contains("NAME-00001-of-00002.gguf"), "{error}");
}
