//! The lines of a change file that are not rows, and the shape of those that are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::change::{Column, Relation, ReplicaIdentity};
use crate::position::{Lineage, Lsn};

/// The first line: what the file goes on from, and in whose history its positions count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename = "ARCHIVE")]
pub struct Header {
    pub format: u32,
    pub archive: String,
    pub number: u64,
    /// The writer's claim.
    pub epoch: u64,
    /// SHA-256 of the content of the file before; `None` in the first.
    pub previous: Option<String>,
    /// Everything up to here is in the files before.
    pub from: Lsn,
    pub lineage: Origin,
    /// When the file was begun, RFC 3339.
    pub created: String,
    /// The program and its version.
    pub writer: String,
    /// Where the file is encrypted: random, so that the hash of the content tells nobody what to guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
}

/// A [`Lineage`], spelled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub system_identifier: u64,
    pub timeline: u32,
    pub database: String,
    pub slot: String,
    pub consistent_point: Lsn,
}

impl From<&Lineage> for Origin {
    fn from(lineage: &Lineage) -> Origin {
        Origin {
            system_identifier: lineage.system_identifier,
            timeline: lineage.timeline,
            database: lineage.database.clone(),
            slot: lineage.slot.clone(),
            consistent_point: lineage.consistent_point,
        }
    }
}

impl From<Origin> for Lineage {
    fn from(origin: Origin) -> Lineage {
        Lineage {
            system_identifier: origin.system_identifier,
            timeline: origin.timeline,
            database: origin.database,
            slot: origin.slot,
            consistent_point: origin.consistent_point,
        }
    }
}

/// A table's shape, before its first row in the file and again whenever it has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename = "RELATION")]
pub struct RelationLine {
    pub schema: String,
    pub table: String,
    pub oid: u32,
    pub identity: Identity,
    pub columns: Vec<ColumnLine>,
}

/// What `old_keys` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The primary key.
    Default,
    /// Nothing: there are no updates and deletes.
    Nothing,
    /// The whole old row.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnLine {
    pub name: String,
    /// The type's name, where the writer knew it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    pub oid: u32,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
}

impl RelationLine {
    /// `type_name` names the types by OID, as far as they are known.
    pub fn of(relation: &Relation, type_name: impl Fn(u32) -> Option<String>) -> RelationLine {
        let column = |column: &Column| ColumnLine {
            name: column.name.clone(),
            type_name: type_name(column.type_id),
            oid: column.type_id,
            modifier: column.type_modifier,
            key: column.key,
        };
        RelationLine {
            schema: relation.schema.clone(),
            table: relation.name.clone(),
            oid: relation.id,
            identity: match relation.identity {
                ReplicaIdentity::Default => Identity::Default,
                ReplicaIdentity::Nothing => Identity::Nothing,
                ReplicaIdentity::Full => Identity::Full,
                ReplicaIdentity::Index => Identity::Index,
            },
            columns: relation.columns.iter().map(column).collect(),
        }
    }
}

impl From<RelationLine> for Relation {
    fn from(line: RelationLine) -> Relation {
        let column = |column: ColumnLine| Column {
            name: column.name,
            type_id: column.oid,
            type_modifier: column.modifier,
            key: column.key,
        };
        Relation {
            id: line.oid,
            schema: line.schema,
            name: line.table,
            identity: match line.identity {
                Identity::Default => ReplicaIdentity::Default,
                Identity::Nothing => ReplicaIdentity::Nothing,
                Identity::Full => ReplicaIdentity::Full,
                Identity::Index => ReplicaIdentity::Index,
            },
            columns: line.columns.into_iter().map(column).collect(),
        }
    }
}

/// After the rows of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename = "COMMIT")]
pub struct Commit {
    pub xid: u32,
    /// Where the commit record begins.
    pub lsn: Lsn,
    /// Where it ends: the position once the transaction is applied.
    pub end: Lsn,
    /// Commit time.
    pub ts: String,
    /// How many lines of rows the transaction has.
    pub records: u64,
}

/// The last line: a file without it is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename = "END")]
pub struct End {
    /// Lines of rows.
    pub records: u64,
    pub transactions: u64,
    /// Everything up to here is in this file and those before; may lie behind the last commit, where the source had
    /// nothing more to tell.
    pub to: Lsn,
}

/// A row, read but for its values.
#[derive(Debug, Deserialize)]
pub struct Row<'a> {
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    /// `None` only for what is no row at all.
    #[serde(borrow, default)]
    pub table: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub schema: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub old_keys: Option<&'a RawValue>,
    /// Columns whose out-of-line value the update left alone, and which are therefore not in `data`.
    #[serde(default)]
    pub unchanged: Vec<String>,
    #[serde(borrow, default)]
    pub lsn: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub ts: Option<Cow<'a, str>>,
    #[serde(default)]
    pub xid: Option<u32>,
    /// Of a truncation: all its tables, this one first, as `schema.table` pairs.
    #[serde(default)]
    pub tables: Vec<(String, String)>,
    #[serde(default)]
    pub cascade: bool,
    #[serde(default)]
    pub restart_identity: bool,
}
