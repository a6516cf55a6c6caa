//! A lock file of this host: at most one process at a time does what it stands for.
//!
//! The kernel holds the lock (`flock`) for as long as the file is open, so that it ends with the process, however that
//! dies. The file itself stays and means nothing: one that nobody holds is simply taken, and it is never removed by
//! hand. What stands inside says who holds it, for people and for [`holder`].
//!
//! It guards one host, on a local file system; two hosts need a lock in the database beside it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Whoever asks for the holder has the lock for a moment: that is no reason to give up.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// No description of a holder is longer; a foreign file may be.
const HOLDER_BYTES_MAX: u64 = 4096;

/// Held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    left_by: Option<Holder>,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
    /// RFC 3339, in UTC.
    pub since: String,
    /// What it does, in a few words.
    pub purpose: String,
}

/// Takes the lock, creating the file and its directory where they are missing; [`Kind::Locked`] when somebody has it.
pub fn take(path: &Path, purpose: &str) -> Result<Lock> {
    for attempt in 1.. {
        let file = open(path).map_err(|error| failed(path, error))?;
        match file.try_lock() {
            // Somebody may have removed it meanwhile: then it keeps nobody else out.
            Ok(()) if !is_at(&file, path) => {}
            Ok(()) => {
                let left_by = read(&file);
                describe(&file, purpose).map_err(|error| failed(path, error))?;
                return Ok(Lock { file, left_by });
            }
            Err(TryLockError::Error(error)) => return Err(failed(path, error)),
            Err(TryLockError::WouldBlock) if attempt >= ATTEMPTS_MAX => return Err(held(path)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
    unreachable!("the last attempt returns")
}

/// Who holds the lock; `None` when nobody does.
pub fn holder(path: &Path) -> Result<Option<Holder>> {
    let file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read(&file).unwrap_or_else(|| Holder {
            pid: 0,
            host: host_name(),
            since: String::new(),
            purpose: "it has not said what for".into(),
        }))),
        Err(TryLockError::Error(error)) => Err(failed(path, error)),
    }
}

/// This machine's name.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown host".into() } else { name.trim().to_owned() }
}

impl Lock {
    /// Who held the lock before and died with it: killed, or with the machine.
    pub fn left_by(&self) -> Option<&Holder> {
        self.left_by.as_ref()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A free file names nobody. Should this fail, the name is stale, which `holder` knows.
        let _ = self.file.set_len(0);
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Not truncated: it may be somebody's.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

/// Writes inside who we are; the lock is ours.
fn describe(file: &File, purpose: &str) -> io::Result<()> {
    let holder = Holder {
        pid: std::process::id(),
        host: host_name(),
        since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        purpose: purpose.to_owned(),
    };
    let mut text = serde_json::to_string(&holder)?;
    text.push('\n');
    file.set_len(0)?;
    file.write_all_at(text.as_bytes(), 0)
}

fn read(file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn held(path: &Path) -> Error {
    let holder = OpenOptions::new().read(true).open(path).ok().and_then(|file| read(&file));
    let by = holder.map_or_else(
        || "by a process that has not said who it is".to_owned(),
        |holder| {
            format!("by process {} on {} since {}: {}", holder.pid, holder.host, holder.since, holder.purpose)
        },
    );
    Error::new(Kind::Locked, format!("{} is held {by}", path.display()))
        .hint("wait until it has ended, or end that process; the lock goes with it, and the file stays")
}

fn failed(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Capacity,
        _ => Kind::Config,
    };
    Error::new(kind, format!("the lock file {} cannot be used", path.display()))
        .because(error)
        .hint("name a place that this user may write in, on a local file system")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/sync.lock");
        (directory, path)
    }

    #[test]
    fn the_second_caller_is_told_who_holds_it() {
        let (_directory, path) = place();
        assert_eq!(holder(&path).unwrap(), None);
        let lock = take(&path, "sync of pipeline li").unwrap();
        let error = take(&path, "another").unwrap_err();
        assert_eq!((error.kind(), error.kind().exit_status()), (Kind::Locked, 5));
        let who = format!("by process {} on {} since 2", std::process::id(), host_name());
        assert!(error.what().contains(&who) && error.what().ends_with(": sync of pipeline li"), "{error}");
        assert_eq!(holder(&path).unwrap().unwrap().purpose, "sync of pipeline li");
        drop(lock);
        assert_eq!(holder(&path).unwrap(), None);
        take(&path, "another").unwrap();
    }

    #[test]
    fn nobody_else_may_read_it() {
        let (_directory, path) = place();
        let _lock = take(&path, "sync").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_file_that_nobody_holds_is_taken_over_whatever_it_says() {
        let (_directory, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for left in
            ["", "12345\n", "{\"pid\":1,\"host\":\"a\",\"since\":\"b\",\"purpose\":\"c\"}", "\u{0}\u{ff}"]
        {
            fs::write(&path, left).unwrap();
            // A child that another test is just starting has the file open until it runs its program.
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while holder(&path).unwrap().is_some() {
                assert!(std::time::Instant::now() < deadline, "it is held by nobody: {left:?}");
                std::thread::sleep(PAUSE);
            }
            let lock = take(&path, "sync").unwrap();
            let said: Holder = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(said.pid, std::process::id());
            drop(lock);
        }
    }

    const CHILD_LOCK: &str = "PGDIODE_TEST_LOCK";

    /// Not a test of its own: what the next one runs in a process that it kills.
    #[test]
    fn holds_a_lock_until_it_is_killed() {
        let Some(path) = std::env::var_os(CHILD_LOCK) else { return };
        let _lock = take(Path::new(&path), "to be killed").unwrap();
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn the_lock_of_a_killed_process_is_free() {
        let (_directory, path) = place();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::holds_a_lock_until_it_is_killed", "--nocapture"])
            .env(CHILD_LOCK, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while holder(&path).unwrap().is_none_or(|holder| holder.pid != child.id()) {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            std::thread::yield_now();
        }
        assert_eq!(take(&path, "ours").unwrap_err().kind(), Kind::Locked);
        child.kill().unwrap();
        child.wait().unwrap();
        take(&path, "ours").unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let error = take(&directory.path().join("file/sync.lock"), "sync").unwrap_err();
        assert!(error.kind() == Kind::Config && error.what().contains("file/sync.lock"), "{error}");
    }
}
