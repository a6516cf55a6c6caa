//! The swap: renames of schemas and their record in one transaction.
//!
//! Names are looked up anew by whoever waits for a lock, so readers need no new connection: the transaction first locks
//! every table that serves, and who waits for one of them finds the new one at the commit. Until then nobody has seen
//! anything. Two things could let a reader see old and new together, and are waited for, then ended:
//!
//! - a transaction that has read one table holds its lock until it ends;
//! - one that reads by a snapshot taken before the rows were in would find the new tables, and not all of their rows.
//!
//! Readers lock tables in an order of their own. Each attempt is shorter than the server takes to call two who wait for
//! each other a deadlock, so that never a reader is the victim; the next begins with the table that this one stuck at.

use std::time::Duration;

use tokio::time::Instant;

use super::preparation;
use super::{are_there, extensions_in, generation, kept_names};
use crate::audit::Entry;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::generation::{Generation, Schemas, read_schemas, written_schemas};
use crate::snapshot::place::{Place, not_promoted};
use crate::snapshot::swap::claim;

/// Attempts that end nobody, each of so many milliseconds at most, and the pause behind it.
const PATIENT: u32 = 16;
const ATTEMPT_MS_MAX: u64 = 300;
const PAUSE: Duration = Duration::from_millis(300);
/// Attempts that end who is in the way.
const DETERMINED: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long transactions with an old snapshot are waited for.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);
const SNAPSHOT_PATIENCE_MAX: Duration = Duration::from_secs(10);

/// The numbers and marks of what is put in place.
pub(in crate::snapshot) struct Recorded<'a> {
    pub(in crate::snapshot) run: i64,
    pub(in crate::snapshot) number: i64,
    /// The number that what serves now has or gets.
    pub(in crate::snapshot) previous: Option<i64>,
    pub(in crate::snapshot) taken_at: &'a str,
    pub(in crate::snapshot) position: &'a str,
    /// What the audit log says of it: without them there is no swap.
    pub(in crate::snapshot) entries: &'a [Entry],
}

/// Puts a run's shadow in the place of `outgoing`; the numbers of its audit entries.
pub(in crate::snapshot) async fn swap(
    control: &mut Session,
    place: &Place<'_>,
    outgoing: &Schemas,
    recorded: &Recorded<'_>,
) -> Result<Vec<i64>> {
    let run = recorded.run;
    let row = control.one(&format!("select schemas from pgdiode.run where id = {run}")).await?;
    let incoming = read_schemas(row.text(0))?;
    let target = quote::literal(&place.database);
    let mut record = String::new();
    if let Some(previous) = recorded.previous {
        record.push_str(&format!(
            "insert into pgdiode.generation (target, number, database, database_oid, schemas, state)
             select {target}, {previous}, datname, oid, {schemas}, 'kept' from pg_catalog.pg_database
              where datname = pg_catalog.current_database()
             on conflict (target, number) do update
                set state = 'kept', schemas = excluded.schemas, changed = nextval('pgdiode.change');",
            schemas = written_schemas(outgoing)?
        ));
    }
    record.push_str(&format!(
        "update pgdiode.generation set state = 'dropped' where target = {target} and state = 'serving';
         insert into pgdiode.generation
                (target, number, database, database_oid, schemas, run, taken_at, position, state)
         select {target}, {number}, datname, oid, {schemas}, {run}, {taken_at}, '{position}', 'serving'
           from pg_catalog.pg_database where datname = pg_catalog.current_database();
         update pgdiode.run set generation = {number}, source_position = '{position}', schemas = null where id = {run}",
        number = recorded.number,
        schemas = written_schemas(&incoming)?,
        taken_at = quote::literal(recorded.taken_at),
        position = recorded.position,
    ));
    let mut moves = Vec::new();
    moves.extend(
        recorded.previous.into_iter().flat_map(|number| moved(outgoing, |plain| generation(plain, number))),
    );
    moves.extend(moved(&incoming, str::to_owned));
    let entries = recorded.entries;
    exchange(control, place, &Exchange { run, outgoing, incoming: &incoming, moves, record, entries }).await
}

