//! Objects as files of a directory that an SSH server has.
//!
//! What [`Directory`](super::Directory) does by system calls is done by requests: an object is written under a name of
//! its own in `.partial/`, flushed (`fsync@openssh.com`), and hard-linked to its name (`hardlink@openssh.com`, which
//! refuses one that exists) or renamed, which SFTP version 3 lets fail where there is such a name. Host keys are always
//! checked. A connection that died is made anew once per call, and a call goes on where it stopped; if that fails
//! too, the caller is told that the place cannot be reached.

mod connection;
mod known_hosts;
mod upload;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::sync::Mutex;

use self::connection::{Address, Connection};
use self::upload::Upload;
use super::fetch::Stride;
use super::{Content, Object, Put, SftpOptions, Store, name};
use crate::error::{Error, Kind, Result, Side};

/// Packets in flight for one read or write: they fill a line of 100 ms at 20 MB/s, and take 2 MiB.
const IN_FLIGHT: usize = 64;

/// A fetch asks for pieces of eight packets, eight at once.
const STRIDE: Stride = Stride { length: 256 * 1024, in_flight: 8 };

pub struct Sftp {
    address: Address,
    /// Absolute, without a slash at its end.
    root: String,
    options: SftpOptions,
    side: Side,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl fmt::Debug for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sftp({})", self.display())
    }
}

impl Sftp {
    /// Logs in, and looks whether the directory is there.
    pub async fn open(
        user: &str,
        host: &str,
        port: u16,
        root: &str,
        options: SftpOptions,
        side: Side,
    ) -> Result<Sftp> {
        let address = Address { user: user.to_owned(), host: host.to_owned(), port };
        let store = Sftp { address, root: root.to_owned(), options, side, connection: Mutex::new(None) };
        let attributes = store
            .again(|connection| {
                let store = &store;
                async move { store.attributes(&connection, "").await }
            })
            .await?;
        match attributes {
            Some(attributes) if is_folder(&attributes) => Ok(store),
            Some(_) => Err(Error::config(format!("{} is no directory", store.display()))
                .hint("name a directory that the archive has for itself")),
            None => Err(Error::config(format!("there is no directory {}", store.display())).hint(format!(
                "is its disk mounted there? else create it: ssh -p {port} {user}@{host} mkdir -p {root}"
            ))),
        }
    }

