//! What a pipeline needs before its first start: the publication at the source, the control schema at the target.
//!
//! The plan is made by looking, so a second set-up plans only what is missing. It takes nothing out of a publication:
//! that a pattern no longer matches is said by `check`, and done by `remove-tables`.

use serde_json::Map;

use crate::audit::{self, Action, Journal};
use crate::change::TableName;
use crate::config::{Mode, Pipeline};
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::selection::Selection;
use crate::pipeline::step::{Step, has_control_schema, run, tables_sql};
use crate::pipeline::subscription;
use crate::preflight::{self, Purpose};
use crate::source::postgres::catalog;
use crate::target::postgres::progress;

pub(super) async fn plan(pipeline: &Pipeline) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let (mut source, mut target) = tokio::try_join!(ends.source(), ends.target())?;
    let selection = Selection::read(&mut source, &pipeline.tables).await?;
    let steps = steps(pipeline, &selection, &mut source, &mut target).await?;
    let mut texts: Vec<String> = steps.iter().map(|step| step.text(&ends)).collect();
    if pipeline.mode == Mode::Subscription {
        texts.extend(subscription::setup(pipeline, &ends, &selection, &mut source, &mut target, true).await?);
    }
    Ok(texts)
}

pub(super) async fn setup(pipeline: &Pipeline, reason: Option<&str>) -> Result<Vec<String>> {
    preflight::refuse_unsafe(pipeline, Purpose::Setup).await?;
    let ends = Ends::resolve(pipeline)?;
    let (mut source, mut target) = tokio::try_join!(ends.source_for_setup(), ends.target())?;
    let selection = Selection::read(&mut source, &pipeline.tables).await?;
    let steps = steps(pipeline, &selection, &mut source, &mut target).await?;
    let mut texts: Vec<String> = steps.iter().map(|step| step.text(&ends)).collect();
    let details = Map::from_iter([("statements".into(), texts.len().into())]);
    let journal = Journal::begin(&mut target, pipeline, Action::Setup, reason, details).await?;
    let work = async {
        run(&steps, &mut source, &mut target).await?;
        if pipeline.mode == Mode::Subscription {
            texts.extend(
                subscription::setup(pipeline, &ends, &selection, &mut source, &mut target, false).await?,
            );
        }
        Ok(texts)
    };
    let done = work.await;
    journal.conclude(&mut target, done).await
}

/// What is missing at both sides.
async fn steps(
    pipeline: &Pipeline,
    selection: &Selection,
    source: &mut Session,
    target: &mut Session,
) -> Result<Vec<Step>> {
    let mut steps = publication(source, pipeline, selection).await?;
    steps.extend(control_schema(target, pipeline).await?);
    Ok(steps)
}

/// Creates the publication, or adds to it what the patterns match and it lacks.
pub(super) async fn publication(
    source: &mut Session,
    pipeline: &Pipeline,
    selection: &Selection,
) -> Result<Vec<Step>> {
    let name = quote::identifier(&pipeline.publication);
    let Some(published) = catalog::published(source, &pipeline.publication).await? else {
        let tables = match selection.named.as_slice() {
            [] => String::new(),
            named => format!(" for table {}", tables_sql(named)),
        };
        return Ok(vec![Step::source(format!(
            "create publication {name}{tables} with (publish = 'insert, update, delete, truncate')"
        ))]);
    };
    let mut steps = Vec::new();
    let row = source
        .one(&format!(
            "select pubinsert and pubupdate and pubdelete and pubtruncate, puballtables \
               from pg_catalog.pg_publication where pubname = {}",
            quote::literal(&pipeline.publication)
        ))
        .await?;
    if !row.bool(0) {
        steps.push(Step::source(format!(
            "alter publication {name} set (publish = 'insert, update, delete, truncate')"
        )));
    }
    let missing = missing(selection, &published);
    if !missing.is_empty() && !row.bool(1) {
        steps.push(Step::source(format!("alter publication {name} add table {}", tables_sql(&missing))));
    }
    Ok(steps)
}

/// The tables to name so that the publication carries all that the selection does.
fn missing(selection: &Selection, published: &[TableName]) -> Vec<TableName> {
    let is_missing = |named: &&TableName| {
        selection.carried_through(named).iter().any(|table| !selection.is_carried_by(table, published))
    };
    selection.named.iter().filter(is_missing).cloned().collect()
}

/// Creates the control schema and the pipeline's row in it.
async fn control_schema(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let stored = progress::read(target, &pipeline.name).await?;
    if stored.is_none() && !has_control_schema(target).await? {
        steps.push(Step::target(progress::CREATE_CONTROL_SCHEMA));
    }
    if !audit::exists(target).await? {
        steps.push(Step::target(audit::CREATE_AUDIT));
    }
    let wanted = [pipeline.mode.as_str(), &pipeline.slot, &pipeline.publication];
    let is_there = stored.is_some() && {
        let row = target
            .query_with(
                "select mode, slot, publication from pgdiode.pipeline where name = $1",
                &[Some(&pipeline.name)],
            )
            .await?;
        row.first().is_some_and(|row| (0..3).all(|index| row.text(index) == Some(wanted[index])))
    };
    if !is_there {
        let values: Vec<String> =
            [pipeline.name.as_str()].iter().chain(&wanted).map(|text| quote::literal(text)).collect();
        steps.push(Step::target(format!(
            "insert into pgdiode.pipeline (name, mode, slot, publication) values ({}) \
             on conflict (name) do update set mode = excluded.mode, slot = excluded.slot, \
             publication = excluded.publication, updated_at = now()",
            values.join(", ")
        )));
    }
    Ok(steps)
}
