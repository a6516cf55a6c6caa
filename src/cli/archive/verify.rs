//! `pgdiode archive verify`: whether an archive is what was written.

use std::time::Duration;

use tokio::sync::watch;

use super::{Place, output};
use crate::cli::Global;
use crate::custody::{Head, VerifyOptions};
use crate::error::{Error, Kind, Result};
use crate::status::archive::{ArchiveProgress, ArchiveVerification};

/// Between two log lines that say how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Check every byte of an archive
///
/// Each change file must be what its manifest says, by hash and line by line, and go on exactly where the one before ends;
/// each base must hold the rows that its manifest says. It goes on after the first finding, and names the object and,
/// where one shows it, the line.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode archive verify /srv/changes
  pgdiode archive verify --quick               only whether files are missing
  pgdiode archive verify --from 1200           only the content of file 1200 and later ones
  pgdiode archive verify --json | jq .findings

Ends with 4 when something is not as it was written. An end that was cut off, and an archive that was made anew by \
somebody who may write there, show only with a head that was kept elsewhere: pgdiode archive verify --head NUMBER:HASH.

",
    exit_statuses!()
))]
pub struct Verify {
    #[command(flatten)]
    place: Place,
    /// Look only into this file and later ones; that none is missing is checked for all
    #[arg(long, value_name = "NUMBER", default_value_t = 1, hide_default_value = true)]
    from: u64,
    /// Only the chain, the manifests and the sizes: no file is read
    #[arg(long)]
    quick: bool,
    /// A head that verify printed earlier: the archive must still lead through it
    #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
    head: Option<Head>,
}

fn head(text: &str) -> Result<Head, String> {
    text.parse().map_err(|error: Error| error.what().to_owned())
}

impl Verify {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let archive = self.place.open(global).await?;
        let (sender, receiver) = watch::channel(ArchiveProgress::default());
        let options = VerifyOptions { from: self.from, quick: self.quick, head: self.head };
        let report = {
            let mut work = Box::pin(archive.verify(&options, &sender));
            let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + TOLD_EVERY, TOLD_EVERY);
            loop {
                tokio::select! {
                    biased;
                    report = &mut work => break report?,
                    _ = clock.tick() => tracing::info!("{}", receiver.borrow().text()),
                }
            }
        };
        if global.json {
            output::json(&report)?;
        } else {
            output::text(&report.text(output::paint()))?;
        }
        told(&report)
    }
}

fn told(report: &ArchiveVerification) -> Result<()> {
    let Some(first) = report.findings.first() else { return Ok(()) };
    let more = match report.findings.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let what = format!("archive {} is damaged: {}{more}", report.location, first.text());
    Err(Error::new(Kind::Difference, what).hint(
        "put back what was there from another copy of the archive; readers stop at a damaged file, and those past it are \
         not concerned",
    ))
}
