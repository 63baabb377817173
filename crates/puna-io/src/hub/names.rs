//! Names that become parts of paths and addresses: checked before they do.
//!
//! The server chooses file names, commits and hashes; what leaves the cache folder is refused.

use crate::IoError;

const MAX_BYTES: usize = 1024;
const MAX_PART_BYTES: usize = 255;

fn refused(name: &str, kind: &'static str) -> IoError {
    let name = name.chars().take(200).collect();
    IoError::HubName { name, kind }
}

/// A repository: `org/name` in the Hub's characters, without `--`, which the cache uses.
pub(super) fn check_repo(repo: &str) -> Result<(), IoError> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() == 2 && repo.len() <= 96 && parts.into_iter().all(is_part) {
        Ok(())
    } else {
        Err(refused(repo, "a repository (org/name)"))
    }
}

/// A relative path of plain parts: a file in a repository, or a revision.
pub(super) fn check_path(path: &str, kind: &'static str) -> Result<(), IoError> {
    let is_part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.len() <= MAX_PART_BYTES
            && !part.chars().any(|c| c.is_control() || c == '\\' || (cfg!(windows) && c == ':'))
    };
    if path.len() <= MAX_BYTES && path.split('/').all(is_part) {
        Ok(())
    } else {
        Err(refused(path, kind))
    }
}

/// A commit: 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A blob's name: a hash or what a server uses for one.
pub(super) fn is_etag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// The SHA-256 that an etag is, if it is one.
pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Percent-encodes all but unreserved characters (RFC 3986) and `keep`.
pub(super) fn encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_an_organization_and_a_name() {
        for good in ["meta-llama/Llama-3.2-1B", "a/b", "o_1/x.y-z"] {
            assert!(check_repo(good).is_ok(), "{good}");
        }
        for bad in ["a", "a/b/c", "../b", "a/..", "a/.b", "a--b/c", "a/b?x", "a/b ", "/b", ""] {
            assert!(check_repo(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["main", "refs/pr/1", "original/consolidated.00.pth", "ä b.gguf", "..x"] {
            assert!(check_path(good, "a file").is_ok(), "{good}");
        }
        let long = "x".repeat(256);
        for bad in ["..", "a/../b", "/etc/passwd", "a//b", "a/", "", "a\\b", "a\nb", "./a", &long] {
            assert!(check_path(bad, "a file").is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_are_plain_names() {
        assert!(is_commit(&"0a".repeat(20)) && !is_commit(&"0A".repeat(20)) && !is_commit("main"));
        assert!(is_etag("d41d8cd9-1") && !is_etag("../x") && !is_etag("") && !is_etag("a.b"));
        assert!(is_sha256(&"ab".repeat(32)) && !is_sha256(&"ab".repeat(20)));
    }

    #[test]
    fn addresses_are_percent_encoded() {
        assert_eq!(encode("a b/ü?.gguf", b"/"), "a%20b/%C3%BC%3F.gguf");
        assert_eq!(encode("refs/pr/1", b""), "refs%2Fpr%2F1");
    }
}
