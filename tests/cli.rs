//! The command line as a user meets it: the real binary in a temporary directory. Needs no server.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary in `directory`, in an empty environment.
fn pgdiode(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgdiode"));
    command.args(arguments).current_dir(directory).env_clear().env("HOME", directory).stdin(Stdio::null());
    command
}

/// Exit status, standard output, standard error.
fn run(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    told(&pgdiode(directory, arguments).output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn without_arguments_it_helps() {
    let directory = tempfile::tempdir().unwrap();
    let (status, out, err) = run(directory.path(), &[]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out.starts_with("Moves data one way, provably intact, into a PostgreSQL you own\n"), "{out}");
    assert!(out.contains("pgdiode init "));
}

#[test]
fn init_writes_what_check_reads() {
    let directory = tempfile::tempdir().unwrap();
    let (status, _, err) = run(directory.path(), &["check"]);
    assert_eq!(status, 2);
    assert!(err.starts_with("error: no configuration found\nhint: "), "{err}");

    let (status, out, err) = run(directory.path(), &["init"]);
    assert_eq!((status, out.as_str()), (0, ""), "{err}");
    let sample = std::fs::read_to_string(directory.path().join("pgdiode.toml")).unwrap();
    let (status, out, _) = run(directory.path(), &["init", "-"]);
    assert_eq!((status, out), (0, sample.clone()));

    let (status, _, err) = run(directory.path(), &["init"]);
    assert_eq!(status, 2);
    assert!(err.starts_with("error: pgdiode.toml exists and stays as it is\n"), "{err}");

    // The sample is understood: what fails now is that its example of a service is defined nowhere.
    let (status, _, err) = run(directory.path(), &["check"]);
    assert_eq!(status, 2);
    assert!(
        err.starts_with("error: target of pipeline \"main\": service \"mirror\" is not defined\n"),
        "{err}"
    );
    std::fs::write(directory.path().join("pgdiode.toml"), sample.replace("# jobs = 0", "jbos = 0")).unwrap();
    let (status, _, err) = run(directory.path(), &["check"]);
    assert_eq!(status, 2);
    let line = sample.lines().position(|line| line == "# jobs = 0").unwrap() + 1;
    let expected = format!(
        "error: pgdiode.toml:{line}: unknown key \"jbos\" in [pipeline.main.copy]\nhint: did you mean \"jobs\"?\n"
    );
    assert_eq!(err, expected);
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in
        [&["check", "--json"][..], &["--json", "resync"], &["--json", "start", "--until-lsn", "x"]]
    {
        let (status, out, err) = run(directory.path(), arguments);
        assert_eq!((status, out.as_str()), (2, ""));
        let error: serde_json::Value =
            serde_json::from_str(&err).unwrap_or_else(|_| panic!("not JSON: {err}"));
        assert_eq!(error["error"]["kind"], "config");
        assert_eq!(error["error"]["exit_status"], 2);
        assert!(!error["error"]["hint"].as_str().unwrap().is_empty());
        assert!(!error["error"]["message"].as_str().unwrap().starts_with("error"));
    }
}

/// `pgdiode completions bash | head -1` must not fail: the reader has seen enough.
#[test]
fn a_closed_pipe_is_not_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["completions", "bash"][..], &["init", "-"], &["--help"], &[]] {
        let mut command = pgdiode(directory.path(), arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), told(&output).2.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn nobody_confirms_without_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let source = ("PGDIODE_SOURCE", "host=127.0.0.1 port=1 connect_timeout=1");
    let mut command = pgdiode(directory.path(), &["reset"]);
    command.envs([source, ("PGDIODE_TARGET", "host=127.0.0.1 port=2 connect_timeout=1")]);
    let (status, _, err) = told(&command.output().unwrap());
    assert_ne!(status, 0);
    assert!(!err.contains("[y/N]"), "{err}");
}

/// The parent tells what the child said, ends as the child did, and leaves its log where it was told to.
#[test]
fn a_detached_start_that_fails_says_why() {
    let directory = tempfile::tempdir().unwrap();
    // A source that is the target is refused at once, but only once it is looked at; an unusable log earlier.
    std::fs::write(directory.path().join("file"), "").unwrap();
    let mut command = pgdiode(directory.path(), &["start", "--detach", "--log-file", "file/x.log"]);
    command.envs([("PGDIODE_SOURCE", "host=a"), ("PGDIODE_TARGET", "host=b")]);
    let (status, _, err) = told(&command.output().unwrap());
    assert_eq!(status, 2);
    assert!(err.starts_with("error: cannot write the log file/x.log\n"), "{err}");
}

#[test]
fn manual_pages_are_written_where_asked() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run(directory.path(), &["man", "missing"]).0, 2);
    assert_eq!(run(directory.path(), &["man", "."]).0, 0);
    let mut page = String::new();
    std::fs::File::open(directory.path().join("pgdiode.1")).unwrap().read_to_string(&mut page).unwrap();
    assert!(page.contains(".TH pgdiode 1"), "{page}");
}
