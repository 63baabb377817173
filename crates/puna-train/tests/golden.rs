//! The golden training cases: loss, every gradient, ten steps of AdamW, the final weights.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use puna_io::Dtype;
use puna_io::safetensors::SafetensorsFile;
use puna_model::{
    Device, DeviceChoice, LoadOptions, LossSum, Model, Precision, Recompute, Slot, Stage,
    TokenRows, TrainingPass,
};
use puna_nn::Linear;
use puna_peft::{AdapterSet, Base};
use puna_testkit::GoldenCase;
use puna_train::{Member, Optimizer, OptimizerConfig, Schedule, ScheduleName, clip_factor};

/// As the contract beside the cases has it.
const LOSS: f64 = 1e-5;
const GRADIENT: f32 = 1e-4;
const TRAJECTORY: f64 = 1e-4;
const WEIGHTS: f32 = 2e-4;

struct Batch {
    len: usize,
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    positions: Vec<u32>,
    visible_from: Vec<u32>,
}

impl Batch {
    fn read(path: &Path) -> Self {
        let file = SafetensorsFile::open(path).expect("a golden file");
        let integers = |name: &str| -> Vec<i64> {
            let tensor = file.tensor(name).expect("a golden tensor");
            match tensor.info.dtype {
                Dtype::I64 => {
                    tensor.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
                }
                _ => tensor
                    .bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| i64::from(i32::from_le_bytes(*b)))
                    .collect(),
            }
        };
        let len = file.info("input_ids").expect("token ids").shape[1];
        let tokens: Vec<u32> = integers("input_ids").iter().map(|&id| id as u32).collect();
        // Padding is behind the text: what it sees does not matter, as nothing sees it.
        let targets = integers("labels")
            .chunks(len)
            .flat_map(|row| {
                let next = row[1..].iter().map(|&label| u32::try_from(label).ok());
                next.chain([None]).collect::<Vec<_>>()
            })
            .collect();
        let rows = tokens.len() / len;
        let positions = (0..rows).flat_map(|_| 0..len as u32).collect();
        Self { len, visible_from: vec![0; tokens.len()], tokens, targets, positions }
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> TokenRows<'_> {
        let part = rows.start * self.len..rows.end * self.len;
        TokenRows {
            len: self.len,
            tokens: &self.tokens[part.clone()],
            targets: &self.targets[part.clone()],
            weights: None,
            positions: &self.positions[part.clone()],
            visible_from: &self.visible_from[part],
        }
    }

    fn count(&self) -> usize {
        self.tokens.len() / self.len
    }

    fn targets(&self) -> usize {
        self.targets.iter().flatten().count()
    }
}

/// A model, and what of it is trained.
struct Trained {
    model: Model,
    members: Vec<Member>,
    adapters: Option<Arc<AdapterSet>>,
}

/// The CPU, and a GPU where there is one and it can be used.
fn devices() -> Vec<Option<Device>> {
    match DeviceChoice::Auto.open(|_| ()) {
        Ok(Some(gpu)) => vec![None, Some(gpu)],
        _ => {
            puna_testkit::skipped("on a GPU: there is none, or puna was built without it");
            vec![None]
        }
    }
}

fn load(case: &GoldenCase, device: Option<&Device>) -> Trained {
    let options = LoadOptions::new(Precision::Exact);
    let mut model = Model::load(&case.dir.join("model"), &options).expect("a golden model");
    let trainable = model.decoder.make_trainable(|slot| slot.to_string()).expect("on the CPU");
    let members = trainable.parameters.into_iter().map(Member::from).collect();
    moved(Trained { model, members, adapters: None }, device)
}

/// With what is trained on a device.
fn moved(trained: Trained, device: Option<&Device>) -> Trained {
    if let Some(device) = device {
        for member in &trained.members {
            member.parameter.move_to(device).expect("room on the device");
        }
    }
    trained
}

