//! `pgdiode remove-tables`: tables leave a pipeline.

use super::named::{self, NamedTable};
use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline;

/// Carry tables no longer
///
/// The tables leave the publication. At the target they stay as they are, and stop following.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the publication at the source, and what pgdiode knows of the tables at the target; no row is deleted.

Examples:
  pgdiode remove-tables public.audit_2019

",
    exit_statuses!()
))]
pub struct RemoveTables {
    /// Tables to carry no longer
    #[arg(value_name = "TABLE", required = true, value_parser = NamedTable::parse)]
    tables: Vec<NamedTable>,
    #[command(flatten)]
    why: Why,
}

impl RemoveTables {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let tables = named::tables(&pipeline, &self.tables)?;
        let ran = pipeline::remove_tables(&pipeline, &tables, self.why.reason.as_deref()).await?;
        output::statements(&ran, global.json)?;
        output::note(&format!("{} no longer followed; its rows stay", output::listed(&tables)));
        Ok(())
    }
}
