//! Prompts, P-Tuning and prefixes: sizes, beginnings, files.

use std::collections::BTreeMap;
use std::path::Path;

use puna_io::safetensors::SafetensorsFile;
use puna_model::Model;
use puna_peft::{
    AdapterConfig, Base, BaseIdentity, Method, PTuningConfig, PrefixInit, PrefixTuningConfig,
    PromptEncoderType, PromptTuningConfig, PromptTuningInit, load, save,
};
use puna_testkit::GoldenCase;

use crate::soft::{assert_near, build, logits, methods, model, set, text_prompt, tokens};

fn values(path: &Path, name: &str) -> Vec<f32> {
    let file = SafetensorsFile::open(path).expect("a file");
    puna_model::floats(&file.tensor(name).expect("a tensor")).expect("floats")
}

fn names(path: &Path) -> Vec<String> {
    SafetensorsFile::open(path).expect("a file").names().map(str::to_owned).collect()
}

fn reloaded(dir: &Path, model: &Model) -> Box<dyn Method> {
    let base = Base { decoder: &model.decoder, config: &model.config };
    load(dir, &base).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn refused(config: &AdapterConfig, model: &Model) -> String {
    let base = Base { decoder: &model.decoder, config: &model.config };
    config.build(&base, 0).expect_err("a refusal").to_string()
}

#[test]
fn trained_values_are_as_many_as_the_formulas_say() {
    let Some(model) = model("llama2-gqa") else { return };
    // P = 7; C = 64, K·D = 32, L = 2; H = 12 and 10.
    let (p, c, kv, layers) = (7, 64, 32, 2);
    let dense = |input: usize, out: usize| input * out + out;
    let direction = |input: usize, hidden: usize| 4 * hidden * (input + hidden + 2);
    let (h, width) = (12, 2 * layers * kv);
    let expected = [
        p * c,
        p * c + dense(c, h) + dense(h, h) + dense(h, c),
        p * c
            + 2 * direction(c, h)
            + 2 * direction(2 * h, h)
            + dense(2 * h, 2 * h)
            + dense(2 * h, c),
        p * kv + dense(kv, 10) + dense(10, width),
        p * width,
    ];
    let sizes: Vec<usize> =
        methods(p).iter().map(|config| build(config, &model, 1).size()).collect();
    assert_eq!(sizes, expected);
}

#[test]
fn recipes_name_the_methods_and_refuse_what_they_do_not_know() {
    let config = |json| serde_json::from_value::<AdapterConfig>(json);
    for method in ["prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2"] {
        let read = config(serde_json::json!({"method": method, "num_virtual_tokens": 3})).unwrap();
        let Some(model) = model("llama2-gqa") else { return };
        assert_eq!(build(&read, &model, 1).name(), method);
        let wrong = config(serde_json::json!({"method": method, "virtual_tokens": 3}));
        assert!(wrong.unwrap_err().to_string().contains("virtual_tokens"));
    }
    let read = config(serde_json::json!({"method": "p_tuning",
        "encoder_reparameterization_type": "LSTM"}));
    let expected = PTuningConfig {
        encoder_reparameterization_type: PromptEncoderType::Lstm,
        ..PTuningConfig::default()
    };
    assert_eq!(read.unwrap(), AdapterConfig::PTuning(expected));
}

/// Embeddings of tokens before a sequence are the tokens before it: positions, windows, soft caps and
/// the factor that Gemma's embeddings have.
#[test]
fn a_prompt_of_a_texts_embeddings_is_the_text() {
    for name in
        ["llama2-gqa", "mistral-sliding", "gemma1", "gemma2", "gemma3-text", "qwen3", "mixtral"]
    {
        let Some(model) = model(name) else { continue };
        let vocab = model.config.decoder.vocab_size;
        let all = tokens(3, 31, vocab);
        let method = build(&text_prompt(&all[..11], 11), &model, 1);
        let expected = logits(&model, None, &all, 31);
        for part in [20, 1, 7] {
            let got = logits(&model, Some(&set(&*method)), &all[11..], part);
            assert_near(&format!("{name} by {part}"), &got, &expected[11 * vocab..], 1e-5);
        }
    }
}

#[test]
fn prompts_begin_as_texts_repeated_or_cut_as_random_tokens_or_normal() {
    let Some(model) = model("gemma2") else { return };
    let begin = |config: &AdapterConfig, seed| {
        build(config, &model, seed).trained()[0].parameter.values().clone()
    };
    let embedding = model.decoder.embedding();
    let of = |tokens: &[u32]| -> Vec<f32> {
        embedding.forward(tokens).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    assert_eq!(begin(&text_prompt(&[5, 6, 7], 5), 1), of(&[5, 6, 7, 5, 6]));
    assert_eq!(begin(&text_prompt(&[5, 6, 7], 2), 1), of(&[5, 6]));
    let with = |init| {
        AdapterConfig::PromptTuning(PromptTuningConfig {
            num_virtual_tokens: 40,
            prompt_tuning_init: init,
            ..PromptTuningConfig::default()
        })
    };
    let width = model.config.decoder.hidden_size;
    let sampled = begin(&with(PromptTuningInit::SampleVocab), 1);
    let all: Vec<u32> = (0..model.config.decoder.vocab_size as u32).collect();
    let rows = of(&all);
    for row in sampled.chunks(width) {
        assert!(rows.chunks(width).any(|token| token == row));
    }
    assert_ne!(sampled, begin(&with(PromptTuningInit::SampleVocab), 2));
    let normal = begin(&with(PromptTuningInit::Random), 1);
    let square = normal.iter().map(|v| v * v).sum::<f32>() / normal.len() as f32;
    assert!((square - 1.0).abs() < 0.1, "{square}");
    assert_eq!(
        refused(&with(PromptTuningInit::Text), &model),
        "adapter.prompt_tuning_init_tokens = []: expected the tokens of prompt_tuning_init_text \
         for prompt_tuning_init = \"TEXT\""
    );
}

/// peft wants a text and a tokenizer where a file says `TEXT`.
#[test]
fn files_say_text_only_where_peft_could_read_it() {
    let Some(model) = model("llama2-gqa") else { return };
    let config = |text: Option<&str>| PromptTuningConfig {
        num_virtual_tokens: 2,
        prompt_tuning_init: PromptTuningInit::Text,
        prompt_tuning_init_text: text.map(str::to_owned),
        prompt_tuning_init_tokens: Some(vec![4, 5]),
        tokenizer_name_or_path: Some("a/tokenizer".to_owned()),
        tokenizer_kwargs: Some(serde_json::json!({"use_fast": true})),
    };
    for (text, init, has_arguments) in [(Some("so"), "TEXT", true), (None, "RANDOM", false)] {
        let method = build(&AdapterConfig::PromptTuning(config(text)), &model, 1);
        let json = method.files().unwrap().config.1;
        assert_eq!(json["prompt_tuning_init"], init);
        assert_eq!(json["tokenizer_kwargs"].is_object(), has_arguments);
        assert!(json.get("prompt_tuning_init_tokens").is_none());
    }
}

/// Zero keys have scores of zero, not no influence: only the values are none.
#[test]
fn a_prefix_can_begin_at_zero() {
    let Some(model) = model("llama2-gqa") else { return };
    for prefix_projection in [false, true] {
        let config = AdapterConfig::PrefixTuning(PrefixTuningConfig {
            num_virtual_tokens: 3,
            prefix_projection,
            init_weights: Some(PrefixInit::Zero),
            ..PrefixTuningConfig::default()
        });
        let files = build(&config, &model, 1).files().unwrap();
        assert!(files.tensors.1[0].values.iter().all(|&v| v == 0.0));
    }
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let Some(model) = model("llama2-gqa") else { return };
    let none = PrefixTuningConfig { num_virtual_tokens: 0, ..PrefixTuningConfig::default() };
    let message = refused(&AdapterConfig::PrefixTuning(none), &model);
    assert_eq!(message, "adapter.num_virtual_tokens = 0: expected at least 1");
    let deep = PTuningConfig { encoder_num_layers: 3, ..PTuningConfig::default() };
    let message = refused(&AdapterConfig::PTuning(deep), &model);
    assert!(message.starts_with("adapter.encoder_num_layers = 3: expected no value"), "{message}");
    let dropped = PTuningConfig { encoder_dropout: 1.0, ..PTuningConfig::default() };
    assert!(refused(&AdapterConfig::PTuning(dropped), &model).contains("below 1"));
    let method = build(&methods(3)[0], &model, 1);
    let twice = puna_peft::combine(&[(&*method, 1.0), (&*method, 1.0)]).unwrap_err().to_string();
    assert_eq!(twice, "two adapters put embeddings before sequences");
    let half = puna_peft::combine(&[(&*method, 0.5)]).unwrap_err().to_string();
    assert_eq!(half, "an adapter with virtual tokens has scale 1 only");
}

#[test]
fn what_is_saved_loads_to_the_same_logits_and_parameters() {
    let Some(model) = model("llama2-gqa") else { return };
    let prompt = tokens(4, 9, model.config.decoder.vocab_size);
    for config in methods(6) {
        let method = build(&config, &model, 3);
        let dir = tempfile::tempdir().unwrap();
        save(&*method, dir.path(), "base", &BaseIdentity::default()).unwrap();
        let again = reloaded(dir.path(), &model);
        let (a, b) = (set(&*method), set(&*again));
        assert_eq!(logits(&model, Some(&a), &prompt, 9), logits(&model, Some(&b), &prompt, 9));
        let (a, b) = (method.trained(), again.trained());
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.parameter.name(), b.parameter.name());
            assert_eq!(*a.parameter.values(), *b.parameter.values());
        }
        // As peft does without the network: from what it made.
        if std::fs::remove_file(dir.path().join("prompt_encoder.safetensors")).is_ok() {
            let table = set(&*reloaded(dir.path(), &model));
            let a = set(&*method);
            let (a, b) =
                (&logits(&model, Some(&a), &prompt, 9), logits(&model, Some(&table), &prompt, 9));
            assert_near(method.name(), &b, a, 1e-5);
        }
    }
}

