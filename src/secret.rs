//! A text that must not be shown: passwords and keys. `Debug` prints `***`, there is no `Display`.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::{Error, Result};

/// No file of keys is longer.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// A file that must be its owner's alone, as OpenSSH wants its keys to be. `what` is the file, for errors: `identity`.
    pub fn of_file(what: &str, path: &Path) -> Result<Secret> {
        let shown = path.display();
        let unreadable = |error: std::io::Error| {
            Error::config(format!("cannot read {what} {shown}"))
                .because(error)
                .hint("check the path and its owner; it counts from the configuration file's directory")
        };
        let file = File::open(path).map_err(unreadable)?;
        // Of the file that was opened, whatever lies at the path by now.
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::config(format!("{what} {shown} can be used by others than its owner"))
                .hint(format!("chmod 600 {shown}")));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        Ok(Secret(text))
    }

    /// The text itself, for the one place that must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