/// The model frozen, the adapter of a folder trained.
fn load_adapter(case: &GoldenCase, device: Option<&Device>) -> Trained {
    let options = LoadOptions::new(Precision::Exact);
    let model = Model::load(&case.dir.join("model"), &options).expect("a golden model");
    let base = Base { decoder: &model.decoder, config: &model.config };
    let adapter = puna_peft::load(&case.dir.join("init"), &base).expect("a golden adapter");
    let adapters = puna_peft::combine(&[(&*adapter, 1.0)]).expect("one adapter");
    // The slot only says when a gradient is complete, which is not looked at here.
    let member = |t: puna_peft::Trained| Member::from((Slot::Embedding, t.parameter));
    let members = adapter.trained().into_iter().map(member).collect();
    let options = LoadOptions { device: device.cloned(), ..options };
    let model = Model::load(&case.dir.join("model"), &options).expect("a golden model");
    moved(Trained { model, members, adapters: Some(Arc::new(adapters)) }, device)
}

fn pass(batch: &Batch, recompute: Recompute) -> TrainingPass {
    let scale = 1.0 / batch.targets() as f32;
    TrainingPass {
        scale,
        z_loss: 0.0,
        load_balance: 0.0,
        recompute,
        precision: Precision::Exact,
        adapters: None,
        seed: 0,
    }
}

fn step(trained: &Trained, batch: &Batch, cuts: &[usize], recompute: Recompute) -> f64 {
    let pass = TrainingPass { adapters: trained.adapters.clone(), ..pass(batch, recompute) };
    let mut sum = LossSum::default();
    let mut first = 0;
    for &end in cuts {
        let rows = batch.rows(first..end);
        let mut stages = Vec::new();
        sum += trained.model.decoder.train_on(&rows, &pass, |s| stages.push(s)).expect("trained");
        assert_eq!((stages[0], stages.last()), (Stage::Head, Some(&Stage::Embedding)));
        first = end;
    }
    assert_eq!(sum.targets, batch.targets());
    sum.loss / sum.targets as f64
}

