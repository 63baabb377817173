//! The puna binary.
fn main() {}
