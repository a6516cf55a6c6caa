//! `pgdiode pause`: keep a pipeline from running, wherever, until it is resumed.

use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline::record;

/// Keep a pipeline from running, wherever, until it is resumed
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: a row in pgdiode.pause at the target; of a pipeline into an archive a file beside its lock, for this host. Whoever runs the pipeline stops after its last commit, and no daemon starts it \
again; `pgdiode start` and `pgdiode sync` refuse. The slot stays, and the source keeps write-ahead log for it.

Examples:
  pgdiode pause --reason maintenance
  pgdiode pause --pipeline orders

",
    exit_statuses!()
))]
pub struct Pause {
    #[command(flatten)]
    why: Why,
}

impl Pause {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        record::pause(&pipeline, self.why.reason.as_deref()).await?;
        output::note(&format!("pipeline \"{}\" is paused; pgdiode resume lets it run again", pipeline.name));
        Ok(())
    }
}
