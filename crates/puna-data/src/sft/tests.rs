//! Whole ways from a file to rows, under every chat template at hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use puna_text::{
    Builtin, ChatTemplate, DecodeSpecials, GenerationPrompt, RenderInput, SpecialTokens, Tokenizer,
};
use serde_json::{Value, json};

use super::conversation::{role, tests::talk};
use super::document::{self, Encoded};
use super::*;
use crate::row::{NO_TARGET, RowSource};

/// The ids that `puna chat` and `puna template` send for messages to be answered.
fn chat_ids(renderer: &Renderer<'_>, messages: &[Value], tools: Option<&Value>) -> Vec<u32> {
    let (tokenizer, messages) = (renderer.tokenizer, Value::Array(messages.to_vec()));
    let mut input = RenderInput::new(&messages);
    let (bos, eos) = (tokenizer.bos_text(), tokenizer.eos_text());
    (input.bos_token, input.eos_token, input.tools) = (&bos, &eos, tools);
    (input.variables, input.now) = (renderer.variables.clone(), renderer.now);
    tokenizer.encode_rendered(&renderer.template.render(&input).unwrap()).unwrap()
}

/// A byte-level tokenizer that is in the repository.
fn small_tokenizer() -> Option<Tokenizer> {
    let dir = puna_testkit::golden_dir("tokenizers/bpe-small")?;
    Some(Tokenizer::from_path(&dir.join("tokenizer.json")).unwrap())
}

/// Every tokenizer at hand, with a name.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    let mut files: Vec<PathBuf> = Vec::new();
    files.extend(puna_testkit::golden_dir("tokenizers/bpe-small"));
    files.extend(puna_testkit::golden_dir("text/llama2-gqa"));
    if let Some(dir) = puna_testkit::published_dir("tokenizers") {
        files.extend(["llama2", "llama3", "mistral-v3"].map(|name| dir.join(name)));
    }
    files
        .into_iter()
        .map(|f| (f.display().to_string(), Tokenizer::from_path(&f).unwrap()))
        .collect()
}

/// Every template at hand, with a name.
fn templates() -> Vec<(String, ChatTemplate)> {
    let built_in = |b: Builtin| (b.name().to_owned(), ChatTemplate::builtin(b));
    let mut templates: Vec<_> = Builtin::ALL.into_iter().map(built_in).collect();
    let Some(dir) = puna_testkit::published_dir("chat_templates") else { return templates };
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let source = std::fs::read_to_string(entry.path()).unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        templates.push((name, ChatTemplate::from_jinja(&source).unwrap()));
    }
    templates
}

/// Checks that what stands before each answer is what the model sees when it is to answer, and
/// that what is trained reads as the answers.
fn check_prompts(renderer: &Renderer<'_>, talk: &Conversation, encoded: &Encoded, what: &str) {
    let is_answer = |&index: &usize| role(&talk.messages[index]) == "assistant";
    let mut answers = (0..talk.messages.len()).filter(is_answer);
    let tools = talk.tools.clone().map(Value::Array);
    for document in &encoded.documents {
        for range in &document.trained {
            let index = answers.next().expect("as many ranges as answers");
            let expected = chat_ids(renderer, &talk.messages[..index], tools.as_ref());
            assert_eq!(document.tokens[..range.start], expected, "{what}, message {index}");
            let answer = &document.tokens[range.clone()];
            let text = renderer.tokenizer.decode(answer, DecodeSpecials::Keep).unwrap();
            let said = talk.messages[index]["content"].as_str().unwrap().trim();
            assert!(text.contains(said), "{what}: {text:?} lacks {said:?}");
        }
    }
    assert_eq!(answers.next(), None, "{what}: an answer is not trained");
}

#[test]
fn prompts_are_token_for_token_what_chat_sends_under_every_template_and_tokenizer() {
    let turns = json!([
        {"role": "user", "content": "Which animal is that?"},
        {"role": "assistant", "content": "A vicuña: 羊驼的近亲。"},
        {"role": "user", "content": " 它住在哪里？\n"},
        {"role": "assistant", "content": "\nIn the puna,\n\nabove 3200 m."},
        {"role": "user", "content": "Thanks!"},
        {"role": "assistant", "content": "You are welcome."},
    ]);
    let mut checked = 0;
    let tokenizers = tokenizers();
    for (template_name, template) in &templates() {
        for (tokenizer_name, tokenizer) in &tokenizers {
            let renderer = Renderer::new(template, tokenizer);
            let talk = talk(turns.clone());
            let what = format!("{template_name} with {tokenizer_name}");
            let encoded = document::encode(&renderer, &talk, TrainOn::Answers).expect(&what);
            check_prompts(&renderer, &talk, &encoded, &what);
            let last = document::encode(&renderer, &talk, TrainOn::Last).expect(&what);
            assert_eq!(last.documents.len(), 1);
            assert_eq!(last.documents[0].trained.len(), 1);
            checked += 1;
        }
    }
    assert!(checked >= 5 || tokenizers.is_empty(), "{checked}");
}

