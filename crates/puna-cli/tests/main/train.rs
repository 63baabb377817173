//! `puna train`: from token shards and conversations to a model, as a user calls it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::run::{Ran, arg, command, puna};

/// Prepared text, the config of a tiny model, and a recipe, in a folder of their own.
pub(crate) struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    pub(crate) fn new() -> Self {
        let run = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let words = ["llama", "puna", "high", "walks", "grass", "wind"];
        let story = |n: usize| -> String {
            (0..300).map(|i| format!("{} ", words[(i * n + i / 5) % 6])).collect::<String>()
                + &n.to_string()
        };
        let lines: String =
            (1..80).map(|n| json!({ "text": story(n) }).to_string() + "\n").collect();
        fs::write(run.path("text.jsonl"), lines).expect("written");
        let (text, tokens) = (run.path("text.jsonl"), run.path("tokens"));
        let made = puna(&[
            "data",
            "prepare",
            arg(&text),
            "-o",
            arg(&tokens),
            "--train-bpe",
            "280",
            "--validation-fraction",
            "0.2",
        ]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 280,
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1,
        });
        fs::write(run.path("config.json"), config.to_string()).expect("written");
        let recipe = format!(
            "task = \"pretrain\"\noutput = \"run\"\nseed = 7\n[model]\nconfig = {:?}\n\
             [data]\ntrain = {:?}\nsequence_length = 32\n\
             [train]\nsteps = 12\nbatch_sequences = 4\nmicro_batch = 2\n\
             [optimizer]\nlr = 3e-3\n[schedule]\nwarmup_steps = 2\n\
             [checkpoint]\nevery_steps = 1\n[log]\nvalidate_every_steps = 6\n",
            arg(&run.path("config.json")),
            arg(&tokens)
        );
        fs::write(run.path("recipe.toml"), recipe).expect("written");
        run
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a run with its own output folder and some settings.
    pub(crate) fn args(&self, output: &str, set: &[&str]) -> Vec<String> {
        let mut args = vec!["train".to_owned(), arg(&self.path("recipe.toml")).to_owned()];
        let output = format!("output={}", arg(&self.path(output)));
        for setting in std::iter::once(output.as_str()).chain(set.iter().copied()) {
            args.extend(["--set".to_owned(), setting.to_owned()]);
        }
        args
    }

    pub(crate) fn train(&self, output: &str, set: &[&str], flags: &[&str]) -> Ran {
        let args = self.args(output, set);
        let args: Vec<&str> =
            args.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        puna(&args)
    }

    /// Weights and states of a checkpoint.
    pub(crate) fn tensors(&self, output: &str, step: u64) -> [Vec<u8>; 2] {
        let folder = self.path(output).join(format!("checkpoints/step-{step:08}"));
        ["model.safetensors", "optimizer.safetensors"]
            .map(|name| fs::read(folder.join(name)).expect("a whole checkpoint"))
    }
}

/// Losses by step.
fn losses(output: &Path) -> BTreeMap<u64, f64> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect()
}

#[test]
fn a_model_learns_and_the_other_commands_take_it() {
    let run = Run::new();
    let done =
        run.train("run", &["train.steps=60", "checkpoint.every_steps=0"], &["--json"]).json();
    let output = run.path("run");
    let losses = losses(&output);
    assert_eq!(losses.len(), 60);
    assert!(losses[&1] > 5.0 && losses[&60] < 4.0, "{} to {}", losses[&1], losses[&60]);
    assert!(done["validation_loss"].as_f64().expect("a loss") < 4.0);
    for name in ["loss.svg", "loss.png", "tensorboard", "model/config.json", "initial/config.json"]
    {
        assert!(output.join(name).exists(), "{name}");
    }
    let model = output.join("model");
    let text = puna(&["generate", "-m", arg(&model), "llama puna", "-n", "4", "--json"]).json();
    assert!(text.is_object());
}

#[test]
fn a_killed_run_continues_bit_for_bit() {
    let run = Run::new();
    let whole = run.train("whole", &[], &[]);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let mut flags: &[&str] = &[];
    for (kill, pause) in [30, 90, 160, 250].into_iter().enumerate() {
        let args = run.args("killed", &[]);
        let args: Vec<&str> =
            args.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let mut child = command(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("puna starts");
        std::thread::sleep(Duration::from_millis(pause + 3 * kill as u64));
        let _ = child.kill();
        let _ = child.wait();
        let checkpoints = run.path("killed/checkpoints");
        let begun = fs::read_dir(checkpoints).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("step-"))
            })
        });
        flags = if begun { &["--resume"] } else { &[] };
    }
    let end = run.train("killed", &[], flags);
    assert_eq!(end.code, 0, "{}", end.stderr);
    for step in [11, 12] {
        assert!(run.tensors("killed", step) == run.tensors("whole", step), "step {step}");
    }
    assert_eq!(losses(&run.path("killed")), losses(&run.path("whole")));
}

