//! The verbs for a pipeline from an archive: all of them work at the target alone, and look into the archive to tell what
//! there is.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::config::{Pipeline, written};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::membership::{await_copies, details, forget, states};
use crate::pipeline::replay::base::{self, Bases, is_there, table_of};
use crate::pipeline::replay::control::listed_name;
use crate::pipeline::replay::desk::location;
use crate::pipeline::replay::filling::IS_EMPTIED;
use crate::pipeline::replay::{foreign, ledger, metrics, stored, whitelist};
use crate::pipeline::step::{Step, has_control_schema, tables_sql};
use crate::pipeline::{holder, reset as of_target};
use crate::source::archive::Shelf;
use crate::status::{Reset, TableListing};
use crate::target::postgres::progress::{self, of_relation};

pub(super) async fn open(pipeline: &Pipeline) -> Result<Shelf> {
    let (location, options) = location(pipeline)?;
    Shelf::open(&location, &options, pipeline.archive.reader_keys()?).await
}

/// From what tables can be filled: bases, or (`true`) all the files there are, where pgdiode did not write them.
async fn bases(pipeline: &Pipeline) -> Result<(Bases, bool)> {
    match foreign::open(pipeline).await? {
        Some(_) => Ok((Bases { newest: None }, true)),
        None => Ok((Bases::read(&open(pipeline).await?).await?, false)),
    }
}

