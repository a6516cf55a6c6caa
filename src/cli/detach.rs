//! `start --detach`: the same command again, in the background, in a process group of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::output;
use crate::config::{Mode, Pipeline, state_directory};
use crate::error::{Error, Kind, Result};
use crate::{pipeline, snapshot};

/// How often the child is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Looks before the child is left alone: it may be trying to reach a source that is down, which is its work.
const LOOKS_MAX: u32 = 150;

/// Of the log, shown when the child fails.
const TAIL_BYTES: u64 = 4096;

/// Returns once the pipeline runs, or with what the child said when it failed.
pub(super) async fn start(pipeline: &Pipeline, log: Option<&Path>) -> Result<()> {
    let path = log.map_or_else(|| log_path(&pipeline.name), Path::to_owned);
    let log = open_log(&path)?;
    let start = log.metadata().map_or(0, |metadata| metadata.len());
    let mut child = spawn(log)?;
    let process = child.id();
    for _ in 0..LOOKS_MAX {
        if let Some(status) =
            child.try_wait().map_err(|error| Error::unexpected("cannot watch the child").because(error))?
        {
            return ended(status.code(), &path, start);
        }
        if runs(pipeline, process).await {
            output::note(&format!(
                "pipeline \"{}\" runs in the background, process {process}, log {}",
                pipeline.name,
                path.display()
            ));
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    output::note(&format!(
        "process {process} is still trying to start pipeline \"{}\"; see {} and `pgdiode status`",
        pipeline.name,
        path.display()
    ));
    Ok(())
}

/// Whether the target knows of that process.
async fn runs(pipeline: &Pipeline, process: u32) -> bool {
    if pipeline.mode == Mode::Snapshot {
        let kept_by = snapshot::status(pipeline).await.map(|status| status.kept_by).unwrap_or_default();
        return kept_by.iter().any(|keeper| keeper.process_id == process);
    }
    let running = pipeline::status(pipeline).await.ok().and_then(|status| status.running_on);
    running.is_some_and(|running| running.process_id == process)
}

/// The same command line without `--detach` and `--log-file`.
fn spawn(log: File) -> Result<Child> {
    let failed = |error: std::io::Error| Error::unexpected("cannot start in the background").because(error);
    let program = std::env::current_exe().map_err(failed)?;
    let errors = log.try_clone().map_err(failed)?;
    let mut arguments = Vec::new();
    let mut typed = std::env::args_os().skip(1);
    while let Some(argument) = typed.next() {
        match argument.to_str() {
            Some("--detach") => {}
            Some("--log-file") => drop(typed.next()),
            Some(text) if text.starts_with("--log-file=") => {}
            _ => arguments.push(argument),
        }
    }
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(failed)
}

fn log_path(name: &str) -> PathBuf {
    state_directory(&|name| std::env::var(name).ok()).join(format!("{name}.log"))
}

fn open_log(path: &Path) -> Result<File> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let made = directory.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| OpenOptions::new().append(true).create(true).mode(0o600).open(path)).map_err(|error| {
        Error::config(format!("cannot write the log {}", path.display()))
            .hint("name another place with --log-file")
            .because(error)
    })
}

/// The child ended before it ran: either it had nothing left to do, or its log says why.
fn ended(status: Option<i32>, log: &Path, start: u64) -> Result<()> {
    if status == Some(0) {
        output::note(&format!("the pipeline has already ended; see {}", log.display()));
        return Ok(());
    }
    let kinds = [
        Kind::Config,
        Kind::Refused,
        Kind::Difference,
        Kind::Locked,
        Kind::SourceUnreachable,
        Kind::TargetUnreachable,
        Kind::Capacity,
        Kind::Audit,
    ];
    let kind = kinds
        .into_iter()
        .find(|kind| Some(i32::from(kind.exit_status())) == status)
        .unwrap_or(Kind::Unexpected);
    output::note(tail(log, start).trim_end());
    Err(Error::new(kind, "the pipeline did not start").hint(format!("its log is {}", log.display())))
}

fn tail(log: &Path, start: u64) -> String {
    let mut text = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
        file.read_to_end(&mut text)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}
