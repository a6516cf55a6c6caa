//! A pipeline's status: what the target has stored of it, who holds its lock, and what the source's slot looks like.
//!
//! Either side may be down; then the rest is shown, and a note says what is missing.

use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::{Ends, TargetEnd};
use crate::pipeline::holder;
use crate::pipeline::spill;
use crate::pipeline::step::has_control_schema;
use crate::position::Lsn;
use crate::source::postgres::slot::{self, SlotState};
use crate::status::{Phase, PipelineStatus, RunningOn, SequenceStatus, SlotStatus, TableState, TableStatus};

/// A log grows a little without any commit (checkpoints, lists of running transactions), and an idle pipeline stores
/// its position every ten seconds only. So what is less than this behind a position that was stored a moment ago is
/// level with the source.
const IDLE_WAL_BYTES_MAX: u64 = 8 * 1024;
const IDLE_SECONDS_MAX: f64 = 30.0;

/// Between two readings that are closer than this a rate is noise.
const READINGS_APART_SECONDS_MIN: f64 = 1.0;

/// An attempt that has not been heard of for so long is over, and its process gone: connecting takes less.
const RETRY_SECONDS_MAX: f64 = 60.0;

/// Kinds of notes are counted over this long.
const NOTES_HOURS: u32 = 24;

