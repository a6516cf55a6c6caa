//! A server of one process tree on a loopback port: started, killed, started again where it was.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::{ground, wait_for};

/// Where [`ground`] finds the servers of test processes that were killed.
pub const PID_FILE: &str = "server.pid";

pub struct Service {
    name: &'static str,
    /// With `data/` in it, where the server runs, and `log`.
    directory: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl Service {
    pub fn new(name: &'static str) -> Service {
        let directory = ground::fresh_directory(name);
        fs::create_dir(directory.join("data")).expect("the directory is new");
        ground::give_to_service_user(&directory.join("data"));
        Service { name, directory, port: ground::free_port(), child: Mutex::new(None) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("log")).unwrap_or_default()).into_owned()
    }

    /// Starts it, and waits until it takes connections.
    pub fn start(&self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.directory.join("log"));
        let log = log.expect("the log can be opened");
        let child = command
            .current_dir(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{} cannot be run: {error}\n  hint: run scripts/install", self.name)
            });
        fs::write(self.data().join(PID_FILE), child.id().to_string()).expect("the directory is ours");
        // One that never gets ready ends with us like any other.
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let started = wait_for(|| {
            let is_ready = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            let has_ended = !self.is_running();
            (has_ended || is_ready).then_some(!has_ended)
        });
        assert!(started == Some(true), "{} does not start:\n{}", self.name, self.log());
    }

    /// What a power cut looks like to clients: all its processes are gone at once.
    pub fn kill(&self) {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        ground::signal("STOP", &[child.id()]);
        let below = below(child.id());
        ground::signal("KILL", &[child.id()]);
        ground::signal("KILL", &below);
        child.wait().expect("the server is our child");
        self.assert_gone(&below);
    }

    /// The way that the server itself has for ending, by SIGTERM.
    pub fn stop(&self) {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        ground::signal("TERM", &[child.id()]);
        let ended = wait_for(|| child.try_wait().expect("the server is our child"));
        assert!(ended.is_some(), "{} does not stop:\n{}", self.name, self.log());
    }

    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Ends what serves the connections of the moment; the server itself takes new ones.
    pub fn kill_sessions(&self) {
        let server = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id);
        let sessions = below(server.expect("the server runs"));
        ground::signal("KILL", &sessions);
        self.assert_gone(&sessions);
    }

    fn assert_gone(&self, pids: &[u32]) {
        let gone = wait_for(|| (!pids.iter().any(|pid| ground::is_running(*pid))).then_some(()));
        assert!(gone.is_some(), "the processes of a killed {} stay", self.name);
    }
}

/// Children, and theirs.
fn below(pid: u32) -> Vec<u32> {
    let mut found = ground::children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(ground::children(found[next]));
        next += 1;
    }
    found
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        drop(fs::remove_dir_all(&self.directory));
    }
}

pub fn program(path: &str) -> &Path {
    let path = Path::new(path);
    assert!(path.exists(), "{} is missing\n  hint: run scripts/install", path.display());
    path
}
