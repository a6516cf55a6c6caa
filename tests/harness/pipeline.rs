//! The built `pgdiode` as an operator runs it: a configuration file, an environment, signals, an exit status.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{cluster, ground, wait_for};

const SHOWN_LOG_LINES: usize = 200;

/// A configuration in a directory of its own, which is also the home and working directory of every run.
pub struct PgdiodeRun {
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A run in the background. Its output goes to files, shown when the test fails; dropping it kills it.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl PgdiodeRun {
    /// `config` is the text of `pgdiode.toml`, which `PGDIODE_CONFIG` names to every run.
    pub fn new(config: &str) -> PgdiodeRun {
        let directory = tempfile::Builder::new()
            .prefix("run")
            .tempdir_in(ground::directory())
            .expect("a directory can be made");
        fs::write(directory.path().join("pgdiode.toml"), config).expect("the configuration can be written");
        PgdiodeRun { directory, environment: Vec::new() }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory().join("pgdiode.toml")
    }

    /// Adds a variable to the environment of later runs.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs to the end.
    pub fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).stdin(Stdio::null()).output().expect("pgdiode runs");
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn spawn(&self, args: &[&str]) -> Running {
        let log = |name: &str| {
            let file = tempfile::Builder::new().prefix(name).suffix(".log").tempfile_in(self.directory());
            file.expect("a log can be made").keep().expect("a log can be kept")
        };
        let ((stdout_file, stdout), (stderr_file, stderr)): ((File, PathBuf), (File, PathBuf)) =
            (log("stdout"), log("stderr"));
        let child = self
            .command(args)
            .stdin(Stdio::null())
            .stdout(stdout_file)
            .stderr(stderr_file)
            .spawn()
            .expect("pgdiode starts");
        Running { child, stdout, stderr }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = ground::clean_command(Path::new(env!("CARGO_BIN_EXE_pgdiode")));
        command.current_dir(self.directory()).env("HOME", self.directory());
        command.env("PGDIODE_CONFIG", self.config_path()).env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(args);
        command
    }
}

impl Output {
    /// The standard output of a run that succeeded; panics with everything it said otherwise.
    pub fn success(self) -> String {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }

    /// What a run said that ended with this status; panics if it ended otherwise.
    pub fn failure(self, status: i32) -> String {
        assert_eq!(self.status.code(), Some(status), "{}\n{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("pgdiode is our child").is_none()
    }

    pub fn kill9(&mut self) -> ExitStatus {
        self.child.kill().expect("pgdiode is our child");
        self.child.wait().expect("pgdiode is our child")
    }

    /// Asks it to stop (SIGTERM); `wait` tells how it ended.
    pub fn terminate(&self) {
        ground::signal("TERM", &[self.child.id()]);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_for(|| self.child.try_wait().expect("pgdiode is our child"));
        status.unwrap_or_else(|| panic!("pgdiode does not end"))
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until its log holds `text`.
    pub fn wait_for_log(&mut self, text: &str) {
        let found = wait_for(|| (self.stderr().contains(text) || !self.is_running()).then_some(()));
        assert!(found.is_some() && self.stderr().contains(text), "pgdiode never said {text:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = cluster::tail(&(self.stdout() + &self.stderr()), SHOWN_LOG_LINES);
            eprintln!("--- pgdiode {} ---\n{log}", self.child.id());
        }
    }
}
