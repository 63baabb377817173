//! Properties over random texts and ids, with a small fixed generator so that failures repeat.

use puna_text::{DecodeSpecials, SpecialTokens, Tokenizer};

use crate::golden::{case, foreign};

/// xorshift64* (Vigna 2016).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as u32) % bound
    }
}

/// A text of up to 60 characters from many scripts, with spaces, controls and emoji.
pub(crate) fn random_text(random: &mut Random) -> String {
    let ranges = [
        (0x20, 0x7F),
        (0x61, 0x7B),
        (0x20, 0x21),
        (0x0A, 0x0B),
        (0xA0, 0x250),
        (0x400, 0x460),
        (0x0E00, 0x0E30),
        (0x1780, 0x17B0),
        (0x2000, 0x2030),
        (0x4E00, 0x9FFF),
        (0x1F300, 0x1F650),
        (0x01, 0x20),
    ];
    let length = random.below(60);
    let draw = |random: &mut Random| {
        let (low, high) = ranges[random.below(ranges.len() as u32) as usize];
        char::from_u32(low + random.below(high - low)).unwrap()
    };
    (0..length).map(|_| draw(random)).collect()
}

/// Up to 12 ids, half of the time from the low ids where the byte tokens are.
pub(crate) fn random_ids(random: &mut Random, vocab: usize) -> Vec<u32> {
    let length = 1 + random.below(12);
    let bound = if random.below(2) == 0 { 259 } else { vocab as u32 };
    (0..length).map(|_| random.below(bound.min(vocab as u32))).collect()
}

/// A tokenizer of each engine and format, as far as the files are there.
pub(crate) fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
    let text = case("text/llama2-gqa");
    let bpe = case("tokenizers/bpe-small");
    let files = [
        ("fallback json", text.as_ref().map(|folder| folder.join("tokenizer.json"))),
        ("sentencepiece", text.as_ref().map(|folder| folder.join("tokenizer.model"))),
        ("byte-level json", bpe.map(|folder| folder.join("tokenizer.json"))),
        ("mistral v3", foreign("tokenizers/mistral-v3/tokenizer.model")),
        ("tiktoken", foreign("tokenizers/llama3/tokenizer.model")),
    ];
    let found = files.into_iter().filter_map(|(name, file)| Some((name, file?)));
    let mut all: Vec<_> =
        found.map(|(name, file)| (name, Tokenizer::from_path(&file).unwrap())).collect();
    if let Some((_, json)) = all.iter().find(|(name, _)| *name == "byte-level json") {
        let mut vocab = json.to_gguf_vocab().unwrap();
        vocab.tokenizer_json = None;
        all.push(("gguf gpt2", Tokenizer::from_gguf(&vocab).unwrap()));
    }
    all
}

#[test]
fn decoding_the_ids_of_a_text_gives_the_text() {
    let mut random = Random::new(4);
    for (name, tokenizer) in tokenizers() {
        for _ in 0..300 {
            let text = random_text(&mut random);
            let ids = tokenizer.encode(&text, SpecialTokens::Add).unwrap();
            assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), text, "{name}");
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

#[test]
fn sentencepiece_and_its_conversion_to_json_agree_on_random_text() {
    let Some(folder) = case("text/llama2-gqa") else { return };
    let model = Tokenizer::from_path(&folder.join("tokenizer.model")).unwrap();
    let json = model.to_tokenizer_json().unwrap();
    let json = Tokenizer::from_json_bytes(json.as_bytes()).unwrap();
    let mut random = Random::new(5);
    for _ in 0..500 {
        let text = random_text(&mut random);
        let ids = model.encode(&text, SpecialTokens::Add).unwrap();
        assert_eq!(json.encode(&text, SpecialTokens::Add).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn the_bytes_of_tokens_together_are_the_text() {
    let mut random = Random::new(6);
    for (name, tokenizer) in tokenizers() {
        for _ in 0..50 {
            let text = random_text(&mut random);
            let ids = tokenizer.encode(&text, SpecialTokens::Omit).unwrap();
            let parts = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap());
            let bytes = parts.collect::<Vec<_>>().concat();
            let whole = String::from_utf8(bytes).unwrap();
            // SentencePiece-like vocabularies begin with a dummy space
            let trimmed = whole.strip_prefix(' ').filter(|rest| *rest == text);
            assert!(whole == text || trimmed.is_some(), "{name} {text:?}");
        }
    }
}

#[test]
fn tokens_and_ids_are_each_others_inverse() {
    for (name, tokenizer) in tokenizers() {
        let mut checked = 0;
        for id in 0..tokenizer.vocab_size().min(2000) as u32 {
            let Some(token) = tokenizer.token(id) else { continue };
            assert_eq!(tokenizer.id(&token), Some(id), "{name} {token:?}");
            checked += 1;
        }
        assert!(checked > 250, "{name}");
    }
}
