//! A change file read line by line and checked on the way: nothing of it is believed before it is proven whole.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::BytesMut;
use serde::Deserialize;

use crate::archive::line::{Commit, End, Header, RelationLine, Row};
use crate::archive::names::Stored;
use crate::archive::time;
use crate::archive::{FORMAT, decode};
use crate::change::{Change, Relation, TableName, Transaction};
use crate::digest::Sha256;
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;

/// A piece of memory that many rows share.
const ROOM_BYTES: usize = 64 * 1024;

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Begin(Transaction),
    Change(Change),
    /// Ends the transaction, and is the position once it is applied.
    Commit(Lsn),
    End(End),
}

/// Which tables' rows are wanted: the others are not decoded.
pub type Wanted<'a> = &'a dyn Fn(&TableName) -> bool;

/// A change file of ours.
pub struct ChangeFile<R: Read> {
    /// For errors.
    name: String,
    lines: Lines<R>,
    pub header: Header,
    relations: Described,
    /// What the rows' values are in, a piece for many of them.
    room: BytesMut,
    current: Option<Transaction>,
    /// Read together with the beginning of its transaction.
    waiting: Option<Change>,
    /// Rows since the last commit, and in all.
    in_transaction: u64,
    records: u64,
    transactions: u64,
    reached: Lsn,
    ended: bool,
}

impl<R: Read> ChangeFile<R> {
    /// `from` gives the file decrypted; whether it is compressed is for here.
    pub fn open(name: &str, stored: Stored, from: R) -> Result<ChangeFile<R>> {
        let mut lines = Lines::new(stored, from).map_err(|error| unreadable(name, 0, error))?;
        let first = lines.next().map_err(|error| unreadable(name, 1, error))?;
        let header: Header = match first.map(serde_json::from_slice) {
            Some(Ok(header)) => header,
            Some(Err(error)) => {
                return Err(damaged(name, 1, "it is no header of a change file").because(error));
            }
            None => return Err(damaged(name, 1, "the file is empty")),
        };
        if header.format > FORMAT {
            return Err(Error::refused(format!(
                "{name} has format {}, and this program knows up to {FORMAT}",
                header.format
            ))
            .hint("Use a newer pgdiode to read this archive."));
        }
        let reached = header.from;
        Ok(ChangeFile {
            name: name.to_owned(),
            lines,
            header,
            relations: Described::default(),
            room: BytesMut::with_capacity(ROOM_BYTES),
            current: None,
            waiting: None,
            in_transaction: 0,
            records: 0,
            transactions: 0,
            reached,
            ended: false,
        })
    }

    /// The number of the line that was read last, from 1 on.
    pub fn line_number(&self) -> u64 {
        self.lines.number
    }

    /// The line that was read last, without its line break.
    pub fn line(&self) -> &[u8] {
        &self.lines.line
    }

    /// The next item; `None` after the end. Rows of tables that are not wanted are counted and passed over.
    pub fn next(&mut self, wanted: Wanted<'_>) -> Result<Option<Item>> {
        if let Some(change) = self.waiting.take() {
            return Ok(Some(Item::Change(change)));
        }
        loop {
            let number = self.lines.number + 1;
            let line = match self.lines.next() {
                Ok(Some(_)) if self.ended => {
                    return Err(damaged(&self.name, number, "something stands behind the end"));
                }
                Ok(Some(line)) => line,
                Ok(None) if self.ended => return Ok(None),
                Ok(None) => return Err(damaged(&self.name, number, "the file is cut off")),
                Err(error) => return Err(unreadable(&self.name, number, error)),
            };
            let line = parse(line).map_err(|error| {
                damaged(&self.name, number, "it is no line of a change file").because(error)
            })?;
            match line {
                Line::Row(row) => {
                    let begun = if self.current.is_none() { Some(transaction(&row)) } else { None };
                    let begun = begun.transpose();
                    let read = begun.and_then(|begun| {
                        Ok((begun, change(&row, &self.relations, wanted, &mut self.room)?))
                    });
                    let (begun, change) =
                        read.map_err(|error| damaged(&self.name, number, "it is no row").because(error))?;
                    self.records += 1;
                    self.in_transaction += 1;
                    match (begun, change) {
                        (Some(begun), change) => {
                            (self.current, self.waiting) = (Some(begun), change);
                            return Ok(Some(Item::Begin(begun)));
                        }
                        (None, Some(change)) => return Ok(Some(Item::Change(change))),
                        (None, None) => {}
                    }
                }
                Line::Relation(line) => {
                    self.relations.insert(Relation::from(line));
                }
                Line::Commit(commit) => return self.commit(&commit).map(Some),
                Line::End(end) => return self.end(end).map(Some),
            }
        }
    }

