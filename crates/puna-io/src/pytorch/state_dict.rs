//! From a pickle's values to tensors by name.

use std::path::Path;

use crate::IoError;
use crate::pickle::{Element, Object, TensorView, Unpickled, Value};

/// Keys under which trainers put the state dict.
const WRAPPERS: [&str; 4] = ["state_dict", "model", "module", "model_state_dict"];

/// A tensor's view and the storage it looks at.
#[derive(Debug)]
pub(super) struct NamedView {
    /// The storage's key.
    pub(super) key: String,
    /// The storage's length in its own elements.
    pub(super) storage_len: usize,
    /// What the storage counts in.
    pub(super) storage_element: Element,
    /// The view.
    pub(super) view: TensorView,
}

/// Collects the tensors of a state dict; other entries (step counts, settings) are not weights
/// and are passed over.
pub(super) fn read(
    path: &Path,
    pickle: &Unpickled<'_>,
) -> Result<Vec<(String, NamedView)>, IoError> {
    let Some(Object::Dict(top)) = pickle.object(pickle.top) else {
        return Err(IoError::invalid(path, "pickle", "a dict of tensors", "something else"));
    };
    let mut tensors = collect(path, pickle, top)?;
    if tensors.is_empty() {
        for (key, value) in top {
            if pickle.str(*key).is_some_and(|k| WRAPPERS.contains(&k))
                && let Some(Object::Dict(inner)) = pickle.object(*value)
            {
                tensors = collect(path, pickle, inner)?;
                break;
            }
        }
    }
    if tensors.is_empty() {
        return Err(IoError::invalid(path, "pickle", "a dict of tensors", "a dict without any"));
    }
    Ok(tensors)
}

fn collect(
    path: &Path,
    pickle: &Unpickled<'_>,
    items: &[(Value, Value)],
) -> Result<Vec<(String, NamedView)>, IoError> {
    let mut tensors = Vec::new();
    for (key, value) in items {
        let Some(Object::Tensor(view)) = pickle.object(*value) else {
            continue;
        };
        let Some(name) = pickle.str(*key) else {
            return Err(IoError::invalid(path, "pickle", "tensors under names", "another key"));
        };
        let Some(Object::Storage(storage)) = pickle.objects.get(view.storage) else {
            return Err(IoError::tensor(path, name, "a storage", "none"));
        };
        tensors.push((
            name.to_owned(),
            NamedView {
                key: storage.key.to_owned(),
                storage_len: storage.len,
                storage_element: storage.element,
                view: view.clone(),
            },
        ));
    }
    Ok(tensors)
}
