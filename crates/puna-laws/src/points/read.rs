//! Points from a table of comma-separated values.
//!
//! Columns are found by name, in any order: those of `puna sweep`, of the Chinchilla points, and
//! short ones. Two of size, tokens and operations are enough, by `C = 6 N D`.

use std::path::Path;

use super::known::{self, is_besiroglu2024};
use super::{Point, usable};
use crate::error::LawError;
use crate::isoflop::Budgets;
use crate::law::TRAIN_FLOPS;

/// Which parameters are counted where a table has both counts.
///
/// At small sizes the choice moves the exponent of the best size from 0.37 (all) to 0.54 (without
/// the embedding's lookup table), so a law says which it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Those that take part in matrix products: the head is counted, the lookup table is not.
    #[default]
    Matmul,
    /// All.
    All,
}

/// Points with where they are from.
#[derive(Debug, Clone, PartialEq)]
pub struct PointFile {
    /// The points, in the table's order.
    pub points: Vec<Point>,
    /// What N is: the column it was read from, in words.
    pub counted: String,
    /// Whether the table names the budget of each run.
    pub has_budgets: bool,
}

impl PointFile {
    /// Where Approach 2 finds budgets: in the table, in the paper of known points, or in the runs.
    pub fn budgets(&self) -> Budgets {
        if self.has_budgets {
            Budgets::Named
        } else if is_besiroglu2024(&self.points) {
            Budgets::Given(known::BUDGETS.to_vec())
        } else {
            Budgets::Found
        }
    }
}

const PARAMS: [&str; 4] = ["n_params", "params", "parameters", "n"];
const TOKENS: [&str; 4] = ["n_tokens", "tokens", "train_tokens", "d"];
const FLOPS: [&str; 5] = ["train_flop", "flops", "train_flops", "flop", "c"];
const LOSS: [&str; 3] = ["loss", "final_loss", "l"];

/// Reads a table's points.
///
/// # Errors
/// [`LawError::Read`] if there is no such file, else as [`parse_points`].
pub fn read_points(path: &Path, count: Count) -> Result<PointFile, LawError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LawError::Read { path: path.to_path_buf(), source })?;
    parse_points(&text, &path.display().to_string(), count)
}

/// The points of a table's text; `name` is what errors call it.
///
/// # Errors
/// [`LawError::Empty`] without lines, [`LawError::Columns`] if size, tokens or loss is missing,
/// [`LawError::Value`] with the line if a number is not positive and finite.
pub fn parse_points(text: &str, name: &str, count: Count) -> Result<PointFile, LawError> {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((_, header)) = lines.next() else {
        return Err(LawError::Empty { name: name.to_owned() });
    };
    let header = cells(header);
    let columns = Columns::find(&header, count).ok_or_else(|| LawError::Columns {
        name: name.to_owned(),
        found: header.join(", "),
        wanted: match count {
            Count::Matmul => "loss and two of n_params (or params_matmul), n_tokens, train_flop",
            Count::All => "loss and two of n_params (or params_total), n_tokens, train_flop",
        },
    })?;
    let mut points = Vec::new();
    for (number, line) in lines {
        points.push(columns.point(&cells(line), &format!("{name}, line {number}"))?);
    }
    if points.is_empty() {
        return Err(LawError::Empty { name: name.to_owned() });
    }
    let has_budgets = columns.budget.is_some();
    Ok(PointFile { points, counted: columns.counted(&header), has_budgets })
}

/// The cells of a line; quotes around one are taken off, and commas in quotes do not end it.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            other => cell.push(other),
        }
    }
    cells.push(cell.trim().to_owned());
    cells
}

/// Where a table has what.
struct Columns {
    loss: usize,
    params: Option<usize>,
    tokens: Option<usize>,
    flops: Option<usize>,
    budget: Option<usize>,
}

impl Columns {
    /// `None` if the loss is missing, or two of size, tokens and operations.
    fn find(header: &[String], count: Count) -> Option<Self> {
        let place = |name: &str| header.iter().position(|cell| cell.eq_ignore_ascii_case(name));
        let first = |names: &[&str]| names.iter().find_map(|name| place(name));
        let counts = (place("params_matmul"), place("params_total"));
        let params = match (counts, count) {
            ((None, None), _) => first(&PARAMS),
            ((matmul, _), Count::Matmul) => matmul,
            ((_, all), Count::All) => all,
        };
        let columns = Self {
            loss: first(&LOSS)?,
            params,
            tokens: first(&TOKENS),
            flops: first(&FLOPS).or_else(|| place("flops_6nd")),
            budget: place("budget_flops"),
        };
        let known = [columns.params, columns.tokens, columns.flops];
        (known.iter().flatten().count() >= 2).then_some(columns)
    }

