//! `puna generate`: continues a text.

mod report;

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args as ClapArgs;
use puna_infer::{
    BatchGeneration, Completion, Detokenizer, Drafter, Event, GenerateOptions, PromptText, Session,
    Timings, TokensOnly, beam_search, generate_batch,
};
use puna_model::Decoder;
use serde_json::json;

use crate::args::{RunArgs, read_text};
use crate::chat_format::{ChatFormat, TemplateArgs};
use crate::draft_args::{Draft, DraftArgs};
use crate::loaded::Loaded;
use crate::progress::{Progress, Unit};
use crate::report::Outcome;
use crate::sampling_args::{self, LengthArgs, SamplingArgs, SearchArgs};
use crate::{interrupt, output};

/// New tokens where neither the command line nor the checkpoint names a number.
const DEFAULT_LENGTH: usize = 256;

/// Continues a text and streams the new text to stdout.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  puna generate 'A vector is' -n 64\n  \
    puna generate -m ./model --token-ids 1,2,3 -n 24 --temperature 0 --exact --json\n  \
    puna generate -m ./model --chat 'Name three lakes.' --num-beams 4\n  \
    puna generate -m ./model --prompt-file code.rs --prompt-lookup")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    draft: DraftArgs,
    /// Print the prompt's text before the new text
    #[arg(long, conflicts_with = "json")]
    echo: bool,
    /// Print one JSON object at the end: token_ids, logprobs, text, finish_reason, timings
    #[arg(long)]
    json: bool,
}

/// What to continue.
#[derive(Debug, ClapArgs)]
struct PromptArgs {
    /// The text to continue
    #[arg(
        value_name = "PROMPT",
        required_unless_present_any = ["token_ids", "prompt_file"],
        conflicts_with_all = ["token_ids", "prompt_file"]
    )]
    prompt: Option<String>,
    /// The prompt as token ids, used as they are (nothing is added)
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "prompt_file")]
    token_ids: Option<Vec<u32>>,
    /// File that holds the prompt (- is stdin)
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Treat the prompt as a user's message: apply the chat template
    #[arg(long, conflicts_with = "token_ids")]
    chat: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    interrupt::install()?;
    let settings = args.run.settings()?;
    let loaded = Loaded::load(&settings)?;
    let prompt = args.prompt.ids(&loaded, &args.template)?;
    let options = args.options(&loaded)?;
    let draft = args.draft.load(&settings, &loaded)?;
    if draft.drafter().is_some() && (options.beams.is_some() || options.completions > 1) {
        bail!("speculative decoding is for one sequence: leave out beams and completions");
    }
    match &loaded.tokenizer {
        Some(tokenizer) => args.generate((&loaded, &draft), tokenizer, &prompt, &options),
        None => args.generate((&loaded, &draft), &TokensOnly, &prompt, &options),
    }
}

impl PromptArgs {
    fn ids(&self, loaded: &Loaded, template: &TemplateArgs) -> anyhow::Result<Vec<u32>> {
        if let Some(ids) = &self.token_ids {
            return Ok(ids.clone());
        }
        let text = match &self.prompt_file {
            Some(path) => read_text(path)?,
            None => self.prompt.clone().unwrap_or_default(),
        };
        if !self.chat {
            return loaded.encode(&text);
        }
        let tokenizer = loaded.tokenizer()?;
        let format = ChatFormat::choose(template, loaded.template.as_ref(), &loaded.origin)?;
        format.ids(tokenizer, &json!([{ "role": "user", "content": text }]))
    }
}

impl Args {
    fn options(&self, loaded: &Loaded) -> anyhow::Result<GenerateOptions> {
        let options = sampling_args::options(
            &self.sampling,
            &self.length,
            &loaded.generation,
            loaded.eos(),
            Some(DEFAULT_LENGTH),
        )?;
        let prompt_text = if self.echo { PromptText::Emit } else { PromptText::Skip };
        self.search.apply(GenerateOptions { prompt_text, ..options })
    }

