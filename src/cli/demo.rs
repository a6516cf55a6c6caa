//! `pgdiode demo`: throw-away servers and pipelines between them, of each kind.

use std::sync::Arc;

use super::output;
use crate::demo::{self, Afterwards, Size};
use crate::error::Result;

/// See it work: two throw-away servers and a pipeline between them
///
/// Starts two PostgreSQL servers from this machine's binaries, fills one, mirrors it to the other under load, kills the
/// pipeline in the middle of a large transaction, starts it again, and compares both sides. Takes about a minute.
///
/// `demo snapshot` replaces a whole replica three times while readers read it without a pause, kills one of the runs
/// midway, and rolls back.
///
/// `demo archive` has production write change files to an SSH server and two laptops replay them; one laptop is closed
/// midway, a table is spoilt and brought again, and a bit that flips on the backup machine is found.
///
/// `demo redis` has a chat application keep its sessions in a Redis server, kills pgdiode and Redis while people talk, and
/// compares what is left in Redis with its rows.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing. The servers live in a temporary directory and on loopback ports, and are gone at the end, also after \
Ctrl-C. Needs PostgreSQL's server programs, `demo archive` an SSH server's too, and `demo redis` Redis's; root runs them as the user postgres, or nobody.

Examples:
  pgdiode demo
  pgdiode demo --stay       then try it by hand
  pgdiode demo snapshot
  pgdiode demo archive
  pgdiode demo redis

Ends with 0 only when both sides were found identical; `demo snapshot`, also only when every reader saw whole copies.

",
    exit_statuses!()
))]
pub struct Demo {
    /// Which mode is shown
    #[arg(value_name = "MODE", default_value = "stream")]
    mode: Shown,
    /// Keep everything running until Ctrl-C, and say how to connect
    #[arg(long)]
    stay: bool,
    /// How much the source holds, in MB
    #[arg(long, value_name = "MB", hide = true, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shown {
    /// Changes that are followed as they commit
    Stream,
    /// A replica that is replaced while it is read
    Snapshot,
    /// Change files on a backup machine, and who replays them
    Archive,
    /// Keys of a Redis server that become rows
    Redis,
}

impl Demo {
    pub(super) async fn run(self) -> Result<()> {
        let afterwards = if self.stay { Afterwards::Stay } else { Afterwards::End };
        // The demo goes on when nobody reads any more: it has to clean up behind itself.
        let tell = Arc::new(|line: &str| drop(output::text(line)));
        match self.mode {
            Shown::Stream => {
                Box::pin(demo::stream::run(Size(self.size.unwrap_or(120)), afterwards, tell)).await
            }
            Shown::Snapshot => {
                Box::pin(demo::snapshot::run(Size(self.size.unwrap_or(24)), afterwards, tell)).await
            }
            Shown::Archive => {
                Box::pin(demo::archive::run(Size(self.size.unwrap_or(24)), afterwards, tell)).await
            }
            Shown::Redis => Box::pin(demo::chat::run(afterwards, tell)).await,
        }
    }
}