/// Puts a kept generation in the place of the one that serves.
pub(in crate::snapshot) async fn roll_back(
    control: &mut Session,
    place: &Place<'_>,
    run: i64,
    serving: Option<&Generation>,
    chosen: &Generation,
    entries: &[Entry],
) -> Result<Vec<i64>> {
    let none = Schemas::new();
    let outgoing = serving.map_or(&none, |serving| &serving.schemas);
    preparation::refuse_outside(control, outgoing).await?;
    let target = quote::literal(&place.database);
    let record = format!(
        "update pgdiode.generation set state = 'kept', changed = nextval('pgdiode.change')
          where target = {target} and state = 'serving';
         update pgdiode.generation set state = 'serving', changed = nextval('pgdiode.change')
          where target = {target} and number = {number};
         update pgdiode.run set generation = {number} where id = {run}",
        number = chosen.number
    );
    let mut moves = Vec::new();
    moves.extend(
        serving.iter().flat_map(|serving| moved(outgoing, |plain| generation(plain, serving.number))),
    );
    moves.extend(moved(&chosen.schemas, str::to_owned));
    let incoming = &chosen.schemas;
    exchange(control, place, &Exchange { run, outgoing, incoming, moves, record, entries }).await
}

/// Whether a generation is what it was when it was noted.
pub(in crate::snapshot) async fn is_intact(session: &mut Session, generation: &Generation) -> Result<bool> {
    if generation.is_serving {
        return are_there(session, &generation.schemas).await;
    }
    are_there(session, &kept_names(&generation.schemas, generation.number)).await
}

fn moved(schemas: &Schemas, named: impl Fn(&str) -> String) -> Vec<(u32, String)> {
    schemas.iter().map(|(plain, oid)| (*oid, named(plain))).collect()
}

struct Exchange<'a> {
    run: i64,
    outgoing: &'a Schemas,
    incoming: &'a Schemas,
    /// Schemas and their new names, in this order.
    moves: Vec<(u32, String)>,
    record: String,
    entries: &'a [Entry],
}

async fn exchange(control: &mut Session, place: &Place<'_>, exchange: &Exchange<'_>) -> Result<Vec<i64>> {
    outlast_old_snapshots(control, &mut place.session(&place.control).await?).await?;
    let sql = renames(control, exchange).await?;
    let pid = control.process_id();
    let deadlock_ms: u64 = control
        .one("select setting from pg_catalog.pg_settings where name = 'deadlock_timeout'")
        .await?
        .get(0)?;
    let mut tables = lockable(control, exchange.outgoing).await?;
    let mut last = None;
    for attempt in 0..PATIENT + DETERMINED {
        let ends_others = attempt >= PATIENT;
        // At last so long that the server ends what it does by itself, such as autovacuum.
        let ms =
            if ends_others { 2 * deadlock_ms + 1000 } else { ATTEMPT_MS_MAX.min(deadlock_ms / 2).max(1) };
        let mut stuck_at = None;
        // Dropped in the middle of a question it would take the answer for that to the next one: a new one each time.
        let mut watcher = place.session(&place.control).await?;
        let done = tokio::select! {
            done = attempt_exchange(control, exchange, &tables, &sql, ms) => done,
            error = watch(&mut watcher, pid, ends_others, &mut stuck_at) => return Err(error),
        };
        let error = match done {
            Ok(numbers) => return Ok(numbers),
            Err(error) => error,
        };
        // A timeout, or a deadlock that was ours to lose.
        let is_in_use = matches!(error.sqlstate(), Some("57014" | "55P03" | "40P01"));
        if error.retries() && !is_in_use {
            return Err(error);
        }
        control.query("rollback").await?;
        if !is_in_use {
            if error.kind() == Kind::Difference {
                return Err(error);
            }
            return Err(not_promoted("the schemas could not be renamed")
                .hint(error.hint_text().unwrap_or("Mend what the message names, then sync again.").to_owned())
                .because(error));
        }
        if let Some(at) = stuck_at.and_then(|oid| tables.iter().position(|table| table.oid == oid)) {
            let table = tables.remove(at);
            tables.insert(0, table);
        }
        last = Some(error);
        tokio::time::sleep(PAUSE).await;
    }
    let error =
        not_promoted(format!("the tables of \"{}\" are still in use: nothing was replaced", place.database))
            .hint(who_stays(control, exchange.outgoing).await?);
    Err(match last {
        Some(cause) => error.because(cause),
        None => error,
    })
}

