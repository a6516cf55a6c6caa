//! `tables_to_sync`: which tables a pipeline made from a syncdata file carries. Whoever inserts a row there has the table
//! carried, by a verb or by hand; a running pipeline looks again every second.

use std::collections::BTreeSet;

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::config::{Pipeline, Tables, written};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::membership::{details, forget, states};
use crate::pipeline::replay::base::{self, Bases};
use crate::pipeline::replay::filling::{JoinsWith, join};
use crate::pipeline::replay::{control, verbs};
use crate::pipeline::step::{Step, has_control_schema};

/// The pipeline with the tables that it carries now, which there must be some of.
pub async fn narrowed(pipeline: &Pipeline, target: &mut Session) -> Result<Pipeline> {
    control::create(target, pipeline).await?;
    let listed: Vec<String> = read(target, pipeline).await?.iter().map(written).collect();
    if listed.is_empty() {
        return Err(Error::refused(format!(
            "No tables in whitelist: {} is empty",
            control::tables(pipeline)
        ))
        .hint("Add tables to sync: pgdiode add-tables users orders"));
    }
    Ok(Pipeline { tables: Tables::parse(&listed)?, ..pipeline.clone() })
}

/// The tables that are listed; none while there is no list.
pub async fn read(target: &mut Session, pipeline: &Pipeline) -> Result<BTreeSet<TableName>> {
    let listed = listed(target, pipeline).await?;
    let names = listed.iter().filter_map(|name| {
        let table = control::parse_name(name);
        if table.is_none() {
            tracing::debug!(name, "a row of tables_to_sync names no table");
        }
        table
    });
    Ok(names.collect())
}

/// The rows of the list as they are, in the order in which they came.
pub async fn listed(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<String>> {
    let list = control::tables(pipeline);
    let is_missing = format!("select pg_catalog.to_regclass({}) is null", quote::literal(&list));
    if target.one(&is_missing).await?.bool(0) {
        return Ok(Vec::new());
    }
    let rows = target.query(&format!("select table_name from {list} order by id")).await?;
    Ok(rows.iter().map(|row| row.string(0)).collect())
}

/// Whether the list has changed since the tables were taken from it.
pub async fn has_changed(target: &mut Session, pipeline: &Pipeline) -> Result<bool> {
    let listed = read(target, pipeline).await?;
    let known: BTreeSet<TableName> = states(target, &pipeline.name).await?.into_keys().collect();
    Ok(listed != known)
}

/// Has the tables filled that joined the list, and forgets those that left it.
pub async fn follow(target: &mut Session, pipeline: &Pipeline, bases: &Bases) -> Result<()> {
    let listed = read(target, pipeline).await?;
    let known: BTreeSet<TableName> = states(target, &pipeline.name).await?.into_keys().collect();
    for table in known.difference(&listed) {
        tracing::info!(%table, "it is listed no longer; its rows stay");
        target.query(&forget(&pipeline.name, table)).await?;
    }
    let joining: Vec<TableName> = listed.difference(&known).cloned().collect();
    let joins_with = if bases.newest.is_some() { JoinsWith::Base } else { JoinsWith::ItsRows };
    join(target, pipeline, &joining, joins_with).await
}

pub async fn add(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let listed = read(&mut target, pipeline).await?;
    let joining: Vec<TableName> = tables.iter().filter(|table| !listed.contains(table)).cloned().collect();
    match verbs::open(pipeline).await {
        Ok(shelf) => {
            let bases = Bases::read(&shelf).await?;
            verbs::refuse_without_base(pipeline, &mut target, &bases, &joining).await?;
            if bases.newest.is_some() {
                base::refuse_rows_in(&mut target, &joining).await?;
            }
        }
        // The list is here, and the archive may not have begun.
        Err(error) => {
            let error = error.chain();
            tracing::warn!(
                error,
                "whether the archive holds these tables shows at the start: it cannot be opened"
            );
        }
    }
    let mut steps: Vec<Step> =
        control::missing(&mut target, pipeline).await?.into_iter().map(Step::target).collect();
    steps.extend(joining.iter().map(|table| {
        let name = quote::literal(&control::listed_name(table));
        Step::target(format!(
            "insert into {} (table_name, creator) values ({name}, current_user) on conflict do nothing",
            control::tables(pipeline)
        ))
    }));
    let journal = Journal::begin(&mut target, pipeline, Action::AddTables, reason, details(tables)).await?;
    let done = verbs::run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(verbs::texts(&steps, &end))
}

pub async fn remove(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let listed = read(&mut target, pipeline).await?;
    if let Some(table) = tables.iter().find(|table| !listed.contains(table)) {
        return Err(base::unknown(table, &listed, "the list tables_to_sync"));
    }
    let mut steps = Vec::new();
    let list = control::tables(pipeline);
    for name in self::listed(&mut target, pipeline).await? {
        if control::parse_name(&name).is_some_and(|table| tables.contains(&table)) {
            steps.push(Step::target(format!(
                "delete from {list} where table_name = {}",
                quote::literal(&name)
            )));
        }
    }
    if has_control_schema(&mut target).await? {
        steps.extend(tables.iter().map(|table| Step::target(forget(&pipeline.name, table))));
    }
    let journal =
        Journal::begin(&mut target, pipeline, Action::RemoveTables, reason, details(tables)).await?;
    let done = verbs::run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(verbs::texts(&steps, &end))
}
