//! End-to-end tests: the binary, as a user calls it.

mod chat;
mod convert;
mod data;
mod golden;
mod help;
mod hostile;
mod hub;
mod run;
mod shapes;
mod train;
