//! Runs a pipeline: the only place that names both a source and a target.

mod continuity;
pub mod copy;
pub mod drift;
pub mod ends;
mod labels;
mod membership;
pub mod meter;
pub mod monitor;
pub mod queue;
mod report;
mod reset;
pub mod run;
pub mod selection;
mod setup;
mod stop;
mod subscription;

use tokio::sync::watch;

use crate::change::TableName;
use crate::config::{Mode, Pipeline};
use crate::error::{Error, Result};
use crate::preflight;
use crate::snapshot;
use crate::status::{
    CheckReport, PipelineStatus, Progress, Reset, RunningOn, Stopped, TableListing, Until, VerifyReport,
};

/// Everything that can be found wrong before anything runs.
pub async fn check(pipeline: &Pipeline) -> Result<CheckReport> {
    match pipeline.mode {
        Mode::Snapshot => snapshot::check(pipeline).await,
        Mode::Stream | Mode::Subscription => preflight::check(pipeline).await,
    }
}

/// A snapshot pipeline has neither a stream nor tables of its own to be spoken of.
pub fn refuse_snapshot(pipeline: &Pipeline, verb: &str, instead: &str) -> Result<()> {
    if pipeline.mode != Mode::Snapshot {
        return Ok(());
    }
    let what =
        format!("pipeline \"{}\" has mode = \"snapshot\", for which there is no {verb}", pipeline.name);
    Err(Error::config(what).hint(instead))
}

/// The SQL that was run, or with `plan_only` would be, at each side.
pub async fn setup(pipeline: &Pipeline, plan_only: bool) -> Result<Vec<String>> {
    refuse_snapshot(pipeline, "setup", "It needs none: run pgdiode sync.")?;
    setup::setup(pipeline, plan_only).await
}

/// Why the pipeline cannot be started, if so.
pub fn refuse_start(pipeline: &Pipeline) -> Result<()> {
    if pipeline.mode == Mode::Snapshot { Err(no_start(pipeline)) } else { Ok(()) }
}

fn no_start(pipeline: &Pipeline) -> Error {
    let what = format!("pipeline \"{}\" has mode = \"snapshot\", for which there is no start", pipeline.name);
    Error::config(what).hint("Run pgdiode sync, from cron or a timer.")
}

/// Works until `until`, or until `stop` is ready; returns after the last commit is confirmed.
pub async fn start(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    match pipeline.mode {
        Mode::Stream => run::run(pipeline, until, progress, stop).await,
        Mode::Subscription => subscription::start(pipeline, until, progress, stop).await,
        Mode::Snapshot => Err(no_start(pipeline)),
    }
}

/// Asks the running process to stop and waits until it has; `None` when none was running.
pub async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    match pipeline.mode {
        Mode::Stream => stop::stop(pipeline).await,
        Mode::Subscription => subscription::stop(pipeline).await,
        Mode::Snapshot => {
            refuse_snapshot(
                pipeline,
                "stop",
                "Send the process of the sync SIGTERM: pgdiode status names it.",
            )?;
            Ok(None)
        }
    }
}

pub async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    match pipeline.mode {
        Mode::Stream => report::status(pipeline).await,
        Mode::Subscription => subscription::status(pipeline).await,
        Mode::Snapshot => Err(Error::unexpected("a sync has a status of its own")),
    }
}

/// Compares both sides at one position; no `tables` means all that are carried.
pub async fn verify(pipeline: &Pipeline, tables: &[TableName]) -> Result<VerifyReport> {
    refuse_snapshot(
        pipeline,
        "verify",
        "Every sync compares both sides before it swaps; with snapshot.verify = \"full\", row by row.",
    )?;
    let (progress, _) = watch::channel(Progress::default());
    let catch_up = async |at| {
        let unwatched = watch::channel(Progress::default()).0;
        Box::pin(start(pipeline, Until::Reached(at), unwatched, std::future::pending())).await.map(drop)
    };
    crate::verify::verify(pipeline, tables, &progress, catch_up).await
}

/// Has the tables copied again.
pub async fn resync(pipeline: &Pipeline, tables: &[TableName]) -> Result<()> {
    refuse_snapshot(pipeline, "resync", "Run pgdiode sync: it copies every table.")?;
    membership::resync(pipeline, tables).await
}

/// The SQL that was run at the source.
pub async fn add_tables(pipeline: &Pipeline, tables: &[TableName]) -> Result<Vec<String>> {
    refuse_snapshot(
        pipeline,
        "add-tables",
        "Change `tables` in the configuration; the next sync goes by it.",
    )?;
    membership::add(pipeline, tables).await
}

/// The SQL that was run at the source.
pub async fn remove_tables(pipeline: &Pipeline, tables: &[TableName]) -> Result<Vec<String>> {
    refuse_snapshot(
        pipeline,
        "remove-tables",
        "Change `tables` in the configuration; the next sync goes by it.",
    )?;
    membership::remove(pipeline, tables).await
}

/// Every ordinary table of the source, carried or not.
pub async fn list_tables(pipeline: &Pipeline) -> Result<Vec<TableListing>> {
    refuse_snapshot(pipeline, "list-tables", "What the last sync copied: pgdiode status --json.")?;
    membership::list(pipeline).await
}

/// The SQL that was run, or with `plan_only` would be, at each side.
pub async fn reset(pipeline: &Pipeline, reset: Reset, plan_only: bool) -> Result<Vec<String>> {
    refuse_snapshot(
        pipeline,
        "reset",
        "Generations are databases of the target's server: pgdiode generations.",
    )?;
    reset::reset(pipeline, reset, plan_only).await
}
