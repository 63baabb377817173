//! A conversation, whatever file format it came from.
//!
//! Messages are kept in OpenAI's form, as chat templates read them: `role`, `content`, and where
//! functions are called `tool_calls` with arguments as an object (transformers' form; as a JSON
//! text they would be quoted twice).

use serde_json::Value;

use super::error::{Place, SftError};
use crate::permutation::mix;

/// Messages in turn, ending with an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Objects with `role` (system, user, assistant or tool) and `content`.
    pub messages: Vec<Value>,
    /// Functions that may be called, in OpenAI's form; not empty.
    pub tools: Option<Vec<Value>>,
    /// Alpaca's `input` to the last instruction; not empty, and not yet part of the message.
    pub input: Option<String>,
    /// Where it stands.
    pub place: Place,
}

/// Which side of a held-out split a conversation falls on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Trained on.
    Train,
    /// Held out.
    Validation,
}

/// Who speaks.
pub(super) fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// The text of a message; empty where it has none.
pub(super) fn content(message: &Value) -> &str {
    message.get("content").and_then(Value::as_str).unwrap_or_default()
}

/// The functions that a message calls.
pub(super) fn tool_calls(message: &Value) -> &[Value] {
    message.get("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Conversation {
    /// Checks that the turns follow each other: a system message at most first, then a user's, an
    /// answer after each user's or tool's, a tool's only after a call, an answer last.
    pub(super) fn check_order(&self) -> Result<(), SftError> {
        let mut before = "";
        let mut called = false;
        for (index, message) in self.messages.iter().enumerate() {
            let role = role(message);
            let expected = match (before, called) {
                ("", _) => "`system` or `user`",
                ("system", _) => "`user`",
                ("user", _) => "`assistant`",
                ("assistant", true) => "`tool`",
                ("assistant", false) => "`user`",
                (_, _) => "`assistant` or `tool`",
            };
            if !expected.split('`').any(|allowed| allowed == role) {
                let (place, got) = (self.place.clone(), role.to_owned());
                return Err(SftError::RoleOrder { place, message: index + 1, expected, got });
            }
            before = role;
            called = !tool_calls(message).is_empty();
        }
        match before {
            "assistant" => Ok(()),
            _ => Err(SftError::NoAnswer { place: self.place.clone() }),
        }
    }

    /// The side this conversation falls on when `fraction` (0 to 1) of all is held out.
    ///
    /// Decided by what is said and nothing else: the order of records and files does not matter,
    /// and of equal conversations none is held out while another is trained on.
    pub fn side(&self, fraction: f64) -> Side {
        let mut hash = Fnv::default();
        for message in &self.messages {
            hash.text(&message.to_string());
        }
        hash.text(self.input.as_deref().unwrap_or_default());
        for tool in self.tools.iter().flatten() {
            hash.text(&tool.to_string());
        }
        // The upper 53 bits as a number of [0, 1).
        let unit = (mix(hash.0) >> 11) as f64 / (1_u64 << 53) as f64;
        if unit < fraction { Side::Validation } else { Side::Train }
    }
}

/// Splits off `fraction` (0 to 1) of the conversations as held out: (trained on, held out). See
/// [`Conversation::side`].
pub fn split(
    conversations: Vec<Conversation>,
    fraction: f64,
) -> (Vec<Conversation>, Vec<Conversation>) {
    conversations.into_iter().partition(|talk| talk.side(fraction) == Side::Train)
}

/// FNV-1a of 64 bits: a hash that is the same in every release.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes a text and its end.
    fn text(&mut self, text: &str) {
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::error::At;
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    pub(in super::super) fn talk(messages: Value) -> Conversation {
        Conversation {
            messages: messages.as_array().unwrap().clone(),
            tools: None,
            input: None,
            place: Place { path: Arc::new("talks.jsonl".into()), at: At::Line(7) },
        }
    }

    fn order(roles: &[&str]) -> Result<(), String> {
        let message = |role: &&str| match *role {
            "call" => json!({"role": "assistant", "content": "", "tool_calls": [{}]}),
            role => json!({"role": role, "content": "x"}),
        };
        let messages = Value::Array(roles.iter().map(message).collect());
        talk(messages).check_order().map_err(|e| e.to_string())
    }

    #[test]
    fn turns_in_order_are_taken() {
        assert_eq!(order(&["user", "assistant"]), Ok(()));
        assert_eq!(order(&["system", "user", "assistant", "user", "assistant"]), Ok(()));
        assert_eq!(order(&["user", "call", "tool", "tool", "assistant"]), Ok(()));
        assert_eq!(order(&["user", "call", "tool", "call"]), Ok(()));
    }

    #[test]
    fn turns_out_of_order_name_the_message_and_who_may_speak() {
        let error = |roles: &[&str]| order(roles).unwrap_err();
        assert_eq!(
            error(&["user", "user"]),
            "talks.jsonl, line 7: message 2 is from `user`, expected `assistant`"
        );
        assert!(error(&["assistant"]).ends_with("`assistant`, expected `system` or `user`"));
        assert!(
            error(&["user", "tool"]).ends_with("message 2 is from `tool`, expected `assistant`")
        );
        assert!(error(&["user", "call", "user"]).ends_with("is from `user`, expected `tool`"));
        assert!(error(&["user", "assistant", "user"]).ends_with("ends without an answer"));
        assert!(error(&[]).ends_with("ends without an answer"));
    }

    #[test]
    fn equal_conversations_fall_on_the_same_side_and_about_the_fraction_is_held_out() {
        let talks: Vec<Conversation> = (0..2000)
            .map(|i| {
                talk(json!([
                    {"role": "user", "content": format!("question {}", i / 2)},
                    {"role": "assistant", "content": "yes"}
                ]))
            })
            .collect();
        assert!(talks.chunks(2).all(|pair| pair[0].side(0.1) == pair[1].side(0.1)));
        let (train, validation) = split(talks.clone(), 0.1);
        assert_eq!(train.len() + validation.len(), 2000);
        assert!((140..260).contains(&validation.len()), "{}", validation.len());
        assert!(split(talks.clone(), 0.0).1.is_empty());
        assert!(split(talks, 1.0).0.is_empty());
    }
}
