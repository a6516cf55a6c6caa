//! `mode = "subscription"`: the servers replicate by themselves; pgdiode sets that up, watches it and takes it away.
//!
//! The subscription is named like the slot. Its connection text holds the source's password, because that is where
//! PostgreSQL keeps it (`pg_subscription`, for superusers only); nothing here logs or shows it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Map;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::config::{Binary, Pipeline, written};
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnInfo;
use crate::pg::dump::{self, Dump, DumpOptions, Entry, EntryKind, Section};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::lifecycle::{stopped_details, until_details};
use crate::pipeline::report::{self, empty, noted};
use crate::pipeline::reset as giving_up;
use crate::pipeline::selection::Selection;
use crate::pipeline::step::{Step, tables_sql};
use crate::pipeline::stop::PATIENCE;
use crate::position::Lsn;
use crate::preflight::{self, Purpose};
use crate::source::postgres::slot;
use crate::status::{
    Phase, PipelineStatus, Progress, Reset, RunningOn, StopReason, Stopped, TableState, TableStatus, Until,
};
use crate::target::postgres::schema::{self, LeftOut};

const POLL: Duration = Duration::from_millis(200);

/// A lag smaller than this is one commit's worth: streaming.
const STREAMING_LAG_BYTES_MAX: u64 = 1 << 20;

/// What the target's catalog says of the subscription.
struct Subscription {
    enabled: bool,
    /// The process that applies; none while it is disabled, or between two attempts.
    worker: Option<u32>,
    since: Option<String>,
}

impl Subscription {
    async fn read(target: &mut Session, pipeline: &Pipeline) -> Result<Option<Subscription>> {
        let rows = target
            .query(&format!(
                "select s.subenabled, w.pid,
                        pg_catalog.to_char(a.backend_start at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                   from pg_catalog.pg_subscription s
                   left join pg_catalog.pg_stat_subscription w on w.subid = s.oid and w.relid is null
                   left join pg_catalog.pg_stat_activity a on a.pid = w.pid
                  where s.subname = {} and s.subdbid =
                        (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
                  order by w.pid limit 1",
                quote::literal(&pipeline.slot)
            ))
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Subscription {
            enabled: row.bool(0),
            worker: row.optional(1)?,
            since: row.text(2).map(str::to_owned),
        }))
    }

    async fn required(target: &mut Session, pipeline: &Pipeline) -> Result<Subscription> {
        Subscription::read(target, pipeline).await?.ok_or_else(|| {
            Error::refused(format!("subscription \"{}\" does not exist at the target", pipeline.slot))
                .hint("create it with: pgdiode setup")
        })
    }
}

/// Replays the tables' schema where it is missing, and creates the subscription, disabled. The publication is there
/// already, unless this is only a plan.
pub(super) async fn setup(
    pipeline: &Pipeline,
    ends: &Ends,
    selection: &Selection,
    source: &mut Session,
    target: &mut Session,
    plan_only: bool,
) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    if !missing_tables(target, &selection.carried).await?.is_empty() {
        texts.push(format!(
            "-- at the target, {}: the schema of the tables, as this writes it for the source:\n--   pg_dump \
             --schema-only --no-owner",
            ends.target.display()
        ));
        if !plan_only {
            copy_schema(pipeline, ends, selection, source, target).await?;
        }
    }
    if Subscription::read(target, pipeline).await?.is_none() {
        let step = create(pipeline, ends, source.server_major(), target.server_major());
        if !plan_only {
            target.query(&step.sql).await.map_err(|error| unreachable_from_target(error, ends))?;
        }
        texts.push(step.text(ends));
    }
    Ok(texts)
}

/// The target's server connects to the source itself; the error must not repeat the statement, which it does not.
fn unreachable_from_target(error: Error, ends: &Ends) -> Error {
    match error.sqlstate() {
        Some("08006" | "08001") => Error::refused("the target's server cannot connect to the source").because(error).hint(
            format!(
                "in this mode the target's own machine must reach {} with the configured user and password: see the \
                 source's pg_hba.conf and the network between the two",
                ends.source.display()
            ),
        ),
        Some("42710") => error.hint("a slot of that name is left at the source: pgdiode reset --drop-slot"),
        _ => error,
    }
}

