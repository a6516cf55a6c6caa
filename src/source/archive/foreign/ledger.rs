//! Which files were taken, and where they lie in the order of all that ever were.
//!
//! A file's row commits with its first rows: whoever starts again knows by it which file the position lies in, and that
//! it is whole at the target once the position has reached its end.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use crate::change::TableName;
use crate::position::Lsn;

/// A file that has its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// From 1 on.
    pub ordinal: u64,
    pub name: String,
    /// Of its content, decompressed.
    pub sha256: String,
    /// As it is stored.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970, where that can be known.
    pub modified: Option<i64>,
    pub lines: u64,
}

impl Taken {
    pub fn begins_at(&self) -> Lsn {
        place(self.ordinal, 0)
    }

    /// Once the target stands here it has the whole file.
    pub fn ends_at(&self) -> Lsn {
        place(self.ordinal, self.lines.max(1))
    }
}

/// A position within the files: line `line` of the file `ordinal`.
pub fn place(ordinal: u64, line: u64) -> Lsn {
    Lsn(ordinal << 32 | line)
}

/// The file that a position lies in or before.
pub fn ordinal_of(position: Lsn) -> u64 {
    position.0 >> 32
}

/// How many rows of each table a file has.
pub type Counted = BTreeMap<TableName, u64>;

/// Files on their way to the target.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<OnTheWay>>);

#[derive(Default)]
struct OnTheWay {
    /// By where they begin.
    taken: BTreeMap<Lsn, Taken>,
    /// By where they end, what is known before their last transaction is handed on.
    counted: BTreeMap<Lsn, (String, Counted)>,
}

impl Ledger {
    pub(super) fn enter(&self, taken: &Taken) {
        let mut files = self.0.lock().expect("nobody panics while writing down");
        files.taken.insert(taken.begins_at(), taken.clone());
    }

    pub(super) fn count(&self, taken: &Taken, counted: Counted) {
        let mut files = self.0.lock().expect("nobody panics while writing down");
        files.counted.insert(taken.ends_at(), (taken.name.clone(), counted));
    }

    /// The files that end after one position of the target and not after another, with their rows.
    pub fn ended_between(&self, from: Lsn, to: Lsn) -> Vec<(Lsn, String, Counted)> {
        if from >= to {
            return Vec::new();
        }
        let files = self.0.lock().expect("nobody panics while reading");
        let ended = files.counted.range((Bound::Excluded(from), Bound::Included(to)));
        ended.map(|(at, (name, counted))| (*at, name.clone(), counted.clone())).collect()
    }

    /// The files whose first changes are between two positions of the target.
    pub fn begun_between(&self, from: Lsn, to: Lsn) -> Vec<Taken> {
        if from >= to {
            return Vec::new();
        }
        let files = self.0.lock().expect("nobody panics while reading");
        files.taken.range(from..to).map(|(_, taken)| taken.clone()).collect()
    }

    pub(super) fn confirmed(&self, position: Lsn) {
        let mut files = self.0.lock().expect("nobody panics while forgetting");
        files.taken.retain(|begins_at, _| *begins_at >= position);
        files.counted.retain(|ends_at, _| *ends_at > position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_down_once() {
        let ledger = Ledger::default();
        for ordinal in 1..=3 {
            let (name, sha256) = (ordinal.to_string(), String::new());
            ledger.enter(&Taken { ordinal, name, sha256, bytes: 1, modified: None, lines: 10 });
        }
        let ended = |from, to| {
            ledger.ended_between(from, to).into_iter().map(|(_, name, _)| name).collect::<Vec<_>>()
        };
        let count = |ordinal: u64| {
            let (name, sha256) = (ordinal.to_string(), String::new());
            ledger
                .count(&Taken { ordinal, name, sha256, bytes: 1, modified: None, lines: 10 }, Counted::new());
        };
        count(1);
        count(2);
        assert_eq!(ended(place(1, 0), place(1, 9)), [""; 0]);
        assert_eq!(ended(place(1, 9), place(2, 10)), ["1", "2"]);
        assert_eq!(ended(place(1, 10), place(3, 10)), ["2"], "the first was written down before");
        let mut found = Vec::new();
        let positions =
            [place(1, 0), place(1, 5), place(1, 10), place(2, 0), place(3, 4), place(3, 10), place(4, 0)];
        for (from, to) in positions.iter().zip(&positions[1..]) {
            found.extend(ledger.begun_between(*from, *to).into_iter().map(|taken| (taken.ordinal, *to)));
        }
        assert_eq!(found, [(1, place(1, 5)), (2, place(3, 4)), (3, place(3, 4))]);
        assert_eq!(ledger.begun_between(place(1, 0), place(4, 0)).len(), 3, "asking again changes nothing");
        ledger.confirmed(place(3, 4));
        assert_eq!(ledger.begun_between(place(1, 0), place(4, 0)).len(), 0);
    }
}
