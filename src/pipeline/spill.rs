//! A live pipeline whose target is too slow: what the source writes goes into an archive of its own, the *spill*, so that
//! the source can let go of its log, and is drained from there.
//!
//! ```text
//! live      slot ------------------------------------------> pump -> target
//!             the target is after_mb behind: the stream is cut, wherever it is (keeper.rs)
//! spilled   slot -> writer.rs -> sealed files -> archive source -> pump -> target
//!             half of that: the writer seals what it has, up to S, and ends
//! draining                       sealed files -> archive source -> pump -> target
//!             the target stands at S
//! live      slot, from S ----------------------------------> pump -> target, and the place is emptied
//! ```
//!
//! Pump, plan and target hear nothing of it: positions are the source's either way, and `source.rs` is one source to
//! them. Nothing new is stored that anything follows from. The slot may be confirmed beyond the target's position while
//! sealed files hold what lies between; a start that finds it so goes on as spilled, and is refused where they do not
//! (`place.rs`). Invariants 3 and 4 read so: the source is told what is durable at the target *or sealed and read back*.
//!
//! A target that is away altogether is only more so: until it is back, the writer works alone (`away.rs`).
//!
//! Copies wait while there is a spill: what their tables missed is in the snapshot that they are read under later.

mod away;
mod keeper;
mod place;
mod seam;
mod source;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::session::Session;
use crate::pipeline::archiving;
use crate::pipeline::ends::Ends;
use crate::pipeline::meter::Meter;
use crate::pipeline::replay;
use crate::position::{Lineage, Lsn, Position};
use crate::source::postgres::slot::{self, SlotState};
use crate::source::postgres::stream::StreamOptions;
use crate::store::AnyStore;
use crate::target::archive::{Making, Opened, spool_failed};

pub use place::Place;
pub use source::Feeds;

/// What a run of a pipeline that may spill has for it.
#[derive(Clone)]
pub(super) struct Spill {
    pipeline: Pipeline,
    ends: Ends,
    place: Place,
    meter: Arc<Meter>,
    /// The history that the positions count in.
    lineage: Lineage,
    /// How the source streams to the target while all is well.
    live: StreamOptions,
    after_bytes: u64,
}

impl Spill {
    /// `None` where the configuration knows of no spill.
    pub fn of(
        pipeline: &Pipeline,
        ends: &Ends,
        meter: &Arc<Meter>,
        lineage: &Lineage,
        live: &StreamOptions,
    ) -> Result<Option<Spill>> {
        let Some(place) = Place::of(pipeline)? else { return Ok(None) };
        Ok(Some(Spill {
            pipeline: pipeline.clone(),
            ends: ends.clone(),
            place,
            meter: Arc::clone(meter),
            lineage: lineage.clone(),
            live: live.clone(),
            after_bytes: pipeline.spill.after_mb << 20,
        }))
    }

    /// Opens the spill that is there, for its writer. What one that was killed has left unsealed counts from now on: the
    /// source must have that history too.
    async fn resume(&self, spool: &Spool) -> Result<(Arc<AnyStore>, Opened)> {
        let (store, opened) = self.place.resume(&spool.making).await?;
        if let Some(head) = &opened.head {
            let (mut replication, mut source) = (self.ends.replication().await?, self.ends.source().await?);
            let lineage = Lineage::from(head.lineage.clone());
            slot::check_lineage(&mut replication, &mut source, &lineage, head.to).await?;
        }
        Ok((store, opened))
    }

    /// Makes two empty directories.
    fn spool(&self) -> Result<Spool> {
        let root = replay::spool(&self.pipeline, &self.ends.target.display())?;
        let (written, read) = (root.join("written"), root.join("read"));
        for directory in [&written, &read] {
            std::fs::create_dir(directory).map_err(|error| spool_failed(&root, error))?;
        }
        Ok(Spool { making: archiving::making(&self.pipeline, written)?, read })
    }
}

/// Where files are on their way into the archive, and out of it.
#[derive(Clone)]
struct Spool {
    making: Making,
    read: PathBuf,
}

/// Up to where what the target lacks can be had: its own position, as long as the slot has let go of nothing beyond.
/// What it has let go of must be in the spill; [`crate::error::Kind::Refused`] where it is not.
pub async fn reaches(pipeline: &Pipeline, source: &mut Session, stored: &Position) -> Result<Lsn> {
    let Some(place) = Place::of(pipeline)? else { return Ok(stored.offset) };
    match slot::read(source, &stored.lineage.slot).await? {
        Some(slot) if slot.confirmed > stored.offset => place.covers(stored, slot.confirmed).await,
        _ => Ok(stored.offset),
    }
}

/// For `status`: that the source has let go of what the target lacks, and where it is.
pub(super) fn told(pipeline: &Pipeline, slot: &SlotState, position: Option<Lsn>) -> Option<String> {
    let place = Place::of(pipeline).ok()??;
    position.filter(|position| slot.confirmed > *position)?;
    let place = place.display();
    Some(format!(
        "spilled: what the target lacks up to {} is in {place}; copies wait for its end",
        slot.confirmed
    ))
}
