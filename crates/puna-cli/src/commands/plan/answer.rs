//! Everything that one call of `puna plan` answers, before it is put into words.

use puna_config::DecoderConfig;
use puna_laws::{
    Effort, LawError, Machine, Method, Overview, Placed, Plan, Question, Resources, Setting, Text,
    overview, shape_for,
};

use super::arguments::{Given, SettingArgs};

/// Operations of training adapters, per parameter of the base and token: forward, and backward
/// through frozen weights, which need no gradients of their own.
const ADAPTER_FLOPS: f64 = 4.0;

/// The answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What the law says; `None` for methods that no law of pretraining is about.
    pub(crate) plan: Option<Plan>,
    /// A model of that size.
    pub(crate) shape: Option<Shape>,
    /// The longest sequence of a model that was given.
    pub(crate) longest: Option<usize>,
    /// How training or serving is done.
    pub(crate) setting: Setting,
    /// The machine, and whether its size was given.
    pub(crate) machine: Machine,
    pub(crate) machine_given: bool,
    /// How the model lies on it.
    pub(crate) placed: Option<Placed>,
    /// The model on a single device by other methods.
    pub(crate) overview: Vec<Overview>,
    /// What it takes; `None` for serving, and for adapters without a number of tokens.
    pub(crate) effort: Option<Effort>,
    /// Operations of that.
    pub(crate) flops: Option<f64>,
    /// Tokens of that.
    pub(crate) tokens: Option<f64>,
    /// Share of the peak that is assumed.
    pub(crate) mfu: f64,
    /// Dollars per GPU-hour.
    pub(crate) price: Option<f64>,
    /// Why there is no shape.
    pub(crate) missing: Option<String>,
    /// Why there is no time.
    pub(crate) no_time: Option<String>,
}

/// A concrete model.
#[derive(Debug)]
pub(crate) struct Shape {
    /// A published name, if it was asked for by it.
    pub(crate) name: Option<String>,
    /// What it is.
    pub(crate) config: DecoderConfig,
    /// The size it was made for.
    pub(crate) wanted: f64,
}

impl Shape {
    /// The model that was given, or one made for `params` parameters.
    fn of(given: Given, params: f64, seq: Option<usize>) -> Result<Self, LawError> {
        let vocab = match given {
            Given::Model { name, config } => {
                let wanted = config.parameters().total as f64;
                return Ok(Self { name: Some(name), config: *config, wanted });
            }
            Given::Nothing { vocab } | Given::Params { vocab, .. } => vocab,
        };
        let config = shape_for(params, Text { vocab, seq: seq.unwrap_or(4096) })?;
        Ok(Self { name: None, config, wanted: params })
    }
}

fn longest(given: &Given) -> Option<usize> {
    match given {
        Given::Model { config, .. } => Some(config.max_seq_len),
        _ => None,
    }
}

impl Answer {
    /// A training from scratch.
    pub(super) fn with_law(
        plan: Plan,
        given: Given,
        resources: Resources,
        args: &SettingArgs,
    ) -> anyhow::Result<Self> {
        let chosen = plan.chosen;
        let longest = longest(&given);
        let setting = args.setting(Some(chosen.tokens), longest);
        setting.format()?;
        let (shape, missing) = match Shape::of(given, chosen.params, Some(setting.seq)) {
            Ok(shape) => (Some(shape), None),
            Err(error @ LawError::NoShape { .. }) => (None, Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let deadline = resources.gpus_for_deadline(chosen.flops)?;
        let mut answer = Self::placed(shape, setting, &resources, deadline)?;
        answer.spend(chosen.flops, &resources)?;
        answer.tokens = Some(chosen.tokens);
        answer.missing = missing;
        answer.longest = longest;
        answer.plan = Some(plan);
        Ok(answer)
    }

    /// Adapters or serving of a model that is there.
    pub(super) fn without_law(
        question: &Question,
        given: Given,
        resources: Resources,
        args: &SettingArgs,
    ) -> anyhow::Result<Self> {
        let longest = longest(&given);
        let setting = args.setting(question.tokens, longest);
        setting.format()?;
        let params = question.params.unwrap_or_default();
        let shape = Shape::of(given, params, Some(setting.seq))?;
        let mut answer = Self::placed(Some(shape), setting, &resources, None)?;
        answer.tokens = question.tokens;
        answer.longest = longest;
        if let (Method::Lora | Method::Qlora, Some(tokens)) = (setting.method, question.tokens) {
            answer.spend(ADAPTER_FLOPS * params * tokens, &resources)?;
        }
        Ok(answer)
    }

    /// Time and money of `flops`; without a published peak there is none to say.
    fn spend(&mut self, flops: f64, resources: &Resources) -> Result<(), LawError> {
        self.flops = Some(flops);
        match Effort::of(flops, &self.machine, resources.mfu, resources.price) {
            Ok(effort) => self.effort = Some(effort),
            Err(error @ LawError::NoPeak { .. }) => self.no_time = Some(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn placed(
        shape: Option<Shape>,
        setting: Setting,
        resources: &Resources,
        deadline: Option<usize>,
    ) -> anyhow::Result<Self> {
        let count = resources.count.or(deadline);
        let gpu = resources.gpu()?;
        let (machine, placed) = match (&shape, count) {
            (Some(shape), Some(count)) => {
                let machine = resources.machine(count)?;
                let placed = setting.place(&shape.config, &machine)?;
                (machine, Some(placed))
            }
            (Some(shape), None) => {
                let (machine, placed) = setting.smallest(&shape.config, &gpu)?;
                (machine, Some(placed))
            }
            (None, count) => (resources.machine(count.unwrap_or(1))?, None),
        };
        let overview = match &shape {
            Some(shape) => overview(&shape.config, setting.seq)?,
            None => Vec::new(),
        };
        Ok(Self {
            plan: None,
            shape,
            longest: None,
            setting,
            machine,
            machine_given: resources.count.is_some(),
            placed,
            overview,
            effort: None,
            flops: None,
            tokens: None,
            mfu: resources.mfu,
            price: resources.price,
            missing: None,
            no_time: None,
        })
    }

    /// Tokens per second that one stream of decoding cannot exceed, for serving.
    pub(crate) fn decode_bound(&self) -> Option<f64> {
        let placed = self.placed.as_ref()?;
        if self.setting.method != Method::Inference {
            return None;
        }
        let [weights, cache] = placed.need.items.as_slice() else { return None };
        let sequences = placed.layout.micro_batch as f64;
        // Of a mixture of experts one token reads those it uses.
        let counts = self.shape.as_ref()?.config.parameters();
        let read = weights.bytes * counts.active as f64 / counts.total as f64;
        let bandwidth = self.machine.gpu.bandwidth;
        Some(puna_laws::decode_bound(bandwidth, read, cache.bytes / sequences))
    }
}
