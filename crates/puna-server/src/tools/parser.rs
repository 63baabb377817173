//! Finds calls in text that comes in pieces.
//!
//! A small state machine over characters: outside a call it holds back what may begin one, inside it
//! hands out the arguments' characters as they come, counting braces outside strings to know the
//! end. It reads what the grammar of `tools.rs` lets through and nothing else.

use super::{Format, HERMES_BEGIN, MISTRAL_BEGIN};

/// What a piece of text meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallEvent {
    /// Text for the reader.
    Text(String),
    /// A call begins.
    Begin { name: String },
    /// More of the last call's arguments.
    Arguments(String),
}

/// Where the parser is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// In text; what may begin a marker is held.
    Text,
    /// In text that holds no call.
    Plain,
    /// Between marker and arguments.
    Head,
    /// In the arguments.
    Arguments { depth: usize, place: Place },
    /// Behind the arguments, up to the next call.
    Between,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    String,
    Escape,
}

/// The parser of one answer.
#[derive(Debug, Clone)]
pub(crate) struct CallParser {
    format: Format,
    state: State,
    held: String,
    events: Vec<CallEvent>,
}

impl CallParser {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, state: State::Text, held: String::new(), events: Vec::new() }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<CallEvent> {
        for c in piece.chars() {
            self.take(c);
        }
        if matches!(self.state, State::Text | State::Plain) {
            let ready = self.held.len() - self.undecided();
            let rest = self.held.split_off(ready);
            let text = std::mem::replace(&mut self.held, rest);
            self.text(text);
        }
        std::mem::take(&mut self.events)
    }

    /// What was held back, once no more comes.
    pub(crate) fn finish(&mut self) -> Vec<CallEvent> {
        let held = std::mem::take(&mut self.held);
        if matches!(self.state, State::Text | State::Plain) {
            self.text(held);
        }
        std::mem::take(&mut self.events)
    }

    fn take(&mut self, c: char) {
        match &mut self.state {
            State::Text => {
                self.held.push(c);
                self.find_marker();
            }
            State::Plain => self.held.push(c),
            State::Head => {
                self.held.push(c);
                self.find_arguments();
            }
            State::Arguments { depth, place } => {
                let ended = step(c, depth, place);
                self.argument(c);
                if ended {
                    self.state = State::Between;
                    self.held.clear();
                }
            }
            // The call's own brace, its end marker, a separator; a brace begins the next call.
            State::Between if c == '{' => {
                self.held.clear();
                self.held.push(c);
                self.state = State::Head;
            }
            State::Between => {}
        }
    }

    fn find_marker(&mut self) {
        let marker = match self.format {
            Format::Hermes => HERMES_BEGIN,
            Format::Mistral { .. } => MISTRAL_BEGIN,
            // A call is the whole text: the first character decides.
            Format::Llama3 => {
                self.state = if self.held == "{" { State::Head } else { State::Plain };
                return;
            }
        };
        if let Some(at) = self.held.find(marker) {
            let text = self.held[..at].to_owned();
            self.text(text);
            self.held.clear();
            self.state = State::Head;
        }
    }

    /// Bytes at the end of the held text that may begin a marker.
    fn undecided(&self) -> usize {
        let marker = match self.format {
            Format::Hermes => HERMES_BEGIN,
            Format::Mistral { .. } => MISTRAL_BEGIN,
            Format::Llama3 => return 0,
        };
        let from = self.held.len().saturating_sub(marker.len() - 1);
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| marker.starts_with(&self.held[at..]))
            .map_or(0, |at| self.held.len() - at)
    }

    /// Looks whether the head, `{"name": "…", "arguments": {`, is whole.
    fn find_arguments(&mut self) {
        if !self.held.ends_with('{') || self.held.trim_start_matches(['\n', ' ', '[']).len() < 2 {
            return;
        }
        let head = self.held.trim_start_matches(['\n', ' ', '[']);
        // What stands there closes to a whole object with the arguments left empty.
        let Ok(call) = serde_json::from_str::<serde_json::Value>(&format!("{head}}}}}")) else {
            return;
        };
        let Some(name) = call.get("name").and_then(|name| name.as_str()) else { return };
        self.events.push(CallEvent::Begin { name: name.to_owned() });
        self.held.clear();
        self.state = State::Arguments { depth: 1, place: Place::Outside };
        self.argument('{');
    }

    fn text(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        match self.events.last_mut() {
            Some(CallEvent::Text(last)) => last.push_str(&text),
            _ => self.events.push(CallEvent::Text(text)),
        }
    }

    fn argument(&mut self, c: char) {
        match self.events.last_mut() {
            Some(CallEvent::Arguments(last)) => last.push(c),
            _ => self.events.push(CallEvent::Arguments(c.to_string())),
        }
    }
}

