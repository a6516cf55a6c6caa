//! A file's lines to events, on a thread of its own.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::archive::names::Stored;
use crate::archive::reading::Content;
use crate::archive::row::{self, Row};
use crate::archive::wal2json::{self, Depth, Said};
use crate::change::{Event, Transaction};
use crate::error::{Error, Kind, Result};
use crate::position::Lsn;
use crate::source::archive::Wanted;
use crate::source::archive::flow::{CHUNK_BYTES_MAX, Gone, Out};
use crate::source::archive::foreign::ledger::{Counted, Ledger, Taken, place};
use crate::source::archive::foreign::shapes::Shapes;
use crate::source::archive::foreign::{Dialect, seed};

/// What there is to decode.
pub(super) enum Found {
    File(Taken, File),
    /// Everything before this is behind.
    Behind(Lsn),
}

/// What files are decoded with.
pub(super) struct Decoding {
    /// `None`: each file says by its first line.
    pub dialect: Option<Dialect>,
    pub shapes: Shapes,
    pub wanted: Wanted,
    /// Where each file's rows are counted.
    pub ledger: Ledger,
}

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Seed,
    Wal2json1,
    Wal2json2,
}

/// Why a file is not decoded to its end.
enum Halt {
    Failed(Error),
    /// Nobody takes events any more.
    Gone,
}

impl From<Gone> for Halt {
    fn from(Gone: Gone) -> Halt {
        Halt::Gone
    }
}

/// Decodes what is found until there is no more, or nobody takes it.
pub(super) fn run(mut files: mpsc::Receiver<Result<Found>>, mut out: Out, mut decoding: Decoding) {
    while let Some(found) = files.blocking_recv() {
        let decoded = match found {
            Ok(Found::File(taken, file)) => decode(&taken, file, &mut out, &mut decoding),
            Ok(Found::Behind(position)) => {
                out.push(Event::Idle { position, urgent: true }).map_err(Halt::from)
            }
            Err(error) => Err(Halt::Failed(error)),
        };
        match decoded.and_then(|()| Ok(out.flush()?)) {
            Ok(()) => {}
            Err(Halt::Gone) => return,
            Err(Halt::Failed(error)) => return out.fail(error),
        }
    }
}

fn decode(taken: &Taken, file: File, out: &mut Out, decoding: &mut Decoding) -> Result<(), Halt> {
    let content =
        Content::new(Stored::of(&taken.name), file).map_err(|error| unreadable(&taken.name, error))?;
    let mut lines =
        Lines { from: BufReader::with_capacity(CHUNK_BYTES_MAX, content), line: Vec::new(), number: 0 };
    let mut file = Decoder {
        taken,
        decoding,
        out,
        layout: None,
        object: Vec::new(),
        object_from: 0,
        depth: Depth::default(),
        open: None,
        reached: taken.begins_at(),
        counted: Counted::new(),
    };
    while lines.next().map_err(|error| unreadable(&taken.name, error))? {
        if lines.line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match file.line(&lines.line, lines.number) {
            Ok(()) => {}
            Err(Failed::Gone) => return Err(Halt::Gone),
            Err(Failed::Because(what)) => {
                return Err(Halt::Failed(malformed(&taken.name, lines.number, &what)));
            }
        }
    }
    file.end(lines.number)
}

fn unreadable(name: &str, error: io::Error) -> Halt {
    Halt::Failed(malformed(name, 0, "it cannot be read").because(error))
}

/// What a file says is none of its dialect; line 0 is no line of it.
pub(super) fn malformed(name: &str, line: u64, what: &str) -> Error {
    let place = if line > 0 { format!("{name}, line {line}") } else { name.to_owned() };
    Error::new(Kind::Difference, format!("{place}: {what}")).hint(
        "Nothing of what it belongs to has been applied. Mend the file, or put back the whole of it, then start again.",
    )
}

struct Lines {
    from: BufReader<Content<File>>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    /// Reads on; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        self.line.clear();
        if self.from.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(false);
        }
        self.number += 1;
        Ok(true)
    }
}

