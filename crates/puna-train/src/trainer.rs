//! The training loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use puna_data::Row;
use puna_kernels::{Elements, rounds_products, rss_bytes};
use puna_model::{LossSum, Parameter, Precision, Stage, TrainingPass};
use puna_nn::Pass;
use puna_peft::AdapterConfig;

use crate::batch::{Batch, targets};
use crate::checkpoint::{self, Checkpoint, Parts, Progress};
use crate::log::{Metrics, RunLog, StepMetrics, ValidationMetrics};
use crate::memory::Passes;
use crate::ranks::owners;
use crate::sample;
use crate::setup::Rows;
use crate::{Member, MemoryNeed, Optimizer, Setup, TrainError, clip_factor, device};

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Before the first step.
    Begin {
        /// Trained values.
        parameters: u64,
        /// Steps of the run, and those done before.
        steps: (u64, u64),
        /// Memory that it needs.
        need: MemoryNeed,
        /// Floating-point operations of a step.
        flops_per_step: f64,
        /// Operations per second that the machine can do at most, where that was measured.
        peak: Option<f64>,
    },
    /// A step was made.
    Step(&'a StepMetrics),
    /// Held-out data was scored.
    Validation(&'a ValidationMetrics),
    /// The model as it is now wrote something.
    Sample {
        /// Steps done.
        step: u64,
        /// What it was given.
        prompt: &'a str,
        /// What it wrote.
        text: &'a str,
    },
    /// A checkpoint is on disk.
    Saved(&'a Checkpoint),
}

/// What a few steps of a run say about all of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// Median of the measured steps.
    pub seconds_per_step: f64,
    /// How many were measured.
    pub measured_steps: usize,
    /// Floating-point operations of a step.
    pub flops_per_step: f64,
    /// Operations per second that the machine can do at most, where that was measured.
    pub peak: Option<f64>,
    /// Memory that the run needs.
    pub need: MemoryNeed,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps were made.
    Done {
        /// Folder of the final model, or of the adapter.
        model: PathBuf,
        /// The loss curve, SVG and PNG.
        curves: Vec<PathBuf>,
        /// The last validation.
        validation_loss: Option<f64>,
    },
    /// It was stopped; the checkpoint continues it.
    Stopped(Checkpoint),
}

/// A run.
pub struct Trainer {
    setup: Setup,
    optimizer: Optimizer,
    /// All trained tensors; the optimizer has those of this process.
    members: Vec<Member>,
    progress: Progress,
    steps: u64,
    /// Of the first process.
    log: Option<RunLog>,
    /// Owner of each parameter.
    owners: Vec<usize>,
    flops_per_token: f64,
    peak: Option<f64>,
}

impl Trainer {
    /// A run that begins, or goes on from the setup's checkpoint.
    ///
    /// # Errors
    /// If the checkpoint does not fit the recipe, or records cannot be written.
    pub fn new(setup: Setup) -> Result<Self, TrainError> {
        let recipe = &setup.recipe;
        let (members, ranks) = (setup.trained.members(), &setup.ranks);
        let sizes: Vec<usize> = members.iter().map(|m| m.parameter.len()).collect();
        let owners = owners(&sizes, ranks.size());
        let own = members.iter().zip(&owners).filter(|(_, owner)| **owner == ranks.rank());
        let own: Vec<_> = own.map(|(member, _)| member.clone()).collect();
        let mut optimizer = Optimizer::new(recipe.optimizer, &own);
        let progress = match &setup.resume {
            None => Progress::default(),
            Some(checkpoint) => checkpoint::load_states(checkpoint, &mut optimizer, recipe)?,
        };
        optimizer.upload()?;
        let log = match (ranks.rank(), &setup.resume) {
            (0, None) => Some(RunLog::begin(&recipe.output)?),
            (0, Some(_)) => Some(RunLog::resume(&recipe.output, progress.step)?),
            _ => None,
        };
        let steps = recipe.steps(setup.train.rows_per_epoch());
        if progress.step > steps {
            let value = format!("{steps} (the checkpoint has come to {})", progress.step);
            let expected = "at least the steps that are done";
            return Err(TrainError::Setting { key: "train.steps", value, expected });
        }
        if let Some(method) = setup.trained.method() {
            method.check_steps(steps)?;
        }
        let length = recipe.data.sequence_length;
        let forward = setup.config.decoder.prefill_flops(0, length, length) as f64;
        let peak = device::peak(setup.device.as_ref(), recipe.train.precision);
        // Backward makes two products for each one of forward.
        let flops_per_token = 3.0 * setup.trained.passes() as f64 * forward / length as f64;
        Ok(Self { setup, optimizer, members, progress, steps, log, owners, flops_per_token, peak })
    }

    /// Makes the steps that are left; when `stop` says so, the run ends behind the step in progress.
    ///
    /// # Errors
    /// If data cannot be read, a file cannot be written, or the loss is no number any more: the
    /// newest checkpoint is then whole and as it was.
    pub fn run(
        &mut self,
        stop: impl Fn() -> bool,
        mut tell: impl FnMut(Event<'_>),
    ) -> Result<Outcome, TrainError> {
        tell(self.begin());
        let (every, validate_every) =
            (self.setup.recipe.checkpoint.every_steps, self.setup.recipe.log.validate_every_steps);
        let mut last_validation = None;
        if validate_every > 0 && self.progress.step == 0 {
            // What there was before, to compare with.
            self.validate(&mut tell)?;
        }
        while self.progress.step < self.steps {
            let metrics = self.step()?;
            self.record(&Metrics::Step(metrics))?;
            tell(Event::Step(&metrics));
            let step = self.progress.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            if due(validate_every) || step == self.steps {
                last_validation = self.validate(&mut tell)?;
            }
            if due(self.setup.recipe.log.sample_every_steps) {
                self.sample(&mut tell)?;
            }
            let asked = self.setup.ranks.sum(vec![f64::from(u8::from(stop()))])?[0] > 0.0;
            if asked && step < self.steps {
                return Ok(Outcome::Stopped(self.save(&mut tell)?));
            }
            if due(every) || step == self.steps {
                self.save(&mut tell)?;
            }
        }
        self.finish(last_validation)
    }

    /// Makes a few steps to see how long they take, and records nothing: at least one behind the
    /// first, which pays for buffers and pages, and more until `limit` has passed. The run is
    /// spoiled afterwards.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn probe(&mut self, limit: Duration) -> Result<Probe, TrainError> {
        const STEPS: usize = 25;
        self.step()?;
        let (start, mut seconds) = (Instant::now(), Vec::new());
        while seconds.is_empty() || (seconds.len() < STEPS && start.elapsed() < limit) {
            seconds.push(self.step()?.seconds);
        }
        seconds.sort_by(f64::total_cmp);
        let recipe = &self.setup.recipe;
        let tokens = recipe.train.batch_sequences * recipe.data.sequence_length as u64;
        Ok(Probe {
            steps: self.steps,
            tokens_per_step: tokens,
            seconds_per_step: seconds[seconds.len() / 2],
            measured_steps: seconds.len(),
            flops_per_step: self.flops_per_token * tokens as f64,
            peak: self.peak,
            need: self.need(),
        })
    }

    fn record(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        match &mut self.log {
            Some(log) => Ok(log.record(metrics)?),
            None => Ok(()),
        }
    }

    fn begin(&self) -> Event<'static> {
        let recipe = &self.setup.recipe;
        let tokens = recipe.train.batch_sequences * recipe.data.sequence_length as u64;
        Event::Begin {
            parameters: self.members.iter().map(|m| m.parameter.len() as u64).sum(),
            steps: (self.steps, self.progress.step),
            need: self.need(),
            flops_per_step: self.flops_per_token * tokens as f64,
            peak: self.peak,
        }
    }

    /// Whether blocks keep bfloat16 between their products.
    fn rounds_between_products(&self, precision: Precision) -> bool {
        let adapter = self.setup.recipe.adapter.as_ref();
        let thin = adapter.is_none_or(|adapter| matches!(adapter, AdapterConfig::Lora(_)));
        let here = self.setup.device.is_none() && rounds_products(Elements::Bf16);
        here && thin && precision == Precision::Fast
    }

    fn need(&self) -> MemoryNeed {
        let recipe = &self.setup.recipe;
        let tokens =
            self.micro_batch() * recipe.data.sequence_length as u64 * self.setup.trained.passes();
        let precision = recipe.train.precision.into();
        let need = MemoryNeed::of(
            (&self.setup.config.decoder, self.frozen_bytes()),
            &self.members,
            self.optimizer.state_bytes(),
            &Passes {
                tokens,
                recompute: recipe.train.recompute.into(),
                precision,
                rounds: self.rounds_between_products(precision),
            },
        );
        match self.setup.device {
            None => need,
            Some(_) => need.on_device(self.setup.config.decoder.vocab_size, tokens, precision),
        }
    }

    /// One optimizer step.
    fn step(&mut self) -> Result<StepMetrics, TrainError> {
        let start = Instant::now();
        let recipe = &self.setup.recipe;
        let (first_row, count) = (self.progress.rows, recipe.train.batch_sequences);
        let last_row = first_row + count - 1;
        let ranks = &*self.setup.ranks;
        let here = count / ranks.size() as u64;
        let rows = read(&self.setup.train, first_row + here * ranks.rank() as u64, here)?;
        let wanted = ranks.sum(vec![targets(&rows) as f64])?[0];
        if wanted == 0.0 {
            return Err(TrainError::NoTargets { first_row, last_row });
        }
        let sum = self.accumulate(&rows, wanted)?;
        let sums = ranks.sum(vec![sum.loss, sum.balance])?;
        let (loss, balance) = (sums[0] / wanted, sums[1] / wanted);
        let grad_norm = ranks.sum(vec![self.optimizer.gradient_squares()?])?[0].sqrt();
        let step = self.progress.step;
        for (what, value) in [("loss", loss), ("norm of the gradient", grad_norm)] {
            if !value.is_finite() {
                return Err(TrainError::NotFinite { step, what, value, first_row, last_row });
            }
        }
        let lr = recipe.schedule.lr(step, self.steps, recipe.optimizer.lr);
        self.optimizer.update(lr, clip_factor(grad_norm, recipe.optimizer.clip))?;
        if let Some(method) = self.setup.trained.method() {
            method.after_update(step + 1, self.steps);
        }
        self.optimizer.clear_gradients();
        if ranks.size() > 1 {
            for (member, &owner) in self.members.iter().zip(&self.owners) {
                self.broadcast(&member.parameter, owner)?;
                member.parameter.clear_gradient();
            }
        }
        let tokens = count * recipe.data.sequence_length as u64;
        self.progress.step += 1;
        self.progress.rows += count;
        self.progress.tokens += tokens;
        let seconds = start.elapsed().as_secs_f64();
        let tokens_per_second = tokens as f64 / seconds;
        let flops = self.flops_per_token * tokens_per_second;
        Ok(StepMetrics {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss,
            lr,
            grad_norm,
            load_balance: (balance > 0.0).then_some(balance),
            tokens_per_second,
            mfu: self.peak.map(|peak| flops / peak),
            rss_bytes: rss_bytes(),
            device_bytes: device::bytes(self.setup.device.as_ref()),
            seconds,
        })
    }

    /// The gradients of a step's rows, of which there are some in this process and `wanted` targets in all,
    /// summed over the processes.
    fn accumulate(&self, rows: &[Row], wanted: f64) -> Result<LossSum, TrainError> {
        let (recipe, ranks) = (&self.setup.recipe, &*self.setup.ranks);
        let pass = TrainingPass {
            scale: 1.0 / wanted as f32,
            z_loss: recipe.loss.z_loss as f32,
            load_balance: recipe.loss.load_balance as f32,
            recompute: recipe.train.recompute.into(),
            precision: recipe.train.precision.into(),
            adapters: self.setup.trained.set(),
            seed: recipe.seed ^ ((self.progress.step + 1) << 20),
        };
        let micro = self.micro_batch() as usize;
        let (mut sum, last) = (LossSum::default(), rows.len().div_ceil(micro) - 1);
        let mut reduced = Ok(());
        let method = self.setup.trained.method();
        let part = 1.0 / (ranks.size() * (last + 1)) as f32;
        for (index, rows) in rows.chunks(micro).enumerate() {
            let number = (ranks.rank() * rows.len() + index) as u64;
            let pass = TrainingPass { seed: pass.seed ^ number, ..pass.clone() };
            sum += self.setup.decoder.train_on(&Batch::new(rows).rows(), &pass, |stage| {
                if index == last && method.is_none() && reduced.is_ok() {
                    reduced = self.reduce(stage);
                }
            })?;
            // A method's own terms belong to the gradients that are reduced.
            if let Some(method) = method {
                method.regularize(part)?;
            }
        }
        reduced?;
        if method.is_some() {
            self.reduce(Stage::Embedding)?;
        }
        ranks.finish()?;
        self.take_reduced()?;
        Ok(sum)
    }

    /// What layers are told outside of training.
    fn pass(&self) -> Pass {
        let pass = Pass::new(self.setup.recipe.train.precision.into());
        Pass { adapters: self.setup.trained.set(), ..pass }
    }

    /// Bytes of the weights that are not trained.
    fn frozen_bytes(&self) -> u64 {
        match self.setup.trained.set() {
            None => 0,
            Some(_) => self.setup.decoder.weight_bytes(),
        }
    }

    /// Rows at a time, in this process.
    fn micro_batch(&self) -> u64 {
        let train = &self.setup.recipe.train;
        let here = train.batch_sequences / self.setup.ranks.size() as u64;
        train.micro_batch.unwrap_or(here).min(here)
    }

    /// Begins to sum the gradients of a stage over the processes.
    fn reduce(&self, complete: Stage) -> Result<(), TrainError> {
        let ranks = &*self.setup.ranks;
        if ranks.size() == 1 {
            return Ok(());
        }
        for (member, &owner) in self.members.iter().zip(&self.owners) {
            if member.stage == complete {
                if !ranks.reaches_devices() {
                    member.parameter.download_gradient()?;
                }
                ranks.reduce_gradient(&member.parameter, owner)?;
            }
        }
        Ok(())
    }

    /// Takes the sums of this process's gradients to where the parameters are.
    fn take_reduced(&self) -> Result<(), TrainError> {
        let ranks = &*self.setup.ranks;
        if ranks.size() == 1 || ranks.reaches_devices() {
            return Ok(());
        }
        for (member, &owner) in self.members.iter().zip(&self.owners) {
            if owner == ranks.rank() {
                member.parameter.upload_gradient()?;
            }
        }
        Ok(())
    }

    /// Replaces a parameter's values everywhere by those of its owner.
    fn broadcast(&self, parameter: &Arc<Parameter>, owner: usize) -> Result<(), TrainError> {
        let ranks = &*self.setup.ranks;
        if ranks.reaches_devices() {
            return ranks.broadcast(parameter, owner);
        }
        if owner == ranks.rank() {
            parameter.download()?;
        }
        ranks.broadcast(parameter, owner)?;
        parameter.upload().map_err(TrainError::from)
    }

    /// Scores the held-out rows.
    fn validate(&mut self, tell: &mut impl FnMut(Event<'_>)) -> Result<Option<f64>, TrainError> {
        let Some(held_out) = &self.setup.validation else { return Ok(None) };
        let start = Instant::now();
        let recipe = &self.setup.recipe;
        let all = held_out.rows_per_epoch();
        let limit = match recipe.log.validation_rows {
            0 => all,
            rows => rows.min(all),
        };
        let (micro, ranks) = (self.micro_batch(), &*self.setup.ranks);
        let mut sum = LossSum::default();
        let parts = (0..limit).step_by(micro as usize);
        for first in parts.skip(ranks.rank()).step_by(ranks.size()) {
            let rows = read(held_out, first, micro.min(limit - first))?;
            let batch = Batch::new(&rows);
            sum += self.setup.decoder.evaluate(&batch.rows(), &self.pass())?;
        }
        let total = ranks.sum(vec![sum.loss, sum.targets as f64])?;
        let metrics = ValidationMetrics {
            step: self.progress.step,
            tokens: self.progress.tokens,
            validation_loss: total[0] / total[1].max(1.0),
            seconds: start.elapsed().as_secs_f64(),
        };
        self.record(&Metrics::Validation(metrics))?;
        tell(Event::Validation(&metrics));
        Ok(Some(metrics.validation_loss))
    }

    /// Lets the model continue the recipe's prompts.
    fn sample(&self, tell: &mut impl FnMut(Event<'_>)) -> Result<(), TrainError> {
        let recipe = &self.setup.recipe;
        let Some(tokenizer) = &self.setup.tokenizer else { return Ok(()) };
        if self.setup.ranks.rank() > 0 {
            return Ok(());
        }
        for (index, prompt) in recipe.log.sample_prompts.iter().enumerate() {
            let seed = recipe.seed ^ (self.progress.step << 8) ^ index as u64;
            let of = (prompt.as_str(), recipe.log.sample_tokens);
            let text =
                sample::continuation((&self.setup.decoder, &self.pass()), tokenizer, of, seed)?;
            tell(Event::Sample { step: self.progress.step, prompt, text: &text });
        }
        Ok(())
    }

    /// Copies what is trained from the device, to be written.
    fn download(&self) -> Result<(), TrainError> {
        for member in &self.members {
            member.parameter.download()?;
        }
        Ok(())
    }

    fn save(&mut self, tell: &mut impl FnMut(Event<'_>)) -> Result<Checkpoint, TrainError> {
        self.optimizer.download()?;
        self.download()?;
        let setup = &self.setup;
        let saved = checkpoint::save(
            &setup.recipe.output,
            &Parts {
                config: &setup.config,
                trained: &setup.trained,
                optimizer: &self.optimizer,
                recipe: &setup.recipe,
                progress: self.progress,
                extra_files: setup.extra_files.clone(),
                ranks: &*setup.ranks,
            },
        )?;
        tell(Event::Saved(&saved));
        Ok(saved)
    }

    /// Writes the final model and the curves.
    fn finish(&self, validation_loss: Option<f64>) -> Result<Outcome, TrainError> {
        let setup = &self.setup;
        let model = setup.recipe.output.join(setup.trained.folder());
        let Some(log) = &self.log else {
            return Ok(Outcome::Done { model, curves: Vec::new(), validation_loss });
        };
        self.download()?;
        let files = (setup.save_type(), setup.extra_files.clone());
        setup.trained.write(&model, &setup.config, files)?;
        let name = setup.recipe.output.file_name().map(|name| name.to_string_lossy().into_owned());
        let curves = log.draw(&name.unwrap_or_default())?.to_vec();
        Ok(Outcome::Done { model, curves, validation_loss })
    }
}

fn read(from: &Rows, first: u64, count: u64) -> Result<Vec<Row>, TrainError> {
    (first..first + count).map(|number| from.row(number)).collect()
}
