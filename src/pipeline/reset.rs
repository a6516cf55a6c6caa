//! Forgetting a pipeline's progress, and giving a pipeline up for good.
//!
//! The pipeline's own row and the control schema stay, because they say that the tables here are pgdiode's to replace;
//! only with slot and publication do they go too. Tables and their rows are never dropped, nor is the audit log.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::{Session, Side};
use crate::pipeline::ends::Ends;
use crate::pipeline::holder;
use crate::pipeline::step::{Step, has_control_schema, tables_sql};
use crate::source::postgres::slot;
use crate::status::Reset;

/// `pg_drop_replication_slot` asks for the attribute, or what Amazon RDS has in its place.
const MAY_REPLICATE: &str = "
    select (select rolsuper or rolreplication from pg_catalog.pg_roles where rolname = current_user)
           or exists (select from pg_catalog.pg_roles r
                       where r.rolname = 'rds_replication' and pg_catalog.pg_has_role(r.oid, 'member')),
           current_user";

/// A server may take a moment to notice that whoever read the slot is gone.
const SLOT_ATTEMPTS_MAX: u32 = 20;
const SLOT_PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn plan(pipeline: &Pipeline, reset: Reset) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let mut target = ends.target().await?;
    holder::refuse_running(&mut target, &pipeline.name).await?;
    let mut source = if touches_source(reset) { Some(ends.source().await?) } else { None };
    let (steps, remains) = steps(pipeline, reset, source.as_mut(), &mut target).await?;
    Ok(steps.iter().map(|step| step.text(&ends)).chain(remains).collect())
}

pub(super) async fn reset(pipeline: &Pipeline, reset: Reset, reason: Option<&str>) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let mut target = ends.target().await?;
    holder::refuse_running(&mut target, &pipeline.name).await?;
    let mut source = if touches_source(reset) { Some(ends.source_for_setup().await?) } else { None };
    let (steps, remains) = steps(pipeline, reset, source.as_mut(), &mut target).await?;
    let journal = Journal::begin(&mut target, pipeline, Action::Reset, reason, details(reset)).await?;
    let done = run(&steps, source.as_mut(), &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(steps.iter().map(|step| step.text(&ends)).chain(remains).collect())
}

fn touches_source(reset: Reset) -> bool {
    reset.drop_slot || reset.drop_publication
}

/// What was asked for, for the audit log.
pub(super) fn details(reset: Reset) -> Map<String, Value> {
    Map::from_iter([
        ("drop_slot".into(), reset.drop_slot.into()),
        ("drop_publication".into(), reset.drop_publication.into()),
    ])
}

/// What goes, and what stays.
async fn steps(
    pipeline: &Pipeline,
    reset: Reset,
    source: Option<&mut Session>,
    target: &mut Session,
) -> Result<(Vec<Step>, Vec<String>)> {
    let mut steps = Vec::new();
    if let Some(source) = source {
        steps.extend(at_source(source, pipeline, reset).await?);
    }
    let remains = remains(target, pipeline, reset).await?;
    steps.extend(at_target(target, pipeline, reset).await?);
    Ok((steps, remains))
}

/// What would fail half-way is refused before anything is dropped: a slot that is gone does not come back.
async fn refuse_undroppable(source: &mut Session, pipeline: &Pipeline, reset: Reset) -> Result<()> {
    if reset.drop_slot && slot::read(source, &pipeline.slot).await?.is_some() {
        may_drop_slot(source, pipeline).await?;
    }
    if reset.drop_publication {
        let drop = format!("drop publication {}", quote::identifier(&pipeline.publication));
        let what = format!("publication \"{}\" of the source", pipeline.publication);
        let publication = quote::literal(&pipeline.publication);
        let owner = format!("select pubowner from pg_catalog.pg_publication where pubname = {publication}");
        refuse_foreign(source, &owner, &what, &drop).await?;
    }
    Ok(())
}

async fn may_drop_slot(source: &mut Session, pipeline: &Pipeline) -> Result<()> {
    let row = source.one(MAY_REPLICATE).await?;
    if row.bool(0) {
        return Ok(());
    }
    let user = row.string(1);
    Err(Error::refused(format!(
        "the source's user {user} may not drop slot \"{}\"; nothing was dropped",
        pipeline.slot
    ))
    .hint(format!("as a superuser: alter role {} replication; then reset again", quote::identifier(&user))))
}

/// Refuses when what `owner` selects belongs to a role that this user is no member of.
async fn refuse_foreign(session: &mut Session, owner: &str, what: &str, drop: &str) -> Result<()> {
    let rows = session
        .query(&format!(
            "select pg_catalog.pg_has_role(o.owner, 'usage'), current_user, pg_catalog.pg_get_userbyid(o.owner)
               from ({owner}) as o (owner)"
        ))
        .await?;
    let Some(row) = rows.first().filter(|row| !row.bool(0)) else { return Ok(()) };
    Err(Error::refused(format!(
        "{what} belongs to {}, and the user {} may not drop it; nothing was dropped",
        row.string(2),
        row.string(1)
    ))
    .hint(format!("have its owner or a superuser run there: {drop}; then reset again")))
}

