//! Every differentiable op says how its backward goes and has a gradcheck beside it; a custom op of
//! candle has a `bwd`, as one applied without it drops gradients in silence.

use anyhow::Result;

use crate::repo::Repo;

const TRAITS: &[&str] = &["CustomOp1", "CustomOp2", "CustomOp3"];

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for name in repo.ending(&[".rs"]).filter(|name| name.starts_with("crates/")) {
        problems.extend(incomplete_op(name, &repo.read(name)?));
        if name.starts_with(OPS) {
            problems.extend(unchecked(name, &repo.read(name)?));
        }
    }
    Ok(problems)
}

/// Where an op is a file.
const OPS: &str = "crates/puna-nn/src/ops/";

fn unchecked(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
    if !head.to_lowercase().contains("backward") {
        problems.push(format!("{name}: an op whose first comment does not give its backward"));
    }
    if !text.contains("gradcheck(") && !text.contains("gradcheck_by(") {
        problems.push(format!("{name}: an op without a gradcheck beside it"));
    }
    problems
}

fn incomplete_op(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let ops: usize = TRAITS.iter().map(|op| text.matches(&format!("{op} for ")).count()).sum();
    let backward = text.matches("fn bwd(").count();
    if backward < ops {
        problems.push(format!("{name}: {ops} custom ops, {backward} with `fn bwd`"));
    }
    if ops > 0 && !text.contains("gradcheck(") {
        problems.push(format!("{name}: a custom op without a gradcheck beside it"));
    }
    if text.contains("_no_bwd(") {
        problems.push(format!("{name}: an op applied without backward"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_op_needs_a_backward_and_a_gradcheck() {
        let whole = "impl CustomOp1 for A { fn bwd(&self) {} }\n fn t() { gradcheck(f); }";
        assert!(incomplete_op("a.rs", whole).is_empty());
        assert_eq!(incomplete_op("a.rs", "impl candle_core::CustomOp2 for A {}").len(), 2);
        let half = "impl CustomOp1 for A { fn bwd(&self) {} }\nimpl CustomOp3 for B {}\ngradcheck(";
        assert_eq!(incomplete_op("a.rs", half), ["a.rs: 2 custom ops, 1 with `fn bwd`"]);
    }

    #[test]
    fn a_file_of_an_op_gives_its_backward_and_checks_it() {
        let whole = "//! `y = 2 x`\n//!\n//! Backward: `dx = 2 dy`\nfn t() { gradcheck(f) }";
        assert!(unchecked("a.rs", whole).is_empty());
        assert_eq!(unchecked("a.rs", "//! `y = 2 x`\n// backward").len(), 2);
    }

    #[test]
    fn an_op_applied_without_backward_is_a_problem() {
        assert_eq!(incomplete_op("a.rs", "x.apply_op1_no_bwd(&op)").len(), 1);
    }
}
