//! How a pipeline into an archive does, and how it is stopped: by its lock file, the archive and the slot.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::lock::{self, Holder};
use crate::pipeline::archiving::{lock_path, open_store, place, stop_path};
use crate::pipeline::ends::Origin;
use crate::pipeline::report::slot_status;
use crate::pipeline::stop::PATIENCE;
use crate::position::Lsn;
use crate::source::postgres::slot::{self, SlotState};
use crate::status::{Phase, PipelineStatus, RunningOn, SequenceStatus};
use crate::target::archive::newest;

const POLL: Duration = Duration::from_millis(100);

/// Who runs it, as far as this host knows.
pub(in crate::pipeline) fn running(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    Ok(lock::holder(&lock_path(pipeline)?)?.map(told))
}

fn told(holder: Holder) -> RunningOn {
    RunningOn { host: holder.host, process_id: holder.pid, since: holder.since }
}

/// Either side may be down; then the rest is shown, and a note says what is missing.
pub(in crate::pipeline) async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    let mut notes = Vec::new();
    let running_on = running(pipeline)?;
    let head = match async { newest(&open_store(pipeline).await?).await }.await {
        Ok(head) => head,
        Err(error) => {
            notes.push(format!("the archive cannot be read: {}", error.chain()));
            None
        }
    };
    let origin = Origin::resolve(pipeline)?;
    let (slot, log_end) = match look(pipeline, &origin).await {
        Ok((slot, end)) => (slot, Some(end)),
        Err(error) => {
            notes.push(format!("the source cannot be asked: {}", error.chain()));
            (None, None)
        }
    };
    if let Some(head) = &head {
        notes.push(format!(
            "the last change file is {}, sealed {}, with {} rows",
            head.name, head.sealed, head.records
        ));
    }
    let position = head.as_ref().map(|head| head.to);
    let phase = match (&running_on, &head) {
        (Some(_), Some(_)) => Phase::Streaming,
        (Some(_), None) => Phase::Copying,
        (None, Some(_)) => Phase::Stopped,
        (None, None) => Phase::New,
    };
    Ok(PipelineStatus {
        name: pipeline.name.clone(),
        mode: pipeline.mode.as_str().to_owned(),
        phase,
        doing: None,
        running_on,
        source: origin.0.display(),
        target: place(pipeline)?.0.to_string(),
        position,
        source_position: log_end,
        lag_bytes: position.zip(log_end).map(|(position, end)| end.since(position)),
        lag_seconds: None,
        slot: slot.map(|slot| slot_status(pipeline, slot, None)),
        archive: None,
        keys: None,
        tables: Vec::new(),
        sequences: SequenceStatus::default(),
        last_error: None,
        hint: None,
        retries: 0,
        retry_at: None,
        notes,
    })
}

async fn look(pipeline: &Pipeline, origin: &Origin) -> Result<(Option<SlotState>, Lsn)> {
    let mut session = origin.session().await?;
    Ok((slot::read(&mut session, &pipeline.slot).await?, slot::log_reaches(&mut session).await?))
}

/// Asks the run on this host to end, and waits until it has; `None` when nobody runs it here.
pub(in crate::pipeline) async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    let path = lock_path(pipeline)?;
    let Some(holder) = lock::holder(&path)? else { return Ok(None) };
    if holder.host != lock::host_name() {
        let what = format!("pipeline \"{}\" runs on host {}", pipeline.name, holder.host);
        return Err(Error::new(Kind::Locked, what).hint("Stop it there: an archive passes no word on."));
    }
    let wish = stop_path(pipeline)?;
    std::fs::write(&wish, "").map_err(|error| {
        Error::config(format!("cannot write {}", wish.display()))
            .because(error)
            .hint("Stop it as the user who started it.")
    })?;
    let deadline = Instant::now() + PATIENCE;
    while let Some(still) = lock::holder(&path)? {
        if still.pid != holder.pid {
            break;
        }
        if Instant::now() > deadline {
            let what = format!("process {} was asked to stop and still runs it", holder.pid);
            return Err(Error::new(Kind::Locked, what).hint("Ending it (kill -9 too) loses nothing."));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Some(told(holder)))
}
