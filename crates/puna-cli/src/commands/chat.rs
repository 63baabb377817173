//! `puna chat`: a conversation at the terminal, or one message per line of a pipe.

mod command;
mod conversation;
mod input;
mod talk;

use std::path::Path;

use crate::args::RunArgs;
use crate::chat_format::{ChatFormat, TemplateArgs};
use crate::draft_args::DraftArgs;
use crate::loaded::Loaded;
use crate::model_ref::ModelRef;
use crate::report::{ClosedPipe, Outcome};
use crate::sampling_args::{self, LengthArgs, SamplingArgs};
use crate::{interrupt, output, report, units};
use command::{Command, Line};
use input::{Input, Typed};
use talk::Talk;

/// New tokens of a plain continuation, which has no end of its own.
const PLAIN_LENGTH: usize = 128;

/// Talks to a model. At a terminal /help lists the commands; elsewhere each line of stdin is a
/// message, answered on stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  puna chat\n  puna chat -m ./model --system 'Be brief.'\n  \
    printf 'What is a vector?\\n' | puna chat")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    draft: DraftArgs,
}

/// Whether the conversation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Line,
    Leave,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    interrupt::install()?;
    let settings = args.run.settings()?;
    let loaded = Loaded::load(&settings)?;
    let format = ChatFormat::find(&args.template, loaded.template.as_ref())?;
    let default_length = if format.is_some() { None } else { Some(PLAIN_LENGTH) };
    let options = sampling_args::options(
        &args.sampling,
        &args.length,
        &loaded.generation,
        loaded.eos(),
        default_length,
    )?;
    let mut input = Input::open()?;
    greet(&loaded, format.is_some(), input.is_interactive());
    if format.is_none() && args.system.is_some() {
        output::note("warning: without a chat template --system has no effect");
    }
    let draft = args.draft.load(&settings, &loaded)?;
    let mut talk = Talk::new((&loaded, &draft), format, options)?;
    talk.conversation.system.clone_from(&args.system);
    converse(&mut input, &mut talk)?;
    Ok(Outcome::Done)
}

fn greet(loaded: &Loaded, has_template: bool, interactive: bool) {
    match &loaded.origin {
        ModelRef::BuiltIn(model) => output::note(model.about),
        ModelRef::Path(path) if interactive => output::note(&format!(
            "{}: {} parameters, context {} tokens",
            path.display(),
            units::count(loaded.model.config.decoder.parameters().total),
            loaded.model.config.decoder.max_seq_len
        )),
        ModelRef::Path(_) => {}
    }
    if !has_template {
        output::note(
            "It has no chat template: it continues each message as plain text and remembers none \
             (--template llama2, alpaca or vicuna makes prompts of a conversation).",
        );
    }
    if interactive {
        output::note("/help lists the commands; Ctrl-D leaves.");
    }
}

fn converse(input: &mut Input, talk: &mut Talk<'_>) -> anyhow::Result<()> {
    let mut interrupted = false;
    loop {
        let line = match input.next()? {
            Typed::End => return Ok(()),
            Typed::Interrupted if interrupted => return Ok(()),
            Typed::Interrupted => {
                interrupted = true;
                output::note("Ctrl-C again or Ctrl-D leaves.");
                continue;
            }
            Typed::Line(line) => line,
        };
        interrupted = false;
        match take(&line, input.is_interactive(), talk) {
            Ok(Next::Line) => {}
            Ok(Next::Leave) => return Ok(()),
            // At a terminal one failed line does not end the conversation.
            Err(error) if input.is_interactive() && !error.is::<ClosedPipe>() => {
                report::show(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

fn take(line: &str, interactive: bool, talk: &mut Talk<'_>) -> anyhow::Result<Next> {
    match command::parse(line) {
        Line::Message(message) => talk.ask(message)?,
        Line::Unknown(name) if interactive => {
            output::note(&format!("There is no {name}; /help lists the commands."));
        }
        // In a pipe a message may well begin with a slash.
        Line::Unknown(_) => talk.ask(line.trim())?,
        Line::Command(command) => return obey(command, talk),
    }
    Ok(Next::Line)
}

fn obey(command: Command<'_>, talk: &mut Talk<'_>) -> anyhow::Result<Next> {
    match command {
        Command::Help => output::note(command::HELP),
        Command::System(Some(text)) => {
            talk.conversation.system = Some(text.to_string());
            if !talk.has_template() {
                output::note("Without a chat template the system prompt has no effect.");
            }
        }
        Command::System(None) => {
            let system = talk.conversation.system.as_deref();
            output::note(system.unwrap_or("There is no system prompt."));
        }
        Command::Save(Some(file)) => {
            talk.conversation.save(Path::new(file))?;
            output::note(&format!("Saved to {file}."));
        }
        Command::Save(None) => output::note("/save FILE: the file's name is missing."),
        Command::Clear => talk.clear(),
        Command::Regenerate => {
            if !talk.regenerate()? {
                output::note("There is no answer yet.");
            }
        }
        Command::Stats => output::note(talk.stats().trim_end()),
        Command::Quit => return Ok(Next::Leave),
    }
    Ok(Next::Line)
}