#[test]
fn an_answer_is_trained_up_to_the_token_that_ends_it() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let eos = tokenizer.eos_text();
    // A line break after the end, which the model never has to write.
    let source = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token \
        }}\n\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let template = ChatTemplate::from_jinja(source).unwrap();
    let renderer = Renderer::new(&template, &tokenizer);
    let talk = talk(json!([
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"},
    ]));
    let texts = |train_on| {
        let encoded = document::encode(&renderer, &talk, train_on).unwrap();
        let [document] = encoded.documents.as_slice() else { panic!("{encoded:?}") };
        assert_eq!(encoded.unended, 0);
        let text = |range: &std::ops::Range<usize>| {
            tokenizer.decode(&document.tokens[range.clone()], DecodeSpecials::Keep).unwrap()
        };
        document.trained.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(texts(TrainOn::Answers), [format!("two{eos}"), format!("four{eos}")]);
    assert_eq!(texts(TrainOn::Last), [format!("four{eos}")]);
    let all = format!(
        "<user>one{eos}\n\n<assistant>two{eos}\n\n<user>three{eos}\n\n<assistant>\
        four{eos}\n"
    );
    assert!(texts(TrainOn::Everything)[0].starts_with(&all));
}

#[test]
fn an_answer_of_weight_0_is_read_but_not_trained() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::builtin(Builtin::Vicuna);
    let renderer = Renderer::new(&template, &tokenizer);
    let talk = talk(json!([
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"},
    ]));
    let encoded = document::encode(&renderer, &talk, TrainOn::Answers).unwrap();
    let document = &encoded.documents[0];
    assert_eq!(document.trained.len(), 1);
    let before = &document.tokens[..document.trained[0].start];
    assert!(tokenizer.decode(before, DecodeSpecials::Keep).unwrap().contains("wrong"));
}

#[test]
fn a_template_that_rewrites_the_past_is_trained_turn_by_turn() {
    let Some(tokenizer) = small_tokenizer() else { return };
    // Thoughts stay in the last answer only.
    let source = "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% else %}\
        {% if loop.last %}{{ m.thoughts }}{% endif %} {{ m.content }}{{ eos_token }}{% endif %}\
        {% endfor %}";
    let template = ChatTemplate::from_jinja(source).unwrap();
    let renderer = Renderer::new(&template, &tokenizer);
    let talk = talk(json!([
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two", "thoughts": "(hm)"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four", "thoughts": "(well)"},
    ]));
    let encoded = document::encode(&renderer, &talk, TrainOn::Answers).unwrap();
    assert_eq!(encoded.documents.len(), 2);
    check_prompts(&renderer, &talk, &encoded, "thoughts");
    let (_, report) = SftRows::build(&[talk], &renderer, &SftOptions::new(256)).unwrap();
    assert_eq!((report.conversations, report.documents, report.turn_by_turn), (1, 2, 1));
    let note = "trained turn by turn, as the chat template rewrites past turns: 1";
    assert_eq!(report.notes(), [note]);
}

#[test]
fn a_token_across_the_border_of_prompt_and_answer_is_not_used() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::from_jinja(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}\
         {% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    )
    .unwrap();
    let ids = |text| tokenizer.encode(text, SpecialTokens::Omit).unwrap();
    assert!(!ids("assistant: the").starts_with(&ids("assistant: ")), "the space goes to the word");
    let renderer = Renderer::new(&template, &tokenizer);
    let talk = talk(json!([{"role": "user", "content": "one"},
                           {"role": "assistant", "content": "the house"}]));
    let encoded = document::encode(&renderer, &talk, TrainOn::Answers).unwrap();
    check_prompts(&renderer, &talk, &encoded, "a space");
    let text = tokenizer.decode(&encoded.documents[0].tokens, DecodeSpecials::Skip).unwrap();
    assert_eq!(text, "user: oneassistant: the house");
}

