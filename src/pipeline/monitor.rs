//! A run's ear and mouth: hears what others ask of the pipeline and says how it does, both through the target.
//!
//! It has sessions of its own, so that a busy pipeline still answers; it is not needed for correctness, so a lost
//! session here is opened again and ends nothing.
//!
//! | asked, in `pgdiode.pipeline` and `.relation` | command to the pump |
//! |---|---|
//! | `stop_requested` | stop |
//! | `hold_id`, `hold_at` | hold at exactly that position, answer with `held_id`; release when it is cleared |
//! | a relation that is `pending`, a new table in the publication | pause, so that it can be copied; not while there is a spill |

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::continuity;
use crate::pipeline::copy;
use crate::pipeline::ends::Ends;
use crate::pipeline::lifecycle;
use crate::pipeline::meter::Meter;
use crate::position::Lsn;
use crate::pump::{Command, Control};
use crate::source::postgres::stream::now_us;
use crate::source::postgres::{catalog, slot};
use crate::status::{Phase, Progress, StopReason, Until};
use crate::target::Flushed;

/// How soon a wish is heard.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// How often the source is asked how far its log reaches.
const SOURCE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the publication is looked at.
const TABLES_INTERVAL: Duration = Duration::from_secs(3);
/// Commands that wait for the pump; it takes each at once unless it is in the middle of a transaction.
const COMMANDS_MAX: usize = 16;

/// The pump's side of the monitor.
pub struct Link {
    commands: mpsc::Receiver<Command>,
    held: watch::Sender<u64>,
    meter: Arc<Meter>,
}

impl Link {
    /// For a pump that nobody but its own run speaks to: where its commands go in.
    pub fn without_monitor(meter: Arc<Meter>) -> (mpsc::Sender<Command>, Link) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        (sender, Link { commands, held: watch::Sender::new(0), meter })
    }

    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        held: watch::Sender<u64>,
        meter: Arc<Meter>,
    ) -> Link {
        Link { commands, held, meter }
    }
}

impl Control for Link {
    async fn next(&mut self) -> Command {
        match self.commands.recv().await {
            Some(command) => command,
            // The monitor is gone; the run that owns it is about to see why.
            None => std::future::pending().await,
        }
    }

    fn flushed(&mut self, flushed: &Flushed) {
        self.meter.flushed(flushed);
    }

    fn held(&mut self, number: u64) {
        self.held.send_replace(number);
    }
}

/// What the pump has been told of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Unasked,
    Pause,
    Stop,
}

pub struct Monitor {
    ends: Ends,
    pipeline: Pipeline,
    meter: Arc<Meter>,
    commands: mpsc::Sender<Command>,
    held: watch::Receiver<u64>,
    stop: watch::Sender<Option<StopReason>>,
    stop_heard: watch::Receiver<Option<StopReason>>,
    target: Option<Session>,
    source: Option<Session>,
    /// The hold that the pump was told of.
    hold: Option<(String, Lsn)>,
    /// Its number; counts up from 1.
    hold_number: u64,
    /// Whether it has been answered.
    hold_answered: bool,
    /// Whether the run ends once it holds what the source had committed at its start; until the end is known.
    ends_caught_up: bool,
    /// Our walsender's position when it was last seen waiting for the source to write.
    waited_at: Option<Lsn>,
    ending: Ending,
    stored: Instant,
    source_asked: Instant,
    tables_looked_at: Instant,
    slot_looked_at: Instant,
    sequences_carried: Instant,
    heart_beaten: Instant,
}

