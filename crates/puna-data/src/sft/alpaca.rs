//! Alpaca's records: an instruction, perhaps with an input, and the output.
//!
//! Three dialects: Stanford's (`instruction`, `input`, `output`), LLaMA-Factory's, which adds
//! `system` and `history` (earlier pairs of question and answer), and the seed tasks of
//! self-instruct, with the pairs of input and output under `instances`.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::error::{Place, SftError};
use super::layout::{Columns, invalid, missing, name, required, text};

/// The conversations of a record: one, or one for each of its instances.
pub(super) fn read(
    record: &Value,
    columns: &Columns,
    place: &Place,
) -> Result<Vec<Conversation>, SftError> {
    if !record.is_object() {
        return Err(invalid(place, "record", "an object", record));
    }
    let instruction = required(record, name(&columns.instruction, "instruction"), place)?;
    let mut before = Vec::new();
    if let Some(system) = text(record, name(&columns.system, "system"), place)?
        && !system.is_empty()
    {
        before.push(json!({ "role": "system", "content": system }));
    }
    before.extend(history(record, name(&columns.history, "history"), place)?);
    let output_key = name(&columns.output, "output");
    let instances = match record.get("instances") {
        Some(Value::Array(list)) if record.get(output_key).is_none() => list.as_slice(),
        _ => std::slice::from_ref(record),
    };
    let conversation = |instance: &Value| {
        let output = required(instance, output_key, place)?;
        let input = text(instance, name(&columns.input, "input"), place)?;
        let mut messages = before.clone();
        messages.push(json!({ "role": "user", "content": instruction }));
        messages.push(json!({ "role": "assistant", "content": output }));
        Ok(Conversation {
            messages,
            tools: None,
            input: input.filter(|input| !input.is_empty()).map(str::to_owned),
            place: place.clone(),
        })
    };
    instances.iter().map(conversation).collect()
}

/// Earlier turns, as messages.
fn history(record: &Value, key: &str, place: &Place) -> Result<Vec<Value>, SftError> {
    let pairs = match record.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(pairs)) => pairs,
        Some(other) => return Err(invalid(place, key, "a list of pairs", other)),
    };
    let mut messages = Vec::with_capacity(pairs.len() * 2);
    for (index, pair) in pairs.iter().enumerate() {
        let key = format!("{key}[{index}]");
        let Some([question, answer]) = pair.as_array().map(Vec::as_slice) else {
            return Err(invalid(place, key, "a pair of question and answer", pair));
        };
        for (role, content) in [("user", question), ("assistant", answer)] {
            match content {
                Value::String(text) => messages.push(json!({ "role": role, "content": text })),
                Value::Null => return Err(missing(place, key)),
                other => return Err(invalid(place, key, "two texts", other)),
            }
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::super::error::At;
    use super::*;

    fn parse(record: Value) -> Result<Vec<Conversation>, String> {
        let place = Place { path: std::sync::Arc::new("a.json".into()), at: At::Record(3) };
        read(&record, &Columns::default(), &place).map_err(|e| e.to_string())
    }

    #[test]
    fn system_and_history_come_before_the_instruction() {
        let found = parse(json!({
            "instruction": "And in red?", "input": "a car", "output": "A red car.",
            "system": "Be brief.", "history": [["Which?", "This one."]],
        }))
        .unwrap();
        assert_eq!(
            Value::Array(found[0].messages.clone()),
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Which?"},
                {"role": "assistant", "content": "This one."},
                {"role": "user", "content": "And in red?"},
                {"role": "assistant", "content": "A red car."},
            ])
        );
        assert_eq!(found[0].input.as_deref(), Some("a car"));
    }

    #[test]
    fn an_empty_input_is_none_and_seed_tasks_have_several() {
        let found = parse(json!({"instruction": "Hi", "input": "", "output": "Hello"})).unwrap();
        assert_eq!(found[0].input, None);
        let seed = parse(json!({"id": "seed_task_1", "instruction": "Double it", "instances": [
            {"input": "1", "output": "2"}, {"input": "2", "output": "4"}]}))
        .unwrap();
        assert_eq!(seed.len(), 2);
        assert_eq!(seed[1].messages[1]["content"], "4");
        assert_eq!(seed[1].input.as_deref(), Some("2"));
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_kind_is_named() {
        let error = |record| parse(record).unwrap_err();
        assert_eq!(error(json!({"instruction": "x"})), "a.json, record 3: key `output` is missing");
        assert_eq!(
            error(json!({"instruction": "x", "output": 4})),
            "a.json, record 3: output: expected a text, got a number"
        );
        assert_eq!(
            error(json!({"instruction": "x", "output": "y", "history": [["only"]]})),
            "a.json, record 3: history[0]: expected a pair of question and answer, got a list"
        );
        let columns = Columns { output: Some("answer".into()), ..Columns::default() };
        let place = Place { path: std::sync::Arc::new("a.json".into()), at: At::Line(1) };
        let record = json!({"instruction": "x", "answer": "y"});
        assert_eq!(read(&record, &columns, &place).unwrap()[0].messages[1]["content"], "y");
    }
}