struct Lockable {
    oid: u32,
    name: String,
    /// What locks a materialized view against readers and changes nothing: LOCK TABLE knows none.
    view: Option<String>,
}

/// Everything that serves rows.
async fn lockable(control: &mut Session, outgoing: &Schemas) -> Result<Vec<Lockable>> {
    let oids = outgoing.values().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "select c.oid, c.oid::pg_catalog.regclass,
                case when c.relkind = 'm'
                     then pg_catalog.format('alter materialized view %s owner to %I', c.oid::pg_catalog.regclass,
                                            pg_catalog.pg_get_userbyid(c.relowner)) end
           from pg_catalog.pg_class c
          where c.relnamespace in ({oids}) and c.relkind in ('r', 'p', 'm') order by c.oid"
    );
    let rows = control.query(&sql).await?;
    rows.iter()
        .map(|row| {
            Ok(Lockable { oid: row.get(0)?, name: row.string(1), view: row.text(2).map(str::to_owned) })
        })
        .collect()
}

/// The renames, and the extensions that go along with a plain name.
async fn renames(control: &mut Session, exchange: &Exchange<'_>) -> Result<String> {
    let mut sql = String::new();
    for (oid, name) in &exchange.moves {
        let named =
            format!("select pg_catalog.quote_ident(nspname) from pg_catalog.pg_namespace where oid = {oid}");
        let Some(row) = control.query(&named).await?.into_iter().next() else {
            return Err(not_promoted(format!("schema \"{name}\" has gone"))
                .hint("Somebody has dropped it: look at pgdiode generations, then sync again."));
        };
        sql.push_str(&format!("alter schema {} rename to {};", row.string(0), quote::identifier(name)));
    }
    let plain: Vec<String> = exchange.outgoing.keys().cloned().collect();
    for (extension, schema) in extensions_in(control, &plain).await? {
        if exchange.incoming.contains_key(&schema) {
            let (extension, schema) = (quote::identifier(&extension), quote::identifier(&schema));
            sql.push_str(&format!("alter extension {extension} set schema {schema};"));
        }
    }
    Ok(sql)
}

async fn attempt_exchange(
    control: &mut Session,
    exchange: &Exchange<'_>,
    tables: &[Lockable],
    renames: &str,
    ms: u64,
) -> Result<Vec<i64>> {
    let numbers = claim(control, exchange.run, exchange.entries).await?;
    let until = Instant::now() + Duration::from_millis(ms);
    for tables in tables.chunk_by(|one, next| one.view.is_none() && next.view.is_none()) {
        let left = until.saturating_duration_since(Instant::now()).as_millis().max(1);
        let lock = match &tables[0].view {
            Some(sql) => sql.clone(),
            None => {
                let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
                format!("lock table only {} in access exclusive mode", names.join(", only "))
            }
        };
        // The time is one statement's, however many locks it takes.
        control.query(&format!("set local statement_timeout = {left}; {lock}")).await?;
    }
    control
        .query(&format!("set local statement_timeout = 5000; {renames}{}; commit", exchange.record))
        .await
        .map(|_| numbers)
}

