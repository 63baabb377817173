//! LoRA as a GGUF file, which llama.cpp takes with `--lora`.
//!
//! Layout of `convert_lora_to_gguf.py`: for a tensor `blk.0.attn_q.weight` of the model `….lora_a`
//! `[R, in]` and `….lora_b` `[out, R]`, whose rows have the order of the model's. `adapter.lora.alpha`
//! is 0 here, which says that the scale is in `lora_b`: modules may have scales of their own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use puna_io::{Dtype, GgufValue, GgufWriter, TensorBytes, TensorInfo};
use puna_model::{Dialect, GgufExperts, Part};

use crate::{Base, Method, PeftError};

/// Writes a LoRA as GGUF.
///
/// # Errors
/// If the adapter is something else, GGUF has no name for what it adapts, or the disk fails.
pub fn save_gguf(
    method: &dyn Method,
    base: &Base<'_>,
    path: &Path,
) -> Result<Vec<PathBuf>, PeftError> {
    let family = base.config.family;
    let dialect = Dialect::Gguf { family, experts: GgufExperts::Separate };
    let mut list = Vec::new();
    let mut values: HashMap<String, Vec<u8>> = HashMap::new();
    for (slot, matrices) in method.low_rank()? {
        let location = dialect.locate(&base.config.decoder, slot);
        if location.part != Part::Whole {
            let problem = format!("GGUF keeps {slot} in a tensor with others: merge the adapter");
            return Err(PeftError::Combination { problem });
        }
        let (a, b) = (&matrices.a, &matrices.b);
        let bytes = |values: &[f32], factor: f32| -> Vec<u8> {
            values.iter().flat_map(|v| (v * factor).to_le_bytes()).collect()
        };
        let rows = b.shape()[0];
        let natural = bytes(&b.values(), matrices.scale);
        let parts = [
            (".lora_a", a.shape(), bytes(&a.values(), 1.0)),
            (".lora_b", b.shape(), location.order.from_natural(&natural, rows)),
        ];
        for (suffix, shape, bytes) in parts {
            let name = format!("{}{suffix}", location.tensor);
            list.push((name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.to_vec() }));
            values.insert(name, bytes);
        }
    }
    let text = |text: &str| GgufValue::String(text.to_owned());
    let metadata = vec![
        ("general.type".to_owned(), text("adapter")),
        ("general.architecture".to_owned(), text(base.config.gguf_architecture())),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), GgufValue::F32(0.0)),
    ];
    GgufWriter::new(metadata).write(path, &list, |name| {
        Ok::<_, PeftError>(TensorBytes::from_vec(values.remove(name).unwrap_or_default()))
    })
}
