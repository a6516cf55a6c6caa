//! A file of lines that may change while it is in use.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};

/// No file of users or tokens is longer.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a file of lines becomes.
pub trait Listed: Default + Send + Sync {
    /// The file, for errors: `users_file`.
    const WHAT: &'static str;

    /// Takes one line in; what is wrong with it says nothing of a secret.
    fn add(&mut self, line: &str) -> Result<()>;
}

/// A file as it is now.
///
/// At the start every line must be right. Later, whoever edits it is not there to be told: a line that is wrong lets
/// nobody in and is logged, and of a file that cannot be read nobody is known. So an edit never leaves somebody in whom
/// it took out.
#[derive(Debug)]
pub struct Kept<T> {
    path: PathBuf,
    read: Mutex<(Option<Stamp>, Arc<T>)>,
}

/// By what a change shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<T: Listed> Kept<T> {
    pub fn open(path: &Path) -> Result<Kept<T>> {
        let (stamp, text) = read::<T>(path)?;
        let (listed, mut wrong) = lines::<T>(path, &text);
        if wrong.is_empty() {
            return Ok(Kept { path: path.to_owned(), read: Mutex::new((Some(stamp), Arc::new(listed))) });
        }
        Err(wrong.swap_remove(0))
    }

    /// What the file says now, and what is wrong with each line that is.
    pub fn look(path: &Path) -> Result<(T, Vec<Error>)> {
        read::<T>(path).map(|(_, text)| lines::<T>(path, &text))
    }

    /// What the file says, read again if it has changed.
    pub fn now(&self) -> Arc<T> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = std::fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        if stamp != read.0 {
            *read = self.anew();
        }
        read.1.clone()
    }

    fn anew(&self) -> (Option<Stamp>, Arc<T>) {
        match self::read::<T>(&self.path) {
            Ok((stamp, text)) => {
                let (listed, wrong) = lines::<T>(&self.path, &text);
                for error in wrong {
                    tracing::error!("{}; that line lets nobody in", error.chain());
                }
                tracing::info!("read {} anew", self.path.display());
                (Some(stamp), Arc::new(listed))
            }
            Err(error) => {
                tracing::error!("{}; until it can be read, nobody in it is let in", error.chain());
                (None, Arc::default())
            }
        }
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn read<T: Listed>(path: &Path) -> Result<(Stamp, String)> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        Error::config(format!("cannot read {} {shown}", T::WHAT))
            .because(error)
            .hint("check the path and its owner; it counts from the configuration file's directory")
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    // Only hashes are in there, and mounted secrets are often readable; but a line is an account.
    if metadata.mode() & 0o022 != 0 {
        return Err(Error::config(format!("{} {shown} can be written by others than its owner", T::WHAT))
            .hint(format!("chmod 600 {shown}")));
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok((Stamp::of(&metadata), text))
}

fn lines<T: Listed>(path: &Path, text: &str) -> (T, Vec<Error>) {
    let mut listed = T::default();
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err(error) = listed.add(line) {
            wrong.push(error.context(format!("{}:{}", path.display(), number + 1)));
        }
    }
    (listed, wrong)
}

#[cfg(test)]
pub(super) fn parsed<T: Listed>(text: &str) -> Result<T> {
    let (listed, mut wrong) = lines::<T>(Path::new("file"), text);
    if wrong.is_empty() { Ok(listed) } else { Err(wrong.swap_remove(0)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::credentials::Tokens;

    fn line(name: &str, digit: char) -> String {
        format!("{name}:{}:viewer:never\n", String::from(digit).repeat(64))
    }

    #[test]
    fn whoever_is_taken_out_of_the_file_is_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let names = |kept: &Kept<Tokens>| kept.now().names();
        std::fs::write(&path, line("a", '1') + "# nobody\n\n" + &line("b", '2')).unwrap();
        let kept = Kept::<Tokens>::open(&path).unwrap();
        assert_eq!(names(&kept), ["a", "b"]);
        std::fs::write(&path, line("b", '2')).unwrap();
        assert_eq!(names(&kept), ["b"]);
        // A slip of the pen does not bring the line back that it replaced.
        std::fs::write(&path, line("c", '3') + "b:oops\n").unwrap();
        assert_eq!(names(&kept), ["c"]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(names(&kept), [""; 0]);
        std::fs::write(&path, line("d", '4')).unwrap();
        assert_eq!(names(&kept), ["d"]);
    }

    #[test]
    fn a_file_that_others_can_write_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        std::fs::write(&path, line("a", '1')).unwrap();
        for (mode, is_fine) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Kept::<Tokens>::open(&path).is_ok(), is_fine, "{mode:o}");
        }
        let missing = Kept::<Tokens>::open(&directory.path().join("none")).unwrap_err();
        assert!(missing.what().starts_with("cannot read tokens_file "), "{missing:?}");
    }
}