fn create(pipeline: &Pipeline, ends: &Ends, source_major: u32, target_major: u32) -> Step {
    let mut options = vec![
        "enabled = false".to_owned(),
        "copy_data = true".to_owned(),
        "create_slot = true".to_owned(),
        format!("slot_name = {}", quote::literal(&pipeline.slot)),
    ];
    match source_major.min(target_major) {
        ..=13 => {}
        14 | 15 => options.push("streaming = on".to_owned()),
        16.. => options.push("streaming = parallel".to_owned()),
    }
    if pipeline.stream.binary == Binary::On && source_major.min(target_major) >= 14 {
        options.push("binary = true".to_owned());
    }
    if target_major >= 16 {
        options.push("origin = any".to_owned());
    }
    let statement = |connection: &str| {
        format!(
            "create subscription {} connection {} publication {} with ({})",
            quote::identifier(&pipeline.slot),
            quote::literal(connection),
            quote::identifier(&pipeline.publication),
            options.join(", ")
        )
    };
    let mut step = Step::target(statement(&connection_text(&ends.source, password(&ends.source))));
    step.shown = Some(statement(&connection_text(&ends.source, password(&ends.source).map(|_| "***"))));
    step
}

fn password(source: &ConnInfo) -> Option<&str> {
    let of_host = || source.hosts.first().and_then(|host| source.password_for(host));
    source.password.as_ref().or_else(of_host).map(crate::secret::Secret::reveal)
}

/// `key='value'` pairs for the libpq of the target's server. Files and the service are this machine's, so only what
/// they lead to goes there, except for certificates, whose paths may be the same on both.
fn connection_text(source: &ConnInfo, password: Option<&str>) -> String {
    const KEYS: &[(&str, &str)] = &[
        ("PGHOST", "host"),
        ("PGHOSTADDR", "hostaddr"),
        ("PGPORT", "port"),
        ("PGDATABASE", "dbname"),
        ("PGUSER", "user"),
        ("PGSSLMODE", "sslmode"),
        ("PGSSLNEGOTIATION", "sslnegotiation"),
        ("PGSSLROOTCERT", "sslrootcert"),
        ("PGSSLCERT", "sslcert"),
        ("PGSSLKEY", "sslkey"),
        ("PGSSLCRL", "sslcrl"),
        ("PGCONNECT_TIMEOUT", "connect_timeout"),
        ("PGOPTIONS", "options"),
    ];
    let variables: HashMap<String, String> = source.to_libpq_env().into_iter().collect();
    let mut pairs: Vec<String> = KEYS
        .iter()
        .filter_map(|(variable, key)| Some(format!("{key}={}", quoted(variables.get(*variable)?))))
        .collect();
    pairs.extend(password.map(|password| format!("password={}", quoted(password))));
    pairs.join(" ")
}

