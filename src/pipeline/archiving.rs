//! A pipeline into an archive: from wherever its last sealed file ends, stream into new ones.
//!
//! ```text
//! attempt:  lock file -> archive: how far is it? -> slot: the same history? -> base, if there is none
//!           -> claim the archive -> stream ... -> broken -> backoff -> again
//! ```
//!
//! The archive itself is the only memory: a sealed file is the position. The slot is told of what is sealed and no more,
//! so that a crash anywhere writes again what was not sealed, byte for byte under the same number or not at all.

mod base;
pub(super) mod pause;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::archive::encode::TypeNames;
use crate::archive::line::Origin as LineageLine;
use crate::archive::manifest::Base;
use crate::archive::names::Stored;
use crate::config::{Compression, Pipeline, Plugin};
use crate::digest::sha256;
use crate::error::{Error, Kind, Result, Side};
use crate::lock::{self, Lock};
use crate::pg::session::Session;
use crate::pipeline::backoff::{Backoff, Failed};
use crate::pipeline::copy;
use crate::pipeline::ends::Origin;
use crate::pipeline::lifecycle;
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::Link;
use crate::pipeline::streaming::{explained, mebibytes, start_stream, stream_options};
use crate::plan::Plan;
use crate::position::{Lineage, Lsn, Position};
use crate::preflight::{self, Purpose};
use crate::pump::{BatchLimits, Command, Ended, Pump};
use crate::source::postgres::slot;
use crate::source::postgres::stream::{Format, StreamOptions};
use crate::source::postgres::{stream, wal2json};
use crate::status::{Phase, Progress, StopReason, Stopped, Until};
use crate::store::{AnyStore, Location, Store, StoreOptions};
use crate::target::archive::{
    ArchiveTarget, Claimed, Making, Opened, claim, head, identity, look, open, spool_failed,
};

pub(super) use report::{running, status, stop};

/// How often the source is asked how far its log reaches.
const SOURCE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the slot is looked at for how much log it holds.
const SLOT_INTERVAL: Duration = Duration::from_mins(1);
/// How soon a wish to stop is heard.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// A run that was asked to stop seals what it has within this time, or leaves it to the next one.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Runs the pipeline until it is asked to stop, has reached `until`, or fails.
pub(super) async fn run(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    let _lock = take_lock(pipeline)?;
    let meter = Arc::new(Meter::default());
    let asked = watch::Sender::new(None);
    let mut run = Run {
        pipeline,
        origin: Origin::resolve(pipeline)?,
        meter: Arc::clone(&meter),
        until,
        asked: asked.subscribe(),
        archive: None,
        streaming: None,
    };
    let wish = stop_path(pipeline)?;
    // One of before was heard by whoever ran it then.
    let _ = std::fs::remove_file(&wish);
    let listening = async {
        while !wish.exists() {
            tokio::time::sleep(LISTEN_INTERVAL).await;
        }
        lifecycle::ask_to_stop(&asked);
        std::future::pending().await
    };
    let work = async {
        tokio::select! {
            ended = run.until_ended() => ended,
            never = listening => never,
        }
    };
    lifecycle::watched(work, &meter, progress, &asked, stop).await
}

/// A file that asks the run to stop; nobody else than its user may make it.
fn stop_path(pipeline: &Pipeline) -> Result<PathBuf> {
    Ok(spool_dir(pipeline)?.join("stop"))
}

/// The lock file of a pipeline that fills an archive.
pub fn lock_path(pipeline: &Pipeline) -> Result<PathBuf> {
    Ok(spool_dir(pipeline)?.join("lock"))
}

/// A directory of the pipeline's own: another archive has another, whatever its pipeline is called.
fn spool_dir(pipeline: &Pipeline) -> Result<PathBuf> {
    let place = sha256(place(pipeline)?.0.to_string().as_bytes());
    Ok(pipeline.archive_spool_dir().join(format!("pgdiode-archive-{}-{}", pipeline.name, &place[..12])))
}

