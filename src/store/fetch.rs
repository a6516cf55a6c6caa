//! Fetching an object into a local file: several requests in flight, and on where an earlier attempt stopped.
//!
//! What has come lies beside the file under a hidden name that says which object it is of, in order and without
//! holes; when all is there it is flushed and renamed. An object never changes, so that what an earlier attempt left
//! is its beginning for certain.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::local;
use crate::error::{Error, Result};

/// How an object is read: what pays for one request of this kind of store, and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct Stride {
    pub length: usize,
    pub in_flight: usize,
}

/// `read` answers with exactly the bytes that are asked for, since they are all within `size`.
pub async fn fetch<F>(
    object: &str,
    size: u64,
    to: &Path,
    stride: Stride,
    read: impl Fn(u64, usize) -> F,
) -> Result<()>
where
    F: Future<Output = Result<Bytes>>,
{
    let part = part_path(object, to)?;
    let file = Arc::new(open(&part, size).map_err(|error| local(&part, error))?);
    let start = file.metadata().map_err(|error| local(&part, error))?.len();
    let pieces = (start..size).step_by(stride.length).map(|offset| {
        let length = usize::try_from(size - offset).map_or(stride.length, |left| left.min(stride.length));
        let piece = read(offset, length);
        async move { (offset, length, piece.await) }
    });
    let mut pieces = futures_util::stream::iter(pieces).buffered(stride.in_flight);
    while let Some((offset, length, piece)) = pieces.next().await {
        let piece = piece?;
        if piece.len() != length {
            return Err(Error::unexpected(format!(
                "{object} gave {} bytes instead of {length} at {offset}: it became shorter",
                piece.len()
            ))
            .hint("objects are never changed by pgdiode: look at who else writes there"));
        }
        // At its place: a write of a fetch that was dropped may still go on, and is the same.
        let (file, path) = (Arc::clone(&file), part.clone());
        super::blocking(move || file.write_all_at(&piece, offset).map_err(|error| local(&path, error)))
            .await?;
    }
    let to = to.to_owned();
    super::blocking(move || {
        let finish = || {
            file.sync_all()?;
            fs::rename(&part, &to)
        };
        finish().map_err(|error| local(&to, error))
    })
    .await
}

/// What an earlier attempt left; empty, when it cannot be of this object.
fn open(part: &Path, size: u64) -> std::io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(part)?;
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    Ok(file)
}

pub fn part_path(object: &str, to: &Path) -> Result<PathBuf> {
    let name =
        to.file_name().ok_or_else(|| Error::unexpected(format!("{} is no name of a file", to.display())))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, object.as_bytes());
    let tag = digest.as_ref().iter().take(8).fold(0_u64, |tag, byte| tag << 8 | u64::from(*byte));
    Ok(to.with_file_name(format!(".{}.{tag:016x}.part", name.to_string_lossy())))
}
