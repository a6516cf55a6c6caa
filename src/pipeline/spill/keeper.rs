//! Decides where changes come from, and sees to it: cuts the live stream, runs the writer, opens the archive for the
//! pump, and goes back.
//!
//! It looks at the source by a session of its own, and at the target by what the pump has confirmed: a target that does
//! not answer is what this is for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::spill::place::earliest;
use crate::pipeline::spill::source::{Feed, Feeds, Leashed, Shared};
use crate::pipeline::spill::writer::{Ready, Writer};
use crate::pipeline::spill::{Spill, Spool};
use crate::pipeline::streaming::start_stream;
use crate::position::Lsn;
use crate::source::archive::{ArchiveSource, Marks, ReadOptions};
use crate::source::postgres::slot;
use crate::source::postgres::stream::StreamOptions;

/// How often it is looked whether something is to be done.
const TICK: Duration = Duration::from_millis(250);
/// How often the source is asked how far its log reaches.
const SOURCE_INTERVAL: Duration = Duration::from_secs(1);
/// A place that could not be spilled to is not tried again before this.
const PLACE_PAUSE: Duration = Duration::from_mins(1);
/// What an earlier run has left is removed after this: an attempt that has just failed may still write a file.
const TIDY_AFTER: Duration = Duration::from_secs(5);
/// How often applied files are removed.
const PRUNE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a slow target is given to take a remark.
const NOTE_MAX: Duration = Duration::from_secs(5);

/// Where changes come from.
enum Stage {
    Live(Leashed),
    /// The writer fills the archive, the pump drains it.
    Spilled(Writer),
    /// The writer has been told to end.
    Sealing(Writer),
    /// It has ended: the pump drains the rest, up to here.
    Draining(Lsn),
}

struct Keeper {
    spill: Spill,
    shared: Arc<Shared>,
    feeds: mpsc::Sender<Result<Feed>>,
    source: Option<Session>,
    spool: Option<Spool>,
    /// Of the archive that is drained.
    marks: Option<Arc<Marks>>,
    /// How far the source's log reaches, once it has said so.
    reaches: Option<Lsn>,
    asked: Option<Instant>,
    not_before: Instant,
    pruned: Instant,
    /// When what an earlier run has left is removed.
    tidied_at: Option<Instant>,
}

impl Spill {
    /// Begins with the live stream, which goes on from the target's position.
    pub async fn begin_live(self, from: Lsn) -> Result<Feeds> {
        let stream = start_stream(&self.ends.origin(), self.live.clone()).await?;
        let (feed, stream) = Feed::live(stream);
        self.meter.spills(None);
        Ok(Feeds::kept(feed, from, |shared, feeds| Keeper::new(self, shared, feeds).run(Stage::Live(stream))))
    }

    /// Begins with what has been spilled beyond the target's position.
    pub async fn begin_spilled(self, from: Lsn) -> Result<Feeds> {
        let spool = self.spool()?;
        let (store, opened) = self.resume(&spool).await?;
        let ready = Ready::claim(&self, store, &opened, &spool.making, from).await?;
        let archive = self.drain(&spool, from).await?;
        let writer = ready.begin(&self).await?;
        self.meter.spills(Some("spilled"));
        tracing::warn!(place = self.place.display(), "going on with what has been spilled");
        let marks = archive.marks();
        Ok(Feeds::kept(Feed::Spilled(archive), from, |shared, feeds| {
            let mut keeper = Keeper::new(self, shared, feeds);
            (keeper.marks, keeper.spool) = (Some(marks), Some(spool));
            keeper.run(Stage::Spilled(writer))
        }))
    }

    /// Reads the archive from a position on, files that are still to come too.
    async fn drain(&self, spool: &Spool, from: Lsn) -> Result<ArchiveSource> {
        let options = ReadOptions {
            lineage: earliest(&self.lineage),
            from,
            // It may hold no file yet.
            copied_at: Lsn(u64::MAX),
            // All that the stream has told, so that a transaction can be told on.
            wanted: Arc::new(|_| true),
            spool_directory: spool.read.clone(),
            poll: self.place.poll(),
            reader: None,
        };
        ArchiveSource::start(Arc::new(self.place.shelf().await?), options).await
    }
}

