//! The tokenizer's files in the output folder.

use std::fs;
use std::path::Path;

use puna_io::{AtomicFile, IoError, Sha256, hex};
use puna_text::{SpecialTokens, TextError, Tokenizer, TrainedTokenizer};

use super::options::{Mark, PrepareOptions, TokenizerChoice};
use crate::DataError;
use crate::manifest::TokenizerEntry;

/// Files that make up a tokenizer; the first that exists is the tokenizer itself.
pub(crate) const FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Those that are the tokenizer itself.
const MAIN: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Files by name and contents.
type Files = Vec<(String, Vec<u8>)>;

/// The contents of the files to put beside the shards; `None` if one has to be trained.
pub(crate) fn files(choice: &TokenizerChoice) -> Result<Option<Files>, DataError> {
    match choice {
        TokenizerChoice::TrainBpe { .. } => Ok(None),
        TokenizerChoice::Files(files) => Ok(Some(files.clone())),
        TokenizerChoice::Path(path) => {
            // Loaded once where it lies, so that errors name the user's file.
            let fails = || DataError::tokenizer(path.display());
            let tokenizer = Tokenizer::from_path(path).map_err(fails())?;
            let read = |from: &Path, name: &str| {
                let bytes = fs::read(from).map_err(IoError::os(from, "read"))?;
                Ok((name.to_owned(), bytes))
            };
            if path.is_dir() {
                let there = FILES.iter().filter(|name| path.join(name).is_file());
                return there
                    .map(|name| read(&path.join(name), name))
                    .collect::<Result<_, _>>()
                    .map(Some);
            }
            let json = matches!(tokenizer.kind(), puna_text::TokenizerKind::TokenizerJson);
            let name = if json { MAIN[0] } else { MAIN[1] };
            Ok(Some(vec![read(path, name)?]))
        }
    }
}

/// The files of a tokenizer that was just trained.
pub(crate) fn trained_files(trained: TrainedTokenizer) -> Files {
    vec![
        ("tokenizer.json".to_owned(), trained.tokenizer_json.into_bytes()),
        ("tokenizer_config.json".to_owned(), trained.tokenizer_config_json.into_bytes()),
    ]
}

/// The SHA-256 of the file that is the tokenizer itself, in hexadecimal.
pub(crate) fn digest(files: &[(String, Vec<u8>)]) -> Option<String> {
    let main = MAIN.iter().find_map(|main| files.iter().find(|(name, _)| name == main))?;
    Some(hex(&Sha256::of(&main.1)))
}

/// Writes the files.
pub(crate) fn write(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<(), DataError> {
    for (name, contents) in files {
        let mut file = AtomicFile::create(&dir.join(name))?;
        file.append(contents)?;
        file.commit()?;
    }
    Ok(())
}

/// The tokenizer of the output folder, and its entry in the manifest.
pub(crate) fn load(
    dir: &Path,
    options: &PrepareOptions,
) -> Result<(Tokenizer, TokenizerEntry), DataError> {
    let name = MAIN.iter().find(|name| dir.join(name).is_file()).unwrap_or(&MAIN[0]);
    let file = dir.join(name);
    let fails = || DataError::tokenizer(file.display());
    let tokenizer = Tokenizer::from_path(dir).map_err(fails())?;
    let frame = tokenizer.encode("", SpecialTokens::Add).map_err(fails())?;
    let own_eos = tokenizer.eos().first().copied().filter(|eos| frame.last() == Some(eos));
    let own_bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let missing = |option| {
        move || DataError::Setting {
            option,
            expected: "a tokenizer that has this token",
            got: "one without".to_owned(),
        }
    };
    let bos = match options.bos {
        Mark::AsTokenizer => own_bos,
        Mark::Always => Some(tokenizer.bos().ok_or_else(missing("bos"))?),
        Mark::Never => None,
    };
    let eos = match options.eos {
        Mark::AsTokenizer => own_eos,
        Mark::Always => Some(tokenizer.eos().first().copied().ok_or_else(missing("eos"))?),
        Mark::Never => None,
    };
    let sha256 = hex(&Sha256::of_file(&file)?);
    let entry = TokenizerEntry { file: (*name).to_owned(), sha256, bos, eos };
    Ok((tokenizer, entry))
}

/// The tokens of a document.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    entry: &TokenizerEntry,
    text: &str,
) -> Result<Vec<u32>, TextError> {
    let mut tokens: Vec<u32> = entry.bos.into_iter().collect();
    tokens.extend(tokenizer.encode(text, SpecialTokens::Omit)?);
    tokens.extend(entry.eos);
    Ok(tokens)
}
