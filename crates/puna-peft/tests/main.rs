//! Tests of whole adapters.

mod golden;
mod soft;
mod virtual_cache;
mod virtual_tokens;
mod virtual_training;