impl Keeper {
    fn new(spill: Spill, shared: Arc<Shared>, feeds: mpsc::Sender<Result<Feed>>) -> Keeper {
        let now = Instant::now();
        Keeper {
            spill,
            shared,
            feeds,
            source: None,
            spool: None,
            marks: None,
            reaches: None,
            asked: None,
            not_before: now,
            pruned: now,
            tidied_at: Some(now + TIDY_AFTER),
        }
    }

    /// Until dropped, or until it fails, which it tells the pump.
    async fn run(mut self, stage: Stage) {
        let Err(error) = self.keep(stage).await;
        // A pump that has ended need not know.
        let _ = self.feeds.send(Err(error)).await;
    }

    async fn keep(&mut self, mut stage: Stage) -> Result<Infallible> {
        loop {
            sleep(TICK).await;
            if self.asked.is_none_or(|at| at.elapsed() >= SOURCE_INTERVAL) {
                self.asked = Some(Instant::now());
                if let Err(error) = self.ask_source().await {
                    tracing::debug!(error = error.chain(), "the source was lost for a moment");
                    self.source = None;
                }
            }
            stage = self.step(stage).await?;
        }
    }

    async fn ask_source(&mut self) -> Result<()> {
        let source = match &mut self.source {
            Some(session) => session,
            none => none.insert(self.spill.ends.source().await?),
        };
        let reaches = slot::log_reaches(source).await?;
        self.reaches = Some(reaches);
        self.spill.meter.source_reaches(reaches);
        Ok(())
    }

    /// How much of the source's log the target is behind.
    fn behind(&self) -> Option<u64> {
        self.reaches.map(|reaches| reaches.since(self.shared.confirmed()))
    }

    fn behind_mb(&self) -> u64 {
        self.behind().unwrap_or_default() >> 20
    }

    fn is_too_slow(&self) -> bool {
        self.behind().is_some_and(|behind| behind > self.spill.after_bytes)
    }

    fn is_near(&self) -> bool {
        self.behind().is_some_and(|behind| behind < self.spill.after_bytes / 2)
    }

    async fn step(&mut self, stage: Stage) -> Result<Stage> {
        match stage {
            Stage::Live(live) => self.stay_live(live).await,
            Stage::Spilled(writer) => self.stay_spilled(writer).await,
            Stage::Sealing(mut writer) => {
                self.tell();
                if !writer.has_ended() {
                    return Ok(Stage::Sealing(writer));
                }
                writer.ended().await?;
                // A file that says how far the source is, if no other.
                Ok(Stage::Draining(writer.sealed().unwrap_or(self.shared.confirmed())))
            }
            Stage::Draining(to) => self.stay_draining(to).await,
        }
    }

