//! Integration tests of puna-io: golden checkpoints, hostile files, writing.

mod hostile;
mod layouts;
mod support;
mod writing;
