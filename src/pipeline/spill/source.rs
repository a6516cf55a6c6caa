//! One source to the pump, wherever its changes come from just now: the slot, or the spill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::change::Event;
use crate::error::{Error, Kind, Result};
use crate::pipeline::spill::seam::Seam;
use crate::position::Lsn;
use crate::source::Source;
use crate::source::archive::ArchiveSource;
use crate::source::postgres::stream::{Leash, PostgresSource};

/// Feeds that wait for a pump which waits for its target.
const FEEDS_MAX: usize = 4;

/// Where changes come from.
pub(super) enum Feed {
    /// With whether it has been cut: that it ends is no failure then.
    Live(PostgresSource, Arc<AtomicBool>),
    Spilled(ArchiveSource),
}

/// The other end of a live feed.
pub(super) struct Leashed {
    leash: Option<Leash>,
    is_cut: Arc<AtomicBool>,
}

impl Leashed {
    /// Ends the stream, so that the slot is free.
    pub(super) fn cut(self) {
        self.is_cut.store(true, Ordering::Release);
        drop(self.leash);
    }
}

impl Feed {
    pub(super) fn live(mut source: PostgresSource) -> (Feed, Leashed) {
        let (leash, is_cut) = (source.leash(), Arc::new(AtomicBool::new(false)));
        (Feed::Live(source, Arc::clone(&is_cut)), Leashed { leash, is_cut })
    }

    /// Whether there is no more of it because it has been cut.
    fn is_cut(&self) -> bool {
        matches!(self, Feed::Live(_, is_cut) if is_cut.load(Ordering::Acquire))
    }

    async fn next(&mut self) -> Result<Event> {
        match self {
            Feed::Live(source, _) => source.next().await,
            Feed::Spilled(source) => source.next().await.map_err(damaged),
        }
    }

    fn try_next(&mut self) -> Option<Event> {
        match self {
            Feed::Live(source, _) => source.try_next(),
            Feed::Spilled(source) => source.try_next(),
        }
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        match self {
            Feed::Live(source, _) => source.confirm(position),
            Feed::Spilled(source) => source.confirm(position),
        }
    }
}

/// What a spill that cannot be read means: the source has let go of it.
fn damaged(error: Error) -> Error {
    let error = error.context("draining the spill");
    match error.kind() {
        Kind::Difference => error.hint(
            "Put back what was there, from a copy, and start again. If it is lost, so are changes: start over with pgdiode \
             reset, then pgdiode start.",
        ),
        _ => error,
    }
}

/// What the pump's side and the keeper tell each other.
pub(super) struct Shared {
    delivered: AtomicU64,
    confirmed: AtomicU64,
}

impl Shared {
    fn new(from: Lsn) -> Shared {
        Shared { delivered: AtomicU64::new(from.0), confirmed: AtomicU64::new(from.0) }
    }

    /// All up to here has been handed to the pump.
    pub(super) fn delivered(&self) -> Lsn {
        Lsn(self.delivered.load(Ordering::Acquire))
    }

    /// All up to here is durable at the target.
    pub(super) fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Acquire))
    }
}

/// The source of a pipeline between two databases.
pub struct Feeds {
    /// `None` while the next one is awaited.
    feed: Option<Feed>,
    seam: Seam,
    shared: Arc<Shared>,
    /// Where there is a spill.
    kept: Option<Kept>,
}

/// Who decides which feed it is. A pipeline owns its tasks: dropping this ends it.
struct Kept {
    feeds: mpsc::Receiver<Result<Feed>>,
    keeper: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Feeds {
    /// Of a pipeline that spills nowhere.
    pub fn live(source: PostgresSource, from: Lsn) -> Feeds {
        let feed = Some(Feed::Live(source, Arc::default()));
        Feeds { feed, seam: Seam::new(from), shared: Arc::new(Shared::new(from)), kept: None }
    }

    /// `keep` begins to decide, from `from` on, where the target stands.
    pub(super) fn kept<K>(
        feed: Feed,
        from: Lsn,
        keep: impl FnOnce(Arc<Shared>, mpsc::Sender<Result<Feed>>) -> K,
    ) -> Feeds
    where
        K: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::new(Shared::new(from));
        let (sender, feeds) = mpsc::channel(FEEDS_MAX);
        let keeper = tokio::spawn(keep(Arc::clone(&shared), sender));
        let kept = Some(Kept { feeds, keeper });
        Feeds { feed: Some(feed), seam: Seam::new(from), shared, kept }
    }

    /// Ends what is under way, and tells the source what is durable.
    pub async fn finish(mut self) {
        drop(self.kept.take());
        match self.feed.take() {
            Some(Feed::Live(source, _)) => source.finish().await,
            Some(Feed::Spilled(source)) => source.finish().await,
            None => {}
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        self.seam.take(event)?;
        self.shared.delivered.store(self.seam.delivered().0, Ordering::Release);
        Ok(())
    }

    fn join(&mut self, feed: Feed) {
        self.feed = Some(feed);
        self.seam.joins();
    }

    /// What the feed has next; `None` where it has been cut.
    async fn heard(feed: &mut Option<Feed>) -> Result<Option<Event>> {
        let Some(feed) = feed else { return std::future::pending().await };
        match feed.next().await {
            Ok(event) => Ok(Some(event)),
            Err(_) if feed.is_cut() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Source for Feeds {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.seam.pop() {
                return Ok(event);
            }
            let Some(kept) = &mut self.kept else {
                let heard = Self::heard(&mut self.feed).await?;
                return heard.ok_or_else(|| Error::unexpected("a stream that nobody cuts was cut"));
            };
            tokio::select! {
                biased;
                next = kept.feeds.recv() => match next {
                    Some(feed) => self.join(feed?),
                    None => return Err(Error::unexpected("the task that decides about the spill failed")),
                },
                heard = Self::heard(&mut self.feed) => match heard? {
                    Some(event) => self.take(event)?,
                    None => self.feed = None,
                },
            }
        }
    }

    fn try_next(&mut self) -> Option<Event> {
        if self.kept.is_none() {
            return self.feed.as_mut()?.try_next();
        }
        loop {
            if let Some(event) = self.seam.pop() {
                return Some(event);
            }
            // What may fail is `next`'s to tell.
            if self.seam.resumes() {
                return None;
            }
            let event = self.feed.as_mut()?.try_next()?;
            self.take(event).ok()?;
        }
    }

    fn confirm(&mut self, position: Lsn) -> Result<()> {
        self.shared.confirmed.fetch_max(position.0, Ordering::AcqRel);
        match &mut self.feed {
            Some(feed) => feed.confirm(position),
            None => Ok(()),
        }
    }
}
