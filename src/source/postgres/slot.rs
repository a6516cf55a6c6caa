//! The replication slot: its creation, its identity, and what has become of it.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::replication::{SlotLife, SystemIdentity};
use crate::pg::session::Session;
use crate::position::{Lineage, Lsn};

/// A slot as the source shows it.
#[derive(Debug, Clone)]
pub struct SlotState {
    pub active: bool,
    pub confirmed: Lsn,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    /// Log that the server keeps for the slot, in bytes.
    pub wal_held_bytes: u64,
    /// How much more can be written before the slot is in danger; unknown without `max_slot_wal_keep_size`.
    pub safe_wal_bytes: Option<i64>,
    /// Why it is of no use any more, where the server says so.
    pub invalidation: Option<String>,
}

/// Reads the slot; `None` when there is none of that name.
pub async fn read(session: &mut Session, slot: &str) -> Result<Option<SlotState>> {
    let invalidation = match session.server_major() {
        17.. => "s.invalidation_reason",
        16 => "case when s.conflicting then 'conflict with recovery' end",
        _ => "null",
    };
    let sql = format!(
        "select s.active, s.confirmed_flush_lsn, s.wal_status,
                case when pg_catalog.pg_is_in_recovery() then 0
                     else pg_catalog.pg_current_wal_lsn() - s.restart_lsn end::int8,
                s.safe_wal_size, {invalidation}
           from pg_catalog.pg_replication_slots s where s.slot_name = {}",
        quote::literal(slot)
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(SlotState {
        active: row.bool(0),
        confirmed: row.optional(1)?.unwrap_or(Lsn::ZERO),
        wal_status: row.string(2),
        wal_held_bytes: row.optional::<i64>(3)?.unwrap_or(0).max(0).unsigned_abs(),
        safe_wal_bytes: row.optional(4)?,
        invalidation: row.text(5).map(str::to_owned),
    }))
}

/// How far the source's log reaches: flushed at a primary, replayed at a standby.
pub async fn log_reaches(session: &mut Session) -> Result<Lsn> {
    let sql = "select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                           else pg_catalog.pg_current_wal_flush_lsn() end";
    session.one(sql).await?.get(0)
}

/// A slot that is not made by now waits for somebody.
const DELAY_TOLD_AFTER: Duration = Duration::from_secs(5);
const DELAY_TOLD_EVERY: Duration = Duration::from_mins(1);

/// Waits for a slot that is being made, and tells now and then for whose transactions that waits: for all that have
/// written when it began. `connect` opens a session with the source.
pub async fn telling_who_delays<T>(
    making: impl Future<Output = Result<T>>,
    connect: impl AsyncFn() -> Result<Session>,
    tell: impl Fn(&str),
) -> Result<T> {
    let mut making = std::pin::pin!(making);
    let mut wait = DELAY_TOLD_AFTER;
    loop {
        tokio::select! {
            made = &mut making => return made,
            () = tokio::time::sleep(wait) => {}
        }
        wait = DELAY_TOLD_EVERY;
        let who = async { who_delays(&mut connect().await?).await };
        match who.await {
            Ok(Some(who)) => tell(&who),
            Ok(None) => {}
            Err(error) => tracing::debug!(error = error.chain(), "who delays the slot is not to be seen"),
        }
    }
}

/// The oldest transactions that write at the source, in words.
async fn who_delays(source: &mut Session) -> Result<Option<String>> {
    let sql = "
        select pg_catalog.string_agg(who, '; ' order by since)
          from (select pg_catalog.format('backend %s of %s since %s', pid, usename, xact_start::timestamptz(0)), xact_start
                  from pg_catalog.pg_stat_activity where backend_xid is not null and pid <> pg_catalog.pg_backend_pid()
                union all
                select pg_catalog.format('prepared transaction \"%s\" of %s since %s', gid, owner, prepared::timestamptz(0)), prepared
                  from pg_catalog.pg_prepared_xacts
                 order by 2 limit 3) as oldest (who, since)";
    Ok(source.one(sql).await?.text(0).map(str::to_owned))
}

