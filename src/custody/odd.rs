//! Lines that a writer would not have written so, in a file whose hash alone tells that it was changed.
//!
//! Each line is read and written again. One that comes out otherwise, such as a row that names another transaction than
//! its neighbours, was changed. A value that became another value comes out as it stands there: that shows nowhere.

use std::io::Read;

use serde::Serialize;

use crate::archive::encode::Encoder;
use crate::archive::encryption::{self, Identities};
use crate::archive::names::Stored;
use crate::archive::reading::{ChangeFile, Item};
use crate::change::Transaction;
use crate::status::archive::Finding;

/// A file with more of them was written by a program that writes otherwise.
const LINES_MAX: usize = 8;

/// Findings for those lines; none, where nothing can be told.
pub fn lines(name: &str, stored: Stored, identities: Option<&Identities>, from: impl Read) -> Vec<Finding> {
    let Ok(content) = encryption::open(name, stored, identities, from) else { return Vec::new() };
    let Some(odd) = read(name, stored, content).filter(|odd| odd.len() <= LINES_MAX) else {
        return Vec::new();
    };
    let what = "the line is not as it was written: the file does not hold what was sealed";
    odd.into_iter().map(|line| Finding { line: Some(line), ..Finding::of(name, what) }).collect()
}

fn read(name: &str, stored: Stored, from: impl Read) -> Option<Vec<u64>> {
    let mut file = ChangeFile::open(name, stored, from).ok()?;
    let mut odd = Vec::new();
    if file.line() != json(&file.header) {
        odd.push(1);
    }
    let mut encoder = Encoder::default();
    let mut current: Option<(Transaction, Rows)> = None;
    let mut out = Vec::new();
    while let Some(item) = file.next(&|_| true).ok()? {
        out.clear();
        match item {
            Item::Begin(transaction) => {
                encoder.begin(&transaction);
                current = Some((transaction, Rows::default()));
            }
            Item::Change(change) => {
                encoder.change(&change, &mut out);
                let (_, rows) = current.as_mut()?;
                rows.add(file.line_number(), last_line(&out) == file.line());
            }
            Item::Commit(end) => {
                let (transaction, rows) = current.take()?;
                encoder.commit(&transaction, end, &mut out);
                rows.tell(file.line_number(), last_line(&out) == file.line(), &mut odd);
            }
            Item::End(end) => odd.extend((file.line() != json(&end)).then_some(file.line_number())),
        }
    }
    Some(odd)
}

/// The rows of a transaction, compared with what the first of them says of it.
#[derive(Default)]
struct Rows {
    first: Option<u64>,
    odd: Vec<u64>,
    differing: u64,
    count: u64,
}

impl Rows {
    fn add(&mut self, line: u64, is_same: bool) {
        self.first.get_or_insert(line);
        self.count += 1;
        // A large transaction's are not all remembered: so many are no lines that were changed.
        if !is_same && self.odd.len() <= LINES_MAX {
            self.odd.push(line);
        }
        if !is_same {
            self.differing += 1;
        }
    }

    /// When all but the first say the same, it is the first that was changed.
    fn tell(self, commit: u64, is_same: bool, odd: &mut Vec<u64>) {
        let others = self.count.saturating_sub(1);
        if others > 0 && self.differing == others && !is_same {
            odd.extend(self.first);
        } else {
            odd.extend(self.odd);
            odd.extend((!is_same).then_some(commit));
        }
    }
}

fn json(line: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(line).unwrap_or_default()
}

/// Before it may stand what describes the relation.
fn last_line(lines: &[u8]) -> &[u8] {
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    lines.rsplit(|byte| *byte == b'\n').next().unwrap_or(lines)
}
