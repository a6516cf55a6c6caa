//! What the control database tells: generations and runs, as plain data.

use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::schedule::utc;
use crate::snapshot::by_schema;
use crate::snapshot::generation::read_schemas;
use crate::snapshot::place::Place;
use crate::snapshot::{control, presence};
use crate::status::snapshot::{GenerationStatus, RunStatus, ScheduleStatus, SnapshotStatus};

/// Runs that are shown.
const RUNS_MAX: u32 = 20;

/// How a snapshot pipeline does. Asks the target alone.
pub async fn status(pipeline: &Pipeline) -> Result<SnapshotStatus> {
    let place = Place::resolve(pipeline)?;
    let mut status = SnapshotStatus {
        name: pipeline.name.clone(),
        mode: pipeline.mode.as_str().to_owned(),
        source: place.ends.source.display(),
        target: place.ends.target.display(),
        serving: None,
        running: None,
        last_run: None,
        kept_by: Vec::new(),
        schedule: next_run(pipeline)?,
        runs: Vec::new(),
        runs_done: 0,
        runs_failed: 0,
    };
    let Some(mut control) = control_session(&place).await? else { return Ok(status) };
    status.kept_by = presence::keepers(&mut control, &place.database).await?;
    let generations = read_generations(&mut control, &place).await?;
    status.serving = generations.into_iter().find(|one| one.state == "serving");
    let is_running = control::holder(&mut control, &place).await?.is_some();
    let mut runs = read_runs(&mut control, &place).await?;
    if let Some(first) = runs.first_mut().filter(|run| run.verdict == "running") {
        if is_running {
            status.running = Some(runs.remove(0));
        } else {
            first.verdict = "killed".into();
        }
    }
    status.last_run = runs.first().cloned();
    status.runs = runs;
    let sql = format!(
        "select count(*) filter (where verdict = 'done'), count(*) filter (where verdict not in ('done', 'running'))
           from pgdiode.run where target = {}",
        quote::literal(&place.database)
    );
    let row = control.one(&sql).await?;
    (status.runs_done, status.runs_failed) = (row.get(0)?, row.get(1)?);
    Ok(status)
}

/// What is due next by the configuration, whether somebody keeps the schedule or not.
fn next_run(pipeline: &Pipeline) -> Result<Option<ScheduleStatus>> {
    let Some(schedule) = pipeline.schedule()? else { return Ok(None) };
    let next = schedule.next_after(jiff::Timestamp::now());
    Ok(Some(ScheduleStatus {
        expression: pipeline.snapshot.schedule.clone().unwrap_or_default(),
        time_zone: pipeline.snapshot.time_zone.clone(),
        next_run: next.map(utc),
        next_run_local: next.map(|next| schedule.local(next)),
    }))
}

/// The generations, the one that serves first.
pub async fn generations(pipeline: &Pipeline) -> Result<Vec<GenerationStatus>> {
    let place = Place::resolve(pipeline)?;
    match control_session(&place).await? {
        Some(mut control) => read_generations(&mut control, &place).await,
        None => {
            // Says so when it is the server that is not there.
            place.server().await?;
            Ok(Vec::new())
        }
    }
}

async fn control_session(place: &Place<'_>) -> Result<Option<Session>> {
    let Some(mut session) = place.session_if_there(&place.control).await? else { return Ok(None) };
    let is_there =
        session.one("select pg_catalog.to_regclass('pgdiode.generation') is not null").await?.bool(0);
    Ok(is_there.then_some(session))
}

const INSTANT: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'";

async fn read_generations(session: &mut Session, place: &Place<'_>) -> Result<Vec<GenerationStatus>> {
    let sql = format!(
        "select g.number, g.state, g.database, pg_catalog.to_char(g.taken_at, {INSTANT}),
                pg_catalog.floor(extract(epoch from pg_catalog.clock_timestamp() - g.taken_at))::int8, g.position, g.run,
                case when g.schemas is not null then {}
                     when d.oid is not null then pg_catalog.pg_database_size(d.oid) end, g.schemas
           from pgdiode.generation g left join pg_catalog.pg_database d on d.oid = g.database_oid
          where g.target = {} and g.state <> 'dropped' order by g.state <> 'serving', g.changed desc",
        by_schema::size_of("select value::oid from pg_catalog.jsonb_each_text(g.schemas)"),
        quote::literal(&place.database)
    );
    let read = |row: &Row| {
        let (number, state) = (row.get(0)?, row.string(1));
        let schemas = read_schemas(row.text(8))?;
        let schemas = match state.as_str() {
            "kept" => by_schema::kept_names(&schemas, number),
            _ => schemas,
        };
        Ok(GenerationStatus {
            number,
            state,
            database: row.string(2),
            taken_at: row.text(3).map(str::to_owned),
            age_seconds: row.optional::<i64>(4)?.map(|age| age.max(0).unsigned_abs()),
            position: row.text(5).map(str::to_owned),
            run: row.optional(6)?,
            bytes: row.optional(7)?,
            schemas: schemas.into_keys().collect(),
        })
    };
    session.query(&sql).await?.iter().map(read).collect()
}

async fn read_runs(session: &mut Session, place: &Place<'_>) -> Result<Vec<RunStatus>> {
    let sql = format!(
        "select id, verb, verdict, phase, pg_catalog.to_char(started, {INSTANT}), pg_catalog.to_char(ended, {INSTANT}),
                greatest(extract(epoch from coalesce(ended, pg_catalog.clock_timestamp()) - started)::float8, 0), actor, reason, error,
                hint, bytes, rows, generation, source_position, discarded
           from pgdiode.run where target = {} order by id desc limit {RUNS_MAX}",
        quote::literal(&place.database)
    );
    let text = |row: &Row, index: usize| row.text(index).map(str::to_owned);
    let read = |row: &Row| {
        Ok(RunStatus {
            id: row.get(0)?,
            verb: row.string(1),
            verdict: row.string(2),
            phase: text(row, 3),
            started: row.string(4),
            ended: text(row, 5),
            seconds: row.get(6)?,
            actor: row.string(7),
            reason: text(row, 8),
            error: text(row, 9),
            hint: text(row, 10),
            bytes: row.optional(11)?,
            rows: row.optional(12)?,
            generation: row.optional(13)?,
            position: text(row, 14),
            discarded: row.text(15).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        })
    };
    session.query(&sql).await?.iter().map(read).collect()
}
