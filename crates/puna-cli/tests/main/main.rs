//! End-to-end tests: the binary, as a user calls it.

mod adapters;
mod bad_input;
mod chat;
mod convert;
mod data;
mod fit;
mod full_disk;
mod golden;
mod help;
mod hostile;
mod hub;
mod pet;
mod plan;
mod run;
mod serve;
mod shapes;
mod sweep;
mod train;
