//! Options of `chat` and `generate` that say how tokens are chosen and when to stop.
//!
//! An option that is not given takes the value of the checkpoint's generation_config.json. Where
//! that says nothing about sampling, the defaults are llama.cpp's, which suit small models:
//! temperature 0.8, top-k 40, top-p 0.95, min-p 0.05. The seed is 0 unless given: the same command
//! gives the same text.

use anyhow::{anyhow, bail};
use clap::Args;
use puna_infer::{
    BeamOptions, ContextPolicy, GenerateOptions, GenerationConfig, Mirostat2, SamplingParams,
    StopOptions,
};

/// Choosing tokens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (default: generation_config.json, else \
    temperature 0.8, top-k 40, top-p 0.95, min-p 0.05)")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 always takes the most probable token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the K most probable tokens (0: off)
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep the smallest set of the most probable tokens with this mass (1: off)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least this many times as probable as the best (0: off)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Keep the most typical tokens with this mass (1: off)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Mirostat 2: surprise to aim at, in bits, in place of the four above
    #[arg(long, value_name = "TAU", allow_negative_numbers = true)]
    mirostat_tau: Option<f32>,
    /// Mirostat 2: learning rate
    #[arg(long, value_name = "ETA", default_value_t = 0.1, requires = "mirostat_tau")]
    mirostat_eta: f32,
    /// Divides positive and multiplies negative logits of tokens seen (1: off)
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// How many of the last tokens the penalties look at [default: all]
    #[arg(long, value_name = "N")]
    repeat_last_n: Option<usize>,
    /// Subtracted from the logits of tokens seen
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was seen
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Added to the logit of a token; may be repeated (-inf forbids it)
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Start of the random stream [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) seed: u64,
}

/// When to stop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Length")]
pub(crate) struct LengthArgs {
    /// Largest number of new tokens
    #[arg(short = 'n', long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Stop where this text appears; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Stop at this token; may be repeated
    #[arg(long, value_name = "ID")]
    stop_token: Vec<u32>,
    /// Do not stop at the model's end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    /// When the context is full, forget the older half of the text and go on; the first KEEP tokens
    /// stay
    #[arg(
        long,
        value_name = "KEEP",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0"
    )]
    context_shift: Option<usize>,
}

/// Several texts at once.
#[derive(Debug, Args)]
#[command(next_help_heading = "Several texts")]
pub(crate) struct SearchArgs {
    /// Beam search with this many beams, without sampling
    #[arg(long, value_name = "N", default_value_t = 1)]
    num_beams: usize,
    /// Beam search: exponent of the length in a beam's score
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f32>,
    /// Texts wanted: independent samples (seeds seed, seed + 1, …), or the best beams
    #[arg(long, value_name = "N", default_value_t = 1)]
    num_return_sequences: usize,
}

impl SearchArgs {
    /// Adds beams or completions to the options.
    pub(crate) fn apply(&self, mut options: GenerateOptions) -> anyhow::Result<GenerateOptions> {
        if self.num_beams <= 1 {
            if self.length_penalty.is_some() {
                bail!("--length-penalty needs --num-beams above 1");
            }
            options.completions = self.num_return_sequences;
            return Ok(options);
        }
        // Beam search ranks by the model's own log-probabilities: nothing is drawn.
        options.sampling = SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            mirostat: None,
            ..options.sampling
        };
        options.beams = Some(BeamOptions {
            num_beams: self.num_beams,
            length_penalty: self.length_penalty.unwrap_or(1.0),
            num_return_sequences: self.num_return_sequences,
            ..BeamOptions::default()
        });
        Ok(options)
    }
}

/// The options of a request: what is typed, else what the checkpoint says, else the defaults.
/// `eos` are the ids that end a sequence, `length` the length where nobody names one.
pub(crate) fn options(
    sampling: &SamplingArgs,
    length: &LengthArgs,
    config: &GenerationConfig,
    eos: Vec<u32>,
    default_length: Option<usize>,
) -> anyhow::Result<GenerateOptions> {
    let eos = if length.ignore_eos { Vec::new() } else { eos };
    let mut strings = length.stop.clone();
    strings.extend(config.stop_strings.iter().cloned());
    let options = GenerateOptions {
        sampling: sampling.params(config),
        max_new_tokens: length.max_new_tokens.or(config.max_new_tokens).or(default_length),
        stop: StopOptions { eos, token_ids: length.stop_token.clone(), strings },
        context: match length.context_shift {
            Some(keep) => ContextPolicy::Shift { keep },
            None => ContextPolicy::Error,
        },
        ..GenerateOptions::default()
    };
    options.validate()?;
    Ok(options)
}

