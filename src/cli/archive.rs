//! `pgdiode archive`: looks at an archive of change files and tends it; one file a verb in `archive/`.

mod base;
mod compact;
mod list;
mod prune;
mod show;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;

use super::{Global, output};
use crate::custody::Archive;
use crate::error::Result;

/// Tend an archive of change files: list, show, verify, prune, compact, base
///
/// An archive is a directory of change files with what belongs to them, on a disk, over SFTP or in S3. These verbs need no
/// PostgreSQL, but for base: they run wherever the archive can be read. Each takes the archive's location, or without one the archive
/// that the configured pipeline writes or reads.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing, but for prune --yes, which removes what nobody needs, compact, which puts files together, and base, \
which adds.

Examples:
  pgdiode archive list /srv/changes
  pgdiode archive show 12 /srv/changes
  pgdiode archive verify sftp://backup@host/srv/changes
  pgdiode archive prune s3://bucket/changes --keep-days 30
  pgdiode archive compact /srv/changes

A location is /path, sftp://user@host:port/path or s3://bucket/prefix?endpoint=https://host&region=name. Keys for SFTP \
are those of the agent and of ~/.ssh, credentials for S3 those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; others are \
set for a pipeline: see the configuration reference.

",
    exit_statuses!()
))]
pub struct ArchiveVerbs {
    #[command(subcommand)]
    verb: ArchiveVerb,
}

#[derive(Debug, Subcommand)]
enum ArchiveVerb {
    Base(base::TakeBase),
    List(list::List),
    Show(show::Show),
    Verify(verify::Verify),
    Prune(prune::Prune),
    Compact(compact::Compact),
}

/// Which archive.
#[derive(Debug, clap::Args)]
struct Place {
    /// Where the archive is; without it, the archive of the pipeline
    #[arg(value_name = "LOCATION")]
    location: Option<String>,
    /// Look into what is encrypted with the identities of this file
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// By whom manifests must be signed: the line of a .pub file; may be repeated
    #[arg(long, value_name = "KEY")]
    signed_by: Vec<String>,
}

impl Place {
    async fn open(&self, global: &Global) -> Result<Archive> {
        let archive = match &self.location {
            Some(location) => Archive::at(location).await?,
            None => Archive::of(&global.pipeline()?).await?,
        };
        archive.with_key_files(self.identity.as_deref(), &self.signed_by)
    }
}

impl ArchiveVerbs {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        match self.verb {
            ArchiveVerb::Base(verb) => verb.run(global).await,
            ArchiveVerb::List(verb) => verb.run(global).await,
            ArchiveVerb::Show(verb) => verb.run(global).await,
            ArchiveVerb::Verify(verb) => verb.run(global).await,
            ArchiveVerb::Prune(verb) => verb.run(global).await,
            ArchiveVerb::Compact(verb) => verb.run(global).await,
        }
    }
}
