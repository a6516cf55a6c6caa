//! What a replica takes of its server's disk, and when that will be full.

use crate::config::{Mode, Pipeline, Way};
use crate::error::Result;
use crate::pg::session::{Row, Session};
use crate::pipeline::ends::TargetEnd;
use crate::snapshot;
use crate::status::fleet::{Storage, TableSize};

/// Tables that are listed.
const TABLES_MAX: u32 = 50;

/// Measures the replica; `growth` is in bytes a day.
pub(super) async fn measure(pipeline: &Pipeline, growth: Option<f64>) -> Result<Option<Storage>> {
    if pipeline.way() == Way::ToArchive {
        return Ok(None);
    }
    let session = if pipeline.mode == Mode::Snapshot {
        snapshot::replica_session(pipeline).await?
    } else {
        Some(TargetEnd::resolve(pipeline)?.session().await?)
    };
    let Some(mut session) = session else { return Ok(None) };
    let size = "select pg_catalog.pg_database_size(pg_catalog.current_database())";
    let database_bytes: u64 = session.one(size).await?.get(0)?;
    let tables = tables(&mut session).await?;
    let volume = snapshot::volume(pipeline, &mut session).await?;
    let until = |percent: f64| {
        let volume = volume.as_ref()?;
        let growth = growth.filter(|growth| *growth >= 1.0)?;
        // Precise to a byte up to 9 PB.
        #[allow(clippy::cast_precision_loss)]
        let left = volume.bytes as f64 * percent / 100.0 - volume.used as f64;
        Some((left / growth).max(0.0))
    };
    Ok(Some(Storage {
        database_bytes,
        volume_bytes: volume.as_ref().map(|volume| volume.bytes),
        growth_bytes_per_day: growth,
        days_until_70: until(70.0),
        days_until_85: until(85.0),
        days_until_95: until(95.0),
        tables,
    }))
}

/// The largest, with what belongs to them.
async fn tables(session: &mut Session) -> Result<Vec<TableSize>> {
    let sql = format!(
        "select pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.pg_total_relation_size(c.oid),
                greatest(c.reltuples, 0)::int8
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema', 'pgdiode')
            and n.nspname !~ '^pg_toast'
          order by 2 desc nulls last, 1 limit {TABLES_MAX}"
    );
    let read = |row: &Row| {
        Ok(TableSize { name: row.string(0), bytes: row.optional(1)?.unwrap_or(0), rows: row.get(2)? })
    };
    session.query(&sql).await?.iter().map(read).collect()
}
