//! JSON: an array of objects or strings, or such values one after the other, read as a stream.

use std::fmt;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::limit::{Allowance, Limited};
use super::{Sink, too_long};
use crate::DataError;
use crate::error::{At, Problem};
use crate::prepare::document::{Body, RawDocument, json_problem, text_of};

pub(super) fn read(
    path: &Arc<Path>,
    reader: impl Read,
    key: &str,
    sink: Sink<'_>,
) -> Result<(), DataError> {
    let (limited, allowance) = Limited::new(reader);
    let mut parser = serde_json::Deserializer::from_reader(BufReader::new(limited));
    let mut elements =
        Elements { path, key, sink, allowance: allowance.clone(), count: 0, stopped: false };
    // Not at the end: an array, or one more value (JSON lines under the name .json).
    while parser.end().is_err() {
        match (&mut elements).deserialize(&mut parser) {
            Ok(()) => {}
            Err(_) if elements.stopped => break,
            Err(error) if allowance.is_spent() => {
                return Err(too_long(path, At::Line(error.line() as u64)));
            }
            Err(error) => {
                let at = At::Line(error.line() as u64);
                let problem = match error.classify() {
                    serde_json::error::Category::Io => Problem::Read { reason: error.to_string() },
                    _ => json_problem(&error),
                };
                return Err(DataError::document(path, at, problem));
            }
        }
    }
    Ok(())
}

struct Elements<'a, 's> {
    path: &'a Arc<Path>,
    key: &'a str,
    sink: Sink<'s>,
    allowance: Allowance,
    count: u64,
    stopped: bool,
}

impl Elements<'_, '_> {
    fn give<E: serde::de::Error>(&mut self, value: Value) -> Result<(), E> {
        self.allowance.renew();
        self.count += 1;
        let at = At::Element(self.count);
        let document = match text_of(value, self.key) {
            Ok(text) => Ok(RawDocument { path: self.path.clone(), at, body: Body::Ready(text) }),
            Err(problem) => Err(DataError::document(self.path, at, problem)),
        };
        self.stopped = (self.sink)(document).is_break();
        if self.stopped { Err(E::custom("no more is wanted")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Elements<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects or strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(value) = sequence.next_element::<Value>()? {
            self.give::<A::Error>(value)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let value = Value::deserialize(MapAccessDeserializer::new(map))?;
        self.give(value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.give(Value::String(text.to_owned()))
    }
}
