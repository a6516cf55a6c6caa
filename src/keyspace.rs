//! Sources that hold keys and not rows: where a key is, which tables it fills, and what rows it has become.
//!
//! A key's value becomes an [`Entry`]: for each table that its mapping fills, all the rows that the table is to hold of
//! this key. An entry replaces what the target held of the key before; nothing is ever added up, so that applying an
//! entry twice, or an older and then a newer one, ends the same.
//!
//! ```text
//! sessions: one row a key          messages: many rows a key            users: rows that several keys share
//!   key     session_key              key     session_id, message_key      key   external_id
//!   anchor  session_key              anchor  session_id -> sessions       (no anchor: made once, never removed)
//! ```

use std::fmt;

use bytes::Bytes;

use crate::change::TableName;
use crate::digest::Sha256;

/// A key of one of a server's numbered databases. Bytes: a key need not be text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub database: u32,
    pub name: Bytes,
}

impl Key {
    pub fn new(database: u32, name: impl Into<Bytes>) -> Key {
        Key { database, name: name.into() }
    }

    /// What stands for the key where its length must not matter.
    pub fn id(&self) -> KeyId {
        let mut hash = Sha256::default();
        hash.update(&self.database.to_be_bytes());
        hash.update(&self.name);
        KeyId(hash.half())
    }
}

/// Half of the SHA-256 of a key's database (four bytes, big-endian) and name. Shown as PostgreSQL shows a `uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

/// Half of the SHA-256 of all that an entry was made of: equal means that there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_uuid(&self.0, f)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_uuid(&self.0, f)
    }
}

fn show_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// The tables that a pipeline's mappings fill, each after those that it refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    pub tables: Vec<Table>,
}

/// One table: which of its columns are written, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: TableName,
    pub columns: Vec<Column>,
    /// The columns, by index, that tell rows apart: a unique index of the target has exactly these.
    pub key: Vec<usize>,
    /// The columns, by index, whose values follow from the name of the Redis key alone. Rows of one key are those with
    /// its values there. Empty where `write` is not [`Write::Replace`].
    pub anchor: Vec<usize>,
    pub write: Write,
    pub gone: Gone,
}

/// A column that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// The value that an entry has is looked up: `users.id` of the user whose `external_id` it is.
    pub reference: Option<Reference>,
}

/// Another table of the layout, which comes before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its index in [`Layout::tables`].
    pub table: usize,
    /// The column there that holds the value that the entry has.
    pub by: String,
    /// The column there whose value is taken.
    pub take: String,
}

/// What is done with rows that are there already, or are no longer in the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The table holds of a key exactly the rows of its entry: others are updated, or removed.
    Replace,
    /// A row is made where there is none, and then left alone: users, groups.
    Ensure,
    /// A row is made or updated, and never removed.
    Upsert,
}

/// What becomes of a [`Write::Replace`] table's rows when their key is gone. Rows that a key that is still there has
/// lost are removed in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    Delete,
    /// The columns that say when, of which one is filled; both are emptied when the key returns.
    Mark {
        expired_at: String,
        deleted_at: String,
    },
    /// Nothing: its parent is marked.
    Keep,
}

/// All that the target is to hold of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    /// One for each table that the key's mapping fills, in the layout's order; without rows where the key is gone.
    pub parts: Vec<Part>,
    /// What of the value became no row.
    pub misfits: Vec<Misfit>,
}

/// An entry's rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// The table's index in [`Layout::tables`].
    pub table: usize,
    /// The values of the table's anchor columns, as one line of [`Rows::lines`]; empty where it has none.
    pub anchor: Vec<u8>,
    pub rows: Rows,
}

/// Rows as COPY's text format has them: values in the order of [`Table::columns`], escaped, with a tabulator between
/// and a line feed after; `\N` is null.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    pub lines: Vec<u8>,
    /// Where each row's line ends, behind its line feed.
    pub ends: Vec<usize>,
    /// A hash of each row's values of [`Table::key`]: no two rows of one part have the same.
    pub identities: Vec<u64>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The line of row `index`.
    pub fn line(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.lines[start..self.ends[index]]
    }
}

/// Something that became no row, and why. It is kept in the target, never dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The table that it was for, by its index; `None` where the whole value is meant.
    pub table: Option<usize>,
    /// Which element of the value: `$.messages[3]`.
    pub at: String,
    /// Never holds a value: it may be logged.
    pub reason: String,
    /// What did not fit, as it was.
    pub content: Bytes,
}

/// What was seen of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub entry: Entry,
    pub state: State,
    /// Where in the source's history that was; `None` where it has no history that can be read.
    pub offset: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// `expires_at`: milliseconds since 1970.
    Present {
        hash: ContentHash,
        expires_at: Option<i64>,
    },
    Gone {
        at: i64,
        why: Why,
    },
    /// It was there and is gone, both since the last look: its rows are written, then treated as of a key that is gone.
    Passed {
        hash: ContentHash,
        expires_at: Option<i64>,
        at: i64,
        why: Why,
    },
}

/// Why a key is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Expired,
    /// Deleted, evicted, renamed or moved away: nobody can tell these apart for sure.
    Deleted,
}

/// How far a node's history has been applied; commits with the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePosition {
    /// Of a cluster: the node's id; else empty.
    pub node: String,
    /// Whose history: Redis' replication id. Empty where the way of listening has no history.
    pub replication_id: String,
    pub offset: u64,
    /// The database that the stream had selected at the offset; `None` while no command has said it.
    pub database: Option<u32>,
    /// Every key has been looked at since this history was begun.
    pub is_scanned: bool,
    /// The digest of the mapping by which it was applied: under another one every key is looked at again.
    pub mapping: ContentHash,
}
