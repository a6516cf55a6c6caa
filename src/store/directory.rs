//! Objects as files of a directory, on a disk of this machine or one that is mounted.
//!
//! An object is written under a name of its own in `.partial/`, flushed, and linked to its name: `link(2)` refuses a
//! name that exists, in one step. Then the directory is flushed. Who writes holds an `flock` on the unfinished file, so
//! that what a killed writer left is known and removed by the next one. Where the file system has no hard links,
//! `renameat2` with `RENAME_NOREPLACE` does the same; where it has neither, nothing can be promised, and it is refused.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags};

use super::fetch::Stride;
use super::{Content, Object, Put, Store, blocking, local, name, read_at};
use crate::error::{Error, Result};

const STRIDE: Stride = Stride { length: 4 * 1024 * 1024, in_flight: 2 };

#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The directory must be there: one that is missing may be a disk that is not mounted.
    pub fn open(root: impl Into<PathBuf>) -> Result<Directory> {
        let root = root.into();
        match fs::metadata(&root) {
            Ok(metadata) if metadata.is_dir() => Ok(Directory { root }),
            Ok(_) => Err(Error::config(format!("{} is no directory", root.display()))
                .hint("name a directory that the archive has for itself")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::config(format!("there is no directory {}", root.display()))
                    .because(error)
                    .hint(format!("is its disk mounted? else create it: mkdir -p {}", root.display())))
            }
            Err(error) => Err(local(&root, error)),
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        name::check(name)?;
        Ok(self.root.join(name))
    }

    fn folder(&self, folder: &str) -> Result<PathBuf> {
        name::check_folder(folder)?;
        Ok(if folder.is_empty() { self.root.clone() } else { self.root.join(folder) })
    }
}

impl Store for Directory {
    fn display(&self) -> String {
        self.root.display().to_string()
    }

    async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>> {
        let (path, folder) = (self.folder(folder)?, folder.to_owned());
        let after = after.map(str::to_owned);
        blocking(move || {
            let mut objects = Vec::new();
            for (part, entry) in entries(&path)? {
                let name = name::join(&folder, &part);
                if after.as_ref().is_some_and(|after| name <= *after) {
                    continue;
                }
                match fs::metadata(entry.path()) {
                    Ok(metadata) if metadata.is_file() => objects.push(Object { name, size: metadata.len() }),
                    Ok(_) => {}
                    // Removed meanwhile, or a link to nowhere.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(local(&entry.path(), error)),
                }
            }
            objects.sort();
            Ok(objects)
        })
        .await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let (path, folder) = (self.folder(folder)?, folder.to_owned());
        blocking(move || {
            let mut folders: Vec<String> = entries(&path)?
                .into_iter()
                .filter(|(_, entry)| entry.path().is_dir())
                .map(|(part, _)| name::join(&folder, &part))
                .collect();
            folders.sort();
            Ok(folders)
        })
        .await
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.path(name)?;
        blocking(move || match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(local(&path, error)),
        })
        .await
    }

    async fn read_if_any(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        let path = self.path(name)?;
        blocking(move || {
            let read = |file: File| {
                if file.metadata()?.is_file() { read_at(&file, offset, length).map(Some) } else { Ok(None) }
            };
            match File::open(&path).and_then(read) {
                Ok(bytes) => Ok(bytes),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(local(&path, error)),
            }
        })
        .await
    }

    async fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        let Some(size) = self.size(name).await? else {
            return self.read(name, 0, 0).await.map(drop);
        };
        let object = format!("{}/{name}", self.display());
        super::fetch::fetch(&object, size, to, STRIDE, |offset, length| self.read(name, offset, length)).await
    }

    async fn create(&self, name: &str, content: Content<'_>) -> Result<Put> {
        let (root, path) = (self.root.clone(), self.path(name)?);
        let content = Owned::from(content);
        blocking(move || create(&root, &path, &content)).await
    }

    async fn replace(&self, name: &str, content: Bytes) -> Result<()> {
        let (root, path) = (self.root.clone(), self.path(name)?);
        blocking(move || {
            let unfinished = Unfinished::write(&root, &path, &Owned::Bytes(content))?;
            make_folders(&root, &path)?;
            fs::rename(&unfinished.path, &path).map_err(|error| local(&path, error))?;
            flush_folder_of(&path)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => flush_folder_of(&path),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(local(&path, error)),
        })
        .await
    }
}

/// A content that a thread can have.
enum Owned {
    Bytes(Bytes),
    File(PathBuf),
}

