//! Builds GGUF bytes by hand, also wrong ones: independent of the crate's writer.

/// The parts of a file, each as bytes that a test may distort.
#[derive(Debug, Clone)]
pub(crate) struct GgufBuilder {
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
    pub(crate) alignment: usize,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

/// Metadata value types used in tests.
pub(crate) mod kind {
    pub(crate) const U16: u32 = 2;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl GgufBuilder {
    /// A file without keys and tensors.
    pub(crate) fn new() -> Self {
        Self {
            version: 3,
            tensor_count: None,
            key_count: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// A key, the number of its type and the bytes of its value.
    pub(crate) fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push([&string(name), &kind.to_le_bytes()[..], value].concat());
        self
    }

    /// A tensor's header; axes innermost first, as the file has them.
    pub(crate) fn header(mut self, name: &str, axes: &[u64], kind: u32, offset: u64) -> Self {
        let mut header = string(name);
        header.extend((axes.len() as u32).to_le_bytes());
        header.extend(axes.iter().flat_map(|n| n.to_le_bytes()));
        header.extend(kind.to_le_bytes());
        header.extend(offset.to_le_bytes());
        self.tensors.push(header);
        self
    }

    /// An f32 vector with its data where it belongs.
    pub(crate) fn f32s(self, name: &str, values: &[f32]) -> Self {
        let offset = self.data.len();
        let mut new = self.header(name, &[values.len() as u64], 0, offset as u64);
        new.data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        new.data.resize(new.data.len().next_multiple_of(new.alignment), 0);
        new
    }

    /// Zeros at the end of the data.
    pub(crate) fn data(mut self, bytes: usize) -> Self {
        self.data.resize(self.data.len() + bytes, 0);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        out.extend(self.tensors.concat());
        if !self.data.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&self.data);
        }
        out
    }
}
