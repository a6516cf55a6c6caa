//! What an attempt works with, as the configuration says: where the archive is, a directory for its files, how often there is
//! a look, how changes are applied.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{OnConflict, Pipeline, SchemaDrift};
use crate::error::{Error, Result, Side};
use crate::pipeline::monitor::Link;
use crate::pipeline::replay::watch::Applied;
use crate::pipeline::streaming::mebibytes;
use crate::pump::{BatchLimits, Command};
use crate::source::archive::Shelf;
use crate::store::Location;
use crate::target::postgres::apply;

/// `archive.poll_seconds = 0`: looking into a directory costs nothing, a listing over the network does.
const POLL_DIRECTORY: Duration = Duration::from_secs(1);
const POLL_S3: Duration = Duration::from_secs(10);
const POLL_SFTP: Duration = Duration::from_mins(10);

/// What an attempt works with.
#[derive(Clone)]
pub struct Desk {
    pub shelf: Arc<Shelf>,
    pub spool: std::path::PathBuf,
    pub poll: Duration,
}

/// What steers the pump of an attempt, and what it is watched by.
pub(super) struct Steering {
    pub commands: mpsc::Sender<Command>,
    pub link: Link,
    pub applied: Arc<OnceLock<Applied>>,
}

/// How changes are applied, as the configuration says.
#[derive(Clone, Copy)]
pub struct Applying {
    pub on_conflict: apply::OnConflict,
    pub limits: BatchLimits,
    pub follows: bool,
}

impl Applying {
    pub fn of(pipeline: &Pipeline) -> Applying {
        let stream = &pipeline.stream;
        Applying {
            on_conflict: match stream.on_conflict {
                OnConflict::Apply => apply::OnConflict::Apply,
                OnConflict::Quarantine => apply::OnConflict::Quarantine,
            },
            limits: BatchLimits::without_delay(
                mebibytes(stream.batch_mb),
                Duration::from_millis(stream.batch_ms_max),
            ),
            follows: stream.schema_drift == SchemaDrift::Follow,
        }
    }
}

/// How often there is a look for new files.
pub(super) fn poll(pipeline: &Pipeline, location: &Location) -> Duration {
    match (pipeline.archive.poll_seconds, location) {
        (0, Location::Directory(_)) => POLL_DIRECTORY,
        (0, Location::S3 { .. }) => POLL_S3,
        (0, Location::Sftp { .. }) => POLL_SFTP,
        (seconds, _) => Duration::from_secs(seconds),
    }
}

/// Where the archive of a pipeline is.
pub fn location(pipeline: &Pipeline) -> Result<(Location, crate::store::StoreOptions)> {
    pipeline.source.archive(Side::Source)?.ok_or_else(|| Error::unexpected("the source is no archive"))
}

/// An empty directory of this pipeline's own: whoever runs it holds its lock in the target.
pub fn spool(pipeline: &Pipeline, target: &str) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let parent = pipeline.archive_spool_dir();
    let of_target = &crate::digest::sha256(target.as_bytes())[..8];
    let path = parent.join(format!("pgdiode-{}-{of_target}", pipeline.name));
    let make = || {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&parent)?;
        std::fs::DirBuilder::new().mode(0o700).create(&path)
    };
    make().map_err(|error| {
        Error::refused(format!("the spool directory {} cannot be made", path.display()))
            .because(error)
            .hint("Name a directory that pgdiode may write to: archive.spool_dir.")
    })?;
    Ok(path)
}
