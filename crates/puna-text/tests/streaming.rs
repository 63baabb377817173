//! Text while ids come: never half a character, and in total what decoding at once gives.

use puna_text::{DecodeSpecials, SpecialTokens, TextStreamer, Tokenizer};

use crate::golden::case;
use crate::properties::{Random, random_ids, random_text, tokenizers};

/// All that a stream gives, piece by piece.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], specials: DecodeSpecials) -> Vec<String> {
    let mut stream = tokenizer.stream(specials);
    let mut pieces: Vec<String> = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
    pieces.extend(stream.finish().unwrap());
    pieces
}

#[test]
fn streamed_text_is_the_decoded_text_for_random_unicode() {
    let mut random = Random::new(1);
    for (name, tokenizer) in tokenizers() {
        for _ in 0..60 {
            let text = random_text(&mut random);
            let ids = tokenizer.encode(&text, SpecialTokens::Add).unwrap();
            for specials in [DecodeSpecials::Skip, DecodeSpecials::Keep] {
                let pieces = streamed(&tokenizer, &ids, specials);
                assert!(pieces.iter().all(|piece| !piece.is_empty()));
                let whole = tokenizer.decode(&ids, specials).unwrap();
                assert_eq!(pieces.concat(), whole, "{name} {text:?}");
            }
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text_for_random_ids_with_broken_utf8() {
    let mut random = Random::new(2);
    for (name, tokenizer) in tokenizers() {
        if name.starts_with("fallback json") {
            continue; // its library rewrites a run of byte tokens once one of them is broken
        }
        for _ in 0..200 {
            let ids = random_ids(&mut random, tokenizer.vocab_size());
            let pieces = streamed(&tokenizer, &ids, DecodeSpecials::Skip);
            let whole = tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap();
            assert_eq!(pieces.concat(), whole, "{name} {ids:?}");
        }
    }
}

#[test]
fn a_character_of_several_tokens_comes_out_whole() {
    for (name, tokenizer) in tokenizers() {
        let ids = tokenizer.encode("x😀y", SpecialTokens::Omit).unwrap();
        let pieces = streamed(&tokenizer, &ids, DecodeSpecials::Skip);
        assert_eq!(pieces.iter().filter(|p| p.contains('😀')).count(), 1, "{name}");
        assert!(!pieces.concat().contains('\u{FFFD}'), "{name}");
    }
}

#[test]
fn the_streamer_gives_words_lines_and_single_cjk_characters() {
    let Some(folder) = case("tokenizers/bpe-small") else { return };
    let tokenizer = Tokenizer::from_path(&folder.join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode("quick stones\nand 世界 end", SpecialTokens::Omit).unwrap();
    let mut streamer = TextStreamer::new(&tokenizer);
    let mut pieces: Vec<String> = ids.iter().filter_map(|&id| streamer.push(id).unwrap()).collect();
    let last = streamer.end().unwrap();
    assert_eq!(last.as_deref(), Some("end"));
    pieces.extend(last);
    assert_eq!(pieces, ["quick ", "stones\n", "and ", "世", "界", " ", "end"]);
    assert_eq!(streamer.end().unwrap(), None);
}

#[test]
fn the_streamers_pieces_together_are_the_decoded_text() {
    let mut random = Random::new(3);
    for (name, tokenizer) in tokenizers() {
        for _ in 0..40 {
            let ids = tokenizer.encode(&random_text(&mut random), SpecialTokens::Add).unwrap();
            let mut streamer = TextStreamer::new(&tokenizer);
            let mut text = String::new();
            for &id in &ids {
                if let Some(piece) = streamer.push(id).unwrap() {
                    let ended = piece.ends_with([' ', '\n']);
                    let last = u32::from(piece.chars().last().unwrap());
                    assert!(ended || last >= 0x3400, "{name} {piece:?}");
                    text.push_str(&piece);
                }
            }
            text.extend(streamer.end().unwrap());
            assert_eq!(text, tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), "{name}");
        }
    }
}
