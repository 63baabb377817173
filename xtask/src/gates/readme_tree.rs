//! The README's tree matches the disk: every path it names exists, and it names every top-level
//! folder and every crate.
//!
//! The tree is the fenced block marked `tree`. Depth is the column of a name, with spaces or box
//! characters before it; the first word of a line is the name, the rest is the comment. A first
//! line that names the repository itself (`puna/` or `./`) is its root.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::repo::Repo;

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let readme = repo.read("README.md")?;
    let Some(block) = tree_block(&readme) else {
        return Ok(vec!["README.md has no block marked ```tree".to_owned()]);
    };
    let named = paths(block);
    let mut problems: Vec<String> = named
        .iter()
        .filter(|path| !repo.root.join(path).exists())
        .map(|path| format!("README.md names {path}, which does not exist"))
        .collect();
    let wanted = wanted(&repo.files);
    let missing = wanted.difference(&named);
    problems.extend(missing.map(|path| format!("README.md's tree does not name {path}/")));
    Ok(problems)
}

fn tree_block(readme: &str) -> Option<&str> {
    let start = readme.find("```tree\n")? + "```tree\n".len();
    let length = readme[start..].find("```")?;
    Some(&readme[start..start + length])
}

/// Every path of the tree, without a closing `/`.
fn paths(block: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut above: Vec<(usize, String)> = Vec::new(); // (column, name) of the folders above
    for line in block.lines() {
        let branch = |c: char| c.is_whitespace() || "│├└─|`".contains(c);
        let Some(column) = line.chars().position(|c| !branch(c)) else { continue };
        let Some(name) = line
            .chars()
            .skip(column)
            .collect::<String>()
            .split_whitespace()
            .next()
            .map(str::to_owned)
        else {
            continue;
        };
        above.retain(|(other, _)| *other < column);
        if found.is_empty() && above.is_empty() && matches!(name.as_str(), "puna/" | "./") {
            continue;
        }
        above.push((column, name.trim_end_matches('/').to_owned()));
        let names: Vec<&str> = above.iter().map(|(_, name)| name.as_str()).collect();
        found.insert(names.join("/"));
    }
    found
}

/// Top-level folders that are not hidden, and the crates.
fn wanted(files: &[String]) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for file in files {
        let parts: Vec<&str> = file.split('/').collect();
        if parts.len() > 1 && !parts[0].starts_with('.') {
            folders.insert(parts[0].to_owned());
        }
        if parts.len() > 2 && parts[0] == "crates" {
            folders.insert(format!("crates/{}", parts[1]));
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "\
puna/
├── crates/          libraries
│   ├── puna-io/     files
│   └── puna-nn/     layers
└── .ci/run          what CI runs
";

    #[test]
    fn the_tree_gives_paths_by_the_column_of_their_names() {
        let names: Vec<String> = paths(BLOCK).into_iter().collect();
        assert_eq!(names, [".ci/run", "crates", "crates/puna-io", "crates/puna-nn"]);
        let plain = "crates/\n  puna-io/  files\ndocs/\n";
        let names: Vec<String> = paths(plain).into_iter().collect();
        assert_eq!(names, ["crates", "crates/puna-io", "docs"]);
    }

    #[test]
    fn every_top_level_folder_and_crate_is_wanted() {
        let files = [".ci/run", "README.md", "crates/puna-io/src/lib.rs", "docs/a.md"];
        let files: Vec<String> = files.iter().map(|&name| name.to_owned()).collect();
        let names: Vec<String> = wanted(&files).into_iter().collect();
        assert_eq!(names, ["crates", "crates/puna-io", "docs"]);
    }

    #[test]
    fn the_block_is_found_by_its_mark() {
        assert_eq!(tree_block("a\n```tree\nb/\n```\n"), Some("b/\n"));
        assert_eq!(tree_block("```\nb/\n```\n"), None);
    }
}
