//! One object on its way up. It knows how far it has come, so that on a new connection it goes on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};

use super::{Connection, IN_FLIGHT, Sftp, is_file, is_status};
use crate::error::{Error, Result};
use crate::store::{COMPARED_BYTES, Content, Put, Store as _, name, piece_length};

/// Unfinished files that nobody has written to for this long, by the host's own clock, are nobody's.
const LEFTOVER_SECONDS: u32 = 24 * 60 * 60;

pub struct Upload<'a> {
    store: &'a Sftp,
    name: &'a str,
    content: Content<'a>,
    length: u64,
    /// Where it is until it is whole: our own name, so that what is there is ours.
    unfinished: String,
    /// All bytes before this one were acknowledged.
    acknowledged: AtomicU64,
    /// The host was asked to give it its name; the answer may be lost.
    placing: AtomicBool,
}

impl<'a> Upload<'a> {
    pub fn new(store: &'a Sftp, name: &'a str, content: Content<'a>) -> Result<Upload<'a>> {
        let length = content.length()?;
        let unfinished = format!("{}/{}", name::UNFINISHED, name::unfinished(name));
        let (acknowledged, placing) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Upload { store, name, content, length, unfinished, acknowledged, placing })
    }

    pub async fn create(&self, connection: Arc<Connection>) -> Result<Put> {
        let store = self.store;
        if store.attributes(&connection, self.name).await?.is_some() {
            let is_ours = self.placing.load(Ordering::SeqCst) && self.is_held(&connection).await?;
            self.discard(&connection).await;
            return Ok(if is_ours { Put::Created } else { Put::Taken });
        }
        self.write_or_discard(&connection).await?;
        self.make_folders(&connection).await?;
        self.placing.store(true, Ordering::SeqCst);
        let placed = self.place(&connection).await;
        self.discard(&connection).await;
        let put = placed?;
        self.flush_folder(&connection).await;
        Ok(put)
    }

    pub async fn replace(&self, connection: Arc<Connection>) -> Result<()> {
        self.acknowledged.store(0, Ordering::SeqCst);
        self.write_or_discard(&connection).await?;
        self.make_folders(&connection).await?;
        let exchanged = self.store.exchange(&connection, &self.unfinished, self.name).await;
        if exchanged.is_err() {
            self.discard(&connection).await;
        }
        exchanged?;
        self.flush_folder(&connection).await;
        Ok(())
    }

    /// Nothing stays behind unless the connection is lost; then it is gone on with, or swept a day later.
    async fn write_or_discard(&self, connection: &Connection) -> Result<()> {
        let written = self.write(connection).await;
        if written.as_ref().is_err_and(|error| !error.retries()) {
            self.discard(connection).await;
        }
        written
    }

    async fn write(&self, connection: &Connection) -> Result<()> {
        let store = self.store;
        self.make_folder(connection, name::UNFINISHED).await?;
        let (handle, start) = self.open(connection).await?;
        let content = self.content.open()?;
        let packets = (start..self.length).step_by(connection.packet).map(|offset| {
            let piece = content.piece(offset, piece_length(offset, self.length, connection.packet));
            self.write_packet(connection, &handle, offset, piece)
        });
        let mut written = futures_util::stream::iter(packets).buffered(IN_FLIGHT);
        // In order: what comes after a packet that failed does not count.
        while let Some(end) = written.next().await {
            match end? {
                Ok(end) => self.acknowledged.store(end, Ordering::SeqCst),
                Err(error) => return Err(store.failed_write(connection, self.name, error).await),
            }
        }
        drop(written);
        self.finish(connection, handle).await
    }

    /// Where the packet ends.
    async fn write_packet(
        &self,
        connection: &Connection,
        handle: &str,
        offset: u64,
        piece: Result<Bytes>,
    ) -> Result<Result<u64, SftpError>> {
        let piece = piece?;
        let end = offset + piece.len() as u64;
        Ok(connection.session.write(handle, offset, piece.to_vec()).await.map(|_| end))
    }

    /// Opens the unfinished file where it is to be gone on with.
    async fn open(&self, connection: &Connection) -> Result<(String, u64)> {
        let (store, session) = (self.store, &connection.session);
        let path = store.path(&self.unfinished);
        let offset = self.acknowledged.load(Ordering::SeqCst);
        if offset > 0 {
            let there = store.attributes(connection, &self.unfinished).await?;
            if there.is_some_and(|there| there.size.unwrap_or(0) >= offset) {
                let opened = session.open(path, OpenFlags::WRITE, FileAttributes::empty()).await;
                let opened = opened.map_err(|error| store.failed(self.name, error))?;
                return Ok((opened.handle, offset));
            }
        }
        self.acknowledged.store(0, Ordering::SeqCst);
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let attributes = FileAttributes { permissions: Some(0o640), ..FileAttributes::empty() };
        match session.open(path, flags, attributes).await {
            Ok(opened) => {
                if !connection.swept.swap(true, Ordering::SeqCst) {
                    self.sweep(connection, &opened.handle).await;
                }
                Ok((opened.handle, 0))
            }
            Err(error) => Err(store.failed_write(connection, self.name, error).await),
        }
    }

