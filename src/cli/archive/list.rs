//! `pgdiode archive list`: what an archive holds.

use super::{Place, output};
use crate::cli::Global;
use crate::error::Result;

/// List what an archive holds
///
/// Change files with their positions, rows and sizes, the bases that a new reader can begin with, and how far each
/// registered reader is. Nothing is read but the manifests.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode archive list /srv/changes
  pgdiode archive list --json | jq '.files[] | select(.tables[\"public.users\"])'

",
    exit_statuses!()
))]
pub struct List {
    #[command(flatten)]
    place: Place,
}

impl List {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let listing = self.place.open(global).await?.list().await?;
        if global.json { output::json(&listing) } else { output::text(&listing.text(output::paint())) }
    }
}
