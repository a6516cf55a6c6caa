//! A base's objects, row by row, against its manifest.

use std::io::{self, BufRead as _, BufReader, Read};

use super::pull::Tally;
use crate::archive::encryption::{self, Identities};
use crate::archive::manifest::Piece;
use crate::archive::names::Stored;
use crate::archive::reading::Content;
use crate::custody::file::cause;
use crate::error::Kind;
use crate::status::archive::Finding;

const BUFFER_BYTES: usize = 256 * 1024;

/// What a look at an object of a base has come to.
#[derive(Debug, Default)]
pub struct CheckedPiece {
    pub findings: Vec<Finding>,
    pub rows: u64,
    /// It is encrypted, and not to those who look: its hash alone was checked.
    pub is_closed: bool,
}

/// Reads it to its end. `columns` is how many values each row must have; `None` for what is no rows.
pub fn check(
    piece: &Piece,
    columns: Option<usize>,
    identities: Option<&Identities>,
    from: impl Read,
) -> CheckedPiece {
    let form = Stored::of(&piece.name);
    let mut stored = Tally::new(from);
    let mut checked = CheckedPiece::default();
    let content = match encryption::open(&piece.name, form, identities, &mut stored) {
        Ok(content) => rows(piece, form, columns, content, &mut checked),
        Err(error) if error.kind() == Kind::Refused => {
            checked.is_closed = true;
            None
        }
        Err(error) => {
            checked
                .findings
                .push(Finding::of(&piece.name, format!("it cannot be decrypted: {}", cause(&error))));
            None
        }
    };
    let Ok(stored) = stored.finish() else { return checked };
    if !checked.findings.is_empty() {
        return checked;
    }
    let is_stored = stored == (piece.stored_sha256.clone(), piece.stored_bytes);
    let is_written = checked.is_closed
        || content.is_some_and(|(sha256, bytes)| {
            piece.content_sha256.as_ref().is_none_or(|known| *known == sha256) && bytes == piece.content_bytes
        });
    let what = match (is_stored, is_written) {
        (true, true) => return checked,
        (false, true) if checked.is_closed => "it is not stored as the base's manifest says",
        (false, true) => {
            "it is not stored as the base's manifest says, though what it holds is what was written"
        }
        (false, false) => {
            "it does not hold what the base's manifest says, and no row shows where: its SHA-256 differs"
        }
        (true, false) => "it is what the base's manifest says, but for the hash or size of its content",
    };
    checked.findings.push(Finding::of(&piece.name, what));
    checked
}

fn rows(
    piece: &Piece,
    form: Stored,
    columns: Option<usize>,
    stored: impl Read,
    checked: &mut CheckedPiece,
) -> Option<(String, u64)> {
    let unreadable = |line: u64, error: &io::Error| Finding {
        line: Some(line),
        ..Finding::of(&piece.name, format!("it cannot be read: {error}"))
    };
    let mut content = match Content::new(form, stored) {
        Ok(content) => BufReader::with_capacity(BUFFER_BYTES, content),
        Err(error) => {
            checked.findings.push(unreadable(1, &error));
            return None;
        }
    };
    let mut row = Vec::new();
    loop {
        row.clear();
        let line = checked.rows + 1;
        match content.read_until(b'\n', &mut row) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                checked.findings.push(unreadable(line, &error));
                return None;
            }
        }
        checked.rows = line;
        let Some(columns) = columns else { continue };
        if let Some(what) = malformed(&row, columns) {
            checked.findings.push(Finding { line: Some(line), ..Finding::of(&piece.name, what) });
            // Whatever is behind is told by the hash, once this is repaired.
            return None;
        }
    }
    Some(content.into_inner().finish())
}

/// What is wrong with a row of `copy`'s text format: a line break or a tab in a value is written with a backslash.
fn malformed(row: &[u8], columns: usize) -> Option<String> {
    let Some(row) = row.strip_suffix(b"\n") else { return Some("the row is cut off".to_owned()) };
    let values = if row.is_empty() && columns == 0 { 0 } else { row.split(|byte| *byte == b'\t').count() };
    (values != columns).then(|| format!("the row has {values} values, and the table {columns} columns"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_a_value_for_each_column() {
        for (row, columns) in [("1\ta\n", 2), ("\n", 1), ("\n", 0), ("\\N\t\\t\t\n", 3)] {
            assert_eq!(malformed(row.as_bytes(), columns), None, "{row:?}");
        }
        for (row, columns) in [("1\ta", 2), ("1\n", 2), ("1\ta\tb\n", 2), ("a\n", 0)] {
            assert!(malformed(row.as_bytes(), columns).is_some(), "{row:?}");
        }
    }
}
