//! The commands inside a chat: lines that begin with a slash.

/// A line of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// For the model.
    Message(&'a str),
    /// For puna.
    Command(Command<'a>),
    /// Begins like a command, but there is none of that name.
    Unknown(&'a str),
}

/// What a person can ask of puna during a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// List the commands.
    Help,
    /// Set the system prompt, or show it.
    System(Option<&'a str>),
    /// Write the conversation to a file.
    Save(Option<&'a str>),
    /// Forget the conversation.
    Clear,
    /// Answer the last message anew.
    Regenerate,
    /// Speed and memory of the last answer.
    Stats,
    /// Leave.
    Quit,
}

/// Shown for `/help`.
pub(super) const HELP: &str = "\
/system [TEXT]  set the system prompt, or show it
/regenerate     answer the last message anew, with another seed
/clear          forget the conversation (the system prompt stays)
/save FILE      write the conversation as JSON
/stats          speed and memory of the last answer
/quit           leave (also Ctrl-D)
Ctrl-C stops an answer.";

/// Sorts a line; it is not empty.
pub(super) fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    if !line.starts_with('/') {
        return Line::Message(line);
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = Some(rest.trim()).filter(|rest| !rest.is_empty());
    Line::Command(match name {
        "/help" => Command::Help,
        "/system" => Command::System(argument),
        "/save" => Command::Save(argument),
        "/clear" => Command::Clear,
        "/regenerate" => Command::Regenerate,
        "/stats" => Command::Stats,
        "/quit" | "/exit" => Command::Quit,
        _ => return Line::Unknown(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_commands_or_typing_errors() {
        assert_eq!(parse(" What is /x? "), Line::Message("What is /x?"));
        assert_eq!(parse("/system  Be brief. "), Line::Command(Command::System(Some("Be brief."))));
        assert_eq!(parse("/save"), Line::Command(Command::Save(None)));
        assert_eq!(parse("/sistem x"), Line::Unknown("/sistem"));
    }
}