    fn commit(&mut self, commit: &Commit) -> Result<Item> {
        let broken = |what: &str| damaged(&self.name, self.lines.number, what);
        let is_its = |begun: &Transaction| begun.xid == commit.xid && begun.commit_lsn == commit.lsn;
        if commit.records != self.in_transaction || !self.current.as_ref().is_some_and(is_its) {
            return Err(broken("the transaction does not have the rows that it had"));
        }
        if commit.lsn < self.reached || commit.end <= commit.lsn {
            return Err(broken("the transaction does not lie behind the one before"));
        }
        self.reached = commit.end;
        self.transactions += 1;
        (self.current, self.in_transaction) = (None, 0);
        Ok(Item::Commit(commit.end))
    }

    fn end(&mut self, end: End) -> Result<Item> {
        let broken = |what: &str| damaged(&self.name, self.lines.number, what);
        if self.current.is_some() {
            return Err(broken("the file ends inside of a transaction"));
        }
        if end.records != self.records || end.transactions != self.transactions || end.to < self.reached {
            return Err(broken("the file does not hold what its end says"));
        }
        self.reached = end.to;
        self.ended = true;
        Ok(Item::End(end))
    }

    /// After an error: the next line that is none, whatever stands before it; `None` at the end, or where nothing more
    /// can be read.
    pub fn next_damaged(&mut self) -> Option<Error> {
        loop {
            let number = self.lines.number + 1;
            let line = self.lines.next().ok()??;
            if let Err(error) = parse(line) {
                return Some(damaged(&self.name, number, "it is no line of a change file").because(error));
            }
        }
    }

    /// The hash and the size of the content, once `next` has given `None`.
    pub fn content(self) -> (String, u64) {
        self.lines.content()
    }
}

enum Line<'a> {
    Row(Row<'a>),
    Relation(RelationLine),
    Commit(Commit),
    End(End),
}

/// By far the most lines are rows, which begin with their table.
fn parse(line: &[u8]) -> serde_json::Result<Line<'_>> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        op: &'a str,
    }
    if line.starts_with(b"{\"table\":") {
        return serde_json::from_slice(line).map(Line::Row);
    }
    match serde_json::from_slice::<Tag<'_>>(line)?.op {
        "RELATION" => serde_json::from_slice(line).map(Line::Relation),
        "COMMIT" => serde_json::from_slice(line).map(Line::Commit),
        "END" => serde_json::from_slice(line).map(Line::End),
        _ => serde_json::from_slice(line).map(Line::Row),
    }
}

/// Whose row it is: each says so, for whoever reads a single line.
fn transaction(row: &Row<'_>) -> Result<Transaction> {
    let malformed = |what: &str| Error::unexpected(format!("its \"{what}\" is missing, or none"));
    let lsn = row.lsn.as_deref().and_then(|lsn| lsn.parse().ok());
    let committed_at_us = row.ts.as_deref().and_then(time::parse);
    Ok(Transaction {
        xid: row.xid.ok_or_else(|| malformed("xid"))?,
        commit_lsn: lsn.ok_or_else(|| malformed("lsn"))?,
        committed_at_us: committed_at_us.ok_or_else(|| malformed("ts"))?,
    })
}

/// The tables that a file has described so far: found by what a row says, without a copy of it.
#[derive(Default)]
struct Described {
    by_schema: HashMap<String, HashMap<String, (TableName, Arc<Relation>)>>,
}

impl Described {
    /// Takes the place of an earlier description of the table.
    fn insert(&mut self, relation: Relation) {
        let name = relation.table();
        let tables = self.by_schema.entry(relation.schema.clone()).or_default();
        tables.insert(relation.name.clone(), (name, Arc::new(relation)));
    }

    /// `None` for a table that is not wanted; an error for one that is and has not been described.
    fn wanted(&self, schema: &str, table: &str, wanted: Wanted<'_>) -> Result<Option<&Arc<Relation>>> {
        match self.by_schema.get(schema).and_then(|tables| tables.get(table)) {
            Some((name, relation)) => Ok(wanted(name).then_some(relation)),
            None if wanted(&TableName::new(schema, table)) => Err(Error::unexpected(format!(
                "table {schema}.{table} has not been described before its rows"
            ))),
            None => Ok(None),
        }
    }
}

