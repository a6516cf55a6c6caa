//! A change file that is being written: lines go in, bytes to store come out, and in the end what its manifest says.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use age::stream::StreamWriter;

use crate::archive::encode::{Encoder, TypeNames, put_line};
use crate::archive::encryption::Recipients;
use crate::archive::line::{End, Header};
use crate::archive::names::Stored;
use crate::change::{ByNumber, Change, Relation, Transaction};
use crate::digest::Sha256;
use crate::position::Lsn;

/// What has been counted in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows.
    pub records: u64,
    pub transactions: u64,
    /// Rows by table.
    pub tables: BTreeMap<String, u64>,
}

impl Counted {
    pub fn count(&mut self, change: &Change) {
        self.records += 1;
        for relation in relations(change) {
            self.add(relation, 1);
        }
    }

    fn add(&mut self, relation: &Relation, rows: u64) {
        *self.tables.entry(relation.table().to_string()).or_default() += rows;
    }
}

/// Those that a change is of: several, for a truncation.
fn relations(change: &Change) -> &[Arc<Relation>] {
    match change {
        Change::Insert { relation, .. }
        | Change::Update { relation, .. }
        | Change::Delete { relation, .. } => std::slice::from_ref(relation),
        Change::Truncate { relations, .. } => relations,
    }
}

/// The lines of one file, in memory only until they are taken.
pub struct Draft {
    encoder: Encoder,
    bytes: Vec<u8>,
    counted: Counted,
    /// By the relation's OID; put under their names in the end.
    rows: ByNumber<u32, (Arc<Relation>, u64)>,
    current: Option<Transaction>,
}

impl Draft {
    pub fn begin(header: &Header, types: Arc<TypeNames>) -> Draft {
        let mut bytes = Vec::new();
        put_line(&mut bytes, header);
        Draft {
            encoder: Encoder::new(types),
            bytes,
            counted: Counted::default(),
            rows: ByNumber::default(),
            current: None,
        }
    }

    pub fn transaction(&mut self, transaction: Transaction) {
        self.encoder.begin(&transaction);
        self.current = Some(transaction);
    }

    pub fn change(&mut self, change: &Change) {
        self.encoder.change(change, &mut self.bytes);
        self.counted.records += 1;
        for relation in relations(change) {
            self.rows.entry(relation.id).or_insert_with(|| (Arc::clone(relation), 0)).1 += 1;
        }
    }

    /// Ends the transaction whose rows came last.
    pub fn commit(&mut self, end: Lsn) {
        let transaction = self.current.take().expect("a transaction is committed once, after it has begun");
        self.encoder.commit(&transaction, end, &mut self.bytes);
        self.counted.transactions += 1;
    }

    /// Whether a transaction has begun and not committed: the file cannot end here.
    pub fn is_inside(&self) -> bool {
        self.current.is_some()
    }

    /// How many bytes wait to be taken.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Ends the file at a position that everything before is in it.
    pub fn end(mut self, to: Lsn) -> (Vec<u8>, Counted) {
        assert!(self.current.is_none(), "a file ends at a commit");
        for (relation, rows) in self.rows.values() {
            self.counted.add(relation, *rows);
        }
        let Counted { records, transactions, .. } = self.counted;
        put_line(&mut self.bytes, &End { records, transactions, to });
        (self.bytes, self.counted)
    }
}

/// Hashes and sizes of a stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    pub content_sha256: String,
    pub content_bytes: u64,
    pub stored_sha256: String,
    pub stored_bytes: u64,
}

/// Where a file's bytes go: hashed, compressed and encrypted if wished, hashed again.
pub struct Press<W: Write> {
    content: Sha256,
    content_bytes: u64,
    out: Out<W>,
}

enum Out<W: Write> {
    Plain(Closed<W>),
    Zstd(zstd::Encoder<'static, Closed<W>>),
}

/// What is stored, encrypted or not.
enum Closed<W: Write> {
    Open(Tally<W>),
    Age(Box<StreamWriter<Tally<W>>>),
}

impl<W: Write> Press<W> {
    /// `level` is zstd's, 0 for its default; without meaning for what is not compressed.
    pub fn new(to: W, stored: Stored, level: i32) -> io::Result<Press<W>> {
        Press::encrypting(to, stored, level, None)
    }

    /// The same for what is `stored` encrypted: to these recipients.
    pub fn encrypting(
        to: W,
        stored: Stored,
        level: i32,
        recipients: Option<&Recipients>,
    ) -> io::Result<Press<W>> {
        let tally = Tally { to, hash: Sha256::default(), bytes: 0 };
        assert_eq!(stored.is_encrypted(), recipients.is_some(), "what is encrypted has recipients");
        let closed = match recipients {
            None => Closed::Open(tally),
            Some(recipients) => Closed::Age(Box::new(recipients.encrypt(tally)?)),
        };
        let out = if stored.is_compressed() {
            let mut encoder = zstd::Encoder::new(closed, level)?;
            encoder.include_checksum(true)?;
            Out::Zstd(encoder)
        } else {
            Out::Plain(closed)
        };
        Ok(Press { content: Sha256::default(), content_bytes: 0, out })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.update(bytes);
        self.content_bytes += bytes.len() as u64;
        match &mut self.out {
            Out::Plain(out) => out.write_all(bytes),
            Out::Zstd(out) => out.write_all(bytes),
        }
    }

    pub fn finish(self) -> io::Result<(W, Sums)> {
        let closed = match self.out {
            Out::Plain(out) => out,
            Out::Zstd(out) => out.finish()?,
        };
        let mut tally = match closed {
            Closed::Open(tally) => tally,
            Closed::Age(out) => out.finish()?,
        };
        tally.flush()?;
        let sums = Sums {
            content_sha256: self.content.finish(),
            content_bytes: self.content_bytes,
            stored_sha256: tally.hash.finish(),
            stored_bytes: tally.bytes,
        };
        Ok((tally.to, sums))
    }
}

impl<W: Write> Write for Closed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Closed::Open(to) => to.write(bytes),
            Closed::Age(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Closed::Open(to) => to.flush(),
            Closed::Age(to) => to.flush(),
        }
    }
}

/// Counts and hashes what goes through.
struct Tally<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
