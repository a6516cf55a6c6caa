//! `pgdiode resume`: let a paused pipeline run again.

use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline::record;

/// Let a paused pipeline run again
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the row in pgdiode.pause at the target goes, or the file beside an archive's lock. A daemon that has the pipeline starts it within seconds.

Examples:
  pgdiode resume
  pgdiode resume --pipeline orders --reason done

",
    exit_statuses!()
))]
pub struct Resume {
    #[command(flatten)]
    why: Why,
}

impl Resume {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let was_paused = record::resume(&pipeline, self.why.reason.as_deref()).await?;
        output::note(&if was_paused {
            format!("pipeline \"{}\" may run again", pipeline.name)
        } else {
            format!("pipeline \"{}\" was not paused", pipeline.name)
        });
        Ok(())
    }
}
