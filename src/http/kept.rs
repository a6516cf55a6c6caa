//! What a snapshot pipeline's target keeps of it, its generations and its runs: looked up for pages, and for a moment
//! not again. A page that keeps itself up to date asks often, and hundreds of them must not become as many sessions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Mode, Pipeline};
use crate::daemon::on_its_own;
use crate::snapshot;
use crate::status::snapshot::{GenerationStatus, RunStatus};

/// How long an answer counts; the fleet is not asked more often either.
const COUNTS_FOR: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The one that serves first.
    pub generations: Vec<GenerationStatus>,
    /// The newest first.
    pub runs: Vec<RunStatus>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lookups(Arc<Mutex<BTreeMap<String, Looked>>>);

/// When, and what was found.
type Looked = (Instant, Arc<Kept>);

impl Lookups {
    /// Of a snapshot pipeline; nothing of any other, and where it cannot be asked for.
    pub async fn of(&self, pipeline: &Arc<Pipeline>) -> Arc<Kept> {
        if pipeline.mode != Mode::Snapshot {
            return Arc::default();
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&pipeline.name).cloned();
        if let Some((at, kept)) = known
            && at.elapsed() < COUNTS_FOR
        {
            return kept;
        }
        let asked = Arc::clone(pipeline);
        let kept = on_its_own("what is kept", async move || {
            let generations = snapshot::generations(&asked).await?;
            Ok(Kept { generations, runs: snapshot::history(&asked).await? })
        });
        let kept = Arc::new(kept.await.unwrap_or_default());
        let entry = (Instant::now(), Arc::clone(&kept));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.name.clone(), entry);
        kept
    }
}