    /// On the host's disk, and as long as it has to be.
    async fn finish(&self, connection: &Connection, handle: String) -> Result<()> {
        let (store, session) = (self.store, &connection.session);
        if connection.offers("fsync@openssh.com")
            && let Err(error) = session.fsync(handle.as_str()).await
        {
            return Err(store.failed_write(connection, self.name, error).await);
        }
        let size =
            session.fstat(handle.as_str()).await.map_err(|error| store.failed(self.name, error))?.attrs.size;
        session.close(handle).await.map_err(|error| store.failed(self.name, error))?;
        if size != Some(self.length) {
            return Err(Error::unexpected(format!(
                "{}/{} has {size:?} bytes after {} were written",
                store.display(),
                self.name,
                self.length
            ))
            .hint("the host's disk or SFTP server loses what is written: do not use it"));
        }
        Ok(())
    }

    /// Gives the finished file its name, if nobody has it.
    async fn place(&self, connection: &Connection) -> Result<Put> {
        let (store, session) = (self.store, &connection.session);
        let (from, to) = (store.path(&self.unfinished), store.path(self.name));
        let by_link = connection.offers("hardlink@openssh.com");
        let mut placed = if by_link {
            session.hardlink(from.as_str(), to.as_str()).await
        } else {
            session.rename(from.as_str(), to.as_str()).await
        };
        let has_failed = |placed: &Result<_, SftpError>| {
            placed.as_ref().is_err_and(|error| {
                is_status(error, StatusCode::Failure) || is_status(error, StatusCode::OpUnsupported)
            })
        };
        // One code stands for all failures: whether the name was taken is seen by looking.
        if has_failed(&placed) && store.attributes(connection, self.name).await?.is_some() {
            return Ok(Put::Taken);
        }
        if by_link && has_failed(&placed) {
            // The host's file system has no hard links.
            placed = session.rename(from.as_str(), to.as_str()).await;
            if has_failed(&placed) && store.attributes(connection, self.name).await?.is_some() {
                return Ok(Put::Taken);
            }
        }
        placed.map(|_| Put::Created).map_err(|error| store.failed(self.name, error))
    }

    /// Whether the object that has the name has our content: then it was our request that succeeded.
    async fn is_held(&self, connection: &Connection) -> Result<bool> {
        let Some(file) = self.store.open_file(connection, self.name).await? else { return Ok(false) };
        let content = self.content.open()?;
        let mut is_same = file.size == self.length;
        let mut offset = 0;
        while is_same && offset < self.length {
            let ours = content.piece(offset, piece_length(offset, self.length, COMPARED_BYTES))?;
            let there = self.store.read_open(connection, &file, offset, ours.len()).await?;
            is_same = ours == there;
            offset += ours.len() as u64;
        }
        let _ = connection.session.close(&file.handle).await;
        Ok(is_same)
    }

    async fn discard(&self, connection: &Connection) {
        let _ = connection.session.remove(self.store.path(&self.unfinished)).await;
    }

    async fn make_folders(&self, connection: &Connection) -> Result<()> {
        for (end, _) in self.name.match_indices('/') {
            self.make_folder(connection, &self.name[..end]).await?;
        }
        Ok(())
    }

    async fn make_folder(&self, connection: &Connection, folder: &str) -> Result<()> {
        let store = self.store;
        if store.attributes(connection, folder).await?.is_some() {
            return Ok(());
        }
        let attributes = FileAttributes { permissions: Some(0o750), ..FileAttributes::empty() };
        match connection.session.mkdir(store.path(folder), attributes).await {
            Ok(_) => {
                self.flush(connection, name::split(folder).0).await;
                Ok(())
            }
            // Another writer was faster.
            Err(error)
                if is_status(&error, StatusCode::Failure)
                    && store.attributes(connection, folder).await?.is_some() =>
            {
                Ok(())
            }
            Err(error) => Err(store.failed_write(connection, self.name, error).await),
        }
    }

    async fn flush_folder(&self, connection: &Connection) {
        self.flush(connection, name::split(self.name).0).await;
    }

    /// A directory that is opened as if it were a file can be flushed like one, which makes names durable. OpenSSH on
    /// Linux lets that be done; where it is not, the host's file system has to do it by itself soon.
    async fn flush(&self, connection: &Connection, folder: &str) {
        if !connection.offers("fsync@openssh.com") {
            return;
        }
        let session = &connection.session;
        let path = self.store.path(folder);
        if let Ok(opened) = session.open(path, OpenFlags::READ, FileAttributes::empty()).await {
            let _ = session.fsync(opened.handle.as_str()).await;
            let _ = session.close(opened.handle).await;
        }
    }

    /// Removes what killed writers left, compared with a file made just now. None of it must succeed.
    async fn sweep(&self, connection: &Connection, just_now: &str) {
        let (store, session) = (self.store, &connection.session);
        let Ok(now) = session.fstat(just_now).await else { return };
        let Some(now) = now.attrs.mtime else { return };
        let Ok(entries) = store.entries(connection, name::UNFINISHED).await else { return };
        for entry in entries.iter().filter(|entry| is_file(&entry.attributes)) {
            if entry.attributes.mtime.is_some_and(|then| now.saturating_sub(then) > LEFTOVER_SECONDS) {
                let path = store.path(&format!("{}/{}", name::UNFINISHED, entry.name));
                let _ = session.remove(path).await;
            }
        }
    }
}
