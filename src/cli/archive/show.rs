//! `pgdiode archive show`: a change file as text.

use super::{Place, output};
use crate::change::TableName;
use crate::cli::{Global, table_name};
use crate::custody::ShowOptions;
use crate::error::Result;

/// Print the lines of a change file
///
/// One JSON object a line, decompressed: a header, then for each transaction its rows and a line that commits it, then a
/// line that ends the file. docs/archive-format.md explains each.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode archive show 12 /srv/changes
  pgdiode archive show /srv/changes/0000000012.json.zst
  pgdiode archive show 12 --table public.users | jq .data
  pgdiode archive show 12 --header
  pgdiode archive show 12 | jq -c 'select(.op == \"DELETE\")'

Lines are printed as they are; `pgdiode archive verify` says whether they are what was written.

",
    exit_statuses!()
))]
pub struct Show {
    /// A change file: its number, its name, or with its archive before it
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    place: Place,
    /// Only the rows of this table
    #[arg(long, short, value_name = "TABLE", value_parser = table_name)]
    table: Option<TableName>,
    /// Only the first so many lines
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Only the header, and the manifest
    #[arg(long, conflicts_with_all = ["table", "limit"])]
    header: bool,
}

impl Show {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let (location, file) = match (&self.place.location, self.file.rsplit_once('/')) {
            (None, Some((location, file))) => (Some(location.to_owned()), file.to_owned()),
            (location, _) => (location.clone(), self.file.clone()),
        };
        let archive = Place { location, ..self.place }.open(global).await?;
        if self.header {
            return output::json(&archive.header(&file).await?);
        }
        let options = ShowOptions { table: self.table, limit: self.limit };
        archive.show(&file, options, output::bytes).await
    }
}
