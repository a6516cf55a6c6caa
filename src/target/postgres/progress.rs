//! The control schema `pgdiode` in the target: what a pipeline knows of itself lives, and commits, with its data.
//!
//! - `pipeline`: one row a pipeline: whose history, in which phase, the last error, what has been asked of it.
//! - `position`: how far it has come. Written only in the transactions that apply changes; a table of its own, so that
//!   a large open transaction locks nobody who writes the status.
//! - `relation`: one row a table: its state, and `copied_at`, the one number that decides which changes it takes.
//! - `note`: rows that were skipped or overwritten, the first of each kind in a batch.

use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::position::{Lineage, Lsn, Position};

/// Version of the layout below; a newer one than this program knows is refused.
pub const LAYOUT: u32 = 1;

/// Creates what is missing of the control schema. Idempotent.
pub const CREATE_CONTROL_SCHEMA: &str = "
create schema if not exists pgdiode;
comment on schema pgdiode is 'state of pgdiode pipelines; layout 1';
create table if not exists pgdiode.pipeline (
    name text primary key,
    layout int not null default 1,
    mode text not null,
    system_identifier numeric,
    timeline int8,
    database text,
    slot text,
    consistent_point pg_lsn,
    publication text,
    slot_begun boolean not null default false,
    tables_created boolean not null default false,
    schema_copied boolean not null default false,
    phase text not null default 'new',
    doing text,
    error text,
    hint text,
    retries int8 not null default 0,
    retry_at timestamptz,
    runs_at text,
    source_position pg_lsn,
    wal_held_bytes int8,
    sequences_carried_at timestamptz,
    stop_requested boolean not null default false,
    hold_id text,
    hold_at pg_lsn,
    held_id text,
    hold_expires_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create table if not exists pgdiode.position (
    pipeline text primary key,
    lsn pg_lsn not null,
    committed_at timestamptz,
    applied_at timestamptz not null default now()
) with (fillfactor = 50);
create table if not exists pgdiode.relation (
    pipeline text not null,
    schema_name text not null,
    table_name text not null,
    state text not null default 'pending'
        check (state in ('pending', 'copying', 'copied', 'ready', 'quarantined')),
    copied_at pg_lsn,
    reason text,
    remedy text,
    since timestamptz not null default now(),
    rows_copied int8 not null default 0,
    bytes_copied int8 not null default 0,
    bytes_total int8 not null default 0,
    source_oid oid,
    columns jsonb,
    column_types jsonb,
    carried_by text,
    partitions text,
    options text,
    files text,
    primary key (pipeline, schema_name, table_name)
);
create table if not exists pgdiode.relation_count (
    pipeline text not null,
    schema_name text not null,
    table_name text not null,
    inserts int8 not null default 0,
    updates int8 not null default 0,
    deletes int8 not null default 0,
    truncates int8 not null default 0,
    conflicts int8 not null default 0,
    missing int8 not null default 0,
    skipped int8 not null default 0,
    primary key (pipeline, schema_name, table_name)
);
create table if not exists pgdiode.note (
    id int8 generated always as identity primary key,
    pipeline text not null,
    at timestamptz not null default now(),
    schema_name text,
    table_name text,
    kind text not null,
    detail text not null
);
create index if not exists note_pipeline_at on pgdiode.note (pipeline, at);
";

/// What a session that writes rows needs: values mean the same whatever the server's defaults, nothing times out, and
/// neither triggers nor foreign keys fire a second time (they did at the source). The source is told "flushed" when a
/// commit returns, so it must be (invariant 3). A stage is joined through the
/// table's index, however large the stage seems: its size says nothing of the table's, which has no bound.
pub const APPLY_SETTINGS: &str = "
set session_replication_role = replica;
set default_transaction_read_only = off;
select pg_catalog.set_config('synchronous_commit', 'on', false)
 where pg_catalog.current_setting('synchronous_commit') = 'off';
set jit = off;
set xmloption = content;
set lc_monetary = 'C';
set check_function_bodies = off;
set client_min_messages = warning;
set row_security = off;
set enable_hashjoin = off;
set enable_mergejoin = off;
";

/// The one of [`APPLY_SETTINGS`] that takes a privilege.
pub const REPLICA_ROLE: &str = "set session_replication_role = replica;";

/// Run-time parameters for every session with a target, sent at its start.
pub const TARGET_OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC \
     -c bytea_output=hex -c array_nulls=on -c search_path= -c statement_timeout=0 -c lock_timeout=0 \
     -c idle_in_transaction_session_timeout=0";

/// The stored state of one pipeline.
#[derive(Debug, Clone)]
pub struct Stored {
    pub lineage: Option<Lineage>,
    pub position: Option<Lsn>,
    /// A slot of the pipeline's name at the source is ours to drop: its creation was begun and not finished, or its
    /// position was given up.
    pub slot_begun: bool,
    /// The tables exist at the target.
    pub tables_created: bool,
    /// So do indexes, constraints and all the rest: the first copy is complete.
    pub schema_copied: bool,
    pub relations: Vec<StoredRelation>,
}

impl Stored {
    /// Where to go on, once there is a slot.
    pub fn at(&self) -> Option<Position> {
        Some(Position { lineage: self.lineage.clone()?, offset: self.position? })
    }
}

#[derive(Debug, Clone)]
pub struct StoredRelation {
    pub table: TableName,
    pub state: RelationState,
    /// Commits before this position are in the copy.
    pub copied_at: Option<Lsn>,
    /// The source's OID of the table that was copied.
    pub source_oid: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationState {
    /// To be copied.
    Pending,
    /// Its copy had begun; after a crash that is the same as pending.
    Copying,
    /// Its rows are here; indexes and constraints may be missing.
    Copied,
    Ready,
    /// Not followed until it is copied again.
    Quarantined,
}

impl RelationState {
    fn parse(text: &str) -> Result<RelationState> {
        match text {
            "pending" => Ok(RelationState::Pending),
            "copying" => Ok(RelationState::Copying),
            "copied" => Ok(RelationState::Copied),
            "ready" => Ok(RelationState::Ready),
            "quarantined" => Ok(RelationState::Quarantined),
            other => Err(Error::unexpected(format!("pgdiode.relation holds the unknown state \"{other}\""))),
        }
    }
}

/// Reads what is stored of `pipeline`; `None` when it was never set up here.
pub async fn read(session: &mut Session, pipeline: &str) -> Result<Option<Stored>> {
    if session.one("select pg_catalog.to_regclass('pgdiode.pipeline') is null").await?.bool(0) {
        return Ok(None);
    }
    let name = Some(pipeline);
    let rows = session
        .query_with(
            "select p.layout, p.system_identifier, p.timeline, p.database, p.slot, p.consistent_point, p.schema_copied,
                    s.lsn, p.tables_created, p.slot_begun
               from pgdiode.pipeline p left join pgdiode.position s on s.pipeline = p.name
              where p.name = $1",
            &[name],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if row.get::<u32>(0)? > LAYOUT {
        return Err(Error::refused("the target's control schema was made by a newer pgdiode")
            .hint("Use that version, or a newer one."));
    }
    let lineage = match (row.optional(1)?, row.optional(2)?, row.optional(5)?) {
        (Some(system_identifier), Some(timeline), Some(consistent_point)) => Some(Lineage {
            system_identifier,
            timeline,
            database: row.string(3),
            slot: row.string(4),
            consistent_point,
        }),
        _ => None,
    };
    let (position, schema_copied, tables_created) = (row.optional(7)?, row.bool(6), row.bool(8));
    let slot_begun = row.bool(9);
    let relations = session
        .query_with(
            "select schema_name, table_name, state, copied_at, source_oid from pgdiode.relation where pipeline = $1 order by 1, 2",
            &[name],
        )
        .await?
        .iter()
        .map(|row| {
            Ok(StoredRelation {
                table: TableName::new(row.string(0), row.string(1)),
                state: RelationState::parse(row.text(2).unwrap_or_default())?,
                copied_at: row.optional(3)?,
                source_oid: row.optional(4)?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Some(Stored { lineage, position, slot_begun, tables_created, schema_copied, relations }))
}

/// The statement that moves the position from `from` to `to`; it touches no row when somebody else moved it meanwhile.
pub fn advance(pipeline: &str, from: Lsn, to: Lsn, committed_at_us: i64) -> String {
    // An idle source's position has no commit time; the last one stays.
    let committed_at = if committed_at_us == 0 {
        String::new()
    } else {
        format!(
            ", committed_at = timestamptz '2000-01-01 00:00:00+00' + {committed_at_us} * interval '1 microsecond'"
        )
    };
    format!(
        "update pgdiode.position set lsn = '{to}', applied_at = clock_timestamp(){committed_at} \
         where pipeline = {} and lsn = '{from}'",
        quote::literal(pipeline)
    )
}

/// The statement that takes a table out of the stream, in the transaction that could not apply it.
pub fn quarantine(pipeline: &str, table: &TableName, reason: &str, remedy: &str) -> String {
    format!(
        "insert into pgdiode.relation (pipeline, schema_name, table_name, state, reason, remedy) \
         values ({}, {}, {}, 'quarantined', {}, {}) \
         on conflict (pipeline, schema_name, table_name) \
         do update set state = 'quarantined', reason = excluded.reason, remedy = excluded.remedy, since = now()",
        quote::literal(pipeline),
        quote::literal(&table.schema),
        quote::literal(&table.name),
        quote::literal(reason),
        quote::literal(remedy)
    )
}

/// The condition that names a table's row in `pgdiode.relation`.
pub fn of_relation(pipeline: &str, table: &TableName) -> String {
    format!(
        "where pipeline = {} and schema_name = {} and table_name = {}",
        quote::literal(pipeline),
        quote::literal(&table.schema),
        quote::literal(&table.name)
    )
}

/// The statement that keeps a remark about a row.
pub fn note(pipeline: &str, table: &TableName, kind: &str, detail: &str) -> String {
    format!(
        "insert into pgdiode.note (pipeline, schema_name, table_name, kind, detail) values ({}, {}, {}, {}, {})",
        quote::literal(pipeline),
        quote::literal(&table.schema),
        quote::literal(&table.name),
        quote::literal(kind),
        quote::literal(detail)
    )
}
