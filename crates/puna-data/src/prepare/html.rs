//! The text of an HTML page.
//!
//! Only html5ever's tokenizer is used, not its tree: entities, raw text and broken markup are
//! treated as browsers do, and a page nested a million deep is no deeper here than any other. What
//! is no prose (scripts, styles, navigation, forms) is left out; blocks become lines, paragraphs
//! are set apart by a blank line, list items begin with a dash, preformatted text stays as it is.

use std::cell::RefCell;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, CharacterTokens, EndTag, NullCharacterToken, StartTag, Tag, TagToken, Token,
    TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

/// Left out with all that is in them.
const LEFT_OUT: [&str; 17] = [
    "head", "script", "style", "nav", "noscript", "template", "svg", "math", "button", "select",
    "textarea", "iframe", "object", "audio", "video", "canvas", "dialog",
];
/// Set apart by a blank line.
const PARAGRAPHS: [&str; 14] = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "ul",
    "ol",
    "dl",
    "table",
    "blockquote",
    "figure",
];
/// On lines of their own.
const BLOCKS: [&str; 24] = [
    "address",
    "article",
    "aside",
    "body",
    "br",
    "caption",
    "center",
    "dd",
    "details",
    "div",
    "dt",
    "fieldset",
    "figcaption",
    "footer",
    "form",
    "header",
    "hr",
    "html",
    "li",
    "main",
    "section",
    "summary",
    "tr",
    "option",
];

/// The text of a page.
pub(crate) fn text(page: &str) -> String {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(page));
    let tokenizer = Tokenizer::new(Text::default(), TokenizerOpts::default());
    // The sink never asks the tokenizer to wait for a script, so this takes in everything.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    let mut out = tokenizer.sink.0.into_inner().out;
    out.truncate(out.trim_end().len());
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

#[derive(Default)]
struct Text(RefCell<State>);

#[derive(Default)]
struct State {
    out: String,
    /// Line ends to write before the next text.
    gap: usize,
    /// Whether white space stands before the next text.
    space: bool,
    /// What to begin the next line with.
    bullet: bool,
    /// Depth of preformatted elements.
    pre: usize,
    /// The element that is being left out, and how deep it is nested in its like.
    skipping: Option<(String, usize)>,
}

impl TokenSink for Text {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut state = self.0.borrow_mut();
        match token {
            CharacterTokens(text) => state.characters(&text),
            NullCharacterToken => state.characters("\u{FFFD}"),
            TagToken(tag) => return state.tag(&tag),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl State {
    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        match (&mut self.skipping, tag.kind) {
            (Some((skipped, depth)), kind) if skipped == name => {
                *depth = if kind == StartTag { *depth + 1 } else { *depth - 1 };
                if *depth == 0 {
                    self.skipping = None;
                }
            }
            (Some(_), _) => {}
            (None, StartTag) if LEFT_OUT.contains(&name) && !tag.self_closing => {
                self.skipping = Some((name.to_owned(), 1));
            }
            (None, kind) => self.layout(name, kind == StartTag),
        }
        match (tag.kind, name) {
            (StartTag, "script") => TokenSinkResult::RawData(RawKind::ScriptData),
            (StartTag, "style" | "xmp" | "iframe" | "noembed" | "noframes") => {
                TokenSinkResult::RawData(RawKind::Rawtext)
            }
            (StartTag, "title" | "textarea") => TokenSinkResult::RawData(RawKind::Rcdata),
            (StartTag, "plaintext") => TokenSinkResult::Plaintext,
            (StartTag | EndTag, _) => TokenSinkResult::Continue,
        }
    }

    fn layout(&mut self, name: &str, starts: bool) {
        if PARAGRAPHS.contains(&name) {
            // A list inside a list item needs no blank line, but cannot be told from others here.
            self.gap = self.gap.max(2);
        } else if BLOCKS.contains(&name) {
            self.gap = self.gap.max(1);
        } else if matches!(name, "td" | "th") && starts {
            self.space = true;
        }
        match name {
            "li" => self.bullet = starts,
            "pre" if starts => self.pre += 1,
            "pre" => self.pre = self.pre.saturating_sub(1),
            _ => {}
        }
    }

    fn characters(&mut self, text: &str) {
        if self.skipping.is_some() {
            return;
        }
        if self.pre > 0 {
            if self.gap == 0 || !text.trim().is_empty() {
                self.begin();
                self.out.push_str(text);
            }
            return;
        }
        for (index, word) in text.split(|c: char| c.is_ascii_whitespace()).enumerate() {
            self.space |= index > 0;
            if !word.is_empty() {
                self.begin();
                self.out.push_str(word);
            }
        }
    }

    /// Writes what stands between the text so far and the next.
    fn begin(&mut self) {
        let (gap, space) = (std::mem::take(&mut self.gap), std::mem::take(&mut self.space));
        if !self.out.is_empty() {
            if gap > 0 {
                self.out.truncate(self.out.trim_end().len());
                self.out.extend(std::iter::repeat_n('\n', gap));
            } else if space && self.pre == 0 && !self.out.ends_with(char::is_whitespace) {
                self.out.push(' ');
            }
        }
        if std::mem::take(&mut self.bullet) {
            self.out.push_str("- ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn blocks_become_lines_and_what_is_no_prose_is_left_out() {
        let page = "<!doctype html><html><head><title>t</title><style>p{}</style></head><body>\
            <nav><ul><li>Menu</li></ul></nav><h1>A  title</h1>\n<p>One\n<b>two</b>&amp;three.</p>\
            <script>if (a < b) { '</p>' }</script><ul><li>first</li><li><p>second</p></li></ul>\
            <pre><code>let x = 1;\n    y\n</code></pre>end</body></html>";
        let expected =
            "A title\n\nOne two&three.\n\n- first\n\n- second\n\nlet x = 1;\n    y\n\nend\n";
        assert_eq!(text(page), expected);
    }

    #[test]
    fn broken_and_deep_pages_give_their_text() {
        assert_eq!(text("a<p>b<div>c</span></p></p>d"), "a\n\nb\nc\n\nd\n");
        let deep = "<div>".repeat(200_000) + "x";
        assert_eq!(text(&deep), "x\n");
        assert_eq!(text("<nav>never closed"), "");
        assert_eq!(text(""), "");
    }
}
