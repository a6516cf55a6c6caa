//! The swap: two renames and their record in one transaction of the control database.
//!
//! The first rename locks the database's name, so that new connections wait, and itself waits up to five seconds for the
//! others to leave; a second session ends those meanwhile. Whoever waits is told at the commit that the database was
//! renamed, once, and finds the new one at the next attempt. A crash before the commit leaves all as it was, and after
//! it nothing is left to do.

use std::time::Duration;

use crate::error::{Error, Result};
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
}

/// Swaps, or leaves all as it was.
pub(super) async fn swap(control: &mut Session, place: &Place<'_>, swap: &Swap) -> Result<()> {
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        // Dropped in the middle of a question, it would take the answer for that to the next one.
        let mut terminator = place.session(&place.control).await?;
        let databases = [place.database.as_str(), swap.incoming.as_str()];
        let renamed = tokio::select! {
            renamed = rename(control, place, swap) => renamed,
            // The transaction is given up with its session.
            error = end_sessions(&mut terminator, databases) => return Err(error),
        };
        let Err(error) = renamed else { return Ok(()) };
        let is_in_use = error.sqlstate() == Some("55006");
        if error.retries() && !is_in_use {
            return Err(error);
        }
        control.query("rollback").await?;
        if !is_in_use {
            return Err(not_promoted("the databases could not be renamed")
                .hint(error.hint_text().unwrap_or("Mend what the message names, then sync again.").to_owned())
                .because(error));
        }
        last = Some(error);
    }
    let hint = who_stays(control, place).await?;
    let error =
        not_promoted(format!("\"{}\" is still in use: it was not replaced", place.database)).hint(hint);
    Err(match last {
        Some(cause) => error.because(cause),
        None => error,
    })
}

async fn rename(control: &mut Session, place: &Place<'_>, swap: &Swap) -> Result<()> {
    control.query("begin").await?;
    // A run that somebody took for dead has lost the right to swap.
    let sql = format!(
        "update pgdiode.run set verdict = 'done', ended = clock_timestamp(), shadow = null
          where id = {} and verdict = 'running'",
        swap.run
    );
    if control.execute(&sql).await? != 1 {
        return Err(not_promoted("another sync took this one for dead").hint("Look at it: pgdiode status."));
    }
    let name = quote::identifier(&place.database);
    let mut sql = String::new();
    if let Some(outgoing) = &swap.outgoing {
        sql.push_str(&format!("alter database {name} rename to {};", quote::identifier(outgoing)));
    }
    sql.push_str(&format!("alter database {} rename to {name};", quote::identifier(&swap.incoming)));
    sql.push_str(&swap.record);
    sql.push_str(";commit");
    control.query(&sql).await.map(drop)
}

/// Ends sessions again and again until it is dropped, or cannot.
async fn end_sessions(terminator: &mut Session, databases: [&str; 2]) -> Error {
    let names = databases.map(quote::literal).join(", ");
    let sql = format!("select pid from pg_catalog.pg_stat_activity where datname in ({names})");
    loop {
        let pids = match terminator.query(&sql).await {
            Ok(pids) => pids,
            Err(error) => return error,
        };
        for row in pids {
            let terminate = format!("select pg_catalog.pg_terminate_backend({})", row.string(0));
            match terminator.query(&terminate).await {
                // A superuser's session is not ours to end; the rename says so in time.
                Err(error) if error.sqlstate() != Some("42501") => return error,
                _ => {}
            }
        }
        tokio::time::sleep(TERMINATE_EVERY).await;
    }
}

async fn who_stays(control: &mut Session, place: &Place<'_>) -> Result<String> {
    let name = quote::literal(&place.database);
    let sql = format!(
        "select 'backend ' || pid || ' of ' || coalesce(usename, backend_type) || coalesce(' (' || nullif(application_name, '') || ')', '')
           from pg_catalog.pg_stat_activity where datname = {name}
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