/// The source first: what it refuses leaves the target as it was.
pub(super) async fn run(
    steps: &[Step],
    mut source: Option<&mut Session>,
    target: &mut Session,
) -> Result<()> {
    for step in steps {
        let session = match (step.side, &mut source) {
            (Side::Source, Some(source)) => &mut **source,
            _ => &mut *target,
        };
        let mut attempt = 1;
        loop {
            match session.query(&step.sql).await {
                Err(error) if error.sqlstate() == Some("55006") && attempt < SLOT_ATTEMPTS_MAX => {
                    attempt += 1;
                    tokio::time::sleep(SLOT_PAUSE).await;
                }
                Err(error) if error.sqlstate() == Some("55006") => {
                    return Err(
                        error.hint("somebody still reads the slot: see pg_stat_replication at the source")
                    );
                }
                answer => break answer.map(drop)?,
            }
        }
    }
    Ok(())
}

pub(super) async fn at_source(source: &mut Session, pipeline: &Pipeline, reset: Reset) -> Result<Vec<Step>> {
    refuse_undroppable(source, pipeline, reset).await?;
    let mut steps = Vec::new();
    if reset.drop_slot && slot::read(source, &pipeline.slot).await?.is_some() {
        steps.push(Step::source(format!(
            "select pg_catalog.pg_drop_replication_slot({})",
            quote::literal(&pipeline.slot)
        )));
    }
    if reset.drop_publication {
        steps.push(Step::source(format!(
            "drop publication if exists {}",
            quote::identifier(&pipeline.publication)
        )));
    }
    Ok(steps)
}

pub(super) async fn at_target(target: &mut Session, pipeline: &Pipeline, reset: Reset) -> Result<Vec<Step>> {
    if !has_control_schema(target).await? {
        return Ok(Vec::new());
    }
    let name = quote::literal(&pipeline.name);
    let for_good = reset.drop_slot && reset.drop_publication;
    if for_good && !serves_others(target, pipeline).await? {
        // All but the audit log, which says that this was done.
        let (owner, drop) = (
            "select nspowner from pg_catalog.pg_namespace where nspname = 'pgdiode'",
            "drop table pgdiode.note, pgdiode.relation_count, pgdiode.relation, pgdiode.position, pgdiode.pipeline",
        );
        refuse_foreign(target, owner, "schema pgdiode of the target", drop).await?;
        return Ok(vec![Step::target(drop)]);
    }
    let rows = ["position", "relation", "relation_count", "note"]
        .map(|table| format!("delete from pgdiode.{table} where pipeline = {name}"))
        .join("; ");
    let row = if for_good {
        format!("delete from pgdiode.pipeline where name = {name}")
    } else {
        format!(
            "update pgdiode.pipeline set slot_begun = slot_begun or consistent_point is not null, system_identifier = null, timeline = null, database = null, \
             consistent_point = null, schema_copied = false, phase = 'new', doing = null, error = null, hint = null, retries = 0, \
             retry_at = null, runs_at = null, source_position = null, wal_held_bytes = null, \
             sequences_carried_at = null, stop_requested = false, hold_id = null, hold_at = null, held_id = null, \
             updated_at = now() where name = {name}"
        )
    };
    // One message is one transaction.
    Ok(vec![Step::target(format!("{rows}; {row}"))])
}

async fn serves_others(target: &mut Session, pipeline: &Pipeline) -> Result<bool> {
    let name = quote::literal(&pipeline.name);
    let others = format!("select exists (select from pgdiode.pipeline where name <> {name})");
    Ok(target.one(&others).await?.bool(0))
}

/// What stays, and how it goes; as comments, since nobody asked for that.
pub(super) async fn remains(target: &mut Session, pipeline: &Pipeline, reset: Reset) -> Result<Vec<String>> {
    let mut remains = Vec::new();
    if !reset.drop_slot {
        remains.push(format!(
            "-- slot \"{0}\" stays, and the source keeps write-ahead log for it; to drop it there:\n--   select \
             pg_drop_replication_slot('{0}');",
            pipeline.slot
        ));
    }
    if !reset.drop_publication {
        remains.push(format!(
            "-- the publication stays; to drop it at the source:\n--   drop publication {};",
            quote::identifier(&pipeline.publication)
        ));
    }
    if has_control_schema(target).await? {
        let rows = target
            .query_with(
                "select schema_name, table_name from pgdiode.relation where pipeline = $1 order by 1, 2",
                &[Some(&pipeline.name)],
            )
            .await?;
        let tables: Vec<TableName> =
            rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect();
        if !tables.is_empty() {
            remains.push(format!(
                "-- the copied tables stay with their rows; to drop them at the target:\n--   drop table {};",
                tables_sql(&tables)
            ));
        }
        if reset.drop_slot && reset.drop_publication && !serves_others(target, pipeline).await? {
            remains.push(
                "-- the audit log stays; keep a `pgdiode audit export`, then to drop it at the target:\n--   drop schema \
                 pgdiode cascade;"
                    .to_owned(),
            );
        }
    }
    Ok(remains)
}
