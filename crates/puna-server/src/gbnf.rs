//! llama.cpp's grammars (GBNF) as Lark's, which llguidance reads.
//!
//! The two differ in spelling only: `root ::= …` is `start: …`, names have dashes, a character class
//! stands bare where Lark wants `/[…]/`. Source: llama.cpp, grammars/README.md.

use std::fmt::Write;

use crate::api_error::ApiError;
use crate::model::Grammar;

/// Largest grammar that is read.
const MOST_BYTES: usize = 256 << 10;

/// A grammar in either language: GBNF is told by its `::=`.
pub(crate) fn grammar(text: String, param: &str) -> Result<Grammar, ApiError> {
    if text.len() > MOST_BYTES {
        return Err(ApiError::field(param, format!("at most {MOST_BYTES} bytes")));
    }
    if !text.contains("::=") {
        return Ok(Grammar::Lark(text));
    }
    to_lark(&text).map(Grammar::Lark).map_err(|problem| ApiError::field(param, problem))
}

/// A piece of GBNF.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Defines,
    Literal(String),
    Class(String),
    Any,
    /// `|`, `(`, `)`, `*`, `+`, `?`, `{m,n}` as they stand.
    Sign(String),
}

fn to_lark(text: &str) -> Result<String, String> {
    let tokens = tokens(text)?;
    let mut out = String::new();
    let mut has_root = false;
    for (index, token) in tokens.iter().enumerate() {
        let begins_rule = tokens.get(index + 1) == Some(&Token::Defines);
        match token {
            Token::Name(name) if begins_rule => {
                has_root |= name == "root";
                let _ = write!(out, "\n{}:", rule(name));
            }
            Token::Name(name) => {
                let _ = write!(out, " {}", rule(name));
            }
            Token::Defines if index == 0 || !matches!(tokens[index - 1], Token::Name(_)) => {
                return Err("`::=` without a name before it".to_owned());
            }
            Token::Defines => {}
            Token::Literal(literal) => {
                let _ = write!(out, " \"{literal}\"");
            }
            Token::Class(class) => {
                let _ = write!(out, " /{class}/");
            }
            Token::Any => out.push_str(" /(?s:.)/"),
            Token::Sign(sign) if sign == "|" || sign == "(" || sign == ")" => {
                let _ = write!(out, " {sign}");
            }
            Token::Sign(sign) => out.push_str(sign),
        }
    }
    match has_root {
        true => Ok(out),
        false => Err("there is no rule `root`".to_owned()),
    }
}

/// Lark's rules are lower-case names without dashes.
fn rule(name: &str) -> String {
    match name {
        "root" => "start".to_owned(),
        _ => format!("r_{}", name.replace('-', "_").to_ascii_lowercase()),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            '#' => while chars.next_if(|&c| c != '\n').is_some() {},
            c if c.is_whitespace() => {
                chars.next();
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut name = String::new();
                while let Some(c) =
                    chars.next_if(|&c| c.is_ascii_alphanumeric() || "-_".contains(c))
                {
                    name.push(c);
                }
                tokens.push(Token::Name(name));
            }
            ':' => {
                let defines: String = chars.by_ref().take(3).collect();
                if defines != "::=" {
                    return Err(format!("expected `::=`, got `{defines}`"));
                }
                tokens.push(Token::Defines);
            }
            '"' => {
                chars.next();
                tokens.push(Token::Literal(quoted(&mut chars, '"')?));
            }
            '[' => {
                chars.next();
                tokens.push(Token::Class(format!("[{}]", quoted(&mut chars, ']')?)));
            }
            '{' => {
                let mut sign = String::new();
                for c in chars.by_ref() {
                    sign.push(c);
                    if c == '}' {
                        break;
                    }
                }
                if !sign.ends_with('}') || sign.len() < 3 {
                    return Err("a `{` without its `}`".to_owned());
                }
                tokens.push(Token::Sign(sign));
            }
            '.' => {
                chars.next();
                tokens.push(Token::Any);
            }
            '|' | '(' | ')' | '*' | '+' | '?' => {
                chars.next();
                tokens.push(Token::Sign(c.to_string()));
            }
            other => return Err(format!("`{other}` means nothing here")),
        }
    }
    Ok(tokens)
}

/// The inside of a literal or class up to `end`, with escapes as Lark and its regexes have them.
fn quoted(chars: &mut impl Iterator<Item = char>, end: char) -> Result<String, String> {
    let mut out = String::new();
    while let Some(c) = chars.next() {
        match c {
            c if c == end => return Ok(out),
            '\\' => match chars.next() {
                Some(c @ ('n' | 'r' | 't' | '\\' | '"' | ']' | '[' | '^' | '-')) => {
                    if end == '"' && !"nrt\\\"".contains(c) {
                        out.push(c);
                    } else {
                        let _ = write!(out, "\\{c}");
                    }
                }
                Some('x') => out.push_str(&code(chars, 2)?),
                Some('u') => out.push_str(&code(chars, 4)?),
                Some('U') => out.push_str(&code(chars, 8)?),
                other => return Err(format!("`\\{}` means nothing here", other.unwrap_or(' '))),
            },
            '/' if end == ']' => out.push_str("\\/"),
            '[' if end == ']' => out.push_str("\\["),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    Err(format!("the text ends before a `{end}`"))
}

/// A character by its hexadecimal code.
fn code(chars: &mut impl Iterator<Item = char>, digits: usize) -> Result<String, String> {
    let text: String = chars.take(digits).collect();
    let code = u32::from_str_radix(&text, 16).ok().and_then(char::from_u32);
    let c = code.ok_or_else(|| format!("`{text}` is no character's code"))?;
    Ok(match c {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        c if c.is_control() || "\"\\[]^-/".contains(c) => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::to_lark;

    #[test]
    fn rules_literals_and_classes_are_respelled() {
        let gbnf = "# moves\nroot ::= move (\" \" move){1,3} | \"\\x22\"\n\
                    move-x ::= [a-h/] [^\\n]+\nmove ::= move-x .";
        let lark = "\nstart: r_move ( \" \" r_move ){1,3} | \"\\x22\"\n\
                    r_move_x: /[a-h\\/]/ /[^\\n]/+\nr_move: r_move_x /(?s:.)/";
        assert_eq!(to_lark(gbnf).unwrap(), lark);
    }

    #[test]
    fn what_is_no_grammar_is_an_error() {
        for text in ["a ::= b", "root ::= \"x", "root ::= [a", "::= x", "root ::= x{", "root ::= §"]
        {
            assert!(to_lark(text).is_err(), "{text}");
        }
    }
}
