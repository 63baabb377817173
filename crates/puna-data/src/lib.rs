//! From piles of files to rows of tokens: preparing text, reading token shards, conversations.

mod row;

pub use row::{NO_TARGET, Row, RowSource};
