//! Training runs: folders with a metrics.jsonl.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::api_error::ApiError;

const METRICS: &str = "metrics.jsonl";

/// A run that wrote nothing for so long does not go on.
const SILENCE: Duration = Duration::from_secs(300);

/// Most bytes of an answer; the page asks again behind the last step that it got.
const MOST_BYTES: usize = 16 << 20;

/// The end of a file that holds its last line.
const TAIL: u64 = 64 << 10;

fn unreadable(what: &str) -> ApiError {
    let message = format!("{what} cannot be read");
    ApiError::protocol(StatusCode::INTERNAL_SERVER_ERROR, message).code("unreadable")
}

/// The runs of a folder, by name.
pub(super) fn list(folder: &Path) -> Result<Vec<Value>, ApiError> {
    let entries = fs::read_dir(folder).map_err(|_| unreadable("the folder of runs"))?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let described = names.into_iter().filter_map(|name| {
        let path = metrics_of(folder, &name)?;
        let steps = last_step(&path).unwrap_or(0);
        let state = state(&path);
        Some(json!({ "name": name, "steps": steps, "state": state }))
    });
    Ok(described.collect())
}

/// The metrics of a run, if there is such a run: one folder deep, and inside the folder also behind
/// symbolic links.
fn metrics_of(folder: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    if !plain {
        return None;
    }
    let root = folder.canonicalize().ok()?;
    let path = root.join(name).join(METRICS).canonicalize().ok()?;
    (path.starts_with(&root) && path.is_file()).then_some(path)
}

fn state(metrics: &Path) -> &'static str {
    let run = metrics.parent().unwrap_or(metrics);
    if ["model", "adapter"].iter().any(|name| run.join(name).is_dir()) {
        return "finished";
    }
    let written = fs::metadata(metrics).and_then(|data| data.modified()).ok();
    match written.and_then(|time| time.elapsed().ok()) {
        Some(silence) if silence > SILENCE => "stopped",
        _ => "running",
    }
}

fn last_step(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut text = String::new();
    BufReader::new(file).take(TAIL).read_to_string(&mut text).ok()?;
    text.lines().rev().find_map(step)
}

fn step(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}

/// Lines of later steps than `after`, whole ones only.
pub(super) fn metrics(folder: &Path, name: &str, after: u64) -> Result<String, ApiError> {
    let path = metrics_of(folder, name).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        ApiError::not_found(&format!("/v1/runs/{shown}"))
    })?;
    let file = File::open(path).map_err(|_| unreadable("the run"))?;
    let mut lines = BufReader::new(file);
    let (mut out, mut line) = (String::new(), String::new());
    while out.len() < MOST_BYTES {
        line.clear();
        let read = lines.read_line(&mut line).map_err(|_| unreadable("the run"))?;
        if read == 0 || !line.ends_with('\n') {
            break;
        }
        if step(&line).is_some_and(|step| step > after) {
            out.push_str(&line);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("first/model")).unwrap();
        fs::create_dir_all(folder.path().join("empty")).unwrap();
        let lines = "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"lo";
        fs::write(folder.path().join("first").join(METRICS), lines).unwrap();
        folder
    }

    #[test]
    fn runs_are_folders_with_metrics() {
        let folder = folder();
        let runs = list(folder.path()).unwrap();
        assert_eq!(runs, [json!({ "name": "first", "steps": 2, "state": "finished" })]);
        assert_eq!(metrics(folder.path(), "first", 1).unwrap(), "{\"step\":2,\"loss\":null}\n");
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = folder();
        let inside = folder.path().join("first");
        for name in ["..", ".", "../first", "a/b", "", "\0", "empty", "..\\first"] {
            assert!(metrics(&inside, name, 0).is_err(), "{name:?}");
        }
        #[cfg(unix)]
        {
            let other = tempfile::tempdir().unwrap();
            fs::write(other.path().join(METRICS), "{\"step\":1}\n").unwrap();
            std::os::unix::fs::symlink(other.path(), folder.path().join("link")).unwrap();
            assert!(metrics(folder.path(), "link", 0).is_err());
        }
    }
}