impl Monitor {
    pub fn new(
        ends: Ends,
        pipeline: Pipeline,
        meter: Arc<Meter>,
        stop: watch::Sender<Option<StopReason>>,
        until: Until,
    ) -> (Monitor, Link) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (held_sender, held) = watch::channel(0);
        let link = Link { commands: receiver, held: held_sender, meter: Arc::clone(&meter) };
        let now = Instant::now();
        let monitor = Monitor {
            ends,
            pipeline,
            meter,
            commands,
            held,
            stop_heard: stop.subscribe(),
            stop,
            target: None,
            source: None,
            hold: None,
            hold_number: 0,
            hold_answered: false,
            ends_caught_up: until == Until::CaughtUp,
            waited_at: None,
            ending: Ending::Unasked,
            stored: now,
            source_asked: now,
            tables_looked_at: now,
            slot_looked_at: now,
            sequences_carried: now,
            heart_beaten: now,
        };
        (monitor, link)
    }

    /// For commands that are known before the first look.
    pub fn commander(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Watches until dropped.
    pub async fn run(&mut self) {
        let mut ticks = interval(LISTEN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = self.stop_heard.changed() => {}
                Ok(()) = self.held.changed() => {}
                () = self.meter.enters_stream() => {}
            }
            if let Err(error) = self.listen().await {
                tracing::debug!(error = error.chain(), "the monitor lost the target for a moment");
                self.target = None;
            }
            if self.stop.borrow().is_some() && self.ending != Ending::Stop {
                self.ending = Ending::Stop;
                self.send(Command::Stop).await;
            }
            if let Err(error) = self.look_at_source().await {
                tracing::debug!(error = error.chain(), "the monitor lost the source for a moment");
                self.source = None;
            }
        }
    }

    /// Stores what was counted since the last time, when the run is about to end.
    pub async fn store_last_status(&mut self) {
        // It may have been dropped in the middle of a query, whose answer would be taken for another's.
        self.target = None;
        if let Err(error) = self.store_status().await {
            tracing::debug!(error = error.chain(), "the last counts could not be stored");
        }
    }

    async fn send(&self, command: Command) {
        // A pump that has ended needs no command.
        let _ = self.commands.send(command).await;
    }

    async fn listen(&mut self) -> Result<()> {
        let name = quote::literal(&self.pipeline.name);
        let target = connected(&mut self.target, self.ends.target()).await?;
        let rows = target
            .query(&format!(
                "select p.stop_requested,
                        case when p.hold_expires_at > pg_catalog.now() then p.hold_id end, p.hold_at,
                        exists (select from pgdiode.relation r where r.pipeline = p.name and r.state = 'pending')
                   from pgdiode.pipeline p where p.name = {name}"
            ))
            .await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (stop, hold, hold_at, pending) = (row.bool(0), row.text(1), row.optional(2)?, row.bool(3));
        let hold = hold.map(str::to_owned);
        if stop {
            lifecycle::ask_to_stop(&self.stop);
        }
        if pending && self.ending == Ending::Unasked && self.streams() && !self.meter.is_spilled() {
            self.ending = Ending::Pause;
            self.send(Command::Pause).await;
        }
        self.attend_to_hold(hold.map(|id| (id, hold_at.unwrap_or(Lsn::ZERO)))).await?;
        if self.stored.elapsed() >= Duration::from_secs(1) {
            self.store_status().await?;
            self.stored = Instant::now();
        }
        Ok(())
    }

    /// Not while tables are being copied: those are pending too, and known.
    fn streams(&self) -> bool {
        matches!(self.meter.progress(0).phase, Phase::CatchingUp | Phase::Streaming)
    }

    async fn attend_to_hold(&mut self, wanted: Option<(String, Lsn)>) -> Result<()> {
        if wanted != self.hold {
            self.hold_answered = false;
            self.hold_number += 1;
            let number = self.hold_number;
            self.send(wanted.as_ref().map_or(Command::Release, |(_, at)| Command::Hold { at: *at, number }))
                .await;
            self.hold = wanted;
            return Ok(());
        }
        let Some((id, _)) = &self.hold else { return Ok(()) };
        // The pump says which wish it fulfils: an answer to an earlier one is not one to this.
        if self.hold_answered || *self.held.borrow() != self.hold_number {
            return Ok(());
        }
        self.hold_answered = true;
        let (id, name) = (quote::literal(id), quote::literal(&self.pipeline.name));
        let target = connected(&mut self.target, self.ends.target()).await?;
        target
            .query(&format!("update pgdiode.pipeline set held_id = {id} where name = {name}"))
            .await
            .map(drop)
    }

    async fn store_status(&mut self) -> Result<()> {
        let target = connected(&mut self.target, self.ends.target()).await?;
        store_status(target, &self.pipeline.name, &self.meter).await
    }

    /// Finds the position that holds all that is committed at the source by now. That is where its log is flushed to,
    /// unless the flush ended in the middle of a record, at the end of a page: then it is where our walsender stands
    /// once it is seen to wait there for more, twice in a row, so that it cannot have been about to wake up.
    async fn find_end(&mut self) -> Result<()> {
        const PAGE_BYTES: u64 = 8192;
        if !self.ends_caught_up || !self.streams() {
            return Ok(());
        }
        let slot = quote::literal(&self.pipeline.slot);
        let source = connected(&mut self.source, self.ends.source()).await?;
        let flushed = slot::log_reaches(source).await?;
        let mut end = Some(flushed).filter(|flushed| flushed.0 % PAGE_BYTES != 0);
        if end.is_none() {
            let waiting = source
                .query(&format!(
                    "select r.sent_lsn from pg_catalog.pg_replication_slots s
                       join pg_catalog.pg_stat_replication r on r.pid = s.active_pid
                       join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
                      where s.slot_name = {slot} and a.wait_event ilike 'WalSenderWaitForWal'"
                ))
                .await?;
            let stands_at = waiting.first().map(|row| row.get(0)).transpose()?;
            end = stands_at.filter(|_| stands_at == self.waited_at);
            self.waited_at = stands_at;
        }
        let Some(end) = end else { return Ok(()) };
        self.ends_caught_up = false;
        let name = quote::literal(&self.pipeline.name);
        let target = connected(&mut self.target, self.ends.target()).await?;
        let copied =
            format!("select pg_catalog.max(copied_at) from pgdiode.relation where pipeline = {name}");
        let copied_at: Option<Lsn> = target.one(&copied).await?.optional(0)?;
        self.send(Command::EndAt(end.max(copied_at.unwrap_or(Lsn::ZERO)))).await;
        Ok(())
    }

    async fn look_at_source(&mut self) -> Result<()> {
        self.find_end().await?;
        if self.source_asked.elapsed() < SOURCE_INTERVAL {
            return Ok(());
        }
        self.source_asked = Instant::now();
        let streams = self.streams();
        let source = connected(&mut self.source, self.ends.source()).await?;
        let reaches = slot::log_reaches(source).await?;
        self.meter.source_reaches(reaches);
        if streams && self.tables_looked_at.elapsed() >= TABLES_INTERVAL {
            self.tables_looked_at = Instant::now();
            self.look_at_tables().await?;
        }
        if self.slot_looked_at.elapsed() >= Duration::from_secs(self.pipeline.stream.status_seconds) {
            self.slot_looked_at = Instant::now();
            self.store_slot().await?;
        }
        let carry_seconds = self.pipeline.stream.sequences_seconds;
        if carry_seconds > 0 && self.sequences_carried.elapsed() >= Duration::from_secs(carry_seconds) {
            self.sequences_carried = Instant::now();
            self.carry_sequences().await?;
        }
        let beat_seconds = self.pipeline.stream.heartbeat_seconds;
        if beat_seconds > 0 && self.heart_beaten.elapsed() >= Duration::from_secs(beat_seconds) {
            self.heart_beaten = Instant::now();
            self.beat_heart().await?;
        }
        Ok(())
    }

    /// Tables that joined the publication are to be copied; so are those that left it for a while.
    async fn look_at_tables(&mut self) -> Result<()> {
        let source = connected(&mut self.source, self.ends.source()).await?;
        if catalog::published(source, &self.pipeline.publication).await?.is_none() {
            return Ok(());
        }
        let carriage = continuity::read(source, &self.pipeline.publication).await?;
        let target = connected(&mut self.target, self.ends.target()).await?;
        continuity::keep(source, target, &self.pipeline, &carriage).await?;
        if !self.pipeline.stream.new_tables {
            return Ok(());
        }
        let wanted: Vec<TableName> =
            carriage.into_keys().filter(|table| self.pipeline.tables.match_table(table)).collect();
        await_copies(target, &self.pipeline.name, &wanted, Known::Kept).await
    }

    async fn store_slot(&mut self) -> Result<()> {
        let source = connected(&mut self.source, self.ends.source()).await?;
        let Some(state) = slot::read(source, &self.pipeline.slot).await? else { return Ok(()) };
        let budget = self.pipeline.limits.wal_budget_mb << 20;
        if state.wal_held_bytes > budget {
            tracing::warn!(
                slot = self.pipeline.slot,
                wal_held_mb = state.wal_held_bytes >> 20,
                budget_mb = self.pipeline.limits.wal_budget_mb,
                "the slot makes the source keep more write-ahead log than its budget"
            );
        }
        let target = connected(&mut self.target, self.ends.target()).await?;
        let sql = format!(
            "update pgdiode.pipeline set wal_held_bytes = {} where name = {}",
            state.wal_held_bytes,
            quote::literal(&self.pipeline.name)
        );
        target.query(&sql).await.map(drop)
    }

    async fn carry_sequences(&mut self) -> Result<()> {
        let source = connected(&mut self.source, self.ends.source()).await?;
        let target = connected(&mut self.target, self.ends.target()).await?;
        copy::carry_sequences(&self.ends, source, target).await?;
        let name = quote::literal(&self.pipeline.name);
        let sql = format!(
            "update pgdiode.pipeline set sequences_carried_at = pg_catalog.now() where name = {name}"
        );
        target.query(&sql).await.map(drop)
    }

    /// A transactional message: the one kind of write that frees the slot of a database where nothing else happens,
    /// and only because the operator asked for it.
    async fn beat_heart(&mut self) -> Result<()> {
        let mut session = self.ends.source_for_setup().await?;
        session
            .query("select pg_catalog.pg_logical_emit_message(true, 'pgdiode', 'heartbeat')")
            .await
            .map(drop)
    }
}

