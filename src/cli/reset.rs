//! `pgdiode reset`: a pipeline forgets where it stands.

use super::{Global, Why, output};
use crate::error::Result;
use crate::{pipeline, status};

/// Forget a pipeline's progress
///
/// The next start copies everything anew. To give a pipeline up for good, drop the slot and the publication as well: a
/// slot that nobody reads makes the source keep its write-ahead log for ever.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: removes the pipeline's positions and counts from the schema pgdiode of the target, and at the source what the \
options name. The copied rows stay. Refused while the pipeline runs.

Examples:
  pgdiode reset
  pgdiode reset --drop-slot --drop-publication --yes

",
    exit_statuses!()
))]
pub struct Reset {
    /// Drop the replication slot at the source
    #[arg(long)]
    drop_slot: bool,
    /// Drop the publication at the source
    #[arg(long)]
    drop_publication: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    why: Why,
}

impl Reset {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let reset = status::Reset { drop_slot: self.drop_slot, drop_publication: self.drop_publication };
        if !self.yes {
            output::note(&pipeline::reset_plan(&pipeline, reset).await?.join("\n"));
            output::confirm(&format!(
                "Run this and forget how far pipeline \"{}\" has come?",
                pipeline.name
            ))?;
        }
        let ran = pipeline::reset(&pipeline, reset, self.why.reason.as_deref()).await?;
        output::statements(&ran, global.json)
    }
}
