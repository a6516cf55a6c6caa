//! What stands beside the change files: whose archive it is, who writes it, and what each sealed file holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::FORMAT;
use crate::archive::draft::{Counted, Sums};
use crate::archive::line::{Header, Origin};
use crate::archive::names::Stored;
use crate::archive::signing::{SIGNATURE, SUM, Signer};
use crate::digest::sha256;
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
        let (ours, theirs) = (&self.lineage, &before.lineage);
        let is_same_history = Origin { timeline: theirs.timeline, ..ours.clone() } == *theirs;
        if !is_same_history || ours.timeline < theirs.timeline {
            return broken(format!("its positions count in another history than those of {}", before.name));
        }
        if self.from != before.to {
            return broken(format!("it begins at {}, and {} ends at {}", self.from, before.name, before.to));
        }
        Ok(())
    }
}

/// Whether an object holds what was written: the checksum of all that stands before it. `None`: it has no checksum, as
/// one that was written by other means.
pub fn is_whole(bytes: &[u8]) -> Option<bool> {
    let at = bytes.windows(SUM.len()).rposition(|window| window == SUM.as_bytes())?;
    let (before, sum) = (&bytes[..at], &bytes[at + SUM.len()..]);
    Some(sum == format!("{}\"\n}}\n", sha256(before)).as_bytes())
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
    if is_whole(bytes) == Some(false) {
        return Err(Error::new(
            crate::error::Kind::Difference,
            format!("{name} does not have the checksum that it says"),
        )
        .hint("It is not what pgdiode wrote there; `pgdiode archive verify` looks at everything."));
    }
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(unreadable)?;
    if let Some(format) = versioned.format.filter(|format| *format > FORMAT) {
        return Err(Error::refused(format!(
            "{name} has format {format}, and this program knows up to {FORMAT}"
        ))
        .hint("Use a newer pgdiode to read this archive."));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// As it is stored: for `jq` and for people, with a checksum of itself as its last member.
pub fn text(object: &impl Serialize) -> Vec<u8> {
    signed_text("", object, None)
}

/// The same, with a signature for an object of this name.
pub fn signed_text(name: &str, object: &impl Serialize, signer: Option<&Signer>) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(object).expect("a manifest is made of texts and numbers");
    let end = text.len().checked_sub(2).filter(|end| &text[*end..] == b"\n}");
    text.truncate(end.expect("an object with members ends so"));
    if let Some(signer) = signer {
        let signature = signer.sign(name, &text);
        text.extend_from_slice(format!("{SIGNATURE}{signature}\"").as_bytes());
    }
    let sum = sha256(&text);
    text.extend_from_slice(format!("{SUM}{sum}\"\n}}\n").as_bytes());
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
    /// Tells a table that was made anew or altered since, from this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<TableShape>,
    pub rows: u64,
    /// Rows in the text format of `copy`, in pieces that end at rows; each is loaded by itself.
    pub pieces: Vec<Piece>,
}

/// What a change file says of a table before its rows, as far as it tells one table from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableShape {
    pub oid: u32,
    /// The type OID and the modifier of each column, in the order of `columns`.
    pub types: Vec<(u32, i32)>,
}

/// An object of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// From the archive's root; ends in `.zst` when it is compressed, in `.age` when it is encrypted.
    pub name: String,
    /// `None` where it is encrypted: a hash of few rows would tell which they are to whoever can guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<String>,
    pub content_bytes: u64,
    pub stored_sha256: String,
    pub stored_bytes: u64,
}

impl Piece {
    pub fn of(name: String, sums: Sums) -> Piece {
        Piece {
            content_sha256: (!Stored::of(&name).is_encrypted()).then_some(sums.content_sha256),
            content_bytes: sums.content_bytes,
            stored_sha256: sums.stored_sha256,
            stored_bytes: sums.stored_bytes,
            name,
        }
    }
}

/// How far a registered reader is; the one kind of object that is written over, by its reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderNote {
    pub format: u32,
    pub archive: String,
    pub name: String,
    /// The first change file that it may still need: everything before is applied.
    pub file: u64,
    /// The commit end LSN up to which everything is applied.
    pub position: Lsn,
    /// RFC 3339.
    pub updated: String,
}

/// Written before change files are removed: that they are gone is no loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub format: u32,
    pub archive: String,
    /// This file and all before it may be gone.
    pub number: u64,
    /// Its manifest: what the first file that is left goes on from.
    pub last: Manifest,
    pub host: String,
    /// RFC 3339.
    pub pruned: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_an_object_counts() {
        let identity = Identity { format: 1, archive: "a".into(), created: "2026-02-05T10:30:00Z".into() };
        let text = text(&identity);
        assert_eq!(is_whole(&text), Some(true));
        assert_eq!(parse::<Identity>("meta/archive.json", &text).unwrap(), identity);
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(is_whole(&flipped), Some(true), "bit {bit}");
        }
    }

    #[test]
    fn a_file_follows_only_its_own_history() {
        let origin = Origin {
            system_identifier: 1,
            timeline: 1,
            database: "app".into(),
            slot: "s".into(),
            consistent_point: Lsn(1),
        };
        let file = |number, lineage: &Origin, from, to| Manifest {
            format: 1,
            archive: "a".into(),
            number,
            name: format!("file {number}"),
            epoch: 1,
            lineage: lineage.clone(),
            previous: (number > 1).then(|| "hash".into()),
            content_sha256: "hash".into(),
            content_bytes: 0,
            stored_sha256: String::new(),
            stored_bytes: 0,
            records: 0,
            transactions: 0,
            from: Lsn(from),
            to: Lsn(to),
            tables: BTreeMap::new(),
            sealed: String::new(),
        };
        let first = file(1, &origin, 1, 2);
        assert!(file(2, &origin, 2, 3).follows(&first).is_ok());
        // A promotion goes on in a later timeline.
        assert!(file(2, &Origin { timeline: 2, ..origin.clone() }, 2, 3).follows(&first).is_ok());
        for other in [
            Origin { timeline: 0, ..origin.clone() },
            Origin { system_identifier: 2, ..origin.clone() },
            Origin { consistent_point: Lsn(2), ..origin.clone() },
        ] {
            let error = file(2, &other, 2, 3).follows(&first).unwrap_err();
            assert!(error.what().contains("another history"), "{error:?}");
        }
        assert!(file(2, &origin, 3, 4).follows(&first).is_err(), "a gap");
        assert!(file(3, &origin, 2, 3).follows(&first).is_err(), "a missing file");
    }

    #[test]
    fn an_object_by_another_hand_needs_no_checksum() {
        let text = br#"{"format":1,"archive":"a","created":"today"}"#;
        assert_eq!(is_whole(text), None);
        assert_eq!(parse::<Identity>("meta/archive.json", text).unwrap().archive, "a");
        let newer = br#"{"format":2}"#;
        assert_eq!(
            parse::<Identity>("meta/archive.json", newer).unwrap_err().kind(),
            crate::error::Kind::Refused
        );
    }
}
