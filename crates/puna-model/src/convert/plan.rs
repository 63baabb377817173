//! Which tensors the target has, in which type, and which slots each is made of.

use std::collections::HashMap;

use puna_config::Family;
use puna_io::{Dtype, TensorBytes, TensorInfo};

use super::cast::{Shift, cast, floats, survives};
use super::{OutType, Target};
use crate::dialect::GgufExperts;
use crate::loader::{Loader, block_format};
use crate::{Dialect, LayerSlot, ModelError, Part, RowOrder, Slot, matrix_shape, slots};

/// One tensor of the target.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) info: TensorInfo,
    /// Slots whose rows, one after the other, make the tensor.
    slots: Vec<(Slot, RowOrder)>,
    shift: Shift,
}

/// All tensors of the target.
pub(super) struct Plan {
    pub(super) tensors: Vec<Planned>,
    pub(super) notes: Vec<String>,
    /// Type of most matrices.
    pub(super) dtype: Dtype,
    index: HashMap<String, usize>,
}

impl Plan {
    pub(super) fn new(
        loader: &Loader<'_>,
        target: Target,
        out_type: OutType,
    ) -> Result<Self, ModelError> {
        let config = &loader.config.decoder;
        let dialect = target_dialect(target, loader.config.family);
        let base = base_dtype(loader, target, out_type)?;
        let mut plan =
            Plan { tensors: Vec::new(), notes: Vec::new(), dtype: base, index: HashMap::new() };
        for slot in slots(config) {
            let location = dialect.locate(config, slot);
            if let Some(&at) = plan.index.get(&location.tensor) {
                plan.tensors[at].slots.push((slot, location.order));
                continue;
            }
            let shape = matrix_shape(config, slot);
            let shape = match location.part {
                Part::Whole => shape,
                Part::Rows { total, .. } => vec![total, shape[1]],
                Part::Expert { count, .. } => vec![count, shape[0], shape[1]],
            };
            let shift = norm_shift(loader, &dialect, slot);
            let dtype = plan.slot_dtype(loader, target, out_type, slot, &location.tensor)?;
            plan.index.insert(location.tensor.clone(), plan.tensors.len());
            plan.tensors.push(Planned {
                name: location.tensor,
                info: TensorInfo { dtype, shape },
                slots: vec![(slot, location.order)],
                shift,
            });
        }
        Ok(plan)
    }

    /// Type in which a slot is written.
    fn slot_dtype(
        &mut self,
        loader: &Loader<'_>,
        target: Target,
        out_type: OutType,
        slot: Slot,
        name: &str,
    ) -> Result<Dtype, ModelError> {
        let shape = matrix_shape(&loader.config.decoder, slot);
        let shift = norm_shift(loader, &target_dialect(target, loader.config.family), slot);
        let router = matches!(slot, Slot::Layer(_, LayerSlot::Router));
        if target == Target::Gguf && (shape.len() == 1 || router) {
            return Ok(Dtype::F32); // what llama.cpp expects of vectors and routers
        }
        let stored = loader.canonical_dtype(slot)?;
        if shape.len() == 1 || router {
            // GGUF has them in F32; they come back narrow where nothing is lost
            let values = floats(&loader.canonical(slot)?)?;
            let narrow = survives(&values, self.dtype, shift) || out_type != OutType::Auto;
            return Ok(if narrow { self.dtype } else { Dtype::F32 });
        }
        if out_type == OutType::Auto && holds(target, stored) {
            return Ok(stored);
        }
        let outer = matches!(slot, Slot::Embedding | Slot::Head);
        let wanted = match self.dtype {
            Dtype::Q4_0 if outer => Dtype::Q8_0,
            dtype => dtype,
        };
        if shape[1].is_multiple_of(wanted.block_len()) {
            return Ok(wanted);
        }
        let (cols, block) = (shape[1], wanted.block_len());
        let kind = wanted.name();
        self.notes.push(format!(
            "{name}: rows of {cols} are no multiple of {kind}'s block of {block}; kept in F16"
        ));
        Ok(Dtype::F16)
    }

    /// Bytes of a planned tensor.
    pub(super) fn make(&self, loader: &Loader<'_>, name: &str) -> Result<TensorBytes, ModelError> {
        let Some(planned) = self.index.get(name).and_then(|at| self.tensors.get(*at)) else {
            let path = loader.checkpoint.root().to_path_buf();
            return Err(ModelError::MissingTensor { path, tensor: name.to_owned() });
        };
        let piece = |slot: Slot, order: RowOrder| -> Result<TensorBytes, ModelError> {
            let stored = loader.canonical(slot)?;
            let bytes = cast(&stored, planned.info.dtype, planned.shift)?;
            Ok(match order {
                RowOrder::Natural => bytes,
                order => TensorBytes::from_vec(order.from_natural(&bytes, stored.info.shape[0])),
            })
        };
        if let [(slot, order)] = planned.slots[..] {
            return piece(slot, order);
        }
        let mut joined = Vec::new();
        for (slot, order) in &planned.slots {
            joined.extend_from_slice(&piece(*slot, *order)?);
        }
        Ok(TensorBytes::from_vec(joined))
    }
}

/// The names of a Hugging Face folder.
pub(crate) fn hf_dialect(family: Family) -> Dialect {
    Dialect::Hf { family, prefix: "model.".into(), head_prefix: String::new() }
}

pub(super) fn target_dialect(target: Target, family: Family) -> Dialect {
    match target {
        Target::Hf { .. } => hf_dialect(family),
        Target::Gguf => Dialect::Gguf { family, experts: GgufExperts::Stacked },
        Target::Meta { .. } => Dialect::Meta,
    }
}

/// Type of most matrices: the one asked for, or the embedding's where the target can hold it.
fn base_dtype(loader: &Loader<'_>, target: Target, out_type: OutType) -> Result<Dtype, ModelError> {
    if let Some(dtype) = out_type.dtype() {
        if !holds(target, dtype) {
            return Err(ModelError::CannotWrite { dtype: dtype.name() });
        }
        return Ok(dtype);
    }
    let stored = loader.canonical_dtype(Slot::Layer(0, LayerSlot::Query))?;
    Ok(if holds(target, stored) { stored } else { Dtype::F16 })
}

fn holds(target: Target, dtype: Dtype) -> bool {
    match target {
        Target::Gguf => block_format(dtype).is_some(),
        Target::Hf { .. } | Target::Meta { .. } => {
            matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
        }
    }
}

fn norm_shift(loader: &Loader<'_>, dialect: &Dialect, slot: Slot) -> Shift {
    match (slot.is_norm(), loader.stores_norms_minus_one(), dialect.stores_norms_minus_one()) {
        (true, true, false) => Shift::Add(1.0),
        (true, false, true) => Shift::Add(-1.0),
        _ => Shift::None,
    }
}