#[test]
fn a_template_whose_prompt_is_not_kept_is_refused_with_the_place() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::from_jinja(
        "{% for m in messages %}{{ m.content }}{% endfor %}\
         {% if add_generation_prompt %}<no thoughts>{% endif %}",
    )
    .unwrap();
    let renderer = Renderer::new(&template, &tokenizer);
    let talk = talk(json!([{"role": "user", "content": "one"},
                           {"role": "assistant", "content": "two"}]));
    let error = document::encode(&renderer, &talk, TrainOn::Answers).unwrap_err();
    assert!(error.to_string().starts_with("talks.jsonl, line 7: message 2: the chat template's"));
    assert!(document::encode(&renderer, &talk, TrainOn::Everything).is_ok());
}

#[test]
fn alpaca_has_its_own_prompt_and_elsewhere_the_input_follows_the_instruction() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let record = json!({"instruction": "Sum", "input": "1 2", "output": "3"}).to_string();
    let file = SftReader::default().parse(record.as_bytes(), Path::new("a.jsonl")).unwrap();
    let talk = &file.conversations[0];
    let text = |builtin| {
        let template = ChatTemplate::builtin(builtin);
        let renderer = Renderer::new(&template, &tokenizer);
        renderer.text(talk, 1, GenerationPrompt::Add).unwrap()
    };
    let alpaca = text(Builtin::Alpaca);
    assert_eq!(alpaca.trim(), puna_text::alpaca_prompt("Sum", "1 2"));
    assert_eq!(
        text(Builtin::ChatMl),
        "<|im_start|>user\nSum\n1 2<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn tools_are_refused_by_templates_that_lose_them_and_can_be_text() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let mut talk = talk(json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001",
            "type": "function", "function": {"name": "weather", "arguments": {"at": "Cusco"}}}]},
        {"role": "tool", "content": "14", "tool_call_id": "call00001", "name": "weather"},
        {"role": "assistant", "content": "14 degrees."},
    ]));
    let template = ChatTemplate::builtin(Builtin::ChatMl);
    let mut renderer = Renderer::new(&template, &tokenizer);
    let error = document::encode(&renderer, &talk, TrainOn::Answers).unwrap_err();
    assert!(error.to_string().contains("no place for calls of tools"), "{error}");
    talk.tools = Some(vec![json!({"type": "function", "function": {"name": "weather"}})]);
    let plain = Conversation {
        messages: vec![talk.messages[0].clone(), talk.messages[3].clone()],
        ..talk.clone()
    };
    let error = document::encode(&renderer, &plain, TrainOn::Answers).unwrap_err();
    assert!(error.to_string().contains("no place for the list of tools"), "{error}");
    renderer.tools = ToolStyle::Text;
    let text = renderer.text(&talk, 9, GenerationPrompt::Omit).unwrap();
    assert!(text.contains(
        "<|im_start|>assistant\n{\"name\":\"weather\",\"arguments\":{\"at\":\"Cusco\"}}<"
    ));
    assert!(text.contains("<|im_start|>user\n14<|im_end|>"), "{text}");
    assert_eq!(document::encode(&renderer, &talk, TrainOn::Answers).unwrap().documents.len(), 1);
}

