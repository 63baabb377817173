//! Tests of whole adapters.

mod adalora;
mod adapted;
mod bitfit;
mod golden;
mod hub;
mod ia3;
mod lora;
mod pet;
mod soft;
mod virtual_cache;
mod virtual_tokens;
mod virtual_training;