/// `None` for a row of a table that is not wanted.
fn change(
    row: &Row<'_>,
    relations: &Described,
    wanted: Wanted<'_>,
    room: &mut BytesMut,
) -> Result<Option<Change>> {
    let missing = |what: &str| Error::unexpected(format!("its \"{what}\" is missing"));
    if row.op == "TRUNCATE" {
        if row.tables.is_empty() {
            return Err(missing("tables"));
        }
        let relations = row
            .tables
            .iter()
            .filter_map(|(schema, table)| match relations.wanted(schema, table, wanted) {
                Ok(relation) => relation.cloned().map(Ok),
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<Vec<_>>>()?;
        let (cascade, restart_identity) = (row.cascade, row.restart_identity);
        let is_wanted = !relations.is_empty();
        return Ok(is_wanted.then_some(Change::Truncate { relations, cascade, restart_identity }));
    }
    let schema = row.schema.as_deref().ok_or_else(|| missing("schema"))?;
    let table = row.table.as_deref().ok_or_else(|| missing("table"))?;
    let Some(relation) = relations.wanted(schema, table, wanted)? else { return Ok(None) };
    decode::change(row, relation, room).map(Some)
}

/// The lines of a file, hashed as they pass.
struct Lines<R: Read> {
    from: BufReader<Content<R>>,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(stored: Stored, from: R) -> io::Result<Lines<R>> {
        const BUFFER: usize = 256 * 1024;
        let from = BufReader::with_capacity(BUFFER, Content::new(stored, from)?);
        Ok(Lines { from, line: Vec::new(), number: 0 })
    }

    /// Without its line break; `None` at the end. A last line without a break is a cut.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        if self.from.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        if self.line.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the last line is cut off"));
        }
        Ok(Some(&self.line))
    }

    fn content(self) -> (String, u64) {
        self.from.into_inner().finish()
    }
}

