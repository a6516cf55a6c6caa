//! `pgdiode start`: runs a pipeline.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::signals::{Signal, Signals};
use super::{Global, Outcome, Why, detach, output, progress, service};
use crate::config::{Mode, ServerOptions};
use crate::error::{Error, Result};
use crate::position::Lsn;
use crate::status::{Progress, Stopped, Until};
use crate::{audit, pipeline};

/// Copy, then follow
///
/// The first start copies every table as of one snapshot, then applies each later transaction of the source in commit
/// order. A later start goes on where the target says it stands. A broken connection is tried again; an error that
/// trying again cannot help ends the pipeline.
///
/// With an archive as the source the first start fills the tables from its newest base, then applies its change files.
///
/// With several pipelines, or a section [server] in the configuration, it runs all of them until a signal ends it: each
/// on its own, so that one that fails or is away keeps no other from running, and tries again by itself. With [server] or
/// --listen it opens a door for browsers, programs and Prometheus. Two of them on two hosts are fine: the second one
/// stands by. --pipeline runs one pipeline and no door.
///
/// With mode = "snapshot" it syncs at each time of snapshot.schedule instead, as `pgdiode sync` would, until it is
/// stopped; a sync that fails is logged, and the next one comes at the next time.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: writes the tables, the sequences and the schema pgdiode of the target, and creates a replication slot at the \
source. The source keeps write-ahead log for the slot while the pipeline is stopped: see `pgdiode status`.

Examples:
  pgdiode start                          until interrupted or stopped
  pgdiode start --detach                 in the background
  pgdiode start --reason CHG-4711        so says the audit log
  pgdiode start --once-caught-up         then end, for a scheduled run
  pgdiode start --until-lsn 16/B374D848
  pgdiode start --listen 127.0.0.1:8000  all pipelines, and the console

The first SIGINT or SIGTERM ends it after the last commit is confirmed, a second one at once; neither loses anything. \
SIGHUP has the daemon read its configuration again: pipelines that it does not change go on undisturbed.

",
    exit_statuses!()
))]
pub struct Start {
    /// Run in the background; returns once the pipeline runs
    #[arg(long)]
    detach: bool,
    /// Log of a detached run [default: $XDG_STATE_HOME/pgdiode/NAME.log]
    #[arg(long, value_name = "FILE", requires = "detach")]
    log_file: Option<PathBuf>,
    /// End when the target holds all that the source had committed at the start
    #[arg(long, visible_alias = "once")]
    once_caught_up: bool,
    /// End when the target holds everything up to this position
    #[arg(long, value_name = "LSN", conflicts_with = "once_caught_up", value_parser = lsn)]
    until_lsn: Option<Lsn>,
    /// Open the door, console, API and metrics, at this address, whatever the configuration says
    #[arg(long, value_name = "ADDRESS:PORT", env = "PGDIODE_LISTEN", hide_env_values = true)]
    listen: Option<String>,
    /// Seconds between two lines of progress, where no terminal shows it
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    progress_seconds: u64,
    #[command(flatten)]
    why: Why,
}

fn lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|error: crate::error::Error| error.what().to_owned())
}

