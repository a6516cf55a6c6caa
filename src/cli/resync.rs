//! `pgdiode resync`: tables are copied again.

use super::named::{self, NamedTable};
use super::{Global, Why, output};
use crate::error::Result;
use crate::pipeline;
use crate::status::KeySync;

/// Copy tables again
///
/// Brings back a quarantined table, or one that differs. The other tables go on meanwhile. Of a Redis server no table is
/// named: every key is looked at, and its rows are written anew.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: the tables' contents at the target are replaced. A running pipeline does it at once, a stopped one when it is \
started.

Examples:
  pgdiode resync public.users
  pgdiode resync public.users public.orders
  pgdiode resync public.users --reason=ticket-4711
  pgdiode resync                         every key of a Redis server
  pgdiode resync --key session:42        one key

",
    exit_statuses!()
))]
pub struct Resync {
    /// Tables to copy again; none for a Redis server
    #[arg(value_name = "TABLE", value_parser = NamedTable::parse)]
    tables: Vec<NamedTable>,
    /// A key of a Redis server to look at again
    #[arg(long, value_name = "NAME", conflicts_with = "tables")]
    key: Option<String>,
    /// The database that the key is in
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "key")]
    database: u32,
    #[command(flatten)]
    why: Why,
}

impl Resync {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let pipeline = global.pipeline()?;
        if let Some(key) = &self.key {
            let reason = self.why.reason.as_deref();
            output::note(
                match pipeline::sync_key(&pipeline, self.database, key.as_bytes(), reason).await? {
                    KeySync::Done => "the key's rows are as the key is",
                    KeySync::Later => "the key will be looked at by the pipeline's next run",
                },
            );
            return Ok(());
        }
        let tables = named::tables(&pipeline, &self.tables)?;
        pipeline::resync(&pipeline, &tables, self.why.reason.as_deref()).await?;
        if tables.is_empty() {
            output::note("every key will be looked at again; see `pgdiode status`");
        } else {
            output::note(&format!("{} will be copied again; see `pgdiode status`", output::listed(&tables)));
        }
        Ok(())
    }
}
