//! `pgdiode archive base`: puts one more base snapshot into the archive.

use std::time::Duration;

use tokio::sync::watch;

use super::output;
use crate::cli::{Global, progress};
use crate::error::Result;
use crate::pipeline;
use crate::status::Progress;
use crate::status::text::count;

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Put a base snapshot of every table into the archive
///
/// The first start of a pipeline into an archive does so by itself. Later ones let older change files be pruned, give new
/// readers less to replay, and hold tables that have joined since. The writer may run meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: adds objects to the archive, and makes a replication slot at the source for as long as it runs.

Examples:
  pgdiode archive base
  pgdiode archive base && pgdiode archive prune --yes

Runs where the pipeline is configured whose target is the archive. One that is killed leaves a part that counts for \
nothing.

",
    exit_statuses!()
))]
pub struct TakeBase {}

impl TakeBase {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let (sender, receiver) = watch::channel(Progress::default());
        let display = progress::show(receiver, LINE_EVERY);
        let (base, ()) = tokio::join!(Box::pin(pipeline::archive_base(&pipeline, sender)), display);
        let base = base?;
        if global.json {
            return output::json(&base);
        }
        let rows: u64 = base.tables.iter().map(|table| table.rows).sum();
        output::text(&format!(
            "base {}: {} rows of {} tables as of {}; with it change files before {} are not needed",
            base.number,
            count(rows),
            base.tables.len(),
            base.at,
            base.next_file
        ))
    }
}
