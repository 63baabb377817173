//! Documents into rows of one length, with as little padding as is cheap to find.
//!
//! Best fit decreasing: longest first, each into the fullest row that has room. Uses at most
//! 11/9 of the fewest rows possible plus one (Johnson, "Near-optimal bin packing algorithms",
//! 1973); on conversations much shorter than a row next to nothing is left over. The order of
//! equal lengths, and so who shares a row with whom, comes from the seed.

use std::collections::BTreeMap;

use crate::permutation::Permutation;

/// Whether rows are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Documents share rows, out of each other's sight.
    #[default]
    Packed,
    /// Each document has a row of its own.
    Single,
}

/// Which documents, given by their lengths, go into each row of `room`; each in one row, in the
/// order of placement. No length may be greater than `room`.
pub(super) fn pack(lengths: &[usize], room: usize, packing: Packing, seed: u64) -> Vec<Vec<u32>> {
    let shuffle = Permutation::new(lengths.len() as u64, seed);
    let mut by_length: Vec<usize> =
        (0..lengths.len()).map(|place| shuffle.apply(place as u64) as usize).collect();
    if packing == Packing::Single {
        return by_length.into_iter().map(|document| vec![document as u32]).collect();
    }
    by_length.sort_by_key(|&document| std::cmp::Reverse(lengths[document]));
    let mut rows: Vec<Vec<u32>> = Vec::new();
    // Rows by what is left in them.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for document in by_length {
        let length = lengths[document];
        let fullest = open.range(length..).next().map(|(&left, _)| left);
        let (row, left) = match fullest.and_then(|left| Some((open.get_mut(&left)?.pop()?, left))) {
            Some(found) => found,
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, room)
            }
        };
        if open.get(&left).is_some_and(Vec::is_empty) {
            open.remove(&left);
        }
        rows[row].push(document as u32);
        open.entry(left - length).or_default().push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lengths: &[usize], room: usize, rows: &[Vec<u32>]) {
        let mut seen: Vec<u32> = rows.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
        for row in rows {
            let used: usize = row.iter().map(|&d| lengths[d as usize]).sum();
            assert!(used <= room, "{used} in {room}");
        }
    }

    #[test]
    fn every_document_has_one_place_and_rows_are_full() {
        let lengths = [4, 8, 1, 4, 2, 1];
        let rows = pack(&lengths, 10, Packing::Packed, 1);
        check(&lengths, 10, &rows);
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn many_short_documents_leave_little_room() {
        let lengths: Vec<usize> = (0..5000).map(|i| 20 + i * 7919 % 300).collect();
        let rows = pack(&lengths, 1024, Packing::Packed, 7);
        check(&lengths, 1024, &rows);
        let least = lengths.iter().sum::<usize>().div_ceil(1024);
        assert!(rows.len() <= least + least / 100 + 1, "{} rows, at least {least}", rows.len());
        assert_eq!(rows, pack(&lengths, 1024, Packing::Packed, 7));
        assert_ne!(rows, pack(&lengths, 1024, Packing::Packed, 8));
    }

    #[test]
    fn single_gives_each_its_row() {
        let rows = pack(&[3, 1, 2], 4, Packing::Single, 5);
        check(&[3, 1, 2], 4, &rows);
        assert_eq!(rows.len(), 3);
    }
}
