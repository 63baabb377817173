//! Between a list of local layers and the rule that gives it.

use crate::LocalLayers;

/// Whether the rule makes this layer (from 0) local.
pub(crate) fn is_local(rule: LocalLayers, layer: usize) -> bool {
    match rule {
        LocalLayers::All => true,
        LocalLayers::AllButEvery(n) => !(layer + 1).is_multiple_of(n),
        LocalLayers::From(first) => layer >= first,
    }
}

/// Whether the rule makes any of these layers local.
pub(crate) fn touches(rule: LocalLayers, num_layers: usize) -> bool {
    (0..num_layers).any(|layer| is_local(rule, layer))
}

/// Whether the rule gives this arrangement.
pub(crate) fn gives(rule: LocalLayers, locals: &[bool]) -> bool {
    locals.iter().enumerate().all(|(i, local)| is_local(rule, i) == *local)
}

/// The rule that gives this arrangement; `None` if none does, or if no layer is local.
pub(crate) fn infer(locals: &[bool]) -> Option<LocalLayers> {
    let first_local = locals.iter().position(|l| *l)?;
    let rule = match locals.iter().position(|l| !l) {
        None => LocalLayers::All,
        Some(0) => LocalLayers::From(first_local),
        Some(first_global) => LocalLayers::AllButEvery(first_global + 1),
    };
    gives(rule, locals).then_some(rule)
}
