//! `pgdiode verify`: compares both sides at one position.

use super::{Global, output, table_name};
use crate::change::TableName;
use crate::error::{Error, Kind, Result};
use crate::pipeline;

/// Compare both sides, row by row, at one position
///
/// Both sides are read as of the same position in the source's history and every row is digested, so that a pipeline
/// can be verified while it runs.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode verify
  pgdiode verify --table public.users --table public.orders
  pgdiode verify --json | jq .identical

Ends with 0 when both sides are identical and with 4 when they differ.

",
    exit_statuses!()
))]
pub struct Verify {
    /// Only this table; may be repeated
    #[arg(long = "table", short, value_name = "TABLE", value_parser = table_name)]
    tables: Vec<TableName>,
}

impl Verify {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let report = pipeline::verify(&pipeline, &self.tables).await?;
        if global.json {
            output::json(&report)?;
        } else {
            output::text(&report.text(output::paint()))?;
        }
        if report.identical {
            return Ok(());
        }
        let different = report.tables.iter().filter(|table| !table.identical);
        let tables: Vec<TableName> = different.map(|table| table.name.clone()).collect();
        Err(Error::new(Kind::Difference, format!("both sides differ in {}", output::listed(&tables)))
            .hint("find out who else writes the target; `pgdiode resync TABLE` copies a table again"))
    }
}
