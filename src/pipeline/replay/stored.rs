//! What the target holds of an archive that it is filled from: which one, from which base on, and the last file that it
//! has wholly, by which a start tells whether the archive is still what it was.

use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::position::{Lineage, Lsn};
use crate::source::archive::{Mark, Marks};

/// Beside the control schema, which is there. Idempotent. `file` is never ahead of `pgdiode.position`.
pub const CREATE: &str = "
create table if not exists pgdiode.replay (
    pipeline text primary key,
    archive text not null,
    base int8,
    file int8,
    file_sha256 text,
    file_to pg_lsn,
    last_sealed int8,
    updated_at timestamptz not null default now()
);
";

/// The row of one pipeline.
#[derive(Debug, Clone)]
pub struct Stored {
    pub archive: String,
    /// The last file that is wholly applied.
    pub file: Option<Mark>,
    pub last_sealed: Option<u64>,
}

pub async fn read(target: &mut Session, pipeline: &str) -> Result<Option<Stored>> {
    if target.one("select pg_catalog.to_regclass('pgdiode.replay') is null").await?.bool(0) {
        return Ok(None);
    }
    let sql =
        "select archive, file, file_sha256, file_to, last_sealed from pgdiode.replay where pipeline = $1";
    let rows = target.query_with(sql, &[Some(pipeline)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let file = match (row.optional(1)?, row.optional(3)?) {
        (Some(number), Some(to)) => Some(Mark { number, content_sha256: row.string(2), to }),
        _ => None,
    };
    Ok(Some(Stored { archive: row.string(0), file, last_sealed: row.optional(4)? }))
}

/// Where a pipeline begins, in one transaction: either all of this is there, or it begins anew.
pub struct Beginning<'a> {
    pub archive: &'a str,
    pub lineage: &'a Lineage,
    pub position: Lsn,
    pub base: Option<u64>,
    /// To be filled from the base; without one they are in step from the first file on.
    pub tables: &'a [TableName],
}

pub async fn begin(target: &mut Session, pipeline: &Pipeline, beginning: &Beginning<'_>) -> Result<()> {
    let name = quote::literal(&pipeline.name);
    let mut sql = lineage_sql(&name, beginning.lineage);
    sql.push_str(&format!(
        "update pgdiode.pipeline set schema_copied = {} where name = {name};
         insert into pgdiode.position (pipeline, lsn) values ({name}, '{}');
         insert into pgdiode.replay (pipeline, archive, base) values ({name}, {}, {});",
        beginning.base.is_none(),
        beginning.position,
        quote::literal(beginning.archive),
        beginning.base.map_or_else(|| "null".to_owned(), |base| base.to_string()),
    ));
    let (state, copied_at) = if beginning.base.is_some() { ("pending", "null") } else { ("ready", "'0/0'") };
    for table in beginning.tables {
        sql.push_str(&format!(
            "insert into pgdiode.relation (pipeline, schema_name, table_name, state, copied_at)
             values ({name}, {}, {}, '{state}', {copied_at})
             on conflict (pipeline, schema_name, table_name)
             do update set state = excluded.state, copied_at = excluded.copied_at;",
            quote::literal(&table.schema),
            quote::literal(&table.name)
        ));
    }
    // One message is one transaction.
    target.query(&sql).await.map(drop)
}

fn lineage_sql(name: &str, lineage: &Lineage) -> String {
    format!(
        "update pgdiode.pipeline
            set system_identifier = {}, timeline = {}, database = {}, slot = {}, consistent_point = '{}', slot_begun = false
          where name = {name};",
        lineage.system_identifier,
        lineage.timeline,
        quote::literal(&lineage.database),
        quote::literal(&lineage.slot),
        lineage.consistent_point,
    )
}

/// Writes down which files are applied and sealed by now.
pub async fn store_marks(target: &mut Session, pipeline: &str, marks: &Marks) -> Result<()> {
    let mut sets = Vec::new();
    if let Some(mark) = marks.applied() {
        let hash = quote::literal(&mark.content_sha256);
        sets.push(format!("file = {}, file_sha256 = {hash}, file_to = '{}'", mark.number, mark.to));
    }
    if let Some((number, _)) = marks.last_sealed() {
        sets.push(format!("last_sealed = {number}"));
    }
    if sets.is_empty() {
        return Ok(());
    }
    let (sets, name) = (sets.join(", "), quote::literal(pipeline));
    let sql = format!("update pgdiode.replay set {sets}, updated_at = now() where pipeline = {name}");
    target.query(&sql).await.map(drop)
}
