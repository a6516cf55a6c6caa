//! What the control schema `pgdiode` keeps of a source of keys, and the statements that write it.
//!
//! - `keyspace_key`: a row for each key that the target holds, or held, rows of: what its value was when it was applied.
//! - `keyspace_position`: how far each node's history has been applied; moves only with the rows.
//! - `keyspace_misfit`: what became no row, with the reason, until its key's value is another.
//! - `keyspace_resync`, `keyspace_wish`: what a run has been asked to look at anew: everything, or a key
//!   ([`super::wishes`]).

use crate::error::{Error, Result};
use crate::keyspace::{ContentHash, Key, KeyId, NodePosition};
use crate::pg::quote;
use crate::pg::session::Row;

/// Creates what is missing. Idempotent. `hash` is null where the key is gone; `parts` are the identities of the rows that
/// it has become ([`super::batch`]). A key may be longer than what an index takes, so its hash stands for it.
pub const CREATE_KEYSPACE_TABLES: &str = "
create table if not exists pgdiode.keyspace_key (
    pipeline text not null,
    id uuid not null,
    database int4 not null,
    name bytea not null,
    hash uuid,
    expires_at_ms int8,
    replication_id text,
    read_offset int8,
    parts bytea,
    primary key (pipeline, id)
) with (fillfactor = 80);
create table if not exists pgdiode.keyspace_position (
    pipeline text not null,
    node text not null,
    replication_id text not null,
    read_offset int8 not null,
    database int4,
    is_scanned boolean not null,
    mapping uuid not null,
    updated_at timestamptz not null default now(),
    primary key (pipeline, node)
) with (fillfactor = 50);
create table if not exists pgdiode.keyspace_misfit (
    pipeline text not null,
    id uuid not null,
    database int4 not null,
    name bytea not null,
    table_name text,
    place text not null,
    reason text not null,
    content bytea not null,
    at timestamptz not null default now()
);
create index if not exists keyspace_misfit_key on pgdiode.keyspace_misfit (id);
create table if not exists pgdiode.keyspace_resync (
    pipeline text primary key,
    number int8 not null,
    at timestamptz not null default now()
);
create table if not exists pgdiode.keyspace_wish (
    number int8 generated always as identity primary key,
    pipeline text not null,
    database int4 not null,
    name bytea not null,
    at timestamptz not null default now()
);
do $$
begin
    if pg_catalog.to_regprocedure('pgdiode.missing_reference(anyelement, text)') is null then
        create function pgdiode.missing_reference(anyelement, text) returns anyelement language plpgsql as $body$
        begin
            raise exception using errcode = 'foreign_key_violation',
                message = pg_catalog.format('a row of %s that is referred to is not there', $2);
        end
        $body$;
    end if;
end
$$;
";

/// Where a batch's keys wait for their merge. `settles`: the key's value has been looked at.
pub const CREATE_KEY_STAGE: &str = "
create temporary table if not exists pgdiode_keys (
    id uuid, database int4, name bytea, hash uuid, expires_at_ms int8, replication_id text, read_offset int8, parts bytea,
    settles boolean
)";

pub const KEY_STAGE: &str = "pg_temp.pgdiode_keys";

pub const COPY_MISFITS: &str = "copy pgdiode.keyspace_misfit (pipeline, id, database, name, table_name, place, reason, content) \
     from stdin (format binary)";

/// Merges the staged keys. What a key was made of outlives it: its rows may do so too.
pub fn merge_keys(pipeline: &str) -> String {
    format!(
        "insert into pgdiode.keyspace_key as k (pipeline, id, database, name, hash, expires_at_ms, replication_id, \
         read_offset, parts) select {}, s.id, s.database, s.name, s.hash, s.expires_at_ms, s.replication_id, \
         s.read_offset, s.parts from {KEY_STAGE} s \
         on conflict (pipeline, id) do update set hash = excluded.hash, expires_at_ms = excluded.expires_at_ms, \
         replication_id = excluded.replication_id, read_offset = excluded.read_offset, \
         parts = coalesce(excluded.parts, k.parts)",
        quote::literal(pipeline)
    )
}

/// Forgets what did not fit of those staged keys whose value has been looked at again.
pub fn delete_misfits(pipeline: &str) -> String {
    format!(
        "delete from pgdiode.keyspace_misfit m using {KEY_STAGE} s where m.pipeline = {} and m.id = s.id and s.settles",
        quote::literal(pipeline)
    )
}

