//! Reads an answer: calls of the tools that were offered, or the text as it is.

use super::{CallEvent, CallParser, Format};

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON, cut where the answer was.
    pub(crate) arguments: String,
}

/// The reader of one answer, in pieces; without tools all of it is text.
#[derive(Debug, Clone)]
pub(crate) struct Reader(Option<CallParser>);

impl Reader {
    pub(crate) fn new(tools: Option<Format>) -> Self {
        Self(tools.map(CallParser::new))
    }

    /// What the next piece means; nothing for an empty one.
    pub(crate) fn push(&mut self, piece: String) -> Vec<CallEvent> {
        match &mut self.0 {
            Some(parser) => parser.push(&piece),
            None if piece.is_empty() => Vec::new(),
            None => vec![CallEvent::Text(piece)],
        }
    }

    /// What was held back, once no more comes.
    pub(crate) fn finish(&mut self) -> Vec<CallEvent> {
        self.0.as_mut().map(CallParser::finish).unwrap_or_default()
    }
}

/// The text of `events`; calls go to `calls`, the last of which may grow.
pub(crate) fn gather(events: Vec<CallEvent>, calls: &mut Vec<Call>) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            CallEvent::Text(more) => text += &more,
            CallEvent::Begin { name } => calls.push(Call { name, arguments: String::new() }),
            CallEvent::Arguments(more) => {
                if let Some(call) = calls.last_mut() {
                    call.arguments += &more;
                }
            }
        }
    }
    text
}

/// Text and calls of a whole answer.
pub(crate) fn split(tools: Option<Format>, answer: String) -> (String, Vec<Call>) {
    let mut reader = Reader::new(tools);
    let mut events = reader.push(answer);
    events.extend(reader.finish());
    let mut calls = Vec::new();
    let text = gather(events, &mut calls);
    (text, calls)
}
