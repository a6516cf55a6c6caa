//! A run of entries as statements: stages filled, rows merged in the layout's order, what is lost or gone removed, and
//! what is known of the keys.
//!
//! ```text
//! COPY rows, anchors -> lost rows of tables that no other refers to   (a unique value that moved to another row is free)
//!                    -> merges, a table after those that it refers to
//!                    -> lost rows of the other tables, last first     (nobody refers to them any more)
//!                    -> rows of keys that are gone, last first
//!                    -> keys, misfits
//! ```

use std::collections::HashSet;

use crate::change::Value;
use crate::error::Result;
use crate::keyspace::{ContentHash, Misfit, State, Why};
use crate::pg::quote;
use crate::target::postgres::encode::{CopyFormat, CopyRows};
use crate::target::postgres::keyspace::batch::{self, Item};
use crate::target::postgres::keyspace::shape::Shape;
use crate::target::postgres::keyspace::statement::{Expected, Statements};
use crate::target::postgres::keyspace::underway::{Counts, Underway};
use crate::target::postgres::keyspace::{bulk, control};

/// Entries that are applied together; no two have rows under the same anchor.
pub struct Run<'a> {
    items: &'a [Item<'a>],
    /// By table: rows that are not written, by item and row.
    left_out: Vec<HashSet<(usize, usize)>>,
    /// By table: items that may have lost rows.
    lost: Vec<HashSet<usize>>,
    expected: Expected,
}

/// What there is to say of a key beyond its entry, once its rows have been tried one by one.
#[derive(Debug, Default)]
pub struct Verdict {
    pub misfits: Vec<Misfit>,
    /// What had to go could not be removed.
    pub is_stuck: bool,
    /// Tables of which a row was refused: what the key has lost there stays until the key is written again, since the
    /// row that was refused may be there as it was before.
    pub unsure: HashSet<usize>,
}