/// Has the tables filled, too.
pub async fn add(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<Vec<String>> {
    if pipeline.is_whitelisted {
        return whitelist::add(pipeline, tables, reason).await;
    }
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let (bases, is_foreign) = bases(pipeline).await?;
    let known: BTreeSet<TableName> = states(&mut target, &pipeline.name).await?.into_keys().collect();
    let joining: Vec<TableName> = tables.iter().filter(|table| !known.contains(table)).cloned().collect();
    refuse_without_base(pipeline, &mut target, &bases, &joining).await?;
    if bases.newest.is_some() || is_foreign {
        base::refuse_rows_in(&mut target, &joining).await?;
    }
    let name = quote::literal(&pipeline.name);
    let mut steps = vec![Step::target(progress::CREATE_CONTROL_SCHEMA), Step::target(stored::CREATE)];
    let mode = quote::literal(pipeline.mode.as_str());
    let register =
        format!("insert into pgdiode.pipeline (name, mode) values ({name}, {mode}) on conflict do nothing");
    steps.push(Step::target(register));
    let join = |table: &TableName| {
        let (schema, table) = (quote::literal(&table.schema), quote::literal(&table.name));
        format!(
            "insert into pgdiode.relation (pipeline, schema_name, table_name) values ({name}, {schema}, {table}) on \
             conflict do nothing"
        )
    };
    let joins: Vec<Step> = joining.iter().map(|table| Step::target(join(table))).collect();
    let texts = texts(&joins, &end);
    steps.extend(joins);
    let journal = Journal::begin(&mut target, pipeline, Action::AddTables, reason, details(tables)).await?;
    let done = run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(texts)
}

/// Without a base that holds it a table could not be filled, now or ever.
pub(super) async fn refuse_without_base(
    pipeline: &Pipeline,
    target: &mut Session,
    bases: &Bases,
    tables: &[TableName],
) -> Result<()> {
    for table in tables {
        match &bases.newest {
            Some(newest) if bases.table(table).is_none() => {
                let all: Vec<TableName> = newest.tables.iter().map(table_of).collect();
                return Err(base::unknown(table, &all, &format!("base {}, the newest,", newest.number)));
            }
            None if !is_there(target, table).await? => {
                if pipeline.is_whitelisted {
                    return Err(Error::refused(format!("Table not found locally: {}", listed_name(table)))
                        .hint("Ensure the table exists in the local database with the same schema as production."));
                }
                return Err(Error::refused(format!(
                    "table {} is not at the target, and the archive has no base to make it from",
                    written(table)
                ))
                .hint("Take a base at the writer, or create the table here."));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Has the tables carried no longer; their rows stay.
pub async fn remove(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<Vec<String>> {
    if pipeline.is_whitelisted {
        return whitelist::remove(pipeline, tables, reason).await;
    }
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    refuse_uncarried(&mut target, pipeline, tables).await?;
    let steps: Vec<Step> = tables.iter().map(|table| Step::target(forget(&pipeline.name, table))).collect();
    let journal =
        Journal::begin(&mut target, pipeline, Action::RemoveTables, reason, details(tables)).await?;
    let done = run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    for table in tables.iter().filter(|table| pipeline.tables.match_table(table)) {
        let name = written(table);
        tracing::warn!("the patterns still match {name}: to keep it out, add \"!{name}\" to the key tables");
    }
    let mut texts = texts(&steps, &end);
    texts.push(format!(
        "-- with its rows as they are, this stays at the target until you drop it there:\n--   drop table {};",
        tables_sql(tables)
    ));
    Ok(texts)
}

async fn refuse_uncarried(target: &mut Session, pipeline: &Pipeline, tables: &[TableName]) -> Result<()> {
    let known: BTreeSet<TableName> = states(target, &pipeline.name).await?.into_keys().collect();
    match tables.iter().find(|table| !known.contains(table)) {
        Some(table) => Err(base::unknown(table, &known, &format!("pipeline \"{}\"", pipeline.name))),
        None => Ok(()),
    }
}

/// Has the tables filled anew, from the newest base.
pub async fn resync(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<()> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    refuse_uncarried(&mut target, pipeline, tables).await?;
    let (bases, is_foreign) = bases(pipeline).await?;
    if pipeline.is_whitelisted && !is_foreign {
        refuse_without_beginning(&open(pipeline).await?, &bases).await?;
    } else if bases.newest.is_none() && !is_foreign {
        return Err(Error::refused(
            "the archive has no base, and from its change files alone no table can be filled",
        )
        .hint("Take a base at the writer, then resync again."));
    }
    refuse_without_base(pipeline, &mut target, &bases, tables).await?;
    let journal = Journal::begin(&mut target, pipeline, Action::Resync, reason, details(tables)).await?;
    let done = async {
        for table in tables.iter().filter(|_| bases.newest.is_none()) {
            let row = of_relation(&pipeline.name, table);
            target.query(&format!("update pgdiode.relation set options = '{IS_EMPTIED}' {row}")).await?;
        }
        await_copies(&mut target, pipeline, tables).await
    };
    let done = done.await;
    journal.conclude(&mut target, done).await
}

/// Tables that are emptied can be filled from a base, or by every change there ever was.
async fn refuse_without_beginning(shelf: &Shelf, bases: &Bases) -> Result<()> {
    if bases.newest.is_some() || shelf.manifest(1).await?.is_some() {
        return Ok(());
    }
    Err(Error::refused("the archive has no base, and its first change file is not there")
        .hint("Take a base at the writer: without it an emptied table could not be filled again."))
}

/// What [`clear`] would run.
pub async fn clear_plan(pipeline: &Pipeline) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    Ok(texts(&clear_steps(&mut target, pipeline).await?.1, &end))
}

/// Empties every table, and has them filled again by the next start.
pub async fn clear(pipeline: &Pipeline, reason: Option<&str>) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    let (tables, steps) = clear_steps(&mut target, pipeline).await?;
    let journal = Journal::begin(&mut target, pipeline, Action::Clear, reason, details(&tables)).await?;
    let done = run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(texts(&steps, &end))
}

async fn clear_steps(target: &mut Session, pipeline: &Pipeline) -> Result<(Vec<TableName>, Vec<Step>)> {
    holder::refuse_running(target, &pipeline.name).await?;
    let mut tables = Vec::new();
    for table in states(target, &pipeline.name).await?.into_keys() {
        if is_there(target, &table).await? {
            tables.push(table);
        }
    }
    tables.sort();
    if tables.is_empty() {
        return Ok((tables, Vec::new()));
    }
    let shelf = open(pipeline).await?;
    refuse_without_beginning(&shelf, &Bases::read(&shelf).await?).await?;
    // One message is one transaction.
    let clear = format!(
        "truncate {};\nupdate pgdiode.relation set state = 'pending', copied_at = null, carried_by = null, reason = null, \
         remedy = null, since = now(), rows_copied = 0, bytes_copied = 0 where pipeline = {}",
        tables_sql(&tables),
        quote::literal(&pipeline.name)
    );
    Ok((tables, vec![Step::target(clear)]))
}

/// The tables of the newest base, and those that the target knows.
pub async fn list(pipeline: &Pipeline) -> Result<Vec<TableListing>> {
    let end = TargetEnd::resolve(pipeline)?;
    let (bases, _) = bases(pipeline).await?;
    let mut listed = BTreeSet::new();
    let states = match end.session().await {
        Ok(mut target) => {
            if pipeline.is_whitelisted {
                listed = whitelist::read(&mut target, pipeline).await?;
            }
            states(&mut target, &pipeline.name).await?
        }
        Err(error) => {
            tracing::warn!(hint = error.hint_text(), "the tables' states are not known: {}", error.chain());
            std::collections::HashMap::new()
        }
    };
    let mut tables: BTreeMap<TableName, Option<u64>> =
        states.keys().chain(&listed).map(|table| (table.clone(), None)).collect();
    for table in bases.newest.iter().flat_map(|base| &base.tables) {
        let bytes = table.pieces.iter().map(|piece| piece.content_bytes).sum();
        tables.insert(table_of(table), Some(bytes));
    }
    let listed = tables.into_iter().map(|(name, bytes)| {
        let is_known = states.contains_key(&name) || listed.contains(&name);
        let is_matched = !pipeline.is_whitelisted && pipeline.tables.match_table(&name);
        let note = match (is_known, is_matched, bytes) {
            (true, _, None) if bases.newest.is_some() => Some("the newest base does not hold it".to_owned()),
            (true, ..) => None,
            (false, true, _) => Some("it joins with its next change; or now: pgdiode add-tables".to_owned()),
            (false, false, _) if pipeline.is_whitelisted => Some("not in tables_to_sync".to_owned()),
            (false, false, _) => Some("no pattern matches it".to_owned()),
        };
        TableListing {
            carried: is_known,
            state: states.get(&name).copied(),
            replica_identity: "of the origin".to_owned(),
            bytes: bytes.unwrap_or(0),
            note,
            name,
        }
    });
    Ok(listed.collect())
}

pub async fn reset_plan(pipeline: &Pipeline, reset: Reset) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    holder::refuse_running(&mut target, &pipeline.name).await?;
    Ok(texts(&reset_steps(&mut target, pipeline, reset).await?, &end))
}

pub async fn reset(pipeline: &Pipeline, reset: Reset, reason: Option<&str>) -> Result<Vec<String>> {
    let end = TargetEnd::resolve(pipeline)?;
    let mut target = end.session().await?;
    holder::refuse_running(&mut target, &pipeline.name).await?;
    let steps = reset_steps(&mut target, pipeline, reset).await?;
    let details = of_target::details(reset);
    let journal = Journal::begin(&mut target, pipeline, Action::Reset, reason, details).await?;
    let done = run(&steps, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(texts(&steps, &end))
}

async fn reset_steps(target: &mut Session, pipeline: &Pipeline, reset: Reset) -> Result<Vec<Step>> {
    if reset.drop_slot || reset.drop_publication {
        return Err(Error::config("an archive has neither a slot nor a publication to drop")
            .hint("they are the writing pipeline's: reset that one where it runs"));
    }
    if !has_control_schema(target).await? {
        return Ok(Vec::new());
    }
    let name = quote::literal(&pipeline.name);
    let passes = quote::literal(&format!("{}/", pipeline.name));
    let mut steps = vec![
        Step::target(stored::CREATE),
        Step::target(foreign::CREATE),
        Step::target(ledger::CREATE),
        Step::target(ledger::forget(&pipeline.name)),
        Step::target(metrics::CREATE),
        Step::target(metrics::forget(&pipeline.name)),
        Step::target(format!(
            "delete from pgdiode.replay where pipeline = {name}; delete from pgdiode.archive_file where pipeline = {name}; \
             delete from pgdiode.position where \
             pg_catalog.starts_with(pipeline, {passes})"
        )),
    ];
    steps.extend(of_target::at_target(target, pipeline, reset).await?);
    Ok(steps)
}

pub(in crate::pipeline) async fn run(steps: &[Step], target: &mut Session) -> Result<()> {
    of_target::run(steps, None, target).await
}

pub(in crate::pipeline) fn texts(steps: &[Step], end: &TargetEnd) -> Vec<String> {
    let place = end.conninfo.display();
    let text =
        |step: &Step| format!("-- at the target, {place}:\n{};", step.sql.trim().trim_end_matches(';'));
    steps.iter().map(text).collect()
}
