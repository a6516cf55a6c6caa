//! `pgdiode demo`: two throw-away servers and a pipeline between them.

use std::sync::Arc;

use super::output;
use crate::demo::{self, Afterwards, Size};
use crate::error::Result;

/// See it work: two throw-away servers and a pipeline between them
///
/// Starts two PostgreSQL servers from this machine's binaries, fills one, mirrors it to the other under load, kills the
/// pipeline in the middle of a large transaction, starts it again, and compares both sides. Takes about a minute.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing. The servers live in a temporary directory and on loopback ports, and are gone at the end, also after \
Ctrl-C. Needs PostgreSQL's server programs; root runs them as the user postgres, or nobody.

Examples:
  pgdiode demo
  pgdiode demo --stay       then try it by hand

Ends with 0 only when both sides were found identical.

",
    exit_statuses!()
))]
pub struct Demo {
    /// Keep everything running until Ctrl-C, and say how to connect
    #[arg(long)]
    stay: bool,
    /// How much the source holds, in MB
    #[arg(long, value_name = "MB", hide = true, default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    size: u64,
}

impl Demo {
    pub(super) async fn run(self) -> Result<()> {
        let afterwards = if self.stay { Afterwards::Stay } else { Afterwards::End };
        // The demo goes on when nobody reads any more: it has to clean up behind itself.
        let tell = Arc::new(|line: &str| drop(output::text(line)));
        Box::pin(demo::run(Size(self.size), afterwards, tell)).await
    }
}
