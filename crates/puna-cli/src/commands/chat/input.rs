//! Where messages come from: an editable line with history, or lines of a file or pipe.

use std::io::{BufRead, IsTerminal, stdin};
use std::path::PathBuf;

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// Lines kept in the history file.
const HISTORY_LINES: usize = 1000;

/// One step of input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the end of the file.
    End,
}

/// A source of lines.
pub(super) enum Input {
    /// A person at a terminal.
    Editor { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    /// A file or pipe: one message per line.
    Pipe,
}

impl Input {
    pub(super) fn open() -> anyhow::Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let config = rustyline::Config::builder().max_history_size(HISTORY_LINES)?.build();
        let mut editor = DefaultEditor::with_config(config).context("cannot read the terminal")?;
        let history = history_file();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Self::Editor { editor: Box::new(editor), history })
    }

    /// Whether a person is typing.
    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Editor { .. })
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> anyhow::Result<Typed> {
        loop {
            let typed = self.read()?;
            match &typed {
                Typed::Line(line) if line.trim().is_empty() => {}
                _ => return Ok(typed),
            }
        }
    }

    fn read(&mut self) -> anyhow::Result<Typed> {
        match self {
            Self::Pipe => {
                let mut line = String::new();
                let bytes = stdin().lock().read_line(&mut line).context("cannot read stdin")?;
                Ok(if bytes == 0 { Typed::End } else { Typed::Line(line) })
            }
            Self::Editor { editor, history } => match editor.readline("> ") {
                Ok(line) => {
                    remember(editor, history.as_ref(), &line);
                    Ok(Typed::Line(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error).context("cannot read the terminal"),
            },
        }
    }
}

/// A history that cannot be written is no reason to stop a conversation.
fn remember(editor: &mut DefaultEditor, history: Option<&PathBuf>, line: &str) {
    if line.trim().is_empty() || editor.add_history_entry(line).is_err() {
        return;
    }
    if let Some(path) = history
        && path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok())
    {
        let _ = editor.save_history(path);
    }
}

/// `$XDG_STATE_HOME/puna/history`, by default `~/.local/state/puna/history`.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state =
        set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("puna/history"))
}
