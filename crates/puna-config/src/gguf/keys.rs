//! Access to GGUF metadata: the trait a file's reader implements, and a reader of one
//! architecture's keys that knows which were asked for.

use crate::check::Field;
use crate::error::{ConfigError, Result};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What [`crate::ModelConfig::from_gguf`] asks of a GGUF file.
///
/// A trait because this crate reads no files; the methods answer `None` for a missing key and for
/// a value of another kind.
pub trait GgufMetadata {
    /// An integer of any width that is not negative.
    fn u64(&self, key: &str) -> Option<u64>;
    /// A float of either width; f32 widened as it is.
    fn f64(&self, key: &str) -> Option<f64>;
    /// A bool.
    fn bool(&self, key: &str) -> Option<bool>;
    /// A string.
    fn str(&self, key: &str) -> Option<&str>;
    /// An array of non-negative integers, or of bools as 0 and 1.
    fn u64_array(&self, key: &str) -> Option<Vec<u64>>;
    /// An array of floats.
    fn f64_array(&self, key: &str) -> Option<Vec<f64>>;
    /// Length of an array of strings.
    fn string_array_len(&self, key: &str) -> Option<usize>;
    /// Whether the file has this tensor.
    fn has_tensor(&self, name: &str) -> bool;
    /// The tensor's shape, row-major (`[out, in]` for a matrix).
    fn tensor_shape(&self, name: &str) -> Option<Vec<usize>>;
    /// The values of a (small) f32 tensor.
    fn f32_tensor(&self, name: &str) -> Option<Vec<f32>>;
    /// All keys.
    fn keys(&self) -> Vec<String>;
}

/// A value to be written into GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GgufValue {
    /// Type 4.
    U32(u32),
    /// Type 10.
    U64(u64),
    /// Type 6.
    F32(f32),
    /// Type 12.
    F64(f64),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Str(String),
    /// Type 9 of type 12.
    F64s(Vec<f64>),
}

/// Keys of an architecture that change nothing.
const HARMLESS: &[&str] = &[
    "rope.scaling.finetuned",    // whether the model was tuned with the scaling
    "tensor_data_layout",        // how old converters named the order of rows
    "expert_group_count",        // see below: harmless only because the values are checked
    "expert_group_used_count",   // likewise
    "leading_dense_block_count", // likewise
    "expert_shared_count",       // likewise
    "expert_weights_scale",      // likewise
    "attention.causal",          // likewise
    "pooling_type",              // of embedding models
    "attention.sliding_window",  // where not read: Qwen's, not in force (see the HF parser)
];

/// Those that are harmless only with these values (a bool counts as 0 or 1).
const HARMLESS_IF: &[(&str, &[f64])] = &[
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_used_count", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("attention.causal", &[1.0]),
];

