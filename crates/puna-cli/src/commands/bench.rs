//! `puna bench`: tokens per second of prefill and decoding, as llama-bench measures them, and the
//! limits of the machine that bound them.
//!
//! `ppN` runs N random tokens in one prompt; `tgN` decodes N tokens one after another, in one
//! sequence or several at once; both into an empty cache or behind tokens that are in it already.
//! Each test is warmed up once and then repeated.

mod machine;
mod test;

use anyhow::bail;
use clap::value_parser;
use puna_kernels::{Isa, Kernels, peak_rss_bytes, prompt_tiles};
use serde::Serialize;

use crate::args::{RunArgs, RunSettings};
use crate::loaded::Loaded;
use crate::progress::Spinner;
use crate::report::Outcome;
use crate::{output, units};
use machine::{Machine, Share};
use test::{Test, Work};

/// Measures prefill (pp) and decoding (tg) on random tokens.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  puna bench -m ./model -p 512 -n 128 -r 3 -t 2 --json\n  \
    puna bench -m ./model -p 0 -n 128 --depth 0,8192 --batch 1,8 --machine\n  \
    puna bench --machine")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Prompt lengths to measure, separated by commas (0: none)
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "512")]
    prompt: Vec<usize>,
    /// Numbers of tokens to decode, separated by commas (0: none)
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128")]
    generate: Vec<usize>,
    /// Tokens that are in the cache before each test, separated by commas
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Sequences decoded at once, separated by commas; speeds are those of all together
    #[arg(short, long, value_name = "B", value_delimiter = ',', default_value = "1",
        value_parser = value_parser!(u32).range(1..))]
    batch: Vec<u32>,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Measure what the machine can do at most (bytes read, arithmetic) and report every test's
    /// share of it; without a model only that
    #[arg(long)]
    machine: bool,
    /// Print a JSON array of tests; with --machine {"machine", "tests"}
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
    /// Tokens in the cache before.
    depth: usize,
    /// Sequences at once.
    batch: usize,
    /// Opening and loading the model, once for all tests.
    load_seconds: f64,
    /// With --machine, where the limit is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Share>,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// What --machine --json prints.
#[derive(Debug, Serialize)]
struct MachineReport<'a> {
    machine: &'a Machine,
    tests: &'a [TestReport],
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let settings = args.run.settings()?;
    let (reports, machine) = match (args.machine, args.run.has_model()) {
        (true, false) => (Vec::new(), Some(measure_machine())),
        _ => args.measure_tests_then_shares(&settings)?,
    };
    match (machine, args.json) {
        (None, true) => output::json(&reports)?,
        (Some(machine), true) => {
            output::json(&MachineReport { machine: &machine, tests: &reports })?;
        }
        (None, false) => output::text(&table(&reports))?,
        (Some(machine), false) => {
            output::text(&machine.table())?;
            if !reports.is_empty() {
                output::text(&format!("\n{}", table(&reports)))?;
            }
        }
    }
    if !args.json && args.misses_tiles(&settings) {
        output::note(
            "this processor has tiles (AMX): with --prompt-tiles it reads prompts faster (Q8_0 has them anyway)",
        );
    }
    Ok(Outcome::Done)
}

fn measure_machine() -> Machine {
    let _spinner = Spinner::new("measuring the machine");
    Machine::measure()
}

impl Args {
    /// Whether prompts were measured without the tiles that the machine has.
    fn misses_tiles(&self, settings: &RunSettings) -> bool {
        let prompts = self.prompt.iter().any(|&tokens| tokens > 0);
        let on_cpu = settings.load.device.is_none() && Kernels::get().isa() == Isa::Amx;
        prompts && on_cpu && !prompt_tiles() && self.run.has_model()
    }

    /// Every depth with every length; decoding with every batch.
    fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for &depth in &self.depth {
            tests.extend(self.prompt.iter().map(|&n| Test { work: Work::Prefill(n), depth }));
            for &tokens in &self.generate {
                let decode =
                    |&sequences: &u32| Work::Decode { tokens, sequences: sequences as usize };
                tests.extend(self.batch.iter().map(|b| Test { work: decode(b), depth }));
            }
        }
        tests.retain(|test| test.tokens() > 0);
        tests
    }

    /// Every test, then with --machine the machine and each test's share of it: in this order, for
    /// the buffer that is read would count into the tests' peak memory.
    fn measure_tests_then_shares(
        &self,
        settings: &RunSettings,
    ) -> anyhow::Result<(Vec<TestReport>, Option<Machine>)> {
        let loaded = Loaded::load(settings)?;
        let tests = self.tests();
        let report = |&test| self.report(&loaded, settings.threads, test);
        let mut reports = tests.iter().map(report).collect::<anyhow::Result<Vec<_>>>()?;
        let machine = self.machine.then(measure_machine);
        if let Some(machine) = &machine {
            let (decoder, precision) = (&loaded.model.decoder, settings.load.precision);
            for (report, &test) in reports.iter_mut().zip(&tests) {
                let rate = report.tokens_per_second.median;
                report.limit = machine.share(decoder, precision, test, rate);
            }
        }
        Ok((reports, machine))
    }

    fn report(&self, loaded: &Loaded, threads: usize, test: Test) -> anyhow::Result<TestReport> {
        let decoder = &loaded.model.decoder;
        let context = decoder.config().max_seq_len;
        if test.depth.saturating_add(test.tokens()) > context {
            bail!("{} does not fit into the context of {context} tokens", test.name());
        }
        let _spinner = Spinner::new(format!("measuring {}", test.name()));
        let mut rates = test.measure(decoder, self.repetitions)?;
        rates.sort_by(f64::total_cmp);
        Ok(TestReport {
            test: test.name(),
            tokens_per_second: spread(&rates),
            peak_rss_bytes: peak_rss_bytes(),
            threads,
            depth: test.depth,
            batch: test.sequences(),
            load_seconds: loaded.load_seconds,
            limit: None,
        })
    }
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

fn table(reports: &[TestReport]) -> String {
    let mut rows =
        vec![["test", "tokens/s (median)", "min", "max", "peak RSS"].map(String::from).to_vec()];
    let has_limits = reports.iter().any(|report| report.limit.is_some());
    if has_limits {
        rows[0].push("share of the machine".to_string());
    }
    rows.extend(reports.iter().map(|report| {
        let rate = &report.tokens_per_second;
        let mut row = vec![
            report.test.clone(),
            format!("{:.2}", rate.median),
            format!("{:.2}", rate.min),
            format!("{:.2}", rate.max),
            report.peak_rss_bytes.map_or_else(|| "unknown".to_string(), units::bytes),
        ];
        row.extend(report.limit.as_ref().map(Share::describe));
        row
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let even = spread(&[1.0, 2.0, 4.0, 9.0]);
        assert_eq!((even.median, even.min, even.max), (3.0, 1.0, 9.0));
        assert_eq!(spread(&[5.0]).median, 5.0);
    }
}