#[test]
fn every_optimizer_resumes_exactly_on_any_number_of_threads() {
    let run = Run::new();
    for name in ["adamw8bit", "muon"] {
        let optimizer = format!("optimizer.name={name}");
        let (whole, parts) = (format!("whole-{name}"), format!("parts-{name}"));
        let set: &[&str] = &[&optimizer, "train.recompute=block", "checkpoint.keep_last=20"];
        assert_eq!(run.train(&whole, set, &["-t", "1"]).code, 0);
        assert_eq!(run.train(&parts, set, &["-t", "2"]).code, 0);
        for step in 6..=12 {
            let doomed = run.path(&parts).join(format!("checkpoints/step-{step:08}"));
            if step > 5 {
                fs::remove_dir_all(doomed).expect("removed");
            }
        }
        assert_eq!(run.train(&parts, set, &["-t", "3", "--resume"]).code, 0);
        assert!(run.tensors(&parts, 12) == run.tensors(&whole, 12), "{name}");
    }
}

#[test]
fn conversations_are_trained_on_with_the_chat_template() {
    let run = Run::new();
    let talks: Vec<Value> = (0..40)
        .map(|i| json!({ "instruction": format!("say {i}"), "input": "", "output": "llama puna high" }))
        .collect();
    fs::write(run.path("talks.json"), Value::from(talks).to_string()).expect("written");
    let data = format!("data.train={}", arg(&run.path("talks.json")));
    assert_eq!(run.train("base", &["train.steps=1"], &[]).code, 0);
    let tokens = format!("model.tokenizer={}", arg(&run.path("tokens")));
    let set: &[&str] = &[
        "task=sft",
        &data,
        &tokens,
        "data.template=alpaca",
        "data.sequence_length=400",
        "data.validation_fraction=0.2",
        "train.steps=40",
    ];
    let done = run.train("talks", set, &["--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let losses = losses(&run.path("talks"));
    assert!(losses[&40] < 0.7 * losses[&1], "{} to {}", losses[&1], losses[&40]);
}

#[test]
fn a_device_is_taken_from_recipe_or_flag_and_refused_before_anything_is_written() {
    let run = Run::new();
    let cpu = run.train("cpu", &["train.steps=1"], &["--device", "cpu"]);
    assert_eq!(cpu.code, 0, "{}", cpu.stderr);
    let wrong = run.train("no", &["train.device=gpu"], &[]);
    assert_eq!(wrong.code, 2);
    for part in ["train.device = gpu", "auto, cpu, cuda or cuda:N"] {
        assert!(wrong.stderr.contains(part), "{}", wrong.stderr);
    }
    let flag = run.train("no", &[], &["--device", "cuda:x"]);
    assert!(flag.code == 2 && flag.stderr.contains("cuda:N"), "{}", flag.stderr);
    if puna_model::cuda_device(0).is_err() {
        let none = run.train("no", &[], &["--device", "cuda"]);
        assert!(none.code == 2 && none.stderr.contains("hint:"), "{}", none.stderr);
    }
    assert!(!run.path("no").exists());
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let run = Run::new();
    assert_eq!(run.train("run", &["train.steps=2"], &[]).code, 0);
    for (set, flags, named) in [
        ("train.steps=2", [""; 0].as_slice(), "hint: --resume goes on"),
        ("train.stepz=2", &[], "stepz"),
        ("data.sequence_length=600", &["--restart"], "at most the model's context"),
        ("model.config=nowhere.json", &["--restart"], "nowhere.json"),
        ("data.train=nowhere", &["--restart"], "nowhere"),
        ("train.steps=1", &["--resume"], "has come to 2"),
        ("seed=8", &["--resume"], "seed 7"),
        ("optimizer.name=muon", &["--resume"], "momentum"),
    ] {
        let failed = run.train("run", &[set], flags);
        assert_eq!(failed.code, 2, "{set}");
        assert!(failed.stderr.contains(named), "{set}: {}", failed.stderr);
    }
    let nan =
        run.train("nan", &["optimizer.lr=1e30", "optimizer.clip=0", "train.precision=f32"], &[]);
    assert_eq!(nan.code, 2);
    assert!(nan.stderr.contains("nothing was updated"), "{}", nan.stderr);
    assert!(nan.stderr.contains("hint: the newest checkpoint"), "{}", nan.stderr);
    let empty = run.train("empty", &[], &["--resume"]);
    assert!(empty.stderr.contains("no checkpoint to resume"), "{}", empty.stderr);
}
