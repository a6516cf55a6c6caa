//! Whichever store a location names, chosen once, when it is opened: callers need neither generics nor boxes.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Content, Directory, Location, Object, Put, S3, Sftp, Side, Store};
use crate::error::Result;
use crate::secret::Secret;

/// How to get into a place, apart from where it is.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What a lost connection is called.
    pub side: Side,
    pub sftp: SftpOptions,
    pub s3: S3Options,
}

impl StoreOptions {
    /// The defaults: those of the user's `ssh`, and the environment's `AWS_*`.
    pub fn new(side: Side) -> StoreOptions {
        StoreOptions { side, sftp: SftpOptions::default(), s3: S3Options::default() }
    }
}

#[derive(Debug, Clone)]
pub struct SftpOptions {
    /// Private keys, tried in this order. Those that are not there are passed over, unless none is.
    pub identity_files: Vec<PathBuf>,
    /// Which hosts may be talked to: always checked.
    pub known_hosts: PathBuf,
    /// Of the identity files that have one.
    pub passphrase: Option<Secret>,
    /// Whether the agent's keys are tried first.
    pub use_agent: bool,
    /// Where the agent listens.
    pub agent_socket: Option<PathBuf>,
}

impl Default for SftpOptions {
    fn default() -> SftpOptions {
        let directory = std::env::home_dir().unwrap_or_default().join(".ssh");
        SftpOptions {
            identity_files: ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| directory.join(name)).into(),
            known_hosts: directory.join("known_hosts"),
            passphrase: None,
            use_agent: true,
            agent_socket: std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        }
    }
}

/// Credentials; what is `None` comes from the environment, as with Amazon's own tools.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    pub session_token: Option<Secret>,
}

#[derive(Debug)]
pub enum AnyStore {
    Directory(Directory),
    Sftp(Sftp),
    S3(S3),
}

impl AnyStore {
    /// Goes there and finds out that it can be used: what is wrong with a location or a key shows here.
    pub async fn open(location: &Location, options: &StoreOptions) -> Result<AnyStore> {
        match location {
            Location::Directory(path) => {
                let path = path.clone();
                super::blocking(move || Directory::open(path)).await.map(AnyStore::Directory)
            }
            Location::Sftp { user, host, port, path } => {
                let sftp = options.sftp.clone();
                Sftp::open(user, host, *port, path, sftp, options.side).await.map(AnyStore::Sftp)
            }
            Location::S3 { bucket, prefix, endpoint, region } => {
                let (endpoint, region) = (endpoint.as_deref(), region.as_deref());
                S3::open(bucket, prefix, endpoint, region, &options.s3, options.side).await.map(AnyStore::S3)
            }
        }
    }
}

/// The same call to whichever it is.
macro_rules! each {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Directory($store) => $call,
            AnyStore::Sftp($store) => $call,
            AnyStore::S3($store) => $call,
        }
    };
}

impl Store for AnyStore {
    fn display(&self) -> String {
        each!(self, store => store.display())
    }

    async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>> {
        each!(self, store => store.list(folder, after).await)
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        each!(self, store => store.folders(folder).await)
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        each!(self, store => store.size(name).await)
    }

    async fn read_if_any(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        each!(self, store => store.read_if_any(name, offset, length).await)
    }

    async fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        each!(self, store => store.fetch(name, to).await)
    }

    async fn create(&self, name: &str, content: Content<'_>) -> Result<Put> {
        each!(self, store => store.create(name, content).await)
    }

    async fn replace(&self, name: &str, content: Bytes) -> Result<()> {
        each!(self, store => store.replace(name, content).await)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        each!(self, store => store.remove(name).await)
    }
}
