//! Settings of a server, checked by those who use them.

use std::path::PathBuf;
use std::time::Duration;

use puna_infer::SchedulerOptions;

use crate::studio::Planner;

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Name or address to listen on.
    pub host: String,
    /// Port; 0 takes any that is free.
    pub port: u16,
    /// File of API keys, one per line; requests then need one of them.
    pub api_key_file: Option<PathBuf>,
    /// What to do about an address that others can reach, without API keys.
    pub exposure: Exposure,
    /// Limits of each model's scheduler.
    pub scheduler: SchedulerOptions,
    /// Largest body of a request.
    pub max_body_bytes: usize,
    /// Largest prompt, where less than the context is wanted.
    pub max_prompt_tokens: Option<usize>,
    /// Time a request may take from its arrival to its end; `None`: any.
    pub request_timeout: Option<Duration>,
    /// Time after which an unused model is unloaded; `None`: never.
    pub idle_unload: Option<Duration>,
    /// Origins of web pages that may use this server from a browser, or `*`.
    pub cors_origins: Vec<String>,
    /// Whether prompts appear in the log.
    pub prompt_log: PromptLog,
    /// Time that accepted requests get at the end.
    pub drain_timeout: Duration,
    /// What answers `/v1/plan`.
    pub planner: Option<Planner>,
    /// Folder whose folders are training runs.
    pub runs: Option<PathBuf>,
    /// File that ratings of answers are appended to.
    pub feedback: Option<PathBuf>,
}

/// What is allowed without API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Only addresses of this machine.
    Loopback,
    /// Any address.
    Anywhere,
}

/// Whether prompts appear in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptLog {
    /// Never.
    Off,
    /// Each prompt's text, shortened.
    On,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            api_key_file: None,
            exposure: Exposure::Loopback,
            scheduler: SchedulerOptions::default(),
            max_body_bytes: 8 << 20,
            max_prompt_tokens: None,
            request_timeout: Some(Duration::from_secs(600)),
            idle_unload: None,
            cors_origins: Vec::new(),
            prompt_log: PromptLog::Off,
            drain_timeout: Duration::from_secs(60),
            planner: None,
            runs: None,
            feedback: None,
        }
    }
}
