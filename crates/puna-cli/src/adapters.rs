//! Adapters that the command line names, applied to a model.

use std::sync::Arc;

use puna_model::Model;
use puna_peft::{Base, Method, PeftError};

use crate::args::Adapters;
use crate::output;
use crate::report::Hint;

/// Loads adapters.
pub(crate) fn load(
    adapters: &Adapters,
    model: &Model,
) -> anyhow::Result<Vec<(Box<dyn Method>, f32)>> {
    let base = Base { decoder: &model.decoder, config: &model.config };
    let mut loaded = Vec::new();
    for adapter in &adapters.list {
        match puna_peft::check_base(&adapter.path, &base) {
            Err(error @ PeftError::OtherBase { .. }) if adapters.force => {
                output::note(&format!("warning: {error}"));
            }
            Err(error @ PeftError::OtherBase { .. }) => {
                return Err(anyhow::Error::from(error))
                    .hint("give the model it belongs to, or --force");
            }
            result => result?,
        }
        loaded.push((puna_peft::load(&adapter.path, &base)?, adapter.scale));
    }
    Ok(loaded)
}

/// Makes a model apply adapters to all sequences.
pub(crate) fn apply(adapters: &Adapters, model: &mut Model) -> anyhow::Result<()> {
    if adapters.list.is_empty() {
        return Ok(());
    }
    let loaded = load(adapters, model)?;
    let parts: Vec<(&dyn Method, f32)> = loaded.iter().map(|(m, scale)| (&**m, *scale)).collect();
    let set = puna_peft::combine(&parts)?;
    model.decoder.use_adapters(Some(Arc::new(set)));
    Ok(())
}
