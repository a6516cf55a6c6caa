//! A throw-away SSH server: the backup machine that an archive is on. It lets one key in, and only to files.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::server::{Ground, free_port};
use crate::error::{Error, Result};

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

pub(super) struct Backup {
    directory: PathBuf,
    user: String,
    sshd: Child,
    pub(super) port: u16,
}

impl Backup {
    pub(super) async fn start(ground: &Ground) -> Result<Backup> {
        let program = find("sshd").ok_or_else(|| {
            Error::refused("no SSH server is installed here")
                .hint("install one, on Debian: apt-get install openssh-server")
        })?;
        let cannot = |error: io::Error| Error::unexpected("cannot start an SSH server").because(error);
        let directory = ground.directory.join("backup");
        // sshd runs as whoever owns the other servers: it needs no rights of its own.
        fs::DirBuilder::new().mode(0o700).create(&directory).map_err(cannot)?;
        ground.give(&directory).map_err(cannot)?;
        for name in ["host_key", "key"] {
            generate_key(ground, &directory.join(name))?;
        }
        let port = free_port()?;
        let host_key = fs::read_to_string(directory.join("host_key.pub")).map_err(cannot)?;
        ground.write("known_hosts", &format!("[127.0.0.1]:{port} {host_key}")).map_err(cannot)?;
        let key = fs::read_to_string(directory.join("key")).map_err(cannot)?;
        ground.write("key", &key).map_err(cannot)?;
        let config = ground.write("sshd_config", &settings(&directory, port)).map_err(cannot)?;
        ground.give(&config).map_err(cannot)?;
        let archive = directory.join("changes");
        fs::DirBuilder::new().mode(0o700).create(&archive).map_err(cannot)?;
        ground.give(&archive).map_err(cannot)?;
        let log = File::create(directory.join("log")).map_err(cannot)?;
        let sshd = ground
            .command(&program)
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(cannot)?;
        let user = user_name(ground)?;
        let mut backup = Backup { directory, user, sshd, port };
        backup.answers().await?;
        Ok(backup)
    }

    async fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if !matches!(self.sshd.try_wait(), Ok(None)) || Instant::now() > deadline {
                let mut said = String::new();
                drop(
                    File::open(self.directory.join("log")).and_then(|mut log| log.read_to_string(&mut said)),
                );
                return Err(Error::unexpected(format!("the SSH server does not start: {}", said.trim())));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Where the archive is, for whoever comes by the network.
    pub(super) fn location(&self) -> String {
        format!("sftp://{}@127.0.0.1:{}{}", self.user, self.port, self.archive().display())
    }

    /// The archive's directory, for whoever has the machine's disk in hand.
    pub(super) fn archive(&self) -> PathBuf {
        self.directory.join("changes")
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        drop(self.sshd.kill());
        drop(self.sshd.wait());
    }
}

/// Turns one bit of a change file over: the first of a line in its middle.
pub(super) fn flip_a_bit(path: &Path) -> io::Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    let line = bytes[middle..].iter().position(|byte| *byte == b'\n').map_or(0, |at| middle + at + 1);
    if let Some(byte) = bytes.get_mut(line) {
        *byte ^= 1;
    }
    let before = fs::metadata(path)?.permissions();
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, before)
}

fn settings(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host_key\nAuthorizedKeysFile {directory}/key.pub\n\
         PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         AllowTcpForwarding no\nSubsystem sftp internal-sftp\nForceCommand internal-sftp\n"
    )
}

fn generate_key(ground: &Ground, path: &Path) -> Result<()> {
    let program = find("ssh-keygen").ok_or_else(|| {
        Error::refused("ssh-keygen is not installed here").hint("on Debian: apt-get install openssh-client")
    })?;
    let output = ground
        .command(&program)
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f"])
        .arg(path)
        .output()
        .map_err(|error| Error::unexpected("cannot run ssh-keygen").because(error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::unexpected(format!("ssh-keygen failed: {said}")))
}

/// The account that the servers run as.
fn user_name(ground: &Ground) -> Result<String> {
    let output = ground.command(Path::new("id")).arg("-un").output();
    let output =
        output.map_err(|error| Error::unexpected("cannot ask for the user's name").because(error))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A program on `PATH`, or where servers are.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
