//! `options`: Ollama's names for what chooses tokens.

use puna_infer::{GenerationConfig, Mirostat2, SamplingParams};
use serde_json::json;

use crate::api_error::ApiError;
use crate::fields::Fields;
use crate::sampling;

/// What options say.
pub(super) struct Options {
    pub(super) sampling: SamplingParams,
    pub(super) stop: Vec<String>,
    /// New tokens; `None`: as many as the context holds.
    pub(super) max_tokens: Option<usize>,
}

impl Options {
    /// Reads `options`. Defaults are the checkpoint's, where it recommends sampling, else Ollama's.
    pub(super) fn read(
        request: &mut Fields,
        generation: &GenerationConfig,
        context: usize,
    ) -> Result<Self, ApiError> {
        let mut fields = match request.value("options") {
            Some(value) => Fields::of(value, "options")?,
            None => Fields::new(serde_json::Map::new()),
        };
        let read = || -> Result<Self, ApiError> {
            let sampling = sampling(&mut fields, generation)?;
            let stop = sampling::stop(&mut fields, "stop")?;
            let max_tokens = num_predict(&mut fields)?;
            refuse(&mut fields, context)?;
            fields.finish()?;
            Ok(Self { sampling, stop, max_tokens })
        };
        read().map_err(|error| error.within("options"))
    }
}

fn sampling(
    fields: &mut Fields,
    generation: &GenerationConfig,
) -> Result<SamplingParams, ApiError> {
    let seed = match fields.take::<i64>("seed")? {
        Some(seed) => seed as u64,
        None => sampling::fresh_seed(),
    };
    let base = match generation.do_sample {
        Some(true) => generation.sampling(seed),
        _ => SamplingParams {
            temperature: 0.8,
            top_k: Some(40),
            top_p: Some(0.9),
            repetition_penalty: 1.1,
            repeat_last_n: Some(64),
            seed,
            ..Default::default()
        },
    };
    let unit = |x: f64| (0.0..=1.0).contains(&x);
    let mass = |given: Option<f32>, default: Option<f32>| match given {
        None => default,
        // 0 and 1 both mean "off" there.
        Some(p) => Some(p).filter(|&p| p > 0.0 && p < 1.0),
    };
    let top_k = match fields.take::<i64>("top_k")? {
        None => base.top_k,
        Some(k) => usize::try_from(k).ok().filter(|&k| k > 0),
    };
    let mut params = SamplingParams {
        temperature: fields
            .number("temperature", |x| (0.0..=10.0).contains(&x), "0 to 10")?
            .unwrap_or(base.temperature),
        top_k,
        top_p: mass(fields.number("top_p", unit, "0 to 1")?, base.top_p),
        min_p: mass(fields.number("min_p", unit, "0 to 1")?, base.min_p),
        typical_p: mass(fields.number("typical_p", unit, "0 to 1")?, base.typical_p),
        repetition_penalty: fields
            .number("repeat_penalty", |x| x > 0.0 && x <= 10.0, "above 0 and at most 10")?
            .unwrap_or(base.repetition_penalty),
        presence_penalty: penalty(fields, "presence_penalty")?,
        frequency_penalty: penalty(fields, "frequency_penalty")?,
        repeat_last_n: repeat_last_n(fields, base.repeat_last_n)?,
        ..base
    };
    mirostat(fields, &mut params)?;
    Ok(params)
}

fn penalty(fields: &mut Fields, name: &str) -> Result<f32, ApiError> {
    Ok(fields.number(name, |x| (-2.0..=2.0).contains(&x), "-2 to 2")?.unwrap_or(0.0))
}

/// −1 looks at all tokens, 0 at none.
fn repeat_last_n(fields: &mut Fields, default: Option<usize>) -> Result<Option<usize>, ApiError> {
    match fields.take::<i64>("repeat_last_n")? {
        None => Ok(default),
        Some(-1) => Ok(None),
        Some(n) => usize::try_from(n)
            .map(Some)
            .map_err(|_| ApiError::field("repeat_last_n", "expected -1 or a number from 0 on")),
    }
}

fn mirostat(fields: &mut Fields, params: &mut SamplingParams) -> Result<(), ApiError> {
    let version = fields.count("mirostat", 0..=2)?.unwrap_or(0);
    let tau = fields.number("mirostat_tau", |x| x > 0.0, "above 0")?.unwrap_or(5.0);
    let eta = fields.number("mirostat_eta", |x| x > 0.0, "above 0")?.unwrap_or(0.1);
    match version {
        0 => Ok(()),
        1 => Err(ApiError::unsupported("mirostat", "version 2 is")),
        _ => {
            // It stands in the truncations' place.
            params.mirostat = Some(Mirostat2 { tau, eta });
            params.top_k = None;
            params.top_p = None;
            params.min_p = None;
            params.typical_p = None;
            Ok(())
        }
    }
}

/// −1 and −2 are as many as fit.
fn num_predict(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.take::<i64>("num_predict")? {
        None | Some(-1 | -2) => Ok(None),
        Some(n) => usize::try_from(n)
            .map(Some)
            .map_err(|_| ApiError::field("num_predict", "expected -1, -2 or a number from 0 on")),
    }
}

fn refuse(fields: &mut Fields, context: usize) -> Result<(), ApiError> {
    if let Some(wanted) = fields.count("num_ctx", 1..=usize::MAX)?
        && wanted > context
    {
        let message = format!("this model's context holds {context} tokens");
        return Err(ApiError::field("num_ctx", message));
    }
    let reason = "the server decides how models are loaded";
    for name in [
        "num_gpu",
        "main_gpu",
        "num_thread",
        "num_batch",
        "low_vram",
        "use_mmap",
        "use_mlock",
        "numa",
        "vocab_only",
    ] {
        fields.refuse(name, &[], reason)?;
    }
    fields.refuse("num_keep", &[json!(0)], "contexts are never shifted")?;
    fields.refuse("tfs_z", &[json!(1), json!(1.0)], "tail-free sampling is not there")?;
    fields.refuse("penalize_newline", &[json!(true)], "all tokens are treated alike")
}
