//! What training reads: rows of tokens of one length.

/// A target that takes no part in the loss.
pub const NO_TARGET: u32 = u32::MAX;

/// One row of a batch; all parts have its length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// What each token should predict, or [`NO_TARGET`].
    pub targets: Vec<u32>,
    /// Position of each token within its document, for rotary embeddings.
    pub positions: Vec<u32>,
    /// Index in the row of the first token each token may attend to: its document's first, which
    /// keeps documents packed into one row apart. Never decreases along a row.
    pub visible_from: Vec<u32>,
}

/// An endless, repeatable supply of rows: a row depends on its number and on nothing else, so a
/// run continues exactly where it stopped, on any number of processes.
pub trait RowSource: Send + Sync {
    /// Error of a row that cannot be read.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Tokens of every row.
    fn sequence_length(&self) -> usize;

    /// Rows after which the data begins anew.
    fn rows_per_epoch(&self) -> u64;

    /// Row `number` of the endless sequence.
    ///
    /// # Errors
    /// If its data cannot be read.
    fn row(&self, number: u64) -> Result<Row, Self::Error>;
}
