//! A throw-away PostgreSQL server from the binaries of this machine: a directory, a loopback port, a password. It is
//! stopped when dropped; the directory is the [`Ground`]'s to remove.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::session::{Session, Side};
use crate::secret::Secret;

/// How long a server may take to start, or a directory to be free of its last process.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Between the choice of a free port and its use, another program may take it.
const PORT_TRIES: u32 = 5;
pub(super) const DATABASE: &str = "demo";

/// What the servers run with beside the defaults.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "wal_level=logical",
    "shared_buffers=128MB",
    "max_wal_size=2GB",
    "max_slot_wal_keep_size=20GB",
    // Thrown away anyway: only a crash of the machine would lose anything.
    "fsync=off",
    // Unfinished transactions of this size are sent on, so that a kill can hit one in the middle.
    "logical_decoding_work_mem=1MB",
    "log_checkpoints=off",
];

/// The programs of one PostgreSQL version.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    bin: PathBuf,
    /// As `postgres --version` says it: `15.14`.
    pub(super) version: String,
}

impl Installation {
    /// The newest in the usual places, else what is on `PATH`.
    pub(super) fn find() -> Result<Installation> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/lib/postgresql", "/usr"].map(Path::new).into_iter().flat_map(versioned);
        let directories = usual.chain(std::env::split_paths(&path));
        directories.into_iter().find_map(Installation::at).ok_or_else(|| {
            Error::refused("no PostgreSQL server is installed here")
                .hint("install one, on Debian: apt-get install postgresql")
        })
    }

    fn at(bin: PathBuf) -> Option<Installation> {
        let programs = ["postgres", "initdb", "pg_ctl", "pg_dump"];
        if !programs.iter().all(|program| bin.join(program).is_file()) {
            return None;
        }
        let said = Command::new(bin.join("postgres")).arg("--version").output().ok()?.stdout;
        // "postgres (PostgreSQL) 15.14 (Debian 15.14-1)"
        let version = String::from_utf8_lossy(&said).split_whitespace().nth(2)?.to_owned();
        Some(Installation { bin, version })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// `15/bin`, or `pgsql-15/bin`, newest first.
fn versioned(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let major = name.strip_prefix("pgsql-").unwrap_or(&name).parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// The directory that everything lives in, and the user that the servers run as. Removed when dropped.
pub(super) struct Ground {
    pub(super) directory: PathBuf,
    /// User and group, when it is not ourselves: PostgreSQL refuses to run as root.
    service: Option<(u32, u32)>,
    password: Secret,
}

impl Ground {
    pub(super) fn new() -> Result<Ground> {
        let cannot = |error| Error::unexpected("cannot make a directory for the demo").because(error);
        let directory = tempfile::Builder::new().prefix("pgdiode-demo-").tempdir().map_err(cannot)?.keep();
        let mut ground = Ground { directory, service: None, password: random_password().map_err(cannot)? };
        // Others may pass through, into nothing that is not closed to them.
        fs::set_permissions(&ground.directory, fs::Permissions::from_mode(0o711)).map_err(cannot)?;
        if fs::metadata(&ground.directory).map_err(cannot)?.uid() == 0 {
            let user = account("postgres").or_else(|| account("nobody"));
            ground.service = Some(user.ok_or_else(|| {
                Error::refused("PostgreSQL does not run as root, and there is no user postgres or nobody")
                    .hint("run the demo as another user, or: useradd --system postgres")
            })?);
        }
        let password = ground.password.clone();
        let path = ground.write("password", password.reveal()).map_err(cannot)?;
        ground.give(&path).map_err(cannot)?;
        Ok(ground)
    }

    /// Writes a file that nobody else may read.
    pub(super) fn write(&self, name: &str, text: &str) -> std::io::Result<PathBuf> {
        let path = self.directory.join(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    pub(super) fn give(&self, path: &Path) -> std::io::Result<()> {
        self.service.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
    }

    /// A program of the server's, as the user that owns the server's files.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some((user, group)) = self.service {
            command.uid(user).gid(group);
        }
        // Its own group: a Ctrl-C reaches the demo alone, which then ends everything in order.
        command.current_dir(&self.directory).stdin(Stdio::null()).process_group(0);
        command
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The last process of a server that was just stopped may still be writing.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = fs::remove_dir_all(&self.directory) {
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if Instant::now() > deadline {
                tracing::error!(%error, directory = %self.directory.display(), "cannot be removed");
                break;
            }
            std::thread::sleep(POLL);
        }
    }
}

fn random_password() -> std::io::Result<Secret> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::new(format!("{:032x}", u128::from_ne_bytes(bytes))))
}

