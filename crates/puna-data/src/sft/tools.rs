//! Functions that may be called, their calls and their results, in OpenAI's form; or as text.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::conversation::{Conversation, content, role, tool_calls};
use super::layout::kind;

/// How functions reach the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolStyle {
    /// As the chat template writes them; a template that leaves them out is an error.
    #[default]
    Template,
    /// As plain text, for templates that know no tools: the functions in the system message, a
    /// call as its JSON, a result as a user's message.
    Text,
}

/// What precedes the list of functions in the system message of [`ToolStyle::Text`].
const TEXT_INTRODUCTION: &str = "You can call these functions. To call one, answer with nothing \
    but JSON: {\"name\": function, \"arguments\": {parameter: value}}.";

/// The functions of a `tools` value: a list or its JSON text, bare or in OpenAI's form. An empty
/// one is none. The error is what was found.
pub(super) fn declared(value: &Value) -> Result<Option<Vec<Value>>, String> {
    let parsed;
    let list = match value {
        Value::Array(list) => list,
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text)
                .map_err(|_| "a text that is not JSON".to_owned())?;
            parsed.as_array().ok_or_else(|| format!("JSON text of {}", kind(&parsed)))?
        }
        other => return Err(kind(other).to_owned()),
    };
    let tool = |tool: &Value| match (tool.get("function"), tool.get("name")) {
        (Some(_), _) => Ok(tool.clone()),
        (None, Some(Value::String(_))) => Ok(json!({ "type": "function", "function": tool })),
        _ => Err("a function without a name".to_owned()),
    };
    let list = list.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(list).filter(|list| !list.is_empty()))
}

/// Calls in OpenAI's form, arguments as an object; the error is what was found.
pub(super) fn calls(value: &Value) -> Result<Vec<Value>, String> {
    let list = value.as_array().ok_or_else(|| kind(value).to_owned())?;
    list.iter().map(call).collect()
}

fn call(value: &Value) -> Result<Value, String> {
    let function = value.get("function").unwrap_or(value);
    let name = function.get("name").and_then(Value::as_str).ok_or("a call without a name")?;
    let given = function.get("arguments").or_else(|| function.get("parameters"));
    let arguments = match given {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|_| format!("arguments of `{name}` that are not JSON"))?,
        Some(other) => other.clone(),
    };
    if !arguments.is_object() {
        return Err(format!("arguments of `{name}` that are {}", kind(&arguments)));
    }
    let function = json!({ "name": name, "arguments": arguments });
    Ok(match value.get("id").filter(|id| id.is_string()) {
        Some(id) => json!({ "id": id, "type": "function", "function": function }),
        None => json!({ "type": "function", "function": function }),
    })
}

/// Gives ids to calls without one, and to each result the id and the name of its call. Ids have
/// the nine letters and digits that Mistral's template demands.
pub(super) fn number(messages: &mut [Value]) {
    let mut count = 0;
    // The calls of the last message that called, and how many have their result.
    let mut open: Vec<(Value, Value)> = Vec::new();
    for message in messages {
        if let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) {
            open.clear();
            for call in calls {
                count += 1;
                let function = call["function"].clone();
                let id = match call.get("id") {
                    Some(id) => id.clone(),
                    None => Value::from(format!("call{count:05}")),
                };
                *call = json!({ "id": id, "type": "function", "function": function });
                open.push((id, function["name"].clone()));
            }
            open.reverse();
        } else if role(message) == "tool"
            && message.get("tool_call_id").is_none()
            && let Some((id, name)) = open.pop()
        {
            message["tool_call_id"] = id;
            if message.get("name").is_none() {
                message["name"] = name;
            }
        }
    }
}

