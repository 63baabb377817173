#![no_main]
//! Parquet files for `puna data prepare`.
//!
//! The library panics on some malformed files, which puna-data catches and makes an error of. So a
//! panic that is caught is no finding here; one that escapes ends the process all the same.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use puna_data::prepare::{ReadSettings, read_texts};

/// A file of this process.
fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::temp_dir().join(format!("puna-fuzz-{}.parquet", std::process::id())))
}

/// In place of libfuzzer's hook, which aborts before anything can be caught.
fn say_panics_in_a_line() {
    std::panic::set_hook(Box::new(|info| {
        let ours = info.location().is_some_and(|at| at.file().contains("crates/puna-"));
        if ours {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

fuzz_target!(init: say_panics_in_a_line(), |data: &[u8]| {
    std::fs::write(path(), data).expect("the file");
    let settings =
        ReadSettings { text_key: "text".to_owned(), separator: None, piece_bytes: 1 << 20 };
    let mut rows = 0;
    let _ = read_texts(path(), &settings, &mut |_| {
        rows += 1;
        if rows == 1000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
});
