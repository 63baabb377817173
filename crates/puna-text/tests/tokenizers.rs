//! `tokenizers/`: ids and texts of the reference libraries.

use std::path::Path;

use puna_text::{DecodeSpecials, SpecialTokens, Tokenizer, TokenizerKind};

use crate::golden::{case, foreign, ids, rows};

/// Checks a case's rows; gives the number of encodings and decodings.
fn check(name: &str, tokenizer: &Tokenizer) -> Option<(usize, usize)> {
    let folder = case(&format!("tokenizers/{name}"))?;
    let encodings = rows(&folder.join("encodings.jsonl"));
    for row in &encodings {
        if row.get("text").is_none() {
            check_long_run(row, tokenizer);
            continue;
        }
        let text = row["text"].as_str().unwrap();
        let expected = ids(&row["ids"]);
        assert_eq!(tokenizer.encode(text, SpecialTokens::Omit).unwrap(), expected, "{text:?}");
        let decoded = tokenizer.decode(&expected, DecodeSpecials::Skip).unwrap();
        assert_eq!(decoded, row["decoded"].as_str().unwrap(), "{text:?}");
        if let Some(keep) = row.get("decoded_keep_special") {
            let decoded = tokenizer.decode(&expected, DecodeSpecials::Keep).unwrap();
            assert_eq!(decoded, keep.as_str().unwrap(), "{text:?}");
        }
        if let Some(framed) = row.get("ids_with_special") {
            assert_eq!(tokenizer.encode(text, SpecialTokens::Add).unwrap(), ids(framed));
        }
        if let Some(special) = row.get("ids_special_allowed") {
            let rendered = tokenizer.encode_rendered(text).unwrap();
            let body = if rendered.first() == tokenizer.bos().as_ref()
                && ids(special).first() != tokenizer.bos().as_ref()
            {
                &rendered[1..]
            } else {
                &rendered[..]
            };
            assert_eq!(body, ids(special), "{text:?}");
        }
        if let Some(pieces) = row.get("pieces") {
            let found: Vec<_> = expected.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
            assert_eq!(serde_json::json!(found), *pieces, "{text:?}");
        }
    }
    let decodings = rows(&folder.join("decodings.jsonl"));
    for row in &decodings {
        let decoded = tokenizer.decode(&ids(&row["ids"]), DecodeSpecials::AsLibrary).unwrap();
        assert_eq!(decoded, row["text"].as_str().unwrap(), "{}", row["ids"]);
    }
    eprintln!("{name}: {} encodings, {} decodings", encodings.len(), decodings.len());
    Some((encodings.len(), decodings.len()))
}

/// A long run is given by its unit and the checksum of its ids.
fn check_long_run(row: &serde_json::Value, tokenizer: &Tokenizer) {
    let unit = row["text_repeat"][0].as_str().unwrap();
    let text = unit.repeat(row["text_repeat"][1].as_u64().unwrap() as usize);
    let ids = tokenizer.encode(&text, SpecialTokens::Omit).unwrap();
    assert_eq!(ids.len() as u64, row["n_ids"].as_u64().unwrap());
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(sha256(&bytes), row["ids_sha256"].as_str().unwrap());
    assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), text);
}

/// SHA-256 (FIPS 180-4), for one checksum in one test; its constants are the fractional parts of
/// roots of the first primes.
fn sha256(message: &[u8]) -> String {
    let primes: Vec<u64> = (2..312).filter(|&n: &u64| (2..n).all(|d| n % d != 0)).collect();
    let k: Vec<u32> = primes[..64].iter().map(|&p| root_fraction(p, 3)).collect();
    let mut h: Vec<u32> = primes[..8].iter().map(|&p| root_fraction(p, 2)).collect();
    let mut data = message.to_vec();
    data.push(0x80);
    data.resize((data.len() + 8).next_multiple_of(64) - 8, 0);
    data.extend((message.len() as u64 * 8).to_be_bytes());
    for block in data.chunks(64) {
        let mut w: Vec<u32> =
            block.chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap())).collect();
        for i in 16..64 {
            let (a, b) = (w[i - 15], w[i - 2]);
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ a >> 3;
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ b >> 10;
            w.push(w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1));
        }
        let mut s = h.clone();
        for i in 0..64 {
            let s1 = s[4].rotate_right(6) ^ s[4].rotate_right(11) ^ s[4].rotate_right(25);
            let choice = s[4] & s[5] ^ !s[4] & s[6];
            let t1 =
                s[7].wrapping_add(s1).wrapping_add(choice).wrapping_add(k[i]).wrapping_add(w[i]);
            let s0 = s[0].rotate_right(2) ^ s[0].rotate_right(13) ^ s[0].rotate_right(22);
            let majority = s[0] & s[1] ^ s[0] & s[2] ^ s[1] & s[2];
            s.rotate_right(1);
            s[4] = s[4].wrapping_add(t1);
            s[0] = t1.wrapping_add(s0.wrapping_add(majority));
        }
        for (total, part) in h.iter_mut().zip(&s) {
            *total = total.wrapping_add(*part);
        }
    }
    h.iter().map(|word| format!("{word:08x}")).collect()
}

