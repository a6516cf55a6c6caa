//! `pgdiode check`: everything that can be found wrong before anything runs.

use super::{Global, output};
use crate::error::{Error, Result};
use crate::status::{CheckReport, Level};
use crate::{pipeline, preflight};

/// Find what would fail, before anything runs
///
/// Checks the configuration, with the files that [server] names, both connections, versions, privileges, replica identities, free slots and senders, and
/// what the target already holds. Each finding comes with its remedy.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode check
  pgdiode check --json | jq '.findings[] | select(.level != \"ok\")'

Ends with 3 when a finding refuses the pipeline, with 6 or 7 when all that is wrong is an end that cannot be reached;
warnings alone end with 0.

",
    exit_statuses!()
))]
pub struct Check {}

impl Check {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let config = global.config()?;
        let pipeline = config.pipeline(global.pipeline.as_deref())?;
        let mut report = CheckReport::default();
        for (what, hint) in config.warnings() {
            report.push(Level::Warning, what, Some(hint));
        }
        if let Some(options) = &config.server {
            let names: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            report.adds(preflight::check_door(options, &names, jiff::Timestamp::now()));
        }
        report.adds(pipeline::check(pipeline).await?);
        if global.json {
            output::json(&report)?;
        } else {
            output::text(&report.text(output::paint()))?;
        }
        let Some(refusal) = report.refusal else { return Ok(()) };
        let refused = report.count(Level::Refused);
        Err(Error::new(refusal, format!("{refused} of the checks refused pipeline \"{}\"", pipeline.name))
            .hint("settle what is marked refused, then check again"))
    }
}