    fn generate<T: Detokenizer>(
        &self,
        (loaded, draft): (&Loaded, &Draft),
        detokenizer: &T,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> anyhow::Result<Outcome> {
        let decoder = &loaded.model.decoder;
        let (completions, timings) = if options.beams.is_some() {
            search(decoder, detokenizer, prompt, options)?
        } else if options.completions > 1 {
            let batch = sample_many(decoder, detokenizer, prompt, options)?;
            (batch.completions, batch.timings)
        } else {
            let (completion, timings) =
                self.stream((decoder, draft), detokenizer, prompt, options)?;
            (vec![completion], timings)
        };
        let streamed = options.beams.is_none() && options.completions == 1;
        if self.json {
            output::json(&report::report(&completions, &timings, loaded.load_seconds))?;
        } else if streamed {
            output::line("")?;
        } else {
            for completion in &completions {
                output::line(&completion.text)?;
            }
        }
        Ok(Outcome::Done)
    }

    /// One sequence; its text goes to stdout as it comes, unless JSON is wanted.
    fn stream<T: Detokenizer>(
        &self,
        (decoder, draft): (&Decoder, &Draft),
        detokenizer: &T,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> anyhow::Result<(Completion, Timings)> {
        let mut sink = Sink { silent: self.json, ids: !T::GIVES_TEXT, ..Sink::new() };
        let mut session = Session::new(decoder);
        let made = match draft.drafter() {
            None => session.generate(decoder, detokenizer, prompt, options, |e| sink.take(e)),
            Some((mut drafter, max)) => {
                let drafter: &mut dyn Drafter = &mut *drafter;
                let (request, drafting) = ((prompt, options), (drafter, max));
                let take = |e| sink.take(e);
                session.generate_drafted(decoder, detokenizer, request, drafting, take)
            }
        }?;
        sink.finish()?;
        Ok((made.completion, made.timings))
    }
}

/// Prints events; remembers the error that made it break off.
struct Sink {
    silent: bool,
    /// Print ids where there is no text.
    ids: bool,
    progress: Option<Progress>,
    error: Option<anyhow::Error>,
}

impl Sink {
    fn new() -> Self {
        let progress = Some(Progress::new("prompt", Unit::Tokens));
        Self { silent: false, ids: false, progress, error: None }
    }

    fn take(&mut self, event: Event) -> ControlFlow<()> {
        let printed = match event {
            Event::Prefill { done, total } => {
                if let Some(progress) = &mut self.progress {
                    progress.update(done as u64, total as u64);
                }
                Ok(())
            }
            _ if self.silent => Ok(()),
            Event::PromptText(text) | Event::Token { text: Some(text), .. } => self.print(&text),
            Event::Token { id, text: None, .. } if self.ids => self.print(&format!("{id} ")),
            Event::Token { .. } | Event::Done(_) => Ok(()),
        };
        if let Err(error) = printed {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn print(&mut self, text: &str) -> anyhow::Result<()> {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
        output::text(text)
    }

    fn finish(self) -> anyhow::Result<()> {
        if let Some(progress) = self.progress {
            progress.finish();
        }
        self.error.map_or(Ok(()), Err)
    }
}

fn going_on() -> ControlFlow<()> {
    if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn search<T: Detokenizer>(
    decoder: &Decoder,
    detokenizer: &T,
    prompt: &[u32],
    options: &GenerateOptions,
) -> anyhow::Result<(Vec<Completion>, Timings)> {
    let found = beam_search(decoder, detokenizer, prompt, options, going_on)?;
    let completions = found.hypotheses.into_iter().map(|h| h.completion).collect();
    Ok((completions, found.timings))
}

fn sample_many<T: Detokenizer>(
    decoder: &Decoder,
    detokenizer: &T,
    prompt: &[u32],
    options: &GenerateOptions,
) -> anyhow::Result<BatchGeneration> {
    let prompts = [prompt.to_vec()];
    Ok(generate_batch(decoder, detokenizer, &prompts, options, |_, _| going_on())?)
}
