//! Adapters merged into the weights of their model.

use puna_nn::ops::with_f32;
use puna_nn::{AdapterSet, LayerSlot, Slot};

use crate::{Base, PeftError};

/// Whether a set leaves the weights as they are outside of some slots that a merge changes; says which
/// of its parts depends on the input and cannot be merged.
///
/// # Errors
/// If there is such a part.
pub fn check_mergeable(set: &AdapterSet) -> Result<(), PeftError> {
    let parts = [
        ("a bottleneck adapter", !set.branches.is_empty()),
        ("a prefix", set.prefix.is_some()),
        ("a prompt", set.prompt.is_some()),
    ];
    match parts.iter().find(|(_, there)| *there) {
        None => Ok(()),
        Some((what, _)) => Err(PeftError::Combination {
            problem: format!(
                "{what} computes something that no weight does and cannot be merged; use it with \
                 --adapter"
            ),
        }),
    }
}

/// Whether a set changes the embedding, and whether the head.
#[must_use]
pub fn changes_ends(set: &AdapterSet) -> (bool, bool) {
    let embedding = set.embedding.is_some() || set.embedding_weight.is_some();
    (embedding, set.linears.contains_key(&Slot::Head))
}

/// The values of a slot with a set merged into them.
///
/// # Errors
/// If something of the set depends on the input, or adds a bias that the model has no place for.
pub fn merged_values(base: &Base<'_>, set: &AdapterSet, slot: Slot) -> Result<Vec<f32>, PeftError> {
    let missing = || PeftError::Combination { problem: format!("the model has no {slot}") };
    if slot == Slot::Embedding {
        let mut values = match &set.embedding_weight {
            Some(weight) => with_f32(&weight.dequantize()?, <[f32]>::to_vec)?,
            None => base.decoder.values(slot)?.ok_or_else(missing)?,
        };
        if let Some(adapter) = &set.embedding {
            adapter.merge(&mut values)?;
        }
        return Ok(values);
    }
    let (weight_slot, is_bias) = weight_of(slot);
    let stored = base.decoder.values(slot)?.ok_or_else(missing)?;
    let Some(adapted) = set.linears.get(&weight_slot) else { return Ok(stored) };
    let (mut weight, mut bias) = match is_bias {
        true => {
            let bias = match &adapted.bias {
                Some(bias) => bias.with(<[f32]>::to_vec)?,
                None => stored,
            };
            (base.decoder.values(weight_slot)?.ok_or_else(missing)?, Some(bias))
        }
        false => (stored, None),
    };
    if let Some(replaced) = &adapted.weight {
        weight = with_f32(&replaced.dequantize()?, <[f32]>::to_vec)?;
    }
    if adapted.bias.is_some() && bias.is_none() && !has_bias(base, weight_slot) {
        return Err(PeftError::Combination {
            problem: format!(
                "the adapter adds a bias to {weight_slot}, which the model has none for"
            ),
        });
    }
    for adapter in &adapted.adapters {
        if !adapter.merge(&mut weight, bias.as_deref_mut())? {
            return Err(PeftError::Combination {
                problem: format!("what adapts {weight_slot} depends on the input; use --adapter"),
            });
        }
    }
    Ok(bias.unwrap_or(weight))
}

fn has_bias(base: &Base<'_>, slot: Slot) -> bool {
    let linears = base.decoder.linears();
    linears.iter().any(|(at, linear)| *at == slot && linear.bias().is_some())
}

/// The slot of the weight that a bias belongs to, and whether the slot is a bias.
fn weight_of(slot: Slot) -> (Slot, bool) {
    use LayerSlot as L;
    let Slot::Layer(layer, of_layer) = slot else { return (slot, false) };
    let weight = match of_layer {
        L::QueryBias => L::Query,
        L::KeyBias => L::Key,
        L::ValueBias => L::Value,
        L::OutputBias => L::Output,
        L::GateBias => L::Gate(puna_nn::Expert::Dense),
        L::UpBias => L::Up(puna_nn::Expert::Dense),
        L::DownBias => L::Down(puna_nn::Expert::Dense),
        other => return (Slot::Layer(layer, other), false),
    };
    (Slot::Layer(layer, weight), true)
}
