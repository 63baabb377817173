//! The same weights in every container: what is read must be the same tensors.

use std::path::Path;

use puna_io::{Checkpoint, Container, Dtype};

use crate::support::{golden, values};

const BASE: &str = "text/llama2-gqa";

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir).expect("a sound golden case")
}

/// Every tensor of the base case is in `case` under the same name, bit for bit.
fn assert_holds_the_base(case: &str, container: Container, extra: &[&str]) {
    let (Some(base), Some(case)) = (golden(BASE), golden(case)) else { return };
    let (base, case) = (open(&base), open(&case));
    assert_eq!(case.container(), container);
    for name in base.names() {
        let (expected, got) = (base.tensor(name).expect("base"), case.tensor(name).expect(name));
        assert_eq!(got.info, expected.info, "{name}");
        assert!(*got.bytes == *expected.bytes, "{name}: other bytes");
        assert!(got.bytes.is_mapped(), "{name} was copied");
    }
    let more: Vec<&str> = case.names().filter(|n| base.info(n).is_none()).collect();
    assert_eq!(more, extra);
}

#[test]
fn sharded_safetensors_hold_the_base_weights() {
    assert_holds_the_base("layout/safetensors-sharded", Container::Safetensors, &[]);
}

#[test]
fn sharded_pytorch_files_hold_the_base_weights_and_old_rotary_buffers() {
    assert_holds_the_base(
        "layout/pytorch-sharded",
        Container::PyTorch,
        &[
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.1.self_attn.rotary_emb.inv_freq",
        ],
    );
}

#[test]
fn legacy_pytorch_files_hold_the_base_weights_in_f16() {
    let (Some(base), Some(case)) = (golden(BASE), golden("layout/pytorch-legacy")) else { return };
    let (base, case) = (open(&base), open(&case));
    assert_eq!(case.names().count(), base.names().count());
    for name in base.names() {
        let (expected, got) = (base.tensor(name).expect("base"), case.tensor(name).expect(name));
        assert_eq!(got.info.dtype, Dtype::F16);
        assert_eq!(got.info.shape, expected.info.shape);
        assert!(got.bytes.is_mapped());
        let rounded: Vec<f32> =
            values(&expected).iter().map(|&x| half::f16::from_f32(x).to_f32()).collect();
        assert_eq!(values(&got), rounded, "{name}");
    }
}

#[test]
fn views_share_storages_and_are_gathered_where_they_must() {
    let Some(dir) = golden("layout/pytorch-tied-views") else { return };
    let case = open(&dir);
    let embedding = case.tensor("model.embed_tokens.weight").expect("embedding");
    let head = case.tensor("lm_head.weight").expect("head");
    assert_eq!(embedding.bytes.as_ptr(), head.bytes.as_ptr(), "one storage");
    let copied: Vec<&str> =
        case.names().filter(|n| !case.tensor(n).expect("readable").bytes.is_mapped()).collect();
    assert!(!copied.is_empty(), "the case has transposed strides");
    for name in case.names() {
        let tensor = case.tensor(name).expect("readable");
        assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len(), "{name}");
        assert!(values(&tensor).iter().all(|x| x.is_finite() && x.abs() < 100.0), "{name}");
    }
}