impl SamplingArgs {
    fn params(&self, config: &GenerationConfig) -> SamplingParams {
        let base = match config.do_sample {
            Some(_) => config.sampling(self.seed),
            None => SamplingParams {
                temperature: 0.8,
                top_k: Some(40),
                top_p: Some(0.95),
                min_p: Some(0.05),
                ..config.sampling(self.seed)
            },
        };
        // What is typed wins; "off" values become absent.
        let typed = |typed: Option<f32>, base: Option<f32>, off: f32| match typed {
            Some(value) => Some(value).filter(|&value| value != off),
            None => base,
        };
        let mut params = SamplingParams {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.map_or(base.top_k, |k| Some(k).filter(|&k| k > 0)),
            top_p: typed(self.top_p, base.top_p, 1.0),
            min_p: typed(self.min_p, base.min_p, 0.0),
            typical_p: typed(self.typical_p, base.typical_p, 1.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            repeat_last_n: self.repeat_last_n.or(base.repeat_last_n),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            ..base
        };
        if let Some(tau) = self.mirostat_tau {
            // Mirostat replaces the recommended truncations; typed ones stay and are refused.
            params.mirostat = Some(Mirostat2 { tau, eta: self.mirostat_eta });
            params.top_k = self.top_k.filter(|&k| k > 0);
            params.top_p = typed(self.top_p, None, 1.0);
            params.min_p = typed(self.min_p, None, 0.0);
            params.typical_p = typed(self.typical_p, None, 1.0);
        }
        params
    }
}

fn parse_bias(text: &str) -> anyhow::Result<(u32, f32)> {
    let parsed = text
        .split_once('=')
        .and_then(|(id, bias)| Some((id.trim().parse().ok()?, bias.trim().parse().ok()?)));
    parsed.ok_or_else(|| anyhow!("`{text}` is not ID=BIAS, as in 42=-1.5"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
        #[command(flatten)]
        length: LengthArgs,
        #[command(flatten)]
        search: SearchArgs,
    }

    fn made(line: &str, json: &str) -> anyhow::Result<GenerateOptions> {
        let words = std::iter::once("puna").chain(line.split_whitespace());
        let line = Line::try_parse_from(words)?;
        let (config, _) = GenerationConfig::from_json(json)?;
        let made = options(&line.sampling, &line.length, &config, vec![2], Some(9))?;
        line.search.apply(made)
    }

    #[test]
    fn typed_values_win_over_the_checkpoint_and_the_defaults() {
        let json = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9}"#;
        let options = made("--top-p 0.5 --seed 3", json).unwrap();
        let sampling = options.sampling;
        assert_eq!((sampling.temperature, sampling.top_p), (0.6, Some(0.5)));
        assert_eq!((sampling.top_k, sampling.seed), (None, 3));
        assert_eq!(made("", "{}").unwrap().sampling.temperature, 0.8);
        assert_eq!(made("", r#"{"do_sample": false}"#).unwrap().sampling.temperature, 0.0);
    }

    #[test]
    fn off_values_switch_a_truncation_off() {
        let sampling = made("--top-k 0 --top-p 1 --min-p 0", "{}").unwrap().sampling;
        assert_eq!((sampling.top_k, sampling.top_p, sampling.min_p), (None, None, None));
    }

    #[test]
    fn mirostat_replaces_recommended_truncations_but_not_typed_ones() {
        assert!(made("--mirostat-tau 5", "{}").unwrap().sampling.mirostat.is_some());
        assert!(made("--mirostat-tau 5 --top-k 4", "{}").is_err());
    }

    #[test]
    fn beams_draw_nothing() {
        let options = made("--num-beams 3 --num-return-sequences 2", "{}").unwrap();
        assert_eq!((options.sampling.temperature, options.sampling.top_k), (0.0, None));
        assert_eq!(options.beams.unwrap().num_return_sequences, 2);
        assert!(made("--length-penalty 2", "{}").is_err());
    }

    #[test]
    fn stops_and_lengths_are_taken_over() {
        let options = made("--stop a --stop-token 7 -n 4 --context-shift", "{}").unwrap();
        assert_eq!(options.stop.eos, [2]);
        assert_eq!((options.stop.strings, options.stop.token_ids), (vec!["a".into()], vec![7]));
        assert_eq!(options.max_new_tokens, Some(4));
        assert_eq!(options.context, ContextPolicy::Shift { keep: 0 });
        let options = made("--ignore-eos --context-shift=5 --logit-bias 3=-inf", "{}").unwrap();
        assert!(options.stop.eos.is_empty());
        assert_eq!(options.context, ContextPolicy::Shift { keep: 5 });
        assert_eq!(options.sampling.logit_bias, [(3, f32::NEG_INFINITY)]);
        assert_eq!(options.max_new_tokens, Some(9));
    }

    #[test]
    fn senseless_values_name_their_field() {
        let message = made("--temperature -1", "{}").unwrap_err().to_string();
        assert!(message.contains("temperature"), "{message}");
    }
}