/// The content of an object that is decrypted already: decompressed where it is stored so, counted and hashed as it passes.
pub struct Content<R: Read> {
    from: Bytes<R>,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Content<R> {
    pub fn new(stored: Stored, from: R) -> io::Result<Content<R>> {
        let from = if stored.is_compressed() {
            Bytes::Zstd(Box::new(zstd::Decoder::new(from)?))
        } else {
            Bytes::Plain(from)
        };
        Ok(Content { from, hash: Sha256::default(), bytes: 0 })
    }

    /// The hash and the size of what has passed.
    pub fn finish(self) -> (String, u64) {
        (self.hash.finish(), self.bytes)
    }
}

enum Bytes<R: Read> {
    Plain(R),
    Zstd(Box<zstd::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.from {
            Bytes::Plain(from) => from.read(into)?,
            Bytes::Zstd(from) => from.read(into)?,
        };
        self.hash.update(&into[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

fn damaged(name: &str, line: u64, what: &str) -> Error {
    Error::new(Kind::Difference, format!("{name}, line {line}: {what}"))
        .hint("The file is not what its writer left: put back what was there, from a copy or a backup.")
}

fn unreadable(name: &str, line: u64, error: io::Error) -> Error {
    // What cannot be decompressed, and a cut, say so by these kinds; the rest is the disk's.
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
            damaged(name, line.max(1), "it cannot be read").because(error)
        }
        _ => Error::unexpected(format!("cannot read {name}")).because(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::draft::{Draft, Press};
    use crate::archive::line::Origin;
    use crate::change::{Column, Old, ReplicaIdentity, Tuple, Value};

    fn header() -> Header {
        Header {
            format: FORMAT,
            archive: "a".into(),
            number: 1,
            epoch: 1,
            previous: None,
            from: Lsn(100),
            lineage: Origin {
                system_identifier: u64::MAX,
                timeline: 1,
                database: "app".into(),
                slot: "s".into(),
                consistent_point: Lsn(50),
            },
            created: "2026-02-05T10:30:00Z".into(),
            writer: "test".into(),
            salt: None,
        }
    }

    fn relation(id: u32, name: &str) -> Arc<Relation> {
        let column = Column { name: "id".into(), type_id: 23, type_modifier: -1, key: true };
        let (schema, identity) = ("public".into(), ReplicaIdentity::Default);
        Arc::new(Relation { id, schema, name: name.into(), identity, columns: vec![column] })
    }

    fn one() -> Tuple {
        [Value::Text(b"1")].into_iter().collect()
    }

    fn transaction(number: u64) -> Transaction {
        Transaction { xid: 7, commit_lsn: Lsn(100 * number), committed_at_us: 5 }
    }

    fn changes() -> Vec<Change> {
        let (a, b) = (relation(1, "a"), relation(2, "b"));
        vec![
            Change::Insert { relation: Arc::clone(&b), new: one() },
            Change::Insert { relation: Arc::clone(&a), new: one() },
            Change::Delete { relation: a, old: Old::Key(one()) },
            Change::Insert { relation: b, new: one() },
        ]
    }

    /// Two transactions of the same changes.
    fn written(stored: Stored) -> Vec<u8> {
        let mut draft = Draft::begin(&header(), Arc::default());
        for number in 1..=2 {
            draft.transaction(transaction(number));
            for change in changes() {
                draft.change(&change);
            }
            draft.commit(Lsn(100 * number + 10));
        }
        let (bytes, counted) = draft.end(Lsn(300));
        assert_eq!((counted.records, counted.transactions), (8, 2));
        assert_eq!(counted.tables["public.a"], 4);
        let mut press = Press::new(Vec::new(), stored, 0).unwrap();
        press.write(&bytes).unwrap();
        let (file, sums) = press.finish().unwrap();
        assert_eq!(sums.stored_bytes, file.len() as u64);
        assert_eq!(sums.stored_sha256, crate::digest::sha256(&file));
        assert_eq!(
            (sums.content_sha256, sums.content_bytes),
            (crate::digest::sha256(&bytes), bytes.len() as u64)
        );
        file
    }

    fn read(stored: Stored, file: &[u8], wanted: Wanted<'_>) -> Result<Vec<Item>> {
        let mut file = ChangeFile::open("0000000001.json", stored, file)?;
        let mut items = Vec::new();
        while let Some(item) = file.next(wanted)? {
            items.push(item);
        }
        Ok(items)
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        for stored in [Stored::Plain, Stored::Zstd] {
            let file = written(stored);
            let all = read(stored, &file, &|_| true).unwrap();
            let expected = |number| {
                let begun = std::iter::once(Item::Begin(transaction(number)));
                let rows = changes().into_iter().map(Item::Change);
                begun.chain(rows).chain([Item::Commit(Lsn(100 * number + 10))])
            };
            let end = Item::End(End { records: 8, transactions: 2, to: Lsn(300) });
            assert_eq!(all, expected(1).chain(expected(2)).chain([end]).collect::<Vec<_>>());
            let none = read(stored, &file, &|_| false).unwrap();
            assert_eq!(none.len(), 5, "transactions without their rows: {none:?}");
            let some = read(stored, &file, &|table| table.name == "a").unwrap();
            assert_eq!(some.len(), 9);
        }
    }

    /// Invariant 6: no bit of a file may change, be lost or be added without a word. What the lines themselves do not
    /// show is for the manifest's hash; here is what they must.
    #[test]
    fn a_cut_is_found_wherever_it_is() {
        for stored in [Stored::Plain, Stored::Zstd] {
            let file = written(stored);
            for end in 0..file.len() {
                let error = read(stored, &file[..end], &|_| true).expect_err("it is cut");
                assert!(matches!(error.kind(), Kind::Difference), "{end}: {error:?}");
            }
        }
    }

    #[test]
    fn lines_that_are_lost_doubled_or_moved_are_found() {
        let file = written(Stored::Plain);
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        let is_refused = |lines: &[&[u8]], what: &str| {
            let read = read(Stored::Plain, &lines.concat(), &|_| true);
            assert!(read.is_err(), "{what}");
        };
        for at in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            is_refused(&fewer, &format!("line {} is lost", at + 1));
            // A relation may be described again.
            if !lines[at].starts_with(b"{\"op\":\"RELATION") {
                let mut more = lines.clone();
                more.insert(at, lines[at]);
                is_refused(&more, &format!("line {} is there twice", at + 1));
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_the_way_out() {
        let mut line = Vec::new();
        crate::archive::encode::put_line(&mut line, &Header { format: 2, ..header() });
        let error = read(Stored::Plain, &line, &|_| true).unwrap_err();
        assert!(error.kind() == Kind::Refused && error.hint_text().unwrap().contains("newer"), "{error:?}");
    }
}