/// Notes what the swap waits for, and ends who holds it if it may; until it is dropped, or cannot.
async fn watch(watcher: &mut Session, pid: i32, mut may_end: bool, stuck_at: &mut Option<u32>) -> Error {
    let mut seen: Vec<String> = Vec::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let waits = format!("select relation from pg_catalog.pg_locks where pid = {pid} and not granted");
        let waits = match watcher.query(&waits).await {
            Ok(rows) => rows.first().and_then(|row| row.optional(0).ok().flatten()),
            Err(error) => return error,
        };
        let Some(relation) = waits else { continue };
        *stuck_at = Some(relation);
        if !may_end {
            continue;
        }
        let blockers = format!("select pg_catalog.unnest(pg_catalog.pg_blocking_pids({pid}))");
        let ended = async {
            let blockers: Vec<String> =
                watcher.query(&blockers).await?.iter().map(|row| row.string(0)).collect();
            // Who is seen twice stays; 0 is a prepared transaction.
            let stays = |pid: &&str| *pid != "0" && seen.iter().any(|seen| seen == pid);
            let pids: Vec<&str> = blockers.iter().map(String::as_str).filter(stays).collect();
            let ended = end(watcher, &pids).await;
            seen = blockers;
            ended
        };
        match ended.await {
            // Somebody else's session is not ours to end; the swap says so in time.
            Ok(ended) => may_end = ended,
            Err(error) => return error,
        }
    }
}

/// Waits until no transaction reads by a snapshot that was taken before now, and ends those that go on.
async fn outlast_old_snapshots(control: &mut Session, watcher: &mut Session) -> Result<()> {
    let own = format!("{}, {}", control.process_id(), watcher.process_id());
    // From now on snapshots differ from those before, unless an older transaction still writes.
    let line: i64 = control.one("select pg_catalog.txid_current()").await?.get(0)?;
    let line = line & 0xffff_ffff;
    let all = format!(
        "select pid || ':' || backend_xmin from pg_catalog.pg_stat_activity
          where datname = pg_catalog.current_database() and usesysid is not null
            and coalesce(backend_type, 'client backend') = 'client backend' and backend_xmin is not null and pid not in ({own})
            and pg_catalog.age(backend_xmin) >= pg_catalog.age('{line}'::pg_catalog.xid)"
    );
    let mut old: Vec<String> = watcher.query(&all).await?.iter().map(|row| row.string(0)).collect();
    let began = Instant::now();
    let mut may_end = true;
    while !old.is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
        let now: Vec<String> = watcher.query(&all).await?.iter().map(|row| row.string(0)).collect();
        old.retain(|one| now.contains(one));
        let pids: Vec<&str> = old.iter().filter_map(|one| one.split(':').next()).collect();
        if pids.is_empty() || began.elapsed() < SNAPSHOT_PATIENCE {
            continue;
        }
        if !may_end || began.elapsed() > SNAPSHOT_PATIENCE_MAX {
            return Err(not_promoted(format!(
                "backends {} of the target's database read by a snapshot from before the copy was complete",
                pids.join(", ")
            ))
            .hint(
                "End them, then sync again. With pg_signal_backend the target's user can end them by itself.",
            ));
        }
        may_end = end(watcher, &pids).await?;
    }
    Ok(())
}

/// Ends backends; whether it may.
async fn end(session: &mut Session, pids: &[&str]) -> Result<bool> {
    for pid in pids {
        match session.query(&format!("select pg_catalog.pg_terminate_backend({pid})")).await {
            Ok(_) => {}
            Err(error) if error.sqlstate() == Some("42501") => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

async fn who_stays(session: &mut Session, outgoing: &Schemas) -> Result<String> {
    let oids = outgoing.values().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "select distinct coalesce('backend ' || l.pid || ' of ' || coalesce(a.usename, a.backend_type),
                                  'a prepared transaction')
           from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid
          where l.granted and l.database = (select oid from pg_catalog.pg_database
                                              where datname = pg_catalog.current_database())
            and l.relation in (select oid from pg_catalog.pg_class where relnamespace in ({oids}))"
    );
    let who: Vec<String> = session.query(&sql).await?.iter().map(|row| row.string(0)).collect();
    Ok(if who.is_empty() {
        "Whoever it was has left: sync again.".to_owned()
    } else {
        format!(
            "They are held by {}. End it, then sync again. With pg_signal_backend the target's user can end sessions \
             by itself.",
            who.join(", ")
        )
    })
}
