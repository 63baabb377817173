//! Finds out what a tokenizer file is and which ids have a role.

use std::path::Path;

use super::sidecar::Sidecar;
use super::{Engine, Roles, Tokenizer, TokenizerKind};
use crate::TextError;
use crate::bytepair::tiktoken;
use crate::fast::{Fast, Frame};
use crate::gguf::GgufVocab;
use crate::sentencepiece::SentencePiece;

/// Largest file that is read; the largest known tokenizer.json has 35 MB.
const MOST_BYTES: u64 = 256 << 20;

/// End-of-text names, tried in this order where no file beside a tokenizer.json names one.
const KNOWN_EOS: [&str; 8] = [
    "</s>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<eos>",
    "<|end|>",
    "<|eot_id|>",
    "<|eot|>",
];

/// Tokenizer classes whose `add_bos_token` and `add_eos_token` replace the post-processor, as in
/// transformers (`update_post_processor`).
const FLAGGED_CLASSES: [&str; 6] = [
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "CodeLlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
];

impl Tokenizer {
    /// Loads a file (a tokenizer.json, a SentencePiece `.model` or a tiktoken rank file, told
    /// apart by content) or a folder that holds one (tokenizer.json before tokenizer.model),
    /// together with the folder's `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`.
    ///
    /// # Errors
    /// If there is none, it cannot be read, or it is malformed; the file is named.
    pub fn from_path(path: &Path) -> Result<Self, TextError> {
        if !path.is_dir() {
            return Self::from_bytes(&read(path)?).map_err(|e| e.in_file(path));
        }
        let candidates = ["tokenizer.json", "tokenizer.model"].map(|name| path.join(name));
        let Some(file) = candidates.iter().find(|file| file.is_file()) else {
            return Err(TextError::NoTokenizer { path: path.to_path_buf() });
        };
        let sidecar = Sidecar::read(path)?;
        let mut tokenizer = Self::from_bytes(&read(file)?).map_err(|e| e.in_file(file))?;
        tokenizer.apply(&sidecar).map_err(|e| e.in_file(file))?;
        Ok(tokenizer)
    }

