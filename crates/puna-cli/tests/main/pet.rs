//! `puna pet`: a classifier of cloze questions over the embedded model, trained once, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{Ran, arg, puna};

struct Pet {
    folder: tempfile::TempDir,
}

impl Pet {
    /// Sentences about numbers, of which a word tells the label.
    fn new() -> Self {
        let pet = Self { folder: tempfile::tempdir().expect("a folder") };
        let words = [("yes", ["large", "full", "open"]), ("no", ["small", "empty", "closed"])];
        let mut lines = Vec::new();
        for thing in ["vector", "file", "string", "number"] {
            for (label, words) in words {
                for word in words {
                    lines.push((format!("The {thing} is {word}."), label));
                }
            }
        }
        let of = |lines: &[(String, &str)], labels: bool| -> String {
            let line = |(text, label): &(String, &str)| match labels {
                true => format!("{{\"text\": {text:?}, \"label\": {label:?}}}\n"),
                false => format!("{{\"text\": {text:?}}}\n"),
            };
            lines.iter().map(line).collect()
        };
        pet.write("labeled.jsonl", &of(&lines[..12], true));
        pet.write("unlabeled.jsonl", &of(&lines[12..], false));
        pet.write("test.jsonl", &of(&lines[12..], true));
        pet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    /// Runs the command with these flags.
    fn run(&self, flags: &[&str]) -> Ran {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/puna-mini-q8_0.gguf");
        let recipe = format!(
            "output = {:?}\nmodel = {:?}\n[adapter]\nmethod = \"lora\"\nr = 4\n\
             lora_alpha = 8\ntarget_modules = \"all-linear\"\n\
             [pet]\npatterns = [\"{{text}} It was\", \"Is it? {{text}} Answer:\"]\n\
             train = {:?}\nunlabeled = {:?}\ntest = {:?}\n\
             [pet.labels]\nyes = \" true\"\nno = \" false\"\n\
             [train]\nsteps = 25\nbatch = 6\n[optimizer]\nlr = 5e-3\nweight_decay = 0\n",
            arg(&self.path("out")),
            arg(&model),
            arg(&self.path("labeled.jsonl")),
            arg(&self.path("unlabeled.jsonl")),
            arg(&self.path("test.jsonl")),
        );
        self.write("pet.toml", &recipe);
        let path = self.path("pet.toml");
        let mut args = vec!["pet", arg(&path)];
        args.extend(flags);
        puna(&args)
    }
}

#[test]
fn cloze_questions_are_learned_soft_labels_made_and_examples_classified() {
    let pet = Pet::new();
    let ran = pet.run(&["--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let result: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(result["examples"], serde_json::json!([12, 12, 12]));
    for pattern in result["patterns"].as_array().expect("patterns") {
        assert!(pattern["train"].as_f64() > Some(0.9), "{result}");
        assert!(pattern["test"].as_f64() > Some(0.7), "{result}");
    }
    assert!(result["distilled"].as_f64() > Some(0.7), "{result}");
    let soft = fs::read_to_string(pet.path("out/soft_labels.jsonl")).expect("soft labels");
    assert_eq!(soft.lines().count(), 12);
    for line in soft.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let sum = ["yes", "no"].iter().filter_map(|l| line["labels"][l].as_f64()).sum::<f64>();
        assert!((sum - 1.0).abs() < 1e-6, "{line}");
    }
    // What is there is not trained again, and says the same.
    let again = pet.run(&["--json"]);
    assert!(again.stderr.contains("pattern-1 is there already"), "{}", again.stderr);
    assert_eq!(again.stdout, ran.stdout);
    let labels = pet.run(&["--classify", arg(&pet.path("test.jsonl"))]);
    assert_eq!(labels.code, 0, "{}", labels.stderr);
    let right = labels.stdout.lines().filter(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["label"] == line["given"]
    });
    let share = right.count() as f64 / 12.0;
    assert!((share - result["distilled"].as_f64().unwrap_or_default()).abs() < 1e-9);
    // By the patterns' average, each as good as it was before training, where nothing is distilled.
    let (few, all) = (["--set", "train.steps=3"], "pet.weights=accuracy");
    let by_patterns = fs::read_to_string(pet.path("pet.toml")).expect("a recipe");
    let (with, out) = (by_patterns.lines(), format!("output = {:?}", arg(&pet.path("other"))));
    let without = with.filter(|line| !line.starts_with("unlabeled") && !line.starts_with("output"));
    let text = std::iter::once(out.as_str()).chain(without).collect::<Vec<_>>().join("\n");
    pet.write("average.toml", &text);
    let recipe = pet.path("average.toml");
    let flags = ["pet", arg(&recipe), few[0], few[1], "--set", all];
    let trained = puna(&[&flags[..], &["--json"]].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let of_average: serde_json::Value = serde_json::from_str(&trained.stdout).expect("JSON");
    let test = pet.path("test.jsonl");
    let labels = puna(&[&flags[..], &["--classify", arg(&test)]].concat());
    let right = labels.stdout.lines().filter(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["label"] == line["given"]
    });
    let share = right.count() as f64 / 12.0;
    let ensemble = of_average["ensemble"].as_f64().unwrap_or_default();
    assert!((share - ensemble).abs() < 1e-9, "{share} {of_average}");
    // Another recipe does not mix with what is there, and a wrong file costs nothing.
    let other = pet.run(&["--set", "train.batch=5"]);
    assert!(other.code == 2 && other.stderr.contains("--restart"), "{}", other.stderr);
    pet.write("empty.jsonl", "");
    let empty = format!("pet.train={:?}", arg(&pet.path("empty.jsonl")));
    let refused = pet.run(&["--restart", "--set", &empty]);
    assert_eq!(refused.code, 2);
    assert!(pet.path("out/final/adapter_model.safetensors").is_file());
}

#[test]
fn what_does_not_fit_is_named() {
    let pet = Pet::new();
    pet.write("bad.jsonl", "{\"text\": \"a\", \"label\": \"yes\"}\n\n{\"txt\": \"b\"}\n");
    let bad = format!("pet.train={:?}", arg(&pet.path("bad.jsonl")));
    let cases: [(&str, &[&str]); 8] = [
        (&bad, &["bad.jsonl", "example 3", "has no \"text\"", "txt"]),
        ("pet.labels.yes=\" incomprehensible\"", &["pet.labels", "yes", "one token"]),
        ("pet.labels.yes=\" false\"", &["another word for each label"]),
        ("pet.patterns=[\"no field\"]", &["pet.patterns", "no field"]),
        ("pet.patterns=[\"{text\"]", &["pet.patterns", "braces"]),
        ("pet.final_pattern=2", &["pet.final_pattern", "index of a pattern"]),
        ("pet.temprature=2", &["temprature"]),
        ("train.batch=0", &["train.batch"]),
    ];
    for (set, named) in cases {
        let ran = pet.run(&["--set", set]);
        assert_eq!(ran.code, 2, "{set}: {}", ran.stderr);
        for part in named {
            assert!(ran.stderr.contains(part), "{set}: {}", ran.stderr);
        }
        assert!(!pet.path("out/recipe.toml").exists(), "{set} left something");
    }
}
