//! ShareGPT's and OpenAI's records: a list of messages.
//!
//! Both are read alike, under either's names of roles and keys: data sets mix them (`messages`
//! of `from` and `value`, `conversations` of `role` and `content`).

use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::error::{Place, SftError};
use super::layout::{Columns, invalid, missing, name, text};
use super::tools;

/// The conversation of a record, its messages under the key `list`.
pub(super) fn read(
    record: &Value,
    list: &str,
    columns: &Columns,
    place: &Place,
) -> Result<Conversation, SftError> {
    if !record.is_object() {
        return Err(invalid(place, "record", "an object", record));
    }
    let turns = match record.get(list) {
        None => return Err(missing(place, list)),
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(invalid(place, list, "a list of messages", other)),
    };
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = text(record, name(&columns.system, "system"), place)?
        && !system.is_empty()
    {
        messages.push(json!({ "role": "system", "content": system }));
    }
    for (index, turn) in turns.iter().enumerate() {
        let reader = Turn { turn, key: format!("{list}[{index}]"), columns, place };
        messages.push(reader.message()?);
    }
    tools::number(&mut messages);
    let key = name(&columns.tools, "tools");
    let tools = match record.get(key) {
        None | Some(Value::Null) => None,
        Some(value) => tools::declared(value).map_err(|got| SftError::Invalid {
            place: place.clone(),
            key: key.to_owned(),
            expected: "a list of functions, or its JSON text",
            got,
        })?,
    };
    Ok(Conversation { messages, tools, input: None, place: place.clone() })
}

/// One message as it stands in the file.
struct Turn<'a> {
    turn: &'a Value,
    /// The way to it.
    key: String,
    columns: &'a Columns,
    place: &'a Place,
}