const PIPELINE: &str = "
    select p.phase, p.error, p.hint, p.retries, p.slot,
           pg_catalog.to_char(p.retry_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
           p.source_position, p.wal_held_bytes,
           pg_catalog.to_char(p.sequences_carried_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
           s.lsn,
           extract(epoch from pg_catalog.clock_timestamp() - s.committed_at),
           extract(epoch from pg_catalog.clock_timestamp() - s.applied_at),
           extract(epoch from pg_catalog.clock_timestamp() - p.updated_at),
           (select pg_catalog.count(*) from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'S' and n.nspname in (select schema_name from pgdiode.relation r where r.pipeline = p.name)),
           p.doing, p.runs_at, extract(epoch from pg_catalog.clock_timestamp() - p.retry_at)
      from pgdiode.pipeline p left join pgdiode.position s on s.pipeline = p.name
     where p.name = $1";

const TABLES: &str = "
    select r.schema_name, r.table_name, r.state, r.reason, r.remedy, r.rows_copied, r.bytes_copied,
           nullif(r.bytes_total, 0), coalesce(c.inserts, 0), coalesce(c.updates, 0), coalesce(c.deletes, 0),
           coalesce(c.conflicts, 0), coalesce(c.missing + c.skipped, 0)
      from pgdiode.relation r
      left join pgdiode.relation_count c using (pipeline, schema_name, table_name)
     where r.pipeline = $1
     order by 1, 2";

/// What the target has stored of the pipeline.
#[derive(Debug, Default, Clone)]
pub(super) struct Stored {
    phase: String,
    doing: Option<String>,
    runs_at: Option<String>,
    error: Option<String>,
    hint: Option<String>,
    retries: u64,
    retry_at: Option<String>,
    /// Negative while the next attempt is still to come.
    retry_seconds_ago: Option<f64>,
    /// Where the source's log ended at the run's last word.
    source_position: Option<Lsn>,
    /// What the slot held at that time.
    wal_held_bytes: Option<u64>,
    sequences: SequenceStatus,
    pub(super) position: Option<Lsn>,
    /// Age of the last applied commit, by its time at the source.
    committed_seconds_ago: Option<f64>,
    applied_seconds_ago: Option<f64>,
    updated_seconds_ago: Option<f64>,
}

impl Stored {
    /// Whether a run waits for its next attempt, or is at it.
    fn retries_now(&self) -> bool {
        self.phase == "retrying" && self.retry_seconds_ago.is_some_and(|ago| ago < RETRY_SECONDS_MAX)
    }
}

pub(super) async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    let ends = Ends::resolve(pipeline)?;
    let mut status = empty(pipeline, &ends);
    let (source, target) = tokio::join!(ends.source(), ends.target());
    let (mut source, mut target) = match (source, target) {
        (Err(error), Err(_)) => return Err(error),
        (source, target) => (noted(source, &mut status.notes), noted(target, &mut status.notes)),
    };
    let mut stored = None;
    if let Some(target) = &mut target {
        status.running_on = holder::holder(target, &pipeline.name).await?;
        stored = at_target(target, pipeline, &mut status).await?;
    }
    if let Some(source) = &mut source {
        at_source(source, pipeline, stored.as_ref(), &mut status).await?;
    }
    let is_known = target.is_some();
    let stored = stored.unwrap_or_default();
    told(&mut status, &stored, is_known);
    Ok(status)
}

/// The status of a pipeline whose source is no server, as far as the target knows it.
pub(super) async fn of_target(
    target: &mut Session,
    pipeline: &Pipeline,
    source: String,
    end: &TargetEnd,
) -> Result<PipelineStatus> {
    let mut status = blank(pipeline, source, end.conninfo.display());
    status.running_on = holder::holder(target, &pipeline.name).await?;
    let stored = at_target(target, pipeline, &mut status).await?.unwrap_or_default();
    told(&mut status, &stored, true);
    Ok(status)
}

/// Says what follows from what is stored.
fn told(status: &mut PipelineStatus, stored: &Stored, is_known: bool) {
    if status.running_on.is_none() && stored.retries_now() {
        // Between two attempts the run holds no lock: it has no session.
        status.running_on = stored.runs_at.as_deref().and_then(holder::parse);
    }
    if status.running_on.is_some() {
        status.doing.clone_from(&stored.doing);
    }
    status.phase = phase(stored, is_known, status.running_on.as_ref(), status.slot.as_ref());
    status.position = stored.position;
    status.source_position = status.source_position.or(stored.source_position);
    status.lag_bytes = lag_bytes(stored.position, status.source_position);
    status.lag_seconds = lag_seconds(stored, status.lag_bytes, status.running_on.is_some());
}

pub(super) fn empty(pipeline: &Pipeline, ends: &Ends) -> PipelineStatus {
    blank(pipeline, ends.source.display(), ends.target.display())
}

fn blank(pipeline: &Pipeline, source: String, target: String) -> PipelineStatus {
    PipelineStatus {
        name: pipeline.name.clone(),
        mode: pipeline.mode.as_str().to_owned(),
        phase: Phase::New,
        doing: None,
        running_on: None,
        source,
        target,
        position: None,
        source_position: None,
        lag_bytes: None,
        lag_seconds: None,
        slot: None,
        archive: None,
        keys: None,
        tables: Vec::new(),
        sequences: SequenceStatus::default(),
        last_error: None,
        hint: None,
        retries: 0,
        retry_at: None,
        notes: Vec::new(),
    }
}

/// The session, or a note that there is none.
pub(super) fn noted(session: Result<Session>, notes: &mut Vec<String>) -> Option<Session> {
    session.map_err(|error: Error| notes.push(unreachable(&error))).ok()
}

pub(super) fn unreachable(error: &Error) -> String {
    let hint = error.hint_text().map_or_else(String::new, |hint| format!(" ({hint})"));
    format!("not all can be shown: {}{hint}", error.chain())
}

async fn at_target(
    target: &mut Session,
    pipeline: &Pipeline,
    status: &mut PipelineStatus,
) -> Result<Option<Stored>> {
    if !has_control_schema(target).await? {
        status.notes.push("not set up yet: run pgdiode setup".to_owned());
        return Ok(None);
    }
    let name = Some(pipeline.name.as_str());
    let rows = target.query_with(PIPELINE, &[name]).await?;
    let Some(row) = rows.first() else {
        status.notes.push("not set up yet: run pgdiode setup".to_owned());
        return Ok(None);
    };
    let carried_at = row.text(8).map(str::to_owned);
    let stored = Stored {
        phase: row.string(0),
        doing: row.text(14).map(str::to_owned),
        runs_at: row.text(15).map(str::to_owned),
        retry_seconds_ago: row.optional(16)?,
        error: row.text(1).map(str::to_owned),
        hint: row.text(2).map(str::to_owned),
        retries: row.get(3)?,
        retry_at: row.text(5).map(str::to_owned),
        source_position: row.optional(6)?,
        wal_held_bytes: row.optional(7)?,
        sequences: SequenceStatus {
            carried: if carried_at.is_some() { row.get(13)? } else { 0 },
            carried_at,
        },
        position: row.optional(9)?,
        committed_seconds_ago: row.optional(10)?,
        applied_seconds_ago: row.optional(11)?,
        updated_seconds_ago: row.optional(12)?,
    };
    status.last_error.clone_from(&stored.error);
    status.hint.clone_from(&stored.hint);
    status.retries = stored.retries;
    status.retry_at =
        stored.retry_at.clone().filter(|_| stored.retry_seconds_ago.is_some_and(|ago| ago < 0.0));
    status.sequences = stored.sequences.clone();
    status.tables = tables(target, name).await?;
    status.notes.extend(notes(target, &pipeline.name).await?);
    Ok(Some(stored))
}

async fn tables(target: &mut Session, pipeline: Option<&str>) -> Result<Vec<TableStatus>> {
    let rows = target.query_with(TABLES, &[pipeline]).await?;
    rows.iter()
        .map(|row| {
            Ok(TableStatus {
                name: TableName::new(row.string(0), row.string(1)),
                state: table_state(row.text(2).unwrap_or_default()),
                reason: row.text(3).map(str::to_owned),
                remedy: row.text(4).map(str::to_owned),
                rows_copied: row.get(5)?,
                bytes_copied: row.get(6)?,
                bytes_total: row.optional(7)?,
                inserts: row.get(8)?,
                updates: row.get(9)?,
                deletes: row.get(10)?,
                conflicts: row.get(11)?,
                skipped: row.get(12)?,
            })
        })
        .collect()
}

/// The remarks of the last day, counted by kind, each with its latest.
async fn notes(target: &mut Session, pipeline: &str) -> Result<Vec<String>> {
    let rows = target
        .query(&format!(
            "select kind, pg_catalog.count(*),
                    pg_catalog.to_char(pg_catalog.max(at) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                    (pg_catalog.array_agg(detail order by at desc))[1],
                    (pg_catalog.array_agg(schema_name || '.' || table_name order by at desc))[1]
               from pgdiode.note
              where pipeline = {} and at > pg_catalog.now() - interval '{NOTES_HOURS} hours'
              group by kind order by pg_catalog.max(at) desc",
            quote::literal(pipeline)
        ))
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let table = row.text(4).map_or_else(String::new, |table| format!("{table}: "));
            format!(
                "{} in the last {NOTES_HOURS} hours: {}, the last at {}: {table}{}",
                row.string(0),
                row.string(1),
                row.string(2),
                row.string(3)
            )
        })
        .collect())
}

