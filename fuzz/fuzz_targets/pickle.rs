#![no_main]
//! PyTorch files, zip and legacy: the restricted unpickler, and every tensor it promises.

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use puna_io::TensorBytes;
use puna_io::pytorch::PyTorchFile;

fuzz_target!(|data: &[u8]| {
    let bytes = TensorBytes::from_vec(data.to_vec());
    let Ok(file) = PyTorchFile::from_bytes(Path::new("fuzz.bin"), bytes) else { return };
    for name in file.names() {
        if let Ok(tensor) = file.tensor(name) {
            assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len());
        }
    }
});
