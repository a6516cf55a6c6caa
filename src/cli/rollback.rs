//! `pgdiode rollback`: an earlier copy serves again.

use super::sync::snapshot_pipeline;
use super::{Global, output};
use crate::error::Result;
use crate::snapshot;

/// Make an earlier copy serve again
///
/// For pipelines with mode = "snapshot". Renames two databases in one transaction, as a sync does: it takes a moment,
/// and readers reconnect. The copy that served is kept.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: which of the kept databases has the target's name. The next sync replaces it again.

Examples:
  pgdiode rollback
  pgdiode rollback --to 17 --reason case-4711

Ends with 3 when there is no such generation, and with 5 while a sync of the same target runs.

",
    exit_statuses!()
))]
pub struct Rollback {
    /// Number of the generation, as `pgdiode generations` shows it [default: the newest that is older]
    #[arg(long, value_name = "NUMBER")]
    to: Option<i64>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Rollback {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = snapshot_pipeline(global)?;
        let promoted = snapshot::rollback(&pipeline, self.to, self.reason.as_deref()).await?;
        if global.json {
            return output::json(&promoted);
        }
        output::note(&promoted.text());
        Ok(())
    }
}
