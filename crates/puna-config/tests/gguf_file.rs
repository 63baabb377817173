//! GGUF metadata for tests: a map, filled by the writer under test or from a golden file by a
//! reader of just the header.

use puna_config::{GgufMetadata, GgufValue, ModelConfig};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeGguf {
    pub(crate) values: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(String),
    Ints(Vec<u64>),
    Floats(Vec<f64>),
    Strings(usize),
}

impl From<GgufValue> for Value {
    fn from(value: GgufValue) -> Self {
        match value {
            GgufValue::U32(n) => Self::Int(n.into()),
            GgufValue::U64(n) => Self::Int(i64::try_from(n).expect("fits")),
            GgufValue::F32(x) => Self::Float(x.into()),
            GgufValue::F64(x) => Self::Float(x),
            GgufValue::Bool(b) => Self::Bool(b),
            GgufValue::Str(s) => Self::Str(s),
            GgufValue::F64s(xs) => Self::Floats(xs),
            other => panic!("not known to this test: {other:?}"),
        }
    }
}

impl FakeGguf {
    /// A file as a converter would write it: metadata, rotary tensors, and the names and shapes
    /// of the tensors by which a reader knows biases, norms and the head.
    pub(crate) fn written(config: &ModelConfig) -> Self {
        let mut file = Self::default();
        for (key, value) in config.to_gguf_metadata().expect("expressible") {
            let earlier = file.values.insert(key.clone(), value.into());
            assert!(earlier.is_none(), "{key} twice");
        }
        for (name, factors) in config.decoder.gguf_rope_tensors() {
            file.tensors.insert(name, (vec![factors.len()], factors));
        }
        let d = &config.decoder;
        file.add("token_embd.weight", &[d.vocab_size, d.hidden_size]);
        use puna_config::{AttentionBias as Bias, FfnBias, FfnConfig, HeadWeight, QkNorm};
        if d.embedding.head == HeadWeight::Separate {
            file.add("output.weight", &[d.vocab_size, d.hidden_size]);
        }
        if d.attention.bias != Bias::None {
            file.add("blk.0.attn_q.bias", &[1]);
        }
        if d.attention.bias == Bias::QkvOutput {
            file.add("blk.0.attn_output.bias", &[1]);
        }
        if d.attention.qk_norm != QkNorm::None {
            file.add("blk.0.attn_q_norm.weight", &[1]);
        }
        if matches!(d.ffn, FfnConfig::Dense { bias: FfnBias::All, .. }) {
            file.add("blk.0.ffn_gate.bias", &[1]);
        }
        file
    }

    pub(crate) fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.insert(name.to_owned(), (shape.to_vec(), vec![]));
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// The header of a file; small f32 tensors with their values.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let mut at = Cursor { bytes: &bytes, at: 0 };
        assert_eq!(at.take(4), b"GGUF");
        at.take(4);
        let (tensors, pairs) = (at.u64(), at.u64());
        let mut file = Self::default();
        for _ in 0..pairs {
            let key = at.string();
            let kind = at.u32();
            let value = at.value(kind);
            file.values.insert(key, value);
        }
        for _ in 0..tensors {
            let name = at.string();
            let mut shape: Vec<usize> =
                (0..at.u32()).collect::<Vec<_>>().iter().map(|_| at.u64() as usize).collect();
            shape.reverse();
            at.take(12); // type and offset
            file.tensors.insert(name, (shape, vec![]));
        }
        Some(file)
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        self.at += n;
        &self.bytes[self.at - n..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("4 bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("8 bytes"))
    }

    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8_lossy(self.take(n)).into_owned()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 => Value::Int(self.take(1)[0].into()),
            1 => Value::Int((self.take(1)[0] as i8).into()),
            2 => Value::Int(u16::from_le_bytes(self.take(2).try_into().expect("2")).into()),
            3 => Value::Int(i16::from_le_bytes(self.take(2).try_into().expect("2")).into()),
            4 => Value::Int(self.u32().into()),
            5 => Value::Int((self.u32() as i32).into()),
            6 => Value::Float(f32::from_bits(self.u32()).into()),
            7 => Value::Bool(self.take(1)[0] != 0),
            8 => Value::Str(self.string()),
            9 => {
                let (kind, n) = (self.u32(), self.u64());
                let items: Vec<Value> = (0..n).map(|_| self.value(kind)).collect();
                match items.first() {
                    Some(Value::Float(_)) => Value::Floats(
                        items
                            .iter()
                            .map(|v| if let Value::Float(x) = v { *x } else { f64::NAN })
                            .collect(),
                    ),
                    Some(Value::Str(_)) => Value::Strings(items.len()),
                    _ => Value::Ints(
                        items
                            .iter()
                            .map(|v| if let Value::Int(n) = v { *n as u64 } else { 0 })
                            .collect(),
                    ),
                }
            }
            10 | 11 => Value::Int(self.u64() as i64),
            12 => Value::Float(f64::from_bits(self.u64())),
            other => panic!("type {other}"),
        }
    }
}

impl GgufMetadata for FakeGguf {
    fn u64(&self, key: &str) -> Option<u64> {
        let Value::Int(n) = self.values.get(key)? else { return None };
        u64::try_from(*n).ok()
    }

    fn f64(&self, key: &str) -> Option<f64> {
        let Value::Float(x) = self.values.get(key)? else { return None };
        Some(*x)
    }

    fn bool(&self, key: &str) -> Option<bool> {
        let Value::Bool(b) = self.values.get(key)? else { return None };
        Some(*b)
    }

    fn str(&self, key: &str) -> Option<&str> {
        let Value::Str(s) = self.values.get(key)? else { return None };
        Some(s)
    }

    fn u64_array(&self, key: &str) -> Option<Vec<u64>> {
        let Value::Ints(list) = self.values.get(key)? else { return None };
        Some(list.clone())
    }

    fn f64_array(&self, key: &str) -> Option<Vec<f64>> {
        let Value::Floats(list) = self.values.get(key)? else { return None };
        Some(list.clone())
    }

    fn string_array_len(&self, key: &str) -> Option<usize> {
        let Value::Strings(n) = self.values.get(key)? else { return None };
        Some(*n)
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor_shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|t| t.0.clone())
    }

    fn f32_tensor(&self, name: &str) -> Option<Vec<f32>> {
        self.tensors.get(name).map(|t| t.1.clone())
    }

    fn keys(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }
}
