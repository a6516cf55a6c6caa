//! A replay's ear and mouth: hears what is asked of the run and says how it does, both through the target. As
//! `monitor.rs`, for a source that is no server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::lifecycle;
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::{Link, connected, store_status};
use crate::pipeline::replay::ledger::Ledger;
use crate::pipeline::replay::{stored, whitelist};
use crate::pump::Command;
use crate::source::archive::{Marks, Shelf};
use crate::status::{Phase, StopReason};

/// How soon a wish is heard.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// How often it says how it does.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that wait for the pump; it takes each at once unless it is in the middle of a transaction.
const COMMANDS_MAX: usize = 16;

/// What is known once files are being applied.
pub struct Applied {
    pub marks: Arc<Marks>,
    /// How many tables are carried: with fewer there is another plan.
    pub tables: usize,
    /// `None` where pgdiode did not write the files: they have no manifests.
    pub shelf: Option<Arc<Shelf>>,
}

pub struct Watch {
    end: TargetEnd,
    pipeline: Pipeline,
    ledger: Ledger,
    meter: Arc<Meter>,
    pub commands: mpsc::Sender<Command>,
    stop: watch::Sender<Option<StopReason>>,
    stop_heard: watch::Receiver<Option<StopReason>>,
    /// Once files are being applied.
    pub applied: Arc<OnceLock<Applied>>,
    target: Option<Session>,
    told_to: Option<Command>,
    stored: Instant,
}

impl Watch {
    pub fn new(
        end: &TargetEnd,
        pipeline: &Pipeline,
        meter: &Arc<Meter>,
        stop: &watch::Sender<Option<StopReason>>,
    ) -> Result<(Watch, Link)> {
        let (commands, link) = link(meter);
        let watch = Watch {
            end: end.clone(),
            pipeline: pipeline.clone(),
            ledger: Ledger::of(pipeline)?,
            meter: Arc::clone(meter),
            commands,
            stop_heard: stop.subscribe(),
            stop: stop.clone(),
            applied: Arc::default(),
            target: None,
            told_to: None,
            stored: Instant::now(),
        };
        Ok((watch, link))
    }

    /// Watches until dropped.
    pub async fn run(&mut self) {
        let mut ticks = interval(LISTEN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = self.stop_heard.changed() => {}
                () = self.meter.enters_stream() => {}
            }
            if let Err(error) = self.listen().await {
                tracing::debug!(error = error.chain(), "the target was lost for a moment");
                self.target = None;
            }
            if self.stop.borrow().is_some() && self.told_to != Some(Command::Stop) {
                self.tell(Command::Stop).await;
            }
        }
    }

    /// Stores what was counted since the last time, when the run is about to end.
    pub async fn store_last(&mut self) {
        // It may have been dropped in the middle of a query, whose answer would be taken for another's.
        self.target = None;
        if let Err(error) = self.store().await {
            tracing::debug!(error = error.chain(), "the last counts could not be stored");
        }
    }

    async fn tell(&mut self, command: Command) {
        self.told_to = Some(command.clone());
        // A pump that has ended needs no command.
        let _ = self.commands.send(command).await;
    }

    async fn listen(&mut self) -> Result<()> {
        let name = quote::literal(&self.pipeline.name);
        let rows = self
            .target()
            .await?
            .query(&format!(
                "select p.stop_requested,
                        exists (select from pgdiode.relation r where r.pipeline = p.name and r.state = 'pending'),
                        (select pg_catalog.count(*) from pgdiode.relation r where r.pipeline = p.name)
                   from pgdiode.pipeline p where p.name = {name}"
            ))
            .await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (stop, pending, tables) = (row.bool(0), row.bool(1), row.get::<usize>(2)?);
        if stop {
            lifecycle::ask_to_stop(&self.stop);
        }
        // Not while tables are being filled: those are pending too, and known.
        let applies = matches!(self.meter.progress(0).phase, Phase::CatchingUp | Phase::Streaming);
        let is_removed = self.applied.get().is_some_and(|applied| tables < applied.tables);
        let looks = self.stored.elapsed() >= STATUS_INTERVAL;
        let mut changes = pending || is_removed;
        if looks && self.pipeline.is_whitelisted && !changes {
            let pipeline = self.pipeline.clone();
            changes = whitelist::has_changed(self.target().await?, &pipeline).await?;
        }
        if changes && applies && self.told_to.is_none() {
            self.tell(Command::Pause).await;
        }
        if looks {
            self.store().await?;
            self.stored = Instant::now();
        }
        Ok(())
    }

    async fn store(&mut self) -> Result<()> {
        let (meter, applied, pipeline) =
            (Arc::clone(&self.meter), Arc::clone(&self.applied), self.pipeline.name.clone());
        let marks = applied.get().map(|applied| &applied.marks);
        if let Some((_, to)) = marks.and_then(|marks| marks.last_sealed()) {
            meter.source_reaches(to);
        }
        let target = connected(&mut self.target, self.end.session()).await?;
        store_status(target, &pipeline, &meter).await?;
        let Some(Applied { marks, shelf, .. }) = applied.get() else { return Ok(()) };
        stored::store_marks(target, &pipeline, marks).await?;
        self.ledger.record(target, shelf.as_deref()).await
    }

    async fn target(&mut self) -> Result<&mut Session> {
        connected(&mut self.target, self.end.session()).await
    }
}

/// What steers a pump, and the pump's side of it.
pub fn link(meter: &Arc<Meter>) -> (mpsc::Sender<Command>, Link) {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    // Nobody asks a replay to hold: there is no server to compare the target with.
    let held = watch::channel(0).0;
    (commands, Link::new(receiver, held, Arc::clone(meter)))
}
