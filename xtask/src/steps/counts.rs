//! The closing counts of `cargo test` and `cargo nextest`, read from their output.

use std::collections::BTreeSet;
use std::fmt;

/// How many tests did what; `reasons` are the distinct `skipped: …` lines that tests printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    pub(crate) skipped: usize,
    pub(crate) reasons: BTreeSet<String>,
}

impl Counts {
    /// Reads either program's output. nextest also shows the output of each test's own process, a
    /// `test result:` line in each: its summary counts, those lines do not.
    pub(crate) fn of(output: &str) -> Self {
        let mut counts = Self::default();
        let lines = || output.lines().map(str::trim);
        let nextest = lines().any(|line| line.starts_with(NEXTEST));
        let summary = if nextest { NEXTEST } else { LIBTEST };
        for line in lines() {
            if line.starts_with(summary) {
                counts.passed += number_before(line, "passed");
                counts.failed += number_before(line, "failed");
                counts.ignored += number_before(line, "ignored") + number_before(line, "skipped");
            } else if let Some(reason) = line.strip_prefix("skipped: ") {
                counts.skipped += 1;
                counts.reasons.insert(reason.to_owned());
            }
        }
        counts
    }
}

const NEXTEST: &str = "Summary [";
const LIBTEST: &str = "test result:";

/// The number in front of a word: `12` in `12 passed;`.
fn number_before(line: &str, word: &str) -> usize {
    let words: Vec<&str> = line.split_whitespace().collect();
    let here = words.windows(2).find(|pair| pair[1].trim_end_matches([';', ',']) == word);
    here.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)?;
        if self.skipped > 0 {
            let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
            write!(f, "; {} skips said so: {}", self.skipped, reasons.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_cargo_test_add_up_over_its_binaries() {
        let counts = Counts::of(
            "test a ... ok\nskipped: no tokenizer\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
             test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((counts.passed, counts.failed, counts.ignored), (5, 1, 1));
        assert_eq!(counts.skipped, 1);
        assert!(counts.to_string().ends_with("1 skips said so: no tokenizer"));
    }

    #[test]
    fn counts_of_nextest_come_from_its_summary() {
        let counts = Counts::of(
            "test result: ok. 1 passed; 0 failed; 0 ignored\n\
             \x20    Summary [   1.2s] 24 tests run: 22 passed (1 slow), 2 failed, 3 skipped",
        );
        assert_eq!((counts.passed, counts.failed, counts.ignored), (22, 2, 3));
    }
}
