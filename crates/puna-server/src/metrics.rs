//! What `/metrics` tells, in Prometheus' text format (version 0.0.4).
//!
//! A handful of counters and two histograms need no library: the format is lines of text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::Resident;

/// Upper bounds of the histograms' buckets, in seconds.
const FIRST_TOKEN_SECS: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const NEXT_TOKEN_SECS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Counts since the start.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    disconnected: AtomicU64,
    refused: AtomicU64,
    first_token: Histogram,
    next_token: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            prompt_tokens: AtomicU64::default(),
            completion_tokens: AtomicU64::default(),
            disconnected: AtomicU64::default(),
            refused: AtomicU64::default(),
            first_token: Histogram::new(FIRST_TOKEN_SECS),
            next_token: Histogram::new(NEXT_TOKEN_SECS),
        }
    }
}

#[derive(Debug)]
struct Histogram {
    bounds: [f64; 12],
    counts: [AtomicU64; 13],
    sum_micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: [f64; 12]) -> Self {
        Self { bounds, counts: Default::default(), sum_micros: AtomicU64::default() }
    }

    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.bounds.iter().take_while(|&&bound| seconds > bound).count();
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut total = 0;
        for (bound, count) in
            self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(&self.counts)
        {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {total}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value, escaped as the format asks.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Metrics {
    /// A request was answered; `path` is the route, never what a client made up.
    pub(crate) fn request(&self, path: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((path, status)).or_default() += 1;
    }

    pub(crate) fn prompt_tokens(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    pub(crate) fn completion_tokens(&self, tokens: usize) {
        self.completion_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        self.disconnected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn first_token(&self, time: Duration) {
        self.first_token.observe(time);
    }

    pub(crate) fn next_token(&self, time: Duration) {
        self.next_token.observe(time);
    }

    /// The text for Prometheus.
    pub(crate) fn text(&self, resident: &[Resident], open_requests: usize) -> String {
        let mut out = String::new();
        head(&mut out, "puna_requests_total", "counter", "Requests answered, by route and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((path, status), count) in &requests {
            let _ =
                writeln!(out, "puna_requests_total{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        let counters = [
            ("puna_prompt_tokens_total", "Tokens of prompts.", &self.prompt_tokens),
            ("puna_completion_tokens_total", "New tokens.", &self.completion_tokens),
            ("puna_disconnects_total", "Sequences whose client went away.", &self.disconnected),
            ("puna_queue_refusals_total", "Requests refused by a full queue.", &self.refused),
        ];
        for (name, help, counter) in counters {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "{name} {}", counter.load(Ordering::Relaxed));
        }
        head(&mut out, "puna_requests_open", "gauge", "Requests that are being answered.");
        let _ = writeln!(out, "puna_requests_open {open_requests}");
        self.first_token.write(
            &mut out,
            "puna_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
        );
        self.next_token.write(
            &mut out,
            "puna_time_per_token_seconds",
            "From a token to the next of the same sequence.",
        );
        models(&mut out, resident);
        out
    }
}

fn models(out: &mut String, resident: &[Resident]) {
    let stats: Vec<_> =
        resident.iter().map(|r| (label(&r.name), r.engine.scheduler.stats())).collect();
    let mut gauge = |name: &str, kind: &str, help: &str, value: &dyn Fn(usize) -> f64| {
        head(out, name, kind, help);
        for (index, (model, _)) in stats.iter().enumerate() {
            let _ = writeln!(out, "{name}{{model=\"{model}\"}} {}", value(index));
        }
    };
    gauge("puna_sequences_running", "gauge", "Sequences that are computed.", &|i| {
        stats[i].1.running as f64
    });
    gauge("puna_sequences_queued", "gauge", "Jobs that wait.", &|i| stats[i].1.queued as f64);
    gauge("puna_kv_cache_usage_ratio", "gauge", "Share of the KV memory in use.", &|i| {
        stats[i].1.blocks_used as f64 / stats[i].1.blocks_total.max(1) as f64
    });
    gauge("puna_kv_cache_bytes", "gauge", "Bytes of the KV memory in use or remembered.", &|i| {
        let stats = stats[i].1;
        ((stats.blocks_used + stats.blocks_cached) * stats.block_bytes) as f64
    });
    gauge(
        "puna_prefix_tokens_reused_total",
        "counter",
        "Prompt tokens not computed again.",
        &|i| stats[i].1.reused_tokens as f64,
    );
    gauge("puna_preemptions_total", "counter", "Sequences that gave up their memory.", &|i| {
        stats[i].1.preemptions as f64
    });
    gauge("puna_steps_total", "counter", "Forward passes.", &|i| stats[i].1.steps as f64);
}

#[cfg(test)]
mod tests {
    use super::Metrics;
    use std::time::Duration;

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let metrics = Metrics::default();
        metrics.first_token(Duration::from_millis(20));
        metrics.first_token(Duration::from_secs(60));
        metrics.request("/v1/models", 200);
        let text = metrics.text(&[], 3);
        assert!(text.contains("puna_time_to_first_token_seconds_bucket{le=\"0.025\"} 1"));
        assert!(text.contains("puna_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2"));
        assert!(text.contains("puna_requests_total{path=\"/v1/models\",status=\"200\"} 1"));
        assert!(text.contains("puna_requests_open 3"));
        assert_eq!(super::label("a\"b\\"), "a\\\"b\\\\");
    }
}
