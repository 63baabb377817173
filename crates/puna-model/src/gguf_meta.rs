//! A GGUF's metadata and tensors as puna-config asks for them.

use puna_config::GgufMetadata;
use puna_io::{Dtype, Gguf};

use crate::float;

/// Lends a GGUF to the config parser; the two crates do not know each other.
pub struct GgufView<'a>(pub &'a Gguf);

impl GgufMetadata for GgufView<'_> {
    fn u64(&self, key: &str) -> Option<u64> {
        self.0.metadata().get_u64(key)
    }

    fn f64(&self, key: &str) -> Option<f64> {
        self.0.metadata().get_f64(key)
    }

    fn bool(&self, key: &str) -> Option<bool> {
        self.0.metadata().get_bool(key)
    }

    fn str(&self, key: &str) -> Option<&str> {
        self.0.metadata().get_str(key)
    }

    fn u64_array(&self, key: &str) -> Option<Vec<u64>> {
        let meta = self.0.metadata();
        let flags = || Some(meta.get_bools(key)?.iter().map(|b| u64::from(*b)).collect());
        meta.get_u64s(key).or_else(flags)
    }

    fn f64_array(&self, key: &str) -> Option<Vec<f64>> {
        self.0.metadata().get_f64s(key)
    }

    fn string_array_len(&self, key: &str) -> Option<usize> {
        self.0.metadata().get_strings(key).map(<[String]>::len)
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.0.info(name).is_some()
    }

    fn tensor_shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.info(name).map(|info| info.shape.clone())
    }

    fn f32_tensor(&self, name: &str) -> Option<Vec<f32>> {
        let stored = self.0.tensor(name).ok()?;
        (stored.info.dtype == Dtype::F32).then(|| float::to_f32(&stored)).flatten()
    }

    fn keys(&self) -> Vec<String> {
        self.0.metadata().keys().map(str::to_owned).collect()
    }
}
