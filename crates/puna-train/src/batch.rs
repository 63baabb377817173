//! Rows put together for a pass.

use puna_data::{NO_TARGET, Row};
use puna_model::TokenRows;

/// Rows behind one another.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    len: usize,
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

impl Batch {
    /// Rows of one length.
    pub(crate) fn new(rows: &[Row]) -> Self {
        let mut batch =
            Batch { len: rows.first().map_or(0, |row| row.tokens.len()), ..Self::default() };
        for row in rows {
            batch.tokens.extend(&row.tokens);
            let target = |&target: &u32| (target != NO_TARGET).then_some(target);
            batch.targets.extend(row.targets.iter().map(target));
            batch.positions.extend(&row.positions);
            batch.visible_from.extend(&row.visible_from);
        }
        batch
    }

    /// What the decoder takes.
    pub(crate) fn rows(&self) -> TokenRows<'_> {
        TokenRows {
            len: self.len,
            tokens: &self.tokens,
            targets: &self.targets,
            weights: None,
            positions: &self.positions,
            visible_from: &self.visible_from,
        }
    }
}

/// Targets of some rows.
pub(crate) fn targets(rows: &[Row]) -> usize {
    rows.iter().flat_map(|row| &row.targets).filter(|&&target| target != NO_TARGET).count()
}
