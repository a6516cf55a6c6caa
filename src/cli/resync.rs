//! `pgdiode resync`: tables are copied again.

use super::named::{self, NamedTable};
use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline;

/// Copy tables again
///
/// Brings back a quarantined table, or one that differs. The other tables go on meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the tables' contents at the target are replaced. A running pipeline does it at once, a stopped one when it is \
started.

Examples:
  pgdiode resync public.users
  pgdiode resync public.users public.orders
  pgdiode resync public.users --reason=ticket-4711

",
    exit_statuses!()
))]
pub struct Resync {
    /// Tables to copy again
    #[arg(value_name = "TABLE", required = true, value_parser = NamedTable::parse)]
    tables: Vec<NamedTable>,
    #[command(flatten)]
    why: Why,
}

impl Resync {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        let tables = named::tables(&pipeline, &self.tables)?;
        pipeline::resync(&pipeline, &tables, self.why.reason.as_deref()).await?;
        output::note(&format!("{} will be copied again; see `pgdiode status`", output::listed(&tables)));
        Ok(())
    }
}
