//! From piles of files to rows of tokens: preparing text, reading token shards, conversations.

mod error;
pub mod manifest;
mod mixture;
mod permutation;
pub mod prepare;
mod row;
pub mod sft;
mod token_data;
mod windows;

pub use error::{At, DataError, Problem, Within};
pub use manifest::{Manifest, Split};
pub use prepare::{FORMATS, PrepareOptions, prepare};
pub use row::{NO_TARGET, Row, RowSource};
pub use sft::{SftError, SftOptions, SftReader, SftReport, SftRows};
pub use token_data::TokenData;
pub use windows::{SourceOrder, TokenWindows, WindowOptions};
