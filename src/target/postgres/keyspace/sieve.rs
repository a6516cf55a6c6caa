//! What PostgreSQL refuses because of the data is looked for until it stands alone; the rest is stored.
//!
//! Halves of the batch are tried, each under a savepoint, down to the entry that cannot be stored; then halves of its
//! rows. A row that is refused becomes a misfit of its key, with PostgreSQL's reason and without any value. An order
//! in which rows come may matter (a unique value that moved): what was refused at first is tried once more at the end.

use std::collections::HashSet;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::keyspace::{Misfit, NodePosition};
use crate::target::postgres::keyspace::batch::{self, Item};
use crate::target::postgres::keyspace::run::{self, Run, Verdict};
use crate::target::postgres::keyspace::statement::Expected;
use crate::target::postgres::keyspace::underway::{Counts, RowCounts};
use crate::target::postgres::keyspace::{Applied, KeyspaceTarget};

/// A row that was refused: table, row, why.
type Refused = (usize, usize, Error);

impl KeyspaceTarget {
    /// Applies what can be applied, in a transaction of its own.
    pub(super) async fn carefully(
        &mut self,
        runs: &[&[Item<'_>]],
        position: &NodePosition,
        advance: &str,
    ) -> Result<Applied> {
        let mut applied = Applied::of(&self.shapes);
        self.underway.session.query("begin").await?;
        for run in runs {
            // What is still to be tried, the first at the end.
            let mut pieces = vec![*run];
            while let Some(items) = pieces.pop() {
                if items.is_empty() || self.attempt(items, position, &mut applied).await?.is_ok() {
                    continue;
                }
                if let [item] = items {
                    self.sift(item, position, &mut applied).await?;
                } else {
                    let (first, second) = items.split_at(items.len() / 2);
                    pieces.extend([second, first]);
                }
            }
        }
        self.underway.send(advance, Counts::Nothing)?;
        self.underway.send("commit", Counts::Nothing)?;
        self.underway.settle().await??;
        if applied.refused > 0 {
            tracing::warn!(
                rows = applied.refused,
                "PostgreSQL refused rows; they are in pgdiode.keyspace_misfit, with the reasons"
            );
        }
        Ok(applied)
    }

    fn savepoint(&mut self) -> Result<()> {
        self.underway.send("savepoint sieve", Counts::Nothing)
    }

    /// Settles what was sent since the savepoint; undoes it where the server refused the data.
    async fn settle(&mut self) -> Result<Result<Vec<RowCounts>, Error>> {
        // What is to be checked with the commit is checked here, where it still can be undone.
        self.underway.send("set constraints all immediate", Counts::Nothing)?;
        self.underway.send("set constraints all deferred", Counts::Nothing)?;
        match self.underway.settle().await? {
            Ok(done) => {
                self.underway.session.query("release savepoint sieve").await?;
                Ok(Ok(done))
            }
            Err(error) if is_about_data(&error) => {
                self.underway.session.query("rollback to savepoint sieve; release savepoint sieve").await?;
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn attempt(
        &mut self,
        items: &[Item<'_>],
        position: &NodePosition,
        applied: &mut Applied,
    ) -> Result<Result<(), Error>> {
        self.savepoint()?;
        let run = Run::new(items, &self.shapes);
        let mut so_far = applied.clone();
        self.send_run(&run, position, &Verdict::default(), &mut so_far).await?;
        Ok(self.settle().await?.map(|done| {
            so_far.add(&done);
            *applied = so_far;
        }))
    }

    // ---- one entry ----

    async fn sift(&mut self, item: &Item<'_>, position: &NodePosition, applied: &mut Applied) -> Result<()> {
        let refused = self.try_rows(item, applied).await?;
        let mut left_out = vec![HashSet::new(); self.shapes.len()];
        for (table, row, _) in &refused {
            left_out[*table].insert((0, *row));
        }
        let unsure = refused.iter().map(|(table, ..)| *table).collect();
        let mut verdict = Verdict { unsure, ..Verdict::default() };
        let items = [*item];
        let run = Run::leaving_out(&items, &self.shapes, left_out).losing_nothing_of(&verdict.unsure);
        applied.rows += run.rows();
        if let Err(error) = self.attempt_tables(&run, applied).await? {
            verdict.is_stuck = true;
            verdict.misfits.push(self.stuck(&error));
        }
        for (table, row, _) in refused {
            match self.try_range(item, table, row..row + 1).await? {
                Ok(done) => {
                    applied.rows += 1;
                    applied.add(&done);
                }
                Err(error) => verdict.misfits.push(self.misfit(item, table, row, &error)),
            }
        }
        applied.refused += verdict.misfits.len() as u64;
        self.underway.send(&run::delete_stuck(&self.pipeline, item), Counts::Nothing)?;
        applied.misfits += run
            .send_keys(&mut self.underway, &self.shapes, &self.pipeline, &position.replication_id, &verdict)
            .await?;
        self.underway.settle().await?.map(drop)
    }

    /// Stores an entry's rows in halves; those that are refused by themselves.
    async fn try_rows(&mut self, item: &Item<'_>, applied: &mut Applied) -> Result<Vec<Refused>> {
        let mut refused = Vec::new();
        for table in 0..self.shapes.len() {
            let rows =
                batch::part_of(item, table).filter(|_| item.has_rows()).map_or(0, |part| part.rows.len());
            let mut pieces = vec![(0, rows)];
            while let Some((start, end)) = pieces.pop() {
                if start == end {
                    continue;
                }
                match self.try_range(item, table, start..end).await? {
                    Ok(done) => applied.add(&done),
                    Err(error) if end - start == 1 => refused.push((table, start, error)),
                    Err(_) => {
                        let middle = start + (end - start) / 2;
                        pieces.extend([(middle, end), (start, middle)]);
                    }
                }
            }
        }
        Ok(refused)
    }

    async fn try_range(
        &mut self,
        item: &Item<'_>,
        table: usize,
        rows: std::ops::Range<usize>,
    ) -> Result<Result<Vec<RowCounts>, Error>> {
        self.savepoint()?;
        if let Some(part) = batch::part_of(item, table) {
            let (count, lines) = (rows.len(), rows.map(|row| (false, part.rows.line(row))));
            run::send_lines(&mut self.underway, &self.statements[table], lines).await?;
            run::send_merge(&mut self.underway, &self.statements[table], table, Expected::There, count)?;
        }
        self.settle().await
    }

    async fn attempt_tables(&mut self, run: &Run<'_>, applied: &mut Applied) -> Result<Result<(), Error>> {
        self.savepoint()?;
        run.send_tables(&mut self.underway, &self.shapes, &self.statements).await?;
        Ok(self.settle().await?.map(|done| applied.add(&done)))
    }

    // ---- what is said of it ----

    fn misfit(&self, item: &Item<'_>, table: usize, row: usize, error: &Error) -> Misfit {
        let line = batch::part_of(item, table).map_or(&[][..], |part| part.rows.line(row));
        Misfit {
            table: Some(table),
            at: format!("row {} of {}", row + 1, self.shapes[table].name),
            reason: self.reason(error),
            content: Bytes::copy_from_slice(line),
        }
    }

    fn stuck(&self, error: &Error) -> Misfit {
        Misfit {
            table: None,
            at: run::STUCK.to_owned(),
            reason: format!("rows that had to go could not be removed: {}", self.reason(error)),
            content: Bytes::new(),
        }
    }

    fn reason(&self, error: &Error) -> String {
        let session = &self.underway.session;
        let place = format!("{} ({}): ", session.side().name(), session.place());
        let message = error.what().strip_prefix(&place).unwrap_or(error.what());
        let state = error.sqlstate().unwrap_or_default();
        let said = without_values(message, state);
        tracing::debug!(reason = said, sqlstate = state, "PostgreSQL refused a row");
        format!("{said} ({state})")
    }
}

/// Whether an error is the data's fault: violated constraints, values that are none of their type, or too large; what a
/// trigger or function at the target raised. Anything else would go wrong with any data, or goes well later.
pub(super) fn is_about_data(error: &Error) -> bool {
    const CLASSES: [&str; 9] = ["21", "22", "23", "27", "38", "39", "44", "54", "P0"];
    let class = error.sqlstate().and_then(|state| state.get(..2));
    !error.retries() && class.is_some_and(|class| CLASSES.contains(&class))
}

/// A message of the server's without the values that it may hold.
fn without_values(message: &str, sqlstate: &str) -> String {
    match sqlstate.get(..2) {
        // "null value in column "a" of relation "t" violates not-null constraint": names only.
        Some("21" | "23" | "44" | "54") => message.to_owned(),
        // `invalid input syntax for type integer: "abc"`. A value may have quotes inside.
        Some("22") => match (message.find('"'), message.rfind('"')) {
            (Some(first), Some(last)) if first < last => {
                format!("{}…{}", &message[..first], &message[last + 1..])
            }
            _ => message.to_owned(),
        },
        _ => "a trigger or function of the target refused it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_refusal_has_no_values() {
        for (message, state, said) in [
            (
                r#"invalid input syntax for type integer: "a"b"c""#,
                "22P02",
                "invalid input syntax for type integer: …",
            ),
            (
                r#"value "12" is out of range for type smallint"#,
                "22003",
                "value … is out of range for type smallint",
            ),
            (
                "value too long for type character varying(3)",
                "22001",
                "value too long for type character varying(3)",
            ),
            (
                r#"new row for relation "t" violates check constraint "c""#,
                "23514",
                r#"new row for relation "t" violates check constraint "c""#,
            ),
            ("secret is not wanted", "P0001", "a trigger or function of the target refused it"),
        ] {
            assert_eq!(without_values(message, state), said);
        }
    }

    #[test]
    fn only_the_datas_fault_is_looked_for() {
        let of = |state: &str| Error::unexpected("x").with_sqlstate(state);
        assert!(["22P02", "23505", "21000", "54001", "P0001"].iter().all(|state| is_about_data(&of(state))));
        assert!(!["42P01", "25006", "XX000"].iter().any(|state| is_about_data(&of(state))));
        assert!(!is_about_data(
            &Error::new(crate::error::Kind::TargetUnreachable, "x").with_sqlstate("40P01")
        ));
        assert!(!is_about_data(&Error::unexpected("x")));
    }
}
