//! `chat/`: rendered texts and the vendors' own ids.

use puna_text::{
    Builtin, ChatTemplate, CivilTime, GenerationPrompt, RenderInput, TextError, Tokenizer,
    VendorFormat, alpaca_prompt, encode_chat,
};
use serde_json::{Value, json};

use crate::golden::{case, foreign, ids, rows};

const TEMPLATES: [&str; 12] = [
    "gemma-1-it",
    "gemma-2-it",
    "gemma-3-it",
    "llama-2-chat",
    "llama-3-instruct",
    "llama-3.1-instruct",
    "mistral-7b-instruct-v0.2",
    "mistral-v1-system",
    "mistral-v3",
    "mixtral-8x7b-instruct-v0.1",
    "phi-3-mini",
    "qwen2.5-instruct",
];

/// Renders a golden row.
fn render(template: &ChatTemplate, row: &Value, config: &Value) -> Result<String, TextError> {
    let mut input = RenderInput::new(&row["messages"]);
    input.tools = row.get("tools").filter(|tools| !tools.is_null());
    if row.get("add_generation_prompt") == Some(&Value::Bool(false)) {
        input.add_generation_prompt = GenerationPrompt::Omit;
    }
    input.bos_token = config["bos_token"].as_str().unwrap_or_default();
    input.eos_token = config["eos_token"].as_str().unwrap_or_default();
    input.variables = row["variables"].as_object().cloned().unwrap_or_default();
    if let Some(flag) = row.get("tools_in_user_message") {
        input.variables.insert("tools_in_user_message".into(), flag.clone());
    }
    template.render(&input)
}

/// Compares all rows of a case; gives their number.
fn check(name: &str, template: &ChatTemplate) -> usize {
    let Some(folder) = case(&format!("chat/{name}")) else { return 0 };
    let config: Value =
        serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let rows = rows(&folder.join("rendered.jsonl"));
    for row in &rows {
        let result = render(template, row, &config);
        match row.get("rendered") {
            Some(expected) => {
                assert_eq!(result.unwrap(), expected.as_str().unwrap(), "{name} {}", row["name"]);
            }
            None => {
                let expected = row["error"].as_str().unwrap();
                match result {
                    Err(TextError::Raised { message }) => assert_eq!(message, expected),
                    other => panic!("{name} {}: {other:?}, not {expected:?}", row["name"]),
                }
            }
        }
    }
    rows.len()
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let mut compared = 0;
    for name in TEMPLATES {
        let beside = case(&format!("chat/{name}")).map(|folder| folder.join("template.jinja"));
        let file = beside.filter(|file| file.exists());
        let Some(file) = file.or_else(|| foreign(&format!("chat_templates/{name}.jinja"))) else {
            continue;
        };
        let template = ChatTemplate::from_jinja(&std::fs::read_to_string(file).unwrap()).unwrap();
        compared += check(name, &template);
    }
    eprintln!("{compared} rendered conversations");
}

#[test]
fn the_built_in_llama2_format_renders_as_the_published_template() {
    check("llama-2-chat", &ChatTemplate::builtin(Builtin::Llama2));
}

#[test]
fn the_built_in_llama3_format_renders_as_the_published_template() {
    let Some(folder) = case("chat/llama-3-instruct") else { return };
    let template = ChatTemplate::builtin(Builtin::Llama3);
    let config = json!({ "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>" });
    let mut compared = 0;
    for row in rows(&folder.join("rendered.jsonl")) {
        // the published one always begins an answer
        if row.get("add_generation_prompt") != Some(&Value::Bool(false)) {
            assert_eq!(
                render(&template, &row, &config).unwrap(),
                row["rendered"],
                "{}",
                row["name"]
            );
            compared += 1;
        }
    }
    assert!(compared >= 5);
}

#[test]
fn alpaca_and_vicuna_match_their_published_formats() {
    let Some(folder) = case("chat/alpaca-vicuna") else { return };
    let alpaca = ChatTemplate::builtin(Builtin::Alpaca);
    let vicuna = ChatTemplate::builtin(Builtin::Vicuna);
    let rows = rows(&folder.join("rendered.jsonl"));
    for row in &rows {
        let expected = row["rendered"].as_str().unwrap();
        if row["format"] == "alpaca" {
            let text = |key: &str| row[key].as_str().unwrap();
            assert_eq!(alpaca_prompt(text("instruction"), text("input")), expected);
            let messages = json!([{ "role": "user", "content": row["instruction"] }]);
            let mut input = RenderInput::new(&messages);
            input.variables.insert("input".into(), row["input"].clone());
            assert_eq!(alpaca.render(&input).unwrap(), expected);
        } else {
            let mut input = RenderInput::new(&row["messages"]);
            input.eos_token = "</s>";
            if row["name"] == "complete" {
                input.add_generation_prompt = GenerationPrompt::Omit;
            }
            assert_eq!(vicuna.render(&input).unwrap(), expected, "{}", row["name"]);
        }
    }
    eprintln!("{} rendered conversations", rows.len());
}