#[test]
fn tools_go_through_templates_that_know_them() {
    let Some(dir) = puna_testkit::published_dir("chat_templates") else { return };
    let Some(tokenizer) = small_tokenizer() else { return };
    let record = json!({"conversations": [
        {"from": "human", "value": "Weather in Cusco?"},
        {"from": "function_call",
         "value": "{\"name\": \"weather\", \"arguments\": {\"city\": \"Cusco\"}}"},
        {"from": "observation", "value": "{\"celsius\": 14}"},
        {"from": "gpt", "value": "14 degrees."},
    ], "tools": "[{\"name\": \"weather\", \"parameters\": {\"type\": \"object\"}}]"});
    let place = Place { path: Arc::new("a.json".into()), at: At::Record(1) };
    let talk = turns::read(&record, "conversations", &Columns::default(), &place).unwrap();
    for name in ["llama-3.1-instruct", "qwen2.5-instruct", "mistral-v3"] {
        let source = std::fs::read_to_string(dir.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::from_jinja(&source).unwrap();
        let renderer = Renderer::new(&template, &tokenizer);
        let encoded = document::encode(&renderer, &talk, TrainOn::Answers).unwrap();
        check_prompts(&renderer, &talk, &encoded, name);
    }
}

/// Conversations of growing length.
fn many(count: usize) -> Vec<Conversation> {
    let one = |i: usize| {
        talk(json!([{"role": "user", "content": format!("count to {i}")},
                    {"role": "assistant", "content": "and on ".repeat(i % 9 + 1)}]))
    };
    (0..count).map(one).collect()
}

#[test]
fn packed_rows_hold_every_document_out_of_the_others_sight() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::builtin(Builtin::Vicuna);
    let renderer = Renderer::new(&template, &tokenizer);
    let talks = many(60);
    for packing in [Packing::Packed, Packing::Single] {
        let options = SftOptions { packing, seed: 3, ..SftOptions::new(512) };
        let (rows, report) = SftRows::build(&talks, &renderer, &options).unwrap();
        assert_eq!(report.rows, rows.rows_per_epoch());
        assert_eq!(report.documents, 60);
        let (mut segments, mut targets) = (Vec::new(), 0);
        for number in 0..rows.rows_per_epoch() {
            let row = rows.row(number).unwrap();
            assert!(
                [&row.tokens, &row.targets, &row.positions, &row.visible_from]
                    .iter()
                    .all(|part| part.len() == 512)
            );
            let mut start = 0;
            while start < 512 {
                assert_eq!((row.visible_from[start], row.positions[start]), (start as u32, 0));
                let same = |&at: &usize| row.visible_from[at] == start as u32;
                let end = (start..512).take_while(same).last().unwrap() + 1;
                assert!((start..end).all(|at| row.positions[at] == (at - start) as u32));
                let trained = (start..end).filter(|&at| row.targets[at] != NO_TARGET).count();
                targets += trained;
                if trained > 0 {
                    segments.push((row.tokens[start..end].to_vec(), row.targets[end - 1]));
                } else {
                    assert_eq!(end, 512, "padding is at the end");
                }
                start = end;
            }
        }
        assert_eq!(targets as u64, report.trained_tokens);
        let mut documents: Vec<(Vec<u32>, u32)> = rows
            .documents()
            .iter()
            .map(|d| (d.tokens[..d.slots()].to_vec(), d.tokens[d.slots()]))
            .collect();
        documents.sort();
        segments.sort();
        assert_eq!(segments, documents);
    }
}

#[test]
fn targets_are_the_next_tokens_of_the_answer_only() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::builtin(Builtin::Vicuna);
    let renderer = Renderer::new(&template, &tokenizer);
    let talks = many(1);
    let (rows, _) = SftRows::build(&talks, &renderer, &SftOptions::new(512)).unwrap();
    let row = rows.row(0).unwrap();
    let prompt = chat_ids(&renderer, &talks[0].messages[..1], None).len();
    let document = &rows.documents()[0].tokens;
    assert_eq!(row.targets[..prompt - 1], vec![NO_TARGET; prompt - 1]);
    assert_eq!(row.targets[prompt - 1..document.len() - 1], document[prompt..]);
    assert_eq!(document.last(), tokenizer.eos().first());
    assert!(row.targets[document.len() - 1..].iter().all(|&target| target == NO_TARGET));
}

#[test]
fn an_epoch_has_every_row_once_in_its_own_order() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::builtin(Builtin::Vicuna);
    let renderer = Renderer::new(&template, &tokenizer);
    let options = SftOptions { packing: Packing::Single, ..SftOptions::new(512) };
    let (rows, _) = SftRows::build(&many(40), &renderer, &options).unwrap();
    let epoch = |epoch: u64| -> Vec<Vec<u32>> {
        (epoch * 40..(epoch + 1) * 40).map(|n| rows.row(n).unwrap().tokens).collect()
    };
    let sorted = |mut rows: Vec<Vec<u32>>| {
        rows.sort();
        rows
    };
    assert_ne!(epoch(0), epoch(1));
    assert_eq!(sorted(epoch(0)), sorted(epoch(1)));
    let (again, _) = SftRows::build(&many(40), &renderer, &options).unwrap();
    assert_eq!(again.row(77).unwrap(), rows.row(77).unwrap());
}

#[test]
fn too_long_conversations_are_counted_and_never_cut_in_silence() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template = ChatTemplate::builtin(Builtin::ChatMl);
    let renderer = Renderer::new(&template, &tokenizer);
    let talks = many(9);
    let lengths: Vec<usize> = SftRows::build(&talks, &renderer, &SftOptions::new(4096))
        .unwrap()
        .0
        .documents()
        .iter()
        .map(Document::slots)
        .collect();
    let middle = lengths[4];
    let (rows, report) = SftRows::build(&talks, &renderer, &SftOptions::new(middle)).unwrap();
    assert_eq!((report.too_long, report.truncated, rows.documents().len()), (4, 0, 5));
    let options = SftOptions { too_long: TooLong::Truncate, ..SftOptions::new(middle) };
    let (rows, report) = SftRows::build(&talks, &renderer, &options).unwrap();
    assert_eq!((report.too_long, report.truncated, rows.documents().len()), (0, 4, 9));
    assert!(rows.documents().iter().all(|d| d.slots() <= middle));
    let error = SftRows::build(&talks, &renderer, &SftOptions::new(8)).unwrap_err().to_string();
    assert!(error.starts_with("none of 9 conversations is left to train on: 0 unusable, 9 longer"));
    let options = SftOptions { too_long: TooLong::Truncate, ..SftOptions::new(8) };
    let error = SftRows::build(&talks, &renderer, &options).unwrap_err().to_string();
    assert!(error.ends_with("0 longer than a row, 9 without a trained answer"), "{error}");
}

