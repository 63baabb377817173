//! Integration tests of puna-io: golden checkpoints, hostile files, writing.

mod layouts;
mod support;
mod writing;
