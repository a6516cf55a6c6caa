//! `pgdiode archive prune`: removes what nobody needs.

use super::{Place, output};
use crate::cli::Global;
use crate::custody::PruneOptions;
use crate::error::Result;

/// Remove change files and bases that nobody needs any more
///
/// The newest base stays, and every change file that it or a registered reader still needs. Without --yes it only says
/// what would go, and what holds the rest. A removal that is killed leaves a valid archive; the next one goes on with it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: with --yes, removes objects of the archive for good, and leaves a record by which `pgdiode archive verify` tells \
them from lost ones. An archive in which something is missing is left alone.

Examples:
  pgdiode archive prune /srv/changes
  pgdiode archive prune /srv/changes --keep-days 30 --yes
  pgdiode archive prune --forget-reader old-laptop

A reader that is forgotten and comes back may find that what it needs is gone: it then begins again with the newest base.

",
    exit_statuses!()
))]
pub struct Prune {
    #[command(flatten)]
    place: Place,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Keep what was sealed within so many days, whether it is needed or not
    #[arg(long, value_name = "DAYS", default_value_t = 0, hide_default_value = true)]
    keep_days: u32,
    /// This reader does not come back: what only it needs may go; may be repeated
    #[arg(long = "forget-reader", value_name = "NAME")]
    forget_readers: Vec<String>,
}

impl Prune {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let archive = self.place.open(global).await?;
        let options = PruneOptions { keep_days: self.keep_days, forget_readers: self.forget_readers };
        let mut plan = archive.plan_prune(&options).await?;
        if self.yes {
            archive.prune(&mut plan).await?;
        }
        if global.json {
            return output::json(&plan.report);
        }
        output::text(&plan.report.text())?;
        if !self.yes && !plan.report.is_empty() {
            output::note("nothing was removed; --yes removes it");
        }
        Ok(())
    }
}