fn take_lock(pipeline: &Pipeline) -> Result<Lock> {
    lock::take(&lock_path(pipeline)?, &format!("start of pipeline {}", pipeline.name))
}

fn place(pipeline: &Pipeline) -> Result<(Location, StoreOptions)> {
    let place = pipeline.target.archive(Side::Target)?;
    place.ok_or_else(|| Error::unexpected("the target is an archive, and names none"))
}

pub async fn open_store(pipeline: &Pipeline) -> Result<AnyStore> {
    let (location, options) = place(pipeline)?;
    AnyStore::open(&location, &options).await
}

/// Whether the archive knows the pipeline's slot as its own.
pub(super) async fn knows_slot(pipeline: &Pipeline) -> Result<bool> {
    let keys = pipeline.archive.writer_keys()?;
    Ok(look(&open_store(pipeline).await?, &keys).await?.knows(&pipeline.slot))
}

/// Makes the slot the archive's own, which begins the archive if there is none. No writer may run meanwhile.
pub(super) async fn claim_slot(pipeline: &Pipeline) -> Result<()> {
    let _lock = take_lock(pipeline)?;
    let store = open_store(pipeline).await?;
    let keys = pipeline.archive.writer_keys()?;
    let opened = look(&store, &keys).await?;
    let (name, slot) = (&pipeline.name, &pipeline.slot);
    claim(&store, &opened, name, slot, &lock::host_name(), &keys).await.map(drop)
}

/// Puts one more base snapshot into the archive, whether its writer runs or not.
pub(super) async fn take_base(pipeline: &Pipeline, progress: watch::Sender<Progress>) -> Result<Base> {
    let meter = Arc::new(Meter::default());
    let asked = watch::Sender::new(None);
    let work = Box::pin(base_of(pipeline, &meter));
    lifecycle::watched(work, &meter, progress, &asked, std::future::pending()).await
}

async fn base_of(pipeline: &Pipeline, meter: &Arc<Meter>) -> Result<Base> {
    let store = Arc::new(open_store(pipeline).await?);
    let spool = tempfile::Builder::new().prefix("base-").tempdir_in(spool_dir(pipeline)?.as_path());
    let spool = spool.map_err(|error| spool_failed(&pipeline.archive_spool_dir(), error))?;
    let making = making(pipeline, spool.path().to_owned())?;
    let origin = Origin::resolve(pipeline)?;
    let (mut replication, mut source) = (origin.replication().await?, origin.session().await?);
    let (head, lineage) = loop {
        // Asked before the base's moment: what is sealed by now lies before it.
        let Some(last) = head(&store, &making.keys).await? else {
            return Err(Error::refused(format!("{} holds no change file yet", store.display()))
                .hint("The first start of the pipeline puts a base there: pgdiode start."));
        };
        let lineage = Lineage::from(last.lineage.clone());
        slot::check_name(&lineage, &pipeline.slot)?;
        match slot::check_lineage(&mut replication, &mut source, &lineage, last.to).await {
            Ok(lineage) => break (last, lineage),
            // A writer that runs has sealed more meanwhile, and told the slot.
            Err(_) if head(&store, &making.keys).await?.is_some_and(|newest| newest.number > last.number) => {
            }
            Err(error) => return Err(error),
        }
    };
    let claimed = Claimed { archive: head.archive.clone(), epoch: head.epoch };
    let order = base::Order { store: &store, claimed: &claimed, next_file: head.number + 1, making: &making };
    base::make_another(pipeline, &origin, meter, &order, &lineage).await
}

struct Run<'a> {
    pipeline: &'a Pipeline,
    origin: Origin,
    meter: Arc<Meter>,
    until: Until,
    /// Whether the run is to end.
    asked: watch::Receiver<Option<StopReason>>,
    /// Which archive this run has worked on.
    archive: Option<String>,
    /// Since when the current attempt streams.
    streaming: Option<Instant>,
}

