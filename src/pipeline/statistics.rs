//! Statistics of a copy for the target's planner: of some tables while others are still copied, of the rest afterwards.
//!
//! A partitioned table and one that others inherit from have statistics of what is below them too: these wait until all
//! is there, and partitions come with their parents.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;

/// Gathers statistics of a table that has all its rows, indexes and extended statistics; whether nothing is left to
/// gather of it.
pub(super) async fn gather_early(target: &mut Session, table: &TableName) -> Result<bool> {
    let name = quote::table(table);
    let alone = format!(
        "select pg_catalog.count(*) from pg_catalog.pg_class c
          where c.oid = pg_catalog.to_regclass({}) and c.relkind = 'r' and not c.relispartition
            and not exists (select from pg_catalog.pg_inherits i where i.inhparent = c.oid)",
        quote::literal(&name)
    );
    if target.one(&alone).await?.get::<u64>(0)? == 0 {
        return Ok(false);
    }
    target.query(&format!("analyze {name}")).await?;
    Ok(true)
}

/// Gathers statistics of all tables but those that have been `gathered`, named as at the source; `jobs` at once and the
/// largest first.
pub async fn gather(ends: &Ends, jobs: usize, gathered: &HashSet<TableName>) -> Result<()> {
    let within = match &ends.schemas {
        Some(schemas) => {
            format!("n.nspname in ({})", schemas.shadows().map(quote::literal).collect::<Vec<_>>().join(", "))
        }
        None => "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'".to_owned(),
    };
    let sql = format!(
        "select n.nspname, c.relname
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where {within} and c.relkind in ('r', 'p', 'm') and not c.relispartition and c.relpersistence <> 't'
          order by c.relkind = 'p' desc, pg_catalog.pg_table_size(c.oid) desc"
    );
    let gathered: HashSet<TableName> = gathered.iter().map(|table| ends.at_target(table)).collect();
    let rows = ends.target().await?.query(&sql).await?;
    let tables = rows.iter().map(|row| TableName::new(row.string(0), row.string(1)));
    let tables: VecDeque<TableName> = tables.filter(|table| !gathered.contains(table)).collect();
    let workers_wanted = jobs.min(tables.len());
    let tables = Arc::new(Mutex::new(tables));
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..workers_wanted {
        let (ends, tables) = (ends.clone(), Arc::clone(&tables));
        workers.spawn(async move {
            let mut session = ends.target().await?;
            let next = || tables.lock().expect("nobody panics over a list").pop_front();
            while let Some(table) = next() {
                session.query(&format!("analyze {}", quote::table(&table))).await?;
            }
            Ok(())
        });
    }
    while let Some(worked) = workers.join_next().await {
        worked
            .map_err(|error| Error::unexpected("a worker that gathers statistics failed").because(error))??;
    }
    Ok(())
}
