//! The checkpoint file of a snapshot pipeline: one JSON object that says how the last sync went.
//!
//! It is for whoever watches; nothing pgdiode does follows from it. It is replaced as a whole, by a rename, so that a
//! crash at any instant leaves the old text or the new one. What is not a checkpoint is never written over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Exactly the fields of the file, in its order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// When a sync last succeeded; RFC 3339.
    #[serde(deserialize_with = "present")]
    pub last_sync_at: Option<String>,
    pub last_sync_status: SyncStatus,
    /// What the last successful sync copied, in units of 1024 * 1024 bytes.
    #[serde(deserialize_with = "present")]
    pub last_dump_size_mb: Option<f64>,
    #[serde(deserialize_with = "present")]
    pub last_duration_seconds: Option<f64>,
    /// Why the last sync failed; none after one that succeeded.
    #[serde(deserialize_with = "present")]
    pub last_error: Option<String>,
    /// Syncs that succeeded.
    pub total_syncs: u64,
    pub failed_syncs: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncStatus {
    Success,
    Failed,
    #[default]
    Never,
}

/// A field may be null and must be there: a file without it is somebody else's.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

impl Checkpoint {
    /// After a sync that succeeded.
    pub fn succeeded(&mut self, at: jiff::Timestamp, size_bytes: u64, duration_seconds: f64) {
        #[allow(clippy::cast_precision_loss)] // a size for people
        let size_mb = (size_bytes as f64 / 1_048_576.0 * 100.0).round() / 100.0;
        self.last_sync_at = Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        self.last_sync_status = SyncStatus::Success;
        self.last_dump_size_mb = Some(size_mb);
        self.last_duration_seconds = Some(duration_seconds);
        self.last_error = None;
        self.total_syncs += 1;
    }

    /// Before the next sync, when nobody was left to say how the last one ended, or how long it took.
    pub fn died(&mut self, error: impl Into<String>) {
        self.failed(error, 0.0);
        self.last_duration_seconds = None;
    }

    /// After a sync that failed: when one last succeeded, and how large it was, stays.
    pub fn failed(&mut self, error: impl Into<String>, duration_seconds: f64) {
        self.last_sync_status = SyncStatus::Failed;
        self.last_duration_seconds = Some(duration_seconds);
        self.last_error = Some(error.into());
        self.failed_syncs += 1;
    }
}

/// Reads the file; one that is not there says that no sync ever ran.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Checkpoint::default()),
        Err(error) => {
            return Err(Error::config(format!("the checkpoint file {} cannot be read", path.display()))
                .because(error)
                .hint("name a file that this user may read and write"));
        }
    };
    serde_json::from_slice(&text).map_err(|error| {
        Error::config(format!("{} is not a checkpoint file", path.display()))
            .because(error)
            .hint("look at it, and move it away or name another file; it was left as it is")
    })
}

/// Replaces the file. The caller is the only one who writes it: it holds the lock of the sync.
pub fn write(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    // Refuses what is there and no checkpoint.
    read(path)?;
    replace(path, checkpoint).map_err(|error| unwritable(path, error))
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Capacity,
        _ => Kind::Config,
    };
    Error::new(kind, format!("the checkpoint file {} cannot be written", path.display()))
        .because(error)
        .hint("make room there, or name a place that this user may write in")
}