impl Run<'_> {
    async fn until_ended(&mut self) -> Result<Stopped> {
        let mut backoff = Backoff::new(&self.pipeline.retry);
        loop {
            self.streaming = None;
            let (mut asked, meter) = (self.asked.clone(), Arc::clone(&self.meter));
            let attempted = tokio::select! {
                attempted = self.attempt() => attempted,
                () = given_up(&mut asked, &meter) => return Ok(self.stopped(StopReason::Signal)),
            };
            let error = match attempted {
                Ok(stopped) => return Ok(stopped),
                Err(error) => self.blamed(error).await,
            };
            let failed = Failed {
                streamed: self.streaming.map(|since| since.elapsed()),
                nothing_worked: self.meter.progress(0).phase == Phase::New,
                is_over: self.asked.borrow().is_some(),
            };
            let (error, wait) = backoff.wait(error, &failed)?;
            self.meter.phase(Phase::Retrying, error.what());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = asked.wait_for(Option::is_some) => return Ok(self.stopped(StopReason::Signal)),
            }
        }
    }

    fn stopped(&self, reason: StopReason) -> Stopped {
        Stopped { reason, position: self.meter.progress(0).position }
    }

    /// One attempt, from opening the archive to the end of the stream.
    async fn attempt(&mut self) -> Result<Stopped> {
        let store = Arc::new(open_store(self.pipeline).await?);
        let making = making(self.pipeline, spool_dir(self.pipeline)?)?;
        let opened = open(&store, &making.spool, &making.keys).await?;
        let goes_on = opened.head.is_some();
        preflight::refuse_unsafe_origin(self.pipeline, Purpose::Start, goes_on).await?;
        let mut source = self.origin.session().await?;
        refuse_unknown_slot(&mut source, &opened, &store.display(), &self.pipeline.slot).await?;
        let (name, slot) = (&self.pipeline.name, &self.pipeline.slot);
        let claimed = claim(&store, &opened, name, slot, &lock::host_name(), &making.keys).await?;
        self.archive = Some(claimed.archive.clone());
        let position = self.find_position(&mut source, &opened).await?;
        self.meter.positioned(position.offset);
        self.meter.source_reaches(slot::log_reaches(&mut source).await?);
        if self.pipeline.archive.base {
            let next_file = opened.head.as_ref().map_or(1, |head| head.number + 1);
            let order = base::Order { store: &store, claimed: &claimed, next_file, making: &making };
            base::make_first(self.pipeline, &self.origin, &self.meter, &order, &position.lineage).await?;
        }
        let types = Arc::new(type_names(&mut source).await?);
        let lineage = LineageLine::from(&position.lineage);
        let target =
            ArchiveTarget::new(store, opened.head.as_ref(), claimed, lineage, making, types, position.offset);
        self.stream(source, target, position.offset).await
    }

    /// What an error comes to if the archive has gone from where it was: it may come back.
    async fn blamed(&self, error: Error) -> Error {
        let Some(known) = &self.archive else { return error };
        if error.retries() || error.kind() == Kind::Locked {
            return error;
        }
        let there = async { identity(&open_store(self.pipeline).await?).await };
        match there.await {
            Ok(Some(identity)) if identity.archive == *known => error,
            _ => error.with_kind(Kind::TargetUnreachable).context("the archive is not where it was"),
        }
    }

    /// Where to go on; makes the slot when the archive has no history yet.
    async fn find_position(&self, source: &mut Session, opened: &Opened) -> Result<Position> {
        let mut replication = self.origin.replication().await?;
        if let Some(head) = &opened.head {
            let lineage = Lineage::from(head.lineage.clone());
            slot::check_name(&lineage, &self.pipeline.slot)?;
            let lineage = slot::check_lineage(&mut replication, source, &lineage, head.to).await?;
            return Ok(Position { lineage, offset: head.to });
        }
        let database = source.one("select pg_catalog.current_database()").await?.string(0);
        // Made by a run of ours that was killed before it had sealed anything: the slot has let go of nothing.
        if let Some(there) = slot::read(source, &self.pipeline.slot).await? {
            let system = replication.identify_system().await?;
            let lineage = Lineage {
                system_identifier: system.system_identifier,
                timeline: system.timeline,
                database,
                slot: self.pipeline.slot.clone(),
                consistent_point: there.confirmed,
            };
            return Ok(Position { offset: there.confirmed, lineage });
        }
        self.meter.phase(Phase::Copying, "creating the replication slot");
        let making =
            slot::create(&mut replication, self.pipeline.plugin.as_str(), &self.pipeline.slot, &database);
        let lineage = copy::telling_who_delays(&self.origin, &self.meter, making).await?;
        tracing::info!(slot = lineage.slot, position = %lineage.consistent_point, "created the replication slot");
        Ok(Position { offset: lineage.consistent_point, lineage })
    }

    async fn stream(&mut self, source: Session, mut target: ArchiveTarget, from: Lsn) -> Result<Stopped> {
        let pipeline = self.pipeline;
        let options = stream_options(pipeline, from, Format::Text);
        let options = StreamOptions { plugin: plugin(pipeline), ..options };
        let mut stream = start_stream(&self.origin, options).await?;
        let patterns = pipeline.tables.clone();
        let mut plan = Plan::of_all(Box::new(move |table| patterns.match_table(table)));
        let idle = Duration::from_secs(pipeline.archive.idle_seconds);
        let limits = BatchLimits { idle, ..limits(pipeline) };
        let (commands, mut link) = Link::without_monitor(Arc::clone(&self.meter));
        self.meter.streams(from);
        self.streaming = Some(Instant::now());
        let pump = Pump::new(&mut stream, &mut target, &mut link, &mut plan, limits, from);
        let mut watch = Watch {
            pipeline,
            source,
            meter: &self.meter,
            commands,
            asked: self.asked.clone(),
            until: self.until,
        };
        let ended = tokio::select! {
            ended = pump.run() => ended.map_err(|error| explained(pipeline, error))?,
            failed = watch.watch() => return Err(failed),
        };
        stream.finish().await;
        let reason = if ended == Ended::Reached { StopReason::Reached } else { StopReason::Signal };
        Ok(self.stopped(reason))
    }
}

