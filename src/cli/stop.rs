//! `pgdiode stop`: ends a running pipeline, from anywhere.

use serde_json::json;

use super::{Global, Why, output};
use crate::error::Result;
use crate::{audit, pipeline};

/// Stop a running pipeline, wherever it runs
///
/// The process that works on the pipeline is asked through the target to end after its last commit; this waits until
/// it has. With mode = "snapshot" that is whoever keeps the schedule; a sync that it runs is given up.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: ends the process. The slot stays, so that `pgdiode start` goes on where it stopped, and the source keeps \
write-ahead log for it: to give a pipeline up for good, use `pgdiode reset --drop-slot`.

Examples:
  pgdiode stop
  pgdiode stop --pipeline orders --reason CHG-4711

",
    exit_statuses!()
))]
pub struct Stop {
    #[command(flatten)]
    why: Why,
}

impl Stop {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let stopped = audit::because(self.why.reason, pipeline::stop(&pipeline)).await?;
        if global.json {
            return output::json(&json!({ "stopped": stopped }));
        }
        output::note(&match stopped {
            Some(ran) => format!("stopped process {} on {}", ran.process_id, ran.host),
            None => format!("pipeline \"{}\" was not running", pipeline.name),
        });
        Ok(())
    }
}