enum Failed {
    Because(String),
    Gone,
}

impl From<Gone> for Failed {
    fn from(Gone: Gone) -> Failed {
        Failed::Gone
    }
}

impl From<String> for Failed {
    fn from(what: String) -> Failed {
        Failed::Because(what)
    }
}

/// A transaction that has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// It ends with the file.
    WithFile,
    /// It ends with its commit; it began at this line.
    WithCommit(u64),
}

struct Decoder<'a> {
    taken: &'a Taken,
    decoding: &'a mut Decoding,
    out: &'a mut Out,
    layout: Option<Layout>,
    /// Lines of an object that has not ended.
    object: Vec<u8>,
    object_from: u64,
    depth: Depth,
    open: Option<Open>,
    /// Where the last transaction ended.
    reached: Lsn,
    counted: Counted,
}

impl Decoder<'_> {
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), Failed> {
        let layout = match self.layout {
            Some(layout) => layout,
            None => *self.layout.insert(layout(line, self.decoding.dialect)?),
        };
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned());
        match layout {
            Layout::Seed => {
                let (row, time) = seed::parse(text(line)?)?;
                self.begin_with_file(time)?;
                self.row(&row)
            }
            Layout::Wal2json2 => self.said(wal2json::parse_2(text(line)?)?, number),
            Layout::Wal2json1 => {
                if self.object.is_empty() {
                    self.object_from = number;
                }
                self.object.extend_from_slice(line);
                if !self.depth.closes_with(line) {
                    return Ok(());
                }
                let object = std::mem::take(&mut self.object);
                let object = wal2json::without_stray_comma(text(&object)?);
                let (rows, time) = wal2json::parse_1(&object)?;
                self.begin(Open::WithCommit(self.object_from), time)?;
                for row in &rows {
                    self.row(row)?;
                }
                self.commit(place(self.taken.ordinal, number))
            }
        }
    }

    fn said(&mut self, said: Said<'_>, number: u64) -> Result<(), Failed> {
        match (said, self.open) {
            (Said::Begin(begin), None) => self.begin(Open::WithCommit(number), begin.committed_at_us),
            (Said::Begin(_), Some(_)) => Err("a transaction begins inside another".to_owned().into()),
            (Said::Commit, Some(Open::WithCommit(_))) => self.commit(place(self.taken.ordinal, number)),
            (Said::Commit, _) => Err("a transaction ends that has not begun in this file".to_owned().into()),
            (Said::Row(row), Some(_)) => self.row(&row),
            (Said::Row(row), None) if self.reached == self.taken.begins_at() => {
                self.begin_with_file(0)?;
                self.row(&row)
            }
            (Said::Row(_), None) => Err("a row lies outside of the file's transactions".to_owned().into()),
            (Said::Message, _) => Ok(()),
        }
    }

    fn begin_with_file(&mut self, committed_at_us: i64) -> Result<(), Failed> {
        if self.open.is_some() { Ok(()) } else { self.begin(Open::WithFile, committed_at_us) }
    }

    fn begin(&mut self, open: Open, committed_at_us: i64) -> Result<(), Failed> {
        self.open = Some(open);
        // Behind the one before and not beyond its own end: what is sent again is known by it.
        let transaction = Transaction { xid: 0, commit_lsn: self.reached, committed_at_us };
        Ok(self.out.push(Event::Begin(transaction))?)
    }

    fn commit(&mut self, end: Lsn) -> Result<(), Failed> {
        (self.open, self.reached) = (None, end);
        if end == self.taken.ends_at() {
            self.decoding.ledger.count(self.taken, std::mem::take(&mut self.counted));
        }
        Ok(self.out.push(Event::Commit(end))?)
    }

    fn row(&mut self, row: &Row<'_>) -> Result<(), Failed> {
        if !(self.decoding.wanted)(&row.table) {
            return Ok(());
        }
        let hex_bytes = self.layout != Some(Layout::Seed);
        let change = self.decoding.shapes.change(row, hex_bytes)?;
        match self.counted.get_mut(&row.table) {
            Some(rows) => *rows += 1,
            None => drop(self.counted.insert(row.table.clone(), 1)),
        }
        Ok(self.out.push(Event::Change(change))?)
    }

    /// Commits what ends with the file; where nothing does, an empty transaction says that the file is behind.
    fn end(mut self, lines: u64) -> Result<(), Halt> {
        let name = &self.taken.name;
        if !self.object.is_empty() {
            return Err(Halt::Failed(malformed(
                name,
                self.object_from,
                "this transaction is cut off by the end of the file",
            )));
        }
        if let Some(Open::WithCommit(line)) = self.open {
            let what =
                "this transaction does not end in this file; where it goes on in the next, join the two";
            return Err(Halt::Failed(malformed(name, line, what)));
        }
        if lines != self.taken.lines {
            return Err(Halt::Failed(malformed(name, 0, "its fetched copy changed while it was read")));
        }
        if self.reached < self.taken.ends_at() {
            let ended = self.begin_with_file(0).and_then(|()| self.commit(self.taken.ends_at()));
            ended.map_err(|_| Halt::Gone)?;
        }
        Ok(())
    }
}

