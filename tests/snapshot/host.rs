//! What a sync keeps on its host: the lock file and the checkpoint file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

const FIELDS: [&str; 7] = [
    "last_sync_at",
    "last_sync_status",
    "last_dump_size_mb",
    "last_duration_seconds",
    "last_error",
    "total_syncs",
    "failed_syncs",
];

/// The fields in their order, and the document.
fn checkpoint(path: &Path) -> (Vec<String>, serde_json::Value) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let named = |line: &str| line.trim().strip_prefix('"')?.split_once('"').map(|(name, _)| name.to_owned());
    (text.lines().filter_map(named).collect(), serde_json::from_str(&text).unwrap())
}

fn is(path: &Path, status: &str, total: u64, failed: u64) -> serde_json::Value {
    let (fields, document) = checkpoint(path);
    assert_eq!(fields, FIELDS);
    let told = (&document["last_sync_status"], &document["total_syncs"], &document["failed_syncs"]);
    assert_eq!(told, (&status.into(), &total.into(), &failed.into()), "{document}");
    assert!(document["last_duration_seconds"].as_f64().unwrap() > 0.0, "{document}");
    assert_eq!(document["last_error"].is_null(), status == "success", "{document}");
    document
}

/// The pipeline as the environment alone describes it.
fn by_environment(ground: &Ground, files: &[(&str, &Path)]) -> PgdiodeRun {
    let mut pgdiode = PgdiodeRun::new("");
    pgdiode.set("PGDIODE_CONFIG", "");
    for (prefix, cluster, database) in [("MAIN_DB", &ground.source, "app"), ("LI_DB", &ground.target, "li")] {
        pgdiode.set(&format!("{prefix}_HOST"), "127.0.0.1");
        pgdiode.set(&format!("{prefix}_PORT"), &cluster.port().to_string());
        pgdiode.set(&format!("{prefix}_NAME"), database);
        pgdiode.set(&format!("{prefix}_USER"), "postgres");
    }
    for (name, path) in files {
        pgdiode.set(name, path.to_str().unwrap());
    }
    // A file in the working directory would come first.
    fs::remove_file(pgdiode.config_path()).unwrap();
    pgdiode
}

#[test]
fn the_checkpoint_file_says_how_the_last_sync_ended() {
    let ground = Ground::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/sync_checkpoint.json");
    let lock = directory.path().join("state/sync.lock");
    let pgdiode =
        by_environment(&ground, &[("PGDIODE_CHECKPOINT_FILE", &path), ("PGDIODE_LOCK_FILE", &lock)]);
    pgdiode.run(&["status"]).success();
    assert!(!path.exists(), "no sync has ended, and the status writes nothing");

    sync(&pgdiode).success();
    let first = is(&path, "success", 1, 0);
    assert!(first["last_dump_size_mb"].as_f64().unwrap() > 5.0, "{first}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!((mode(path.parent().unwrap()) & 0o5, mode(&path) & 0o7), (0o5, 0o4), "others may look");
    assert!(lock.exists() && fs::read(&lock).unwrap().is_empty(), "the lock is free");

    ground.source.stop_fast();
    sync(&pgdiode).failure(6);
    let failed = is(&path, "failed", 1, 1);
    assert!(failed["last_error"].as_str().unwrap().contains(&ground.source.port().to_string()), "{failed}");
    assert_eq!(
        (&failed["last_sync_at"], &failed["last_dump_size_mb"]),
        (&first["last_sync_at"], &first["last_dump_size_mb"]),
        "when one last succeeded stays"
    );
    ground.source.start_again();

    // Not promoted.
    ground.source.psql("app", "delete from item");
    sync(&pgdiode).failure(4);
    assert!(is(&path, "failed", 1, 2)["last_error"].as_str().unwrap().contains("public.item"));
    ground.source.psql("app", "insert into item select n, 'v' || n from generate_series(1, 1000) n");

    // Asked to stop, and meanwhile another one refused, which is none.
    let mut running = ground.held_sync(&pgdiode);
    let before = fs::read(&path).unwrap();
    let said = sync(&pgdiode).failure(5);
    assert!(said.contains("sync.lock is held by process "), "{said}");
    assert_eq!(fs::read(&path).unwrap(), before);
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    assert_eq!(is(&path, "failed", 1, 3)["last_error"], "it was asked to stop");

    // Killed: the file stays as it was until the next one begins, which counts it, and the lock is free.
    ground.let_copy_go();
    let before = fs::read(&path).unwrap();
    let mut running = ground.held_sync(&pgdiode);
    running.kill9();
    assert_eq!(fs::read(&path).unwrap(), before);
    ground.let_copy_go();
    let mut next = ground.held_sync(&pgdiode);
    let (_, told) = checkpoint(&path);
    assert_eq!((&told["last_sync_status"], &told["failed_syncs"]), (&"failed".into(), &4.into()), "{told}");
    assert!(told["last_error"].as_str().unwrap().ends_with("ended without a word"), "{told}");
    assert!(told["last_duration_seconds"].is_null(), "{told}");
    ground.let_copy_go();
    assert!(next.wait().success(), "{}", next.stderr());
    is(&path, "success", 2, 4);
    let status = pgdiode.run(&["sync", "--status"]).success();
    assert!(status.contains("2 done, 4 not"), "{status}");
    let names = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut left: Vec<String> = fs::read_dir(path.parent().unwrap()).unwrap().flatten().map(names).collect();
    left.sort();
    assert_eq!(left, ["sync.lock", "sync_checkpoint.json"]);
}

/// Before a sync somebody is there to be told; after it, it has succeeded all the same.
#[test]
fn a_checkpoint_that_cannot_be_written_is_told() {
    let ground = Ground::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.json");
    fs::write(&path, "{\"mine\": 1}").unwrap();
    let keyed = |path: &Path| format!("snapshot.checkpoint_file = \"{}\"", path.display());
    let said = sync(&ground.pgdiode(&keyed(&path))).failure(2);
    assert!(said.contains("file.json is not a checkpoint file"), "{said}");
    let said = sync(&ground.pgdiode(&keyed(&path.join("below/a/file.json")))).failure(2);
    assert!(said.contains("cannot be"), "{said}");
    assert_eq!(ground.databases(), "", "nothing was begun");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"mine\": 1}");

    // Somebody spoils it while the sync runs.
    let path = directory.path().join("other.json");
    let pgdiode = ground.pgdiode(&keyed(&path));
    let mut running = ground.held_sync(&pgdiode);
    fs::write(&path, "spoilt").unwrap();
    ground.let_copy_go();
    assert!(running.wait().success(), "{}", running.stderr());
    assert!(running.stderr().contains("does not say how this sync ended"), "{}", running.stderr());
    assert_eq!((ground.stamp().as_str(), fs::read_to_string(&path).unwrap().as_str()), ("1", "spoilt"));
}

