//! Where the golden data is, and small things tests share.

use std::path::{Path, PathBuf};

use puna_io::{Dtype, StoredTensor};

/// The folder of a golden case; says so and gives `None` where the data is absent.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn golden(case: &str) -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = match std::env::var_os("PUNA_GOLDEN") {
        Some(root) => PathBuf::from(root),
        None => {
            let committed = manifest.join("../../testdata/golden");
            if committed.is_dir() {
                committed
            } else {
                manifest.join("../../../shared/golden/cases")
            }
        }
    };
    let dir = root.join(case);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: no golden case {case} under {}", root.display());
    None
}

/// A float tensor's values in f32.
pub(crate) fn values(tensor: &StoredTensor) -> Vec<f32> {
    let bytes = &*tensor.bytes;
    match tensor.info.dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => {
            let half = |b: &[u8; 2]| half::f16::from_le_bytes(*b).to_f32();
            bytes.as_chunks().0.iter().map(half).collect()
        }
        Dtype::BF16 => {
            let half = |b: &[u8; 2]| half::bf16::from_le_bytes(*b).to_f32();
            bytes.as_chunks().0.iter().map(half).collect()
        }
        other => panic!("no float tensor: {other}"),
    }
}
