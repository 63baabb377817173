//! Adapters that are loaded and saved again: the tensors that the other libraries wrote.

use puna_io::safetensors::SafetensorsFile;
use puna_model::{LoadOptions, Model, Precision};
use puna_peft::load;
use puna_testkit::GoldenCase;

use crate::adapted::base_of;

#[test]
fn loaded_adapters_are_saved_with_the_tensors_of_their_files() {
    for (name, file) in [
        ("peft/lora", "adapter_model.safetensors"),
        ("peft/lora-patterns", "adapter_model.safetensors"),
        ("peft/lora-bias", "adapter_model.safetensors"),
        ("peft/lora-modules-to-save", "adapter_model.safetensors"),
        ("peft/dora", "adapter_model.safetensors"),
        ("peft/adalora", "adapter_model.safetensors"),
        ("peft/ia3", "adapter_model.safetensors"),
        ("peft/bitfit", "bitfit.safetensors"),
    ] {
        let Some(case) = GoldenCase::open(name) else { return };
        let base = GoldenCase::open(case.json["base"].as_str().expect("a base")).expect("a case");
        let model = Model::load(&base.dir, &LoadOptions::new(Precision::Exact)).expect("a base");
        let method = load(&case.dir, &base_of(&model)).expect("an adapter");
        let (own_name, tensors) = method.files().unwrap().tensors;
        assert_eq!(own_name, file, "{name}");
        let stored = SafetensorsFile::open(&case.dir.join(file)).expect("a file");
        let mut names: Vec<&str> = stored.names().collect();
        let mut own_names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        own_names.sort_unstable();
        assert_eq!(own_names, names, "{name}");
        for tensor in &tensors {
            let stored = stored.tensor(&tensor.name).expect("a tensor");
            assert_eq!(tensor.shape, stored.info.shape, "{name}: {}", tensor.name);
            let values = puna_model::floats(&stored).expect("floats");
            assert!(tensor.values == values, "{name}: {}", tensor.name);
        }
    }
}

/// Fields of peft's configurations keep their names and values.
#[test]
fn loaded_configurations_are_saved_as_they_were() {
    for name in ["peft/dora", "peft/adalora", "peft/ia3", "peft/lora-patterns"] {
        let Some(case) = GoldenCase::open(name) else { return };
        let base = GoldenCase::open(case.json["base"].as_str().expect("a base")).expect("a case");
        let model = Model::load(&base.dir, &LoadOptions::new(Precision::Exact)).expect("a base");
        let method = load(&case.dir, &base_of(&model)).expect("an adapter");
        let (file, config) = method.files().unwrap().config;
        let text = std::fs::read_to_string(case.dir.join(file)).expect("a configuration");
        let stored: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for (field, value) in config.as_object().expect("fields") {
            let stored = &stored[field];
            let same = match (stored.as_f64(), value.as_f64()) {
                (Some(stored), Some(value)) => (stored - value).abs() < 1e-6,
                _ => stored == value,
            };
            assert!(same, "{name}: {field} was {stored} and is {value}");
        }
    }
}
