//! A restricted unpickler: builds the containers and tensors of a state dict and nothing else.
//!
//! A pickle is a program for a stack machine that may name any Python callable. Here a name
//! outside [`global::Global`] is an error at once, and the calls that remain build plain data.
//! Values live in an arena and refer to each other by index, so that deep nesting and reference
//! cycles cost no recursion; every count is bounded before memory is taken.
//! Source: Python's `pickletools`, protocols 2 to 4, and `torch/_weights_only_unpickler.py` for
//! what checkpoints use.

mod build;
mod global;
mod machine;

use std::path::Path;

pub(crate) use global::{Element, Global, storage_class};

use crate::IoError;

/// The largest pickle read; 100 000 tensors take about 15 MB.
pub(crate) const MAX_PICKLE_BYTES: usize = 64 << 20;
/// Objects (strings, tuples, tensors, …) in one pickle; a tensor takes about ten.
const MAX_OBJECTS: usize = 1 << 21;
/// Values on the stack; Python flushes dicts every 1000 items.
const MAX_STACK: usize = 1 << 20;
/// Instructions in one pickle.
const MAX_INSTRUCTIONS: usize = 1 << 24;
/// Axes of a tensor.
const MAX_AXES: usize = 8;

/// A value: small ones inline, the others in the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Global(Global),
    Object(usize),
}

/// An arena entry; strings point into the pickle, byte strings are not kept.
#[derive(Debug)]
pub(crate) enum Object<'a> {
    Str(&'a str),
    Bytes,
    /// An integer of more than 64 bits, little endian, as LONG1 writes it.
    Long(&'a [u8]),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Storage<'a>),
    Tensor(TensorView),
}

/// A reference to a storage, kept outside the pickle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage<'a> {
    /// Its name in the archive.
    pub(crate) key: &'a str,
    /// What its elements are; `Bytes` for an untyped storage.
    pub(crate) element: Element,
    /// Its length in elements.
    pub(crate) len: usize,
}

/// A strided view of a storage.
#[derive(Debug, Clone)]
pub(crate) struct TensorView {
    /// Arena index of the storage.
    pub(crate) storage: usize,
    /// The elements' type.
    pub(crate) element: Element,
    /// First element.
    pub(crate) offset: usize,
    /// Axes, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Elements from one index to the next, per axis.
    pub(crate) strides: Vec<usize>,
}

/// What one pickle evaluated to.
#[derive(Debug)]
pub(crate) struct Unpickled<'a> {
    pub(crate) top: Value,
    pub(crate) objects: Vec<Object<'a>>,
    /// Bytes of the pickle, STOP included; legacy files hold several in a row.
    pub(crate) consumed: usize,
}

impl<'a> Unpickled<'a> {
    /// The arena entry of a value, if it has one.
    pub(crate) fn object(&self, value: Value) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    /// The text of a string value.
    pub(crate) fn str(&self, value: Value) -> Option<&'a str> {
        match self.object(value) {
            Some(Object::Str(s)) => Some(s),
            _ => None,
        }
    }
}

/// Evaluates the first pickle in `bytes`.
///
/// # Errors
/// The pickle names a global that is not part of a tensor, breaks the format, or exceeds a limit.
pub(crate) fn unpickle<'a>(path: &Path, bytes: &'a [u8]) -> Result<Unpickled<'a>, IoError> {
    machine::Machine::new(path, &bytes[..bytes.len().min(MAX_PICKLE_BYTES)]).run()
}

#[cfg(test)]
mod tests;
