//! `pgdiode add-tables`: more tables join a pipeline.

use super::named::{self, NamedTable};
use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline;

/// Carry more tables
///
/// The tables join the publication and are copied; the others go on meanwhile. A table that the configuration's
/// patterns leave out must be added there too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the publication at the source; the tables at the target are created when they do not exist, and filled.

Examples:
  pgdiode add-tables public.orders public.order_lines

",
    exit_statuses!()
))]
pub struct AddTables {
    /// Tables to carry
    #[arg(value_name = "TABLE", required = true, value_parser = NamedTable::parse)]
    tables: Vec<NamedTable>,
    #[command(flatten)]
    why: Why,
}

impl AddTables {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let tables = named::tables(&pipeline, &self.tables)?;
        let ran = pipeline::add_tables(&pipeline, &tables, self.why.reason.as_deref()).await?;
        output::statements(&ran, global.json)?;
        output::note(&format!("{} will be copied; see `pgdiode status`", output::listed(&tables)));
        Ok(())
    }
}