/// How a file is laid out, by its first line and by what the configuration says.
fn layout(line: &[u8], dialect: Option<Dialect>) -> Result<Layout, String> {
    // Raw: a number may have more digits than any type here.
    let first: Option<&RawValue> = serde_json::from_slice(line).ok();
    let first = first.and_then(|object| row::members(object).ok());
    let member = |name: &str| first.iter().flatten().find(|member| member.name == name);
    let has = |name: &str| member(name).is_some();
    // An object of format 1 may go on for many lines.
    let goes_on = first.is_none() && line.starts_with(b"{") && !Depth::default().closes_with(line);
    let found = if has("action") {
        Some(Layout::Wal2json2)
    } else if has("change") || (goes_on && dialect != Some(Dialect::Seed)) {
        Some(Layout::Wal2json1)
    } else if has("op") {
        Some(Layout::Seed)
    } else {
        None
    };
    if member("op").is_some_and(|op| op.raw.get() == "\"ARCHIVE\"") {
        return Err(
            "this is a change file of pgdiode's, and its archive's meta/archive.json is missing".into()
        );
    }
    match (found, dialect) {
        (Some(layout), None)
        | (Some(layout @ (Layout::Wal2json1 | Layout::Wal2json2)), Some(Dialect::Wal2json)) => Ok(layout),
        (Some(Layout::Seed) | None, Some(Dialect::Seed)) => Ok(Layout::Seed),
        (_, dialect) => Err(match dialect {
            None => "this is a line of no dialect that is known: neither seed nor wal2json".to_owned(),
            Some(dialect) => {
                format!("this is no line of the dialect {dialect:?}, which archive.dialect names")
                    .to_lowercase()
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_line() {
        for (line, dialect, expected) in [
            (r#"{"table":"t","op":"INSERT","data":{}}"#, None, Some(Layout::Seed)),
            (r#"{"action":"B"}"#, None, Some(Layout::Wal2json2)),
            (r#"{"change":[]}"#, None, Some(Layout::Wal2json1)),
            (r#"{"xid":1,"change":[]}"#, None, Some(Layout::Wal2json1)),
            (r#"{"change":["#, None, Some(Layout::Wal2json1)),
            ("{", None, Some(Layout::Wal2json1)),
            (r#"{"op":"ARCHIVE"}"#, None, None),
            (r#"{"a":1}"#, None, None),
            ("hello", None, None),
            (r#"{"action":"B"}"#, Some(Dialect::Seed), None),
            (r#"{"table":"t","op":"INSERT","data":{}}"#, Some(Dialect::Wal2json), None),
        ] {
            assert_eq!(layout(line.as_bytes(), dialect).ok(), expected, "{line}");
        }
    }
}