/// A value of a `key=value` text: in quotes, with `\` before what would end them.
fn quoted(value: &str) -> String {
    if !value.is_empty()
        && value.chars().all(|character| character.is_ascii_alphanumeric() || "._-*/:,".contains(character))
    {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

async fn missing_tables(target: &mut Session, wanted: &[TableName]) -> Result<Vec<TableName>> {
    let existing = existing(target).await?;
    Ok(wanted.iter().filter(|table| !existing.contains(table)).cloned().collect())
}

/// Names of relations and types: what a schema can make once only.
async fn existing(target: &mut Session) -> Result<HashSet<TableName>> {
    let rows = target
        .query(
            "select n.nspname, c.relname
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')
              union
             select n.nspname, t.typname
               from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace",
        )
        .await?;
    Ok(rows.iter().map(|row| TableName::new(row.string(0), row.string(1))).collect())
}

/// Replays the source's schema for the carried tables that the target lacks, keys and indexes included.
async fn copy_schema(
    pipeline: &Pipeline,
    ends: &Ends,
    selection: &Selection,
    source: &mut Session,
    target: &mut Session,
) -> Result<()> {
    let existing = existing(target).await?;
    let is_there = |entry: &Entry| {
        let makes_one = matches!(entry.kind, EntryKind::Type | EntryKind::Domain | EntryKind::Sequence);
        let own = entry.schema.as_ref().map(|schema| TableName::new(schema, &entry.name));
        entry.table.iter().chain(own.iter().filter(|_| makes_one)).any(|name| existing.contains(name))
    };
    let wanted = |entry: &Entry| {
        !is_there(entry) && entry.table.as_ref().is_none_or(|table| selection.wants_schema_of(table))
    };
    let pg_dump = dump::find_pg_dump(pipeline.pg_dump.as_deref(), source.server_major()).await?;
    let environment = ends.source.to_libpq_env();
    let section = async |section| -> Result<Dump> {
        let options = DumpOptions { section: Some(section), ..DumpOptions::default() };
        Dump::parse(&dump::run(&pg_dump, &environment, &options).await?)
    };
    let (pre_data, post_data) = (section(Section::PreData).await?, section(Section::PostData).await?);
    target.query("begin").await?;
    let left_out = schema::replay_pre_data(target, &pre_data, &wanted).await?;
    target.query("commit").await?;
    tell(&left_out);
    let roles = schema::roles(target).await?;
    schema::apply_settings(target, &post_data).await?;
    for entry in post_data.entries.iter().filter(|entry| !entry.stays_at_source() && wanted(entry)) {
        tell(&schema::replay_post_data(target, entry, &roles).await?);
    }
    Ok(())
}

/// Says what was left out; what a table that joins later finds there already (functions, grants) is no news.
fn tell(left_out: &[LeftOut]) {
    for each in left_out.iter().filter(|each| !each.reason.contains("already exists")) {
        tracing::warn!(reason = each.reason, "left out at the target: {}", each.entry);
    }
}

/// Lets the subscription work, with the tables that the publication has now, and waits for what `until` asks.
pub(super) async fn start(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    preflight::refuse_unsafe(pipeline, Purpose::Start).await?;
    let ends = Ends::resolve(pipeline)?;
    let (mut source, mut target) = tokio::try_join!(ends.source(), ends.target())?;
    Subscription::required(&mut target, pipeline).await?;
    let journal = Journal::begin(&mut target, pipeline, Action::Start, None, until_details(until)).await?;
    let done = follow(pipeline, until, progress, stop, &mut source, &mut target).await;
    journal.conclude_with(&mut target, done, stopped_details).await
}

async fn follow(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
    source: &mut Session,
    target: &mut Session,
) -> Result<Stopped> {
    target.query(&format!("alter subscription {} enable", quote::identifier(&pipeline.slot))).await?;
    refresh(pipeline, target).await?;
    let goal = match until {
        Until::Stopped => None,
        Until::CaughtUp => Some(report::wal_end(source).await?),
        Until::Reached(lsn) => Some(lsn),
    };
    let mut stop = std::pin::pin!(stop);
    loop {
        let position = slot::read(source, &pipeline.slot).await?.map(|slot| slot.confirmed);
        let Some(goal) = goal else { return Ok(Stopped { reason: StopReason::Reached, position }) };
        let tables = tables(target, pipeline).await?;
        progress.send_replace(progress_of(&tables, position, goal));
        let is_copied = tables.iter().all(|table| table.state == TableState::Ready);
        if is_copied && position >= Some(goal) {
            return Ok(Stopped { reason: StopReason::Reached, position });
        }
        tokio::select! {
            () = &mut stop => return Ok(Stopped { reason: StopReason::Signal, position }),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn progress_of(tables: &[TableStatus], position: Option<Lsn>, goal: Lsn) -> Progress {
    let is_done = |table: &&TableStatus| table.state == TableState::Ready;
    let done = tables.iter().filter(is_done).count();
    let copying = tables.iter().filter(|table| table.state == TableState::Copying);
    Progress {
        phase: if done < tables.len() { Phase::Copying } else { Phase::CatchingUp },
        doing: "the servers replicate".to_owned(),
        tables_done: done as u64,
        tables_total: tables.len() as u64,
        current: copying.map(|table| written(&table.name)).collect(),
        position,
        lag_bytes: position.map(|position| goal.since(position)),
        ..Progress::default()
    }
}

/// Disables the subscription, and waits until its worker is gone.
pub(super) async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    let ends = Ends::resolve(pipeline)?;
    let mut target = ends.target().await?;
    let Some(subscription) = Subscription::read(&mut target, pipeline).await?.filter(|it| it.enabled) else {
        return Ok(None);
    };
    let journal = Journal::begin(&mut target, pipeline, Action::Stop, None, Map::new()).await?;
    let done = disable(pipeline, &mut target).await;
    journal.conclude(&mut target, done).await?;
    Ok(Some(running_on(&subscription, &ends)))
}

async fn disable(pipeline: &Pipeline, target: &mut Session) -> Result<()> {
    target.query(&format!("alter subscription {} disable", quote::identifier(&pipeline.slot))).await?;
    // The worker notices with its next message, or its next wake-up.
    let deadline = Instant::now() + PATIENCE;
    while let Some(worker) = Subscription::required(target, pipeline).await?.worker {
        if Instant::now() > deadline {
            let what = format!("subscription \"{}\" is disabled, and its worker still runs", pipeline.slot);
            return Err(Error::new(Kind::Locked, what).hint(format!(
                "it ends with its present transaction, or by: select pg_terminate_backend({worker})"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn running_on(subscription: &Subscription, ends: &Ends) -> RunningOn {
    RunningOn {
        host: ends.target.hosts.first().map_or_else(String::new, crate::pg::conninfo::Host::display),
        process_id: subscription.worker.unwrap_or(0),
        since: subscription.since.clone().unwrap_or_default(),
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
    let mut subscription = None;
    if let Some(target) = &mut target {
        subscription = Subscription::read(target, pipeline).await?;
        match &subscription {
            Some(subscription) => {
                status.running_on = subscription.worker.is_some().then(|| running_on(subscription, &ends));
                status.tables = tables(target, pipeline).await?;
                status.notes.extend(errors(target, pipeline).await?);
            }
            None => status.notes.push("not set up yet: run pgdiode setup".to_owned()),
        }
    }
    if let Some(source) = &mut source {
        at_source(source, pipeline, &mut status).await?;
    }
    status.phase = match subscription {
        None if target.is_some() => Phase::New,
        None => Phase::Stopped,
        Some(subscription) => phase(&subscription, &status),
    };
    Ok(status)
}

fn phase(subscription: &Subscription, status: &PipelineStatus) -> Phase {
    let is_copied = status.tables.iter().all(|table| table.state == TableState::Ready);
    let is_near = status.lag_bytes.is_some_and(|bytes| bytes < STREAMING_LAG_BYTES_MAX);
    match (subscription.enabled, subscription.worker) {
        (false, _) => Phase::Stopped,
        (true, None) => Phase::Retrying,
        (true, Some(_)) if !is_copied => Phase::Copying,
        (true, Some(_)) if is_near => Phase::Streaming,
        (true, Some(_)) => Phase::CatchingUp,
    }
}

/// Position, lag and the slot. The sender measures the lag in seconds itself; it says nothing once all is confirmed.
async fn at_source(source: &mut Session, pipeline: &Pipeline, status: &mut PipelineStatus) -> Result<()> {
    let end = report::wal_end(source).await?;
    status.source_position = Some(end);
    let Some(state) = slot::read(source, &pipeline.slot).await? else { return Ok(()) };
    status.position = Some(state.confirmed);
    status.lag_bytes = Some(end.since(state.confirmed));
    let rows = source
        .query(&format!(
            "select extract(epoch from coalesce(r.replay_lag, r.flush_lag, r.write_lag))
               from pg_catalog.pg_replication_slots s
               join pg_catalog.pg_stat_replication r on r.pid = s.active_pid
              where s.slot_name = {}",
            quote::literal(&pipeline.slot)
        ))
        .await?;
    status.lag_seconds = match rows.first() {
        Some(row) => Some(row.optional(0)?.unwrap_or(0.0)),
        None => None,
    };
    status.slot = Some(report::slot_status(pipeline, state, None));
    Ok(())
}

/// Failures that the workers counted, where the server counts them.
async fn errors(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<String>> {
    if target.server_major() < 15 {
        return Ok(Vec::new());
    }
    let rows = target
        .query(&format!(
            "select apply_error_count, sync_error_count from pg_catalog.pg_stat_subscription_stats where subname = {}",
            quote::literal(&pipeline.slot)
        ))
        .await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let counts: (u64, u64) = (row.get(0)?, row.get(1)?);
    Ok(if counts == (0, 0) {
        Vec::new()
    } else {
        vec![format!(
            "the subscription failed {} times while applying and {} times while copying: see the target's log",
            counts.0, counts.1
        )]
    })
}

async fn tables(target: &mut Session, pipeline: &Pipeline) -> Result<Vec<TableStatus>> {
    let rows = target
        .query(&format!(
            "select n.nspname, c.relname, r.srsubstate
               from pg_catalog.pg_subscription s
               join pg_catalog.pg_subscription_rel r on r.srsubid = s.oid
               join pg_catalog.pg_class c on c.oid = r.srrelid
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where s.subname = {} order by 1, 2",
            quote::literal(&pipeline.slot)
        ))
        .await?;
    Ok(rows
        .iter()
        .map(|row| TableStatus {
            name: TableName::new(row.string(0), row.string(1)),
            // `i` initialise, `d` data is copied, `f` finished copy, `s` synchronised, `r` ready.
            state: match row.text(2) {
                Some("d" | "f") => TableState::Copying,
                Some("s" | "r") => TableState::Ready,
                _ => TableState::Pending,
            },
            reason: None,
            remedy: None,
            rows_copied: 0,
            bytes_copied: 0,
            bytes_total: None,
            inserts: 0,
            updates: 0,
            deletes: 0,
            conflicts: 0,
            skipped: 0,
        })
        .collect())
}

pub(super) async fn states(
    target: &mut Session,
    pipeline: &Pipeline,
) -> Result<HashMap<TableName, TableState>> {
    let tables = tables(target, pipeline).await?;
    Ok(tables.into_iter().map(|table| (table.name, table.state)).collect())
}

/// Creates what the joining tables lack at the target, and has them copied.
pub(super) async fn add(
    pipeline: &Pipeline,
    ends: &Ends,
    selection: &Selection,
    joining: &[TableName],
    source: &mut Session,
    target: &mut Session,
) -> Result<()> {
    if !missing_tables(target, joining).await?.is_empty() {
        copy_schema(pipeline, ends, &selection.only(joining), source, target).await?;
    }
    refresh(pipeline, target).await
}

/// Makes the subscription follow the publication's list of tables; one that is disabled does so when it is started.
pub(super) async fn refresh(pipeline: &Pipeline, target: &mut Session) -> Result<()> {
    if !Subscription::required(target, pipeline).await?.enabled {
        return Ok(());
    }
    let name = quote::identifier(&pipeline.slot);
    target
        .query(&format!("alter subscription {name} refresh publication with (copy_data = true)"))
        .await
        .map(drop)
}

/// Has tables copied again: a table that leaves the publication and joins again is copied anew.
pub(super) async fn resync(
    pipeline: &Pipeline,
    ends: &Ends,
    tables: &[TableName],
    target: &mut Session,
) -> Result<()> {
    if !Subscription::required(target, pipeline).await?.enabled {
        return Err(Error::refused("the subscription is disabled, and copies nothing").hint("pgdiode start"));
    }
    let mut source = ends.source_for_setup().await?;
    let publication = quote::identifier(&pipeline.publication);
    let list = tables_sql(tables);
    source.query(&format!("alter publication {publication} drop table {list}")).await.map_err(|error| {
        match error.sqlstate() {
            Some("42704") => error.hint("the publication names its partitioned parent: copy that one again"),
            _ => error,
        }
    })?;
    let emptied = async {
        refresh(pipeline, target).await?;
        target.query(&format!("truncate {list}")).await
    };
    let emptied = emptied.await;
    // Whatever happened meanwhile, the publication is to be what it was.
    source.query(&format!("alter publication {publication} add table {list}")).await?;
    emptied?;
    refresh(pipeline, target).await
}

pub(super) async fn reset_plan(pipeline: &Pipeline, reset: Reset) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let target = &mut ends.target().await?;
    let (steps, remains, _) = reset_steps(pipeline, reset, ends.source().await, target).await?;
    Ok(steps.iter().map(|step| step.text(&ends)).chain(remains).collect())
}

/// Drops the subscription. The slot is let go first, so that this works without the source; then the slot is dropped
/// there, since a slot serves one subscription only.
pub(super) async fn reset(pipeline: &Pipeline, reset: Reset, reason: Option<&str>) -> Result<Vec<String>> {
    let ends = Ends::resolve(pipeline)?;
    let target = &mut ends.target().await?;
    let source = ends.source_for_setup().await;
    let (steps, remains, mut source) = reset_steps(pipeline, reset, source, target).await?;
    let details = giving_up::details(reset);
    let journal = Journal::begin(target, pipeline, Action::Reset, reason, details).await?;
    let done = giving_up::run(&steps, source.as_mut(), target).await;
    journal.conclude(target, done).await?;
    Ok(steps.iter().map(|step| step.text(&ends)).chain(remains).collect())
}

/// What goes and what stays; the source's session, where there is one.
async fn reset_steps(
    pipeline: &Pipeline,
    reset: Reset,
    source: Result<Session>,
    target: &mut Session,
) -> Result<(Vec<Step>, Vec<String>, Option<Session>)> {
    let remains = giving_up::remains(target, pipeline, Reset { drop_slot: source.is_ok(), ..reset }).await?;
    let mut steps = Vec::new();
    if Subscription::read(target, pipeline).await?.is_some() {
        let name = quote::identifier(&pipeline.slot);
        for sql in [
            format!("alter subscription {name} disable"),
            format!("alter subscription {name} set (slot_name = none)"),
            format!("drop subscription {name}"),
        ] {
            steps.push(Step::target(sql));
        }
    }
    steps.extend(giving_up::at_target(target, pipeline, reset).await?);
    match source {
        Ok(mut source) => {
            let reset = Reset { drop_slot: true, ..reset };
            steps.extend(giving_up::at_source(&mut source, pipeline, reset).await?);
            Ok((steps, remains, Some(source)))
        }
        Err(error) if reset.drop_slot || reset.drop_publication => Err(error),
        Err(error) => {
            tracing::warn!(hint = error.hint_text(), "the slot stays at the source: {}", error.chain());
            Ok((steps, remains, None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::conninfo::Environment;

    #[test]
    fn the_connection_text_reads_back_and_hides_its_password() {
        let environment = Environment::new([("PGAPPNAME", "x")], None, None);
        let written =
            r"host=db1 port=5433 dbname='my db' user=o\'hara password='it\'s \\ secret' sslmode=require";
        let source = ConnInfo::parse(written, &environment).unwrap();
        let text = connection_text(&source, password(&source));
        let again = ConnInfo::parse(&text, &environment).unwrap();
        assert_eq!((again.dbname.as_str(), again.user.as_str()), ("my db", "o'hara"));
        assert_eq!(again.password.as_ref().map(crate::secret::Secret::reveal), Some(r"it's \ secret"));
        let shown = connection_text(&source, password(&source).map(|_| "***"));
        assert!(shown.ends_with("password=***") && !shown.contains("secret"), "{shown}");
    }
}
