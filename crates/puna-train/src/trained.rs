//! What a run trains: a whole model, or an adapter of one.

use std::path::Path;
use std::sync::Arc;

use puna_config::{ModelConfig, WeightDtype};
use puna_io::write::ExtraFile;
use puna_model::{LayerSlot, Parameter, Slot, Stage, Trainable, export};
use puna_peft::{AdapterSet, BaseIdentity, Method};

use crate::TrainError;

/// A trained tensor, and what the optimizer has to know of it.
#[derive(Debug, Clone)]
pub struct Member {
    /// The tensor.
    pub parameter: Arc<Parameter>,
    /// When a pass has completed its gradient.
    pub stage: Stage,
    /// Whether it is a matrix of a block that is not a router: what Muon is for.
    pub in_block: bool,
    /// Factor of the learning rate.
    pub lr_factor: f64,
}

impl From<(Slot, Arc<Parameter>)> for Member {
    fn from((slot, parameter): (Slot, Arc<Parameter>)) -> Self {
        let stage = match slot {
            Slot::Embedding => Stage::Embedding,
            Slot::FinalNorm | Slot::Head => Stage::Head,
            Slot::Layer(layer, _) => Stage::Block(layer),
        };
        let in_block =
            !matches!(slot, Slot::Embedding | Slot::Head | Slot::Layer(_, LayerSlot::Router));
        Self { parameter, stage, in_block, lr_factor: 1.0 }
    }
}

/// An adapter in training.
pub(crate) struct TrainedAdapter {
    pub(crate) method: Box<dyn Method>,
    pub(crate) set: Arc<AdapterSet>,
    /// The model it belongs to, as its configuration names it.
    pub(crate) base: String,
    pub(crate) identity: BaseIdentity,
}

/// What a run trains.
pub(crate) enum Trained {
    Model(Trainable),
    Adapter(TrainedAdapter),
}

impl Trained {
    /// The trained tensors, in an order that does not change.
    pub(crate) fn members(&self) -> Vec<Member> {
        match self {
            Trained::Model(trainable) => {
                trainable.parameters.iter().cloned().map(Member::from).collect()
            }
            Trained::Adapter(adapter) => {
                let member = |trained: puna_peft::Trained| Member {
                    parameter: trained.parameter,
                    // Small, and complete at the end whatever the method.
                    stage: Stage::Embedding,
                    in_block: true,
                    lr_factor: trained.lr_factor,
                };
                adapter.method.trained().into_iter().map(member).collect()
            }
        }
    }

    /// What adapts the layers.
    pub(crate) fn set(&self) -> Option<Arc<AdapterSet>> {
        match self {
            Trained::Model(_) => None,
            Trained::Adapter(adapter) => Some(Arc::clone(&adapter.set)),
        }
    }

    /// How often a row goes through the layers in a step.
    pub(crate) fn passes(&self) -> u64 {
        match self.set().and_then(|set| set.consistency) {
            Some(_) => 2,
            None => 1,
        }
    }

    /// The method, if it is an adapter.
    pub(crate) fn method(&self) -> Option<&dyn Method> {
        match self {
            Trained::Model(_) => None,
            Trained::Adapter(adapter) => Some(&*adapter.method),
        }
    }

    /// Name of the folder with the result.
    pub(crate) fn folder(&self) -> &'static str {
        match self {
            Trained::Model(_) => "model",
            Trained::Adapter(_) => "adapter",
        }
    }

    /// Writes what was trained: a model with its files, or an adapter.
    pub(crate) fn write(
        &self,
        dir: &Path,
        config: &ModelConfig,
        (dtype, files): (WeightDtype, Vec<ExtraFile>),
    ) -> Result<(), TrainError> {
        match self {
            Trained::Model(trainable) => {
                export::write_trained(dir, config, trainable, (dtype, files))?;
            }
            Trained::Adapter(adapter) => {
                puna_peft::save(&*adapter.method, dir, &adapter.base, &adapter.identity)?;
            }
        }
        Ok(())
    }
}
