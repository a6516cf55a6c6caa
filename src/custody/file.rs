//! A change file, line by line, against its manifest.

use std::collections::BTreeMap;
use std::io::Read;

use super::pull::Tally;
use crate::archive::draft::Counted;
use crate::archive::encryption::{self, Identities};
use crate::archive::line::{End, Header};
use crate::archive::manifest::Manifest;
use crate::archive::names::Stored;
use crate::archive::reading::{ChangeFile, Item};
use crate::error::{Error, Kind};
use crate::status::archive::Finding;

/// Lines of one file that are named; one that lost a whole block has thousands.
const FINDINGS_MAX: usize = 20;

/// What a file must be.
#[derive(Debug)]
pub struct Expected {
    pub name: String,
    pub stored: Stored,
    pub number: u64,
    /// `None` where it cannot be read: then the file has only itself to agree with.
    pub manifest: Option<Manifest>,
}

/// What a look at a file has come to.
#[derive(Debug, Default)]
pub struct Checked {
    pub findings: Vec<Finding>,
    pub counted: Counted,
    /// It does not hold what was sealed, and every line can be read.
    pub is_unexplained: bool,
    /// It is encrypted, and not to those who look: its hash alone was checked.
    pub is_closed: bool,
}

/// Reads it to its end.
pub fn check(expected: &Expected, identities: Option<&Identities>, from: impl Read) -> Checked {
    let mut stored = Tally::new(from);
    let mut checked = Checked::default();
    let content = match encryption::open(&expected.name, expected.stored, identities, &mut stored) {
        Ok(content) => lines(expected, content, &mut checked),
        Err(error) if error.kind() == Kind::Refused => {
            checked.is_closed = true;
            None
        }
        Err(error) => {
            let what = format!("it cannot be decrypted: {}", cause(&error));
            checked.findings.push(Finding::of(&expected.name, what));
            None
        }
    };
    // The store's own failures are told by who reads it.
    let Ok((stored_sha256, stored_bytes)) = stored.finish() else { return checked };
    let Some(manifest) = &expected.manifest else { return checked };
    let name = &expected.name;
    let is_as_stored = (&stored_sha256, stored_bytes) == (&manifest.stored_sha256, manifest.stored_bytes);
    let is_as_written = content.as_ref().is_some_and(|(sha256, bytes)| {
        (sha256, *bytes) == (&manifest.content_sha256, manifest.content_bytes)
    });
    let sums = format!("its SHA-256 is {stored_sha256}, and that of its manifest {}", manifest.stored_sha256);
    let what = match (checked.findings.is_empty(), is_as_stored, is_as_written) {
        (true, true, true) | (false, false, _) => return checked,
        (true, true, false) if checked.is_closed => return checked,
        (true, false, _) if checked.is_closed => format!("it does not hold what was sealed: {sums}"),
        (true, false, true) => {
            "it is not stored as it was sealed, though what it holds is what was written".to_owned()
        }
        (true, false, false) => {
            checked.is_unexplained = true;
            format!("it does not hold what was sealed, and no line shows where: {sums}")
        }
        (true, true, false) => {
            "it is what its manifest says, but for the hash or size of its content".to_owned()
        }
        (false, true, _) => {
            "it is byte for byte what its manifest says: it was written so, or both were changed".to_owned()
        }
    };
    checked.findings.push(Finding::of(name, what));
    checked
}

/// The hash and the size of the content, if it could be read to its end.
fn lines(expected: &Expected, content: impl Read, checked: &mut Checked) -> Option<(String, u64)> {
    let name = &expected.name;
    let mut file = match ChangeFile::open(name, expected.stored, content) {
        Ok(file) => file,
        Err(error) => {
            checked.findings.push(finding(name, 1, &error));
            return None;
        }
    };
    let findings = &mut checked.findings;
    header(expected, &file.header, &mut |what| {
        findings.push(Finding { line: Some(1), ..Finding::of(name, what) });
    });
    let mut last = None;
    loop {
        match file.next(&|_| true) {
            Ok(Some(Item::Change(change))) => checked.counted.count(&change),
            Ok(Some(Item::Begin(_) | Item::Commit(_))) => {}
            Ok(Some(Item::End(end))) => last = Some(end),
            Ok(None) => break,
            Err(error) => {
                checked.findings.push(finding(name, file.line_number(), &error));
                while let Some(error) = file.next_damaged().filter(|_| checked.findings.len() < FINDINGS_MAX)
                {
                    checked.findings.push(finding(name, file.line_number(), &error));
                }
                return None;
            }
        }
    }
    // A file is only read to its end by its end.
    let end = last?;
    checked.counted.transactions = end.transactions;
    if let Some(manifest) = &expected.manifest {
        let line = Some(file.line_number().saturating_sub(1));
        totals(manifest, &end, &checked.counted.tables, &mut |what| {
            checked.findings.push(Finding { line, ..Finding::of(name, what) });
        });
    }
    Some(file.content())
}

/// What stands behind what an error says.
pub fn cause(error: &Error) -> String {
    let text = error.chain();
    text.strip_prefix(error.what()).unwrap_or(&text).trim_start_matches(": ").to_owned()
}

/// An error of the reader, which begins with the file and the line.
fn finding(name: &str, line: u64, error: &Error) -> Finding {
    let text = error.chain();
    let what = text.strip_prefix(&format!("{name}, line {line}: ")).unwrap_or(&text);
    // Each line is a document of its own to its parser.
    let what = what.replace(" at line 1 column ", " at column ");
    Finding { line: Some(line), ..Finding::of(name, what) }
}

fn header(expected: &Expected, header: &Header, add: &mut impl FnMut(String)) {
    let mut differs = |what: &str, here: &str, there: &str| {
        if here != there {
            add(format!("its {what} is {here}, and that of its manifest {there}"));
        }
    };
    let Some(manifest) = &expected.manifest else {
        if header.number != expected.number {
            add(format!("it says that it is file {}", header.number));
        }
        return;
    };
    differs("format", &header.format.to_string(), &manifest.format.to_string());
    differs("archive", &header.archive, &manifest.archive);
    differs("number", &header.number.to_string(), &manifest.number.to_string());
    differs("writer's epoch", &header.epoch.to_string(), &manifest.epoch.to_string());
    differs("previous file's hash", shown(header.previous.as_ref()), shown(manifest.previous.as_ref()));
    differs("first position", &header.from.to_string(), &manifest.from.to_string());
    if header.lineage != manifest.lineage {
        add("it is of another source than its manifest says".to_owned());
    }
}

fn shown(hash: Option<&String>) -> &str {
    hash.map_or("none", String::as_str)
}

fn totals(manifest: &Manifest, end: &End, tables: &BTreeMap<String, u64>, add: &mut impl FnMut(String)) {
    let mut differs = |what: &str, here: u64, there: u64| {
        if here != there {
            add(format!("it has {here} {what}, and its manifest says {there}"));
        }
    };
    differs("rows", end.records, manifest.records);
    differs("transactions", end.transactions, manifest.transactions);
    let none = 0;
    for table in tables.keys().chain(manifest.tables.keys().filter(|table| !tables.contains_key(*table))) {
        let of = |counts: &BTreeMap<String, u64>| *counts.get(table).unwrap_or(&none);
        differs(&format!("rows of {table}"), of(tables), of(&manifest.tables));
    }
    if end.to != manifest.to {
        add(format!("it ends at {}, and its manifest says {}", end.to, manifest.to));
    }
}