impl<'a> Run<'a> {
    pub fn new(items: &'a [Item<'a>], shapes: &[Shape]) -> Run<'a> {
        let left_out =
            shapes.iter().enumerate().map(|(table, shape)| batch::repeated(items, table, shape)).collect();
        Run::leaving_out(items, shapes, left_out)
    }

    pub fn leaving_out(
        items: &'a [Item<'a>],
        shapes: &[Shape],
        left_out: Vec<HashSet<(usize, usize)>>,
    ) -> Run<'a> {
        let mut lost = vec![HashSet::new(); shapes.len()];
        for (index, item) in items.iter().enumerate() {
            for part in &item.observed.entry.parts {
                if item.may_have_lost(part, &shapes[part.table]) {
                    lost[part.table].insert(index);
                }
            }
        }
        let is_new = items.iter().all(|item| item.stored.is_none());
        let expected = if is_new { Expected::New } else { Expected::There };
        Run { items, left_out, lost, expected }
    }

    /// The same, without looking in these tables for rows that a key has lost.
    #[must_use]
    pub fn losing_nothing_of(mut self, tables: &HashSet<usize>) -> Run<'a> {
        for &table in tables {
            self.lost[table].clear();
        }
        self
    }

    /// Rows of one table with whether their key may have lost others.
    fn lines(&self, table: usize) -> impl Iterator<Item = (bool, &'a [u8])> + Clone {
        let items = self.items.iter().enumerate().filter(|(_, item)| item.has_rows());
        items.filter_map(move |(index, item)| Some((index, batch::part_of(item, table)?))).flat_map(
            move |(index, part)| {
                let lost = self.lost[table].contains(&index);
                let written = move |row: &usize| !self.left_out[table].contains(&(index, *row));
                (0..part.rows.len()).filter(written).map(move |row| (lost, part.rows.line(row)))
            },
        )
    }

    /// How many rows it writes.
    pub fn rows(&self) -> u64 {
        (0..self.left_out.len()).map(|table| self.lines(table).count() as u64).sum()
    }

    fn lost_anchors(&self, table: usize) -> impl Iterator<Item = (String, &'a [u8])> + Clone {
        let lost = move |(index, _): &(usize, &Item<'_>)| self.lost[table].contains(index);
        self.items.iter().enumerate().filter(lost).filter_map(move |(_, item)| {
            Some(("l\t\\N".to_owned(), batch::anchor(batch::part_of(item, table)?)))
        })
    }

    fn gone_anchors(&self, table: usize) -> impl Iterator<Item = (String, &'a [u8])> + Clone {
        self.items.iter().filter_map(move |item| {
            let (at, why) = item.gone()?;
            let why = if why == Why::Expired { 'e' } else { 'd' };
            Some((format!("{why}\t{at}"), batch::anchor(batch::part_of(item, table)?)))
        })
    }

    /// Sends all that is done to the tables.
    pub async fn send_tables(
        &self,
        underway: &mut Underway,
        shapes: &[Shape],
        statements: &[Statements],
    ) -> Result<()> {
        let mut has_lost = vec![false; shapes.len()];
        let mut has_gone = vec![false; shapes.len()];
        for (table, of) in statements.iter().enumerate() {
            send_lines(underway, of, self.lines(table)).await?;
            has_lost[table] = self.lost_anchors(table).next().is_some();
            if has_lost[table] && self.lines(table).next().is_none() {
                // What stays is read from it.
                underway.empty(&of.rows, 0)?;
            }
            has_gone[table] = of.gone.is_some() && self.gone_anchors(table).next().is_some();
            if has_lost[table] || has_gone[table] {
                let gone = self.gone_anchors(table).filter(|_| has_gone[table]);
                let anchors = self.lost_anchors(table).chain(gone);
                underway.fill(&of.anchors, CopyFormat::Text, anchors, write_anchor).await?;
            }
        }
        let lose = |underway: &mut Underway, is_referred| -> Result<()> {
            let tables = (0..shapes.len()).rev();
            for table in tables.filter(|&table| has_lost[table] && shapes[table].is_referred == is_referred) {
                let of = &statements[table];
                underway.empty(&of.kept, self.lines(table).filter(|(lost, _)| *lost).count())?;
                underway.send(&of.lost[0], Counts::Nothing)?;
                underway.send(&of.lost[1], Counts::Deleted(table))?;
            }
            Ok(())
        };
        lose(underway, false)?;
        for (table, of) in statements.iter().enumerate() {
            let rows = self.lines(table).count();
            if rows > 0 {
                send_merge(underway, of, table, self.expected, rows)?;
            }
        }
        lose(underway, true)?;
        for table in (0..shapes.len()).rev().filter(|&table| has_gone[table]) {
            let counts =
                if shapes[table].marks.is_some() { Counts::Marked(table) } else { Counts::Deleted(table) };
            underway.send(statements[table].gone.as_deref().unwrap_or_default(), counts)?;
        }
        Ok(())
    }

    /// Sends what is known of the keys from now on. How many misfits there are.
    pub async fn send_keys(
        &self,
        underway: &mut Underway,
        shapes: &[Shape],
        pipeline: &str,
        replication_id: &str,
        verdict: &Verdict,
    ) -> Result<u64> {
        if self.items.is_empty() {
            return Ok(0);
        }
        let write = |copy: &mut CopyRows<'_>, item: &Item<'_>| {
            write_key(copy, item, shapes, replication_id, verdict);
        };
        underway.fill(control::KEY_STAGE, CopyFormat::Binary, self.items.iter(), write).await?;
        underway.send(&control::merge_keys(pipeline), Counts::Nothing)?;
        underway.send(&control::delete_misfits(pipeline), Counts::Nothing)?;
        let known = self
            .items
            .iter()
            .filter(|item| item.has_rows())
            .flat_map(|item| item.observed.entry.misfits.iter().map(move |misfit| (item, misfit)));
        let found = self
            .items
            .iter()
            .take(1)
            .flat_map(|item| verdict.misfits.iter().map(move |misfit| (item, misfit)));
        let misfits = known.chain(found);
        let count = misfits.clone().count() as u64;
        if count > 0 {
            let write = |copy: &mut CopyRows<'_>, (item, misfit): (&Item<'_>, &Misfit)| {
                write_misfit(copy, item, misfit, shapes, pipeline);
            };
            underway.copy(control::COPY_MISFITS, CopyFormat::Binary, misfits, write).await?;
        }
        Ok(count)
    }
}

/// Stages rows; does nothing without any.
pub async fn send_lines<'a>(
    underway: &mut Underway,
    of: &Statements,
    lines: impl Iterator<Item = (bool, &'a [u8])> + Clone,
) -> Result<()> {
    if lines.clone().next().is_none() {
        return Ok(());
    }
    let write = |copy: &mut CopyRows<'_>, (lost, line): (bool, &[u8])| {
        copy.line(if lost { b"t\t" } else { b"f\t" }, line);
    };
    underway.fill(&of.rows, CopyFormat::Text, lines, write).await
}