async fn at_source(
    source: &mut Session,
    pipeline: &Pipeline,
    stored: Option<&Stored>,
    status: &mut PipelineStatus,
) -> Result<()> {
    status.source_position = Some(wal_end(source).await?);
    let Some(state) = slot::read(source, &pipeline.slot).await? else {
        if stored.is_some_and(|stored| stored.position.is_some()) {
            status
                .notes
                .push(format!("slot \"{}\" is gone: pgdiode reset, then pgdiode start", pipeline.slot));
        }
        return Ok(());
    };
    if let Some(note) = spill::told(pipeline, &state, stored.and_then(|stored| stored.position)) {
        status.notes.push(note);
    }
    let slot = slot_status(pipeline, state, stored);
    if slot.wal_held_bytes > slot.wal_budget_bytes {
        status.notes.push(format!(
            "slot \"{}\" makes the source keep more than limits.wal_budget_mb = {}",
            slot.name, pipeline.limits.wal_budget_mb
        ));
    }
    status.slot = Some(slot);
    Ok(())
}

/// Where the source's log ends: what is flushed, because only that is sent.
pub(super) async fn wal_end(source: &mut Session) -> Result<Lsn> {
    source
        .one(
            "select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                         else pg_catalog.pg_current_wal_flush_lsn() end",
        )
        .await?
        .get(0)
}

pub(super) fn slot_status(pipeline: &Pipeline, state: SlotState, stored: Option<&Stored>) -> SlotStatus {
    let budget = pipeline.limits.wal_budget_mb << 20;
    let before = stored.and_then(|stored| Some((stored.wal_held_bytes?, stored.updated_seconds_ago?)));
    SlotStatus {
        name: pipeline.slot.clone(),
        active: state.active,
        wal_held_bytes: state.wal_held_bytes,
        wal_budget_bytes: budget,
        budget_reached_in_seconds: before
            .and_then(|(held, ago)| budget_reached_in(state.wal_held_bytes, budget, held, ago)),
        wal_status: Some(state.wal_status).filter(|status| !status.is_empty()),
        safe_wal_bytes: state.safe_wal_bytes,
    }
}

/// Seconds until `held` reaches `budget`, when it goes on growing as it has since it was `before`; `None` while it
/// shrinks or stays.
fn budget_reached_in(held: u64, budget: u64, before: u64, seconds_ago: f64) -> Option<u64> {
    let grown = held.checked_sub(before).filter(|grown| *grown > 0)?;
    if seconds_ago < READINGS_APART_SECONDS_MIN {
        return None;
    }
    // Forecasts need no more than the 52 bits of a float.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = (budget.saturating_sub(held) as f64 / (grown as f64 / seconds_ago)) as u64;
    Some(seconds)
}

