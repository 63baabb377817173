//! Tests of whole adapters.

mod golden;
