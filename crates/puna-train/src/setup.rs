//! From a recipe to everything a run needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use puna_config::{ModelConfig, WeightDtype};
use puna_data::sft::{Conversation, Renderer, split};
use puna_data::{
    RowSource, SftOptions, SftReader, SftRows, Split, TokenData, TokenWindows, WindowOptions,
};
use puna_io::write::ExtraFile;
use puna_io::{Sha256, hex};
use puna_model::export::{RandomInit, write_random};
use puna_model::{
    Decoder, Device, LoadOptions, Model, Precision, chat_template, convert, tokenizer,
};
use puna_peft::{AdapterConfig, Base, BaseIdentity};
use puna_text::{Builtin, ChatTemplate, SpecialTokens, Tokenizer};

use crate::checkpoint::{BegunRecipe, Checkpoint, list_checkpoints, remove_checkpoints};
use crate::output_lock::OutputLock;
use crate::ranks::over_devices;
use crate::trained::{Trained, TrainedAdapter};
use crate::{DataSection, Ranks, Recipe, SaveType, Task, TrainError, device};

/// Addresses that are prepared for weights, states and activations; larger runs get the rest as it
/// comes.
const EXPECTED_BYTES: usize = 16 << 30;

/// What happens to a run that the output folder holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// There must be none.
    New,
    /// It goes on from its newest checkpoint.
    Resume,
    /// Its checkpoints are removed.
    Restart,
}

/// Rows whose errors are those of this crate.
pub(crate) type Rows = Box<dyn RowSource<Error = TrainError>>;

/// A model and data, ready to train.
pub struct Setup {
    pub(crate) recipe: BegunRecipe,
    pub(crate) decoder: Decoder,
    pub(crate) config: ModelConfig,
    pub(crate) trained: Trained,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) extra_files: Vec<ExtraFile>,
    /// Where passes compute; `None` is the CPU.
    pub(crate) device: Option<Device>,
    pub(crate) train: Rows,
    pub(crate) validation: Option<Rows>,
    pub(crate) resume: Option<Checkpoint>,
    pub(crate) ranks: Arc<dyn Ranks>,
    /// Of the first process, which writes.
    _lock: Option<OutputLock>,
    /// Things a reader should know: what was left out of the data, files not carried over.
    pub notes: Vec<String>,
}

impl Setup {
    /// Loads model and data of a recipe.
    ///
    /// # Errors
    /// If either cannot be read, they do not fit together, or the output folder holds what `mode`
    /// does not expect.
    pub fn new(recipe: Recipe, mode: RunMode, ranks: Arc<dyn Ranks>) -> Result<Self, TrainError> {
        puna_kernels::prepare_heap(EXPECTED_BYTES);
        let rows = recipe.train.batch_sequences;
        if !rows.is_multiple_of(ranks.size() as u64) {
            let value = format!("{rows} for {} processes", ranks.size());
            let expected = "a multiple of the number of processes";
            return Err(TrainError::Setting { key: "train.batch_sequences", value, expected });
        }
        let mut notes = Vec::new();
        let mut device = device::open(&recipe.train, &*ranks, &mut notes)?;
        let lock = match ranks.rank() {
            0 => Some(OutputLock::take(&recipe.output)?),
            _ => None,
        };
        let (resume, start) = start(&recipe, mode, &*ranks)?;
        let recipe = BegunRecipe::new(recipe, resume.as_ref(), &*ranks)?;
        let model = Model::load(&start, &LoadOptions::new(Precision::Exact))?;
        let tokenizer = tokenizer(&model.checkpoint)?;
        let extra_files = convert::hf_files(&model.checkpoint, &model.config, &mut notes)?;
        let template = chat_template(&model.checkpoint)?;
        let template_hash = template.as_ref().map(|t| hex(&Sha256::of(t.source().as_bytes())));
        let rows = match recipe.task {
            Task::Pretrain => pretrain_rows(&recipe)?,
            Task::Sft => {
                let talk = (tokenizer.as_ref(), template);
                sft_rows(&recipe, talk, &mut notes)?
            }
        };
        let vocabulary = match recipe.task {
            Task::Pretrain => pretrain_vocabulary(&recipe)?,
            Task::Sft => (start.clone(), tokenizer.as_ref().map_or(0, Tokenizer::vocab_size)),
        };
        check_sizes(&recipe, vocabulary, &model.config)?;
        let Model { mut decoder, config, .. } = model;
        let trained = match &recipe.adapter {
            None => Trained::Model(decoder.make_trainable(|slot| slot.to_string())?),
            Some(adapter) => {
                let base = Base { decoder: &decoder, config: &config };
                let mut adapter = adapter.clone();
                if let (Some(text), Some(tokenizer)) = (adapter.init_text(), &tokenizer) {
                    let tokens = tokenizer.encode(text, SpecialTokens::Add)?;
                    adapter.set_init_tokens(tokens);
                }
                adapter_of((&recipe, &adapter), base, resume.as_ref(), template_hash)?
            }
        };
        if device.is_some() && !device::takes(&trained) {
            device::refuse(&recipe.train, &mut notes)?;
            device = None;
        }
        if let Some(device) = &device {
            if recipe.adapter.is_some() {
                decoder = frozen_on(device, &start, &recipe)?;
            }
            device::move_to(&trained, device)?;
        } else if recipe.adapter.is_some()
            && Precision::from(recipe.train.precision) == Precision::Fast
        {
            // Processes of one machine have copies of their own.
            let memory = puna_kernels::available_memory().unwrap_or(0);
            decoder.keep_packed(memory / 2 / ranks.size())?;
        }
        let ranks = over_devices(ranks, device.as_ref(), &mut notes)?;
        let (train, validation) = rows;
        if mode == RunMode::Restart && ranks.rank() == 0 {
            // Not before everything else is known to be right.
            remove_checkpoints(&recipe.output)?;
        }
        Ok(Self {
            recipe,
            decoder,
            config,
            trained,
            tokenizer,
            extra_files,
            device,
            train,
            validation,
            resume,
            ranks,
            _lock: lock,
            notes,
        })
    }