    /// Loads a tokenizer file's bytes, whatever it is.
    ///
    /// # Errors
    /// If they are malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
        if first == Some(&b'{') {
            Self::from_json_bytes(bytes)
        } else if tiktoken::is_rank_file(bytes) {
            Self::from_tiktoken_bytes(bytes)
        } else {
            Self::from_sentencepiece_bytes(bytes)
        }
    }

    /// Loads a tokenizer.json.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let fast = Fast::parse(bytes)?;
        let frame = fast.frame()?;
        let eos = frame.suffix.last().copied().or_else(|| fast.special_named(&KNOWN_EOS));
        let bos = frame.prefix.first().copied();
        let roles = Roles {
            bos: bos.or_else(|| fast.special_named(&["<s>", "<|begin_of_text|>", "<bos>"])),
            eos: eos.into_iter().collect(),
            pad: fast.special_named(&["<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"]),
            unk: fast.special_named(&["<unk>", "[UNK]"]),
            frame,
        };
        Ok(Self { engine: Engine::Fast(Box::new(fast)), roles, kind: TokenizerKind::TokenizerJson })
    }

    /// Loads a SentencePiece model. Bos is added where the model has one, as every model of the
    /// LLaMA family wants; `add_bos_token` of a `tokenizer_config.json` overrides that.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn from_sentencepiece_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let model = SentencePiece::parse(bytes)?;
        let bos = model.control_id(&model.named.bos);
        let roles = Roles {
            bos,
            eos: model.control_id(&model.named.eos).into_iter().collect(),
            pad: model.control_id(&model.named.pad),
            unk: Some(model.unknown),
            frame: Frame { prefix: bos.into_iter().collect(), suffix: Vec::new() },
        };
        let engine = Engine::SentencePiece(Box::new(model));
        Ok(Self { engine, roles, kind: TokenizerKind::SentencePiece })
    }

    /// Loads a tiktoken rank file with Llama 3's pattern and special tokens; bos is added, and
    /// `<|end_of_text|>`, `<|eot_id|>` and `<|eom_id|>` end a text.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn from_tiktoken_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let model = tiktoken::parse(bytes)?;
        let bos = model.id("<|begin_of_text|>");
        let ends = ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"];
        let roles = Roles {
            bos,
            eos: ends.iter().filter_map(|name| model.id(name)).collect(),
            pad: model.id("<|finetune_right_pad_id|>"),
            unk: None,
            frame: Frame { prefix: bos.into_iter().collect(), suffix: Vec::new() },
        };
        let engine = Engine::BytePair(Box::new(model));
        Ok(Self { engine, roles, kind: TokenizerKind::Tiktoken })
    }

    /// Loads the vocabulary of a GGUF file. Where the file does not say, bos is added for `llama`
    /// vocabularies and for Llama 3's and Tekken's `gpt2` ones, as llama.cpp does.
    ///
    /// # Errors
    /// If its parts do not fit together, or its kind or pre-tokenizer is not known.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self, TextError> {
        vocab.validate()?;
        let (engine, kind, default_bos, frame) = match (&vocab.tokenizer_json, &vocab.model[..]) {
            (Some(json), _) => {
                let fast = Fast::parse(json.as_bytes())?;
                let frame = fast.frame()?;
                let engine = Engine::Fast(Box::new(fast));
                (engine, TokenizerKind::TokenizerJson, false, Some(frame))
            }
            (None, "llama") => {
                let engine = Engine::SentencePiece(Box::new(vocab.to_sentencepiece()?));
                (engine, TokenizerKind::GgufLlama, true, None)
            }
            (None, "gpt2") => {
                let (model, add_bos) = vocab.to_byte_pair()?;
                let engine = Engine::BytePair(Box::new(model));
                (engine, TokenizerKind::GgufGpt2, add_bos, None)
            }
            (None, model) => return Err(TextError::UnknownGgufModel { model: model.to_owned() }),
        };
        let llama = kind == TokenizerKind::GgufLlama;
        let bos = vocab.bos.or(if llama { Some(1) } else { None });
        let eos = vocab.eos.or(if llama { Some(2) } else { None });
        let mut ends: Vec<u32> = eos.into_iter().collect();
        for id in &vocab.extra_eos {
            if !ends.contains(id) {
                ends.push(*id);
            }
        }
        let unk = vocab.unk.or(if llama { Some(0) } else { None });
        let mut roles = Roles { bos, eos: ends, pad: vocab.pad, unk, frame: Frame::default() };
        match frame {
            Some(frame) => roles.frame = frame,
            None => {
                let add_bos = vocab.add_bos.unwrap_or(default_bos);
                roles.set_frame(add_bos, vocab.add_eos.unwrap_or(false));
            }
        }
        Ok(Self { engine, roles, kind })
    }

    /// Takes over what the files beside the tokenizer say.
    fn apply(&mut self, sidecar: &Sidecar) -> Result<(), TextError> {
        match &mut self.engine {
            Engine::Fast(fast) => fast.add_tokens(&sidecar.added)?,
            Engine::SentencePiece(model) => model.add_tokens(&sidecar.added)?,
            Engine::BytePair(model) => model.add_tokens(&sidecar.added)?,
        }
        let id = |name: &Option<String>| name.as_deref().and_then(|name| self.id(name));
        let (bos, eos, pad, unk) =
            (id(&sidecar.bos), id(&sidecar.eos), id(&sidecar.pad), id(&sidecar.unk));
        let roles = &mut self.roles;
        let had = (!roles.frame.prefix.is_empty(), !roles.frame.suffix.is_empty());
        roles.bos = bos.or(roles.bos);
        if let Some(eos) = eos {
            roles.eos.retain(|&id| id != eos);
            if self.kind != TokenizerKind::Tiktoken {
                roles.eos.clear();
            }
            roles.eos.insert(0, eos);
        }
        roles.pad = pad.or(roles.pad);
        roles.unk = unk.or(roles.unk);
        let class = sidecar.class.as_deref().unwrap_or_default();
        let flagged = match self.kind {
            TokenizerKind::TokenizerJson => FLAGGED_CLASSES.contains(&class),
            _ => true,
        };
        let says = sidecar.add_bos.is_some() || sidecar.add_eos.is_some();
        if flagged && (says || self.kind != TokenizerKind::TokenizerJson) {
            roles.set_frame(sidecar.add_bos.unwrap_or(had.0), sidecar.add_eos.unwrap_or(had.1));
        }
        Ok(())
    }
}

impl Roles {
    /// Puts bos and eos around texts, or not.
    fn set_frame(&mut self, bos: bool, eos: bool) {
        let prefix = self.bos.filter(|_| bos).into_iter().collect();
        let suffix = self.eos.first().copied().filter(|_| eos).into_iter().collect();
        self.frame = Frame { prefix, suffix };
    }
}

/// Reads a file of a sensible size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TextError> {
    let failed = |source| TextError::Read { path: path.to_path_buf(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MOST_BYTES {
        return Err(TextError::TooLarge { path: path.to_path_buf(), bytes, limit: MOST_BYTES });
    }
    std::fs::read(path).map_err(failed)
}
