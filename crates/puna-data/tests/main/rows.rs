//! Rows over prepared data: windows, masks, order, mixtures.

use puna_data::prepare::{Mark, Source};
use puna_data::{
    DataError, NO_TARGET, RowSource, SourceOrder, Split, TokenData, TokenWindows, WindowOptions,
};

use crate::fixture::{Place, prepare};

/// Documents `ab`, `cdef` and `ghij`: tokens are 0 for bos, else the byte's place in the alphabet
/// of byte-level BPE plus 3.
fn data() -> (Place, TokenData) {
    let place = Place::new();
    place.file("a.jsonl", "\"ab\"\n\"cdef\"\n\"ghij\"\n");
    let mut options = place.options();
    options.shard_tokens = 5; // ab and cdef in one shard, ghij in another
    let manifest = prepare(&options).expect("prepared");
    assert_eq!(manifest.train.len(), 2);
    let data = TokenData::open(&place.path("out")).expect("sound");
    (place, data)
}

fn windows(data: &TokenData, options: WindowOptions) -> TokenWindows {
    TokenWindows::new(data, Split::Train, options).expect("windows")
}

/// A letter's token: `!` (33) is the first of the alphabet.
fn letters(text: &str) -> Vec<u32> {
    text.bytes().map(|b| if b == b'^' { 0 } else { u32::from(b) - 33 + 3 }).collect()
}

#[test]
fn windows_follow_one_another_and_targets_are_the_next_tokens() {
    let (_place, data) = data();
    // ^ab^cdef^ghij
    let rows = windows(&data, WindowOptions::new(4));
    assert_eq!((rows.sequence_length(), rows.rows_per_epoch()), (4, 3));
    let expected = [("^ab^", "ab^c"), ("cdef", "def^"), ("^ghi", "ghij")];
    for (number, (tokens, targets)) in expected.into_iter().cycle().take(7).enumerate() {
        let row = rows.row(number as u64).expect("a row");
        assert_eq!((row.tokens, row.targets), (letters(tokens), letters(targets)), "{number}");
        assert_eq!((row.positions, row.visible_from), (vec![0, 1, 2, 3], vec![0; 4]));
    }
}

#[test]
fn a_window_runs_across_shards() {
    let (_place, data) = data();
    let rows = windows(&data, WindowOptions::new(12));
    assert_eq!(rows.row(0).expect("a row").targets, letters("ab^cdef^ghij"));
}

#[test]
fn the_document_mask_keeps_documents_apart() {
    let (_place, data) = data();
    let options = WindowOptions { document_mask: true, ..WindowOptions::new(6) };
    let rows = windows(&data, options);
    let first = rows.row(0).expect("a row"); // ^ab^cd, then e
    assert_eq!(first.tokens, letters("^ab^cd"));
    assert_eq!(first.positions, [0, 1, 2, 0, 1, 2]);
    assert_eq!(first.visible_from, [0, 0, 0, 3, 3, 3]);
    let mut targets = letters("ab^cde");
    targets[2] = NO_TARGET;
    assert_eq!(first.targets, targets);
    let second = rows.row(1).expect("a row"); // ef^ghi, then j
    assert_eq!(second.positions, [0, 1, 0, 1, 2, 3]);
    assert_eq!(second.visible_from, [0, 0, 2, 2, 2, 2]);
    let mut targets = letters("f^ghij");
    targets[1] = NO_TARGET;
    assert_eq!(second.targets, targets);
    // ^ab, then ^: a document that begins right after the row.
    let rows = windows(&data, WindowOptions { document_mask: true, ..WindowOptions::new(3) });
    let row = rows.row(0).expect("a row");
    assert_eq!(row.targets[2], NO_TARGET);
}

#[test]
fn shuffled_epochs_hold_every_window_once_each_in_another_order() {
    let (_place, data) = data();
    let options = WindowOptions { shuffle: Some(7), ..WindowOptions::new(1) };
    let rows = windows(&data, options);
    assert_eq!(rows.rows_per_epoch(), 12);
    let epoch = |epoch: u64| -> Vec<u32> {
        (0..12).map(|i| rows.row(epoch * 12 + i).expect("a row").tokens[0]).collect()
    };
    let sorted = |mut tokens: Vec<u32>| {
        tokens.sort_unstable();
        tokens
    };
    assert_eq!(sorted(epoch(0)), sorted(letters("^ab^cdef^ghi")));
    assert_eq!(sorted(epoch(1)), sorted(letters("^ab^cdef^ghi")));
    assert_ne!(epoch(0), epoch(1));
    assert_eq!(epoch(0), epoch(0));
    let other = windows(&data, WindowOptions { shuffle: Some(8), ..WindowOptions::new(1) });
    assert_ne!(
        epoch(0),
        (0..12).map(|i| other.row(i).expect("a row").tokens[0]).collect::<Vec<_>>()
    );
}

/// Sources `a` (all letters a) and `b` (all letters b), mixed three to one.
fn mixed() -> (Place, TokenData) {
    let place = Place::new();
    place.file("a.txt", "a".repeat(300));
    place.file("b.txt", "b".repeat(500));
    let mut options = place.options();
    options.bos = Mark::Never;
    let source = |name: &str, weight| {
        let path = place.path("in").join(name);
        let mut source = Source::new(name, vec![path.to_str().expect("UTF-8").to_owned()]);
        source.weight = Some(weight);
        source
    };
    options.sources = vec![source("a.txt", 3.0), source("b.txt", 1.0)];
    prepare(&options).expect("prepared");
    let data = TokenData::open(&place.path("out")).expect("sound");
    (place, data)
}

#[test]
fn sources_are_mixed_by_weight_and_each_has_its_own_epochs() {
    let (_place, data) = mixed();
    let rows = windows(&data, WindowOptions::new(10));
    assert_eq!(rows.rows_per_epoch(), 29 + 49);
    let of_b = (0..400).filter(|&n| rows.row(n).expect("a row").tokens == letters("bbbbbbbbbb"));
    assert_eq!(of_b.count(), 100);
    let joined = WindowOptions { sources: SourceOrder::Joined, ..WindowOptions::new(10) };
    let joined = windows(&data, joined);
    assert_eq!(joined.rows_per_epoch(), 79);
    assert_eq!(joined.row(29).expect("a row").targets, letters("aaaaaaaaab"));
}

#[test]
fn a_split_shorter_than_a_window_is_an_error_that_says_how_many_tokens_there_are() {
    let (_place, data) = data();
    let error = TokenWindows::new(&data, Split::Train, WindowOptions::new(13)).expect_err("short");
    assert!(error.to_string().contains("has 13 tokens, and one row needs 14"), "{error}");
    let error = TokenWindows::new(&data, Split::Validation, WindowOptions::new(1));
    let error = error.expect_err("empty");
    assert!(error.to_string().contains("the validation split has 0 tokens"), "{error}");
    let (_place, mixed) = mixed();
    let error = TokenWindows::new(&mixed, Split::Train, WindowOptions::new(400));
    let error = error.expect_err("a source is too short");
    assert!(matches!(error, DataError::TooFewTokens { source_name: Some(_), .. }), "{error}");
    assert!(error.to_string().contains("of source a.txt"), "{error}");
}
