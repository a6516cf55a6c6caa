//! `pgdiode init`: an annotated configuration to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::output;
use crate::config::{Preset, RedisPreset, reference};
use crate::error::{Error, Result};

/// Write a sample configuration
///
/// The sample holds every key with its default and an explanation. Fill in source and target, then run
/// `pgdiode check`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: creates one file, readable by you alone. An existing file is never overwritten.

Examples:
  pgdiode init
  pgdiode init /etc/pgdiode/pgdiode.toml
  pgdiode init -
  pgdiode init --preset synapse-li
  pgdiode init --preset chat-sessions

",
    exit_statuses!()
))]
pub struct Init {
    /// Where to write it; `-` is standard output
    #[arg(value_name = "FILE", default_value = "pgdiode.toml")]
    path: PathBuf,
    /// Print what a preset of snapshot.preset or redis.preset holds, with its reasons, and write nothing
    #[arg(long, value_name = "NAME", conflicts_with = "path", value_parser = clap::builder::PossibleValuesParser::new([Preset::WORDS, RedisPreset::WORDS].concat()))]
    preset: Option<String>,
}

impl Init {
    pub(super) fn run(self) -> Result<()> {
        if let Some(name) = self.preset.as_deref() {
            let text = Preset::named(name).map(Preset::text);
            return output::text(
                text.or_else(|| RedisPreset::named(name).map(RedisPreset::text)).unwrap_or(""),
            );
        }
        let sample = reference::sample();
        if self.path == Path::new("-") {
            return output::text(&sample);
        }
        write_new(&self.path, &sample)?;
        output::note(&format!(
            "wrote {}; fill in source and target, then run `pgdiode check`",
            self.path.display()
        ));
        Ok(())
    }
}

/// Creates the file, for its owner alone: it will hold connection texts.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            return Error::config(format!("{} exists and stays as it is", path.display()))
                .hint("name another file, or print the sample with `pgdiode init -`");
        }
        Error::config(format!("cannot write {}", path.display()))
            .hint("check that the directory exists and is yours to write")
            .because(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_existing_file_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgdiode.toml");
        write_new(&path, "first").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = write_new(&path, "second").unwrap_err();
        assert!(error.what().ends_with("exists and stays as it is"), "{error:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
    }
}