    /// Type of the final model's weights.
    pub(crate) fn save_type(&self) -> WeightDtype {
        match self.recipe.checkpoint.save_type {
            SaveType::Bf16 => WeightDtype::BF16,
            SaveType::F16 => WeightDtype::F16,
            SaveType::F32 => WeightDtype::F32,
        }
    }
}

/// Whether tokens and rows fit into a model.
fn check_sizes(
    recipe: &Recipe,
    (path, tokens): (PathBuf, usize),
    config: &ModelConfig,
) -> Result<(), TrainError> {
    let rows = config.decoder.vocab_size;
    if tokens > rows {
        return Err(TrainError::Vocabulary { path, tokens, rows });
    }
    let (length, most) = (recipe.data.sequence_length, config.decoder.max_seq_len);
    if length > most {
        let value = format!("{length} (the model has {most})");
        let expected = "at most the model's context";
        return Err(TrainError::Setting { key: "data.sequence_length", value, expected });
    }
    Ok(())
}

/// What an adapter's run does not train, on the device.
fn frozen_on(device: &Device, start: &Path, recipe: &Recipe) -> Result<Decoder, TrainError> {
    let options = LoadOptions::new(recipe.train.precision.into()).on_device(device.clone());
    Ok(Model::load(start, &options)?.decoder)
}

/// A fresh adapter, or that of a checkpoint.
fn adapter_of(
    (recipe, adapter): (&BegunRecipe, &AdapterConfig),
    base: Base<'_>,
    resume: Option<&Checkpoint>,
    template_hash: Option<String>,
) -> Result<Trained, TrainError> {
    let method = match resume {
        Some(checkpoint) => puna_peft::load(&checkpoint.path, &base)?,
        None => adapter.build(&base, recipe.seed)?,
    };
    let set = Arc::new(puna_peft::combine(&[(&*method, 1.0)])?);
    let mut metadata = BTreeMap::from([
        ("base".to_owned(), base.decoder.fingerprint()?),
        ("recipe".to_owned(), recipe.to_toml()?),
    ]);
    metadata.extend(template_hash.map(|hash| ("chat_template".to_owned(), hash)));
    metadata.extend(recipe.data_digest().map(|digest| ("data".to_owned(), digest.to_owned())));
    let path = recipe.model.from.as_ref().map(|path| path.to_string_lossy().into_owned());
    let identity = BaseIdentity { metadata };
    Ok(Trained::Adapter(TrainedAdapter { method, set, base: path.unwrap_or_default(), identity }))
}