/// User and group of an account of this machine.
fn account(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect()).find(|fields: &Vec<&str>| fields[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// A running server with the empty database `demo`.
pub(super) struct Server {
    data: PathBuf,
    log: PathBuf,
    /// Stops it: `pg_ctl` knows how, and waits.
    stop: Command,
    postmaster: Option<Child>,
    pub(super) conninfo: ConnInfo,
    pub(super) port: u16,
}

impl Server {
    /// `name` is its directory in the ground.
    pub(super) async fn start(installation: &Installation, ground: &Ground, name: &str) -> Result<Server> {
        let data = initialise(installation, ground, name).await?;
        let mut attempt = 1;
        let server = loop {
            let mut server = Server::prepare(installation, ground, &data)?;
            match server.try_start(installation, ground).await {
                Ok(()) => break server,
                Err(error) if attempt == PORT_TRIES || !server.said("could not bind") => return Err(error),
                Err(_) => attempt += 1,
            }
        };
        let mut session =
            Session::connect(&conninfo(ground, server.port, "postgres")?, Side::Source, &[]).await?;
        session.query(&format!("create database {DATABASE}")).await?;
        Ok(server)
    }

    fn prepare(installation: &Installation, ground: &Ground, data: &Path) -> Result<Server> {
        let port = free_port()?;
        let mut stop = ground.command(&installation.program("pg_ctl"));
        stop.args(["stop", "--silent", "--mode=immediate", "--pgdata"]).arg(data);
        stop.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Server {
            data: data.to_owned(),
            log: data.with_extension("log"),
            stop,
            postmaster: None,
            conninfo: conninfo(ground, port, DATABASE)?,
            port,
        })
    }

    async fn try_start(&mut self, installation: &Installation, ground: &Ground) -> Result<()> {
        let cannot = |error| Error::unexpected("cannot start a PostgreSQL server").because(error);
        let log = File::create(&self.log).map_err(cannot)?;
        let mut command = ground.command(&installation.program("postgres"));
        command.arg("-D").arg(&self.data).arg("-p").arg(self.port.to_string());
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.stdout(log.try_clone().map_err(cannot)?).stderr(log);
        let postmaster = self.postmaster.insert(command.spawn().map_err(cannot)?);
        let deadline = Instant::now() + PATIENCE;
        while !is_ready(&self.data, postmaster.id()) {
            let ended = postmaster.try_wait().map_err(cannot)?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(Error::unexpected(format!(
                    "a PostgreSQL server does not start: {}",
                    said.trim()
                )));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn said(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    pub(super) async fn session(&self, side: Side) -> Result<Session> {
        Session::connect(&self.conninfo, side, &[]).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        if !matches!(postmaster.try_wait(), Ok(None)) {
            return;
        }
        let stopped = self.stop.status().is_ok_and(|status| status.success());
        if !stopped {
            // Its processes end when they miss the postmaster.
            drop(postmaster.kill());
        }
        drop(postmaster.wait());
    }
}

/// `initdb`; gives the data directory.
async fn initialise(installation: &Installation, ground: &Ground, name: &str) -> Result<PathBuf> {
    let cannot = |error| Error::unexpected("cannot run initdb").because(error);
    let data = ground.directory.join(name);
    DirBuilder::new().mode(0o700).create(&data).map_err(cannot)?;
    ground.give(&data).map_err(cannot)?;
    let mut command = ground.command(&installation.program("initdb"));
    command.arg("--pgdata").arg(&data).arg("--pwfile").arg(ground.directory.join("password"));
    command.args([
        "--username=postgres",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]);
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.map_err(cannot)?;
    if output.status.success() {
        return Ok(data);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::unexpected(format!("initdb failed: {said}"))
        .hint("the servers' user must be able to look into TMPDIR, else /tmp"))
}

fn conninfo(ground: &Ground, port: u16, database: &str) -> Result<ConnInfo> {
    let port = port.to_string();
    let parameters = [
        ("host", "127.0.0.1"),
        ("port", &port),
        ("user", "postgres"),
        ("password", ground.password.reveal()),
        ("dbname", database),
        ("sslmode", "disable"),
        ("application_name", "demo"),
    ];
    ConnInfo::from_parameters(parameters, &Environment::default())
}

pub(super) fn free_port() -> Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::unexpected("no free port on 127.0.0.1").because(error))
}

/// The postmaster writes "ready" into the eighth line of its pid file; `pg_ctl --wait` looks for the same.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
}

/// The section of a `pg_service.conf` that leads to this server.
pub(super) fn service_entry(name: &str, server: &Server, ground: &Ground) -> String {
    format!(
        "[{name}]\nhost=127.0.0.1\nport={}\ndbname={DATABASE}\nuser=postgres\npassword={}\nsslmode=disable\n",
        server.port,
        ground.password.reveal()
    )
}