#[test]
fn a_lock_file_that_was_named_must_be_writable_and_the_usual_one_need_not() {
    let ground = Ground::new();
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let named = ground.pgdiode(&format!("snapshot.lock_file = \"{}/li.lock\"", file.display()));
    let said = sync(&named).failure(2);
    assert!(said.contains("file/li.lock cannot be used"), "{said}");
    assert_eq!(ground.databases(), "");
    let mut usual = ground.pgdiode("");
    usual.set("XDG_STATE_HOME", file.to_str().unwrap());
    let output = usual.run(&["-v", "sync"]);
    assert!(output.stderr.contains("the lock in the target does alone"), "{output:?}");
    output.success();
}

/// Two start at the same moment, again and again: one syncs, and the other is told who.
fn race(ground: &Ground, two: [&PgdiodeRun; 2], says: &str) {
    sync(two[0]).success();
    for _ in 0..3 {
        ground.hold_copy();
        let mut runs = two.map(|one| one.spawn(&["sync"]));
        let refused = crate::harness::wait_for(|| runs.iter_mut().position(|run| !run.is_running()));
        let refused = refused.expect("one of them is refused");
        assert_eq!(runs[refused].wait().code(), Some(5), "{}", runs[refused].stderr());
        let said = runs[refused].stderr();
        let holder = format!("process {}", runs[1 - refused].pid());
        assert!(said.contains(says) && said.contains(&holder), "{holder}: {said}");
        ground.let_copy_go();
        assert!(runs[1 - refused].wait().success(), "{}", runs[1 - refused].stderr());
    }
    let verdicts =
        ground.control("select count(*), count(*) filter (where verdict = 'done') from pgdiode.run");
    assert_eq!(verdicts, "4|4");
}

#[test]
fn of_two_hosts_one_syncs() {
    let ground = Ground::new();
    let (one, other) = (ground.pgdiode(""), ground.pgdiode(""));
    assert_ne!(one.directory(), other.directory(), "each has a lock file of its own");
    race(&ground, [&one, &other], "a sync of \"li\" is running already: ");
}

#[test]
fn of_two_processes_of_a_host_one_syncs() {
    let ground = Ground::new();
    let directory = tempfile::tempdir().unwrap();
    let shared = format!("snapshot.lock_file = \"{}/shared.lock\"", directory.path().display());
    let (one, other) = (ground.pgdiode(&shared), ground.pgdiode(&shared));
    race(&ground, [&one, &other], "shared.lock is held by ");
}
