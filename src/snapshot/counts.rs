//! The rows of the source's tables at the exported moment, counted beside the copy.
//!
//! The moment is fixed, so that it does not matter when they are counted; the copy is counted when it is whole. One
//! session does it, without parallel workers, so that the copy comes first. Each table is counted in a transaction of its
//! own: a lock that is held on to would keep a TRUNCATE waiting, and whoever comes after it.

use std::collections::HashMap;

use tokio::task::JoinSet;

use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pipeline::ends::Ends;
use crate::source::postgres::catalog::SourceTable;

/// The rows of each table.
pub(super) type Rows = HashMap<TableName, u64>;

/// Counts until it is asked for the result; stops when it is dropped.
pub(super) struct Counting(JoinSet<Result<Rows>>);

impl Counting {
    /// Begins to count in a moment that is held open until [`Counting::rows`] returns.
    pub(super) fn begin(ends: &Ends, snapshot: &str, tables: &[SourceTable]) -> Counting {
        // Where there is a little time before the copy, it goes into what takes longest.
        let mut tables = tables.to_vec();
        tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
        let mut counting = JoinSet::new();
        counting.spawn(count(ends.clone(), snapshot.to_owned(), tables));
        Counting(counting)
    }

    pub(super) async fn rows(mut self) -> Result<Rows> {
        let failed = || Error::unexpected("the rows of the source were not counted");
        self.0.join_next().await.ok_or_else(failed)?.map_err(|error| failed().because(error))?
    }
}

async fn count(ends: Ends, snapshot: String, tables: Vec<SourceTable>) -> Result<Rows> {
    let mut session = ends.source().await?;
    // A scan that the copy's scan joins in the middle would change the order of the rows that it brings.
    session.query("set synchronize_seqscans = off; set max_parallel_workers_per_gather = 0").await?;
    let begin = format!(
        "begin isolation level repeatable read read only; set transaction snapshot {}",
        quote::literal(&snapshot)
    );
    let mut rows = Rows::new();
    for SourceTable { table, is_emptied, .. } in tables {
        // An emptied table is compared with nothing.
        let filter = if is_emptied { " where false" } else { "" };
        let sql = format!("select pg_catalog.count(*) from only {}{filter}", quote::table(&table));
        session.query(&begin).await?;
        let count = session.one(&sql).await?.get(0)?;
        session.query("commit").await?;
        rows.insert(table, count);
    }
    Ok(rows)
}
