//! A throw-away OpenSSH server that lets the service user in by key, with a directory to put an archive in.
//!
//! It runs as that user and not as root: no privilege separation, no PAM, nothing of the machine's own sshd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ground;
use super::service::{Service, program};

const SSHD: &str = "/usr/sbin/sshd";

pub struct SshServer {
    service: Service,
    user: String,
}

impl SshServer {
    pub fn start() -> SshServer {
        let server = SshServer { service: Service::new("ssh"), user: service_user_name() };
        server.generate_key("host_key", &["-t", "ed25519"]);
        server.generate_key("identity", &["-t", "ed25519"]);
        server.authorize("identity");
        fs::create_dir(server.archive()).expect("the directory is new");
        ground::give_to_service_user(&server.archive());
        server.configure("");
        server.start_again();
        server
    }

    /// One whose archive is on a disk of this size, which only the server sees; `None` where we may not mount one.
    pub fn start_on_small_disk(bytes: u64) -> Option<SshServer> {
        let user = ground::service_user()?;
        let server = SshServer::start();
        server.kill();
        let mount = format!(
            "mount -t tmpfs -o size={bytes},uid={},mode=700 tmpfs {}",
            user.uid,
            server.archive().display()
        );
        let unshare = |script: &str| {
            let mut command = ground::clean_command(Path::new("unshare"));
            command.args(["--mount", "sh", "-c", script]);
            command
        };
        if !unshare(&mount).output().is_ok_and(|output| output.status.success()) {
            return None;
        }
        let script = format!(
            "{mount} && exec setpriv --reuid={} --regid={} --clear-groups {} -D -e -f {}",
            user.uid,
            user.gid,
            program(SSHD).display(),
            server.data().join("sshd_config").display()
        );
        server.service.start(unshare(&script));
        Some(server)
    }

    pub fn port(&self) -> u16 {
        self.service.port()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The directory on the "other" host that is an archive's.
    pub fn archive(&self) -> PathBuf {
        self.data().join("archive")
    }

    pub fn location(&self) -> String {
        self.location_at(self.port())
    }

    /// Through a proxy.
    pub fn location_at(&self, port: u16) -> String {
        format!("sftp://{}@127.0.0.1:{port}{}", self.user, self.archive().display())
    }

    /// The private key that may log in.
    pub fn identity(&self) -> PathBuf {
        self.data().join("identity")
    }

    /// A `known_hosts` file with the host key of this moment, for a port of the server or of a proxy before it.
    pub fn known_hosts_at(&self, port: u16) -> PathBuf {
        let key = fs::read_to_string(self.data().join("host_key.pub")).expect("a host has a key");
        let path = self.data().join(format!("known_hosts_{port}"));
        fs::write(&path, format!("# the test's hosts\n[127.0.0.1]:{port} {key}"))
            .expect("the directory is ours");
        path
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.known_hosts_at(self.port())
    }

    /// From the next start on, with options of `sftp-server`.
    pub fn configure(&self, sftp_options: &str) {
        let data = self.data().display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1:{}\nHostKey {data}/host_key\nAuthorizedKeysFile {data}/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxStartups 100\nLogLevel VERBOSE\nSubsystem sftp internal-sftp {sftp_options}\n",
            self.port()
        );
        fs::write(self.data().join("sshd_config"), config).expect("the directory is ours");
    }

    /// A key pair in the server's directory, by `ssh-keygen`'s options.
    pub fn generate_key(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.data().join(name);
        drop((fs::remove_file(&path), fs::remove_file(path.with_extension("pub"))));
        let passphrase: &[&str] = if options.contains(&"-N") { &[] } else { &["-N", ""] };
        let output = ground::clean_command(Path::new("ssh-keygen"))
            .args(["-q", "-C", name, "-f"])
            .arg(&path)
            .args(options)
            .args(passphrase)
            .output()
            .expect("ssh-keygen runs: scripts/install installs it");
        assert!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the key is ours");
        ground::give_to_service_user(&path);
        path
    }

    /// Lets a key pair of [`SshServer::generate_key`] in, and no other.
    pub fn authorize(&self, name: &str) {
        let key = self.data().join(name).with_extension("pub");
        let authorized = self.data().join("authorized_keys");
        fs::copy(key, &authorized).expect("the directory is ours");
        fs::set_permissions(&authorized, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    }

    pub fn kill(&self) {
        self.service.kill();
    }

    /// Connections break; new ones can be made at once.
    pub fn kill_sessions(&self) {
        self.service.kill_sessions();
    }

    pub fn start_again(&self) {
        let mut command = ground::service_command(program(SSHD));
        command.args(["-D", "-e", "-f"]).arg(self.data().join("sshd_config"));
        self.service.start(command);
    }

    /// Where the server's own files are.
    pub fn data(&self) -> PathBuf {
        self.service.data()
    }

    pub fn log(&self) -> String {
        self.service.log()
    }
}

fn service_user_name() -> String {
    if ground::service_user().is_some() {
        return "postgres".into();
    }
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
