//! Measures the scheduler on a model: tokens per second of several streams at once against the same
//! jobs one after another, how much sooner a remembered prompt starts, and what a long prompt does
//! to the others' pauses.
//!
//! `cargo run --release -p puna-infer --example serving MODEL [streams… ]`. Rounds alternate; what is
//! printed are medians, since other programs may use the machine.
#![expect(clippy::print_stdout, reason = "the measurements are this program's data")]

use puna_infer::{
    GenerateOptions, Generation, Job, JobEvent, JobUsage, Scheduler, SchedulerOptions, Session,
    TokensOnly,
};
use puna_model::{Decoder, LoadOptions, Model, Precision};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Rounds of each measurement.
const ROUNDS: usize = 5;

/// Tokens of a stream's prompt, and new ones.
const PROMPT: usize = 64;
const NEW: usize = 64;

/// Tokens of a long prompt.
const LONG: usize = 2048;

/// A job's new tokens, as they came, and what it took.
struct Stream {
    times: Vec<Instant>,
    usage: JobUsage,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn prompt(seed: usize, len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729 + i * i) % vocab) as u32).collect()
}

fn submit(scheduler: &Scheduler, prompt: Vec<u32>, max_tokens: usize) -> Receiver<Stream> {
    let (sender, receiver) = channel();
    let mut times = Vec::new();
    let mut job = Job::new(prompt, move |event| {
        match event {
            JobEvent::Token(_) => times.push(Instant::now()),
            JobEvent::Finished { usage, .. } => {
                let _ = sender.send(Stream { times: std::mem::take(&mut times), usage });
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    job.max_tokens = max_tokens;
    if let Err(refused) = scheduler.submit(job) {
        println!("refused: {refused}");
    }
    receiver
}

fn alone(decoder: &Decoder, prompt: &[u32]) -> Result<Generation, Box<dyn Error>> {
    let options = GenerateOptions { max_new_tokens: Some(NEW), ..Default::default() };
    let sink = |_| ControlFlow::Continue(());
    Ok(Session::new(decoder).generate(decoder, &TokensOnly, prompt, &options, sink)?)
}

/// All streams one after another, then at once; tokens per second, prompts included, and of the
/// seconds at once the share that was spent in the model.
fn round(decoder: &Arc<Decoder>, streams: usize, seed: usize) -> Result<[f64; 3], Box<dyn Error>> {
    let vocab = decoder.config().vocab_size;
    let prompts: Vec<_> = (0..streams).map(|i| prompt(seed + i, PROMPT, vocab)).collect();
    let start = Instant::now();
    for prompt in &prompts {
        alone(decoder, prompt)?;
    }
    let sequential = (streams * NEW) as f64 / start.elapsed().as_secs_f64();
    let scheduler = Scheduler::start(Arc::clone(decoder), SchedulerOptions::default())?;
    let start = Instant::now();
    let waiting: Vec<_> = prompts.into_iter().map(|p| submit(&scheduler, p, NEW)).collect();
    for receiver in waiting {
        receiver.recv()?;
    }
    let elapsed = start.elapsed();
    let share = scheduler.stats().model_time.as_secs_f64() / elapsed.as_secs_f64();
    Ok([sequential, (streams * NEW) as f64 / elapsed.as_secs_f64(), share])
}

fn throughput(decoder: &Arc<Decoder>, streams: usize) -> Result<(), Box<dyn Error>> {
    let rounds: Vec<[f64; 3]> =
        (0..ROUNDS).map(|r| round(decoder, streams, r * 100)).collect::<Result<_, _>>()?;
    let of = |f: &dyn Fn(&[f64; 3]) -> f64| median(rounds.iter().map(f).collect());
    println!(
        "{streams:3} streams: {:8.1} tokens/s one after another, {:8.1} at once: x {:.2}; {:.1} % of \
         the time in the model",
        of(&|r| r[0]),
        of(&|r| r[1]),
        of(&|r| r[1] / r[0]),
        100.0 * of(&|r| r[2]),
    );
    Ok(())
}

/// Time from a job's start to its first token, the first time and again with another end.
fn prefix(decoder: &Arc<Decoder>) -> Result<(), Box<dyn Error>> {
    let vocab = decoder.config().vocab_size;
    let long = LONG.min(decoder.config().max_seq_len - 2 * PROMPT);
    let scheduler = Scheduler::start(Arc::clone(decoder), SchedulerOptions::default())?;
    let first_token = |end: usize, seed: usize| -> Result<f64, Box<dyn Error>> {
        let begun = Instant::now();
        let tokens = [prompt(seed, long, vocab), prompt(seed + end, 16, vocab)].concat();
        let stream = submit(&scheduler, tokens, 1).recv()?;
        Ok((stream.times[0] - begun).as_secs_f64())
    };
    let mut ratios = Vec::new();
    let mut firsts = Vec::new();
    for round in 0..ROUNDS {
        let seed = round * 1000;
        let (cold, warm) = (first_token(1, seed)?, first_token(2, seed)?);
        firsts.push(cold);
        ratios.push(cold / warm);
    }
    println!(
        "a prompt of {long} tokens: {:.3} s to the first token, {:.1} times sooner the second time",
        median(firsts),
        median(ratios)
    );
    Ok(())
}

/// The longest pause of four streams while a long prompt runs, and how long that prompt takes.
fn pauses(decoder: &Arc<Decoder>, chunk: usize) -> Result<(), Box<dyn Error>> {
    let vocab = decoder.config().vocab_size;
    let options = SchedulerOptions { prefill_chunk: chunk, ..Default::default() };
    let long = (LONG / 4).min(decoder.config().max_seq_len - PROMPT);
    let (mut longest, mut usual, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let scheduler = Scheduler::start(Arc::clone(decoder), options)?;
        let tokens = |seed| prompt(round * 10 + seed, 8, vocab);
        let streams: Vec<_> = (0..4).map(|i| submit(&scheduler, tokens(i), 3 * NEW)).collect();
        while scheduler.stats().decoded_tokens < 16 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let prompt = submit(&scheduler, prompt(round, long, vocab), 1).recv()?;
        prompts.push(prompt.usage.prefill.as_secs_f64());
        for stream in streams {
            let stream = stream.recv()?;
            let gaps = stream.times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
            let gaps: Vec<f64> = gaps.collect();
            longest.push(gaps.iter().copied().fold(0.0, f64::max));
            usual.push(median(gaps));
        }
    }
    println!(
        "{chunk:4} prompt tokens a pass: {long} take {:.3} s beside 4 streams, whose pauses are {:.1} \
         ms, {:.1} ms at most",
        median(prompts),
        1e3 * median(usual),
        1e3 * median(longest),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: serving MODEL [streams…]")?;
    let mut streams = args.map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    if streams.is_empty() {
        streams = vec![1, 4, 16];
    }
    let decoder = Model::load(Path::new(&path), &LoadOptions::new(Precision::Fast))?.decoder;
    let decoder = Arc::new(decoder);
    alone(&decoder, &[1, 2, 3])?;
    for streams in streams {
        throughput(&decoder, streams)?;
    }
    prefix(&decoder)?;
    for chunk in [32, 64, 128, 256] {
        pauses(&decoder, chunk)?;
    }
    Ok(())
}
