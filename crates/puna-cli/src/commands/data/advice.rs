//! What to do about an error of preparing data.

use puna_data::{DataError, Problem};

use crate::report::Hint;

/// The error with a hint, where there is something to do.
pub(super) fn explain(error: DataError) -> anyhow::Error {
    let hint = match &error {
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
        DataError::Io(puna_io::IoError::Os { source, .. })
            if source.kind() == std::io::ErrorKind::StorageFull =>
        {
            "make room and run the same command again: what is finished is kept"
        }
        _ => return error.into(),
    };
    match Err::<(), _>(error).hint(hint) {
        Err(hinted) => hinted,
        Ok(()) => unreachable!("an error stays one"),
    }
}
