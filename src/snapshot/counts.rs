//! How many rows the tables have: at the source at the exported moment, and in their copy once that is whole.

use std::collections::HashMap;

use crate::change::TableName;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::source::postgres::catalog::SourceTable;

/// The rows of each table.
pub(super) type Rows = HashMap<TableName, u64>;

/// The source's rows. What it counted while it sent a table in one piece is its own word; a table that came in pieces is
/// counted, since a piece may be missing. `session` holds the moment open.
pub(super) async fn at_source(session: &mut Session, tables: &[SourceTable], sent: &Rows) -> Result<Rows> {
    // A source that has died meanwhile may not have kept all that it showed.
    session.one("select 1").await?;
    let mut rows = sent.clone();
    for SourceTable { table, is_emptied, .. } in tables {
        if rows.contains_key(table) {
            continue;
        }
        // An emptied table is compared with nothing.
        let filter = if *is_emptied { " where false" } else { "" };
        let sql = format!("select pg_catalog.count(*) from only {}{filter}", quote::table(table));
        rows.insert(table.clone(), session.one(&sql).await?.get(0)?);
    }
    Ok(rows)
}

/// The rows of the copy.
pub(super) async fn at_target(ends: &Ends, tables: &[SourceTable]) -> Result<Rows> {
    let mut shadow = ends.target().await?;
    let mut rows = Rows::new();
    for table in tables.iter().map(|table| &table.table) {
        let sql = format!("select pg_catalog.count(*) from only {}", quote::table(&ends.at_target(table)));
        rows.insert(table.clone(), shadow.one(&sql).await?.get(0)?);
    }
    Ok(rows)
}
