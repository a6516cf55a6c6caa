//! `pgdiode demo` as a newcomer runs it, on a small source: it must tell its story and leave nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::harness::http::Http;
use super::harness::wait_for;

/// MB; enough for a large transaction to be sent before it commits.
const SIZE: &str = "--size=8";

/// A temporary directory of its own, where all that the demo leaves behind would be found.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let directory = tempfile::Builder::new().prefix("pgdiode-demo-test-").tempdir().unwrap();
        // The servers may run as another user.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        Place(directory)
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgdiode"));
        command.arg("demo").arg(SIZE).args(arguments).env("TMPDIR", self.0.path());
        // What the user has set for other servers must not lead anybody astray.
        command
            .env("PGHOST", "192.0.2.1")
            .env("PGSSLMODE", "require")
            .env("PGDIODE_SOURCE", "host=192.0.2.1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }

    /// The demo says all of this, ends well and leaves nothing behind.
    fn assert_tells(&self, arguments: &[&str], parts: &[&str]) {
        let output = self.demo(arguments).output().unwrap();
        let told = told(&output);
        for part in parts {
            assert!(told.contains(part), "{part:?} is missing in:\n{told}");
        }
        assert_eq!(output.status.code(), Some(0), "{told}");
        self.assert_empty();
    }

    fn assert_empty(&self) {
        let left: Vec<PathBuf> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        // A killed pipeline is waited for by the demo, or by the system once the demo has ended.
        let gone = wait_for(|| processes_naming(self.0.path()).is_empty().then_some(()));
        assert!(gone.is_some(), "still running: {:?}", processes_naming(self.0.path()));
    }
}

/// Servers name their data directory, pipelines their configuration file.
fn processes_naming(directory: &Path) -> Vec<String> {
    let directory = directory.display().to_string();
    let command_line = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(command_line);
    processes.filter(|line| line.contains(&directory)).collect()
}

/// Reads on until a line holds `text`; gives that line.
fn read_until(lines: &mut BufReader<ChildStdout>, text: &str) -> String {
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.contains(text) {
            return line;
        }
        line.clear();
    }
    panic!("the demo never said {text:?}");
}

/// A demo in the background; a test that fails interrupts it, and it cleans up.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            signal_pid(&self.0.id().to_string(), "INT");
            drop(self.0.wait());
        }
    }
}

fn signal_pid(pid: &str, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(sent.success());
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn it_tells_its_story_and_leaves_nothing_behind() {
    let place = Place::new();
    place.assert_tells(
        &[],
        &[
            "Filling the source",
            "    | ",
            "The console is open: http://127.0.0.1:",
            "Caught up: from here on",
            "the books balanced each time",
            "kill -9",
            "of that transaction the target shows 0 rows",
            "Of the large transaction the target now shows 24000 rows",
            "$ pgdiode verify",
            "both sides are identical at ",
            "Identical: nothing was lost",
        ],
    );
}

#[test]
fn a_replica_is_replaced_while_it_is_read_and_nothing_is_left_behind() {
    let place = Place::new();
    place.assert_tells(
        &["snapshot"],
        &[
            "The console is open: http://127.0.0.1:",
            "$ pgdiode sync",
            "is a third full: kill -9",
            "The readers have noticed nothing",
            "dropping what an earlier sync left behind",
            "editions seen: 3, 4, each of them whole",
            "$ pgdiode rollback",
            "tables are identical",
            "Identical. Every reader saw whole editions only",
        ],
    );
}

#[test]
fn two_laptops_replay_an_archive_and_a_flipped_bit_is_found() {
    let place = Place::new();
    place.assert_tells(
        &["archive"],
        &[
            "an SSH server that lets one key in",
            "begins with a base",
            "Anna closes her laptop",
            "$ pgdiode resync public.orders",
            "the table was filled from the base and has caught up",
            "anna: branches, tellers, accounts, pulse are identical",
            "ben: orders, specimens, pulse are identical",
            "damaged    0",
            ".json, line ",
            "Found, with the file and the line.",
            "intact     ",
        ],
    );
}

#[test]
fn sessions_of_redis_become_rows_whatever_is_killed() {
    let place = Place::new();
    place.assert_tells(
        &["redis"],
        &[
            "pgdiode joins as one of the server's replicas",
            "listening as a replica",
            "pgdiode is killed",
            "goes_on=true",
            "Redis is killed",
            "sessions and their messages are identical",
            "more have expired and",
            "$ pgdiode verify",
            "Identical: nothing was lost",
        ],
    );
}

#[test]
fn an_interrupted_replacement_leaves_nothing_behind() {
    let place = Place::new();
    let mut child = Running(place.demo(&["snapshot"]).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    read_until(&mut lines, "Readers are let in");
    read_until(&mut lines, "$ pgdiode sync");
    signal_pid(&child.0.id().to_string(), "INT");
    lines.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    place.assert_empty();
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let place = Place::new();
    let mut child = Running(place.demo(&[]).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    read_until(&mut lines, "$ pgdiode start");
    let opened = read_until(&mut lines, "The console is open: ");
    let port = opened.trim().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    // It has been started, then, and speaks.
    read_until(&mut lines, "    | ");
    let page = wait_for(|| Http::new(port).try_send("GET", "/", &[("Accept", "text/html")], "").ok());
    assert!(page.is_some_and(|page| page.body.contains("/pipelines/demo")), "the console shows the pipeline");
    assert!(processes_naming(place.0.path()).len() >= 3, "two servers and a pipeline run");
    signal_pid(&child.0.id().to_string(), "INT");
    // Whoever does not read would hold it up.
    lines.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    place.assert_empty();
}

#[test]
fn a_demo_whose_server_dies_fails_and_leaves_nothing_behind() {
    let place = Place::new();
    let mut child = Running(place.demo(&["--no-console"]).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let mut before = String::new();
    while !before.contains("Watching the target") {
        assert_ne!(lines.read_line(&mut before).unwrap(), 0, "it ended after:\n{before}");
    }
    assert!(!before.contains("http://"), "no console was wanted:\n{before}");
    let mut pid_files = fs::read_dir(place.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().path().join("source/postmaster.pid"));
    let pid = pid_files.find_map(|path| fs::read_to_string(path).ok()).expect("the source runs");
    signal_pid(pid.lines().next().unwrap(), "KILL");
    lines.read_to_end(&mut Vec::new()).unwrap();
    let mut errors = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    let status = child.0.wait().unwrap();
    assert!(status.code().is_some_and(|status| status != 0), "{status}");
    assert!(errors.contains("error:"), "{errors}");
    place.assert_empty();
}
