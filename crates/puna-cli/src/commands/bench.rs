//! `puna bench`: tokens per second of prefill and decoding, as llama-bench measures them.
//!
//! `ppN` runs N random tokens in one prompt into an empty cache; `tgN` decodes N tokens one after
//! another, from an empty cache. Each test is warmed up once and then repeated.

use std::time::Instant;

use anyhow::bail;
use clap::value_parser;
use puna_infer::{DEFAULT_PREFILL_CHUNK, peak_rss_bytes};
use puna_model::{Decoder, Logits, Segment};
use serde::Serialize;

use crate::args::RunArgs;
use crate::loaded::Loaded;
use crate::progress::Spinner;
use crate::report::Outcome;
use crate::{output, units};

/// Measures prefill (pp) and decoding (tg) on random tokens.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  puna bench -m ./model -p 512 -n 128 -r 3 -t 2 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Prompt lengths to measure, separated by commas (0: none)
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "512")]
    prompt: Vec<usize>,
    /// Numbers of tokens to decode, separated by commas (0: none)
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128")]
    generate: Vec<usize>,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// One test's result, a contract that scripts rely on.
#[derive(Debug, Serialize)]
struct TestReport {
    test: String,
    tokens_per_second: Spread,
    peak_rss_bytes: Option<u64>,
    threads: usize,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// What a test does.
#[derive(Debug, Clone, Copy)]
enum Test {
    Prefill(usize),
    Decode(usize),
}

impl Test {
    fn name(self) -> String {
        match self {
            Self::Prefill(n) => format!("pp{n}"),
            Self::Decode(n) => format!("tg{n}"),
        }
    }

    fn tokens(self) -> usize {
        match self {
            Self::Prefill(n) | Self::Decode(n) => n,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let settings = args.run.settings()?;
    let loaded = Loaded::load(&settings)?;
    let decoder = &loaded.model.decoder;
    let prefills = args.prompt.iter().map(|&n| Test::Prefill(n));
    let tests = prefills.chain(args.generate.iter().map(|&n| Test::Decode(n)));
    let mut reports = Vec::new();
    for test in tests.filter(|test| test.tokens() > 0) {
        let context = decoder.config().max_seq_len;
        if test.tokens() > context {
            bail!("{} does not fit into the context of {context} tokens", test.name());
        }
        let _spinner = Spinner::new(format!("measuring {}", test.name()));
        reports.push(TestReport {
            test: test.name(),
            tokens_per_second: measure(decoder, test, args.repetitions)?,
            peak_rss_bytes: peak_rss_bytes(),
            threads: settings.threads,
        });
    }
    if args.json {
        output::json(&reports)?;
    } else {
        output::text(&table(&reports))?;
    }
    Ok(Outcome::Done)
}

fn measure(decoder: &Decoder, test: Test, repetitions: u32) -> anyhow::Result<Spread> {
    once(decoder, test, 0)?; // warm-up
    let mut rates = Vec::new();
    for repetition in 1..=repetitions {
        let started = Instant::now();
        once(decoder, test, repetition)?;
        rates.push(test.tokens() as f64 / started.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(spread(&rates))
}

/// Of sorted rates, at least one.
fn spread(rates: &[f64]) -> Spread {
    let middle = rates.len() / 2;
    let median = match rates.len() % 2 {
        1 => rates[middle],
        _ => f64::midpoint(rates[middle - 1], rates[middle]),
    };
    Spread { median, min: rates[0], max: rates[rates.len() - 1] }
}

fn once(decoder: &Decoder, test: Test, seed: u32) -> anyhow::Result<()> {
    let tokens = random_tokens(test.tokens(), decoder.config().vocab_size, seed);
    let mut cache = decoder.new_cache();
    let total_len = tokens.len();
    let chunk = match test {
        Test::Prefill(_) => DEFAULT_PREFILL_CHUNK,
        Test::Decode(_) => 1,
    };
    for part in tokens.chunks(chunk) {
        let total_len = match test {
            Test::Prefill(_) => total_len,
            Test::Decode(_) => cache.len() + 1,
        };
        let segment = Segment { tokens: part, cache: &mut cache, total_len };
        decoder.forward(&mut [segment], Logits::Last)?;
    }
    Ok(())
}

/// Splitmix64 (Steele, Lea and Flood 2014): which tokens they are changes nothing, that they are
/// the same every time makes runs comparable.
fn random_tokens(count: usize, vocab_size: usize, seed: u32) -> Vec<u32> {
    let mut state = u64::from(seed);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % vocab_size as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}

fn table(reports: &[TestReport]) -> String {
    let mut rows =
        vec![["test", "tokens/s (median)", "min", "max", "peak RSS"].map(String::from).to_vec()];
    rows.extend(reports.iter().map(|report| {
        let rate = &report.tokens_per_second;
        vec![
            report.test.clone(),
            format!("{:.2}", rate.median),
            format!("{:.2}", rate.min),
            format!("{:.2}", rate.max),
            report.peak_rss_bytes.map_or_else(|| "unknown".to_string(), units::bytes),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::{random_tokens, spread};

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let even = spread(&[1.0, 2.0, 4.0, 9.0]);
        assert_eq!((even.median, even.min, even.max), (3.0, 1.0, 9.0));
        assert_eq!(spread(&[5.0]).median, 5.0);
    }

    #[test]
    fn random_tokens_are_in_the_vocabulary_and_repeatable() {
        let tokens = random_tokens(100, 7, 3);
        assert!(tokens.iter().all(|&t| t < 7));
        assert_eq!(tokens, random_tokens(100, 7, 3));
        assert_ne!(tokens, random_tokens(100, 7, 4));
    }
}
