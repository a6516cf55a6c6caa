//! `pgdiode archive compact`: many small files become few objects.

use super::{Place, output};
use crate::cli::Global;
use crate::custody::CompactOptions;
use crate::error::Result;

/// Put many small change files into few larger objects
///
/// Consecutive files that are whole go into packs, byte for byte: hashes, the chain, encryption and signatures stay as they
/// are, so that no key is needed. Every verb and every reader takes files out of packs as if they lay there singly. The
/// newest files stay as they are. It may run beside the writer, readers, a prune and another of itself.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: adds packs to the archive and removes what they hold. A file that is not what was sealed stops it before anything \
of its pack is removed. One that is killed leaves a valid archive; the next one goes on with it.

Examples:
  pgdiode archive compact /srv/changes --dry-run
  pgdiode archive compact /srv/changes
  pgdiode archive compact --pack-mb 256 --keep-last 1000
  pgdiode archive compact --json | jq .packs

A pgdiode that does not know packs finds that files are missing, and stops. A pack is put together in TMPDIR.

",
    exit_statuses!()
))]
pub struct Compact {
    #[command(flatten)]
    place: Place,
    /// So much goes into a pack at most; larger files stay as they are
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pack_mb: u64,
    /// So many of the newest files stay as they are
    #[arg(long, value_name = "FILES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    keep_last: u64,
    /// Only say what would be packed
    #[arg(long)]
    dry_run: bool,
}

impl Compact {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let archive = self.place.open(global).await?;
        let options = CompactOptions { pack_bytes: self.pack_mb << 20, keep_last: self.keep_last };
        let report = if self.dry_run {
            archive.plan_compact(&options).await?
        } else {
            archive.compact(&options).await?
        };
        if global.json { output::json(&report) } else { output::text(&report.text()) }
    }
}
