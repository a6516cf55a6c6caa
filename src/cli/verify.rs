//! `pgdiode verify`: compares both sides at one position.

use super::{Global, output, table_name};
use crate::change::TableName;
use crate::config::{Pipeline, Way};
use crate::error::{Error, Kind, Result};
use crate::pipeline;
use crate::status::text::several;

/// Compare both sides, row by row, at one position
///
/// Both sides are read as of the same position in the source's history and every row is digested, so that a pipeline
/// can be verified while it runs. Where the source is a Redis server, each key is compared with the rows that it has
/// become, and rows that no key has are looked for.
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
        if pipeline.way() == Way::FromRedis {
            return self.keys(&pipeline, global).await;
        }
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

    async fn keys(self, pipeline: &Pipeline, global: &Global) -> Result<()> {
        if !self.tables.is_empty() {
            return Err(Error::config("keys are compared in all the tables that they fill")
                .hint("leave --table out; what differs is listed by table"));
        }
        let report = pipeline::verify_keys(pipeline).await?;
        if global.json {
            output::json(&report)?;
        } else {
            output::text(&report.text(output::paint()))?;
        }
        if report.identical {
            return Ok(());
        }
        let what = format!("keys and rows differ in {}", several(report.differences_total, "place"));
        Err(Error::new(Kind::Difference, what).hint(
            "find out who else writes the target; without a running pipeline, what was written since it stopped differs",
        ))
    }
}