/// Name of a declared function or of a call.
pub(super) fn function_name(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

/// The messages of a conversation with everything about functions as plain text.
pub(super) fn as_text(conversation: &Conversation) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::with_capacity(conversation.messages.len() + 1);
    for message in &conversation.messages {
        let calls = tool_calls(message);
        let follows_result = messages.last().is_some_and(|last| last.get("result").is_some());
        if role(message) == "tool" && follows_result {
            // Results of several calls are one message, so that speakers alternate.
            if let Some(last) = messages.last_mut() {
                let joined = format!("{}\n{}", content(last), content(message));
                last["content"] = joined.into();
            }
        } else if role(message) == "tool" {
            let text = content(message);
            messages.push(json!({ "role": "user", "content": text, "result": true }));
        } else if calls.is_empty() {
            messages.push(message.clone());
        } else {
            let spoken = Some(content(message).to_owned()).filter(|text| !text.is_empty());
            let written = calls.iter().map(|call| call["function"].to_string());
            let lines: Vec<String> = spoken.into_iter().chain(written).collect();
            let mut plain = json!({ "role": "assistant", "content": lines.join("\n") });
            if let Some(weight) = message.get("weight") {
                plain["weight"] = weight.clone();
            }
            messages.push(plain);
        }
    }
    if let Some(tools) = &conversation.tools {
        let mut lines = vec![TEXT_INTRODUCTION.to_owned()];
        lines.extend(tools.iter().map(|tool| tool["function"].to_string()));
        introduce(&mut messages, &lines.join("\n"));
    }
    for message in &mut messages {
        if let Some(object) = message.as_object_mut() {
            object.shift_remove("result");
        }
    }
    messages
}

/// Adds a text to the system message, or makes one of it.
fn introduce(messages: &mut Vec<Value>, text: &str) {
    match messages.first_mut().filter(|first| role(first) == "system") {
        Some(system) => system["content"] = format!("{}\n\n{text}", content(system)).into(),
        None => messages.insert(0, json!({ "role": "system", "content": text })),
    }
}

#[cfg(test)]
mod tests {
    use super::super::conversation::tests::talk;
    use super::*;

    #[test]
    fn as_text_speakers_alternate_and_nothing_is_lost() {
        let mut conversation = talk(json!([
            {"role": "user", "content": "Sum and product of 2 and 3?"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}},
                {"type": "function", "function": {"name": "mul", "arguments": {"a": 2, "b": 3}}}]},
            {"role": "tool", "content": "5"},
            {"role": "tool", "content": "6"},
            {"role": "assistant", "content": "5 and 6."},
        ]));
        conversation.tools = declared(&json!([{"name": "add"}, {"name": "mul"}])).unwrap();
        let introduction =
            format!("{TEXT_INTRODUCTION}\n{{\"name\":\"add\"}}\n{{\"name\":\"mul\"}}");
        assert_eq!(
            Value::Array(as_text(&conversation)),
            json!([
                {"role": "system", "content": introduction},
                {"role": "user", "content": "Sum and product of 2 and 3?"},
                {"role": "assistant", "content": "{\"name\":\"add\",\"arguments\":{\"a\":2,\"b\":3}}\n\
                    {\"name\":\"mul\",\"arguments\":{\"a\":2,\"b\":3}}"},
                {"role": "user", "content": "5\n6"},
                {"role": "assistant", "content": "5 and 6."},
            ])
        );
    }

    #[test]
    fn results_get_the_ids_of_their_calls_in_order() {
        let mut messages = vec![
            json!({"role": "assistant", "tool_calls": [
                {"function": {"name": "f"}}, {"id": "mine", "function": {"name": "g"}}]}),
            json!({"role": "tool", "content": "1"}),
            json!({"role": "tool", "content": "2"}),
        ];
        number(&mut messages);
        assert_eq!(messages[0]["tool_calls"][0]["id"], "call00001");
        assert_eq!(messages[1]["tool_call_id"], "call00001");
        assert_eq!(messages[2]["tool_call_id"], "mine");
        assert_eq!(messages[2]["name"], "g");
    }
}
