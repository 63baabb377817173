//! What to do about the errors of the libraries, by their kind.
//!
//! Here and not where commands call them: the same error (a damaged folder of tokens, a full disk)
//! comes up in several commands and wants the same advice. A transparent error stands for the one
//! it wraps, which is not in the chain of causes, so it is asked for here.

use std::error::Error;
use std::io;

use puna_data::{DataError, Problem};
use puna_infer::InferError;
use puna_io::IoError;
use puna_model::ModelError;
use puna_plot::PlotError;
use puna_server::ServerError;
use puna_train::TrainError;
use puna_train::log::LogError;

/// Advice that follows from the kind of an error.
pub(super) fn known_hint(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<TrainError>() {
        return train(error);
    }
    if let Some(error) = cause.downcast_ref::<DataError>() {
        return data(error);
    }
    if let Some(error) = cause.downcast_ref::<InferError>() {
        return infer(error);
    }
    if let Some(error) = cause.downcast_ref::<ServerError>() {
        return server(error);
    }
    files(cause.downcast_ref::<IoError>()?)
}

fn server(error: &ServerError) -> Option<&'static str> {
    match error {
        ServerError::Unguarded { .. } => Some(
            "set keys with --api-key-file FILE (one per line), or say that anybody may use this \
             server with --insecure",
        ),
        ServerError::Listen { .. } => {
            Some("another program may use this port: choose one with --port (0 takes any)")
        }
        ServerError::NameTaken { .. } => Some("name models with -m NAME=MODEL"),
        _ => None,
    }
}

fn infer(error: &InferError) -> Option<&'static str> {
    match error {
        InferError::ContextOverflow { .. } => {
            Some("shorten the prompt, ask for fewer tokens with -n, or use --context-shift")
        }
        InferError::ConflictingOptions { .. } => {
            Some("a model's generation_config.json may set one of them; 0 or 1 turns it off")
        }
        _ => None,
    }
}

fn files(error: &IoError) -> Option<&'static str> {
    match error {
        IoError::NotACheckpoint { .. } => Some(
            "a checkpoint is a folder of .safetensors, .bin or consolidated.*.pth files with its \
             config, or a .gguf file",
        ),
        IoError::Ambiguous { .. } => Some("give the file itself as MODEL"),
        IoError::Os { source, .. } => system(source),
        _ => None,
    }
}

/// What a person can do about the system's reason. Every writer of puna writes aside, so that the
/// same command can be given again.
fn system(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Some("make room and run the same command again: what is finished is kept")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("choose a place that you may read and write")
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            Some("a file is where a folder should be: choose another folder, or move it away")
        }
        _ => None,
    }
}

fn data(error: &DataError) -> Option<&'static str> {
    Some(match error {
        DataError::Document { problem, .. } => match problem {
            Problem::MissingKey { .. } => "name the text's key or column with --text-key",
            Problem::NotUtf8 { .. } => {
                "convert the file to UTF-8 (iconv -t UTF-8), or skip such files with --skip-bad"
            }
            _ => {
                "mend or remove it and run the same command again (without --force), which \
                 continues; or skip such \
                 documents with --skip-bad"
            }
        },
        DataError::Stopped { .. } => "run the same command again (without --force) to continue",
        DataError::AlreadyPrepared { .. } => "choose another folder, or replace it with --force",
        DataError::OtherSettings { .. } => {
            "give the settings it was begun with, or start anew with --force"
        }
        DataError::InputsChanged { .. } => "start anew with --force",
        DataError::NotEmpty { .. } => "choose an empty or new folder",
        DataError::NothingKept { .. } => "loosen the filters",
        DataError::NoManifest { unfinished: true, .. } => {
            "run the same `puna data prepare` again to continue"
        }
        DataError::NoManifest { .. } => "`puna data prepare` makes such a folder",
        DataError::TooFewTokens { .. } => "prepare more text, or take a smaller sequence length",
        DataError::Io(error @ IoError::Os { .. }) => return files(error),
        DataError::Damaged { .. } | DataError::Io(_) => {
            "the folder is not as `puna data prepare` left it: copy it again from where it was \
             whole, or prepare the data again into another folder"
        }
        _ => return None,
    })
}

fn train(error: &TrainError) -> Option<&'static str> {
    let file = match error {
        TrainError::Data(error) => return data(error),
        TrainError::Damaged { .. } => {
            return Some(
                "remove that folder: --resume then goes on from the checkpoint before it; or \
                 --restart",
            );
        }
        TrainError::Changed { .. } | TrainError::Checkpoint { .. } => {
            return Some(
                "give it its old value back; or begin another run, with another output and \
                 model.from = that checkpoint",
            );
        }
        TrainError::Log(LogError::Line { .. }) => {
            return Some("mend the line or remove the file: training itself does not need it");
        }
        TrainError::File { source, .. } | TrainError::Log(LogError::Write { source, .. }) => source,
        TrainError::Log(LogError::Plot(error)) => match error.as_ref() {
            PlotError::Write { source, .. } | PlotError::Replace(IoError::Os { source, .. }) => {
                source
            }
            _ => return None,
        },
        TrainError::Io(IoError::Os { source, .. })
        | TrainError::Log(LogError::Replace(IoError::Os { source, .. }))
        | TrainError::Model(ModelError::Io(IoError::Os { source, .. })) => source,
        TrainError::Io(error) | TrainError::Model(ModelError::Io(error)) => return files(error),
        _ => return None,
    };
    match file.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Some(
                "make room; --resume then goes on from the newest checkpoint, and if there is \
                 none yet, the same command begins again",
            )
        }
        _ => system(file),
    }
}
