//! From "the digests differ" to the rows that do, with bounded memory and traffic.
//!
//! Rows fall into buckets by some bits of their key's hash, whatever the order on either side. Both sides digest each
//! bucket; where a bucket differs it is split by further bits, until so few rows are left in differing buckets that
//! each row's digest is fetched. Rows without a key are named by all their text, and counted.
//!
//! Each step reads the table once: a billion rows with a few differences take the digest and three steps more.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::digest::{Buckets, Digest, Reading};
use super::pair::Pair;
use crate::error::Result;
use crate::pg::session::Row;
use crate::status::{Difference, DifferenceKind};

/// Differences named per table.
const NAMED_MAX: usize = 20;
/// Rows fetched of a side: their hashes, and at most 200 characters each.
const ROWS_FETCHED_MAX: usize = 4096;
/// Buckets that are asked of a side at once, about 100 bytes each.
const BUCKETS_MAX: usize = 65_536;
/// One bucket is split into at most so many (as bits), several into fewer.
const SPLIT_BITS_MAX: u32 = 12;
/// Differing buckets that are all looked into; of more, some.
const CHOSEN_MAX: usize = 1024;
/// Of too many differing buckets so many are enough to name differences.
const SAMPLED: usize = 64;
/// Where as many bits did not separate the rows, it is one row many times.
const BITS_MAX: u32 = 36;

/// What differs between the sides of one table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The first of them by name.
    pub(super) first: Vec<Difference>,
    pub(super) total: u64,
    /// `total` is a lower bound.
    pub(super) is_partial: bool,
}

/// Finds the differing rows of a table of `rows` rows on its larger side.
pub(super) async fn find(pair: &mut Pair, source: &Reading, target: &Reading, rows: u64) -> Result<Found> {
    let mut found = Found::default();
    let mut within = Buckets::default();
    let mut left = rows;
    while left > ROWS_FETCHED_MAX as u64 && within.bits < BITS_MAX {
        let bits = within.bits + split_bits(within.chosen.len());
        let (asked_source, asked_target) =
            (source.bucket_digests(&within, bits), target.bucket_digests(&within, bits));
        let (rows_source, rows_target) = pair.ask(&asked_source, &asked_target).await?;
        let mut differing = differing(&buckets(&rows_source)?, &buckets(&rows_target)?);
        if differing.is_empty() {
            return Ok(found);
        }
        let rows_in = |pairs: &[Pairing<i64>]| -> u64 { pairs.iter().map(Pairing::rows).sum() };
        if rows_in(&differing) > ROWS_FETCHED_MAX as u64 && differing.len() > CHOSEN_MAX {
            found.is_partial = true;
            found.total += differing.drain(SAMPLED..).map(|pairing| pairing.differences_min()).sum::<u64>();
        }
        left = rows_in(&differing);
        within = Buckets { bits, chosen: differing.iter().map(|pairing| pairing.named).collect() };
    }
    fetch(pair, source, target, &within, &mut found).await?;
    Ok(found)
}

/// By how many bits each of `chosen` buckets is split (0: the whole table).
fn split_bits(chosen: usize) -> u32 {
    (BUCKETS_MAX / chosen.max(1)).ilog2().min(SPLIT_BITS_MAX)
}

fn buckets(rows: &[Row]) -> Result<BTreeMap<i64, Digest>> {
    rows.iter().map(|row| Ok((row.get(0)?, Digest::read(row, 1)?))).collect()
}

/// Both sides' rows of one bucket, or of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pairing<N> {
    named: N,
    source: Digest,
    target: Digest,
}

impl<N> Pairing<N> {
    fn rows(&self) -> u64 {
        self.source.rows.max(self.target.rows)
    }

    fn differences_min(&self) -> u64 {
        self.source.rows.abs_diff(self.target.rows).max(1)
    }

    fn kind(&self) -> DifferenceKind {
        match self.source.rows.cmp(&self.target.rows) {
            Ordering::Greater => DifferenceKind::Missing,
            Ordering::Less => DifferenceKind::Extra,
            Ordering::Equal => DifferenceKind::Different,
        }
    }
}