pub fn write_position(pipeline: &str, position: &NodePosition) -> Result<String> {
    let offset = i64::try_from(position.offset)
        .map_err(|_| Error::unexpected(format!("the offset {} is beyond what is stored", position.offset)))?;
    let database = position.database.map_or_else(|| "null".to_owned(), |database| database.to_string());
    Ok(format!(
        "insert into pgdiode.keyspace_position \
         (pipeline, node, replication_id, read_offset, database, is_scanned, mapping, updated_at) \
         values ({}, {}, {}, {offset}, {database}, {}, '{}', clock_timestamp()) \
         on conflict (pipeline, node) do update set replication_id = excluded.replication_id, \
         read_offset = excluded.read_offset, database = excluded.database, is_scanned = excluded.is_scanned, \
         mapping = excluded.mapping, \
         updated_at = excluded.updated_at",
        quote::literal(pipeline),
        quote::literal(&position.node),
        quote::literal(&position.replication_id),
        position.is_scanned,
        position.mapping
    ))
}

/// What is stored of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// `None`: the key is gone.
    pub hash: Option<ContentHash>,
    /// Milliseconds since 1970.
    pub expires_at: Option<i64>,
    /// Whose history `offset` is of.
    pub replication_id: Option<String>,
    pub offset: Option<u64>,
}

/// The same with what only this module reads.
#[derive(Debug, Clone)]
pub struct Stored {
    pub known: Known,
    pub parts: Vec<u8>,
}

/// Asks for keys one by one through the index: the limit keeps the planner from reading all keys of the pipeline once and
/// comparing each with each, which it does while it knows nothing of the table.
pub fn select_keys(pipeline: &str, ids: impl Iterator<Item = KeyId>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    format!(
        "select k.* from pg_catalog.unnest('{{{}}}'::uuid[]) as wanted (id) cross join lateral (\
         select k.id, k.hash, k.expires_at_ms, k.replication_id, k.read_offset, k.parts \
         from pgdiode.keyspace_key k where k.pipeline = {} and k.id = wanted.id limit 1) as k",
        ids.join(","),
        quote::literal(pipeline)
    )
}

pub fn read_key(row: &Row) -> Result<(KeyId, Stored)> {
    let known = Known {
        hash: row.text(1).map(half).transpose()?.map(ContentHash),
        expires_at: row.optional(2)?,
        replication_id: row.text(3).map(str::to_owned),
        offset: row.optional(4)?,
    };
    let parts = row.text(5).map(bytes).transpose()?.unwrap_or_default();
    Ok((KeyId(half(row.text(0).unwrap_or_default())?), Stored { known, parts }))
}

/// Keys that are there, in order of their ids.
pub fn select_page(pipeline: &str, after: Option<KeyId>, limit: usize) -> String {
    let after = after.map(|id| format!(" and id > '{id}'")).unwrap_or_default();
    format!(
        "select id, database, name from pgdiode.keyspace_key \
         where pipeline = {} and hash is not null{after} order by id limit {limit}",
        quote::literal(pipeline)
    )
}

/// All keys that are there or were, in order of their ids; with whether they are there.
pub fn select_owners(pipeline: &str, after: Option<KeyId>, limit: usize) -> String {
    let after = after.map(|id| format!(" and id > '{id}'")).unwrap_or_default();
    format!(
        "select id, database, name, hash is not null from pgdiode.keyspace_key \
         where pipeline = {}{after} order by id limit {limit}",
        quote::literal(pipeline)
    )
}

/// How many misfits are stored of each of these keys and each table; the last is whether they are about rows that could
/// not be removed.
pub fn count_misfits(pipeline: &str, ids: impl Iterator<Item = KeyId>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    format!(
        "select id, table_name, count(*), bool_or(place = {}) from pgdiode.keyspace_misfit \
         where pipeline = {} and id = any ('{{{}}}'::uuid[]) group by id, table_name",
        quote::literal(super::run::STUCK),
        quote::literal(pipeline),
        ids.join(",")
    )
}

pub fn read_page(row: &Row) -> Result<(KeyId, Key)> {
    let name = bytes(row.text(2).unwrap_or_default())?;
    Ok((KeyId(half(row.text(0).unwrap_or_default())?), Key::new(row.get(1)?, name)))
}

pub fn count_keys(pipeline: &str) -> String {
    format!(
        "select count(*) from pgdiode.keyspace_key where pipeline = {} and hash is not null",
        quote::literal(pipeline)
    )
}

/// A `uuid` as PostgreSQL shows it.
pub fn half(text: &str) -> Result<[u8; 16]> {
    let digits = text.replace('-', "");
    let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Error::unexpected(format!("\"{text}\" is no uuid")))
}

/// A `bytea` as `bytea_output = hex` shows it.
pub fn bytes(text: &str) -> Result<Vec<u8>> {
    let digits = text.strip_prefix("\\x").unwrap_or(text);
    data_encoding::HEXLOWER
        .decode(digits.as_bytes())
        .map_err(|error| Error::unexpected("a bytea is not in hexadecimal").because(error))
}
