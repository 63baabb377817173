//! Broken and malicious GGUF files: a clear error each, no panic, bounded memory.

use puna_io::{Gguf, TensorBytes};

use crate::gguf_builder::{GgufBuilder, kind, string};
use crate::support::golden;

const F32: u32 = 0;
const Q4_0: u32 = 2;

fn error(bytes: Vec<u8>) -> String {
    Gguf::from_bytes("bad.gguf", TensorBytes::from_vec(bytes)).expect_err("broken").to_string()
}

#[track_caller]
fn assert_refused(file: &GgufBuilder, parts: &[&str]) {
    let message = error(file.bytes());
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
    assert!(message.starts_with("bad.gguf: "), "{message}");
}

fn two_tensors() -> GgufBuilder {
    GgufBuilder::new().key("k", kind::STRING, &string("v")).f32s("a", &[1.0]).f32s("b", &[2.0])
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = two_tensors().bytes();
    for length in 0..whole.len() - 28 {
        // the last 28 bytes are padding of the last tensor
        let message = error(whole[..length].to_vec());
        assert!(message.starts_with("bad.gguf: "), "{length}: {message}");
    }
    Gguf::from_bytes("ok", TensorBytes::from_vec(whole)).expect("the whole is sound");
}

#[test]
fn flipped_bits_never_panic() {
    let Some(dir) = golden("gguf/q8_0") else { return };
    let mut whole = std::fs::read(dir.join("model-q8_0.gguf")).expect("read");
    whole.truncate(40_000); // header and some data
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % 9_000;
            bytes[at] ^= 1 << (next() % 8);
        }
        // The file is cut, so that none can open.
        assert!(error(bytes).starts_with("bad.gguf: "));
    }
}

#[test]
fn other_versions_byte_orders_and_formats_are_told_apart() {
    let mut file = two_tensors();
    file.version = 1;
    assert_refused(&file, &["GGUF version 1 is not supported"]);
    file.version = 3u32.swap_bytes();
    assert_refused(&file, &["big-endian GGUF is not supported"]);
    file.version = 4;
    assert_refused(&file, &["GGUF version 4 is not supported"]);
    assert!(error(b"GGML\x03\0\0\0".to_vec()).contains("expected the magic `GGUF`, got GGML"));
}

#[test]
fn counts_beyond_the_file_are_refused_before_allocating() {
    let mut file = two_tensors();
    file.tensor_count = Some(u64::MAX);
    assert_refused(&file, &["the number of tensors: expected at most"]);
    file.tensor_count = Some(3);
    assert_refused(&file, &["expected"]);
    file.tensor_count = None;
    file.key_count = Some(1 << 60);
    assert_refused(&file, &["the number of keys: expected at most"]);
    let huge = [8u32.to_le_bytes().as_slice(), &(1u64 << 61).to_le_bytes()].concat();
    let file = GgufBuilder::new().key("tokens", kind::ARRAY, &huge);
    assert_refused(&file, &["metadata key `tokens`", "more bytes"]);
    let file = GgufBuilder::new().key("text", kind::STRING, &u64::MAX.to_le_bytes());
    assert_refused(&file, &["metadata key `text`", "18446744073709551615 more bytes"]);
}

#[test]
fn arrays_of_arrays_are_refused_at_any_depth() {
    let level = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat();
    let file = GgufBuilder::new().key("deep", kind::ARRAY, &level.repeat(100_000));
    assert_refused(&file, &["metadata key `deep`", "an array of arrays is not supported"]);
}

#[test]
fn names_occur_once() {
    let file = GgufBuilder::new().key("k", 0, &[1]).key("k", 0, &[2]);
    assert_refused(&file, &["metadata key `k`: expected each key once"]);
    let file = GgufBuilder::new().f32s("w", &[1.0]).f32s("w", &[1.0]);
    assert_refused(&file, &["tensor `w`: expected each name once"]);
    assert_refused(&GgufBuilder::new().key("", 0, &[1]), &["metadata key 0", "1 to 65535 bytes"]);
}

#[test]
fn values_of_unknown_kind_are_refused() {
    assert_refused(&GgufBuilder::new().key("k", 99, &[0; 8]), &["`k`", "a value type", "99"]);
    assert_refused(&GgufBuilder::new().key("flag", 7, &[3]), &["`flag`", "a boolean, 0 or 1"]);
    let text = [1u64.to_le_bytes().as_slice(), &[0xff]].concat();
    assert_refused(&GgufBuilder::new().key("text", 8, &text), &["`text`", "UTF-8"]);
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let shape = |axes: &[u64]| GgufBuilder::new().header("w", axes, F32, 0).data(256);
    assert_refused(&shape(&[]), &["tensor `w`", "1 to 4 axes, got 0"]);
    assert_refused(&shape(&[1; 5]), &["tensor `w`", "1 to 4 axes, got 5"]);
    assert_refused(&shape(&[4, 0]), &["tensor `w`", "axes of 1 or more items, got 0"]);
    assert_refused(&shape(&[1 << 40, 1 << 40]), &["tensor `w`", "a size that fits in memory"]);
    assert_refused(&shape(&[u64::MAX]), &["tensor `w`", "a size that fits in memory"]);
    assert_refused(&shape(&[65]), &["tensor `w`", "260 bytes at offset 0"]);
    let blocks = GgufBuilder::new().header("w", &[48, 2], Q4_0, 0).data(256);
    assert_refused(&blocks, &["tensor `w`", "rows of a multiple of 32 items, as Q4_0 asks for"]);
}

#[test]
fn types_that_puna_does_not_read_are_named() {
    let of = |kind| GgufBuilder::new().header("blk.0.ffn_up.weight", &[256], kind, 0).data(512);
    assert_refused(&of(39), &["tensor `blk.0.ffn_up.weight`", "unsupported type MXFP4"]);
    assert_refused(&of(16), &["unsupported type IQ2_XXS (ggml type 16)"]);
    assert_refused(&of(34), &["unsupported type TQ1_0"]);
    assert_refused(&of(1000), &["tensor `blk.0.ffn_up.weight`", "ggml type 1000"]);
}

#[test]
fn offsets_are_aligned_inside_and_disjoint() {
    let at = |offset| GgufBuilder::new().header("w", &[8], F32, offset).data(64);
    assert_refused(&at(4), &["tensor `w`", "a multiple of 32, got 4"]);
    assert_refused(&at(64), &["tensor `w`", "within the 64 bytes of data", "at offset 64"]);
    assert_refused(&at(u64::MAX - 31), &["tensor `w`", "within the 64 bytes"]);
    let both = GgufBuilder::new().header("a", &[9], F32, 0).header("b", &[8], F32, 32).data(64);
    assert_refused(&both, &["tensor `b`: expected bytes of its own", "tensor `a`"]);
}

#[test]
fn alignments_are_powers_of_two() {
    let with = |kind, value: &[u8]| GgufBuilder::new().key("general.alignment", kind, value);
    let zero = with(kind::U32, &0u32.to_le_bytes());
    assert_refused(&zero, &["`general.alignment`: expected a power of two", "got 0"]);
    assert_refused(&with(kind::U32, &48u32.to_le_bytes()), &["got 48"]);
    assert_refused(&with(kind::STRING, &string("32")), &["got a value of type string"]);
    let huge = with(kind::U32, &(1u32 << 31).to_le_bytes()).header("w", &[8], F32, 0).data(64);
    assert_refused(&huge, &["tensor `w`", "within the 0 bytes of data"]);
}