/// The checkpoint to go on from, if that is wanted, and the model to load. The first process prepares
/// the output while the others wait.
fn start(
    recipe: &Recipe,
    mode: RunMode,
    ranks: &dyn Ranks,
) -> Result<(Option<Checkpoint>, PathBuf), TrainError> {
    let prepare = |mode| -> Result<(Option<Checkpoint>, PathBuf), TrainError> {
        let resume = prepare_output(&recipe.output, mode)?;
        let start = match (&resume, &recipe.model.from) {
            (Some(checkpoint), _) if recipe.adapter.is_none() => checkpoint.path.clone(),
            (_, Some(path)) => path.clone(),
            (None, None) if ranks.rank() == 0 => begin(recipe)?,
            (_, None) => recipe.output.join(INITIAL),
        };
        Ok((resume, start))
    };
    if ranks.rank() == 0 {
        let prepared = prepare(mode)?;
        ranks.sum(vec![0.0])?;
        return Ok(prepared);
    }
    ranks.sum(vec![0.0])?;
    prepare(mode)
}

/// The random model that a run begins with, in its output.
const INITIAL: &str = "initial";

/// The checkpoint to go on from, if that is wanted.
fn prepare_output(output: &Path, mode: RunMode) -> Result<Option<Checkpoint>, TrainError> {
    let newest = list_checkpoints(output)?.pop();
    match (mode, newest) {
        (RunMode::New, Some(Checkpoint { step, .. })) => {
            Err(TrainError::Exists { path: output.to_path_buf(), step })
        }
        (RunMode::New, None) => Ok(None),
        (RunMode::Restart, _) => Ok(None),
        (RunMode::Resume, Some(checkpoint)) => Ok(Some(checkpoint)),
        (RunMode::Resume, None) => Err(TrainError::NothingToResume { path: output.to_path_buf() }),
    }
}

/// Writes the random model that a run begins with, `initial` in its output.
fn begin(recipe: &Recipe) -> Result<PathBuf, TrainError> {
    let config_path = recipe.model.config.clone().unwrap_or_default();
    let text = std::fs::read_to_string(&config_path)
        .map_err(|source| TrainError::Read { path: config_path.clone(), source })?;
    let config = ModelConfig::from_hf_json(&text).map_err(|source| TrainError::Recipe {
        path: config_path.clone(),
        problem: source.to_string(),
    })?;
    let tokenizer = match (&recipe.model.tokenizer, recipe.data.train.all()) {
        (Some(path), _) => path.clone(),
        (None, [prepared, ..]) if recipe.task == Task::Pretrain => prepared.clone(),
        _ => PathBuf::new(),
    };
    let init = RandomInit {
        seed: recipe.seed,
        std: recipe.model.init_std.unwrap_or(0.02),
        scale_residual: recipe.model.scale_residual,
    };
    let initial = recipe.output.join(INITIAL);
    write_random(&initial, &config, &init, tokenizer_files(&tokenizer)?)?;
    Ok(initial)
}

/// A tokenizer's files in a folder, or beside a file.
fn tokenizer_files(path: &Path) -> Result<Vec<ExtraFile>, TrainError> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    let names = [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ];
    let mut files = Vec::new();
    for name in names {
        let path = folder.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|source| TrainError::Read { path, source })?;
            files.push((name.to_owned(), bytes));
        }
    }
    Ok(files)
}

/// Tokens that the prepared data knows.
fn pretrain_vocabulary(recipe: &Recipe) -> Result<(PathBuf, usize), TrainError> {
    let path = recipe.data.train.all().first().cloned().unwrap_or_default();
    let size = TokenData::open(&path)?.vocab_size();
    Ok((path, size))
}

type TrainAndValidation = (Rows, Option<Rows>);

