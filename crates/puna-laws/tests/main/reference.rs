//! The files of reference numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where they are.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/laws").join(name)
}

/// A line of a table: its cells by column.
pub(crate) struct Row(BTreeMap<String, String>);

impl Row {
    pub(crate) fn text(&self, column: &str) -> &str {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column:?} in {:?}", self.0))
    }

    pub(crate) fn number(&self, column: &str) -> f64 {
        let text = self.text(column);
        text.parse().unwrap_or_else(|_| panic!("{column}: {text:?} is no number"))
    }
}

/// The lines of a table.
pub(crate) fn table(name: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let columns: Vec<String> = lines.next().unwrap().collect();
    let rows: Vec<Row> =
        lines.map(|cells| Row(columns.iter().cloned().zip(cells).collect())).collect();
    assert!(!rows.is_empty());
    rows
}

/// A single number with its tolerance, by its name.
pub(crate) fn check(id: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(path("checks.json")).unwrap();
    let checks: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let check = checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id}"));
    (check["expected"].as_f64().unwrap(), check["rel_tol"].as_f64().unwrap())
}

/// Whether a number is the reference's, within a part of it.
#[track_caller]
pub(crate) fn near(got: f64, expected: f64, part: f64, what: &str) {
    let same = got == expected || (got - expected).abs() <= part * expected.abs();
    assert!(same, "{what}: {got} instead of {expected} (within {part})");
}

/// Whether a number is that of a check of this name.
#[track_caller]
pub(crate) fn agrees(id: &str, got: f64) {
    let (expected, part) = check(id);
    near(got, expected, part, id);
}
