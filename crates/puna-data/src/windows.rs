//! Rows for pretraining: windows over the tokens of a split.
//!
//! The tokens of the split (or of each source, where sources are mixed by weight) form one
//! sequence. Window w has the tokens w·L to w·L + L − 1 and predicts each one's successor; the last
//! tokens that fill no window are not used.

use std::sync::Arc;

use crate::DataError;
use crate::manifest::Split;
use crate::mixture::Mixture;
use crate::permutation::{Permutation, mix};
use crate::row::{NO_TARGET, Row, RowSource};
use crate::token_data::{Shard, TokenData};

/// How windows are cut and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Seed of the order, another one in each epoch; `None` for the order of the files.
    pub shuffle: Option<u64>,
    /// Whether documents are kept apart: no token sees, or predicts the first token of, another
    /// document, and positions begin anew with each.
    pub document_mask: bool,
    /// Which source a row comes from.
    pub sources: SourceOrder,
}

impl WindowOptions {
    /// Windows in file order without a mask, sources by the manifest's weights.
    pub fn new(sequence_length: usize) -> Self {
        Self {
            sequence_length,
            shuffle: None,
            document_mask: false,
            sources: SourceOrder::ByWeight,
        }
    }
}

/// Which source a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceOrder {
    /// By the weights of the manifest; without weights as [`SourceOrder::Joined`].
    ByWeight,
    /// All sources are one sequence of tokens, each window of it once per epoch.
    Joined,
}

/// Windows over one split of prepared data.
///
/// # Examples
/// ```no_run
/// use puna_data::{RowSource, Split, TokenData, TokenWindows, WindowOptions};
/// # fn main() -> Result<(), puna_data::DataError> {
/// let data = TokenData::open("tokens".as_ref())?;
/// let options = WindowOptions { shuffle: Some(1), ..WindowOptions::new(512) };
/// let rows = TokenWindows::new(&data, Split::Train, options)?;
/// assert_eq!(rows.row(0)?.tokens.len(), 512);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TokenWindows {
    options: WindowOptions,
    streams: Vec<Stream>,
    /// `None` with a single stream.
    mixture: Option<Mixture>,
}

impl TokenWindows {
    /// Windows over a split.
    ///
    /// # Errors
    /// A length of 0, or fewer tokens than one window and its last target, in the split or in a
    /// source that has a weight.
    pub fn new(data: &TokenData, split: Split, options: WindowOptions) -> Result<Self, DataError> {
        if options.sequence_length == 0 {
            let (option, expected) = ("sequence_length", "at least 1");
            return Err(DataError::Setting { option, expected, got: "0".to_owned() });
        }
        let sources = &data.manifest().sources;
        let weights: Option<Vec<f64>> = match options.sources {
            SourceOrder::ByWeight if sources.len() > 1 => {
                sources.iter().map(|s| s.weight).collect()
            }
            _ => None,
        };
        let all = data.shards(split);
        let (streams, mixture) = match weights {
            None => (vec![Stream::new(all.to_vec(), options.sequence_length)], None),
            Some(weights) => {
                let of = |source| all.iter().filter(move |s| s.source == source).cloned().collect();
                let streams = (0..sources.len())
                    .map(|source| Stream::new(of(source), options.sequence_length))
                    .collect();
                (streams, Some(Mixture::new(&weights)?))
            }
        };
        for (index, stream) in streams.iter().enumerate() {
            if stream.windows == 0 {
                let source_name = mixture.as_ref().map(|_| sources[index].name.clone());
                return Err(DataError::TooFewTokens {
                    path: data.dir().to_path_buf(),
                    split,
                    source_name,
                    tokens: stream.tokens(),
                    needed: options.sequence_length as u64 + 1,
                });
            }
        }
        Ok(Self { options, streams, mixture })
    }

    /// The stream and the window of a row.
    fn locate(&self, number: u64) -> (&Stream, u64) {
        let (source, index) = match &self.mixture {
            None => (0, number),
            Some(mixture) => mixture.locate(number),
        };
        let stream = &self.streams[source];
        let (epoch, window) = (index / stream.windows, index % stream.windows);
        let window = match self.options.shuffle {
            None => window,
            Some(seed) => {
                let seed = mix(mix(mix(seed) ^ epoch) ^ source as u64);
                Permutation::new(stream.windows, seed).apply(window)
            }
        };
        (stream, window)
    }
}

impl RowSource for TokenWindows {
    type Error = DataError;

    fn sequence_length(&self) -> usize {
        self.options.sequence_length
    }

    /// The windows of all sources; with weights each source has epochs of its own.
    fn rows_per_epoch(&self) -> u64 {
        self.streams.iter().map(|stream| stream.windows).sum()
    }

    fn row(&self, number: u64) -> Result<Row, DataError> {
        let len = self.options.sequence_length;
        let (stream, window) = self.locate(number);
        let first = window * len as u64;
        let mut tokens = Vec::with_capacity(len + 1);
        let mut starts = Vec::new();
        stream.read(first, len + 1, &mut tokens, &mut starts)?;
        let mut targets = tokens[1..].to_vec();
        tokens.truncate(len);
        let mut positions: Vec<u32> = (0..len as u32).collect();
        let mut visible_from = vec![0; len];
        if self.options.document_mask {
            for (index, &start) in starts.iter().enumerate() {
                if start > 0 {
                    targets[start - 1] = NO_TARGET;
                }
                let end = starts.get(index + 1).map_or(len, |next| (*next).min(len));
                for (offset, at) in (start..end).enumerate() {
                    positions[at] = offset as u32;
                    visible_from[at] = start as u32;
                }
            }
        }
        Ok(Row { tokens, targets, positions, visible_from })
    }
}

/// Shards as one sequence of tokens.
#[derive(Debug, Clone)]
struct Stream {
    shards: Vec<Arc<Shard>>,
    /// Where each shard ends.
    ends: Vec<u64>,
    windows: u64,
}

impl Stream {
    fn new(shards: Vec<Arc<Shard>>, sequence_length: usize) -> Self {
        let mut end = 0;
        let ends = shards.iter().map(|shard| {
            end += shard.tokens;
            end
        });
        let ends = ends.collect();
        let windows = end.saturating_sub(1) / sequence_length as u64;
        Self { shards, ends, windows }
    }

    fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Appends `count` tokens from `first`, and the document starts among them, counted from
    /// `first`.
    fn read(
        &self,
        first: u64,
        count: usize,
        tokens: &mut Vec<u32>,
        starts: &mut Vec<usize>,
    ) -> Result<(), DataError> {
        let mut shard = self.ends.partition_point(|end| *end <= first);
        while tokens.len() < count {
            let begin = self.ends[shard] - self.shards[shard].tokens;
            let at = first + tokens.len() as u64 - begin;
            let some = (self.shards[shard].tokens - at).min((count - tokens.len()) as u64);
            self.shards[shard].starts_in(at, at + some, tokens.len(), starts);
            self.shards[shard].read(at, some as usize, tokens)?;
            shard += 1;
        }
        Ok(())
    }
}
