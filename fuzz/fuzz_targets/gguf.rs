#![no_main]
//! GGUF: header, metadata and tensor table of a hostile file; then every tensor is read.

use libfuzzer_sys::fuzz_target;
use puna_io::{Gguf, TensorBytes};

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", TensorBytes::from_vec(data.to_vec())) else { return };
    for key in gguf.metadata().keys() {
        assert!(gguf.metadata().get(key).is_some());
    }
    let names: Vec<String> = gguf.names().map(str::to_owned).collect();
    for name in names {
        if let Ok(tensor) = gguf.tensor(&name) {
            assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len());
        }
    }
});
