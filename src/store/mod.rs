//! Where objects lie: a directory, a directory over SFTP, or a prefix in an S3 bucket. Nothing here knows their content.
//!
//! ```text
//! Location::parse("sftp://u@h/archive") --open--> AnyStore --create--> whole, durable, and never another's
//!                                                          --list, size, read, fetch-->
//! ```
//!
//! An object is made once and never changed, so whoever sees a name sees all of its content. Two writers that make the
//! same name are told apart by the place itself: `link(2)`, SFTP's hard link, S3's conditional put. Everything that
//! appends safely is built on that alone. `docs/decisions/0019-stores.md` has the reasons; `tests/store/` holds one
//! suite of scenarios that every kind must pass.

mod any;
mod directory;
mod fetch;
mod location;
mod name;
mod s3;
mod sftp;

use std::future::Future;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Kind, Result};

pub use crate::error::Side;
pub use any::{AnyStore, S3Options, SftpOptions, StoreOptions};
pub use directory::Directory;
pub use fetch::{Stride, fetch as fetch_pieces};
pub use location::Location;
pub use s3::S3;
pub use sftp::Sftp;

/// How much [`Store::holds`] compares at once.
const COMPARED_BYTES: usize = 1024 * 1024;

/// Objects by name below one root: made once, whole, and never changed.
///
/// Names are relative to the root, `folder/name`: letters, digits and `._-+=,:@`, no part of them beginning with a
/// dot. Others are refused, and when they lie there anyway, they are not listed. The root itself is never made: where
/// it is missing, a disk may be.
pub trait Store: Send + Sync {
    /// Where it is, for people: no secret in it.
    fn display(&self) -> String;

    /// The objects directly in `folder` (`""` is the root), only those after the name `after`, in byte order. Names
    /// are relative to the root. Unfinished uploads are not among them; a folder that is not there is empty.
    fn list(&self, folder: &str, after: Option<&str>) -> impl Future<Output = Result<Vec<Object>>> + Send;

    /// The folders directly in `folder`, in byte order, relative to the root and without a slash at the end.
    fn folders(&self, folder: &str) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// `None`: there is no such object.
    fn size(&self, name: &str) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// Up to `length` bytes from `offset`, fewer only at the end; `None`: there is no such object.
    fn read_if_any(
        &self,
        name: &str,
        offset: u64,
        length: usize,
    ) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// Copies the whole object to a local file, several requests in flight. A fetch to the same file that was
    /// interrupted goes on where it stopped; the file is there only when it is whole.
    fn fetch(&self, name: &str, to: &Path) -> impl Future<Output = Result<()>> + Send;

    /// Makes an object. It is durable when this returns; it is never visible half written, whatever is killed; and one
    /// of that name that is there already stays: [`Put::Taken`]. When the answer to an attempt was lost, the object
    /// that is there may be ours: [`Store::holds`] tells.
    fn create(&self, name: &str, content: Content<'_>) -> impl Future<Output = Result<Put>> + Send;

    /// Makes or replaces an object that is one writer's own. All or nothing; durable when this returns.
    fn replace(&self, name: &str, content: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Ok, too, when there is none.
    fn remove(&self, name: &str) -> impl Future<Output = Result<()>> + Send;

    /// Up to `length` bytes from `offset`, fewer only at the end, of an object that must be there.
    fn read(&self, name: &str, offset: u64, length: usize) -> impl Future<Output = Result<Bytes>> + Send {
        async move {
            self.read_if_any(name, offset, length).await?.ok_or_else(|| {
                Error::unexpected(format!("{}: there is no object {name}", self.display()))
                    .hint("it was there or should have been; objects are only removed by pruning: has somebody deleted it?")
            })
        }
    }

    /// The whole content of a small object; `None`: there is no such object; an error, when it is longer than `max`.
    fn read_all(&self, name: &str, max: usize) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        async move {
            let content = self.read_if_any(name, 0, max + 1).await?;
            if content.as_ref().is_some_and(|content| content.len() > max) {
                return Err(Error::refused(format!("{}: {name} has more than {max} bytes", self.display()))
                    .hint("pgdiode makes no object of this kind that large; look at who wrote it"));
            }
            Ok(content)
        }
    }

    /// Whether the object is there with exactly this content.
    fn holds(&self, name: &str, content: Content<'_>) -> impl Future<Output = Result<bool>> + Send {
        async move {
            let (length, content) = (content.length()?, content.open()?);
            if self.size(name).await? != Some(length) {
                return Ok(false);
            }
            let mut offset = 0;
            while offset < length {
                let ours = content.piece(offset, piece_length(offset, length, COMPARED_BYTES))?;
                let there = self.read_if_any(name, offset, ours.len()).await?;
                if there.as_ref() != Some(&ours) {
                    return Ok(false);
                }
                offset += ours.len() as u64;
            }
            Ok(true)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    pub name: String,
    pub size: u64,
}

/// What an object is made of.
#[derive(Debug, Clone)]
pub enum Content<'a> {
    Bytes(Bytes),
    /// A local file, which nobody writes any more.
    File(&'a Path),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Put {
    Created,
    /// There is an object of that name already; it was not touched.
    Taken,
}

impl Content<'_> {
    pub fn length(&self) -> Result<u64> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::File(path) => match std::fs::metadata(path) {
                Ok(metadata) => Ok(metadata.len()),
                Err(error) => Err(local(path, error)),
            },
        }
    }

    /// For reading it in pieces.
    fn open(&self) -> Result<OpenContent<'_>> {
        match self {
            Content::Bytes(bytes) => Ok(OpenContent::Bytes(bytes)),
            Content::File(path) => match std::fs::File::open(path) {
                Ok(file) => Ok(OpenContent::File(path, file)),
                Err(error) => Err(local(path, error)),
            },
        }
    }
}

/// A content that is being read.
enum OpenContent<'a> {
    Bytes(&'a Bytes),
    File(&'a Path, std::fs::File),
}

impl OpenContent<'_> {
    /// `length` bytes from `offset`, which must be there.
    fn piece(&self, offset: u64, length: usize) -> Result<Bytes> {
        match self {
            OpenContent::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..bytes.len().min(start + length)))
            }
            OpenContent::File(path, file) => {
                let piece = read_at(file, offset, length).map_err(|error| local(path, error))?;
                if piece.len() < length {
                    return Err(Error::unexpected(format!("{} became shorter", path.display())));
                }
                Ok(piece)
            }
        }
    }
}

/// Of the piece at `offset` of what has `length` bytes, in pieces of `max`.
fn piece_length(offset: u64, length: u64, max: usize) -> usize {
    usize::try_from(length.saturating_sub(offset)).map_or(max, |left| left.min(max))
}

/// Up to `length` bytes of a file, fewer only at its end.
fn read_at(file: &std::fs::File, offset: u64, length: usize) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut buffer = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(length)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

/// What a failing file of this machine means.
fn local(path: &Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let what = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::new(Kind::Capacity, format!("no space is left for {what}"))
                .hint("make room, or raise the quota; nothing half written was left there")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Error::refused(format!("{what} cannot be used by this user"))
                .hint("give the user that pgdiode runs as the right to read and write there")
        }
        _ => Error::unexpected(format!("{what} cannot be used"))
            .hint("look at the file system and the system's log"),
    }
    .because(error)
}

/// Runs what blocks on a thread for that. It goes on to its end, even when nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::unexpected("the process is ending").because(error)),
        },
    }
}
