//! `pgdiode` as a child process, its output shown indented.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::Tell;
use super::server::Ground;
use crate::error::{Error, Result};

/// In the ground: what every child is configured by.
pub(super) const CONFIG_FILE: &str = "pgdiode.toml";
pub(super) const SERVICE_FILE: &str = "pg_service.conf";

/// A running `pgdiode`; dropping it kills it.
pub(super) struct Pgdiode {
    child: Child,
    verb: String,
    /// Each passes on one of its outputs.
    readers: JoinSet<()>,
}

impl Pgdiode {
    /// Runs this very program again: `arguments` begin with the verb.
    pub(super) fn spawn(ground: &Ground, arguments: &[&str], tell: &Tell) -> Result<Pgdiode> {
        let mut command = Command::new(this_program()?);
        command.args(arguments).arg("--config").arg(ground.directory.join(CONFIG_FILE));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own group: a Ctrl-C reaches the demo alone, which then ends everything in order.
        command.process_group(0).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            // The demo's servers are meant, whatever the user's own environment says.
            if name.starts_with("PG") {
                command.env_remove(name.as_ref());
            }
        }
        command.env("PGSERVICEFILE", ground.directory.join(SERVICE_FILE));
        let mut child = command
            .spawn()
            .map_err(|error| Error::unexpected("cannot run pgdiode as a child process").because(error))?;
        let mut readers = JoinSet::new();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            readers.spawn(pass_on(out, tell.clone()));
            readers.spawn(pass_on(err, tell.clone()));
        }
        Ok(Pgdiode { child, verb: arguments.first().copied().unwrap_or_default().to_owned(), readers })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Fails once it has ended, which it is not meant to.
    pub(super) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::unexpected(format!("pgdiode {} ended: {status}", self.verb))
                .hint("what it said stands above")),
            Err(error) => Err(Error::unexpected("cannot ask for a child process").because(error)),
        }
    }

    /// SIGKILL: it gets no chance to put anything in order.
    pub(super) async fn kill(mut self) -> Result<()> {
        let killed = self.child.kill().await;
        self.readers.join_all().await;
        killed.map_err(|error| Error::unexpected("cannot kill a child process").because(error))
    }

    /// Waits for its end, and for the last of its output.
    pub(super) async fn ended(mut self) -> Result<ExitStatus> {
        let ended = self.child.wait().await;
        self.readers.join_all().await;
        ended.map_err(|error| Error::unexpected("cannot wait for a child process").because(error))
    }
}

pub(super) fn this_program() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|error| Error::unexpected("cannot find this program's own file").because(error))
}

async fn pass_on(output: impl AsyncRead + Unpin, tell: Tell) {
    let mut lines = BufReader::new(output).lines();
    // An output that cannot be read any more has nothing more to say.
    while let Ok(Some(line)) = lines.next_line().await {
        tell(&format!("    | {line}"));
    }
}