#[test]
fn conversations_that_the_template_refuses_are_refused_or_counted() {
    let Some(tokenizer) = small_tokenizer() else { return };
    let template =
        ChatTemplate::from_jinja("{{ raise_exception('no ' + messages[0].content) }}").unwrap();
    let renderer = Renderer::new(&template, &tokenizer);
    let error = SftRows::build(&many(2), &renderer, &SftOptions::new(64)).unwrap_err();
    assert_eq!(error.to_string(), "talks.jsonl, line 7");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "the chat template refuses this conversation: no count to 0");
    let options = SftOptions { unusable: Unusable::Skip, ..SftOptions::new(64) };
    let error = SftRows::build(&many(2), &renderer, &options).unwrap_err().to_string();
    assert!(error.contains("2 unusable"), "{error}");
    let picky = "{% for m in messages %}{% if m.content == 'count to 0' %}{{ raise_exception('no') }}\
        {% endif %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let picky = ChatTemplate::from_jinja(picky).unwrap();
    let renderer = Renderer::new(&picky, &tokenizer);
    let (rows, report) = SftRows::build(&many(3), &renderer, &options).unwrap();
    assert_eq!(rows.documents().len(), 2);
    assert_eq!(
        report.notes(),
        ["unusable conversations left out: 1 (first: talks.jsonl, line 7: the chat template \
          refuses this conversation: no)"]
    );
}

/// Public instruction data beside the checkout, where it is.
fn data(name: &str) -> Option<PathBuf> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = crate_dir.ancestors().nth(2)?.join("../shared/data/sft").join(name);
    if !path.is_file() {
        puna_testkit::skipped(&format!("the instruction data {name} is not here"));
        return None;
    }
    Some(path)
}

#[test]
fn public_instruction_data_is_read_whole() {
    let expected = [
        ("alpaca_en_demo.json", 999),
        ("alpaca_zh_demo.json", 1000),
        ("identity.json", 91),
        ("alpaca_seed_tasks.jsonl", 175),
        ("glaive_toolcall_en_demo.json", 300),
    ];
    let Some(tokenizer) = small_tokenizer() else { return };
    for (name, count) in expected {
        let Some(path) = data(name) else { continue };
        let file = SftReader::default().read(&path).unwrap();
        assert_eq!(file.conversations.len(), count, "{name}");
        let with_tools = name.starts_with("glaive");
        let builtin = if with_tools { Builtin::ChatMl } else { Builtin::Alpaca };
        let template = ChatTemplate::builtin(builtin);
        let mut renderer = Renderer::new(&template, &tokenizer);
        renderer.tools = ToolStyle::Text;
        let some: Vec<Conversation> = file.conversations.into_iter().step_by(9).collect();
        let (_, report) = SftRows::build(&some, &renderer, &SftOptions::new(1 << 14)).unwrap();
        assert_eq!((report.documents, report.too_long), (some.len(), 0), "{name}");
        assert!(report.trained_tokens > 0 && report.trained_tokens < report.tokens);
    }
}

#[test]
fn public_tool_calls_go_through_the_templates_of_models_with_tools() {
    let Some(path) = data("glaive_toolcall_en_demo.json") else { return };
    let Some(dir) = puna_testkit::published_dir("chat_templates") else { return };
    let Some(tokenizer) = small_tokenizer() else { return };
    let talks = SftReader::default().read(&path).unwrap().conversations;
    for name in ["llama-3.1-instruct", "qwen2.5-instruct"] {
        let source = std::fs::read_to_string(dir.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::from_jinja(&source).unwrap();
        let renderer = Renderer::new(&template, &tokenizer);
        for (index, talk) in talks.iter().enumerate().step_by(15) {
            let what = format!("{name}, record {index}");
            let encoded = document::encode(&renderer, talk, TrainOn::Answers).expect(&what);
            assert_eq!(encoded.documents.len(), 1, "{what}");
            check_prompts(&renderer, talk, &encoded, &what);
        }
    }
}
