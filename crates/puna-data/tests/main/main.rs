//! Integration tests: files in, shards and rows out.

mod fixture;
mod formats;
mod hostile;
mod preparation;
mod resume;
mod rows;
