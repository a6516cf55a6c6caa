//! Which tables a pipeline carries, and changing that while it runs: add, remove, list, copy again.
//!
//! The publication decides what is sent, the rows of `pgdiode.relation` what has been copied. Whoever runs the
//! pipeline looks at both every few seconds; one that does not run sees them at its next start.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::config::{Mode, Pipeline, nearest, written};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::report::table_state;
use crate::pipeline::selection::Selection;
use crate::pipeline::step::{Step, has_control_schema, run, tables_sql};
use crate::pipeline::subscription;
use crate::preflight;
use crate::source::postgres::catalog;
use crate::status::{TableListing, TableState};
use crate::target::postgres::progress;

/// How each table's rows are named.
const IDENTITIES: &str = "
    select n.nspname, c.relname,
           case c.relreplident when 'f' then 'full' when 'n' then 'nothing'
                when 'i' then coalesce((select 'index ' || x.relname
                                          from pg_catalog.pg_index i
                                          join pg_catalog.pg_class x on x.oid = i.indexrelid
                                         where i.indrelid = c.oid and i.indisreplident), 'nothing')
                else case when exists (select from pg_catalog.pg_index i
                                        where i.indrelid = c.oid and i.indisprimary and i.indimmediate
                                          and i.indisvalid)
                          then 'primary key' else 'nothing' end end
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p')";

pub(super) async fn add(
    pipeline: &Pipeline,
    tables: &[TableName],
    reason: Option<&str>,
) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let (mut source, mut target) = tokio::try_join!(ends.source_for_setup(), ends.target())?;
    let selection = Selection::read(&mut source, &pipeline.tables).await?;
    selection.known(tables)?;
    let published = published(&mut source, pipeline).await?;
    let joining: Vec<TableName> = tables.iter().flat_map(|table| selection.carried_through(table)).collect();
    preflight::refuse_unsafe_tables(pipeline, &mut source, &selection, &joining).await?;
    let wanting = |table: &&TableName| {
        selection.carried_through(table).iter().any(|it| !selection.is_carried_by(it, &published))
    };
    let new: Vec<TableName> = tables.iter().filter(wanting).cloned().collect();
    let mut steps = Vec::new();
    if !new.is_empty() {
        let name = quote::identifier(&pipeline.publication);
        steps.push(Step::source(format!("alter publication {name} add table {}", tables_sql(&new))));
    }
    let journal = Journal::begin(&mut target, pipeline, Action::AddTables, reason, details(tables)).await?;
    let work = async {
        run(&steps, &mut source, &mut target).await?;
        if pipeline.mode == Mode::Subscription {
            subscription::add(pipeline, &ends, &selection, &joining, &mut source, &mut target).await?;
        } else if has_control_schema(&mut target).await? {
            for table in &joining {
                await_copy(&mut target, &pipeline.name, table).await?;
            }
        }
        Ok(())
    };
    let done = work.await;
    journal.conclude(&mut target, done).await?;
    for table in tables.iter().filter(|table| !selection.named.contains(table)) {
        if !joining.iter().all(|it| selection.carried.contains(it)) {
            tracing::warn!(
                "no pattern of the configuration matches {}: add it to the key tables too",
                written(table)
            );
        }
    }
    Ok(steps.iter().map(|step| step.text(&ends)).collect())
}

/// The tables that were named, for the audit log.
pub(super) fn details(tables: &[TableName]) -> Map<String, Value> {
    let names: Vec<Value> = tables.iter().map(|table| written(table).into()).collect();
    Map::from_iter([("tables".into(), names.into())])
}

