//! What a comparison of keys with the rows that they have become has to say.

use serde::Serialize;

use super::table;
use crate::change::TableName;

/// Keys of a source compared with the tables of the target, in both directions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeysReport {
    pub identical: bool,
    /// A process runs the pipeline: what differed at first was looked at again. Otherwise the target is what it was when
    /// the pipeline stopped, and what was written since is a difference.
    pub is_running: bool,
    /// Keys that the server has and the mapping matches.
    pub keys: u64,
    pub tables: Vec<ComparedTable>,
    /// Parts of values that became no row, as stored: no differences.
    pub misfits: u64,
    /// Keys whose value was another one each time, or which the running pipeline has not come to: nothing can be said of them.
    pub unsettled: u64,
    /// The first of them.
    pub differences: Vec<KeyDifference>,
    pub differences_total: u64,
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedTable {
    #[serde(serialize_with = "table")]
    pub name: TableName,
    /// Rows that the keys make, each compared with the table's.
    pub rows: u64,
    pub missing: u64,
    pub extra: u64,
    pub different: u64,
}

/// One key and table that differ. Holds no values but those that tell keys and rows apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDifference {
    /// `None` for a row that is of no key.
    pub database: Option<u32>,
    /// Bytes that are no text are escaped.
    pub key: Option<String>,
    /// `None` where the key as a whole is meant.
    pub table: Option<String>,
    /// The key of a row that is of no key.
    pub row: Option<String>,
    pub kind: KeyDifferenceKind,
    pub rows: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyDifferenceKind {
    /// The server has the key, and the target holds nothing of it.
    KeyMissing,
    /// The target holds rows of a key that the server does not have.
    KeyExtra,
    RowMissing,
    RowExtra,
    OtherValues,
    /// A row under no key that the target knows to be there.
    RowOfNoKey,
}

impl KeyDifferenceKind {
    pub fn words(self) -> &'static str {
        match self {
            KeyDifferenceKind::KeyMissing => "the target does not have the key",
            KeyDifferenceKind::KeyExtra => "the server does not have the key",
            KeyDifferenceKind::RowMissing => "missing at the target",
            KeyDifferenceKind::RowExtra => "only at the target",
            KeyDifferenceKind::OtherValues => "other values",
            KeyDifferenceKind::RowOfNoKey => "of no key that is there",
        }
    }
}
