//! `pgdiode sync`: replaces a replica by a fresh copy.

use std::time::Duration;

use tokio::sync::watch;

use super::signals::Signals;
use super::status::Status;
use super::{Global, Outcome, output, progress};
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::snapshot::{self, SyncOptions};
use crate::status::Progress;

/// Replace a replica by a fresh copy of its source
///
/// For pipelines with mode = "snapshot". A new database is filled beside the one that serves, compared with the source,
/// and put in its place by renaming both in one transaction: readers reconnect to a whole new replica. A sync that fails,
/// is killed or stopped leaves the one that serves as it was. With snapshot.method = "schema" it is schemas that are filled
/// and renamed, inside a database that stays.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: replaces the target database; what was changed in it since is listed, and no longer seen but for what \
snapshot.preserve and preserve_rows name. The one that served is kept as \
a generation for `pgdiode rollback`, older ones are dropped. The history is in a control database of the target's \
server. Nothing is written at the source.

Examples:
  pgdiode sync
  pgdiode sync --reason case-4711
  pgdiode sync --status

Without a configuration file the variables MAIN_DB_HOST, MAIN_DB_NAME, MAIN_DB_USER, MAIN_DB_PORT, MAIN_DB_PASSWORD and \
the same with LI_DB_ say what to copy where.

Ends with 4 when the fresh copy was not promoted, and with 5 while another sync of the same target runs.

",
    exit_statuses!()
))]
pub struct Sync {
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Replace a database that is not empty and that no sync has made; it is kept
    #[arg(long)]
    adopt: bool,
    /// Replace it although tables have lost more rows than snapshot.rows_drop_percent_max
    #[arg(long)]
    accept_losses: bool,
    /// Show how the last sync ended, and sync nothing
    #[arg(long, conflicts_with_all = ["reason", "adopt", "accept_losses"])]
    status: bool,
    /// Seconds between two lines of progress, where no terminal shows it
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    progress_seconds: u64,
}

impl Sync {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome> {
        if self.status {
            return Status::once(global).await.map(|()| Outcome::Done);
        }
        let pipeline = snapshot_pipeline(global)?;
        let options = SyncOptions {
            reason: self.reason,
            adopt: self.adopt,
            accept_losses: self.accept_losses,
            ..SyncOptions::default()
        };
        let mut signals = Signals::listen()?;
        let (mut first, mut second) = (None, None);
        let (sender, receiver) = watch::channel(Progress::default());
        let (ask, asked) = tokio::sync::oneshot::channel::<()>();
        let stop = async {
            // A dropped sender is no reason to stop.
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut work = Box::pin(snapshot::sync(&pipeline, &options, &sender, stop));
        let mut display = Box::pin(progress::show(receiver, Duration::from_secs(self.progress_seconds)));
        let mut displayed = false;
        let mut ask = Some(ask);
        let worked = loop {
            tokio::select! {
                biased;
                worked = &mut work => break worked,
                signal = signals.next() => match ask.take() {
                    Some(ask) => {
                        first = Some(signal);
                        output::note("stopping; the replica that serves stays as it is");
                        // Who is not there to be asked has ended already.
                        let _ = ask.send(());
                    }
                    None => {
                        second = Some(signal);
                        break Ok(None);
                    }
                },
                () = &mut display, if !displayed => displayed = true,
            }
        };
        drop((work, display));
        match worked? {
            Some(promoted) if global.json => output::json(&promoted)?,
            Some(promoted) => output::note(&promoted.text()),
            None => {}
        }
        Ok(second.or(first).map_or(Outcome::Done, Outcome::Signalled))
    }
}

/// The pipeline, if it is one of snapshots.
pub(super) fn snapshot_pipeline(global: &Global) -> Result<crate::config::Pipeline> {
    let pipeline = global.pipeline()?;
    if pipeline.mode == Mode::Snapshot {
        return Ok(pipeline);
    }
    let what = format!("pipeline \"{}\" has mode = \"{}\"", pipeline.name, pipeline.mode.as_str());
    Err(Error::config(what).hint("This is for mode = \"snapshot\"; other pipelines run by pgdiode start."))
}
