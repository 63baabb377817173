//! The decoder over tensors, which GPUs run: on the CPU, where its operations are candle's own or
//! the kernels', and on the first GPU where there is one.

use puna_model::{Device, LoadOptions, Model, Precision};

use crate::support::{
    GREEDY_STEPS, LOGITS_MAX_ABS, cases, greedy, max_abs, model_path, prefill, prompts,
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

fn check_group(group: &str, device: &Device) {
    let mut largest = 0f32;
    for case in cases(group).unwrap_or_default() {
        let name = format!("{group}/{}", case.file_name().unwrap().to_string_lossy());
        if name.ends_with(UNSUPPORTED) {
            continue;
        }
        let exact = load(&case, Precision::Exact, device);
        let fast = load(&case, Precision::Fast, device);
        for (i, prompt) in prompts(&case).iter().enumerate() {
            let (_, logits) = prefill(&exact.decoder, &prompt.input);
            let error = max_abs(&logits, &prompt.logits);
            assert!(error <= LOGITS_MAX_ABS, "{name} prompt {i}: logits off by {error}");
            let (tokens, _) = greedy(&exact.decoder, &prompt.input, GREEDY_STEPS);
            assert_eq!(tokens, prompt.greedy, "{name} prompt {i}: greedy tokens");
            let (_, logits) = prefill(&fast.decoder, &prompt.input);
            let error = rms_over_std(&logits, &prompt.logits);
            assert!(error <= BF16_RMS, "{name} prompt {i}: rms/std {error} with bfloat16");
            largest = largest.max(error);
        }
    }
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
