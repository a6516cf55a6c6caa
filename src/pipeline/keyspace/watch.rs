//! The ear and mouth of a run from Redis: hears through the target that it is to stop, and says there how it does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::wish::Wishes;
use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::lifecycle::{self, Asked};
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::{connected, store_status};
use crate::pipeline::stop;
use crate::source::redis::live::Live;
use crate::target::postgres::keyspace;

/// How soon a wish is heard.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// A status is stored with every so many looks.
const LOOKS_A_STATUS: u32 = 4;

pub(super) struct Watch<'a> {
    end: &'a TargetEnd,
    pipeline: &'a Pipeline,
    meter: &'a Arc<Meter>,
    asked: &'a Asked,
    wishes: &'a Wishes,
    live: &'a Live,
    target: Option<Session>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        end: &'a TargetEnd,
        pipeline: &'a Pipeline,
        meter: &'a Arc<Meter>,
        asked: &'a Asked,
        wishes: &'a Wishes,
        live: &'a Live,
    ) -> Watch<'a> {
        Watch { end, pipeline, meter, asked, wishes, live, target: None }
    }

    /// Watches until dropped.
    pub(super) async fn run(&mut self) {
        let mut ticks = interval(LISTEN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0;
        loop {
            ticks.tick().await;
            looks += 1;
            if let Err(error) = self.listen(looks % LOOKS_A_STATUS == 0).await {
                tracing::debug!(error = error.chain(), "the target was lost for a moment");
                self.target = None;
            }
        }
    }

    /// Stores what was counted since the last time, when the run is about to end.
    pub(super) async fn store_last(&mut self) {
        // It may have been dropped in the middle of a query, whose answer would be taken for another's.
        self.target = None;
        if let Err(error) = self.listen(true).await {
            tracing::debug!(error = error.chain(), "the last counts could not be stored");
        }
    }

    async fn listen(&mut self, stores: bool) -> Result<()> {
        let target = connected(&mut self.target, self.end.session()).await?;
        if stop::is_requested(target, &self.pipeline.name).await? {
            lifecycle::ask_to_stop(self.asked);
        }
        let (resyncs, keys) = keyspace::wishes(target, &self.pipeline.name).await?;
        if self.wishes.hear(resyncs, keys) {
            self.live.tell();
        }
        if stores {
            store_status(target, &self.pipeline.name, self.meter).await?;
        }
        Ok(())
    }
}