pub(super) async fn remove(
    pipeline: &Pipeline,
    tables: &[TableName],
    reason: Option<&str>,
) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let (mut source, mut target) = tokio::try_join!(ends.source_for_setup(), ends.target())?;
    let selection = Selection::read(&mut source, &pipeline.tables).await?;
    let named = named(&mut source, pipeline).await?;
    let stored = stored(&mut target, pipeline).await?;
    let carried = published(&mut source, pipeline).await?;
    // A table that is gone from the source, or has left the publication, is still known to the target.
    let (published, gone): (Vec<TableName>, Vec<TableName>) =
        tables.iter().cloned().partition(|table| named.contains(table));
    if let Some(table) = gone.iter().find(|table| !stored.contains(table) || carried.contains(table)) {
        return Err(not_named(pipeline, &selection, table, &named));
    }
    let name = quote::identifier(&pipeline.publication);
    let mut steps = Vec::new();
    if !published.is_empty() {
        steps.push(Step::source(format!("alter publication {name} drop table {}", tables_sql(&published))));
    }
    let mut leaving: Vec<TableName> =
        published.iter().flat_map(|table| selection.carried_through(table)).collect();
    leaving.extend(gone);
    if has_control_schema(&mut target).await? {
        steps.extend(leaving.iter().map(|table| Step::target(forget(&pipeline.name, table))));
    }
    let journal =
        Journal::begin(&mut target, pipeline, Action::RemoveTables, reason, details(tables)).await?;
    let work = async {
        run(&steps, &mut source, &mut target).await?;
        if pipeline.mode == Mode::Subscription {
            subscription::refresh(pipeline, &mut target).await?;
        }
        Ok(())
    };
    let done = work.await;
    journal.conclude(&mut target, done).await?;
    let mut texts: Vec<String> = steps.iter().map(|step| step.text(&ends)).collect();
    texts.push(format!(
        "-- with its rows as they are, this stays at the target until you drop it there:\n--   drop table {};",
        tables_sql(&leaving)
    ));
    for table in leaving.iter().filter(|table| selection.carried.contains(table)) {
        let name = written(table);
        tracing::warn!("the patterns still match {name}: to keep it out, add \"!{name}\" to the key tables");
    }
    Ok(texts)
}

/// The tables that the target knows of.
async fn stored(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<TableName>> {
    let stored = progress::read(target, &pipeline.name).await?;
    let relations = stored.map(|stored| stored.relations).unwrap_or_default();
    Ok(relations.into_iter().map(|relation| relation.table).collect())
}

/// The published tables; without a publication there is nothing to change.
async fn published(source: &mut Session, pipeline: &Pipeline) -> Result<Vec<TableName>> {
    catalog::published(source, &pipeline.publication).await?.ok_or_else(|| {
        Error::refused(format!("publication \"{}\" does not exist at the source", pipeline.publication))
            .hint("create it with: pgdiode setup")
    })
}

/// The tables that the publication names itself.
async fn named(source: &mut Session, pipeline: &Pipeline) -> Result<Vec<TableName>> {
    published(source, pipeline).await?;
    let rows = source
        .query_with(
            "select n.nspname, c.relname
               from pg_catalog.pg_publication p
               join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
               join pg_catalog.pg_class c on c.oid = r.prrelid
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where p.pubname = $1",
            &[Some(&pipeline.publication)],
        )
        .await?;
    Ok(rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect())
}

fn not_named(pipeline: &Pipeline, selection: &Selection, table: &TableName, named: &[TableName]) -> Error {
    let name = written(table);
    if let Some(parent) = selection.parent_among(table, named) {
        return Error::config(format!("{name} is carried as a partition of {}", written(parent))).hint(format!(
            "leave it out with \"!{name}\" in the key tables of [pipeline.{}]; then remove {}, and pgdiode setup",
            pipeline.name,
            written(parent)
        ));
    }
    let error = Error::config(format!("publication \"{}\" does not name {name}", pipeline.publication));
    let known: Vec<String> = named.iter().map(written).collect();
    match nearest(&name, known.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("see what is carried with: pgdiode list-tables"),
    }
}

pub(super) fn forget(pipeline: &str, table: &TableName) -> String {
    let row = format!(
        "where pipeline = {} and schema_name = {} and table_name = {}",
        quote::literal(pipeline),
        quote::literal(&table.schema),
        quote::literal(&table.name)
    );
    format!("delete from pgdiode.relation {row}; delete from pgdiode.relation_count {row}")
}

/// Has the table copied, unless its row says that it is carried already.
async fn await_copy(target: &mut Session, pipeline: &str, table: &TableName) -> Result<()> {
    target
        .query_with(
            "insert into pgdiode.relation (pipeline, schema_name, table_name)
             select $1, $2, $3 where exists (select from pgdiode.pipeline where name = $1)
             on conflict do nothing",
            &[Some(pipeline), Some(&table.schema), Some(&table.name)],
        )
        .await
        .map(drop)
}

pub(super) async fn resync(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<()> {
    let ends = Ends::resolve(pipeline)?;
    let mut target = ends.target().await?;
    let states = match pipeline.mode {
        Mode::Stream | Mode::Snapshot => states(&mut target, &pipeline.name).await?,
        Mode::Subscription => subscription::states(&mut target, pipeline).await?,
    };
    if let Some(table) = tables.iter().find(|table| !states.contains_key(table)) {
        let known: Vec<String> = states.keys().map(written).collect();
        let error =
            Error::config(format!("pipeline \"{}\" does not carry {}", pipeline.name, written(table)));
        return Err(match nearest(&written(table), known.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("see what is carried with: pgdiode list-tables"),
        });
    }
    let journal = Journal::begin(&mut target, pipeline, Action::Resync, reason, details(tables)).await?;
    let done = match pipeline.mode {
        Mode::Stream | Mode::Snapshot => await_copies(&mut target, pipeline, tables).await,
        Mode::Subscription => subscription::resync(pipeline, &ends, tables, &mut target).await,
    };
    journal.conclude(&mut target, done).await
}

/// Has the tables, all of them carried already, copied again: all or none.
pub(super) async fn await_copies(
    target: &mut Session,
    pipeline: &Pipeline,
    tables: &[TableName],
) -> Result<()> {
    target.query("begin").await?;
    for table in tables {
        target
            .query_with(
                "update pgdiode.relation
                    set state = 'pending', copied_at = null, reason = null, remedy = null, since = now(),
                        rows_copied = 0, bytes_copied = 0
                  where pipeline = $1 and schema_name = $2 and table_name = $3",
                &[Some(&pipeline.name), Some(&table.schema), Some(&table.name)],
            )
            .await?;
    }
    target.query("commit").await.map(drop)
}

/// Each carried table's state at the target.
pub(super) async fn states(target: &mut Session, pipeline: &str) -> Result<HashMap<TableName, TableState>> {
    if !has_control_schema(target).await? {
        return Ok(HashMap::new());
    }
    let rows = target
        .query_with(
            "select schema_name, table_name, state from pgdiode.relation where pipeline = $1",
            &[Some(pipeline)],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            (TableName::new(row.string(0), row.string(1)), table_state(row.text(2).unwrap_or_default()))
        })
        .collect())
}

