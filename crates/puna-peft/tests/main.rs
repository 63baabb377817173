//! Tests of whole adapters.

mod adalora;
mod adapted;
mod bitfit;
mod files;
mod golden;
mod hub;
mod ia3;
mod lora;
mod mixtures;
mod pet;
mod soft;
mod support;
mod virtual_cache;
mod virtual_tokens;
mod virtual_training;
