#![no_main]
//! Token shards: a hostile shard under a manifest that fits its size, or a hostile manifest over a
//! good shard. What opens is verified and read in rows, with and without a mask of documents. The
//! first byte chooses: even is a shard, after two bytes with its numbers of tokens and documents.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use puna_data::{NO_TARGET, RowSource, Split, TokenData, TokenWindows, WindowOptions};

const VOCABULARY: u64 = 300;

/// A folder of this process, with a file that stands for the tokenizer.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("puna-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        std::fs::write(dir.join("tokenizer.json"), "{}").expect("a tokenizer");
        dir
    })
}

/// A shard of 8 tokens in 2 documents.
fn shard() -> Vec<u8> {
    let mut header = concat!(
        r#"{"document_starts":{"dtype":"U64","shape":[2],"data_offsets":[0,16]},"#,
        r#""tokens":{"dtype":"U16","shape":[8],"data_offsets":[16,32]}}"#
    )
    .as_bytes()
    .to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([0u64, 3].iter().flat_map(|start| start.to_le_bytes()));
    bytes.extend((0..8u16).flat_map(|token| (30 * token).to_le_bytes()));
    bytes
}

/// A manifest of one shard.
fn manifest(bytes: usize, tokens: u8, documents: u8) -> String {
    let counts = r#"{"read":1,"bad":0,"empty":0,"too_short":0,"too_long":0,"symbols":0,
        "repeated_lines":0,"exact_duplicates":0,"near_duplicates":0,"train":1,"validation":0}"#;
    format!(
        r#"{{"format":"puna-tokens","version":1,"vocab_size":{VOCABULARY},"dtype":"U16",
        "options":{{}},"tokenizer":{{"file":"tokenizer.json","sha256":"","bos":0,"eos":null}},
        "sources":[{{"name":"a","weight":null,"inputs":[],"files":1,"files_left_out":0,
        "documents":{counts}}}],"train":[{{"file":"train-00000.safetensors","source":0,
        "tokens":{tokens},"documents":{documents},"text_bytes":9,"bytes":{bytes},"sha256":"",
        "text_sha256":""}}],"validation":[]}}"#
    )
}

fn read(data: &TokenData) {
    let _ = data.verify(&mut |_| {});
    for split in Split::ALL {
        for (document_mask, shuffle) in [(true, None), (false, Some(7))] {
            let options = WindowOptions { document_mask, shuffle, ..WindowOptions::new(3) };
            let Ok(rows) = TokenWindows::new(data, split, options) else { continue };
            for number in [0, 1, rows.rows_per_epoch().saturating_sub(1), u64::MAX] {
                let Ok(row) = rows.row(number) else { continue };
                let known = |&&id: &&u32| (id as usize) < data.vocab_size();
                assert_eq!(row.tokens.iter().filter(known).count(), 3);
                let targets = row.targets.iter().filter(|&&target| target != NO_TARGET);
                assert!(targets.filter(|target| !known(target)).count() == 0);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let dir = folder();
    let (manifest, shard) = match data {
        [kind, tokens, documents, shard @ ..] if kind % 2 == 0 => {
            (manifest(shard.len(), *tokens, *documents).into_bytes(), shard.to_vec())
        }
        [kind, manifest @ ..] if kind % 2 == 1 => (manifest.to_vec(), shard()),
        _ => return,
    };
    std::fs::write(dir.join("manifest.json"), manifest).expect("the manifest");
    std::fs::write(dir.join("train-00000.safetensors"), shard).expect("the shard");
    if let Ok(data) = TokenData::open(dir) {
        read(&data);
    }
});
