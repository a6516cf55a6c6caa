//! The SQL that digests rows inside a server, and the digest that comes out.
//!
//! A row's text is that of `row(column, ...)`, over the same columns in the same order on both sides: a record's text
//! tells null from an empty text and cannot be read in two ways. A table's digest is the sum of its rows' hashes, twice
//! with different seeds: a sum needs no order, so nothing is sorted, and counts what is there twice.
//!
//! [`Hashing::Text`] is the servers' own hash of a text, the same from PostgreSQL 11 on between servers of one byte
//! order and one encoding; both is asked of the servers, and where it does not hold [`Hashing::Md5`] serves, several
//! times slower. Neither is meant against somebody who builds rows to collide.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Row;

/// Rows of one side: how many, and their hashes' sums modulo 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest {
    pub(super) rows: u64,
    pub(super) first: u64,
    pub(super) second: u64,
}

impl Digest {
    /// From [`SUMS`], which begin at column `index`.
    pub(super) fn read(row: &Row, index: usize) -> Result<Digest> {
        let sum = |index| -> Result<u64> {
            let exact: i128 = row.optional(index)?.unwrap_or(0);
            let remainder = exact.rem_euclid(1 << 64);
            u64::try_from(remainder).map_err(|_| Error::unexpected("a remainder outgrew its divisor"))
        };
        Ok(Digest { rows: row.get(index)?, first: sum(index + 1)?, second: sum(index + 2)? })
    }
}

impl Digest {
    /// The digest of these rows and those.
    pub(super) fn add(&mut self, other: Digest) {
        self.rows += other.rows;
        self.first = self.first.wrapping_add(other.first);
        self.second = self.second.wrapping_add(other.second);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.first, self.second)
    }
}

/// How a server hashes a text to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashing {
    Text,
    Md5,
}

/// Independent hashes of the same text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seed {
    /// Of what names a row.
    Key,
    First,
    Second,
}

impl Hashing {
    /// SQL for a hash of the SQL `text`. The collation is named because hashing under one that calls different texts
    /// equal gives those the same hash.
    fn of(self, text: &str, seed: Seed) -> String {
        match self {
            Hashing::Text => {
                let number = match seed {
                    Seed::Key => 0x7067_0000,
                    Seed::First => 0x7067_0001,
                    Seed::Second => 0x7067_0002,
                };
                format!("pg_catalog.hashtextextended({text} collate pg_catalog.\"C\", {number})")
            }
            Hashing::Md5 => {
                let from = match seed {
                    Seed::Key => 9,
                    Seed::First => 1,
                    Seed::Second => 17,
                };
                format!(
                    "('x' || pg_catalog.substr(pg_catalog.md5(pg_catalog.convert_to({text}, 'UTF8')), {from}, 16))\
                     ::pg_catalog.bit(64)::pg_catalog.int8"
                )
            }
        }
    }

    /// Asks for one number that is the same on two servers only if their hashes are.
    pub(super) fn probe() -> String {
        let hash = Hashing::Text.of("pg_catalog.repeat('pgdiode', length)", Seed::First);
        format!("select pg_catalog.sum({hash}) from pg_catalog.generate_series(0, 32) as length")
    }
}

/// Rows of a side, narrowed to some of its buckets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Buckets {
    /// So many low bits of the key's hash number the bucket.
    pub(super) bits: u32,
    /// The buckets that are looked into; empty: all.
    pub(super) chosen: Vec<i64>,
}

impl Buckets {
    fn mask(&self) -> i64 {
        (1_i64 << self.bits) - 1
    }

    /// ` where …`, or nothing.
    fn condition(&self, key_hash: &str) -> String {
        if self.chosen.is_empty() {
            return String::new();
        }
        let chosen: Vec<String> = self.chosen.iter().map(ToString::to_string).collect();
        format!(" where {key_hash} & {} = any ('{{{}}}'::pg_catalog.int8[])", self.mask(), chosen.join(","))
    }
}

/// How a table's rows are read: the columns and the key are the same on both sides, the rest is each side's own.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) oid: u32,
    /// After `from`: quoted, with `only` where children must be left out.
    pub(super) relation: String,
    pub(super) filter: Option<String>,
    /// Blocks of its main fork.
    pub(super) blocks: u64,
    pub(super) columns: Vec<String>,
    /// SQL that is read in place of a column.
    pub(super) masks: BTreeMap<String, String>,
    /// Empty: rows are named by all that is in them.
    pub(super) key: Vec<String>,
    pub(super) hashing: Hashing,
}

/// One of several parts of a table, by where its rows lie. Rows lie elsewhere on the other side, yet the digests of all
/// parts add up to the same on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// From 0.
    pub(super) number: u64,
    pub(super) of: u64,
}

impl Piece {
    /// ` where …`, or nothing. The first begins anywhere and the last ends anywhere: together they are the table.
    fn condition(self, blocks: u64) -> String {
        let at = |number: u64| format!("'({},0)'::pg_catalog.tid", blocks * number / self.of);
        let from = (self.number > 0).then(|| format!("t.ctid >= {}", at(self.number)));
        let to = (self.number + 1 < self.of).then(|| format!("t.ctid < {}", at(self.number + 1)));
        let bounds: Vec<String> = from.into_iter().chain(to).collect();
        if bounds.is_empty() { String::new() } else { format!(" where {}", bounds.join(" and ")) }
    }
}

/// Characters shown of what names a row.
const LABEL_CHARACTERS_MAX: usize = 200;