pub(super) struct Keys<'a> {
    pub meta: &'a dyn GgufMetadata,
    pub arch: &'a str,
    present: BTreeSet<String>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(meta: &'a dyn GgufMetadata, arch: &'a str) -> Self {
        let present = meta.keys().into_iter().collect();
        Self { meta, arch, present, read: RefCell::default() }
    }

    /// The key with the architecture before it.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn get<T>(
        &self,
        name: &str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let key = self.key(name);
        let value = read(&key);
        let present = self.present.contains(&key);
        self.read.borrow_mut().insert(key.clone());
        if value.is_none() && present {
            return Err(ConfigError::WrongType { key, expected, got: "another value".to_owned() });
        }
        Ok(value)
    }

    /// A whole number, or a list of equal ones (per layer).
    pub(super) fn usize(&self, name: &str) -> Result<Option<usize>> {
        self.get(name, "a whole number, the same for all layers", |key| {
            let one = self.meta.u64(key).or_else(|| {
                let list = self.meta.u64_array(key)?;
                let first = *list.first()?;
                list.iter().all(|n| *n == first).then_some(first)
            })?;
            usize::try_from(one).ok()
        })
    }

    /// A list of whole numbers; `None` for anything else, which another read may accept.
    pub(super) fn usize_list(&self, name: &str) -> Option<Vec<u64>> {
        let key = self.key(name);
        let list = self.meta.u64_array(&key)?;
        self.read.borrow_mut().insert(key);
        Some(list)
    }

    pub(super) fn f64(&self, name: &str) -> Result<Option<f64>> {
        self.get(name, "a number", |key| self.meta.f64(key).map(shortest))
    }

    pub(super) fn bool(&self, name: &str) -> Result<Option<bool>> {
        self.get(name, "a bool", |key| self.meta.bool(key))
    }

    pub(super) fn str(&self, name: &str) -> Result<Option<&'a str>> {
        self.get(name, "a string", |key| self.meta.str(key))
    }

    pub(super) fn required(&self, name: &str) -> Result<usize> {
        self.usize(name)?.ok_or_else(|| ConfigError::MissingKey { key: self.key(name) })
    }

    pub(super) fn required_f64(&self, name: &str) -> Result<f64> {
        self.f64(name)?.ok_or_else(|| ConfigError::MissingKey { key: self.key(name) })
    }

    /// Refuses a key of the architecture that was neither read nor is known to be harmless; other
    /// namespaces are not the config's concern.
    pub(super) fn finish(&self) -> Result<()> {
        let read = self.read.borrow();
        for key in &self.present {
            let Some(name) = key.strip_prefix(self.arch).and_then(|k| k.strip_prefix('.')) else {
                continue;
            };
            if !read.contains(key) && !self.is_harmless(key, name) {
                let got = self.describe(key);
                return Err(ConfigError::UnknownKey { key: key.clone(), got });
            }
        }
        Ok(())
    }

    fn number(&self, key: &str) -> Option<f64> {
        let integer = || self.meta.u64(key).map(|n| n as f64);
        let flag = || self.meta.bool(key).map(|b| f64::from(u8::from(b)));
        self.meta.f64(key).or_else(integer).or_else(flag)
    }

    fn is_harmless(&self, key: &str, name: &str) -> bool {
        let only_if = HARMLESS_IF.iter().find(|(n, _)| *n == name);
        HARMLESS.contains(&name)
            && only_if.is_none_or(|(_, values)| {
                self.number(key).is_some_and(|value| values.contains(&value))
            })
    }

    fn describe(&self, key: &str) -> String {
        let number = || self.number(key).map(|n| n.to_string());
        let text = || self.meta.str(key).map(|s| format!("{s:?}"));
        number().or_else(text).unwrap_or_else(|| "an array".to_owned())
    }
}

/// The shortest decimal that rounds to this f32; other f64 as they are.
///
/// A converter stored a decimal (`1e-5`) as f32; this gives the decimal back, so that a config is
/// the same whichever file it comes from. In f32 arithmetic the two are one number.
pub(super) fn shortest(x: f64) -> f64 {
    let narrow = x as f32;
    if f64::from(narrow) != x {
        return x;
    }
    narrow.to_string().parse().unwrap_or(x)
}

/// The key of a field.
pub(super) fn field(arch: &str, field: Field) -> String {
    let name = match field {
        Field::VocabSize => "vocab_size",
        Field::HiddenSize => "embedding_length",
        Field::NumLayers => "block_count",
        Field::MaxSeqLen => "context_length",
        Field::NormEps => "attention.layer_norm_rms_epsilon",
        Field::NumHeads => "attention.head_count",
        Field::NumKvHeads => "attention.head_count_kv",
        Field::HeadDim => "attention.key_length",
        Field::Scale => "attention.scale",
        Field::LogitSoftcap => "attn_logit_softcapping",
        Field::FinalSoftcap => "final_logit_softcapping",
        Field::FfnSize => "feed_forward_length",
        Field::NumExperts => "expert_count",
        Field::ExpertsPerToken => "expert_used_count",
        Field::Window => "attention.sliding_window",
        Field::LocalPattern => "attention.sliding_window_pattern",
        Field::Theta => "rope.freq_base",
        Field::LocalTheta => "rope.freq_base_swa",
        Field::RotaryDim => "rope.dimension_count",
        Field::RopeScaling => "rope.scaling.factor",
        Field::OriginalMax => "rope.scaling.original_context_length",
    };
    format!("{arch}.{name}")
}

#[cfg(test)]
mod tests {
    use super::shortest;

    #[test]
    fn an_f32_becomes_the_decimal_it_was_written_as() {
        assert_eq!(shortest(f64::from(1e-5f32)), 1e-5);
        assert_eq!(shortest(f64::from(500_000f32)), 500_000.0);
        assert_eq!(shortest(1.0 / 3.0), 1.0 / 3.0);
    }
}
