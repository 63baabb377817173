//! The models that a server can load, from what was typed.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use puna_model::LoadOptions;
use puna_nn::AdapterSet;
use puna_peft::Method;
use puna_server::{ModelFacts, ModelSpec, Served, ServerError};
use puna_text::ChatTemplate;

use super::Args;
use crate::adapters;
use crate::args::{AdapterArg, Adapters, RunSettings};
use crate::chat_format::{ChatFormat, TemplateArgs};
use crate::commands::info::facts;
use crate::loaded::Loaded;
use crate::model_ref::{self, ModelRef};

/// A model as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelChoice {
    name: Option<String>,
    model: String,
}

impl FromStr for ModelChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path may have a sign of its own in it.
        if std::path::Path::new(text).exists() {
            return Ok(Self { name: None, model: text.to_owned() });
        }
        match text.split_once('=') {
            Some((name, model)) => {
                let name = Some(checked(name)?);
                Ok(Self { name, model: model.to_owned() })
            }
            None => Ok(Self { name: None, model: text.to_owned() }),
        }
    }
}

/// Names stand in JSON, in paths and in metrics.
fn checked(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
    match !name.is_empty() && name.len() <= 200 && name.chars().all(allowed) {
        true => Ok(name.to_owned()),
        false => Err(format!("`{name}` is no name: letters, digits, - _ . : and / are")),
    }
}

/// An adapter as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdapterChoice {
    name: String,
    folder: PathBuf,
    model: Option<String>,
}

impl FromStr for AdapterChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("expected NAME=DIR or NAME=DIR@MODEL")?;
        let name = checked(name)?;
        let (folder, model) = match rest.rsplit_once('@') {
            Some((folder, model)) if !std::path::Path::new(rest).is_dir() => {
                (folder, Some(checked(model)?))
            }
            _ => (rest, None),
        };
        Ok(Self { name, folder: folder.into(), model })
    }
}

/// What a loader needs.
struct Source {
    settings: RunSettings,
    template: TemplateArgs,
    adapters: Vec<AdapterChoice>,
}

/// All models, found but not loaded, and how they will be.
pub(super) fn specs(args: &Args) -> anyhow::Result<(Vec<ModelSpec>, LoadOptions)> {
    let (load, threads) = args.compute.with_adapters(args.adapter.len())?.settings()?;
    let mut models = Vec::new();
    for choice in &args.model {
        let origin = model_ref::resolve(Some(&choice.model))?;
        models.push((
            choice.name.clone().map_or_else(|| name_of(&origin, &choice.model), Ok)?,
            origin,
        ));
    }
    if models.is_empty() {
        let origin = model_ref::resolve(None)?;
        models.push((name_of(&origin, "")?, origin));
    }
    let names: Vec<String> = models.iter().map(|(name, _)| name.clone()).collect();
    let base = |adapter: &AdapterChoice| adapter.model.clone().unwrap_or_else(|| names[0].clone());
    for adapter in &args.adapter {
        if !names.contains(&base(adapter)) {
            let (adapter, model) = (adapter.name.clone(), base(adapter));
            let known = names.join(", ");
            return Err(ServerError::NoSuchBase { adapter, model, known }.into());
        }
    }
    let spec = |(name, origin): (String, ModelRef)| {
        let own: Vec<_> = args.adapter.iter().filter(|a| base(a) == name).cloned().collect();
        let adapters = own.iter().map(|adapter| adapter.name.clone()).collect();
        let source = Source {
            settings: settings(origin, &load, threads, args.force),
            template: args.template.clone(),
            adapters: own,
        };
        let load = Box::new(move || -> Result<Served, puna_server::Source> {
            served(&source).map_err(Into::into)
        });
        ModelSpec { name, load, adapters }
    };
    Ok((models.into_iter().map(spec).collect(), load.clone()))
}

fn settings(model: ModelRef, load: &LoadOptions, threads: usize, force: bool) -> RunSettings {
    let adapters = Adapters { list: Vec::new(), force };
    RunSettings { model, load: load.clone(), threads, adapters }
}

/// The name that clients give where none was typed: a Hub id as it is, else the file's or folder's.
fn name_of(origin: &ModelRef, typed: &str) -> anyhow::Result<String> {
    let name = match origin {
        ModelRef::BuiltIn(model) => model.name.to_owned(),
        ModelRef::Path(_) if model_ref::hub_request(typed, None).is_some() => typed.to_owned(),
        ModelRef::Path(path) => {
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            name.strip_suffix(".gguf").map_or(name.clone(), str::to_owned)
        }
    };
    checked(&name).map_err(|problem| anyhow!("{problem}; name the model with -m NAME=MODEL"))
}

fn served(source: &Source) -> anyhow::Result<Served> {
    let loaded = Loaded::load(&source.settings)?;
    let eos = loaded.eos();
    loaded.tokenizer()?;
    let template = template(&source.template, loaded.template.as_ref())?;
    let mut adapters = Vec::new();
    for choice in &source.adapters {
        let set = adapter(choice, &source.settings, &loaded)
            .with_context(|| format!("adapter {}", choice.name))?;
        adapters.push((choice.name.clone(), Arc::new(set)));
    }
    let config = &loaded.model.config;
    let facts = ModelFacts {
        family: facts::architecture(config.family).to_owned(),
        format: facts::format(loaded.model.checkpoint.container()).to_owned(),
        parameters: config.decoder.parameters().total,
        quantization: loaded.model.decoder.matrix_format().to_owned(),
        size_bytes: loaded.model.decoder.weight_bytes(),
    };
    let tokenizer = loaded.tokenizer.ok_or_else(|| anyhow!("there is no tokenizer"))?;
    Ok(Served {
        decoder: Arc::new(loaded.model.decoder),
        tokenizer: Arc::new(tokenizer),
        template,
        generation: loaded.generation,
        eos,
        facts,
        adapters,
    })
}

fn template(
    args: &TemplateArgs,
    own: Option<&ChatTemplate>,
) -> anyhow::Result<Option<ChatTemplate>> {
    Ok(ChatFormat::find(args, own)?.map(|format| match format {
        ChatFormat::Own(template) => template.clone(),
        ChatFormat::Chosen(template) => template,
    }))
}

fn adapter(
    choice: &AdapterChoice,
    settings: &RunSettings,
    loaded: &Loaded,
) -> anyhow::Result<AdapterSet> {
    let list = vec![AdapterArg { path: choice.folder.clone(), scale: 1.0 }];
    let wanted = Adapters { list, force: settings.adapters.force };
    let methods = adapters::load(&wanted, &loaded.model)?;
    let parts: Vec<(&dyn Method, f32)> = methods.iter().map(|(m, scale)| (&**m, *scale)).collect();
    Ok(puna_peft::combine(&parts)?)
}

#[cfg(test)]
mod tests {
    use super::{AdapterChoice, ModelChoice};

    #[test]
    fn names_stand_before_the_sign() {
        let choice: ModelChoice = "small=org/name:file.gguf".parse().unwrap();
        assert_eq!(
            (choice.name.as_deref(), choice.model.as_str()),
            (Some("small"), "org/name:file.gguf")
        );
        assert!("a b=model".parse::<ModelChoice>().is_err());
        let choice: AdapterChoice = "law=./law@base".parse().unwrap();
        assert_eq!((choice.name.as_str(), choice.model.as_deref()), ("law", Some("base")));
        assert_eq!(choice.folder.to_str(), Some("./law"));
        assert!("./law".parse::<AdapterChoice>().is_err());
    }
}
