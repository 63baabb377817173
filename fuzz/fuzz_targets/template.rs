#![no_main]
//! Chat templates: a hostile Jinja source, rendered over conversations with and without tools. It
//! has to end, within its budget of work and memory.

use libfuzzer_sys::fuzz_target;
use puna_text::{ChatTemplate, CivilTime, GenerationPrompt, RenderInput};
use serde_json::{Value, json};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::from_jinja(source) else { return };
    let messages = json!([
        { "role": "system", "content": "a <s>" },
        { "role": "user", "content": "ünï 🦙" },
        { "role": "assistant", "content": null, "tool_calls": [{ "name": "f", "arguments": { "x": 1.5 } }] },
    ]);
    let tools: Value = json!([{ "type": "function", "function": { "name": "f", "parameters": {} } }]);
    let mut input = RenderInput::new(&messages);
    (input.bos_token, input.eos_token) = ("<s>", "</s>");
    let _ = template.render(&input);
    input.tools = Some(&tools);
    input.add_generation_prompt = GenerationPrompt::Omit;
    input.now = Some(CivilTime::from_unix_seconds(1_709_251_199));
    let _ = template.render(&input);
});