/// Reference tensors under the names of parameters; all families of these cases are Llama's.
fn reference(path: &Path) -> HashMap<String, Vec<f32>> {
    let file = SafetensorsFile::open(path).expect("a golden file");
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let read = |name: &str| {
        let tensor = file.tensor(name).expect("a golden tensor");
        tensor.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    names.iter().map(|name| (ours(name), read(name))).collect()
}

fn ours(name: &str) -> String {
    if name.starts_with("base_model.") {
        return name.to_owned();
    }
    let name = name.trim_start_matches("model.").trim_end_matches(".weight");
    let parts = [
        ("embed_tokens", "embedding"),
        ("lm_head", "head"),
        ("input_layernorm", "attn_pre_norm"),
        ("post_attention_layernorm", "ffn_pre_norm"),
        ("self_attn.q_proj", "query"),
        ("self_attn.k_proj", "key"),
        ("self_attn.v_proj", "value"),
        ("self_attn.o_proj", "output"),
        ("mlp.gate_proj", "gate"),
        ("mlp.up_proj", "up"),
        ("mlp.down_proj", "down"),
    ];
    if name == "norm" {
        return "final_norm".to_owned();
    }
    parts.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

fn assert_gradients(members: &[Member], expected: &HashMap<String, Vec<f32>>) {
    assert_eq!(members.len(), expected.len());
    for Member { parameter, .. } in members {
        let theirs = &expected[parameter.name()];
        parameter.download_gradient().expect("a gradient on the device");
        let ours = parameter.with_gradient(|g| g.expect("a gradient").to_vec());
        let largest = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            let limit = GRADIENT * largest;
            assert!((a - b).abs() <= limit, "{} [{i}]: {a} for {b}", parameter.name());
        }
        parameter.clear_gradient();
    }
}

#[test]
fn ten_steps_of_adamw_are_pytorchs() {
    let Some(case) = GoldenCase::open("train/sft-full") else { return };
    for device in devices() {
        ten_steps(&case, &load(&case, device.as_ref()), "final.safetensors");
    }
}

#[test]
fn gradients_by_bfloat16_products_are_near_pytorchs_in_float32() {
    let Some(case) = GoldenCase::open("train/sft-full") else { return };
    let batch = Batch::read(&case.dir.join("batch.safetensors"));
    let expected = reference(&case.dir.join("grads.safetensors"));
    for device in devices() {
        let trained = load(&case, device.as_ref());
        let pass = TrainingPass { precision: Precision::Fast, ..pass(&batch, Recompute::Nothing) };
        let rows = batch.rows(0..batch.count());
        let sum = trained.model.decoder.train_on(&rows, &pass, |_| ()).unwrap();
        let loss = sum.loss / sum.targets as f64;
        assert!((loss / case.json["loss"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{loss}");
        for Member { parameter, .. } in &trained.members {
            parameter.download_gradient().unwrap();
            let ours = parameter.with_gradient(|g| g.unwrap().to_vec());
            let theirs = &expected[parameter.name()];
            let squares = |of: &mut dyn Iterator<Item = f32>| of.map(|v| v * v).sum::<f32>();
            let error = squares(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
            let share = (error / squares(&mut theirs.iter().copied())).sqrt();
            assert!(share < 0.03, "{} is off by {share} of its length", parameter.name());
        }
    }
}

#[test]
fn ten_steps_of_a_lora_are_those_of_peft() {
    let Some(case) = GoldenCase::open("train/sft-lora") else { return };
    for device in devices() {
        let trained = load_adapter(&case, device.as_ref());
        let frozen = || -> Vec<Vec<f32>> {
            let linears = trained.model.decoder.linears().into_iter();
            let flat =
                |linear: &Linear| linear.weight().dequantize().unwrap().flatten_all().unwrap();
            linears.map(|(_, linear)| flat(linear).to_vec1().unwrap()).collect()
        };
        let before = frozen();
        ten_steps(&case, &trained, "final/adapter_model.safetensors");
        assert!(before == frozen(), "the base has changed");
    }
}

/// Loss, gradients, ten updates and the final weights of a case.
#[expect(clippy::unwrap_used, reason = "what a test is made of")]
fn ten_steps(case: &GoldenCase, trained: &Trained, last: &str) {
    let batch = Batch::read(&case.dir.join("batch.safetensors"));
    let number = |key: &str| case.json["hyper"][key].as_f64().unwrap();
    for recompute in [Recompute::Nothing, Recompute::Blocks] {
        let loss = step(trained, &batch, &[batch.count()], recompute);
        assert!((loss - case.json["loss"].as_f64().unwrap()).abs() < LOSS, "{loss}");
        assert_gradients(&trained.members, &reference(&case.dir.join("grads.safetensors")));
    }
    let config = OptimizerConfig {
        lr: number("lr"),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        clip: number("max_grad_norm"),
        ..OptimizerConfig::default()
    };
    let schedule = Schedule {
        name: ScheduleName::Cosine,
        warmup_steps: number("warmup_steps") as u64,
        final_lr_fraction: 0.0,
        decay_steps: 0,
    };
    let mut optimizer = Optimizer::new(config, &trained.members);
    optimizer.upload().unwrap();
    let losses = case.json["losses"].as_array().unwrap();
    for (i, theirs) in losses.iter().enumerate() {
        let loss = step(trained, &batch, &[batch.count()], Recompute::Nothing);
        let theirs = theirs.as_f64().unwrap();
        assert!((loss - theirs).abs() < TRAJECTORY, "loss {i}: {loss} for {theirs}");
        if i == 10 {
            break;
        }
        let norm = optimizer.gradient_squares().unwrap().sqrt();
        let theirs = case.json["grad_norms"][i].as_f64().unwrap();
        assert!((norm / theirs - 1.0).abs() < 1e-3, "norm {i}: {norm} for {theirs}");
        let lr = schedule.lr(i as u64, 10, config.lr);
        optimizer.update(lr, clip_factor(norm, config.clip)).unwrap();
        optimizer.clear_gradients();
    }
    let expected = reference(&case.dir.join(last));
    for Member { parameter, .. } in &trained.members {
        parameter.download().unwrap();
        for (a, b) in parameter.values().iter().zip(&expected[parameter.name()]) {
            assert!((a - b).abs() < WEIGHTS, "{}: {a} for {b}", parameter.name());
        }
    }
}

#[test]
fn accumulated_gradients_are_those_of_the_whole_batch_with_tied_embeddings() {
    let Some(case) = GoldenCase::open("train/sft-tied-accum") else { return };
    let batch = Batch::read(&case.dir.join("batch.safetensors"));
    let expected = reference(&case.dir.join("grads.safetensors"));
    for device in devices() {
        let trained = load(&case, device.as_ref());
        for cuts in [vec![6], vec![4, 6], vec![1, 2, 3, 4, 5, 6]] {
            let loss = step(&trained, &batch, &cuts, Recompute::Nothing);
            assert!((loss - case.json["loss_tokens"].as_f64().unwrap()).abs() < LOSS, "{loss}");
            assert_gradients(&trained.members, &expected);
        }
    }
}
