//! Foreign bytes: errors, never a panic, a hang or a huge allocation.

use puna_text::{ChatTemplate, RenderInput, SpecialTokens, TextError, Tokenizer};
use serde_json::{Value, json};

use crate::golden::case;
use crate::properties::Random;

/// Loads damaged variants of a file; those that load must also encode and decode.
fn damage(bytes: &[u8], seed: u64, rounds: u32) {
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let mut damaged = bytes.to_vec();
        match round % 3 {
            0 => damaged.truncate(random.below(bytes.len() as u32) as usize),
            _ => {
                for _ in 0..=random.below(4) {
                    let at = random.below(bytes.len() as u32) as usize;
                    damaged[at] ^= 1 << random.below(8);
                }
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&damaged) {
            let _ = tokenizer.encode("The river 世界 <s>", SpecialTokens::Add);
            let _ = tokenizer.encode_rendered("The river 世界 <s>");
            let ids: Vec<u32> = (0..40).map(|_| random.below(400)).collect();
            let _ = tokenizer.decode(&ids, puna_text::DecodeSpecials::Keep);
            let _ = tokenizer.to_gguf_vocab();
            let _ = tokenizer.to_tokenizer_json();
        }
    }
}

#[test]
fn damaged_sentencepiece_models_are_errors_or_work() {
    let Some(folder) = case("text/llama2-gqa") else { return };
    damage(&std::fs::read(folder.join("tokenizer.model")).unwrap(), 7, 600);
}

#[test]
fn damaged_tokenizer_json_files_are_errors_or_work() {
    let Some(folder) = case("tokenizers/bpe-small") else { return };
    damage(&std::fs::read(folder.join("tokenizer.json")).unwrap(), 8, 300);
}

#[test]
fn damaged_rank_files_are_errors_or_work() {
    // 256 single bytes and one merge
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let pair = |a: u32, b: u32| [alphabet[a as usize] as char, alphabet[b as usize] as char];
    let mut file = String::new();
    for byte in 0..256u32 {
        file.extend(pair(byte >> 2, (byte & 3) << 4));
        file.push_str(&format!("== {byte}\n"));
    }
    file.push_str("aGU= 256\n");
    let tokenizer = Tokenizer::from_bytes(file.as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("he", SpecialTokens::Omit).unwrap(), [256]);
    damage(file.as_bytes(), 9, 300);
    let gap = file.replace("aGU= 256", "aGU= 300");
    let error = Tokenizer::from_bytes(gap.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("line 257") && error.contains("rank 300"), "{error}");
    let lacking = "IQ== 0\n";
    let error = Tokenizer::from_bytes(lacking.as_bytes()).unwrap_err();
    assert!(matches!(error, TextError::NoTokenForByte { byte: 0 }));
}

#[test]
fn a_file_of_another_kind_is_named_in_the_error() {
    let path = std::env::temp_dir().join(format!("puna-text-{}.model", std::process::id()));
    std::fs::write(&path, [0xFF; 64]).unwrap();
    let error = Tokenizer::from_path(&path).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert!(error.to_string().contains("puna-text-"), "{error}");
    assert!(matches!(error, TextError::InFile { .. }));
}

#[test]
fn tokenizer_json_with_hostile_fields_is_an_error_or_works() {
    let base = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "BPE", "vocab": { "a": 0, "b": 1 }, "merges": [] },
    });
    let variant = |pointer: &str, value: Value| {
        let mut document = base.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        if let Ok(tokenizer) = Tokenizer::from_json_bytes(document.to_string().as_bytes()) {
            let _ = tokenizer.encode("ab a", SpecialTokens::Add);
            let _ = tokenizer.decode(&[0, 1, 7, u32::MAX], puna_text::DecodeSpecials::Keep);
            let _ = tokenizer.to_gguf_vocab();
            let _ = tokenizer.check_vocab(2);
        }
    };
    variant("/model", json!({ "type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]] }));
    variant("/model", json!({ "type": "Unigram", "unk_id": 0, "vocab": [] }));
    variant("/model/vocab", json!({ "a": u32::MAX, "b": 1 }));
    variant("/model/merges", json!(["a c"]));
    variant(
        "/model",
        json!({ "type": "WordPiece", "vocab": {}, "unk_token": "x",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 0 }),
    );
    let token = |id: u64, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": true, "special": true })
    };
    variant("/added_tokens", json!([token(0, ""), token(5, "x"), token(5, "x")]));
    variant("/added_tokens", json!([token(u64::from(u32::MAX), "x")]));
    variant(
        "/pre_tokenizer",
        json!({ "type": "Split", "pattern": { "Regex": "(" },
        "behavior": "Isolated", "invert": false }),
    );
    variant(
        "/pre_tokenizer",
        json!({ "type": "Split", "pattern": { "Regex": "(a*)*$" },
        "behavior": "Isolated", "invert": false }),
    );
    variant("/normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" }));
    variant(
        "/normalizer",
        json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" }),
    );
    variant(
        "/post_processor",
        json!({ "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }], "pair": [],
        "special_tokens": {} }),
    );
    variant(
        "/truncation",
        json!({ "direction": "Right", "max_length": 0,
        "strategy": "LongestFirst", "stride": 9 }),
    );
    variant("/decoder", json!({ "type": "Strip", "content": "a", "start": 1_000_000, "stop": 9 }));
    assert!(Tokenizer::from_json_bytes("[".repeat(100_000).as_bytes()).is_err());
}