/// Finds out whether [`write`] would succeed, and leaves the file as it is: before a sync, somebody is there to be told.
pub fn prove_writable(path: &Path) -> Result<()> {
    read(path)?;
    let directory = directory_of(path);
    // A file without a name: somebody else may be writing the one with it.
    let probe = fs::create_dir_all(directory).and_then(|()| tempfile::tempfile_in(directory));
    probe.map(drop).map_err(|error| unwritable(path, error))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

fn replace(path: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let directory = directory_of(path);
    fs::create_dir_all(directory)?;
    let temporary = temporary(path);
    let mut text = serde_json::to_vec_pretty(checkpoint)?;
    text.push(b'\n');
    // Always the same name, so that a crash leaves one such file at most. Others may read it: that is what it is for.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    file.write_all(&text)?;
    // The rename must not become durable before the text.
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_file_has_exactly_its_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/sync_checkpoint.json");
        let mut checkpoint = read(&path).unwrap();
        assert_eq!(checkpoint.last_sync_status, SyncStatus::Never);
        write(&path, &checkpoint).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\n  \"last_sync_at\": null,\n  \"last_sync_status\": \"never\",\n  \"last_dump_size_mb\": null,\n  \
             \"last_duration_seconds\": null,\n  \"last_error\": null,\n  \"total_syncs\": 0,\n  \"failed_syncs\": 0\n}\n"
        );
        let at = "2026-01-02T03:04:05.6Z".parse().unwrap();
        checkpoint.succeeded(at, 3 << 19, 12.5);
        checkpoint.failed("the source is gone", 0.5);
        write(&path, &checkpoint).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!({
            "last_sync_at": "2026-01-02T03:04:05Z", "last_sync_status": "failed", "last_dump_size_mb": 1.5,
            "last_duration_seconds": 0.5, "last_error": "the source is gone", "total_syncs": 1, "failed_syncs": 1,
        });
        assert_eq!(document, expected);
        assert_eq!(read(&path).unwrap(), checkpoint);
        checkpoint.succeeded(at, 0, 1.0);
        assert_eq!((checkpoint.last_error, checkpoint.total_syncs, checkpoint.failed_syncs), (None, 2, 1));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_no_checkpoint_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        let whole = serde_json::to_string(&Checkpoint::default()).unwrap();
        let foreign = [
            String::new(),
            "{}".into(),
            "not JSON".into(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"failed_syncs\":0", "\"failed_syncs\":0,\"more\":1"),
            whole.replace("\"last_error\":null,", ""),
            whole.replace("never", "sometimes"),
            whole.replace("\"total_syncs\":0", "\"total_syncs\":-1"),
            whole.repeat(2),
        ];
        for text in foreign {
            fs::write(&path, &text).unwrap();
            for error in [read(&path).unwrap_err(), write(&path, &Checkpoint::default()).unwrap_err()] {
                assert!(
                    error.kind() == Kind::Config && error.what().contains("file.json"),
                    "{text}: {error}"
                );
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    /// The instants between the steps, made by hand: whatever a crash leaves of the text that was not renamed yet.
    #[test]
    fn a_crash_between_the_steps_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sync_checkpoint.json");
        let mut old = Checkpoint::default();
        old.failed("old", 1.0);
        write(&path, &old).unwrap();
        let mut new = old.clone();
        new.failed("new", 2.0);
        let whole = serde_json::to_string_pretty(&new).unwrap();
        for left in ["", &whole[..1], &whole[..whole.len() / 2], &whole, &"x".repeat(10_000)] {
            fs::write(temporary(&path), left).unwrap();
            assert_eq!(read(&path).unwrap(), old, "{left}");
            write(&path, &new).unwrap();
            assert_eq!(read(&path).unwrap(), new, "{left}");
            assert!(!temporary(&path).exists());
            write(&path, &old).unwrap();
        }
        // Whoever has it open reads the old text to its end: it is never written in place.
        let mut reader = File::open(&path).unwrap();
        write(&path, &new).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(serde_json::from_str::<Checkpoint>(&text).unwrap(), old);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/file.json");
        prove_writable(&path).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "nothing is left");
        fs::write(&path, "{}").unwrap();
        assert!(prove_writable(&path).unwrap_err().what().contains("is not a checkpoint file"));
        let inside = path.join("no/directory.json");
        assert_eq!(prove_writable(&inside).unwrap_err().kind(), Kind::Config);
    }

    const CHILD_CHECKPOINT: &str = "PGDIODE_TEST_CHECKPOINT";

    /// Not a test of its own: what the next one runs in a process that it kills. Texts of different lengths, so that a
    /// write in place would show.
    #[test]
    fn writes_until_it_is_killed() {
        let Some(path) = std::env::var_os(CHILD_CHECKPOINT) else { return };
        let path = Path::new(&path);
        let mut checkpoint = read(path).unwrap();
        loop {
            checkpoint.failed("x".repeat(fastrand::usize(0..50_000)), 1.0);
            write(path, &checkpoint).unwrap();
        }
    }

    #[test]
    fn a_kill_at_any_instant_leaves_a_whole_file() {
        const KILLS: u32 = 25;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sync_checkpoint.json");
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..KILLS {
            let before = read(&path).unwrap().failed_syncs;
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "checkpoint::tests::writes_until_it_is_killed", "--nocapture"])
                .env(CHILD_CHECKPOINT, &path)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let wanted = before + rng.u64(1..20);
            while read(&path).expect("it can be read while it is written").failed_syncs < wanted {
                assert!(child.try_wait().unwrap().is_none(), "the child ended");
            }
            for _ in 0..rng.u32(0..100_000) {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(read(&path).expect("a kill leaves a whole file").failed_syncs >= wanted);
        }
    }
}
