//! Models inside the binary, so that `puna chat` answers at once and offline.

use anyhow::Context;
use puna_io::{Checkpoint, Gguf};

/// A model in the binary.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    /// Its name as MODEL.
    pub(crate) name: &'static str,
    /// What it is, in a sentence that promises nothing.
    pub(crate) about: &'static str,
    /// A GGUF file.
    bytes: &'static [u8],
}

/// All of them.
pub(crate) static ALL: &[BuiltIn] = &[BuiltIn {
    name: "puna-mini",
    about: "puna-mini, built in: 3 M parameters, trained by puna on the Rust documentation. It \
            answers in sentences that look like it and knows nothing; -m MODEL runs a real one.",
    bytes: include_bytes!("../../../models/puna-mini-q8_0.gguf"),
}];

/// The one used without -m.
pub(crate) static DEFAULT: &BuiltIn = &ALL[0];

/// The model of this name.
pub(crate) fn find(name: &str) -> Option<&'static BuiltIn> {
    ALL.iter().find(|model| model.name == name)
}

impl BuiltIn {
    /// Size of the file.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Opens it where it lies, in the pages of the binary.
    pub(crate) fn open(&self) -> anyhow::Result<Checkpoint> {
        let gguf = Gguf::from_static(self.name, self.bytes)
            .with_context(|| format!("the built-in model {} is broken", self.name))?;
        Ok(Checkpoint::from_gguf(gguf))
    }
}