impl Start {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome> {
        let config = global.config()?;
        let server = match &self.listen {
            Some(address) => {
                Some(ServerOptions { listen: address.clone(), ..config.server.clone().unwrap_or_default() })
            }
            None => config.server.clone(),
        };
        let is_for_one = self.detach || self.once_caught_up || self.until_lsn.is_some();
        if !is_for_one && service::is_meant(global, &config, server.as_ref()) {
            return Box::pin(service::run(global, config, server, self.why.reason)).await;
        }
        if self.listen.is_some() {
            return Err(Error::config(
                "--listen opens the door of all pipelines, and one alone is to be run",
            )
            .hint("leave --pipeline, --detach, --once-caught-up and --until-lsn out"));
        }
        let pipeline = config.pipeline(global.pipeline.as_deref())?.clone();
        pipeline::refuse_start(&pipeline)?;
        let is_snapshot = pipeline.mode == Mode::Snapshot;
        if is_snapshot && (self.once_caught_up || self.until_lsn.is_some()) {
            let what = "with mode = \"snapshot\" there is nothing to catch up with: --once-caught-up and --until-lsn";
            return Err(Error::config(what).hint("for one sync, run pgdiode sync"));
        }
        if self.detach {
            detach::start(&pipeline, self.log_file.as_deref()).await?;
            return Ok(Outcome::Done);
        }
        let mut signals = Signals::listen()?;
        service::tells_systemd();
        let until = match (self.until_lsn, self.once_caught_up) {
            (Some(lsn), _) => Until::Reached(lsn),
            (None, true) => Until::CaughtUp,
            (None, false) => Until::Stopped,
        };
        let (sender, receiver) = watch::channel(Progress::default());
        let (ask, asked) = oneshot::channel::<()>();
        let stop = async {
            // A dropped sender is no reason to stop.
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let started = pipeline::start(&pipeline, until, sender, stop);
        let work = Box::pin(audit::because(self.why.reason, started));
        let display = progress::show(receiver, Duration::from_secs(self.progress_seconds));
        let stopping = if is_snapshot {
            "stopping; the replica that serves stays as it is; a second signal stops at once"
        } else {
            "stopping after the last commit; a second signal stops at once"
        };
        let (stopped, signal) = attend(work, ask, display, async || signals.next().await, stopping).await?;
        if let Some(stopped) = stopped {
            if global.json {
                output::json(&stopped)?;
            } else {
                output::note(&stopped.text(&pipeline.name));
            }
        }
        Ok(signal.map_or(Outcome::Done, Outcome::Signalled))
    }
}

/// Works until the pipeline ends. The first signal asks it to; the second does not wait, and then nothing is known of
/// how it stopped.
async fn attend(
    work: impl Future<Output = Result<Stopped>>,
    ask: oneshot::Sender<()>,
    display: impl Future<Output = ()>,
    mut next_signal: impl AsyncFnMut() -> Signal,
    stopping: &str,
) -> Result<(Option<Stopped>, Option<Signal>)> {
    let mut work = std::pin::pin!(work);
    let mut display = std::pin::pin!(display);
    let mut displayed = false;
    let mut ask = Some(ask);
    let mut first = None;
    loop {
        tokio::select! {
            // An ended pipeline is reported before anything else.
            biased;
            result = &mut work => return result.map(|stopped| (Some(stopped), first)),
            signal = next_signal() => {
                let Some(ask) = ask.take() else { return Ok((None, Some(signal))) };
                first = Some(signal);
                output::note(stopping);
                // Who is not there to be asked has ended already.
                let _ = ask.send(());
            }
            () = &mut display, if !displayed => displayed = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StopReason;

    const STOPPED: Stopped = Stopped { reason: StopReason::Signal, position: None };

    #[tokio::test]
    async fn the_first_signal_asks_and_waits() {
        let (ask, asked) = oneshot::channel();
        let work = async {
            asked.await.expect("the pipeline is asked, not abandoned");
            Ok(STOPPED)
        };
        let mut signals = vec![Signal::Terminate];
        let next = async || match signals.pop() {
            Some(signal) => signal,
            None => std::future::pending().await,
        };
        assert_eq!(
            attend(work, ask, std::future::ready(()), next, "").await.unwrap(),
            (Some(STOPPED), Some(Signal::Terminate))
        );
    }

    #[tokio::test]
    async fn the_second_signal_does_not_wait() {
        let (ask, _asked) = oneshot::channel();
        let mut signals = vec![Signal::Terminate, Signal::Interrupt];
        let next = async || signals.pop().expect("two signals are enough");
        let ended = attend(std::future::pending(), ask, std::future::ready(()), next, "").await.unwrap();
        assert_eq!(ended, (None, Some(Signal::Terminate)));
    }

    #[tokio::test]
    async fn a_failure_is_passed_on() {
        let (ask, _asked) = oneshot::channel();
        let work = async { Err(Error::refused("no")) };
        let error = attend(work, ask, std::future::ready(()), std::future::pending, "").await.unwrap_err();
        assert_eq!(error.what(), "no");
    }
}
