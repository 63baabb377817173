//! Property and golden tests of every kernel with every instruction set of the machine.

mod attention;
mod elementwise;
mod formats;
mod matmul;
mod support;
