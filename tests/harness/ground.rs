//! The ground under the clusters: one directory per test process, the user that PostgreSQL runs as, free ports,
//! and the sweeping up after test processes that were killed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "pgdiode-test-";

/// Below the kernel's ephemeral range, so that no outgoing connection takes the port of a stopped cluster.
const PORTS: std::ops::Range<u32> = 12_000..32_000;

#[derive(Debug, Clone, Copy)]
pub struct ServiceUser {
    pub uid: u32,
    pub gid: u32,
}

/// PostgreSQL refuses to run as root: then it runs as the user `postgres`, otherwise (`None`) as ourselves.
pub fn service_user() -> Option<ServiceUser> {
    static USER: OnceLock<Option<ServiceUser>> = OnceLock::new();
    *USER.get_or_init(|| {
        let ourselves = fs::metadata("/proc/self").expect("/proc is mounted").uid();
        (ourselves == 0)
            .then(|| look_up("postgres").expect("root's tests need the user postgres: run scripts/install"))
    })
}

fn look_up(name: &str) -> Option<ServiceUser> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect()).find(|fields: &Vec<&str>| fields[0] == name)?;
    Some(ServiceUser { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

pub fn give_to_service_user(path: &Path) {
    if let Some(user) = service_user() {
        chown(path, Some(user.uid), Some(user.gid))
            .unwrap_or_else(|error| panic!("cannot give {} to the user postgres: {error}", path.display()));
    }
}

/// `program` with nothing of our environment but the way to other programs.
pub fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .env("HOME", directory())
        .env("LC_ALL", "C.UTF-8")
        .env("PGCLIENTENCODING", "UTF8")
        .env("TZ", "UTC");
    command
}

/// The same, run as the user that owns the clusters.
pub fn service_command(program: &Path) -> Command {
    let mut command = clean_command(program);
    if let Some(user) = service_user() {
        command.uid(user.uid).gid(user.gid);
    }
    command.current_dir(directory());
    command
}

/// This test process's directory. Nobody is told when a test process ends, so the next one removes it.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        sweep();
        let path = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        give_to_service_user(&path);
        path
    })
}

/// A new directory of the service user's, with a short name: Unix socket paths end at 107 bytes.
pub fn fresh_directory(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = directory().join(format!("{name}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
    give_to_service_user(&path);
    path
}

pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let width = PORTS.end - PORTS.start;
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..width {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % width;
        let port = u16::try_from(PORTS.start + offset).expect("the range fits a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 in {PORTS:?}");
}

/// Ends the servers and removes the directories of test processes that are gone.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !is_running(pid)) {
            end_leftover_servers(&entry.path());
            // Another test process may be sweeping too.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

fn end_leftover_servers(ground: &Path) {
    let Ok(entries) = fs::read_dir(ground) else { return };
    for entry in entries.flatten() {
        let data = entry.path().join("data");
        let Some(pid) = fs::read_to_string(data.join("postmaster.pid"))
            .or_else(|_| fs::read_to_string(data.join(super::service::PID_FILE)))
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse::<u32>().ok())
        else {
            continue;
        };
        // The id may belong to another program by now: only a server of this very directory is ended.
        let working_directory = fs::read_link(format!("/proc/{pid}/cwd"));
        if working_directory.is_ok_and(|path| path == data) {
            signal("KILL", &[pid]);
        }
    }
}

pub fn is_running(pid: u32) -> bool {
    // A zombie has ended; its parent has not asked yet.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|candidate| parent(*candidate) == Some(pid))
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (any name) state parent ..."
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// Sends a signal to processes of ours; one that has ended meanwhile is no error.
pub fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut command = Command::new("/bin/kill");
    command.arg(format!("-{name}")).args(pids.iter().map(u32::to_string));
    drop(command.output().expect("/bin/kill runs"));
}
