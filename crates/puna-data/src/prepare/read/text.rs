//! Plain text and Markdown: a file is a document, unless a separator is given or it is too long.
//!
//! A long file is cut at the last line end that fits, in a line only where there is none. The
//! pieces are documents of their own: one document of 10 GB would have to fit into memory whole.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;

use super::{ReadSettings, Sink, unreadable};
use crate::DataError;
use crate::error::At;
use crate::prepare::document::{Body, RawDocument, cut};

pub(super) fn read(
    path: &Arc<Path>,
    mut reader: impl Read,
    settings: &ReadSettings,
    sink: Sink<'_>,
) -> Result<(), DataError> {
    let separator = settings.separator.as_deref().map_or(&b""[..], str::as_bytes);
    let most = settings.piece_bytes;
    // What must be seen to know that a piece has to be cut.
    let needed = most + separator.len() + 1;
    let (mut buffer, mut from, mut offset, mut ended) = (Vec::new(), 0, 0, false);
    loop {
        let ahead = &buffer[from..];
        let found = if separator.is_empty() { None } else { memmem::find(ahead, separator) };
        let (end, next) = match found {
            Some(at) if at <= most => (at, at + separator.len()),
            _ if ended && ahead.is_empty() => return Ok(()),
            _ if ended && ahead.len() <= most => (ahead.len(), ahead.len()),
            _ if ended || ahead.len() >= needed => {
                let at = cut(&ahead[..most.min(ahead.len())], separator.len());
                (at, at)
            }
            _ => {
                buffer.drain(..from);
                from = 0;
                let wanted = (2 * needed - buffer.len()) as u64;
                let mut limited = (&mut reader).take(wanted);
                let read = limited.read_to_end(&mut buffer).map_err(unreadable(path, At::File))?;
                ended = (read as u64) < wanted;
                continue;
            }
        };
        let bytes = ahead[..end].to_vec();
        // Between separators there may be nothing; a file of white space still is a document.
        let blank = !separator.is_empty() && bytes.iter().all(u8::is_ascii_whitespace);
        let body = Body::Text { bytes, offset };
        from += next;
        offset += next as u64;
        let document = RawDocument { path: path.clone(), at: At::File, body };
        if !blank && sink(Ok(document)).is_break() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    fn pieces(text: &str, most: usize, separator: Option<&str>) -> Vec<(String, u64)> {
        let settings = ReadSettings {
            text_key: String::new(),
            separator: separator.map(str::to_owned),
            piece_bytes: most,
        };
        let mut found = Vec::new();
        let path: Arc<Path> = Path::new("a.txt").into();
        read(&path, text.as_bytes(), &settings, &mut |document| {
            let Body::Text { bytes, offset } = document.expect("sound").body else {
                panic!("text gives text")
            };
            found.push((String::from_utf8(bytes).expect("cut at a character"), offset));
            ControlFlow::Continue(())
        })
        .expect("read");
        found
    }

    #[test]
    fn a_long_file_is_cut_at_line_ends_and_nothing_is_lost() {
        let got = pieces("aaa\nbbb\nccc\n", 9, None);
        assert_eq!(got, [("aaa\nbbb\n".to_owned(), 0), ("ccc\n".to_owned(), 8)]);
        assert_eq!(pieces("aaa\nbbb\n", 8, None), [("aaa\nbbb\n".to_owned(), 0)]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_between_characters() {
        let text = "é".repeat(50);
        let got = pieces(&text, 7, None);
        assert!(got.iter().all(|(piece, _)| piece.len() <= 7));
        assert_eq!(got.iter().map(|(piece, _)| piece.as_str()).collect::<String>(), text);
    }

    #[test]
    fn a_separator_makes_documents_and_disappears() {
        let got = pieces("one\n<|x|>\ntwo\n<|x|>\n", 1000, Some("<|x|>"));
        let texts: Vec<&str> = got.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["one\n", "\ntwo\n"]);
        assert_eq!(got[1].1, 9);
    }

    #[test]
    fn a_separator_that_lies_across_a_cut_is_still_found() {
        for most in 8..40 {
            let got = pieces("aaaaaaaaaaaaaaaa<|x|>bbbbbbbbbbbbbbbb", most, Some("<|x|>"));
            let all: String = got.iter().map(|(text, _)| text.as_str()).collect();
            assert_eq!(all, "a".repeat(16) + &"b".repeat(16), "pieces of {most}");
        }
    }
}
