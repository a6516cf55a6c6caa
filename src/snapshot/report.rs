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
use crate::status::snapshot::{GenerationStatus, PhaseTime, RunStatus, ScheduleStatus, SnapshotStatus};

/// Runs that a status has, and a history.
const RUNS_MAX: u32 = 20;
const HISTORY_MAX: u32 = 1000;

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
    let mut runs = read_runs(&mut control, &place, RUNS_MAX).await?;
    name_killed(&mut runs, is_running);
    if runs.first().is_some_and(|run| run.verdict == "running") {
        status.running = Some(runs.remove(0));
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

/// The last runs, the newest first, one that is under way among them. Asks the target alone.
pub async fn history(pipeline: &Pipeline) -> Result<Vec<RunStatus>> {
    let place = Place::resolve(pipeline)?;
    let Some(mut control) = control_session(&place).await? else { return Ok(Vec::new()) };
    let is_running = control::holder(&mut control, &place).await?.is_some();
    let mut runs = read_runs(&mut control, &place, HISTORY_MAX).await?;
    name_killed(&mut runs, is_running);
    Ok(runs)
}

/// Whoever runs holds the lock.
fn name_killed(runs: &mut [RunStatus], is_running: bool) {
    if let Some(first) = runs.first_mut().filter(|run| run.verdict == "running" && !is_running) {
        first.verdict = "killed".into();
    }
}

/// From when each phase began to how long it took; the run began at `started`, and has taken `seconds`.
fn phase_times(noted: Option<&str>, started: f64, seconds: f64) -> Vec<PhaseTime> {
    #[derive(serde::Deserialize)]
    struct Noted {
        phase: String,
        at: f64,
    }
    let noted: Vec<Noted> = noted.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let Some(first) = noted.first() else { return Vec::new() };
    let before = PhaseTime { phase: "starting".into(), seconds: (first.at - started).max(0.0) };
    let ends = noted.iter().skip(1).map(|one| one.at).chain([started + seconds]);
    let phases = noted
        .iter()
        .zip(ends)
        .map(|(one, end)| PhaseTime { phase: one.phase.clone(), seconds: (end - one.at).max(0.0) });
    std::iter::once(before).chain(phases).collect()
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

async fn read_runs(session: &mut Session, place: &Place<'_>, most: u32) -> Result<Vec<RunStatus>> {
    let sql = format!(
        "select id, verb, verdict, phase, pg_catalog.to_char(started, {INSTANT}), pg_catalog.to_char(ended, {INSTANT}),
                greatest(extract(epoch from coalesce(ended, pg_catalog.clock_timestamp()) - started)::float8, 0), actor, reason, error,
                hint, bytes, rows, generation, source_position, discarded,
                pg_catalog.to_jsonb(run) ->> 'phases', extract(epoch from started)::float8
           from pgdiode.run where target = {} order by id desc limit {most}",
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
            phases: phase_times(row.text(16), row.get(17)?, row.get(6)?),
        })
    };
    session.query(&sql).await?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_lasts_until_the_next_and_the_last_until_the_end() {
        let noted = r#"[{"phase": "copying", "at": 101.5}, {"phase": "swapping", "at": 109}]"#;
        let found: Vec<(String, f64)> =
            phase_times(Some(noted), 100.0, 10.0).into_iter().map(|one| (one.phase, one.seconds)).collect();
        let wanted = [("starting", 1.5), ("copying", 7.5), ("swapping", 1.0)];
        assert_eq!(found, wanted.map(|(phase, seconds)| (phase.to_owned(), seconds)));
        assert!(phase_times(None, 100.0, 10.0).is_empty());
    }
}