/// Merges what is staged: so many rows.
pub fn send_merge(
    underway: &mut Underway,
    of: &Statements,
    table: usize,
    expected: Expected,
    rows: usize,
) -> Result<()> {
    let merge = match expected {
        Expected::New => &of.merge_new,
        Expected::There => &of.merge_there,
    };
    match &of.bulk {
        Some(bulk) if rows >= bulk::ROWS_MIN => bulk.send_merge(underway, table, merge, expected, rows),
        _ => underway.send(merge, Counts::Merged(table)),
    }
}

/// Forgets that a key's rows could not be removed, before that is tried again or said again.
pub fn delete_stuck(pipeline: &str, item: &Item<'_>) -> String {
    format!(
        "delete from pgdiode.keyspace_misfit where pipeline = {} and id = '{}' and place = {}",
        quote::literal(pipeline),
        item.id,
        quote::literal(STUCK)
    )
}

/// The place of a misfit that is not about the value.
pub const STUCK: &str = "its rows";

fn write_anchor(copy: &mut CopyRows<'_>, (why, anchor): (String, &[u8])) {
    let mut first = why.into_bytes();
    first.push(b'\t');
    first.extend_from_slice(anchor);
    copy.line(&first, b"\n");
}

fn write_key(
    copy: &mut CopyRows<'_>,
    item: &Item<'_>,
    shapes: &[Shape],
    replication_id: &str,
    verdict: &Verdict,
) {
    let key = &item.observed.entry.key;
    let stored = item.stored.map(|stored| &stored.known);
    // A key whose rows could not be removed counts as there: its being gone is news again the next time.
    let (hash, expires_at): (Option<ContentHash>, Option<i64>) = match item.observed.state {
        State::Present { hash, expires_at } => (Some(hash), expires_at),
        State::Passed { hash, expires_at, .. } if verdict.is_stuck => (Some(hash), expires_at),
        State::Gone { .. } if verdict.is_stuck => {
            stored.map_or((None, None), |known| (known.hash, known.expires_at))
        }
        State::Gone { .. } | State::Passed { .. } => (None, None),
    };
    let parts = item.has_rows().then(|| {
        // Nothing is known then of what the key may lose.
        if verdict.is_stuck { Vec::new() } else { batch::parts(item, shapes, &verdict.unsure) }
    });
    let offset = item.observed.offset.and_then(|offset| i64::try_from(offset).ok()).map(i64::to_be_bytes);
    let expires_at = expires_at.map(i64::to_be_bytes);
    let values = [
        Value::Binary(&item.id.0),
        Value::Binary(&key.database.to_be_bytes()),
        Value::Binary(&key.name),
        binary(hash.as_ref().map(|hash| &hash.0[..])),
        binary(expires_at.as_ref().map(|bytes| &bytes[..])),
        binary(offset.is_some().then_some(replication_id.as_bytes())),
        binary(offset.as_ref().map(|bytes| &bytes[..])),
        binary(parts.as_deref()),
        Value::Binary(&[u8::from(item.has_rows())]),
    ];
    copy.row(values.len(), values.into_iter()).expect("all values are binary");
}

fn write_misfit(copy: &mut CopyRows<'_>, item: &Item<'_>, misfit: &Misfit, shapes: &[Shape], pipeline: &str) {
    let key = &item.observed.entry.key;
    let table = misfit.table.map(|table| shapes[table].name.to_string());
    // No text has a zero byte in PostgreSQL; a path that holds keys of a document may.
    let (place, reason) = (misfit.at.replace('\0', "\u{fffd}"), misfit.reason.replace('\0', "\u{fffd}"));
    let values = [
        Value::Binary(pipeline.as_bytes()),
        Value::Binary(&item.id.0),
        Value::Binary(&key.database.to_be_bytes()),
        Value::Binary(&key.name),
        binary(table.as_deref().map(str::as_bytes)),
        Value::Binary(place.as_bytes()),
        Value::Binary(reason.as_bytes()),
        Value::Binary(&misfit.content),
    ];
    copy.row(values.len(), values.into_iter()).expect("all values are binary");
}

fn binary(bytes: Option<&[u8]>) -> Value<'_> {
    bytes.map_or(Value::Null, Value::Binary)
}
