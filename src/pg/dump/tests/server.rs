//! A server of its own for one test, reached through a socket in its temporary directory.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::super::{DumpOptions, run};
use crate::error::Result;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

pub(super) struct Server {
    directory: TempDir,
}

impl Server {
    pub(super) fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        if let Some((user, group)) = server_user() {
            chown(directory.path(), Some(user), Some(group)).unwrap();
        }
        let server = Server { directory };
        let data = server.data();
        let data = data.to_str().unwrap();
        succeed(
            as_server_user("initdb").args(["-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N"]),
        );
        let options = format!(
            "-c listen_addresses= -c fsync=off -c wal_level=logical -c shared_buffers=16MB -k {}",
            server.directory.path().display()
        );
        let log = server.directory.path().join("log");
        succeed(
            as_server_user("pg_ctl").args(["-D", data, "-w", "-o", &options, "-l"]).arg(log).arg("start"),
        );
        server
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn environment(&self, database: &str) -> Vec<(String, String)> {
        let directory = self.directory.path().to_str().unwrap();
        [("PGHOST", directory), ("PGUSER", "postgres"), ("PGDATABASE", database)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Runs each text as one request, all in one session.
    pub(super) fn psql(&self, database: &str, requests: &[&str]) {
        let mut command = Command::new(Path::new(BINARIES).join("psql"));
        command
            .args(["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1"])
            .envs(self.environment(database));
        for request in requests {
            command.args(["-c", request]);
        }
        succeed(&mut command);
    }

    pub(super) async fn dump(&self, database: &str, options: &DumpOptions) -> Result<String> {
        run(&Path::new(BINARIES).join("pg_dump"), &self.environment(database), options).await
    }

    /// With quotes only where `pg_dump` must.
    pub(super) fn dump_unquoted(&self, database: &str) -> String {
        let mut command = Command::new(Path::new(BINARIES).join("pg_dump"));
        let output = succeed(
            command.args(["--schema-only", "--encoding=UTF8", "--no-owner"]).envs(self.environment(database)),
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = as_server_user("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-m", "immediate", "-w", "stop"])
            .output();
    }
}

/// The server refuses to run as root.
fn as_server_user(program: &str) -> Command {
    let mut command = Command::new(Path::new(BINARIES).join(program));
    command.current_dir("/");
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

/// The ids of the user `postgres`, when the test runs as root.
fn server_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> u32 {
        let output = succeed(Command::new("id").args(arguments));
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Another process writes it: a file that this one has open for writing, even for a moment in a child that another
/// test is starting, cannot be run.
pub(super) fn write_program(file: &Path, text: &str) {
    let source = file.with_extension("text");
    std::fs::write(&source, text).unwrap();
    succeed(Command::new("install").args(["-m", "755"]).arg(&source).arg(file));
}