impl From<Content<'_>> for Owned {
    fn from(content: Content<'_>) -> Owned {
        match content {
            Content::Bytes(bytes) => Owned::Bytes(bytes),
            Content::File(path) => Owned::File(path.to_owned()),
        }
    }
}

fn create(root: &Path, path: &Path, content: &Owned) -> Result<Put> {
    let taken = || {
        // Whoever made it may have been killed before this.
        flush_folder_of(path).map(|()| Put::Taken)
    };
    if fs::symlink_metadata(path).is_ok() {
        return taken();
    }
    let unfinished = Unfinished::write(root, path, content)?;
    make_folders(root, path)?;
    match place(&unfinished, path) {
        Ok(()) => flush_folder_of(path).map(|()| Put::Created),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => taken(),
        Err(error) => Err(local(path, error)),
    }
}

/// Gives the finished file its name, if nobody has it.
fn place(unfinished: &Unfinished, path: &Path) -> io::Result<()> {
    match fs::hard_link(&unfinished.path, path) {
        // A network file system asks again when an answer was lost, and is told of its own success.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && unfinished.is_at(path) => Ok(()),
        Err(error) if has_no_links(&error) => rename_if_absent(&unfinished.path, path),
        result => result,
    }
}

fn rename_if_absent(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(|errno| match errno {
        Errno::INVAL | Errno::NOSYS => io::Error::new(
            ErrorKind::Unsupported,
            "this file system has neither hard links nor renames that spare what exists: use another",
        ),
        errno => errno.into(),
    })
}

fn has_no_links(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK))
}

/// A file that is being written; dropping it removes it.
struct Unfinished {
    path: PathBuf,
    /// Open, and with it locked.
    file: File,
}

impl Unfinished {
    /// Writes and flushes the content beside the objects, and removes what killed writers left there.
    fn write(root: &Path, path: &Path, content: &Owned) -> Result<Unfinished> {
        let directory = root.join(name::UNFINISHED);
        make_folder(&directory).map_err(|error| local(&directory, error))?;
        sweep(&directory);
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let mut unfinished = Unfinished::open(&directory, &name).map_err(|error| local(&directory, error))?;
        let written = match content {
            Owned::Bytes(bytes) => io::Write::write_all(&mut unfinished.file, bytes),
            Owned::File(from) => {
                let mut source = File::open(from).map_err(|error| local(from, error))?;
                io::copy(&mut source, &mut unfinished.file).map(drop)
            }
        };
        written.and_then(|()| unfinished.file.sync_all()).map_err(|error| local(path, error))?;
        Ok(unfinished)
    }

    fn open(directory: &Path, name: &str) -> io::Result<Unfinished> {
        loop {
            // A new name each time: who sweeps may be about to remove the last one.
            let path = directory.join(name::unfinished(name));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path)?;
            let unfinished = Unfinished { path, file };
            match unfinished.file.try_lock() {
                // Without locks nothing is swept either.
                Err(fs::TryLockError::Error(_)) => return Ok(unfinished),
                Ok(()) if unfinished.is_at(&unfinished.path) => return Ok(unfinished),
                // Somebody took it for a leftover, in the moment before it was locked.
                Ok(()) | Err(fs::TryLockError::WouldBlock) => {}
            }
        }
    }

    fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), fs::symlink_metadata(path)) {
            (Ok(ours), Ok(there)) => identity(ours) == identity(there),
            _ => false,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already where it was renamed; a leftover is harmless and swept later.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the unfinished files that no living writer holds. None of it must succeed.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What is in a directory, by names that could be objects'; nothing, when it is not there.
fn entries(path: &Path) -> Result<Vec<(String, fs::DirEntry)>> {
    let list = match fs::read_dir(path) {
        Ok(list) => list,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(local(path, error)),
    };
    let mut entries = Vec::new();
    for entry in list {
        let entry = entry.map_err(|error| local(path, error))?;
        if let Some(part) = entry.file_name().to_str().filter(|part| name::is_plain(part)) {
            entries.push((part.to_owned(), entry));
        }
    }
    Ok(entries)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The folders of an object, below the root, durably.
fn make_folders(root: &Path, path: &Path) -> Result<()> {
    let below = path.parent().and_then(|folder| folder.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    let mut folder = root.to_owned();
    for part in below {
        folder.push(part);
        make_folder(&folder).map_err(|error| local(&folder, error))?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    match DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(folder.parent().unwrap_or(folder))?.sync_all(),
    }
}

/// A new name is durable when its directory is.
fn flush_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| local(folder, error))
}

#[cfg(test)]
mod tests;
