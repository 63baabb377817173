//! The decoder over tensors, which GPUs run: on the CPU, where its operations are candle's own or
//! the kernels', and on the first GPU where there is one.

use puna_model::{Decoder, Device, LoadOptions, Logits, Model, Precision, Segment};

use crate::support::{
    GREEDY_STEPS, LOGITS_MAX_ABS, Prompt, cases, greedy, max_abs, model_path, prefill, prompts,
    rms_over_std, run,
};

/// rms / std of logits with bfloat16 products, keys and values: half as much again as the largest seen,
/// 0.0197.
const BF16_RMS: f32 = 0.03;

/// Cases of architectures that puna does not run yet.
const UNSUPPORTED: &str = "llama4-text";

fn load(case: &std::path::Path, precision: Precision, device: &Device) -> Model {
    let options = LoadOptions { device: Some(device.clone()), ..LoadOptions::new(precision) };
    Model::load(&model_path(case), &options).unwrap_or_else(|e| panic!("{}: {e}", case.display()))
}

/// Logits of a prompt that comes in parts.
fn by_parts(decoder: &Decoder, prompt: &[u32], part: usize) -> Vec<f32> {
    let mut cache = decoder.new_cache();
    let parts = prompt.chunks(part);
    parts.flat_map(|part| run(decoder, &mut cache, part, prompt.len())).collect()
}

/// Logits of the first `part` tokens of several prompts in one pass.
fn at_once(decoder: &Decoder, prompts: &[Prompt], part: usize) -> Vec<f32> {
    let mut caches: Vec<_> = prompts.iter().map(|_| decoder.new_cache()).collect();
    let each = prompts.iter().zip(&mut caches);
    let mut segments: Vec<_> = each
        .map(|(prompt, cache)| Segment {
            tokens: &prompt.input[..part],
            cache,
            total_len: prompt.input.len(),
        })
        .collect();
    decoder.forward(&mut segments, Logits::All).unwrap()
}

/// On a GPU passes over few tokens have kernels of their own.
fn check_few_tokens(
    name: &str,
    [exact, fast]: [&Model; 2],
    prompts: &[Prompt],
    problems: &mut Vec<String>,
) {
    let mut bound = |error: f32, most: f32, what: String| {
        if error.is_nan() || error > most {
            problems.push(format!("{name} {what}: {error}"));
        }
    };
    for (i, prompt) in prompts.iter().enumerate() {
        for part in [1, 3, 8] {
            let error = max_abs(&by_parts(&exact.decoder, &prompt.input, part), &prompt.logits);
            bound(error, LOGITS_MAX_ABS, format!("prompt {i} by {part}, logits off by"));
            let error = rms_over_std(&by_parts(&fast.decoder, &prompt.input, part), &prompt.logits);
            bound(error, BF16_RMS, format!("prompt {i} by {part}, rms/std with bfloat16"));
        }
    }
    let vocab = exact.decoder.config().vocab_size;
    for part in [2, 3] {
        let logits = at_once(&exact.decoder, &prompts[..prompts.len().min(4)], part);
        for (i, (ours, prompt)) in logits.chunks(part * vocab).zip(prompts).enumerate() {
            if prompt.logits.len() == prompt.input.len() * vocab {
                let error = max_abs(ours, &prompt.logits[..part * vocab]);
                bound(error, LOGITS_MAX_ABS, format!("prompt {i} beside others, logits off by"));
            }
        }
    }
}

fn check_group(group: &str, device: &Device) {
    let (mut largest, mut problems) = (0f32, Vec::new());
    for case in cases(group).unwrap_or_default() {
        let name = format!("{group}/{}", case.file_name().unwrap().to_string_lossy());
        if name.ends_with(UNSUPPORTED) {
            continue;
        }
        let exact = load(&case, Precision::Exact, device);
        let fast = load(&case, Precision::Fast, device);
        if !device.is_cpu() {
            check_few_tokens(&name, [&exact, &fast], &prompts(&case), &mut problems);
        }
        for (i, prompt) in prompts(&case).iter().enumerate() {
            let (_, logits) = prefill(&exact.decoder, &prompt.input);
            let error = max_abs(&logits, &prompt.logits);
            if error.is_nan() || error > LOGITS_MAX_ABS {
                problems.push(format!("{name} prompt {i}: logits off by {error}"));
            }
            let (tokens, _) = greedy(&exact.decoder, &prompt.input, GREEDY_STEPS);
            if tokens != prompt.greedy {
                problems.push(format!("{name} prompt {i}: {tokens:?}, not {:?}", prompt.greedy));
            }
            let (_, logits) = prefill(&fast.decoder, &prompt.input);
            let error = rms_over_std(&logits, &prompt.logits);
            if error.is_nan() || error > BF16_RMS {
                problems.push(format!("{name} prompt {i}: rms/std {error} with bfloat16"));
            }
            largest = largest.max(error);
        }
    }
    assert!(problems.is_empty(), "{group}: {problems:#?}");
    eprintln!("{group}: rms/std up to {largest} with bfloat16 products");
}

const GROUPS: [&str; 6] = ["text", "layout", "gguf", "gptq", "awq", "bnb"];

#[test]
fn tensors_on_the_cpu_match_the_reference() {
    for group in GROUPS {
        check_group(group, &Device::Cpu);
    }
}

#[test]
fn tensors_on_a_gpu_match_the_reference() {
    let device = match puna_model::cuda_device(0) {
        Ok(device) => device,
        Err(reason) => return puna_testkit::skipped(&reason.to_string()),
    };
    for group in GROUPS {
        check_group(group, &device);
    }
}

#[test]
fn a_tensor_cache_goes_back_and_forks_as_one_of_pages_does() {
    let Some(cases) = cases("text") else { return };
    let case = cases.iter().find(|case| case.ends_with("llama2-gqa")).unwrap();
    let model = load(case, Precision::Exact, &Device::Cpu);
    let prompt = prompts(case)[0].input.clone();
    let (mut cache, logits) = prefill(&model.decoder, &prompt);
    let mut fork = cache.clone();
    run(&model.decoder, &mut cache, &[1, 2, 3], prompt.len() + 3);
    let kept = prompt.len() - 1;
    let vocab = model.decoder.config().vocab_size;
    for cache in [&mut cache, &mut fork] {
        cache.truncate(kept).unwrap();
        let again = run(&model.decoder, cache, &prompt[kept..], prompt.len());
        assert!(max_abs(&again, &logits[kept * vocab..]) <= LOGITS_MAX_ABS);
    }
}