/// Golden adapters, read and written again: peft's keys, values and tensors, and the network's output.
#[test]
fn files_are_those_that_peft_wrote() {
    let Some(model) = model("llama2-gqa") else { return };
    for name in [
        "prompt-tuning",
        "p-tuning-mlp",
        "p-tuning-lstm",
        "prefix-tuning",
        "prefix-tuning-projection",
    ] {
        let Some(case) = GoldenCase::open(&format!("peft/{name}")) else { continue };
        let dir = tempfile::tempdir().unwrap();
        let base = "../../text/llama2-gqa";
        save(&*reloaded(&case.dir, &model), dir.path(), base, &BaseIdentity::default()).unwrap();
        let config = |dir: &Path| -> BTreeMap<String, serde_json::Value> {
            let text = std::fs::read_to_string(dir.join("adapter_config.json")).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let (ours, theirs) = (config(dir.path()), config(&case.dir));
        let about_peft = ["auto_mapping", "peft_version", "revision", "modules_to_save"];
        for (key, value) in theirs.iter().filter(|(key, _)| !about_peft.contains(&key.as_str())) {
            assert_eq!(ours.get(key), Some(value), "{name}: {key}");
        }
        let unknown = ours.keys().find(|key| !theirs.contains_key(*key) && *key != "puna");
        assert_eq!(unknown, None, "{name}");
        let file = "adapter_model.safetensors";
        assert_eq!(names(&dir.path().join(file)), ["prompt_embeddings"]);
        let made = values(&dir.path().join(file), "prompt_embeddings");
        assert_near(name, &made, &values(&case.dir.join(file), "prompt_embeddings"), 1e-5);
        let (ours, theirs) =
            [dir.path(), &case.dir].map(|d| d.join("prompt_encoder.safetensors")).into();
        assert_eq!(ours.is_file(), theirs.is_file(), "{name}");
        if theirs.is_file() {
            assert_near(name, &made, &values(&theirs, "golden_output"), 1e-5);
            let networks = names(&theirs).into_iter().filter(|n| n != "golden_output");
            let mut saved = names(&ours);
            saved.sort();
            assert_eq!(saved, networks.collect::<Vec<_>>(), "{name}");
            for tensor in &saved {
                assert_eq!(values(&ours, tensor), values(&theirs, tensor), "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn files_of_another_model_or_of_two_minds_are_refused() {
    let (Some(small), Some(other)) = (model("llama2-gqa"), model("gemma2")) else { return };
    let refusal = |dir: &Path, model: &Model| {
        let base = Base { decoder: &model.decoder, config: &model.config };
        load(dir, &base).unwrap_err().to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let method = build(&methods(4)[3], &small, 1);
    save(&*method, dir.path(), "base", &BaseIdentity::default()).unwrap();
    let message = refusal(dir.path(), &other);
    assert!(message.contains("adapter_config.json: ") && message.contains("the model wants"));
    let bias = &method.trained()[4].parameter;
    bias.values_mut()[0] += 1.0;
    let another = tempfile::tempdir().unwrap();
    save(&*method, another.path(), "base", &BaseIdentity::default()).unwrap();
    let file = "prompt_encoder.safetensors";
    std::fs::copy(another.path().join(file), dir.path().join(file)).unwrap();
    let message = refusal(dir.path(), &small);
    assert!(message.contains("prompt_embeddings: is not what prompt_encoder.safetensors makes"));
    std::fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    assert!(refusal(dir.path(), &small).contains("has no adapter"));
}