/// Moves over a character of JSON; whether it closes the outermost brace.
fn step(c: char, depth: &mut usize, place: &mut Place) -> bool {
    *place = match (*place, c) {
        (Place::String, '\\') => Place::Escape,
        (Place::String, '"') => Place::Outside,
        (Place::String | Place::Escape, _) => Place::String,
        (Place::Outside, '"') => Place::String,
        (Place::Outside, '{' | '[') => {
            *depth += 1;
            Place::Outside
        }
        (Place::Outside, '}' | ']') => {
            *depth -= 1;
            Place::Outside
        }
        (Place::Outside, _) => Place::Outside,
    };
    *depth == 0
}

#[cfg(test)]
mod tests {
    use super::{CallEvent, CallParser, Format};

    /// Text and calls, whatever the pieces.
    fn parse(format: Format, text: &str, pieces: usize) -> (String, Vec<(String, String)>) {
        let mut parser = CallParser::new(format);
        let chars: Vec<char> = text.chars().collect();
        let mut events = Vec::new();
        for piece in chars.chunks(pieces) {
            events.extend(parser.push(&piece.iter().collect::<String>()));
        }
        events.extend(parser.finish());
        let (mut out, mut calls) = (String::new(), Vec::<(String, String)>::new());
        for event in events {
            match event {
                CallEvent::Text(text) => out += &text,
                CallEvent::Begin { name } => calls.push((name, String::new())),
                CallEvent::Arguments(more) => calls.last_mut().unwrap().1 += &more,
            }
        }
        (out, calls)
    }

    const TRICKY: &str = r#"{"a": "} ] \" {\\", "b": [{"c": {}}]}"#;

    #[test]
    fn calls_are_found_whatever_the_pieces() {
        let hermes = format!(
            "Let me <see>.<tool_call>\n{{\"name\": \"f\", \"arguments\": {TRICKY}}}\n</tool_call>\n\
             <tool_call>\n{{\"name\":\"g\",\"arguments\":{{}}}}\n</tool_call>"
        );
        let mistral = format!(
            "Let me <see>.[TOOL_CALLS] [{{\"name\": \"f\", \"arguments\": {TRICKY}}}, \
             {{\"name\":\"g\",\"arguments\":{{}}}}]"
        );
        for (format, text) in [(Format::Hermes, &hermes), (Format::Mistral { marker: 5 }, &mistral)]
        {
            for pieces in [1, 2, 3, 7, 1000] {
                let (out, calls) = parse(format, text, pieces);
                assert_eq!(out, "Let me <see>.");
                assert_eq!(calls[0], ("f".to_owned(), TRICKY.to_owned()));
                assert_eq!(calls[1], ("g".to_owned(), "{}".to_owned()));
            }
        }
    }

    #[test]
    fn llamas_whole_text_is_a_call_or_none_is() {
        let call = format!("{{\"name\": \"f\", \"parameters\": {TRICKY}}}");
        for pieces in [1, 3, 1000] {
            let (out, calls) = parse(Format::Llama3, &call, pieces);
            assert_eq!((out.as_str(), calls.len()), ("", 1));
            assert_eq!(calls[0].1, TRICKY);
            let (out, calls) = parse(Format::Llama3, "Say {\"name\": 1}.", pieces);
            assert_eq!((out.as_str(), calls.len()), ("Say {\"name\": 1}.", 0));
        }
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_text() {
        assert_eq!(parse(Format::Hermes, "a <tool_cal", 1).0, "a <tool_cal");
    }
}