impl Reading {
    /// One row: the piece's [`Digest`], and whether the table was [written anew](Reading::is_rewritten).
    pub(super) fn piece_digest(&self, piece: Piece) -> String {
        format!(
            "select {}, {} from (select {} as line from {}{} offset 0) r",
            self.sums(),
            self.is_rewritten(),
            self.row_text(),
            self.relation,
            self.filtered(&piece.condition(self.blocks)),
        )
    }

    /// SQL for whether the table was written anew since the snapshot. TRUNCATE and rewriting ALTER TABLE do not keep to
    /// snapshots: what they leave would be taken for the state at the snapshot. Whoever has read the table in the same
    /// transaction holds its lock, so that nothing of the kind follows before the transaction's end.
    pub(super) fn is_rewritten(&self) -> String {
        let oid = self.oid;
        format!(
            "exists (
                 select from pg_catalog.pg_class c
                  where c.oid in (select {oid} union all select p.relid from pg_catalog.pg_partition_tree({oid}) p)
                    and c.relkind = 'r' and c.relfilenode <> pg_catalog.pg_relation_filenode(c.oid))"
        )
    }

    /// For each bucket, numbered by `bits` low bits of the key's hash, its [`Digest`]; of the rows `within`.
    pub(super) fn bucket_digests(&self, within: &Buckets, bits: u32) -> String {
        let mask = Buckets { bits, chosen: Vec::new() }.mask();
        format!("select r.named & {mask}, {} from {} group by 1", self.sums(), self.rows(within))
    }

    /// For each key's hash its [`Digest`] and a text that names the row; of the rows `within`, the first `limit` by hash.
    pub(super) fn row_digests(&self, within: &Buckets, limit: usize) -> String {
        format!(
            "select r.named, {}, pg_catalog.min(r.label collate pg_catalog.\"C\") from {}
              group by 1 order by 1 limit {limit}",
            self.sums(),
            self.rows(within)
        )
    }

    fn sums(&self) -> String {
        format!(
            "pg_catalog.count(*), pg_catalog.sum({}), pg_catalog.sum({})",
            self.hashing.of("r.line", Seed::First),
            self.hashing.of("r.line", Seed::Second)
        )
    }

    /// A subquery with each row's text, its key's hash and its label. `offset 0` keeps the planner from writing the row's
    /// text into every place that uses it.
    fn rows(&self, within: &Buckets) -> String {
        if self.key.is_empty() {
            let named = self.hashing.of("line", Seed::Key);
            return format!(
                "(select line, {named} as named, pg_catalog.left(line, {LABEL_CHARACTERS_MAX}) as label
                    from (select {} as line from {}{} offset 0) w{} offset 0) r",
                self.row_text(),
                self.relation,
                self.filtered(""),
                within.condition(&named)
            );
        }
        let named = self.hashing.of(&self.record(&self.key), Seed::Key);
        format!(
            "(select {} as line, {named} as named, {} as label from {}{} offset 0) r",
            self.row_text(),
            self.label(),
            self.relation,
            self.filtered(&within.condition(&named))
        )
    }

    /// `condition` and the filter.
    fn filtered(&self, condition: &str) -> String {
        match &self.filter {
            None => condition.to_owned(),
            Some(filter) if condition.is_empty() => format!(" where ({filter})"),
            Some(filter) => format!("{condition} and ({filter})"),
        }
    }

    fn row_text(&self) -> String {
        self.record(&self.columns)
    }

    /// SQL for the text of a record.
    fn record(&self, columns: &[String]) -> String {
        let values = columns.iter().map(|name| self.value(name));
        format!("row({})::pg_catalog.text", values.collect::<Vec<_>>().join(", "))
    }

    /// SQL for a column. It is qualified: `"now"` is a column, never a function.
    fn value(&self, column: &str) -> String {
        self.masks.get(column).cloned().unwrap_or_else(|| format!("t.{}", quote::identifier(column)))
    }

    /// `id=7, at=2024-02-29`.
    fn label(&self) -> String {
        let columns = self.key.iter().map(|name| {
            let (title, value) = (quote::literal(&format!("{name}=")), self.value(name));
            format!("{title} || coalesce({value}::pg_catalog.text, 'null')")
        });
        let joined = columns.collect::<Vec<_>>().join(" || ', ' || ");
        format!("pg_catalog.left({joined}, {LABEL_CHARACTERS_MAX})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_chosen_by_low_bits() {
        assert_eq!(Buckets::default().condition("h"), "");
        let some = Buckets { bits: 12, chosen: vec![0, 4095] };
        assert_eq!(some.condition("h"), " where h & 4095 = any ('{0,4095}'::pg_catalog.int8[])");
    }

    #[test]
    fn pieces_leave_no_row_out() {
        let conditions = |of, blocks| -> Vec<String> {
            (0..of).map(|number| Piece { number, of }.condition(blocks)).collect()
        };
        assert_eq!(conditions(1, 7), [""]);
        assert_eq!(
            conditions(3, 10),
            [
                " where t.ctid < '(3,0)'::pg_catalog.tid",
                " where t.ctid >= '(3,0)'::pg_catalog.tid and t.ctid < '(6,0)'::pg_catalog.tid",
                " where t.ctid >= '(6,0)'::pg_catalog.tid",
            ]
        );
    }

    #[test]
    fn a_digest_has_128_bits() {
        let digest = Digest { rows: 1, first: 1, second: u64::MAX };
        assert_eq!(digest.to_string(), "0000000000000001ffffffffffffffff");
    }
}
