//! Ratings of answers, in the formats of TRL's preference trainers.
//!
//! Each rating is a line of "unpaired preference" (`prompt`, `completion`, `label`: what KTO is
//! trained on) in the file itself. Where the same prompt has an answer with the other rating already,
//! the two also become a line of `prompt`, `chosen`, `rejected` (what DPO and reward models are
//! trained on) in a file beside it, `NAME.pairs.jsonl`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use http::StatusCode;
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::fields::Fields;

/// Most bytes of the file that are searched for the other half of a pair.
const SEARCHED_BYTES: u64 = 64 << 20;

/// A rating.
#[derive(Debug)]
pub(super) struct Rating {
    conversation: Option<String>,
    model: Option<String>,
    messages: Vec<Value>,
    answer: String,
    good: bool,
}

impl Rating {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let messages: Vec<Value> = fields.need("messages")?;
        let is_message = |message: &Value| message["role"].is_string();
        if messages.is_empty() || !messages.iter().all(is_message) {
            let expected = "expected the messages before the answer, each with a role";
            return Err(ApiError::field("messages", expected));
        }
        let rating: String = fields.need("rating")?;
        let good = match rating.as_str() {
            "up" => true,
            "down" => false,
            _ => return Err(ApiError::field("rating", "expected up or down")),
        };
        Ok(Self {
            conversation: fields.take("conversation")?,
            model: fields.take("model")?,
            messages,
            answer: fields.need("answer")?,
            good,
        })
    }

    fn completion(&self) -> Value {
        json!([{ "role": "assistant", "content": self.answer }])
    }

    fn line(&self) -> Value {
        json!({
            "prompt": self.messages,
            "completion": self.completion(),
            "label": self.good,
            "model": self.model,
            "conversation": self.conversation,
        })
    }

    /// The pair with an earlier line, if it is of the same prompt and the other label.
    fn pair(&self, earlier: &Value) -> Option<Value> {
        let same = earlier["prompt"].as_array() == Some(&self.messages);
        let other = earlier["label"] == json!(!self.good);
        let completion = earlier.get("completion").filter(|_| same && other)?;
        let (chosen, rejected) = match self.good {
            true => (self.completion(), completion.clone()),
            false => (completion.clone(), self.completion()),
        };
        let differ = chosen != rejected;
        differ.then(|| json!({ "prompt": self.messages, "chosen": chosen, "rejected": rejected }))
    }
}

/// Appends a rating, and the pair that it completes.
pub(super) fn store(file: &Path, rating: &Rating) -> Result<(), ApiError> {
    let failed = |_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        ApiError::protocol(status, "the rating cannot be written").code("unwritable")
    };
    let pair = counterpart(file, rating);
    append(file, &rating.line()).map_err(failed)?;
    if let Some(pair) = pair {
        append(&pairs_of(file), &pair).map_err(failed)?;
    }
    Ok(())
}

/// `ratings.jsonl` to `ratings.pairs.jsonl`.
fn pairs_of(file: &Path) -> PathBuf {
    file.with_extension("pairs.jsonl")
}

/// The pair with the newest line that makes one.
fn counterpart(file: &Path, rating: &Rating) -> Option<Value> {
    let file = File::open(file).ok()?;
    if file.metadata().ok()?.len() > SEARCHED_BYTES {
        return None;
    }
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.filter_map(|line| rating.pair(&serde_json::from_str(&line).ok()?)).last()
}

/// One write for one line: a process that dies tears at most the last line.
fn append(file: &Path, line: &Value) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rating(answer: &str, rating: &str) -> Rating {
        let value = json!({
            "messages": [{ "role": "user", "content": "hi" }], "answer": answer, "rating": rating,
        });
        let mut fields = Fields::of(value, "body").unwrap();
        Rating::read(&mut fields).unwrap()
    }

    #[test]
    fn two_ratings_of_one_prompt_make_a_pair() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ratings.jsonl");
        store(&file, &rating("good", "up")).unwrap();
        assert!(!pairs_of(&file).exists());
        store(&file, &rating("bad", "down")).unwrap();
        let pairs = std::fs::read_to_string(pairs_of(&file)).unwrap();
        let pair: Value = serde_json::from_str(pairs.trim_end()).unwrap();
        assert_eq!(pair["chosen"][0]["content"], "good");
        assert_eq!(pair["rejected"][0]["content"], "bad");
        let lines = std::fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), 2);
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["label"], &first["completion"][0]["content"]),
            (&json!(true), &json!("good"))
        );
    }

    #[test]
    fn a_rating_is_up_or_down() {
        let value = json!({ "messages": [{ "role": "user" }], "answer": "a", "rating": "maybe" });
        let error = Rating::read(&mut Fields::of(value, "body").unwrap()).unwrap_err();
        assert!(error.message.contains("up or down"), "{}", error.message);
    }
}
