//! A session with statements under way: what has been sent, and what the replies are to say.

use std::collections::HashMap;
use std::ops::AddAssign;

use crate::error::{Error, Result};
use crate::pg::session::{Reply, Session};
use crate::target::postgres::encode::{CopyFormat, CopyRows, Part};

/// Encoded bytes are sent whenever so many have gathered, so that the server works while the rest is encoded.
const SEND_BYTES: usize = 256 * 1024;

/// So many rows are deleted from a stage before it is truncated. Deleted rows are read over; a truncation makes files, and
/// one that each commit makes would cost a single key ten times what all the rest does.
const STAGE_ROWS_MAX: usize = 2000;

/// What has been done to the rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCounts {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// As expired or deleted.
    pub marked: u64,
}

impl AddAssign for RowCounts {
    fn add_assign(&mut self, other: RowCounts) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.marked += other.marked;
    }
}

/// What the number in a reply counts; the table by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Nothing,
    /// A row with the numbers of inserted and updated rows.
    Merged(usize),
    Deleted(usize),
    Marked(usize),
}

pub struct Underway {
    pub session: Session,
    awaited: Vec<Counts>,
    tables: usize,
    /// By stage: rows since it was truncated.
    staged: HashMap<String, usize>,
}

impl Underway {
    pub fn new(session: Session, tables: usize) -> Underway {
        Underway { session, awaited: Vec::new(), tables, staged: HashMap::new() }
    }

    /// Appends a statement; it is sent with what follows.
    pub fn send(&mut self, sql: &str, counts: Counts) -> Result<()> {
        self.session.send_query(sql)?;
        self.awaited.push(counts);
        Ok(())
    }

    /// Empties a stage that is about to be filled with so many rows. What it holds may be of any batch before.
    pub fn empty(&mut self, stage: &str, rows: usize) -> Result<()> {
        let staged = self.staged.entry(stage.to_owned()).or_default();
        let verb = if *staged > STAGE_ROWS_MAX { "truncate" } else { "delete from" };
        *staged = if *staged > STAGE_ROWS_MAX { rows } else { *staged + rows };
        self.send(&format!("{verb} {stage}"), Counts::Nothing)
    }

    /// Empties a stage and fills it.
    pub async fn fill<T>(
        &mut self,
        stage: &str,
        format: CopyFormat,
        rows: impl Iterator<Item = T> + Clone,
        write: impl Fn(&mut CopyRows<'_>, T),
    ) -> Result<()> {
        self.empty(stage, rows.clone().count())?;
        self.copy(&format!("copy {stage} from stdin (format {})", format.sql()), format, rows, write).await
    }

    /// Sends a COPY with its rows. No need to wait for the server's consent: if it refuses the statement it ignores the
    /// rows.
    pub async fn copy<T>(
        &mut self,
        sql: &str,
        format: CopyFormat,
        rows: impl Iterator<Item = T>,
        write: impl Fn(&mut CopyRows<'_>, T),
    ) -> Result<()> {
        self.send(sql, Counts::Nothing)?;
        let mut rows = rows.peekable();
        let mut first = true;
        while rows.peek().is_some() {
            let mut copy = CopyRows::new(&mut self.session.out, format, Part { first, last: false });
            while copy.encoded() < SEND_BYTES
                && let Some(row) = rows.next()
            {
                write(&mut copy, row);
            }
            copy.finish();
            self.session.flush().await?;
            first = false;
        }
        CopyRows::new(&mut self.session.out, format, Part { first, last: true }).finish();
        Ok(())
    }

    /// Sends what is left and reads all replies: what was done to each table, or the first statement's error that failed.
    pub async fn settle(&mut self) -> Result<Result<Vec<RowCounts>, Error>> {
        self.session.flush().await?;
        let mut done = vec![RowCounts::default(); self.tables];
        let mut outcome = Ok(());
        for counts in std::mem::take(&mut self.awaited) {
            let reply = self.session.reply().await?;
            if outcome.is_ok() {
                outcome = note(reply, counts, &mut done)?;
            }
        }
        Ok(outcome.map(|()| done))
    }
}

fn note(reply: Reply, counts: Counts, done: &mut [RowCounts]) -> Result<Result<(), Error>> {
    if let Some(error) = reply.error {
        return Ok(Err(error));
    }
    let touched = reply.counts.last().copied().unwrap_or_default();
    match counts {
        Counts::Nothing => {}
        Counts::Deleted(table) => done[table].deleted += touched,
        Counts::Marked(table) => done[table].marked += touched,
        Counts::Merged(table) => {
            if let Some(row) = reply.rows.first() {
                done[table].inserted += row.get::<u64>(0)?;
                done[table].updated += row.get::<u64>(1)?;
            }
        }
    }
    Ok(Ok(()))
}