/// What is not the same on both sides, in order.
fn differing<N: Ord + Clone>(source: &BTreeMap<N, Digest>, target: &BTreeMap<N, Digest>) -> Vec<Pairing<N>> {
    let of = |side: &BTreeMap<N, Digest>, named: &N| side.get(named).copied().unwrap_or_default();
    let only_target = target.keys().filter(|named| !source.contains_key(*named));
    let mut pairings: Vec<Pairing<N>> = source
        .keys()
        .chain(only_target)
        .map(|named| Pairing { named: named.clone(), source: of(source, named), target: of(target, named) })
        .filter(|pairing| pairing.source != pairing.target)
        .collect();
    pairings.sort_by(|left, right| left.named.cmp(&right.named));
    pairings
}

/// Rows by their key's hash and what is shown of the key.
struct Fetched {
    digests: BTreeMap<i64, Digest>,
    labels: BTreeMap<i64, String>,
    /// There may be more beyond this hash.
    until: Option<i64>,
}

impl Fetched {
    fn read(rows: &[Row]) -> Result<Fetched> {
        let digests = buckets(rows)?;
        let labels = rows
            .iter()
            .map(|row| Ok((row.get(0)?, row.string(4))))
            .collect::<Result<BTreeMap<i64, String>>>()?;
        let until = digests.keys().next_back().copied().filter(|_| rows.len() >= ROWS_FETCHED_MAX);
        Ok(Fetched { digests, labels, until })
    }
}

/// Compares single rows and adds what differs to `found`.
async fn fetch(
    pair: &mut Pair,
    source: &Reading,
    target: &Reading,
    within: &Buckets,
    found: &mut Found,
) -> Result<()> {
    let (asked_source, asked_target) =
        (source.row_digests(within, ROWS_FETCHED_MAX), target.row_digests(within, ROWS_FETCHED_MAX));
    let (rows_source, rows_target) = pair.ask(&asked_source, &asked_target).await?;
    let (mut source, mut target) = (Fetched::read(&rows_source)?, Fetched::read(&rows_target)?);
    if let Some(until) = source.until.into_iter().chain(target.until).min() {
        found.is_partial = true;
        source.digests.retain(|named, _| *named <= until);
        target.digests.retain(|named, _| *named <= until);
    }
    let mut named = Vec::new();
    for pairing in differing(&source.digests, &target.digests) {
        let times = pairing.differences_min();
        found.total += times;
        let kind = pairing.kind();
        let side = if kind == DifferenceKind::Extra { &mut target } else { &mut source };
        let mut key = side.labels.remove(&pairing.named).unwrap_or_default();
        if times > 1 {
            key = format!("{key} ({times} times)");
        }
        named.push(Difference { key, kind });
    }
    named.sort_by(|left, right| left.key.cmp(&right.key));
    named.truncate(NAMED_MAX);
    found.first = named;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_split_as_far_as_memory_allows() {
        for (chosen, bits) in [(0, 12), (1, 12), (16, 12), (17, 11), (1024, 6)] {
            assert_eq!(split_bits(chosen), bits, "{chosen}");
            assert!(chosen.max(1) << bits <= BUCKETS_MAX);
        }
    }

    #[test]
    fn counts_tell_missing_from_extra_rows() {
        let rows = |rows| Digest { rows, ..Digest::default() };
        let side = |counts: &[(i64, u64)]| -> BTreeMap<i64, Digest> {
            counts.iter().map(|(named, count)| (*named, rows(*count))).collect()
        };
        let differing = differing(&side(&[(1, 1), (2, 3), (4, 1)]), &side(&[(2, 1), (3, 2), (4, 1)]));
        let kinds: Vec<_> = differing
            .iter()
            .map(|pairing| (pairing.named, pairing.kind(), pairing.differences_min()))
            .collect();
        let (missing, extra) = (DifferenceKind::Missing, DifferenceKind::Extra);
        assert_eq!(kinds, [(1, missing, 1), (2, missing, 2), (3, extra, 2)]);
    }
}