#[test]
fn llama2_conversations_have_the_ids_of_metas_code() {
    let Some(folder) = case("chat/llama-2-meta") else { return };
    let Some(file) = foreign("tokenizers/llama2/tokenizer.model") else { return };
    let tokenizer = Tokenizer::from_path(&file).unwrap();
    let template = ChatTemplate::builtin(Builtin::Llama2);
    for row in rows(&folder.join("rendered.jsonl")) {
        let expected = ids(&row["ids"]);
        let direct = encode_chat(&tokenizer, VendorFormat::Llama2, &row["messages"], None).unwrap();
        assert_eq!(direct, expected, "{}", row["name"]);
        let config = json!({ "bos_token": "<s>", "eos_token": "</s>" });
        let rendered = render(&template, &row, &config).unwrap();
        assert_eq!(tokenizer.encode_rendered(&rendered).unwrap(), expected, "{}", row["name"]);
    }
}

#[test]
fn mistral_conversations_have_the_ids_of_mistral_common() {
    let Some(folder) = case("chat/mistral-common") else { return };
    let mut compared = 0;
    for row in rows(&folder.join("rendered.jsonl")) {
        let version = row["version"].as_str().unwrap();
        let file = foreign(&format!("tokenizers/mistral-{version}/tokenizer.model"));
        let Some(file) = file else { continue };
        let tokenizer = Tokenizer::from_path(&file).unwrap();
        let format =
            if version == "v1" { VendorFormat::MistralV1 } else { VendorFormat::MistralV3 };
        let tools = row.get("tools").filter(|tools| !tools.is_null());
        let result = encode_chat(&tokenizer, format, &row["messages"], tools);
        match row.get("ids") {
            Some(expected) => {
                assert_eq!(result.unwrap(), ids(expected), "{version} {}", row["name"])
            }
            None => assert!(matches!(result, Err(TextError::Conversation { .. }))),
        }
        compared += 1;
    }
    eprintln!("{compared} encoded conversations");
}

#[test]
fn exactly_one_bos_is_put_whatever_the_template_does() {
    let Some(folder) = case("text/llama2-gqa") else { return };
    for file in ["tokenizer.json", "tokenizer.model"] {
        let tokenizer = Tokenizer::from_path(&folder.join(file)).unwrap();
        for rendered in ["<s>The river", "The river"] {
            let ids = tokenizer.encode_rendered(rendered).unwrap();
            assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1, "{file} {rendered}");
            assert_eq!(ids[0], 1);
        }
    }
}

#[test]
fn the_clock_is_an_input_and_its_absence_an_error() {
    let template = ChatTemplate::from_jinja("{{ strftime_now('%d %b %Y') }}").unwrap();
    let messages = json!([]);
    let mut input = RenderInput::new(&messages);
    let error = template.render(&input).unwrap_err().to_string();
    assert!(error.contains("strftime_now is unknown"), "{error}");
    input.now = Some(CivilTime::from_unix_seconds(1_721_952_000));
    assert_eq!(template.render(&input).unwrap(), "26 Jul 2024");
}

#[test]
fn python_methods_and_filters_that_templates_use_are_there() {
    let source = "{% for k, v in messages[0].items() %}{{ k }}={{ v.strip().split('b')[0] }};\
        {% endfor %}{{ messages[0].get('x', none) }} {{ 'ab'.startswith('a') }} \
        {{ messages[0]['content'][::-1] }} {{ [1, 2][-1] }} {{ {'a': 1.0} | tojson }} \
        {{ 'a,b'.split(',') | join('+') }} {{ messages | selectattr('role', 'equalto', 'user') \
        | list | length }} {{ 'x' ~ 1 }}{% generation %}!{% endgeneration %}";
    let template = ChatTemplate::from_jinja(source).unwrap();
    let messages = json!([{ "role": "user", "content": " abc " }]);
    let rendered = template.render(&RenderInput::new(&messages)).unwrap();
    assert_eq!(rendered, "role=user;content=a;None True  cba  2 {\"a\": 1.0} a+b 1 x1!");
}

#[test]
fn a_folder_gives_its_template_by_the_order_of_transformers() {
    let folder = std::env::temp_dir().join(format!("puna-text-chat-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(ChatTemplate::from_folder(&folder).unwrap(), None);
    let config = json!({ "chat_template": [
        { "name": "tool_use", "template": "tools" }, { "name": "default", "template": "plain" },
    ] });
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let template = ChatTemplate::from_folder(&folder).unwrap().unwrap();
    let (messages, tools) = (json!([]), json!([{}]));
    let mut input = RenderInput::new(&messages);
    assert_eq!(template.render(&input).unwrap(), "plain");
    input.tools = Some(&tools);
    assert_eq!(template.render(&input).unwrap(), "tools");
    assert!(template.named("tool_use").is_ok());
    let error = template.named("rag").unwrap_err().to_string();
    assert_eq!(error, "no chat template named `rag` (there are: default, tool_use)");
    std::fs::write(folder.join("chat_template.jinja"), "file\n").unwrap();
    let template = ChatTemplate::from_folder(&folder).unwrap().unwrap();
    assert_eq!((template.source(), template.render(&input).unwrap().as_str()), ("file\n", "file"));
    std::fs::remove_dir_all(&folder).unwrap();
}
