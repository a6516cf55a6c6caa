//! What stands beside the change files: whose archive it is, who writes it, and what each sealed file holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::FORMAT;
use crate::archive::draft::{Counted, Sums};
use crate::archive::line::{Header, Origin};
use crate::error::{Error, Result};
use crate::position::Lsn;

/// Whose archive it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// Chosen at random when the archive was made.
    pub archive: String,
    pub created: String,
}

/// A writer's claim: from then on files of lower claims are no longer appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub archive: String,
    pub epoch: u64,
    pub host: String,
    pub process: u32,
    pub pipeline: String,
    /// The slot that it reads.
    pub slot: String,
    pub since: String,
}

/// A sealed change file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub archive: String,
    pub number: u64,
    /// The change file's name.
    pub name: String,
    pub epoch: u64,
    pub lineage: Origin,
    /// The hash of the content of the file before; `None` for the first.
    pub previous: Option<String>,
    /// Of the JSON lines, whatever way they are stored.
    pub content_sha256: String,
    pub content_bytes: u64,
    /// Of the object itself: what `sha256sum` prints.
    pub stored_sha256: String,
    pub stored_bytes: u64,
    pub records: u64,
    pub transactions: u64,
    pub from: Lsn,
    pub to: Lsn,
    /// Rows by table, `schema.table`.
    pub tables: BTreeMap<String, u64>,
    /// When it was sealed, RFC 3339.
    pub sealed: String,
}

impl Manifest {
    pub fn of(
        header: &Header,
        name: String,
        to: Lsn,
        counted: Counted,
        sums: Sums,
        sealed: String,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            archive: header.archive.clone(),
            number: header.number,
            name,
            epoch: header.epoch,
            lineage: header.lineage.clone(),
            previous: header.previous.clone(),
            content_sha256: sums.content_sha256,
            content_bytes: sums.content_bytes,
            stored_sha256: sums.stored_sha256,
            stored_bytes: sums.stored_bytes,
            records: counted.records,
            transactions: counted.transactions,
            from: header.from,
            to,
            tables: counted.tables,
            sealed,
        }
    }

    /// Whether this file goes on exactly where `before` ends, in the same archive and by no older writer.
    pub fn follows(&self, before: &Manifest) -> Result<()> {
        let broken = |how: String| {
            Err(Error::new(crate::error::Kind::Difference, format!("{}: {how}", self.name)).hint(
                "The archive is not what its writer left. `pgdiode archive verify` tells which files are affected; \
                 put back what was there, or take a new base and go on from it.",
            ))
        };
        if self.archive != before.archive {
            return broken(format!(
                "it belongs to archive {}, {} to {}",
                self.archive, before.name, before.archive
            ));
        }
        if self.number != before.number + 1 {
            return broken(format!("it does not follow {}: a file is missing", before.name));
        }
        if self.previous.as_ref() != Some(&before.content_sha256) {
            return broken(format!(
                "it was written after another {} than the one that is there",
                before.name
            ));
        }
        if self.epoch < before.epoch {
            return broken(format!(
                "writer {} wrote it after writer {} had taken over",
                self.epoch, before.epoch
            ));
        }
        if self.from != before.to {
            return broken(format!("it begins at {}, and {} ends at {}", self.from, before.name, before.to));
        }
        Ok(())
    }
}

/// Reads one of these. `name` is the object's, for the error.
pub fn parse<T: for<'a> Deserialize<'a>>(name: &str, bytes: &[u8]) -> Result<T> {
    /// Looked at before the rest: another layout has other fields.
    #[derive(Deserialize)]
    struct Versioned {
        format: Option<u32>,
    }
    let unreadable = |error: serde_json::Error| {
        Error::new(crate::error::Kind::Difference, format!("{name} cannot be read"))
            .because(error)
            .hint("It is not what pgdiode wrote there; `pgdiode archive verify` looks at everything.")
    };
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(unreadable)?;
    if let Some(format) = versioned.format.filter(|format| *format > FORMAT) {
        return Err(Error::refused(format!(
            "{name} has format {format}, and this program knows up to {FORMAT}"
        ))
        .hint("Use a newer pgdiode to read this archive."));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// As it is stored: for `jq` and for people.
pub fn text(object: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(object).expect("a manifest is made of texts and numbers");
    text.push(b'\n');
    text
}

/// A base snapshot: every table as of one moment, so that whoever begins needs no older change file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub format: u32,
    pub archive: String,
    pub number: u64,
    pub epoch: u64,
    pub lineage: Origin,
    /// The consistent point: it shows exactly the transactions whose commit record begins before.
    pub at: Lsn,
    /// The first change file that may hold a transaction which it does not show.
    pub next_file: u64,
    /// `pg_dump`'s text of the schema, without rows.
    pub schema: Piece,
    pub tables: Vec<BaseTable>,
    pub sealed: String,
}

/// A table of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseTable {
    pub schema: String,
    pub table: String,
    /// The columns that its rows have, in this order.
    pub columns: Vec<String>,
    pub rows: u64,
    /// Rows in the text format of `copy`, in pieces that end at rows; each is loaded by itself.
    pub pieces: Vec<Piece>,
}

/// An object of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// From the archive's root; ends in `.zst` when it is compressed.
    pub name: String,
    pub content_sha256: String,
    pub content_bytes: u64,
    pub stored_sha256: String,
    pub stored_bytes: u64,
}
