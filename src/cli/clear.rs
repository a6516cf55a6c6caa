//! `pgdiode clear`: every table that is filled from an archive is emptied.

use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline;

/// Empty every table that is filled from an archive
///
/// All of them at once. The next start fills them again: from the archive's newest base and the files after it, or without
/// a base from its first file on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: truncates the pipeline's tables at the target. Refused while the pipeline runs, and for a pipeline whose source \
is a database.

Examples:
  pgdiode clear
  pgdiode clear --yes --reason=ticket-4711

",
    exit_statuses!()
))]
pub struct Clear {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

impl Clear {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        if !self.yes {
            output::note(&pipeline::clear_plan(&pipeline).await?.join("\n"));
            output::confirm(&format!("Run this and empty all tables of pipeline \"{}\"?", pipeline.name))?;
        }
        let ran = pipeline::clear(&pipeline, self.why.reason.as_deref()).await?;
        output::statements(&ran, global.json)
    }
}
