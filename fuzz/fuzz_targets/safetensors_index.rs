#![no_main]
//! safetensors: a hostile file, or a hostile `model.safetensors.index.json` over two good shards.
//! The first byte chooses: even is a file, odd is an index.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use puna_io::safetensors::SafetensorsFile;
use puna_io::{Checkpoint, TensorBytes};

/// A file with one float32 tensor of two elements.
fn shard(name: &str) -> Vec<u8> {
    let mut header =
        format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &[0; 8]].concat()
}

/// A folder of this process with the two shards.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("puna-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        for (file, name) in [("a.safetensors", "a"), ("b.safetensors", "b")] {
            std::fs::write(dir.join(file), shard(name)).expect("a shard");
        }
        dir
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if kind % 2 == 0 {
        let bytes = TensorBytes::from_vec(data.to_vec());
        let Ok(file) = SafetensorsFile::from_bytes(Path::new("fuzz.safetensors"), bytes) else { return };
        for name in file.names() {
            let tensor = file.tensor(name).expect("a listed tensor is readable");
            assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len());
        }
        return;
    }
    let dir = folder();
    std::fs::write(dir.join("model.safetensors.index.json"), data).expect("the index");
    let Ok(checkpoint) = Checkpoint::open(dir) else { return };
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        assert!(checkpoint.info(&name).is_some());
        if let Ok(tensor) = checkpoint.tensor(&name) {
            assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len());
        }
    }
});
