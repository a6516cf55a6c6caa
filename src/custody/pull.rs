//! An object as a stream for code that blocks: read ahead by a few pieces, never more.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::source::archive::Packed;

/// How much is asked for at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// Pieces that wait for whoever parses them.
const AHEAD: usize = 2;

/// Gives a change file, or any other object, to `work`, on a thread for what blocks. `passed` hears of bytes as they come.
///
/// Dropping the future ends the thread at its next piece.
pub async fn pull<T: Send + 'static>(
    store: &Packed,
    name: &str,
    mut passed: impl FnMut(u64),
    work: impl FnOnce(Pulled) -> T + Send + 'static,
) -> Result<T> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    let feed = async move {
        let mut offset = 0;
        loop {
            let piece = store.read(name, offset, PIECE_BYTES).await?;
            let (length, is_last) = (piece.len() as u64, piece.len() < PIECE_BYTES);
            offset += length;
            passed(length);
            // Who has seen enough hears no more.
            if sender.send(piece).await.is_err() || is_last {
                return Ok(());
            }
        }
    };
    let worker = tokio::task::spawn_blocking(move || work(Pulled { pieces, piece: Bytes::new() }));
    let (fed, worked) = tokio::join!(feed, worker);
    fed.and(match worked {
        Ok(worked) => Ok(worked),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::unexpected("the process is ending").because(error)),
        },
    })
}

/// The reading end. It ends early when the store fails, which [`pull`] then says instead of its result.
pub struct Pulled {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pulled {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

/// Counts and hashes what is read.
pub struct Tally<R: Read> {
    from: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Tally<R> {
    pub fn new(from: R) -> Tally<R> {
        Tally { from, hash: Sha256::default(), bytes: 0 }
    }

    /// The hash and the size of all there is, whether it has been read before or not.
    pub fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.hash.finish(), self.bytes))
    }
}

impl<R: Read> Read for Tally<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hash.update(&into[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
