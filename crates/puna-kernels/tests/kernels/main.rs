//! Property and golden tests of every kernel with every instruction set of the machine.

#![expect(clippy::unwrap_used, reason = "the tests' own helpers panic as the tests do")]

mod attention;
mod elementwise;
mod formats;
mod matmul;
mod support;
mod tiles;
