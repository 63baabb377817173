//! Folders of adapters, as peft and adapters write them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use puna_io::pytorch::PyTorchFile;
use puna_io::safetensors::SafetensorsFile;
use puna_io::write::write_safetensors_from;
use puna_io::{AtomicFile, Dtype, StoredTensor, TensorBytes, TensorInfo};
use puna_nn::AdapterSet;
use serde_json::{Map, Value};

use crate::fusion::{Fusion, is_fusion};
use crate::hub::Hub;
use crate::{Base, Method, PeftError, adalora, bitfit, ia3, lora, p_tuning, prefix, prompt};

/// Which model an adapter was made for, as its metadata tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseIdentity {
    /// Keys and values: hashes of the model and its template, data, recipe.
    pub metadata: BTreeMap<String, String>,
}

/// Tensors of an adapter's file, in float32.
pub(crate) struct Tensors {
    pub(crate) path: PathBuf,
    source: Source,
}

enum Source {
    Safetensors(SafetensorsFile),
    Pytorch(PyTorchFile),
}

impl Tensors {
    /// Opens the first of some files that is there.
    pub(crate) fn open(dir: &Path, names: &[&str]) -> Result<Self, PeftError> {
        let path = names.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| PeftError::NoAdapter { path: dir.to_path_buf() })?;
        let source = match path.extension().is_some_and(|end| end == "safetensors") {
            true => Source::Safetensors(SafetensorsFile::open(&path)?),
            false => Source::Pytorch(PyTorchFile::open(&path)?),
        };
        Ok(Self { path, source })
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        match &self.source {
            Source::Safetensors(file) => file.names().map(str::to_owned).collect(),
            Source::Pytorch(file) => file.names().map(str::to_owned).collect(),
        }
    }

    /// Whether a tensor is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.info(name).is_some()
    }

    /// Shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.info(name).map(|info| info.shape.as_slice())
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        match &self.source {
            Source::Safetensors(file) => file.info(name),
            Source::Pytorch(file) => file.info(name),
        }
    }

    /// The values of a tensor of some shape.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, PeftError> {
        let wrong = |problem: String| PeftError::Tensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            problem,
        };
        let found = self.shape(name).ok_or_else(|| wrong("is missing".to_owned()))?;
        if found != shape {
            return Err(wrong(format!("has shape {found:?}, the model wants {shape:?}")));
        }
        let tensor: StoredTensor = match &self.source {
            Source::Safetensors(file) => file.tensor(name)?,
            Source::Pytorch(file) => file.tensor(name)?,
        };
        puna_model::floats(&tensor)
            .ok_or_else(|| wrong(format!("has type {:?}, expected floats", tensor.info.dtype)))
    }
}

/// Loads the adapter in a folder.
///
/// # Errors
/// If there is none, its method is not known, or it does not fit the model.
pub fn load(dir: &Path, base: &Base<'_>) -> Result<Box<dyn Method>, PeftError> {
    if is_fusion(dir) {
        return Ok(Box::new(Fusion::load(dir, base)?));
    }
    let path = dir.join("adapter_config.json");
    if !path.is_file() && dir.join(bitfit::CONFIG).is_file() {
        return Ok(Box::new(bitfit::BitFit::load(dir, base)?));
    }
    if !path.is_file() {
        return Err(PeftError::NoAdapter { path: dir.to_path_buf() });
    }
    let json = read_json(&path)?;
    let wrong = |problem: String| PeftError::Config { path: path.clone(), problem };
    match json.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Ok(Box::new(lora::Lora::load(dir, &json, base)?)),
        Some("PROMPT_TUNING") => Ok(Box::new(prompt::PromptTuning::load(dir, &json, base)?)),
        Some("P_TUNING") => Ok(Box::new(p_tuning::PTuning::load(dir, &json, base)?)),
        Some("PREFIX_TUNING") => Ok(Box::new(prefix::PrefixTuning::load(dir, &json, base)?)),
        Some("ADALORA") => Ok(Box::new(adalora::AdaLora::load(dir, &json, base)?)),
        Some("IA3") => Ok(Box::new(ia3::Ia3::load(dir, &json, base)?)),
        Some(other) => Err(wrong(format!("peft_type {other} is not supported"))),
        None if json.contains_key("config") => Ok(Box::new(Hub::load(dir, &json, base)?)),
        None => Err(wrong("has no peft_type (peft) and no config (adapters)".to_owned())),
    }
}

pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>, PeftError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| PeftError::Read { path: path.to_path_buf(), source })?;
    serde_json::from_str(&text)
        .map_err(|error| PeftError::Config { path: path.to_path_buf(), problem: error.to_string() })
}

/// Writes an adapter's folder; `identity` goes into the files' metadata and, as peft knows no place for
/// it, below `puna` in the configuration.
///
/// # Errors
/// If a file cannot be written.
pub fn save(
    method: &dyn Method,
    dir: &Path,
    base_path: &str,
    identity: &BaseIdentity,
) -> Result<(), PeftError> {
    std::fs::create_dir_all(dir)
        .map_err(|source| PeftError::Write { path: dir.to_path_buf(), source })?;
    let files = method.files()?;
    let (tensors_name, tensors) = files.tensors;
    for (name, tensors) in std::iter::once((tensors_name, tensors)).chain(files.more) {
        let list: Vec<(String, TensorInfo)> = tensors
            .iter()
            .map(|t| (t.name.clone(), TensorInfo { dtype: Dtype::F32, shape: t.shape.clone() }))
            .collect();
        let mut metadata = identity.metadata.clone();
        metadata.insert("format".to_owned(), "pt".to_owned());
        write_safetensors_from(&dir.join(name), &list, &metadata, |name| {
            let values = tensors.iter().find(|t| t.name == name).map(|t| &t.values);
            let bytes = values.into_iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
            Ok::<_, PeftError>(TensorBytes::from_vec(bytes))
        })?;
    }
    let (config_name, mut config) = files.config;
    if let Some(fields) = config.as_object_mut() {
        let is_peft = config_name == "adapter_config.json" && fields.contains_key("peft_type");
        if is_peft || config_name == bitfit::CONFIG {
            fields.insert("base_model_name_or_path".to_owned(), base_path.into());
        }
        if let Some(model) = fields.get_mut("model_name") {
            *model = base_path.into();
        }
        fields.insert("puna".to_owned(), serde_json::json!(identity.metadata));
    }
    let mut file = AtomicFile::create(&dir.join(config_name))?;
    file.append(format!("{config:#}\n").as_bytes())?;
    file.commit()?;
    Ok(())
}

/// Checks that an adapter was trained for a model, as far as its files tell: those of other programs
/// do not.
///
/// # Errors
/// If it was trained for another one, or cannot be read.
pub fn check_base(dir: &Path, base: &Base<'_>) -> Result<(), PeftError> {
    let config = ["adapter_config.json", "bitfit_config.json"].map(|name| dir.join(name));
    let Some(path) = config.into_iter().find(|path| path.is_file()) else {
        return Err(PeftError::NoAdapter { path: dir.to_path_buf() });
    };
    let json = read_json(&path)?;
    let stored = json.get("puna").and_then(|puna| puna.get("base")).and_then(Value::as_str);
    match stored {
        Some(stored) if stored != base.decoder.fingerprint()? => Err(PeftError::OtherBase { path }),
        _ => Ok(()),
    }
}

/// What several adapters change together, each with its scale.
///
/// # Errors
/// If two of them cannot be used together.
pub fn combine(adapters: &[(&dyn Method, f32)]) -> Result<AdapterSet, PeftError> {
    let mut set = AdapterSet::default();
    for (adapter, scale) in adapters {
        adapter.apply(&mut set, *scale)?;
    }
    Ok(set)
}
