//! The calls a checkpoint's pickle may make: they assemble views of storages, nothing runs.

use super::machine::Machine;
use super::{Element, Global, MAX_AXES, Object, Storage, TensorView, Value};
use crate::IoError;

impl<'a> Machine<'a, '_> {
    /// The text of a string value.
    pub(super) fn str(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Object(index) => match self.objects.get(index) {
                Some(Object::Str(s)) => Some(s),
                _ => None,
            },
            _ => None,
        }
    }

    fn tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Object(index) => match self.objects.get(index) {
                Some(Object::Tuple(items) | Object::List(items)) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// REDUCE and NEWOBJ: `callee(*arguments)`.
    pub(super) fn call(&mut self, callee: Value, arguments: Value) -> Result<Value, IoError> {
        let Value::Global(global) = callee else {
            return Err(self.invalid("a known global to call", "something else"));
        };
        let Some(arguments) = self.tuple(arguments) else {
            return Err(self.invalid("a tuple of arguments", "something else"));
        };
        // The longest argument list is a tensor's eight; only those are copied.
        let mut first = [Value::None; 8];
        let count = arguments.len().min(first.len());
        first[..count].copy_from_slice(&arguments[..count]);
        match (global, &first[..count]) {
            (Global::OrderedDict, []) => self.add(Object::Dict(Vec::new())),
            (Global::OrderedDict, [items]) => self.ordered_dict(*items),
            (Global::Size, [sizes]) => Ok(*sizes),
            (Global::Device, _) => Ok(Value::None),
            (Global::RebuildParameter, [tensor, ..]) => Ok(*tensor),
            (Global::RebuildTensor, [storage, offset, shape, strides])
            | (Global::RebuildTensorV2, [storage, offset, shape, strides, ..]) => {
                self.tensor([*storage, *offset, *shape, *strides], None)
            }
            (
                Global::RebuildTensorV3,
                [storage, offset, shape, strides, _, _, Value::Global(Global::Dtype(element)), ..],
            ) => self.tensor([*storage, *offset, *shape, *strides], Some(*element)),
            _ => Err(self.invalid(
                "the arguments torch.save writes",
                format!("{count} others for {global:?}"),
            )),
        }
    }

    fn ordered_dict(&mut self, items: Value) -> Result<Value, IoError> {
        let Some(items) = self.tuple(items) else {
            return Err(self.invalid("a list of pairs", "something else"));
        };
        let pairs: Option<Vec<(Value, Value)>> = items
            .iter()
            .map(|&item| match self.tuple(item) {
                Some(&[key, value]) => Some((key, value)),
                _ => None,
            })
            .collect();
        match pairs {
            // The same list may be turned into a dict again and again; its copies are counted.
            Some(pairs) => {
                self.count_copies(pairs.len())?;
                self.add(Object::Dict(pairs))
            }
            None => Err(self.invalid("a list of pairs", "something else")),
        }
    }

    fn tensor(&mut self, parts: [Value; 4], dtype: Option<Element>) -> Result<Value, IoError> {
        let [storage, offset, shape, strides] = parts;
        let (index, element) = match storage {
            Value::Object(index) => match self.objects.get(index) {
                Some(Object::Storage(s)) => (index, dtype.unwrap_or(s.element)),
                _ => return Err(self.invalid("a storage", "something else")),
            },
            _ => return Err(self.invalid("a storage", "something else")),
        };
        let view = TensorView {
            storage: index,
            element,
            offset: self.count(offset)?,
            shape: self.counts(shape)?,
            strides: self.counts(strides)?,
        };
        if view.shape.len() != view.strides.len() {
            return Err(self.invalid(format!("{} strides", view.shape.len()), view.strides.len()));
        }
        self.add(Object::Tensor(view))
    }

    fn count(&self, value: Value) -> Result<usize, IoError> {
        match value {
            Value::Int(n) => {
                usize::try_from(n).map_err(|_| self.invalid("a size of zero or more", n))
            }
            _ => Err(self.invalid("an integer", "something else")),
        }
    }

    fn counts(&self, value: Value) -> Result<Vec<usize>, IoError> {
        let Some(items) = self.tuple(value) else {
            return Err(self.invalid("a tuple of sizes", "something else"));
        };
        if items.len() > MAX_AXES {
            return Err(self.invalid(format!("at most {MAX_AXES} axes"), items.len()));
        }
        items.iter().map(|&item| self.count(item)).collect()
    }

    /// BINPERSID: `("storage", class, key, device, length)`, legacy files add a view or None.
    pub(super) fn storage(&self, id: Value) -> Result<Storage<'a>, IoError> {
        let parts = self.tuple(id).unwrap_or_default();
        let (tag, class, key, len) = match *parts {
            [tag, class, key, _, len] | [tag, class, key, _, len, Value::None] => {
                (tag, class, key, len)
            }
            _ => return Err(self.invalid("a reference to a storage", "something else")),
        };
        match (self.str(tag), class, self.str(key)) {
            (Some("storage"), Value::Global(Global::Storage(element)), Some(key)) => {
                Ok(Storage { key, element, len: self.count(len)? })
            }
            _ => Err(self.invalid("a reference to a storage", "something else")),
        }
    }
}
