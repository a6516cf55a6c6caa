//! While the target is away altogether: its log is not kept for it, where that can be spilled.
//!
//! No lock is held then, since that is the target's, so another process may run the pipeline by now: it reads the slot, and
//! nobody else can. Therefore the slot comes first here, and the place is touched only once it is ours and the source has
//! let go of nothing beyond what we know of.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::spill::writer::{Ready, Writer};
use crate::pipeline::spill::{Spill, reaches};
use crate::pipeline::streaming::{start_stream, stream_options};
use crate::position::{Lsn, Position};
use crate::source::postgres::slot;
use crate::source::postgres::stream::Format;

/// How often it is looked whether something is to be done.
const TICK: Duration = Duration::from_secs(1);
/// What could not be spilled is not tried again before this.
const PAUSE: Duration = Duration::from_mins(1);
/// A writer has so long to seal what it has, when the target is back.
const SEAL_MAX: Duration = Duration::from_secs(20);

/// The source's side of a pipeline whose target is away.
struct Away<'a> {
    spill: &'a Spill,
    /// Where the target stood when it was last heard.
    stands_at: Position,
    source: Option<Session>,
    writer: Option<Writer>,
    not_before: Instant,
}

impl Spill {
    /// The pause before the next attempt; it lasts until the target is back, if the source's log is spilled meanwhile.
    pub async fn while_away(&self, offset: Lsn, pause: Duration, is_back: impl AsyncFn() -> bool) {
        if is_back().await {
            return sleep(pause).await;
        }
        let stands_at = Position { lineage: self.lineage.clone(), offset };
        let mut away =
            Away { spill: self, stands_at, source: None, writer: None, not_before: Instant::now() };
        let mut until = Instant::now() + pause;
        loop {
            sleep(TICK.min(until.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= away.not_before
                && let Err(error) = away.step().await
            {
                away.fail(&error);
            }
            if Instant::now() < until {
                continue;
            }
            let Some(writer) = &mut away.writer else { return };
            if is_back().await {
                writer.stop();
                // What is not sealed is written again.
                let _ = timeout(SEAL_MAX, writer.ended()).await;
                return;
            }
            until = Instant::now() + pause.max(TICK);
        }
    }
}

impl Away<'_> {
    fn fail(&mut self, error: &Error) {
        (self.source, self.writer) = (None, None);
        self.not_before = Instant::now() + PAUSE;
        tracing::warn!(
            error = error.chain(),
            hint = error.hint_text(),
            "the target is away, and nothing can be spilled: the source keeps its log"
        );
    }

    async fn step(&mut self) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            return if writer.has_ended() { writer.ended().await } else { Ok(()) };
        }
        let source = match &mut self.source {
            Some(session) => session,
            none => none.insert(self.spill.ends.source().await?),
        };
        let behind = slot::log_reaches(source).await?.since(self.stands_at.offset);
        if behind > self.spill.after_bytes {
            let place = self.spill.place.display();
            self.writer = Some(begin(self.spill, source, &self.stands_at).await?);
            tracing::warn!(
                place,
                behind_mb = behind >> 20,
                "the target is away: what the source writes is spilled"
            );
        }
        Ok(())
    }
}

/// As an attempt begins, without the target.
async fn begin(spill: &Spill, source: &mut Session, stands_at: &Position) -> Result<Writer> {
    let pipeline = &spill.pipeline;
    let from = reaches(pipeline, source, stands_at).await?;
    let mut replication = spill.ends.replication().await?;
    let lineage = slot::check_lineage(&mut replication, source, &stands_at.lineage, from).await?;
    let stream = start_stream(&spill.ends.origin(), stream_options(pipeline, from, Format::Text)).await?;
    let spill = &Spill { lineage, ..spill.clone() };
    // Ours now. Whoever had it a moment ago may have had it go on.
    if slot::read(source, &pipeline.slot).await?.is_none_or(|slot| slot.confirmed > from) {
        let what = format!("the slot \"{}\" has gone on: another process runs the pipeline", pipeline.slot);
        return Err(Error::unexpected(what).hint("See where with: pgdiode status."));
    }
    let spool = spill.spool()?;
    let (store, opened) = if from > stands_at.offset {
        spill.resume(&spool).await?
    } else {
        spill.place.begin(&spill.lineage, &spool.making).await?
    };
    let ready = Ready::claim(spill, store, &opened, &spool.making, from).await?;
    Ok(ready.begin_with(spill, stream))
}