    async fn stay_live(&mut self, stream: Leashed) -> Result<Stage> {
        if self.tidied_at.is_some_and(|at| at <= Instant::now()) {
            self.tidy().await;
        }
        if !self.is_too_slow() || Instant::now() < self.not_before {
            return Ok(Stage::Live(stream));
        }
        let (spool, ready, archive) = match self.prepare().await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.cannot_spill(&error);
                return Ok(Stage::Live(stream));
            }
        };
        stream.cut();
        // From its first file on the slot is beyond the target: there is no way back then but to drain.
        let writer = match ready.begin(&self.spill).await {
            Ok(writer) => writer,
            Err(error) => return self.give_up(&error).await,
        };
        (self.marks, self.spool) = (Some(archive.marks()), Some(spool));
        self.hand(Feed::Spilled(archive)).await;
        self.tell();
        self.note("the target is too slow: what the source writes goes into").await;
        Ok(Stage::Spilled(writer))
    }

    /// All that can fail at the place, while the live stream goes on.
    async fn prepare(&self) -> Result<(Spool, Ready, ArchiveSource)> {
        let spill = &self.spill;
        let spool = spill.spool()?;
        let (store, opened) = spill.place.begin(&spill.lineage, &spool.making).await?;
        let ready = Ready::claim(spill, store, &opened, &spool.making, self.shared.confirmed()).await?;
        let archive = spill.drain(&spool, self.shared.delivered()).await?;
        Ok((spool, ready, archive))
    }

    fn cannot_spill(&mut self, error: &Error) {
        self.not_before = Instant::now() + PLACE_PAUSE;
        tracing::warn!(
            error = error.chain(),
            hint = error.hint_text(),
            behind_mb = self.behind_mb(),
            "the target is too slow, and nothing can be spilled: the source keeps its log"
        );
    }

    /// Nothing is sealed, so that the slot has let go of nothing that the target lacks.
    async fn give_up(&mut self, error: &Error) -> Result<Stage> {
        self.cannot_spill(error);
        self.go_live().await
    }

    async fn stay_spilled(&mut self, mut writer: Writer) -> Result<Stage> {
        self.tell();
        self.prune().await;
        if writer.has_ended() {
            let Err(error) = writer.ended().await else {
                return Err(Error::unexpected("the spill's writer ended by itself"));
            };
            if writer.sealed().is_none() {
                return self.give_up(&error).await;
            }
            return Err(error);
        }
        if !self.is_near() {
            return Ok(Stage::Spilled(writer));
        }
        writer.stop();
        Ok(Stage::Sealing(writer))
    }

    async fn stay_draining(&mut self, to: Lsn) -> Result<Stage> {
        self.tell();
        if self.shared.confirmed() >= to {
            let live = self.go_live().await?;
            self.tidy().await;
            self.note("the target has caught up: no more is put into").await;
            return Ok(live);
        }
        if !self.is_too_slow() {
            return Ok(Stage::Draining(to));
        }
        // The pump goes on with the files that are there: so does its directory.
        let Some(spool) = &self.spool else {
            return Err(Error::unexpected("a spill is drained without a spool"));
        };
        let (store, opened) = self.spill.resume(spool).await?;
        let ready = Ready::claim(&self.spill, store, &opened, &spool.making, to).await?;
        Ok(Stage::Spilled(ready.begin(&self.spill).await?))
    }

    /// From where the target stands: the slot has let go of nothing beyond.
    async fn go_live(&mut self) -> Result<Stage> {
        let from = self.shared.confirmed();
        let mut source = self.spill.ends.source().await?;
        // The server would pass over what lies between without a word.
        if slot::read(&mut source, &self.spill.pipeline.slot).await?.is_none_or(|slot| slot.confirmed > from)
        {
            return Err(Error::unexpected(format!("the slot is not where the target stands, at {from}"))
                .hint("Start again: the pipeline then looks what is there."));
        }
        let options = StreamOptions { from, ..self.spill.live.clone() };
        let (feed, stream) = Feed::live(start_stream(&self.spill.ends.origin(), options).await?);
        self.marks = None;
        self.hand(feed).await;
        self.spill.meter.spills(None);
        Ok(Stage::Live(stream))
    }

    async fn hand(&self, feed: Feed) {
        // A pump that has ended takes no more.
        let _ = self.feeds.send(Ok(feed)).await;
    }

    /// Says how much is to be drained.
    fn tell(&self) {
        let Some(marks) = &self.marks else { return };
        let (last, to) = marks.last_sealed().unwrap_or_default();
        let files = (last + 1).saturating_sub(marks.needs().unwrap_or(1));
        let log = to.since(self.shared.confirmed());
        let doing = format!("spilled: {files} files, {} MB of log, to drain", log.div_ceil(1 << 20));
        self.spill.meter.spills(Some(&doing));
    }

    async fn prune(&mut self) {
        let Some(applied) = self.marks.as_ref().and_then(|marks| marks.applied()) else { return };
        if self.pruned.elapsed() < PRUNE_INTERVAL {
            return;
        }
        self.pruned = Instant::now();
        if let Err(error) = self.spill.place.prune(applied.number).await {
            tracing::debug!(error = error.chain(), "drained files could not be removed");
        }
    }

    /// Removes what is drained. What stays is removed by the next one who looks.
    async fn tidy(&mut self) {
        self.tidied_at = None;
        match self.spill.place.clear(&self.spill.lineage).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(
                error = error.chain(),
                hint = error.hint_text(),
                "nothing could be spilled there as it is"
            ),
        }
    }

    /// A remark for `status`, if the target takes it.
    async fn note(&self, what: &str) {
        let place = self.spill.place.display();
        tracing::warn!(place, behind_mb = self.behind_mb(), "{what} the spill archive");
        let sql = format!(
            "insert into pgdiode.note (pipeline, kind, detail) values ({}, 'spill', {})",
            quote::literal(&self.spill.pipeline.name),
            quote::literal(&format!("{what} {place}"))
        );
        let noted = async { self.spill.ends.target().await?.query(&sql).await.map(drop) };
        if !matches!(timeout(NOTE_MAX, noted).await, Ok(Ok(()))) {
            tracing::debug!("the target did not take the remark");
        }
    }
}