    fn counted(&self, header: &[String]) -> String {
        match self.params.map(|place| header[place].as_str()) {
            Some("params_matmul") => {
                "matmul parameters (head counted, lookup table not; column params_matmul)".into()
            }
            Some("params_total") => "all parameters (column params_total)".into(),
            Some(column) => format!("column {column}, counted as its author did"),
            None => "C / 6D".into(),
        }
    }

    fn point(&self, cells: &[String], place: &str) -> Result<Point, LawError> {
        let number = |column: Option<usize>, what: &'static str| match column {
            None => Ok(None),
            Some(column) => {
                let text = cells.get(column).map_or("", String::as_str);
                let value = text.parse::<f64>().ok().filter(|value| usable(*value));
                value.map(Some).ok_or_else(|| LawError::Value {
                    place: place.to_owned(),
                    what,
                    value: if text.is_empty() { "nothing".into() } else { text.to_owned() },
                })
            }
        };
        let loss = number(Some(self.loss), "loss")?.unwrap_or(f64::NAN);
        let params = number(self.params, "parameters")?;
        let tokens = number(self.tokens, "tokens")?;
        // With both of the others, operations are 6 N D whatever the table says.
        let flops = match (params, tokens) {
            (Some(_), Some(_)) => None,
            _ => number(self.flops, "operations")?,
        };
        let (params, tokens) = match (params, tokens, flops) {
            (Some(params), Some(tokens), _) => (params, tokens),
            (Some(params), None, Some(flops)) => (params, flops / (TRAIN_FLOPS * params)),
            (None, Some(tokens), Some(flops)) => (flops / (TRAIN_FLOPS * tokens), tokens),
            _ => (f64::NAN, f64::NAN),
        };
        let budget = number(self.budget, "budget_flops")?;
        let point = Point::new(params, tokens, loss);
        Ok(Point { budget: budget.unwrap_or(point.budget), ..point })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, count: Count) -> Result<PointFile, LawError> {
        parse_points(text, "t.csv", count)
    }

    #[test]
    fn two_of_size_tokens_and_operations_are_enough() {
        for text in
            ["N,D,L\n2e8,3e9,3.1\n", "C,N,loss\n3.6e18,2e8,3.1\n", "d,flops,loss\n3e9,3.6e18,3.1\n"]
        {
            let file = read(text, Count::Matmul).unwrap();
            let point = file.points[0];
            assert!((point.params / 2e8 - 1.0).abs() < 1e-12, "{text}: {point:?}");
            assert!((point.tokens / 3e9 - 1.0).abs() < 1e-12, "{text}: {point:?}");
            assert_eq!(point.loss, 3.1);
        }
    }

    #[test]
    fn the_columns_of_a_sweep_hold_both_counts() {
        let text = "budget_flops,params_matmul,params_total,tokens,flops_6nd,loss,name\r\n\
            1e18,1e8,2e8,1e9,6e17,3.5,\"a, b\"\r\n";
        let file = read(text, Count::Matmul).unwrap();
        assert_eq!(file.points[0], Point { budget: 1e18, ..Point::new(1e8, 1e9, 3.5) });
        assert!(file.has_budgets && file.counted.contains("matmul"));
        let file = read(text, Count::All).unwrap();
        assert_eq!(file.points[0].params, 2e8);
        assert!(file.counted.starts_with("all"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_its_line() {
        let message = |text: &str| read(text, Count::Matmul).unwrap_err().to_string();
        assert!(message("").contains("t.csv"));
        assert!(message("n_params,n_tokens,loss\n").contains("no points"));
        let missing = message("size,tokens,loss\n1,2,3\n");
        assert!(missing.contains("size, tokens, loss"), "{missing}");
        for (cell, shown) in
            [("nan", "nan"), ("-3", "-3"), ("0", "0"), ("", "nothing"), ("inf", "inf"), ("x", "x")]
        {
            let text = format!("n_params,n_tokens,loss\n1e8,1e9,3\n\n1e8,1e9,{cell}\n");
            let message = message(&text);
            assert!(message.contains("line 4") && message.contains(shown), "{message}");
        }
        assert!(message("n_params,n_tokens,loss\n1e8\n").contains("loss is nothing"));
    }
}