/// Stores what the run does and what it has counted since the last time.
pub(super) async fn store_status(target: &mut Session, pipeline: &str, meter: &Meter) -> Result<()> {
    let progress = meter.progress(now_us());
    let counts = meter.take_counts();
    let copied = meter.take_copied();
    let name = quote::literal(pipeline);
    // A stream that runs has overcome whatever was wrong before.
    let streams = matches!(progress.phase, Phase::CatchingUp | Phase::Streaming);
    let well = if streams { ", error = null, hint = null, retries = 0, retry_at = null" } else { "" };
    let mut sql = format!(
        "update pgdiode.pipeline set phase = {}, doing = {}{well}, updated_at = pg_catalog.now(), source_position = '{}' \
         where name = {name};",
        quote::literal(phase_word(progress.phase)),
        doing(&progress).map_or_else(|| "null".to_owned(), |doing| quote::literal(&doing)),
        meter.source_end()
    );
    for (table, counts) in &counts {
        let values = [
            counts.inserts,
            counts.updates,
            counts.deletes,
            counts.truncates,
            counts.conflicts,
            counts.missing,
            counts.skipped,
        ];
        let columns = ["inserts", "updates", "deletes", "truncates", "conflicts", "missing", "skipped"];
        let sums: Vec<String> =
            columns.iter().map(|column| format!("{column} = c.{column} + excluded.{column}")).collect();
        sql.push_str(&format!(
            "insert into pgdiode.relation_count as c (pipeline, schema_name, table_name, {}) values ({name}, {}, {}, {}) \
             on conflict (pipeline, schema_name, table_name) do update set {};",
            columns.join(", "),
            quote::literal(&table.schema),
            quote::literal(&table.name),
            values.map(|value| value.to_string()).join(", "),
            sums.join(", ")
        ));
    }
    for (table, bytes) in &copied {
        sql.push_str(&format!(
            "update pgdiode.relation set bytes_copied = bytes_copied + {bytes} \
             where pipeline = {name} and schema_name = {} and table_name = {};",
            quote::literal(&table.schema),
            quote::literal(&table.name)
        ));
    }
    let stored = target.query(&sql).await;
    if stored.is_err() {
        meter.put_counts_back(counts);
    }
    stored.map(drop)
}

