//! Parameter-efficient tuning: the methods, their files, and merging.
//!
//! A [`Method`] belongs to a base model that it does not change. What it adds are implementations of
//! the traits that puna-nn has for linear layers, branches, prefixes and embeddings; it puts them into
//! an [`AdapterSet`], which is an argument of a pass. The base may be stored in any form.

mod adalora;
mod adamix;
mod base;
mod bitfit;
mod config;
mod encoder;
mod error;
mod extras;
mod facts;
mod files;
mod fusion;
mod gguf;
mod hub;
mod ia3;
mod init;
mod json;
mod lora;
mod lstm;
mod merge;
mod method;
mod p_tuning;
pub mod pet;
mod prefix;
mod prompt;
mod svd;
mod targets;
mod virtual_tokens;

pub use adalora::AdaLoraConfig;
pub use adamix::{AdamixConfig, Placement, Share};
pub use base::{Base, Module};
pub use bitfit::BitFitConfig;
pub use config::AdapterConfig;
pub use error::PeftError;
pub use facts::AdapterFacts;
pub use files::{BaseIdentity, check_base, combine, load, save};
pub use fusion::FusionConfig;
pub use gguf::save_gguf;
pub use hub::{
    BottleneckOptions, Composition, HubIa3Config, HubLoraConfig, HubPrefixConfig, InitWeights,
    MamConfig, NonLinearity, Reduction, Scaling, UnipeltConfig, drop_first_layers,
};
pub use ia3::Ia3Config;
pub use lora::{Bias, LoftQ, LoraConfig, loftq, loftq_from};
pub use merge::{changes_ends, check_mergeable, merged_values};
pub use method::{Files, Method, SavedTensor, Trained};
pub use p_tuning::{PTuningConfig, PromptEncoderType};
pub use prefix::{PTuningV2Config, PrefixInit, PrefixTuningConfig};
pub use prompt::{PromptTuningConfig, PromptTuningInit};
pub use puna_nn::AdapterSet;
pub use targets::{Targets, matches_module};
