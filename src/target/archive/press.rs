//! The press: a thread that hashes, compresses, encrypts and writes a file's lines while the next ones are made.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::archive::draft::{Press, Sums};
use crate::archive::names;
use crate::error::{Error, Kind, Result};
use crate::target::archive::Making;

/// Pieces between the pump and the press.
const PIECES_MAX: usize = 8;

pub(super) struct Pressing {
    pieces: mpsc::Sender<Vec<u8>>,
    ended: JoinHandle<Result<Sums>>,
    spooled: Spooled,
}

/// A file in the spool directory; gone when this is dropped.
pub(super) struct Spooled(PathBuf);

impl Spooled {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // What stays is overwritten by the next run.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Pressing {
    pub(super) fn begin(making: &Making, number: u64) -> Result<Pressing> {
        let path = making.spool.join(names::change_file(number, making.stored));
        let failed = |error: std::io::Error| spool_failed(&making.spool, error);
        let file = File::create(&path).map_err(failed)?;
        let (out, recipients) = (BufWriter::new(file), making.keys.recipients.as_ref());
        let mut press = Press::encrypting(out, making.stored, making.level, recipients).map_err(failed)?;
        let (pieces, mut received) = mpsc::channel::<Vec<u8>>(PIECES_MAX);
        let spool = making.spool.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let failed = |error: std::io::Error| spool_failed(&spool, error);
            while let Some(piece) = received.blocking_recv() {
                press.write(&piece).map_err(failed)?;
            }
            let (mut out, sums) = press.finish().map_err(failed)?;
            std::io::Write::flush(&mut out).map_err(failed)?;
            Ok(sums)
        });
        Ok(Pressing { pieces, ended, spooled: Spooled(path) })
    }

    pub(super) async fn press(&mut self, piece: Vec<u8>) -> Result<()> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // It takes no more: it has failed.
        match (&mut self.ended).await {
            Ok(Err(error)) => Err(error),
            _ => Err(Error::unexpected("the thread that writes change files failed")),
        }
    }

    pub(super) async fn finish(self) -> Result<(Spooled, Sums)> {
        drop(self.pieces);
        let ended = self.ended.await;
        let sums = ended.map_err(|error| {
            Error::unexpected("the thread that writes change files failed").because(error)
        })??;
        Ok((self.spooled, sums))
    }
}

/// What writing into the spool directory came to.
pub fn spool_failed(spool: &Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    let is_full =
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge);
    let kind = if is_full { Kind::Capacity } else { Kind::Unexpected };
    Error::new(kind, format!("cannot write to the spool directory {}", spool.display()))
        .hint("Choose one with room for a few change files: archive.spool_dir.")
        .because(error)
}
