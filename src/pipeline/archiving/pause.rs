//! That a pipeline into an archive is paused: there is no target database that could hold it, and who reads an archive is not
//! to be told of its writer. So it is a file beside the writer's lock, for this host, as the wish to stop is.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::spool_dir;
use crate::audit;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::schedule::utc;
use crate::status::fleet::Pause;

fn path(pipeline: &Pipeline) -> Result<PathBuf> {
    Ok(spool_dir(pipeline)?.join("pause"))
}

/// Why the pipeline is not to run on this host, if so.
pub(in crate::pipeline) fn pause_of(pipeline: &Pipeline) -> Result<Option<Pause>> {
    let path = path(pipeline)?;
    match fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).unwrap_or_else(|_| unsigned(&path)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path, error)),
    }
}

/// A file that does not say by whom pauses as well: whoever made it by hand, or a disk that was full, meant that.
fn unsigned(path: &Path) -> Pause {
    let since = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since =
        since.and_then(|time| jiff::Timestamp::try_from(time).ok()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    Pause { actor: "a file that does not say by whom".into(), reason: None, since: utc(since) }
}

/// Keeps it from running until somebody resumes it. The first pause counts.
pub(in crate::pipeline) fn pause(pipeline: &Pipeline, reason: Option<&str>) -> Result<Pause> {
    let path = path(pipeline)?;
    let pause = Pause {
        actor: audit::actor(),
        reason: reason.map(str::to_owned),
        since: utc(jiff::Timestamp::now()),
    };
    let text = serde_json::to_string(&pause)
        .map_err(|error| Error::unexpected("a pause is no JSON").because(error))?;
    let directory = spool_dir(pipeline)?;
    fs::create_dir_all(&directory).map_err(|error| failed("make", &directory, error))?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|error| failed("write", &path, error))?;
            tracing::info!(pipeline = pipeline.name, reason, "paused by {}", pause.actor);
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("write", &path, error)),
    }
    Ok(pause_of(pipeline)?.unwrap_or(pause))
}

/// Lets it run again; false when it was not paused.
pub(in crate::pipeline) fn resume(pipeline: &Pipeline, reason: Option<&str>) -> Result<bool> {
    let path = path(pipeline)?;
    match fs::remove_file(&path) {
        Ok(()) => {
            tracing::info!(pipeline = pipeline.name, reason, "resumed by {}", audit::actor());
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", &path, error)),
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::config(format!("cannot {what} {}", path.display()))
        .because(error)
        .hint("do it as the user who runs the pipeline, on its host")
}
