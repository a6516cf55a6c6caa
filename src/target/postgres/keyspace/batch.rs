//! A batch in memory: which entries count, which rows are written once although several name them, and whether a key
//! has lost any.
//!
//! Of the rows that a key has become the target keeps, for each table, how many they were and a hash of their
//! identities in order (`keyspace_key.parts`). When the new identities begin with those, nothing was lost, and nobody
//! has to look for rows to delete: lists that only grow never do.

use std::collections::{HashMap, HashSet};

use crate::change::ByNumber;
use crate::digest::Sha256;
use crate::keyspace::{KeyId, Observed, Part, State, Why, Write};
use crate::target::postgres::keyspace::control::Stored;
use crate::target::postgres::keyspace::shape::Shape;

/// An entry to be applied.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub id: KeyId,
    pub observed: &'a Observed,
    pub stored: Option<&'a Stored>,
}

impl Item<'_> {
    /// Whether its rows are written; those of a key that is gone are not.
    pub fn has_rows(&self) -> bool {
        !matches!(self.observed.state, State::Gone { .. })
    }

    /// Since when it is gone, in milliseconds, and why.
    pub fn gone(&self) -> Option<(i64, Why)> {
        match self.observed.state {
            State::Present { .. } => None,
            State::Gone { at, why } | State::Passed { at, why, .. } => Some((at, why)),
        }
    }

    /// Whether rows that the part does not have may be there.
    pub fn may_have_lost(&self, part: &Part, shape: &Shape) -> bool {
        let Some(stored) = self.stored else { return false };
        shape.write == Write::Replace && self.has_rows() && !begins_as_stored(&stored.parts, part, shape)
    }
}

/// The entries that count: of each key the last, without those that are gone and of which there is nothing here.
pub fn items<'a>(entries: &'a [(KeyId, Observed)], stored: &'a HashMap<KeyId, Stored>) -> Vec<Item<'a>> {
    let mut seen = HashSet::with_capacity(entries.len());
    let mut items: Vec<Item<'a>> = entries
        .iter()
        .rev()
        .filter(|(id, _)| seen.insert(*id))
        .map(|(id, observed)| Item { id: *id, observed, stored: stored.get(id) })
        .filter(|item| item.has_rows() || item.stored.is_some_and(|stored| stored.known.hash.is_some()))
        .collect();
    items.reverse();
    items
}

/// Cuts where a key's rows are those of a key before: what one does must not undo what the other did later.
pub fn runs<'i, 'a>(items: &'i [Item<'a>], shapes: &[Shape]) -> Vec<&'i [Item<'a>]> {
    let mut runs = Vec::new();
    let mut anchors = HashSet::new();
    let mut start = 0;
    for (index, item) in items.iter().enumerate() {
        let own: Vec<(usize, &[u8])> = item
            .observed
            .entry
            .parts
            .iter()
            .filter(|part| shapes[part.table].write == Write::Replace)
            .map(|part| (part.table, anchor(part)))
            .collect();
        if own.iter().any(|place| anchors.contains(place)) {
            runs.push(&items[start..index]);
            start = index;
            anchors.clear();
        }
        anchors.extend(own);
    }
    runs.push(&items[start..]);
    runs
}

/// The values of a part's anchor, without a line's end.
pub fn anchor(part: &Part) -> &[u8] {
    part.anchor.strip_suffix(b"\n").unwrap_or(&part.anchor)
}

/// A row of a run: the item's index and the row's.
type Place = (usize, usize);

/// The rows of one table that are written once although several entries of the run have them: those to leave out. The
/// last counts, or the first of rows that are made once.
pub fn repeated(items: &[Item<'_>], table: usize, shape: &Shape) -> HashSet<Place> {
    let mut chosen: ByNumber<u64, Place> = ByNumber::default();
    // Rows whose identity another row has by chance.
    let mut others: Vec<(u64, Place)> = Vec::new();
    let mut left_out = HashSet::new();
    let mut look = |place: Place, part: &Part| {
        let identity = part.rows.identities[place.1];
        let Some(&first) = chosen.get(&identity) else {
            chosen.insert(identity, place);
            return;
        };
        let line = part.rows.line(place.1);
        let is_same = |at: Place| {
            let other = part_of(&items[at.0], table).map_or(&[][..], |part| part.rows.line(at.1));
            has_same_key(line, other, &shape.key)
        };
        if is_same(first) || others.iter().any(|(number, at)| *number == identity && is_same(*at)) {
            left_out.insert(place);
        } else {
            others.push((identity, place));
        }
    };
    let mut each = |index: usize| {
        let Some(part) = part_of(&items[index], table).filter(|_| items[index].has_rows()) else { return };
        let rows = 0..part.rows.len();
        if shape.write == Write::Ensure {
            rows.for_each(|row| look((index, row), part));
        } else {
            rows.rev().for_each(|row| look((index, row), part));
        }
    };
    if shape.write == Write::Ensure {
        (0..items.len()).for_each(&mut each);
    } else {
        (0..items.len()).rev().for_each(&mut each);
    }
    left_out
}

pub fn part_of<'a>(item: &Item<'a>, table: usize) -> Option<&'a Part> {
    item.observed.entry.parts.iter().find(|part| part.table == table)
}

/// Whether two lines have the same values in the columns of the key. A tabulator inside a value is escaped.
fn has_same_key(one: &[u8], other: &[u8], key: &[usize]) -> bool {
    let one: Vec<&[u8]> = values(one).collect();
    let other: Vec<&[u8]> = values(other).collect();
    key.iter().all(|&index| one.get(index) == other.get(index))
}

fn values(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.strip_suffix(b"\n").unwrap_or(line).split(|&byte| byte == b'\t')
}

// ---- what is kept of a key's rows ----

/// Tag, number of rows, hash of their identities.
const PART_BYTES: usize = 8 + 4 + 16;

/// What is kept of the rows of an entry, but for those of some tables.
pub fn parts(item: &Item<'_>, shapes: &[Shape], unsure: &HashSet<usize>) -> Vec<u8> {
    let mut kept = Vec::new();
    for part in &item.observed.entry.parts {
        let shape = &shapes[part.table];
        // So many rows count as unknown: looked for when the key is written again.
        let Ok(count) = u32::try_from(part.rows.len()) else { continue };
        if shape.write == Write::Replace && !unsure.contains(&part.table) {
            kept.extend_from_slice(&shape.tag);
            kept.extend_from_slice(&count.to_be_bytes());
            kept.extend_from_slice(&identities_hash(&part.rows.identities));
        }
    }
    kept
}

fn begins_as_stored(stored: &[u8], part: &Part, shape: &Shape) -> bool {
    let Some(kept) = stored.chunks_exact(PART_BYTES).find(|kept| kept[..8] == shape.tag) else {
        return false;
    };
    let count = u32::from_be_bytes([kept[8], kept[9], kept[10], kept[11]]) as usize;
    let Some(first) = part.rows.identities.get(..count) else { return false };
    identities_hash(first) == kept[12..]
}

fn identities_hash(identities: &[u64]) -> [u8; 16] {
    let mut hash = Sha256::default();
    for identity in identities {
        hash.update(&identity.to_be_bytes());
    }
    hash.half()
}
