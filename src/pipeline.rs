//! Runs a pipeline: the only place that names both a source and a target.

pub mod copy;
pub mod drift;
pub mod ends;
pub mod meter;
pub mod monitor;
pub mod queue;
pub mod run;

use tokio::sync::watch;

use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::status::{
    CheckReport, PipelineStatus, Progress, Reset, RunningOn, Stopped, TableListing, Until, VerifyReport,
};

fn not_built<T>() -> Result<T> {
    Err(Error::unexpected("not built yet"))
}

/// Everything that can be found wrong before anything runs.
pub async fn check(_pipeline: &Pipeline) -> Result<CheckReport> {
    not_built()
}

/// The SQL that was run, or with `plan_only` would be, at each side.
pub async fn setup(_pipeline: &Pipeline, _plan_only: bool) -> Result<Vec<String>> {
    not_built()
}

/// Works until `until`, or until `stop` is ready; returns after the last commit is confirmed.
pub async fn start(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    run::run(pipeline, until, progress, stop).await
}

/// Asks the running process to stop and waits until it has; `None` when none was running.
pub async fn stop(_pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    not_built()
}

pub async fn status(_pipeline: &Pipeline) -> Result<PipelineStatus> {
    not_built()
}

/// Compares both sides at one position; no `tables` means all that are carried.
pub async fn verify(pipeline: &Pipeline, tables: &[TableName]) -> Result<VerifyReport> {
    let (progress, _) = watch::channel(Progress::default());
    let catch_up = async |at| {
        let unwatched = watch::channel(Progress::default()).0;
        Box::pin(start(pipeline, Until::Reached(at), unwatched, std::future::pending())).await.map(drop)
    };
    crate::verify::verify(pipeline, tables, &progress, catch_up).await
}

/// Has the tables copied again.
pub async fn resync(_pipeline: &Pipeline, _tables: &[TableName]) -> Result<()> {
    not_built()
}

/// The SQL that was run at the source.
pub async fn add_tables(_pipeline: &Pipeline, _tables: &[TableName]) -> Result<Vec<String>> {
    not_built()
}

/// The SQL that was run at the source.
pub async fn remove_tables(_pipeline: &Pipeline, _tables: &[TableName]) -> Result<Vec<String>> {
    not_built()
}

/// Every ordinary table of the source, carried or not.
pub async fn list_tables(_pipeline: &Pipeline) -> Result<Vec<TableListing>> {
    not_built()
}

/// The SQL that was run, or with `plan_only` would be, at each side.
pub async fn reset(_pipeline: &Pipeline, _reset: Reset, _plan_only: bool) -> Result<Vec<String>> {
    not_built()
}
