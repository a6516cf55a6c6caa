//! `pgdiode completions`: scripts that complete the command line in a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, output};
use crate::error::{Error, Result};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode completions bash > ~/.local/share/bash-completion/completions/pgdiode
  pgdiode completions fish > ~/.config/fish/completions/pgdiode.fish

",
    exit_statuses!()
))]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<()> {
        output::text(&script(self.shell)?)
    }
}

pub(super) fn script(shell: Shell) -> Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgdiode", &mut script);
    String::from_utf8(script)
        .map_err(|error| Error::unexpected("the completion script is not UTF-8").because(error))
}
