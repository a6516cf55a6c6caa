//! Stores against real places: a directory, an OpenSSH server, an S3 server. What every kind must do is in
//! `conformance`; what can go wrong with one of them, in the other files.

mod conformance;
mod memory;
mod s3;
mod sftp;

use std::fs;
use std::path::{Path, PathBuf};

use pgdiode::error::{Result, Side};
use pgdiode::secret::Secret;
use pgdiode::store::{AnyStore, Location, S3Options, SftpOptions, StoreOptions};

use crate::harness::{self, BUCKET, S3Server, SshServer, give_to_service_user};

pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Something that stores can be opened in.
pub enum Place {
    Directory(tempfile::TempDir),
    Ssh(SshServer),
    S3(S3Server),
}

impl Place {
    pub fn directory() -> Place {
        Place::Directory(tempfile::tempdir().unwrap())
    }

    /// The location of a root of its own in this place, and nothing in it.
    pub fn root(&self, name: &str) -> String {
        match self {
            Place::Directory(directory) => {
                fs::create_dir(directory.path().join(name)).unwrap();
                directory.path().join(name).display().to_string()
            }
            Place::Ssh(server) => {
                fs::create_dir(server.archive().join(name)).unwrap();
                give_to_service_user(&server.archive().join(name));
                format!("{}/{name}", server.location())
            }
            Place::S3(server) => {
                format!("s3://{BUCKET}/{name}?endpoint=http://127.0.0.1:{}&region=us-east-1", server.port())
            }
        }
    }

    pub fn options(&self) -> StoreOptions {
        match self {
            Place::Ssh(server) => ssh_options(server),
            _ => s3_options(),
        }
    }

    pub async fn open(&self, location: &str) -> AnyStore {
        open(location, &self.options()).await.unwrap()
    }
}

pub async fn open(location: &str, options: &StoreOptions) -> Result<AnyStore> {
    AnyStore::open(&Location::parse(location)?, options).await
}

pub fn ssh_options(server: &SshServer) -> StoreOptions {
    let sftp = SftpOptions {
        identity_files: vec![server.identity()],
        known_hosts: server.known_hosts(),
        passphrase: None,
        use_agent: false,
        agent_socket: None,
    };
    StoreOptions { sftp, ..StoreOptions::new(Side::Target) }
}

pub fn s3_options() -> StoreOptions {
    let s3 = S3Options {
        access_key_id: Some("test".into()),
        secret_access_key: Some(Secret::new("hunter2")),
        session_token: None,
    };
    StoreOptions { s3, ..StoreOptions::new(Side::Target) }
}

/// A local file with content that differs everywhere.
pub fn file_of(directory: &Path, name: &str, length: usize) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content_of(length)).unwrap();
    path
}

pub fn content_of(length: usize) -> Vec<u8> {
    let mut rng = harness::Rng::with_seed(7);
    let mut content: Vec<u8> = (0..=length / 8).flat_map(|_| rng.u64(..).to_le_bytes()).collect();
    content.truncate(length);
    content
}