fn phase(
    stored: &Stored,
    is_known: bool,
    running_on: Option<&RunningOn>,
    slot: Option<&SlotStatus>,
) -> Phase {
    if !is_known {
        return if slot.is_some_and(|slot| slot.active) { Phase::Streaming } else { Phase::Stopped };
    }
    let stored_phase = match stored.phase.as_str() {
        "copying" => Phase::Copying,
        "catching_up" => Phase::CatchingUp,
        "streaming" => Phase::Streaming,
        "paused" => Phase::Paused,
        "retrying" => Phase::Retrying,
        "stopped" => Phase::Stopped,
        "failed" => Phase::Failed,
        _ => Phase::New,
    };
    match (running_on, stored_phase) {
        // The run holds the lock and has not said anything yet.
        (Some(_), Phase::Stopped | Phase::Failed) => Phase::CatchingUp,
        (Some(_), phase) => phase,
        (None, Phase::Retrying) if stored.retries_now() => Phase::Retrying,
        (None, _) if stored.error.is_some() => Phase::Failed,
        (None, Phase::New) if stored.position.is_none() => Phase::New,
        (None, _) => Phase::Stopped,
    }
}

fn lag_bytes(position: Option<Lsn>, source_position: Option<Lsn>) -> Option<u64> {
    Some(source_position?.since(position?))
}

/// An upper bound of the age of the oldest commit that the target lacks.
///
/// That commit is younger than the last one applied, and younger than the last moment at which the target was known
/// to hold all that the source had: when the run wrote its status and the position had reached the source's end.
fn lag_seconds(stored: &Stored, lag_bytes: Option<u64>, is_running: bool) -> Option<f64> {
    let behind = lag_bytes?;
    let just_stored = stored.applied_seconds_ago.is_some_and(|ago| ago < IDLE_SECONDS_MAX);
    if behind == 0 || (is_running && just_stored && behind < IDLE_WAL_BYTES_MAX) {
        return Some(0.0);
    }
    let was_level = stored.position >= stored.source_position && stored.source_position.is_some();
    let level_ago = stored.updated_seconds_ago.filter(|_| was_level);
    let ages = [stored.committed_seconds_ago, level_ago];
    ages.into_iter().flatten().reduce(f64::min).map(|seconds| seconds.max(0.0))
}

/// Copied rows without their indexes are a copy under way.
pub(super) fn table_state(stored: &str) -> TableState {
    match stored {
        "ready" => TableState::Ready,
        "copying" | "copied" => TableState::Copying,
        "quarantined" => TableState::Quarantined,
        _ => TableState::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_forecast_from_two_readings() {
        for (held, before, ago, expected) in [
            (100, 50, 10.0, Some(20)),
            (100, 100, 10.0, None),
            (50, 100, 10.0, None),
            (100, 50, 0.1, None),
            (300, 50, 10.0, Some(0)),
        ] {
            assert_eq!(budget_reached_in(held, 200, before, ago), expected, "{held} {before} {ago}");
        }
    }

    #[test]
    fn an_idle_pipeline_does_not_lag() {
        let stored = |position, source, committed, applied, updated| Stored {
            position: Some(Lsn(position)),
            source_position: Some(Lsn(source)),
            committed_seconds_ago: Some(committed),
            applied_seconds_ago: Some(applied),
            updated_seconds_ago: Some(updated),
            ..Stored::default()
        };
        for (what, stored, behind, running, expected) in [
            ("level", stored(9, 9, 3600.0, 3600.0, 5.0), 0, true, 0.0),
            ("checkpoints only", stored(9, 9, 3600.0, 5.0, 5.0), 300, true, 0.0),
            ("a commit a moment ago", stored(9, 9, 3600.0, 3600.0, 5.0), 300, true, 5.0),
            ("blocked for a minute", stored(9, 12, 3600.0, 60.0, 5.0), 300, true, 3600.0),
            ("a backlog", stored(9, 12, 7.0, 0.1, 5.0), 1 << 30, true, 7.0),
            ("stopped", stored(9, 9, 3600.0, 10.0, 20.0), 300, false, 20.0),
        ] {
            assert_eq!(lag_seconds(&stored, Some(behind), running), Some(expected), "{what}");
        }
        assert_eq!(lag_seconds(&Stored::default(), None, true), None);
    }

    #[test]
    fn the_phase_tells_who_works() {
        let stored = |phase: &str, error: Option<&str>| Stored {
            phase: phase.to_owned(),
            error: error.map(str::to_owned),
            ..Stored::default()
        };
        let someone = RunningOn { host: "h".into(), process_id: 1, since: "t".into() };
        for (stored, running, expected) in [
            (stored("streaming", None), true, Phase::Streaming),
            (stored("streaming", None), false, Phase::Stopped),
            (stored("streaming", Some("broke")), false, Phase::Failed),
            (stored("retrying", Some("broke")), true, Phase::Retrying),
            (stored("stopped", None), true, Phase::CatchingUp),
            (stored("new", None), false, Phase::New),
            (Stored::default(), false, Phase::New),
        ] {
            assert_eq!(phase(&stored, true, running.then_some(&someone), None), expected, "{stored:?}");
        }
    }
}