/// The first 32 bits of the fraction of a prime's square or cube root.
fn root_fraction(prime: u64, degree: u32) -> u32 {
    let target = u128::from(prime) << (32 * degree);
    let (mut low, mut high) = (0u128, 1u128 << 40);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if middle.pow(degree) <= target { low = middle } else { high = middle }
    }
    low as u32
}

#[test]
fn sha256_of_abc_is_the_published_one() {
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(b"abc"), expected);
}

#[test]
fn bpe_small_matches_the_tokenizers_library() {
    let Some(folder) = case("tokenizers/bpe-small") else { return };
    let tokenizer = Tokenizer::from_path(&folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.kind(), TokenizerKind::TokenizerJson);
    let vocab = u32::try_from(tokenizer.vocab_size()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(vocab - 2), vec![vocab - 1]));
    check("bpe-small", &tokenizer).unwrap();
}

#[test]
fn llama2_fast_matches_the_tokenizers_library() {
    let Some(file) = foreign("tokenizers/llama2/tokenizer.json") else { return };
    check("llama2-fast", &Tokenizer::from_path(&file).unwrap());
}

#[test]
fn sentencepiece_models_match_sentencepiece() {
    for name in ["llama2", "mistral-v1", "mistral-v3"] {
        let Some(file) = foreign(&format!("tokenizers/{name}/tokenizer.model")) else { continue };
        let tokenizer = Tokenizer::from_path(&file).unwrap();
        assert_eq!(tokenizer.kind(), TokenizerKind::SentencePiece);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), vec![2]));
        check(name, &tokenizer);
    }
}

#[test]
fn llama3_matches_tiktoken() {
    let Some(file) = foreign("tokenizers/llama3/tokenizer.model") else { return };
    let tokenizer = Tokenizer::from_path(&file).unwrap();
    assert_eq!(tokenizer.kind(), TokenizerKind::Tiktoken);
    assert_eq!((tokenizer.bos(), tokenizer.vocab_size()), (Some(128_000), 128_256));
    assert_eq!(tokenizer.eos(), [128_001, 128_009, 128_008]);
    check("llama3", &tokenizer);
}

#[test]
fn unigram_character_maps_and_user_symbols_match_sentencepiece() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["unigram", "bpe"] {
        let tokenizer = Tokenizer::from_path(&data.join(format!("{name}.model"))).unwrap();
        let rows = rows(&data.join(format!("{name}.jsonl")));
        assert_eq!(rows.len(), 183);
        for row in &rows {
            let ids = ids(&row["ids"]);
            if let Some(text) = row["text"].as_str() {
                assert_eq!(tokenizer.encode(text, SpecialTokens::Omit).unwrap(), ids, "{text:?}");
            } else {
                let decoded = tokenizer.decode(&ids, DecodeSpecials::AsLibrary).unwrap();
                assert_eq!(decoded, row["decoded"].as_str().unwrap(), "{ids:?}");
            }
        }
        // what no other format says exactly is not converted
        assert_eq!(tokenizer.to_tokenizer_json().is_ok(), name == "bpe");
        assert_eq!(tokenizer.to_gguf_vocab().is_ok(), name == "bpe");
    }
}

