//! Tests of whole adapters.

mod adapted;
mod bitfit;
mod golden;
mod ia3;
mod pet;
mod soft;
mod virtual_cache;
mod virtual_tokens;
mod virtual_training;