/// A slot that no claim speaks of has fed another place: what it has let go of is there, and would be missing here.
pub async fn refuse_unknown_slot(
    source: &mut Session,
    opened: &Opened,
    place: &str,
    slot: &str,
) -> Result<()> {
    if opened.knows(slot) {
        return Ok(());
    }
    if slot::read(source, slot).await?.is_none() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the source has a replication slot \"{slot}\", and {place} holds no archive that knows of it"
    ))
    .hint(format!(
        "Is the archive's disk mounted? For a new archive choose another `slot`, or if nobody needs this one: \
         select pg_drop_replication_slot('{slot}'). If this archive is to go on from where the slot stands: pgdiode \
         setup --adopt-slot."
    )))
}

/// Looks at the source while the pump runs, and passes on that it is to end.
struct Watch<'a> {
    pipeline: &'a Pipeline,
    source: Session,
    meter: &'a Meter,
    commands: mpsc::Sender<Command>,
    asked: watch::Receiver<Option<StopReason>>,
    until: Until,
}

impl Watch<'_> {
    /// Until dropped, or until the source cannot be asked any more.
    async fn watch(&mut self) -> Error {
        match self.look().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn look(&mut self) -> Result<std::convert::Infallible> {
        let end = match self.until {
            Until::Stopped => None,
            Until::CaughtUp => Some(slot::log_reaches(&mut self.source).await?),
            Until::Reached(lsn) => Some(lsn),
        };
        if let Some(end) = end {
            self.send(Command::EndAt(end)).await;
        }
        let mut slot_looked_at: Option<Instant> = None;
        let mut is_told = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(SOURCE_INTERVAL) => {}
                asked = self.asked.wait_for(Option::is_some), if !is_told => {
                    // The run holds the sender for as long as it lives.
                    is_told = asked.is_ok();
                }
            }
            if is_told {
                self.send(Command::Stop).await;
            }
            self.meter.source_reaches(slot::log_reaches(&mut self.source).await?);
            if slot_looked_at.is_none_or(|at| at.elapsed() >= SLOT_INTERVAL) {
                slot_looked_at = Some(Instant::now());
                self.warn_of_log().await?;
            }
        }
    }

    async fn send(&self, command: Command) {
        // A pump that has ended needs no command.
        let _ = self.commands.send(command).await;
    }

    async fn warn_of_log(&mut self) -> Result<()> {
        let Some(slot) = slot::read(&mut self.source, &self.pipeline.slot).await? else { return Ok(()) };
        let held_mb = slot.wal_held_bytes >> 20;
        if held_mb > self.pipeline.limits.wal_budget_mb {
            tracing::warn!(
                held_mb,
                budget_mb = self.pipeline.limits.wal_budget_mb,
                "the source keeps more log for the archive than the budget allows: what is not sealed cannot be let go of"
            );
        }
        Ok(())
    }
}

