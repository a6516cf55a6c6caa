//! The swap: two renames and their record in one transaction of the control database.
//!
//! The first rename locks the database's name, so that new connections wait, and itself waits up to five seconds for the
//! others to leave; a second session ends those meanwhile. Whoever waits is told at the commit that the database was
//! renamed, once, and finds the new one at the next attempt. A crash before the commit leaves all as it was, and after
//! it nothing is left to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::audit::{self, Entry, LOCK_WAIT};
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::place::{Place, not_promoted};

const ATTEMPTS_MAX: u32 = 3;
const TERMINATE_EVERY: Duration = Duration::from_millis(50);

/// What a swap changes.
pub(super) struct Swap {
    pub(super) run: i64,
    /// The new name of the database that serves now; `None` when there is none.
    pub(super) outgoing: Option<String>,
    /// The database that shall serve.
    pub(super) incoming: String,
    /// The statements that record it.
    pub(super) record: String,
    /// The backend in the serving database whose locks keep writers waiting; it is ended after all others, so that none
    /// of them gets to write.
    pub(super) keeper: Option<i32>,
    /// What the audit log says of it: without them there is no swap.
    pub(super) entries: Vec<Entry>,
}

/// Swaps, or leaves all as it was; the numbers of its audit entries.
pub(super) async fn swap(control: &mut Session, place: &Place<'_>, swap: &Swap) -> Result<Vec<i64>> {
    let mut last = None;
    let keeper_ended = AtomicBool::new(false);
    for _ in 0..ATTEMPTS_MAX {
        if keeper_ended.load(Ordering::Acquire) {
            // What is kept could be written again, and has been carried over already.
            break;
        }
        // Dropped in the middle of a question, it would take the answer for that to the next one.
        let mut terminator = place.session(&place.control).await?;
        // Before anybody's session ends: should another writer of the log keep us waiting, readers read on.
        let numbers = match claim(control, swap.run, &swap.entries).await {
            Ok(numbers) => numbers,
            Err(error) => {
                // The first error is the one that counts.
                let _ = control.query("rollback").await;
                return Err(error);
            }
        };
        let databases = [place.database.as_str(), swap.incoming.as_str()];
        let renamed = tokio::select! {
            renamed = rename(control, place, swap) => renamed,
            // The transaction is given up with its session.
            error = end_sessions(&mut terminator, databases, swap.keeper, &keeper_ended) => return Err(error),
        };
        let Err(error) = renamed else { return Ok(numbers) };
        let is_in_use = error.sqlstate() == Some("55006");
        if error.retries() && !is_in_use {
            return Err(error);
        }
        control.query("rollback").await?;
        if error.kind() == Kind::Capacity {
            return Err(error);
        }
        if !is_in_use {
            return Err(not_promoted("the databases could not be renamed")
                .hint(error.hint_text().unwrap_or("Mend what the message names, then sync again.").to_owned())
                .because(error));
        }
        last = Some(error);
    }
    let hint = who_stays(control, place, swap.keeper).await?;
    let error =
        not_promoted(format!("\"{}\" is still in use: it was not replaced", place.database)).hint(hint);
    Err(match last {
        Some(cause) => error.because(cause),
        None => error,
    })
}

/// Opens the transaction with what must hold for the swap, and with its audit entries; their numbers.
pub(super) async fn claim(control: &mut Session, run: i64, entries: &[Entry]) -> Result<Vec<i64>> {
    let begin =
        format!("begin isolation level read committed read write; set local lock_timeout = '{LOCK_WAIT}'");
    control.query(&begin).await?;
    // A run that somebody took for dead has lost the right to swap.
    let sql = format!(
        "update pgdiode.run set verdict = 'done', ended = clock_timestamp(), shadow = null
          where id = {run} and verdict = 'running'"
    );
    if control.execute(&sql).await? != 1 {
        return Err(not_promoted("another sync took this one for dead").hint("Look at it: pgdiode status."));
    }
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.push(audit::append_in_transaction(control, entry).await?);
    }
    Ok(numbers)
}

/// Renames, records and commits.
async fn rename(control: &mut Session, place: &Place<'_>, swap: &Swap) -> Result<()> {
    let name = quote::identifier(&place.database);
    let mut sql = "set local lock_timeout = 0; set local synchronous_commit = on;".to_owned();
    if let Some(outgoing) = &swap.outgoing {
        sql.push_str(&format!("alter database {name} rename to {};", quote::identifier(outgoing)));
    }
    sql.push_str(&format!("alter database {} rename to {name};", quote::identifier(&swap.incoming)));
    sql.push_str(&swap.record);
    sql.push_str(";commit");
    control.query(&sql).await.map(drop)
}

/// Ends sessions again and again until it is dropped, or cannot.
async fn end_sessions(
    terminator: &mut Session,
    databases: [&str; 2],
    keeper: Option<i32>,
    keeper_ended: &AtomicBool,
) -> Error {
    loop {
        if let Err(error) = end_those_there(terminator, databases, keeper, keeper_ended).await {
            return error;
        }
        tokio::time::sleep(TERMINATE_EVERY).await;
    }
}

async fn end_those_there(
    terminator: &mut Session,
    databases: [&str; 2],
    keeper: Option<i32>,
    keeper_ended: &AtomicBool,
) -> Result<()> {
    // Asked before who is there: once the rename has the name, nobody comes any more.
    let is_barred = format!(
        "select exists (
             select from pg_catalog.pg_locks l join pg_catalog.pg_database d on d.oid = l.objid
              where l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass and l.mode = 'AccessExclusiveLock'
                and l.granted and d.datname = {})",
        quote::literal(databases[0])
    );
    let is_barred = terminator.one(&is_barred).await?.bool(0);
    let names = databases.map(quote::literal).join(", ");
    let sql = format!("select pid from pg_catalog.pg_stat_activity where datname in ({names})");
    let pids: Vec<i32> = terminator.query(&sql).await?.iter().map(|row| row.get(0)).collect::<Result<_>>()?;
    let others = pids.iter().copied().filter(|pid| Some(*pid) != keeper);
    let mut ended: Vec<i32> = others.collect();
    if ended.is_empty() && is_barred {
        keeper_ended.store(keeper.is_some(), Ordering::Release);
        ended.extend(keeper.filter(|keeper| pids.contains(keeper)));
    }
    for pid in ended {
        let terminate = format!("select pg_catalog.pg_terminate_backend({pid})");
        match terminator.query(&terminate).await {
            // A superuser's session is not ours to end; the rename says so in time.
            Err(error) if error.sqlstate() != Some("42501") => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn who_stays(control: &mut Session, place: &Place<'_>, keeper: Option<i32>) -> Result<String> {
    let (name, keeper) = (quote::literal(&place.database), keeper.unwrap_or(0));
    let sql = format!(
        "select 'backend ' || pid || ' of ' || coalesce(usename, backend_type) || coalesce(' (' || nullif(application_name, '') || ')', '')
           from pg_catalog.pg_stat_activity where datname = {name} and pid <> {keeper}
         union all
         select 'prepared transaction \"' || gid || '\" of ' || owner from pg_catalog.pg_prepared_xacts where database = {name}"
    );
    let who: Vec<String> = control.query(&sql).await?.iter().map(|row| row.string(0)).collect();
    Ok(if who.is_empty() {
        "Whoever it was has left: sync again.".to_owned()
    } else {
        format!("It is held by {}. End it, then sync again.", who.join(", "))
    })
}
