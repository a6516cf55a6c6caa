//! Which PostgreSQL versions there are and where they lie; `scripts/install` puts them there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ground;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V14,
    V15,
    V16,
    V17,
    V18,
}

/// The client programs that suit a server: never older than it.
#[derive(Debug)]
pub struct Tools {
    bin: PathBuf,
}

impl Version {
    pub const ALL: [Version; 5] = [Version::V14, Version::V15, Version::V16, Version::V17, Version::V18];

    pub fn major(self) -> u32 {
        match self {
            Version::V14 => 14,
            Version::V15 => 15,
            Version::V16 => 16,
            Version::V17 => 17,
            Version::V18 => 18,
        }
    }

    /// The directory with `postgres` and `initdb`.
    pub fn bin(self) -> PathBuf {
        if self == Version::V15 {
            return debian_bin();
        }
        packages().join(self.major().to_string()).join("bin")
    }

    pub fn tools(self) -> Tools {
        let bin = if self <= Version::V15 { debian_bin() } else { packages().join("tools-18/bin") };
        Tools { bin }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PostgreSQL {}", self.major())
    }
}

impl Tools {
    pub fn path(&self, program: &str) -> PathBuf {
        let path = self.bin.join(program);
        assert!(path.exists(), "{} is missing\n  hint: run scripts/install", path.display());
        path
    }

    /// `program`, ready to take arguments, in an environment without our own `PG*` settings.
    pub fn command(&self, program: &str) -> Command {
        ground::clean_command(&self.path(program))
    }
}

fn debian_bin() -> PathBuf {
    std::env::var_os("PGDIODE_TEST_PG15_BIN")
        .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from)
}

/// Python that finds a package of `scripts/install`.
pub fn python_with(package: &str) -> Command {
    let path = packages().join(package);
    assert!(path.exists(), "{} is missing\n  hint: run scripts/install", path.display());
    let mut command = ground::clean_command("python3".as_ref());
    command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

pub fn packages() -> PathBuf {
    std::env::var_os("PGDIODE_TEST_POSTGRES_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/postgres"), PathBuf::from)
}