    /// The connection, made if there is none that lives.
    async fn connect(&self) -> Result<Arc<Connection>> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| !connection.is_dead()) {
            return Ok(Arc::clone(connection));
        }
        let fresh = Arc::new(Connection::open(&self.address, &self.options, self.side).await?);
        *connection = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// The next call makes a new one.
    async fn forget(&self, dead: &Arc<Connection>) {
        let mut connection = self.connection.lock().await;
        if connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, dead)) {
            *connection = None;
        }
    }

    /// Does what can be done twice, and does it again when the connection turns out to be dead.
    async fn again<T, F>(&self, work: impl Fn(Arc<Connection>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let connection = self.connect().await?;
        match self.attempt(&connection, &work).await {
            Err(error) if error.retries() => {
                let connection = self.connect().await?;
                self.attempt(&connection, &work).await
            }
            result => result,
        }
    }

    async fn attempt<T, F>(
        &self,
        connection: &Arc<Connection>,
        work: &impl Fn(Arc<Connection>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let result = tokio::select! {
            biased;
            result = work(Arc::clone(connection)) => result,
            () = connection.died() => Err(Error::new(
                self.side.unreachable(),
                format!("{}: the connection broke off", self.display()),
            )
            .hint("is the host up? the SSH server's log may say why it ended")),
        };
        if result.as_ref().is_err_and(Error::retries) {
            self.forget(connection).await;
        }
        result
    }

    fn path(&self, name: &str) -> String {
        if name.is_empty() { self.root.clone() } else { format!("{}/{name}", self.root) }
    }

    /// `None`: there is nothing of that name. Links are followed.
    async fn attributes(&self, connection: &Connection, name: &str) -> Result<Option<FileAttributes>> {
        let path = self.path(name);
        self.unless_absent(name, connection.session.stat(path).await.map(|attrs| attrs.attrs))
    }

    fn unless_absent<T>(&self, name: &str, result: Result<T, SftpError>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_status(&error, StatusCode::NoSuchFile) => Ok(None),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// What is in a folder, with `.` and `..`; empty, when it is not there.
    async fn entries(&self, connection: &Connection, folder: &str) -> Result<Vec<Entry>> {
        let session = &connection.session;
        let Some(opened) = self.unless_absent(folder, session.opendir(self.path(folder)).await)? else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        let read = loop {
            match session.readdir(&opened.handle).await {
                Ok(names) => entries.extend(
                    names.files.into_iter().map(|file| Entry { name: file.filename, attributes: file.attrs }),
                ),
                Err(error) if is_status(&error, StatusCode::Eof) => break Ok(entries),
                Err(error) => break Err(self.failed(folder, error)),
            }
        };
        let _ = session.close(opened.handle).await;
        read
    }

    /// The entries that could be ours, with what links stand for, in byte order.
    async fn plain_entries(&self, connection: &Connection, folder: &str) -> Result<Vec<Entry>> {
        let mut entries = self.entries(connection, folder).await?;
        entries.retain(|entry| name::is_plain(&entry.name));
        let mut plain = Vec::with_capacity(entries.len());
        for mut entry in entries {
            entry.name = name::join(folder, &entry.name);
            if !is_folder(&entry.attributes) && !is_file(&entry.attributes) {
                let Some(attributes) = self.attributes(connection, &entry.name).await? else { continue };
                entry.attributes = attributes;
            }
            plain.push(entry);
        }
        plain.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(plain)
    }

    async fn read_once(
        &self,
        connection: &Connection,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Option<Bytes>> {
        let Some(file) = self.open_file(connection, name).await? else { return Ok(None) };
        let left = usize::try_from(file.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let read = self.read_open(connection, &file, offset, length.min(left)).await;
        let _ = connection.session.close(&file.handle).await;
        read.map(Some)
    }

    async fn open_file(&self, connection: &Connection, name: &str) -> Result<Option<OpenFile>> {
        let session = &connection.session;
        let opened = session.open(self.path(name), OpenFlags::READ, FileAttributes::empty()).await;
        let Some(opened) = self.unless_absent(name, opened)? else { return Ok(None) };
        let attributes = session.fstat(&opened.handle).await.map_err(|error| self.failed(name, error))?.attrs;
        if is_folder(&attributes) {
            let _ = session.close(opened.handle).await;
            return Ok(None);
        }
        Ok(Some(OpenFile {
            name: name.to_owned(),
            handle: opened.handle,
            size: attributes.size.unwrap_or(0),
        }))
    }

    /// `length` bytes that are there, by many requests at once.
    async fn read_open(
        &self,
        connection: &Connection,
        file: &OpenFile,
        offset: u64,
        length: usize,
    ) -> Result<Bytes> {
        let packets = (0..length).step_by(connection.packet).map(|start| {
            let packet = connection.packet.min(length - start);
            self.read_packet(connection, file, offset + start as u64, packet)
        });
        let mut packets = futures_util::stream::iter(packets).buffered(IN_FLIGHT);
        let mut bytes = BytesMut::with_capacity(length);
        while let Some(packet) = packets.next().await {
            bytes.extend_from_slice(&packet?);
        }
        Ok(bytes.freeze())
    }

    /// A server may answer with less than it was asked for: it is asked for the rest.
    async fn read_packet(
        &self,
        connection: &Connection,
        file: &OpenFile,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let left = u32::try_from(length - bytes.len()).unwrap_or(u32::MAX);
            match connection.session.read(&file.handle, offset + bytes.len() as u64, left).await {
                Ok(data) if !data.data.is_empty() && data.data.len() <= left as usize => {
                    bytes.extend(data.data);
                }
                Err(error) if !is_status(&error, StatusCode::Eof) => {
                    return Err(self.failed(&file.name, error));
                }
                _ => {
                    return Err(Error::unexpected(format!(
                        "{}/{} became shorter while it was read",
                        self.display(),
                        file.name
                    ))
                    .hint("objects are never changed by pgdiode: look at who else writes there"));
                }
            }
        }
        Ok(bytes)
    }

    async fn fetch_once(&self, connection: &Connection, name: &str, to: &Path) -> Result<Option<()>> {
        let Some(file) = self.open_file(connection, name).await? else { return Ok(None) };
        let object = format!("{}/{name}", self.display());
        let read = |offset, length| self.read_open(connection, &file, offset, length);
        let fetched = super::fetch::fetch(&object, file.size, to, STRIDE, read).await;
        let _ = connection.session.close(&file.handle).await;
        fetched.map(Some)
    }

    /// Gives a finished file its name, over the one before.
    async fn exchange(&self, connection: &Connection, from: &str, name: &str) -> Result<()> {
        const POSIX_RENAME: &str = "posix-rename@openssh.com";
        if !connection.offers(POSIX_RENAME) {
            return Err(Error::refused(format!(
                "{}: this SFTP server cannot replace {name} in one step",
                self.display()
            ))
            .hint(format!("use a server that offers {POSIX_RENAME}, as OpenSSH does")));
        }
        let mut request = Vec::new();
        for path in [self.path(from), self.path(name)] {
            request.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_be_bytes());
            request.extend_from_slice(path.as_bytes());
        }
        use russh_sftp::protocol::Packet;
        match connection.session.extended(POSIX_RENAME, request).await {
            Ok(Packet::Status(status)) if status.status_code == StatusCode::Ok => Ok(()),
            Ok(Packet::Status(status)) => Err(self.failed(name, status.into())),
            Ok(_) => Err(self.failed(name, SftpError::UnexpectedPacket)),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// What a failed request means.
    fn failed(&self, name: &str, error: SftpError) -> Error {
        let place = if name.is_empty() { self.display() } else { format!("{}/{name}", self.display()) };
        let status = match &error {
            SftpError::Status(status) => Some(status.status_code),
            _ => None,
        };
        match status {
            Some(StatusCode::PermissionDenied) => {
                Error::refused(format!("{place}: user {} may not do this", self.address.user))
                    .hint("give that user the right to read and write the directory, on the host")
            }
            Some(StatusCode::NoSuchFile) => Error::unexpected(format!("{place} is not there any more"))
                .hint("has the archive's directory been removed or unmounted on the host?"),
            Some(StatusCode::NoConnection | StatusCode::ConnectionLost) | None => {
                Error::new(self.side.unreachable(), format!("{place}: the connection broke off"))
                    .hint("is the host up? the SSH server's log may say why it ended")
            }
            Some(_) => Error::unexpected(format!("{place}: the SFTP server failed"))
                .hint("it does not say why: look at the host's disk and at the SSH server's log"),
        }
        .because(error)
    }

    /// A server does not say that its disk is full; it can be asked.
    async fn failed_write(&self, connection: &Connection, name: &str, error: SftpError) -> Error {
        let is_full = is_status(&error, StatusCode::Failure)
            && connection.offers("statvfs@openssh.com")
            && matches!(connection.session.statvfs(self.root.as_str()).await,
                Ok(disk) if disk.blocks_avail.saturating_mul(disk.fragment_size) < 1024 * 1024 || disk.inodes_avail == 0);
        let failed = self.failed(name, error);
        if is_full {
            return Error::new(Kind::Capacity, format!("no space is left for {}/{name}", self.display()))
                .because(failed)
                .hint("make room on the host; nothing half written was left there");
        }
        failed
    }
}

impl Store for Sftp {
    fn display(&self) -> String {
        super::Location::Sftp {
            user: self.address.user.clone(),
            host: self.address.host.clone(),
            port: self.address.port,
            path: self.root.clone(),
        }
        .to_string()
    }

    async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>> {
        name::check_folder(folder)?;
        let entries =
            self.again(|connection| async move { self.plain_entries(&connection, folder).await }).await?;
        let is_listed = |entry: &Entry| {
            is_file(&entry.attributes) && after.is_none_or(|after| entry.name.as_str() > after)
        };
        Ok(entries
            .into_iter()
            .filter(is_listed)
            .map(|entry| Object { name: entry.name, size: entry.attributes.size.unwrap_or(0) })
            .collect())
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        name::check_folder(folder)?;
        let entries =
            self.again(|connection| async move { self.plain_entries(&connection, folder).await }).await?;
        Ok(entries.into_iter().filter(|entry| is_folder(&entry.attributes)).map(|entry| entry.name).collect())
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        name::check(name)?;
        let attributes =
            self.again(|connection| async move { self.attributes(&connection, name).await }).await?;
        Ok(attributes.filter(is_file).map(|attributes| attributes.size.unwrap_or(0)))
    }

    async fn read_if_any(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        name::check(name)?;
        self.again(|connection| async move { self.read_once(&connection, name, offset, length).await }).await
    }

    async fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        name::check(name)?;
        let fetched =
            self.again(|connection| async move { self.fetch_once(&connection, name, to).await }).await?;
        match fetched {
            Some(()) => Ok(()),
            None => self.read(name, 0, 0).await.map(drop),
        }
    }

    async fn create(&self, name: &str, content: Content<'_>) -> Result<Put> {
        name::check(name)?;
        let upload = Upload::new(self, name, content)?;
        self.again(|connection| upload.create(connection)).await
    }

    async fn replace(&self, name: &str, content: Bytes) -> Result<()> {
        name::check(name)?;
        let upload = Upload::new(self, name, Content::Bytes(content))?;
        self.again(|connection| upload.replace(connection)).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        name::check(name)?;
        self.again(|connection| async move {
            let removed = connection.session.remove(self.path(name)).await;
            self.unless_absent(name, removed).map(drop)
        })
        .await
    }
}

struct Entry {
    name: String,
    attributes: FileAttributes,
}

/// A file that is open for reading on one connection.
struct OpenFile {
    name: String,
    handle: String,
    size: u64,
}

fn is_status(error: &SftpError, code: StatusCode) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == code)
}

/// The kind of a file, in the bits that every Unix has for it. The protocol's library takes them for flags, so that a
/// link would count as a file.
fn kind_bits(attributes: &FileAttributes) -> Option<u32> {
    attributes.permissions.map(|mode| mode & 0o170_000)
}

fn is_folder(attributes: &FileAttributes) -> bool {
    kind_bits(attributes) == Some(0o040_000)
}

fn is_file(attributes: &FileAttributes) -> bool {
    kind_bits(attributes) == Some(0o100_000)
}
