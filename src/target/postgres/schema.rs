//! Replaying a source's schema on the target, entry by entry, from what `pg_dump` said.
//!
//! Pre-data (schemas, types, functions, tables without indexes) is one transaction: all of what matters or nothing.
//! What does not matter for the rows (grants to roles that are not here, comments, views on tables that are not
//! carried) may fail; each such entry is listed, none is dropped silently.

use std::collections::HashSet;

use crate::error::{Error, Kind, Result};
use crate::pg::dump::{self, Dump, Entry, EntryKind};
use crate::pg::session::Session;

/// An entry that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub entry: String,
    pub reason: String,
}

/// What is to be thought of something that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Only a schema or an extension may be: the target was empty.
    Refused,
    /// It is as good as made.
    Kept,
}

/// Replays pre-data entries in their order, inside the open transaction; `wanted` says which.
pub async fn replay_pre_data(
    session: &mut Session,
    dump: &Dump,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Vec<LeftOut>> {
    replay_entries(session, dump, Existing::Refused, wanted).await
}

/// Replays entries in their order, inside the open transaction; `wanted` says which.
pub async fn replay_entries(
    session: &mut Session,
    dump: &Dump,
    existing: Existing,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Vec<LeftOut>> {
    let roles = roles(session).await?;
    apply_settings(session, dump).await?;
    let mut left_out = Vec::new();
    for entry in dump.entries.iter().filter(|entry| !entry.stays_at_source() && wanted(entry)) {
        session.query("savepoint entry").await?;
        match replay(session, entry, &roles).await {
            Ok(missing_roles) => {
                session.query("release savepoint entry").await?;
                left_out.extend(missing_roles);
            }
            Err(error) if error.retries() => return Err(error),
            Err(error) => {
                session.query("rollback to savepoint entry").await?;
                let may_exist = existing == Existing::Kept
                    || matches!(entry.kind, EntryKind::Schema | EntryKind::Extension);
                if exists_already(&error) && may_exist {
                    continue;
                }
                if is_needed(&entry.kind) {
                    return Err(needed_entry_failed(entry, error));
                }
                left_out.push(LeftOut { entry: title(entry), reason: error.what().to_owned() });
            }
        }
    }
    Ok(left_out)
}

/// Replays one post-data entry in a transaction of its own. What is there already, from a run that was cut off, is
/// as good as done.
pub async fn replay_post_data(
    session: &mut Session,
    entry: &Entry,
    roles: &HashSet<String>,
) -> Result<Vec<LeftOut>> {
    match replay(session, entry, roles).await {
        Ok(left_out) => Ok(left_out),
        Err(error) if error.retries() || error.kind() == Kind::Capacity => Err(error),
        Err(error) if exists_already(&error) => Ok(Vec::new()),
        Err(error) if is_needed(&entry.kind) => Err(needed_entry_failed(entry, error)),
        Err(error) => Ok(vec![LeftOut { entry: title(entry), reason: error.what().to_owned() }]),
    }
}

/// The settings that the dump wants for its session.
pub async fn apply_settings(session: &mut Session, dump: &Dump) -> Result<()> {
    for setting in dump.settings_for(session.server_major()) {
        session.query(&setting.sql).await?;
    }
    Ok(())
}

/// The roles that exist at the target.
pub async fn roles(session: &mut Session) -> Result<HashSet<String>> {
    let rows = session.query("select rolname from pg_catalog.pg_roles").await?;
    Ok(rows.iter().map(|row| row.string(0)).collect())
}

/// Runs an entry's statements, without those that speak of roles that are not here.
async fn replay(session: &mut Session, entry: &Entry, roles: &HashSet<String>) -> Result<Vec<LeftOut>> {
    let script = entry.script_for(session.server_major());
    let mut left_out = Vec::new();
    for statement in dump::statements(&script) {
        let missing: Vec<String> =
            dump::roles_in(statement).into_iter().filter(|role| !roles.contains(role)).collect();
        if missing.is_empty() {
            session.query(statement).await?;
        } else {
            let reason = format!("there is no role {} at the target", missing.join(", "));
            left_out.push(LeftOut { entry: title(entry), reason });
        }
    }
    Ok(left_out)
}

/// Whether rows cannot be stored, or not be kept right, without the entry.
fn is_needed(kind: &EntryKind) -> bool {
    matches!(
        kind,
        EntryKind::Schema
            | EntryKind::Type
            | EntryKind::Domain
            | EntryKind::Table
            | EntryKind::TableAttach
            | EntryKind::Sequence
            | EntryKind::Default
            | EntryKind::Constraint
            | EntryKind::CheckConstraint
            | EntryKind::FkConstraint
            | EntryKind::Index
            | EntryKind::IndexAttach
    )
}

/// `duplicate_schema`, `duplicate_table`, `duplicate_object`, `duplicate_function`, a second primary key, and an index
/// that is attached already.
fn exists_already(error: &Error) -> bool {
    matches!(error.sqlstate(), Some("42P06" | "42P07" | "42710" | "42723" | "42P16"))
}

fn needed_entry_failed(entry: &Entry, error: Error) -> Error {
    let kind = if error.kind() == Kind::Capacity { Kind::Capacity } else { Kind::Refused };
    let hint = match error.sqlstate() {
        Some("42704" | "42883") => {
            "Something that it needs is missing at the target, most often an extension: install it there, then start \
             again."
        }
        Some("42501") => "Give the target's user the privilege that the message names, then start again.",
        _ => {
            "Mend what the message names, or leave the table out with `tables = [\"*.*\", \"!schema.table\"]`."
        }
    };
    let hint = error.hint_text().map_or_else(|| hint.to_owned(), |server| format!("{server} {hint}"));
    let sqlstate = error.sqlstate().unwrap_or_default().to_owned();
    Error::new(kind, format!("the target cannot take {}", title(entry)))
        .with_sqlstate(sqlstate)
        .because(error)
        .hint(hint)
}

/// `INDEX "schema"."name"` for people.
fn title(entry: &Entry) -> String {
    match &entry.schema {
        Some(schema) => format!("{} {schema}.{}", entry.kind, entry.name),
        None => format!("{} {}", entry.kind, entry.name),
    }
}
