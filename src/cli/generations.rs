//! `pgdiode generations`: the copies that there are.

use super::sync::snapshot_pipeline;
use super::{Global, output};
use crate::error::Result;
use crate::snapshot;
use crate::status::snapshot::generations_text;

/// List the copies that a sync has made and that are still there
///
/// For pipelines with mode = "snapshot": the copy that serves, and those kept for `pgdiode rollback`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode generations
  pgdiode generations --json | jq '.[0].taken_at'

",
    exit_statuses!()
))]
pub struct Generations {}

impl Generations {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let generations = snapshot::generations(&snapshot_pipeline(global)?).await?;
        if global.json {
            return output::json(&generations);
        }
        output::text(&generations_text(&generations, output::paint()))
    }
}
