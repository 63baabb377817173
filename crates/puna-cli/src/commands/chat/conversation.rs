//! What has been said, in OpenAI's message form.

use std::path::Path;

use anyhow::{Context, bail};
use puna_io::AtomicFile;
use serde_json::{Value, json};

/// A system prompt, and messages of user and assistant in turn.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conversation {
    pub(super) system: Option<String>,
    turns: Vec<Turn>,
}

/// A message and its answer.
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    user: String,
    assistant: Option<String>,
}

impl Conversation {
    /// Adds a message that waits for its answer.
    pub(super) fn ask(&mut self, message: &str) {
        self.turns.push(Turn { user: message.to_string(), assistant: None });
    }

    /// Adds the answer to the last message.
    pub(super) fn answer(&mut self, text: String) {
        if let Some(turn) = self.turns.last_mut() {
            turn.assistant = Some(text);
        }
    }

    /// Takes back a message that got no answer.
    pub(super) fn take_back(&mut self) {
        self.turns.pop_if(|turn| turn.assistant.is_none());
    }

    /// Takes back the last answer; its message waits again. `false` if there is none.
    pub(super) fn reopen(&mut self) -> bool {
        self.turns.last_mut().is_some_and(|turn| turn.assistant.take().is_some())
    }

    /// Forgets all but the system prompt.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }

    /// The message that waits for an answer.
    pub(super) fn last_message(&self) -> &str {
        self.turns.last().map_or("", |turn| &turn.user)
    }

    /// As a JSON array of `{"role", "content"}`.
    pub(super) fn messages(&self) -> Value {
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let mut messages: Vec<Value> =
            self.system.iter().map(|system| message("system", system)).collect();
        for turn in &self.turns {
            messages.push(message("user", &turn.user));
            messages.extend(turn.assistant.iter().map(|text| message("assistant", text)));
        }
        Value::Array(messages)
    }

    /// Writes `{"messages": …}`; an existing file is left alone.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        if path.exists() {
            bail!("{} exists; choose another name", path.display());
        }
        let text = serde_json::to_string_pretty(&json!({ "messages": self.messages() }))?;
        let mut file = AtomicFile::create(path)?;
        file.append(text.as_bytes())?;
        file.append(b"\n")?;
        file.commit().with_context(|| format!("cannot save to {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::Conversation;
    use serde_json::json;

    #[test]
    fn turns_become_messages_in_order() {
        let mut talk = Conversation { system: Some("Be brief.".into()), ..Default::default() };
        talk.ask("Hi");
        talk.answer("Hello".into());
        talk.ask("Bye");
        assert_eq!(
            talk.messages(),
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Bye"},
            ])
        );
    }

    #[test]
    fn an_answer_can_be_taken_back_but_an_answered_message_cannot() {
        let mut talk = Conversation::default();
        assert!(!talk.reopen());
        talk.ask("Hi");
        talk.answer("Hello".into());
        talk.take_back();
        assert!(talk.reopen());
        assert_eq!(talk.last_message(), "Hi");
        talk.take_back();
        assert_eq!(talk.messages(), json!([]));
    }
}
