//! `pgdiode man`: the manual pages, made from the same texts as `--help`.

use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, output};
use crate::error::{Error, Result};

/// Write the manual pages into a directory
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: writes pgdiode.1 and one page for each verb into the directory, which must exist; pages that are there are \
replaced.

Examples:
  pgdiode man ~/.local/share/man/man1

",
    exit_statuses!()
))]
pub struct Man {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> Result<()> {
        clap_mangen::generate_to(Cli::command(), &self.directory).map_err(|error| {
            Error::config(format!("cannot write manual pages into {}", self.directory.display()))
                .hint("name a directory that exists and is yours to write")
                .because(error)
        })?;
        output::note(&format!("wrote the manual pages into {}", self.directory.display()));
        Ok(())
    }
}