fn pretrain_rows(recipe: &Recipe) -> Result<TrainAndValidation, TrainError> {
    let DataSection { train, validation, sequence_length, shuffle, document_mask, .. } =
        &recipe.data;
    let [path] = train.all() else {
        let value = format!("{} folders", train.all().len());
        let expected = "one folder of `puna data prepare`, which mixes sources itself";
        return Err(TrainError::Setting { key: "data.train", value, expected });
    };
    let options = WindowOptions {
        shuffle: shuffle.unwrap_or(true).then_some(recipe.seed),
        document_mask: *document_mask,
        ..WindowOptions::new(*sequence_length)
    };
    let data = TokenData::open(path)?;
    let rows = TokenWindows::new(&data, Split::Train, options)?;
    let held_out = WindowOptions { shuffle: None, ..options };
    let validation = match validation.all() {
        [] if data.tokens(Split::Validation) > *sequence_length as u64 => {
            Some(TokenWindows::new(&data, Split::Validation, held_out)?)
        }
        [] => None,
        paths => {
            let data = TokenData::open(&paths[0])?;
            let split = match data.tokens(Split::Validation) {
                0 => Split::Train,
                _ => Split::Validation,
            };
            Some(TokenWindows::new(&data, split, held_out)?)
        }
    };
    Ok((boxed(rows), validation.map(boxed)))
}

fn sft_rows(
    recipe: &BegunRecipe,
    (tokenizer, template): (Option<&Tokenizer>, Option<ChatTemplate>),
    notes: &mut Vec<String>,
) -> Result<TrainAndValidation, TrainError> {
    let data = &recipe.data;
    let missing =
        |key, value: &str, expected| TrainError::Setting { key, value: value.into(), expected };
    let tokenizer = tokenizer.ok_or_else(|| {
        missing("model.from", "no tokenizer", "a model with one, for conversations")
    })?;
    let template = match &data.template {
        None => template,
        Some(name) => Some(named_template(name)?),
    };
    let template = template.ok_or_else(|| {
        missing("data.template", "none", "a template, as the model has none (alpaca, chatml, …)")
    })?;
    let renderer =
        Renderer { tools: data.tools, now: recipe.now(), ..Renderer::new(&template, tokenizer) };
    let unusable = data.unusable;
    let reader = SftReader { format: data.format, unusable, ..SftReader::default() };
    let mut read = |paths: &[PathBuf]| -> Result<Vec<Conversation>, TrainError> {
        let mut all = Vec::new();
        for path in paths {
            let file = reader.read(path)?;
            if let Some(first) = file.unusable.first() {
                let (count, path) = (file.unusable.len(), path.display());
                notes.push(format!("{path}: {count} records left out, the first: {first}"));
            }
            all.extend(file.conversations);
        }
        Ok(all)
    };
    let conversations = read(data.train.all())?;
    let (train, held_out) = match (data.validation.all(), data.validation_fraction) {
        ([], Some(fraction)) => split(conversations, fraction),
        ([], None) => (conversations, Vec::new()),
        (paths, _) => (conversations, read(paths)?),
    };
    let options = SftOptions {
        train_on: data.train_on,
        too_long: data.too_long,
        packing: data.packing,
        unusable,
        seed: recipe.seed,
        ..SftOptions::new(data.sequence_length)
    };
    let (rows, report) = SftRows::build(&train, &renderer, &options)?;
    notes.extend(report.notes());
    let validation = match held_out.is_empty() {
        true => None,
        false => Some(SftRows::build(&held_out, &renderer, &options)?.0),
    };
    Ok((boxed(rows), validation.map(boxed)))
}

/// A template from a file, or a built-in one.
fn named_template(name: &str) -> Result<ChatTemplate, TrainError> {
    let path = Path::new(name);
    if path.is_file() {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TrainError::Read { path: path.to_path_buf(), source })?;
        return ChatTemplate::from_jinja(&text).map_err(|source| TrainError::Recipe {
            path: path.to_path_buf(),
            problem: source.to_string(),
        });
    }
    Builtin::from_name(name).map(ChatTemplate::builtin).ok_or_else(|| TrainError::Setting {
        key: "data.template",
        value: name.to_owned(),
        expected: "a file or the name of a built-in template",
    })
}

/// Rows with this crate's errors.
struct WithErrors<R>(R);

impl<R: RowSource> RowSource for WithErrors<R>
where
    TrainError: From<R::Error>,
{
    type Error = TrainError;

    fn sequence_length(&self) -> usize {
        self.0.sequence_length()
    }

    fn rows_per_epoch(&self) -> u64 {
        self.0.rows_per_epoch()
    }

    fn row(&self, number: u64) -> Result<puna_data::Row, TrainError> {
        Ok(self.0.row(number)?)
    }
}

fn boxed<R: RowSource + 'static>(rows: R) -> Rows
where
    TrainError: From<R::Error>,
{
    Box::new(WithErrors(rows))
}

impl From<std::convert::Infallible> for TrainError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
