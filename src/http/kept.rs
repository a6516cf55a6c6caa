//! What a pipeline's target keeps of it, its runs and its generations: looked up for pages, and for a moment not
//! again. A page that keeps itself up to date asks often, and hundreds of them must not become as many sessions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Mode, Pipeline};
use crate::daemon::on_its_own;
use crate::pipeline::asked;
use crate::snapshot;
use crate::status::fleet::Run;
use crate::status::snapshot::{GenerationStatus, RunStatus};

/// How long an answer counts; the fleet is not asked more often either.
const COUNTS_FOR: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The one that serves first.
    pub generations: Vec<GenerationStatus>,
    /// Of a snapshot pipeline, the newest first.
    pub runs: Vec<RunStatus>,
    /// What was asked for through a door, of whichever process, the newest first.
    pub asked: Vec<Run>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lookups(Arc<Mutex<BTreeMap<String, Looked>>>);

/// When, and what was found.
type Looked = (Instant, Arc<Kept>);

impl Lookups {
    /// As it was a moment ago; nothing, where it cannot be asked for.
    pub async fn of(&self, pipeline: &Arc<Pipeline>) -> Arc<Kept> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&pipeline.name).cloned();
        if let Some((at, kept)) = known
            && at.elapsed() < COUNTS_FOR
        {
            return kept;
        }
        let wanted = Arc::clone(pipeline);
        let kept = on_its_own("what is kept", async move || {
            let mut kept = Kept { asked: asked::latest(&wanted).await?, ..Kept::default() };
            if wanted.mode == Mode::Snapshot {
                kept.generations = snapshot::generations(&wanted).await?;
                kept.runs = snapshot::history(&wanted).await?;
            }
            Ok(kept)
        });
        let kept = Arc::new(kept.await.unwrap_or_default());
        let entry = (Instant::now(), Arc::clone(&kept));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.name.clone(), entry);
        kept
    }
}