/// Meta's names for the tensors that both dialects store alike; q and k are permuted.
const META_NAMES: [(&str, &str); 10] = [
    ("tok_embeddings.weight", "model.embed_tokens.weight"),
    ("output.weight", "lm_head.weight"),
    ("norm.weight", "model.norm.weight"),
    ("layers.1.attention.wv.weight", "model.layers.1.self_attn.v_proj.weight"),
    ("layers.1.attention.wo.weight", "model.layers.1.self_attn.o_proj.weight"),
    ("layers.0.feed_forward.w1.weight", "model.layers.0.mlp.gate_proj.weight"),
    ("layers.0.feed_forward.w2.weight", "model.layers.0.mlp.down_proj.weight"),
    ("layers.0.feed_forward.w3.weight", "model.layers.0.mlp.up_proj.weight"),
    ("layers.0.attention_norm.weight", "model.layers.0.input_layernorm.weight"),
    ("layers.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
];

#[test]
fn meta_folders_hold_the_base_weights_at_any_degree() {
    for (name, mapped) in [("layout/meta", true), ("layout/meta-mp2", false)] {
        let (Some(base), Some(dir)) = (golden(BASE), golden(name)) else { return };
        let (base, case) = (open(&base), open(&dir));
        assert_eq!(case.container(), Container::Meta);
        assert_eq!(case.names().count(), base.names().count(), "rope.freqs is not a weight");
        for (meta, hf) in META_NAMES {
            let (expected, got) = (base.tensor(hf).expect(hf), case.tensor(meta).expect(meta));
            assert_eq!(got.info, expected.info, "{meta}");
            assert_eq!(case.info(meta), Some(&got.info));
            assert!(*got.bytes == *expected.bytes, "{meta}: other bytes");
            assert!(got.bytes.is_mapped() || !mapped, "{meta} was copied");
        }
    }
}

#[test]
fn a_meta_folder_split_along_the_vocabulary_is_merged_so() {
    let Some(dir) = golden("layout/meta-llama31-mp2") else { return };
    let case = open(&dir);
    assert_eq!(case.info("tok_embeddings.weight").expect("there").shape, [256, 64]);
    assert_eq!(case.info("output.weight").expect("there").shape, [256, 64]);
    assert_eq!(case.info("layers.0.attention.wo.weight").expect("there").shape, [64, 64]);
    assert_eq!(case.info("layers.0.attention.wk.weight").expect("there").shape, [32, 64]);
    let single = Checkpoint::open(&dir.join("consolidated.01.pth")).expect("a rank stands for all");
    assert_eq!(single.files().len(), 2);
}

#[test]
fn fp8_weights_keep_their_type() {
    let Some(dir) = golden("layout/fp8-block") else { return };
    let case = open(&dir);
    let fp8 = case.names().filter(|n| case.info(n).expect("there").dtype == Dtype::F8E4M3).count();
    let scales = case.names().filter(|n| n.ends_with("weight_scale_inv")).count();
    assert!(fp8 > 0 && fp8 == scales, "{fp8} weights, {scales} scales");
}

#[test]
fn gguf_folders_open_with_their_metadata() {
    let (Some(base), Some(dir)) = (golden(BASE), golden("gguf/bf16")) else { return };
    let (base, case) = (open(&base), open(&dir));
    assert_eq!(case.container(), Container::Gguf);
    let architecture = case.gguf().and_then(|g| g.metadata().get_str("general.architecture"));
    assert_eq!(architecture, Some("llama"));
    let expected = base.tensor("model.embed_tokens.weight").expect("embedding");
    let got = case.tensor("token_embd.weight").expect("embedding");
    assert_eq!(got.info, expected.info);
    assert!(*got.bytes == *expected.bytes && got.bytes.is_mapped());
    assert!(base.gguf().is_none());
}

#[test]
fn every_folder_of_the_golden_set_opens() {
    let mut opened = 0;
    for group in ["text", "layout", "gguf", "gptq", "awq", "bnb"] {
        let Some(dir) = golden(group) else { continue };
        for entry in std::fs::read_dir(dir).expect("listable") {
            let path = entry.expect("entry").path();
            if path.ends_with("text/llama4-text") {
                continue; // kept as a configuration only
            }
            let case = Checkpoint::open(&path).expect("a sound golden case");
            assert!(case.bytes_on_disk() > 0);
            for name in case.names() {
                let tensor = case.tensor(name).expect("readable");
                assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len(), "{name}");
            }
            opened += 1;
        }
    }
    eprintln!("{opened} golden folders opened");
}