/// Creates the pipeline's slot and names the history that begins with it.
pub async fn create(replication: &mut Session, plugin: &str, slot: &str, database: &str) -> Result<Lineage> {
    let system = replication.identify_system().await?;
    let created =
        replication.create_slot_of(plugin, slot, SlotLife::Permanent).await.map_err(|error| match error.sqlstate() {
            Some("55000") => error.hint("Set wal_level = logical at the source and restart it."),
            Some("53400") => {
                error.hint("Raise max_replication_slots at the source, or drop a slot that nobody uses.")
            }
            // undefined_file
            Some("58P01") => error.with_kind(Kind::Refused).hint(format!(
                "The output plugin {plugin} is not installed at the source; for wal2json it is the package postgresql-NN-wal2json."
            )),
            Some("42501") => error.hint("The source's user needs the REPLICATION attribute."),
            _ => error,
        })?;
    Ok(Lineage {
        system_identifier: system.system_identifier,
        timeline: system.timeline,
        database: database.to_owned(),
        slot: slot.to_owned(),
        consistent_point: created.consistent_point,
    })
}

/// The position was reached through one slot: another may have let go of what follows it.
pub fn check_name(stored: &Lineage, configured: &str) -> Result<()> {
    if stored.slot == configured {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the configuration names the slot \"{configured}\", the target has been filled through the slot \"{}\"",
        stored.slot
    ))
    .hint("Put the key slot back to what it was. To change it, start over: pgdiode reset, then pgdiode start."))
}

/// What the source must be for the stored position to mean anything there (invariant 4).
pub async fn check_lineage(
    replication: &mut Session,
    session: &mut Session,
    stored: &Lineage,
    position: Lsn,
) -> Result<Lineage> {
    let system = replication.identify_system().await?;
    if system.system_identifier != stored.system_identifier {
        return Err(Error::refused(format!(
            "the source is another cluster: its system identifier is {}, the target was filled from {}",
            system.system_identifier, stored.system_identifier
        ))
        .hint("If that is intended, start over: pgdiode reset, then pgdiode start."));
    }
    if system.timeline < stored.timeline {
        return Err(Error::refused(format!(
            "the source is on timeline {}, the target has followed it to timeline {}: it is older than its copy",
            system.timeline, stored.timeline
        ))
        .hint("It may be a backup, or the old primary after a failover. Point the pipeline at the current primary."));
    }
    let Some(slot) = read(session, &stored.slot).await? else {
        return Err(Error::refused(format!("the replication slot \"{}\" is gone", stored.slot)).hint(
            "Changes since the stored position can no longer be had. Start over with: pgdiode reset, then pgdiode start.",
        ));
    };
    if slot.wal_status == "lost" || slot.invalidation.is_some() {
        let reason = slot.invalidation.unwrap_or_else(|| "its write-ahead log was removed".into());
        return Err(Error::refused(format!("the replication slot \"{}\" is lost: {reason}", stored.slot)).hint(
            "Raise max_slot_wal_keep_size (or idle_replication_slot_timeout) at the source, then start over: pgdiode \
             reset, then pgdiode start.",
        ));
    }
    if slot.confirmed > position {
        return Err(Error::refused(format!(
            "the slot \"{}\" stands at {}, beyond the target's position {position}: changes between would be lost",
            stored.slot, slot.confirmed
        ))
        .hint(
            "The slot was created again, or advanced by somebody else; or the pipeline has spilled, and its section spill is \
             not configured any more. Otherwise start over: pgdiode reset, then pgdiode start.",
        ));
    }
    check_history(replication, session, stored, position, &system).await?;
    Ok(Lineage { timeline: system.timeline, ..stored.clone() })
}

/// Whether the source still has the history that the position lies in. Its log says so only as far as it reaches: a
/// server that was restored from a backup and has written more than it lost cannot be told from the one before.
async fn check_history(
    replication: &mut Session,
    session: &mut Session,
    stored: &Lineage,
    position: Lsn,
    system: &SystemIdentity,
) -> Result<()> {
    const START_OVER: &str =
        "The target holds changes that this source never had. Start over: pgdiode reset, then pgdiode start.";
    if system.timeline == stored.timeline {
        // A standby that has just started replays what it had before: its log grows back.
        let grows_back = session.one("select pg_catalog.pg_is_in_recovery()").await?.bool(0);
        if position <= system.position || grows_back {
            return Ok(());
        }
        return Err(Error::refused(format!(
            "the source's log ends at {}, before the target's position {position}: the source was restored from a backup",
            system.position
        ))
        .hint(START_OVER));
    }
    let (now, before) = (system.timeline, stored.timeline);
    match replication.timeline_left(now, before).await? {
        Some(left) if position <= left => Ok(()),
        Some(left) => Err(Error::refused(format!(
            "the source was promoted (timeline {before} to {now}) at {left}, before the target's position {position}"
        ))
        .hint(START_OVER)),
        None => Err(Error::refused(format!(
            "the source is on timeline {now}, which does not descend from timeline {before} that the target has followed"
        ))
        .hint(START_OVER)),
    }
}
