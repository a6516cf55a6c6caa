//! `pgdiode list-tables`: which tables there are, and which are carried.

use super::{Global, output};
use crate::error::Result;
use crate::pipeline;
use crate::status::text;

/// List the source's tables, carried or not
///
/// Each with its replica identity and, where it is not carried, the reason.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode list-tables
  pgdiode list-tables --json | jq -r '.[] | select(.carried | not) | .name'

",
    exit_statuses!()
))]
pub struct ListTables {}

impl ListTables {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let tables = pipeline::list_tables(&global.pipeline()?).await?;
        if global.json {
            output::json(&tables)
        } else {
            output::text(&text::listing(&tables, output::paint()))
        }
    }
}
