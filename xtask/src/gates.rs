//! Rules about the repository that no compiler checks. One file per gate; each is a function from
//! file contents to a list of problems, so that its unit test needs no repository.

mod arrows;
mod data_size;
mod features;
mod file_size;
mod ops;
mod readme_tree;
mod source_text;

use anyhow::Result;

use crate::check::Outcome;
use crate::repo::Repo;

/// A gate and what it is called in the report.
pub(crate) struct Gate {
    pub(crate) name: &'static str,
    pub(crate) step: fn(&Repo) -> Result<Outcome>,
}

pub(crate) const ALL: &[Gate] = &[
    Gate { name: "gate: file size", step: |repo| report(file_size::check(repo)?) },
    Gate { name: "gate: dependency arrows", step: |repo| report(arrows::check(repo)?) },
    Gate { name: "gate: features", step: |repo| report(features::check(repo)?) },
    Gate { name: "gate: differentiable ops", step: |repo| report(ops::check(repo)?) },
    Gate { name: "gate: README tree", step: |repo| report(readme_tree::check(repo)?) },
    Gate { name: "gate: source text", step: |repo| report(source_text::check(repo)?) },
    Gate { name: "gate: data size", step: |repo| report(data_size::check(repo)?) },
];

fn report(problems: Vec<String>) -> Result<Outcome> {
    for problem in &problems {
        println!("  {problem}");
    }
    Ok(match problems.as_slice() {
        [] => Outcome::Passed(String::new()),
        [first, ..] => Outcome::Failed(format!("{} problems: {first}", problems.len())),
    })
}
