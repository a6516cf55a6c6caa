//! What a sync keeps on its own host: the lock file, so that a second one is told at once who runs, and the checkpoint
//! file for whoever watches. Neither is what makes a sync safe: the lock in the control database holds between hosts,
//! and nothing follows from the checkpoint.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::checkpoint;
use crate::config::{Pipeline, state_directory};
use crate::error::{Kind, Result};
use crate::lock::{self, Holder, Lock};
use crate::status::snapshot::Promoted;

/// Takes the lock file; `None` when nobody has named one and the usual place cannot be written.
pub(super) fn lock(pipeline: &Pipeline, verb: &str) -> Result<Option<Lock>> {
    let purpose = purpose(pipeline, verb);
    if let Some(path) = &pipeline.snapshot.lock_file {
        return lock::take(path, &purpose).map(Some);
    }
    let path = state_directory(&|name| std::env::var(name).ok()).join(format!("{}.lock", pipeline.name));
    match lock::take(&path, &purpose) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == Kind::Locked => Err(error),
        Err(error) => {
            tracing::debug!(error = error.chain(), "no lock file: the lock in the target does alone");
            Ok(None)
        }
    }
}

fn purpose(pipeline: &Pipeline, verb: &str) -> String {
    format!("{verb} of pipeline {}", pipeline.name)
}

/// Syncs under the lock file, and says in the checkpoint file how it ended.
pub(super) async fn recorded(
    pipeline: &Pipeline,
    sync: impl Future<Output = Result<Option<Promoted>>>,
) -> Result<Option<Promoted>> {
    let checkpoint_file = pipeline.snapshot.checkpoint_file.as_deref();
    // Now, since a sync that has succeeded does not fail for want of it; and before the lock, whose directory would be
    // nobody else's.
    checkpoint_file.map_or(Ok(()), checkpoint::prove_writable)?;
    let lock = lock(pipeline, "sync")?;
    let Some(path) = checkpoint_file else { return sync.await };
    let died = lock.as_ref().and_then(Lock::left_by).filter(|left| left.purpose == purpose(pipeline, "sync"));
    if let Some(left) = died {
        note_death(path, left)?;
    }
    let began = Instant::now();
    let synced = sync.await;
    let is_another_running = matches!(&synced, Err(error) if error.kind() == Kind::Locked);
    if !is_another_running && let Err(error) = note(path, &synced, began.elapsed()) {
        tracing::warn!(error = error.chain(), "the checkpoint file does not say how this sync ended");
    }
    synced
}

/// Who was killed has noted nothing. This is what the file says until this sync has ended.
fn note_death(path: &Path, left: &Holder) -> Result<()> {
    let mut checkpoint = checkpoint::read(path)?;
    let Holder { pid, host, since, .. } = left;
    checkpoint.died(format!("process {pid} on {host}, at it since {since}, ended without a word"));
    checkpoint::write(path, &checkpoint)
}

fn note(path: &Path, synced: &Result<Option<Promoted>>, took: Duration) -> Result<()> {
    let mut checkpoint = checkpoint::read(path)?;
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    match synced {
        Ok(Some(promoted)) => checkpoint.succeeded(jiff::Timestamp::now(), promoted.bytes, seconds),
        Ok(None) => checkpoint.failed("it was asked to stop", seconds),
        Err(error) => checkpoint.failed(error.chain(), seconds),
    }
    checkpoint::write(path, &checkpoint)
}