/// What to do with tables that have a row already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Kept,
    /// They are copied again.
    CopiedAgain,
}

/// Marks tables as to be copied.
pub async fn await_copies(
    target: &mut Session,
    pipeline: &str,
    tables: &[TableName],
    known: Known,
) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = tables
        .iter()
        .map(|table| {
            let (schema, name) = (quote::literal(&table.schema), quote::literal(&table.name));
            format!("({}, {schema}, {name})", quote::literal(pipeline))
        })
        .collect();
    let conflict = match known {
        Known::Kept => "nothing",
        Known::CopiedAgain => {
            "update set state = 'pending', copied_at = null, reason = null, since = pg_catalog.now()"
        }
    };
    let sql = format!(
        "insert into pgdiode.relation (pipeline, schema_name, table_name) values {} \
         on conflict (pipeline, schema_name, table_name) do {conflict}",
        rows.join(", ")
    );
    target.query(&sql).await.map(drop)
}

/// What a run does now, for whoever asks: `copying rows and building indexes, 3 of 10 tables`.
fn doing(progress: &Progress) -> Option<String> {
    let (done, total) = (progress.tables_done, progress.tables_total);
    match progress.phase {
        _ if progress.doing.is_empty() => None,
        Phase::Copying if done < total => Some(format!("{}, {done} of {total} tables", progress.doing)),
        _ => Some(progress.doing.clone()),
    }
}

/// The word for a phase in `pgdiode.pipeline`.
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::New => "new",
        Phase::Copying => "copying",
        Phase::CatchingUp => "catching_up",
        Phase::Streaming => "streaming",
        Phase::Paused => "paused",
        Phase::Retrying => "retrying",
        Phase::Stopped => "stopped",
        Phase::Failed => "failed",
    }
}

/// The session, opened if there is none.
pub(super) async fn connected(
    session: &mut Option<Session>,
    connect: impl Future<Output = Result<Session>>,
) -> Result<&mut Session> {
    match session {
        Some(session) => Ok(session),
        none => Ok(none.insert(connect.await?)),
    }
}