#[test]
fn a_tokenizer_converted_to_json_gives_the_same_ids() {
    let files = ["llama2", "mistral-v1", "llama3"];
    for name in files {
        let Some(file) = foreign(&format!("tokenizers/{name}/tokenizer.model")) else { continue };
        let Some(folder) = case(&format!("tokenizers/{name}")) else { continue };
        let tokenizer = Tokenizer::from_path(&file).unwrap();
        let json = tokenizer.to_tokenizer_json().unwrap();
        let fast = Tokenizer::from_json_bytes(json.as_bytes()).unwrap();
        assert_eq!((fast.bos(), fast.adds_bos()), (tokenizer.bos(), true));
        assert_eq!(fast.vocab_size(), tokenizer.vocab_size());
        let mut compared = 0;
        for row in rows(&folder.join("encodings.jsonl")) {
            let Some(text) = row["text"].as_str() else { continue };
            if ["<s>", "</s>", "<unk>", "<|"].iter().any(|special| text.contains(special)) {
                continue; // look-alikes are special tokens to the tokenizers library
            }
            let expected = tokenizer.encode(text, SpecialTokens::Add).unwrap();
            assert_eq!(fast.encode(text, SpecialTokens::Add).unwrap(), expected, "{name} {text:?}");
            compared += 1;
        }
        assert!(compared > 40);
    }
}

#[test]
fn llama2_converted_to_json_has_the_reference_converters_merges() {
    let Some(model) = foreign("tokenizers/llama2/tokenizer.model") else { return };
    let Some(json) = foreign("tokenizers/llama2/tokenizer.json") else { return };
    let converted = Tokenizer::from_path(&model).unwrap().to_tokenizer_json().unwrap();
    let converted: serde_json::Value = serde_json::from_str(&converted).unwrap();
    let reference: serde_json::Value =
        serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(converted["model"]["merges"], reference["model"]["merges"]);
    assert_eq!(converted["model"]["vocab"], reference["model"]["vocab"]);
    for key in ["added_tokens", "normalizer", "decoder"] {
        assert_eq!(converted[key], reference[key], "{key}");
    }
}

#[test]
fn a_folder_brings_its_own_roles_and_flags() {
    let Some(folder) = case("text/llama2-gqa") else { return };
    let tokenizer = Tokenizer::from_path(&folder).unwrap();
    assert_eq!(tokenizer.kind(), TokenizerKind::TokenizerJson);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.unk()), (Some(1), vec![2], Some(0)));
    let ids = tokenizer.encode("The river.", SpecialTokens::Add).unwrap();
    assert_eq!(ids.first(), Some(&1));
    let model = Tokenizer::from_path(&folder.join("tokenizer.model")).unwrap();
    assert_eq!(model.encode("The river.", SpecialTokens::Add).unwrap(), ids);
    let scratch = std::env::temp_dir().join(format!("puna-text-roles-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    std::fs::copy(folder.join("tokenizer.model"), scratch.join("tokenizer.model")).unwrap();
    let config = r#"{"add_bos_token": false, "add_eos_token": true, "pad_token": "<pad>",
        "eos_token": {"content": "</s>"}}"#;
    std::fs::write(scratch.join("tokenizer_config.json"), config).unwrap();
    let size = model.vocab_size();
    std::fs::write(scratch.join("added_tokens.json"), format!("{{\"<pad>\": {size}}}")).unwrap();
    let flagged = Tokenizer::from_path(&scratch).unwrap();
    std::fs::remove_dir_all(&scratch).unwrap();
    let framed = flagged.encode("The river.", SpecialTokens::Add).unwrap();
    assert_eq!(framed, [&ids[1..], &[2]].concat());
    assert_eq!(flagged.pad(), Some(size as u32));
    assert!(flagged.check_vocab(size + 1).is_ok());
    let error = flagged.check_vocab(size).unwrap_err().to_string();
    let expected =
        format!("token `<pad>` has id {size}, but the model's vocabulary has {size} rows");
    assert_eq!(error, expected);
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let error = Tokenizer::from_path(&std::env::temp_dir().join("")).unwrap_err().to_string();
    assert!(error.ends_with("holds neither tokenizer.json nor a tokenizer.model"), "{error}");
}