/// Waits until the run was asked to end and had its time for it. Before it streams, ending is the same as crashing; then
/// the attempt itself listens, and seals what it has.
async fn given_up(asked: &mut watch::Receiver<Option<StopReason>>, meter: &Meter) {
    if asked.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
    if !matches!(meter.progress(0).phase, Phase::CatchingUp | Phase::Streaming) {
        return;
    }
    tokio::time::sleep(STOP_PATIENCE).await;
    tracing::warn!("what was not sealed in time is left to the next run");
}

/// When a change file is ended; where nobody is idle for longer than that.
pub(super) fn limits(pipeline: &Pipeline) -> BatchLimits {
    let seconds = pipeline.archive.file_seconds;
    let age = Duration::from_secs(seconds.max(1));
    BatchLimits {
        bytes: mebibytes(pipeline.archive.file_mb),
        age,
        linger: Duration::from_secs(seconds),
        idle: age,
    }
}

/// What the slot's output plugin is asked for.
fn plugin(pipeline: &Pipeline) -> stream::Plugin {
    match pipeline.plugin {
        Plugin::Pgoutput => stream::Plugin::Pgoutput { publication: pipeline.publication.clone() },
        Plugin::Wal2json => {
            let patterns = pipeline.tables.clone();
            stream::Plugin::Wal2json(wal2json::Options {
                wanted: Arc::new(move |table| patterns.match_table(table)),
                sent: pipeline.tables.plain(),
            })
        }
    }
}

/// How files are made; reads the keys anew, so that other ones need no other process.
pub(super) fn making(pipeline: &Pipeline, spool: PathBuf) -> Result<Making> {
    let keys = pipeline.archive.writer_keys()?;
    let compressed = match pipeline.archive.compression {
        Compression::None => Stored::Plain,
        Compression::Zstd => Stored::Zstd,
    };
    let stored = if keys.recipients.is_some() { compressed.encrypted() } else { compressed };
    let level = i32::try_from(pipeline.archive.compression_level).unwrap_or_default();
    Ok(Making { stored, level, keys, spool })
}

/// The names of all types, so that a file explains itself.
pub(super) async fn type_names(source: &mut Session) -> Result<TypeNames> {
    let rows = source
        .query("select oid, pg_catalog.format_type(oid, null) from pg_catalog.pg_type where typtype <> 'c' or typrelid in (select oid from pg_catalog.pg_class where relkind = 'c')")
        .await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.string(1)))).collect()
}