/// Renders a template with one message.
fn render(source: &str) -> Result<String, TextError> {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    ChatTemplate::from_jinja(source)?.render(&RenderInput::new(&messages))
}

#[test]
fn templates_that_would_not_end_or_fill_the_memory_are_stopped() {
    let sources = [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(90) %}\
            {% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% include 'other' %}",
        "{{ range(1000000000000) | list }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ messages.content.x.y }}",
        "{{ raise_exception() }}",
    ];
    for source in sources {
        let error = render(source).unwrap_err();
        assert!(matches!(error, TextError::Template { .. }), "{source}: {error}");
    }
}

#[test]
fn values_nested_without_end_are_stopped() {
    let nest = |inner: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for j in range(9000) %}}{{% for i in range(9000) %}}\
                {{% set ns.x = {inner} %}}{{% endfor %}}{{% endfor %}}"
        )
    };
    let few = json!([{ "role": "user", "content": "hi" }]);
    let many = json!(vec![json!({ "role": "user", "content": "hi" }); 3000]);
    for inner in ["[ns.x]", "{'a': ns.x}", "(ns.x,)", "namespace(a=ns.x)", "[ns.x] | list"] {
        let template = ChatTemplate::from_jinja(&nest(inner)).unwrap();
        for messages in [&few, &many] {
            let error = template.render(&RenderInput::new(messages)).unwrap_err();
            assert!(error.to_string().contains("ran out of fuel"), "{inner}: {error}");
        }
    }
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(1500) %}{% set ns.x = [ns.x] %}\
        {% endfor %}";
    for tail in ["{{ ns.x }}", "{{ ns.x | tojson }}"] {
        let error = render(&format!("{deep}{tail}")).unwrap_err();
        assert!(error.to_string().contains("nested too deeply"), "{error}");
    }
    // the engine's own recursion over such a value, as deep as fuel allows
    let compared = "{% set ns = namespace(x=[]) %}{% for j in range(250) %}{% for i in range(1000) %}\
        {% set ns.x = [ns.x] %}{% endfor %}{% endfor %}{{ ns.x == [ns.x] }}{{ (ns.x ~ '') | length }}";
    let template = ChatTemplate::from_jinja(compared).unwrap();
    let _ = template.render(&RenderInput::new(&many));
}

#[test]
fn a_long_conversation_has_fuel_enough() {
    let message = |i: usize| {
        json!({ "role": if i.is_multiple_of(2) { "user" } else { "assistant" },
        "content": format!("message {i}") })
    };
    let messages = Value::Array((0..3001).map(message).collect());
    for builtin in puna_text::Builtin::ALL {
        let text = ChatTemplate::builtin(builtin).render(&RenderInput::new(&messages)).unwrap();
        assert!(text.contains("message 3000"), "{builtin:?}");
    }
}

#[test]
fn malformed_templates_and_messages_are_errors_with_the_place() {
    let error = ChatTemplate::from_jinja("a\n{% for %}").unwrap_err().to_string();
    assert!(error.contains("syntax error") && error.contains(":2"), "{error}");
    assert!(ChatTemplate::from_jinja(&"{{ ".repeat(10_000)).is_err());
    assert!(ChatTemplate::from_jinja(&format!("{{{{ {}1 }}}}", "(".repeat(10_000))).is_err());
    assert!(ChatTemplate::from_jinja(&"x".repeat(2 << 20)).is_err());
    let template = ChatTemplate::from_jinja("{{ messages }}").unwrap();
    for messages in [json!({}), json!([1]), json!([{ "content": "x" }]), json!(null)] {
        assert!(template.render(&RenderInput::new(&messages)).is_err());
    }
    let error = render("{{ raise_exception('no system role') }}").unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses this conversation: no system role");
}