pub(super) async fn list(pipeline: &Pipeline) -> Result<Vec<TableListing>> {
    let ends = Ends::resolve(pipeline)?;
    let (source, target) = tokio::join!(ends.source(), ends.target());
    let mut source = source?;
    let states = match target {
        Ok(mut target) => match pipeline.mode {
            Mode::Stream | Mode::Snapshot => states(&mut target, &pipeline.name).await?,
            Mode::Subscription => subscription::states(&mut target, pipeline).await?,
        },
        Err(error) => {
            tracing::warn!(hint = error.hint_text(), "the tables' states are not known: {}", error.chain());
            HashMap::new()
        }
    };
    let selection = Selection::read(&mut source, &pipeline.tables).await?;
    let published = catalog::published(&mut source, &pipeline.publication).await?.unwrap_or_default();
    let identities: HashMap<TableName, String> = source
        .query(IDENTITIES)
        .await?
        .iter()
        .map(|row| (TableName::new(row.string(0), row.string(1)), row.string(2)))
        .collect();
    let ordinary = selection.all.values().filter(|table| !table.is_partitioned);
    Ok(ordinary
        .map(|table| {
            let carried = selection.is_carried_by(&table.table, &published);
            let replica_identity = identities.get(&table.table).cloned().unwrap_or_else(|| "nothing".into());
            TableListing {
                carried,
                state: states.get(&table.table).copied().filter(|_| carried),
                note: remark(pipeline, &selection, &table.table, carried, &replica_identity),
                replica_identity,
                bytes: table.bytes,
                name: table.table.clone(),
            }
        })
        .collect())
}

/// Why a table is not carried, or what is wrong with one that is.
fn remark(
    pipeline: &Pipeline,
    selection: &Selection,
    table: &TableName,
    carried: bool,
    replica_identity: &str,
) -> Option<String> {
    let is_matched = selection.carried.contains(table);
    match (carried, is_matched) {
        (true, _) if replica_identity == "nothing" => {
            Some("UPDATE and DELETE on it fail at the source: it has no replica identity".to_owned())
        }
        (true, true) => None,
        (true, false) => Some("carried, though no pattern matches it".to_owned()),
        (false, true) if replica_identity == "nothing" => {
            Some("it needs a replica identity first: see pgdiode check".to_owned())
        }
        (false, true) => Some("not in the publication yet: pgdiode setup, or pgdiode add-tables".to_owned()),
        (false, false) => {
            let excluding = pipeline.tables.excluded.iter().find(|pattern| pattern.matches(table));
            Some(match excluding {
                Some(pattern) => format!("left out by \"!{pattern}\""),
                None => "no pattern matches it".to_owned(),
            })
        }
    }
}