impl Turn<'_> {
    /// The message in OpenAI's form.
    fn message(&self) -> Result<Value, SftError> {
        let Some(object) = self.turn.as_object() else {
            return Err(invalid(self.place, &self.key, "an object", self.turn));
        };
        let (role_key, role) = self.field(object, &self.columns.role, ["role", "from"])?;
        let Some(role) = role.as_str() else {
            return Err(invalid(self.place, self.way(role_key), "a text", role));
        };
        let calls = match object.get("tool_calls") {
            None | Some(Value::Null) => None,
            Some(calls) => Some(tools::calls(calls).map_err(|got| {
                self.wrong("tool_calls", "a list of functions with arguments", got)
            })?),
        };
        let content = match self.field(object, &self.columns.content, ["content", "value"]) {
            Ok((key, content)) => self.content(key, content)?,
            Err(_) if calls.is_some() => String::new(),
            Err(missing) => return Err(missing),
        };
        let mut message = Map::new();
        let role = match role {
            "human" | "user" => "user",
            "gpt" | "assistant" | "model" | "bot" => "assistant",
            "system" | "developer" => "system",
            "observation" | "tool" | "function" | "ipython" | "tool_response" => "tool",
            "function_call" | "tool_call" => return self.called(&content),
            other => {
                let expected = "human, gpt, system, function_call, observation, user, assistant \
                    or tool";
                return Err(self.wrong(role_key, expected, format!("`{other}`")));
            }
        };
        message.insert("role".into(), role.into());
        message.insert("content".into(), content.into());
        if let Some(calls) = calls.filter(|calls| !calls.is_empty()) {
            message.insert("tool_calls".into(), Value::Array(calls));
        }
        // Thoughts, names, weights: what a template may read is kept.
        for (key, value) in object {
            let used = [role_key, "content", "value", "tool_calls", "from"].contains(&key.as_str());
            if !used && !message.contains_key(key) && !value.is_null() {
                message.insert(key.clone(), value.clone());
            }
        }
        Ok(Value::Object(message))
    }

    /// A message that is nothing but calls, written as JSON text.
    fn called(&self, content: &str) -> Result<Value, SftError> {
        let wrong = |got| self.wrong("function_call", "JSON of {name, arguments}", got);
        let value: Value =
            serde_json::from_str(content).map_err(|error| wrong(format!("{error}")))?;
        let list = if value.is_array() { value } else { Value::Array(vec![value]) };
        let calls = tools::calls(&list).map_err(wrong)?;
        Ok(json!({ "role": "assistant", "content": "", "tool_calls": calls }))
    }

    /// A key and what stands under it: the given name, or one of the usual ones.
    fn field<'v>(
        &self,
        object: &'v Map<String, Value>,
        given: &'v Option<String>,
        usual: [&'static str; 2],
    ) -> Result<(&'v str, &'v Value), SftError> {
        let [first, second] = usual;
        let keys = match given {
            Some(name) => [name.as_str(), name.as_str()],
            None => [first, second],
        };
        let found = keys.into_iter().find_map(|key| Some((key, object.get(key)?)));
        found.ok_or_else(|| missing(self.place, self.way(keys[0])))
    }

    /// A content as text: itself, or the texts of OpenAI's content parts.
    fn content(&self, key: &str, content: &Value) -> Result<String, SftError> {
        let part = |part: &Value| {
            let is_text = part.get("type").is_none_or(|kind| kind == "text");
            let text = part.get("text").and_then(Value::as_str).filter(|_| is_text);
            text.map(str::to_owned)
                .ok_or_else(|| invalid(self.place, self.way(key), "parts of type `text`", part))
        };
        match content {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            Value::Array(parts) => parts.iter().map(part).collect(),
            other => Err(invalid(self.place, self.way(key), "a text", other)),
        }
    }

    fn way(&self, key: &str) -> String {
        format!("{}.{key}", self.key)
    }

    fn wrong(&self, key: &str, expected: &'static str, got: String) -> SftError {
        SftError::Invalid { place: self.place.clone(), key: self.way(key), expected, got }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::At;
    use super::*;

    fn parse(record: Value, list: &str) -> Result<Conversation, String> {
        let place = Place { path: std::sync::Arc::new("a.json".into()), at: At::Record(2) };
        read(&record, list, &Columns::default(), &place).map_err(|e| e.to_string())
    }

    #[test]
    fn sharegpt_with_a_call_becomes_openai_messages() {
        let talk = parse(
            json!({"conversations": [
                {"from": "human", "value": "Weather in Cusco?"},
                {"from": "function_call",
                 "value": "{\"name\": \"weather\", \"arguments\": {\"city\": \"Cusco\"}}"},
                {"from": "observation", "value": "{\"celsius\": 14}"},
                {"from": "gpt", "value": "14 degrees."},
            ], "system": "Be brief.", "tools": "[{\"name\": \"weather\", \"parameters\": {}}]"}),
            "conversations",
        )
        .unwrap();
        assert_eq!(
            Value::Array(talk.messages),
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Weather in Cusco?"},
                {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Cusco"}}}]},
                {"role": "tool", "content": "{\"celsius\": 14}", "tool_call_id": "call00001",
                 "name": "weather"},
                {"role": "assistant", "content": "14 degrees."},
            ])
        );
        let tool = json!({"type": "function",
            "function": {"name": "weather", "parameters": {}}});
        assert_eq!(talk.tools, Some(vec![tool]));
    }

    #[test]
    fn openai_messages_keep_ids_and_get_arguments_as_objects() {
        let talk = parse(
            json!({"messages": [
                {"role": "user", "content": [{"type": "text", "text": "Say"}, {"text": " hi"}]},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "x1",
                    "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
                {"role": "tool", "tool_call_id": "x1", "content": "done"},
                {"role": "assistant", "content": "Hi", "weight": 0},
            ], "tools": []}),
            "messages",
        )
        .unwrap();
        assert_eq!(talk.messages[0], json!({"role": "user", "content": "Say hi"}));
        assert_eq!(talk.messages[1]["tool_calls"][0]["id"], "x1");
        assert_eq!(talk.messages[1]["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(talk.messages[2]["tool_call_id"], "x1");
        assert_eq!(talk.messages[3]["weight"], 0);
        assert_eq!(talk.tools, None);
    }

    #[test]
    fn mixed_names_are_read_and_unknown_roles_are_named() {
        let talk = parse(
            json!({"messages": [{"from": "user", "content": "Hi"},
                                {"role": "assistant", "value": "Hello"}]}),
            "messages",
        );
        assert_eq!(talk.unwrap().messages[1], json!({"role": "assistant", "content": "Hello"}));
        let error = |record: Value| parse(record, "messages").unwrap_err();
        assert_eq!(
            error(json!({"messages": [{"role": "narrator", "content": "x"}]})),
            "a.json, record 2: messages[0].role: expected human, gpt, system, function_call, \
             observation, user, assistant or tool, got `narrator`"
        );
        assert_eq!(
            error(json!({"messages": [{"role": "user"}]})),
            "a.json, record 2: key `messages[0].content` is missing"
        );
        assert_eq!(
            error(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
            "a.json, record 2: messages[0].content: expected parts of type `text`, got an object"
        );
        assert_eq!(
            error(json!({"messages": [{"from": "function_call", "value": "{\"name\": 3}"}]})),
            "a.json, record 2: messages[0].function_call: expected JSON of {name, arguments}, \
             got a call without a name"
        );
        assert_eq!(
            error(json!({"messages": [], "tools": "none"})),
            "a.json, record 2: tools: expected a list of functions, or its JSON text, got a text \
             that is not JSON"
        );
    }
}
