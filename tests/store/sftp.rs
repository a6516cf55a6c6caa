//! What can go wrong between us and an SSH server: who it is, who we are, and that it goes away.

use std::fs;
use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use pgdiode::error::{Error, Kind, Side};
use pgdiode::secret::Secret;
use pgdiode::store::{AnyStore, Content, Put, Store as _, StoreOptions};

use super::{content_of, file_of, open, run, ssh_options};
use crate::harness::{Proxy, SshServer, give_to_service_user, wait_for};

/// More than what is under way at any moment.
const LARGE: usize = 48 * 1024 * 1024;

fn refusal(server: &SshServer, options: &StoreOptions) -> Error {
    run(open(&server.location(), options)).unwrap_err()
}

fn store(server: &SshServer) -> AnyStore {
    run(open(&server.location(), &ssh_options(server))).unwrap()
}

fn unfinished(server: &SshServer) -> Vec<u64> {
    let Ok(list) = fs::read_dir(server.archive().join(".partial")) else { return Vec::new() };
    list.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).collect()
}

fn assert_says(error: &Error, kind: Kind, what: &[&str], hint: &[&str]) {
    let hint_text = error.hint_text().unwrap_or_default();
    let is_said = what.iter().all(|part| error.chain().contains(part))
        && hint.iter().all(|part| hint_text.contains(part));
    assert!(error.kind() == kind && is_said, "{error:?}\nis not {kind:?} {what:?} {hint:?}");
}

fn fingerprint(key: &Path) -> String {
    let output = Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn an_unknown_host_is_refused_with_its_fingerprint_and_what_to_do() {
    let server = SshServer::start();
    let mut options = ssh_options(&server);
    let shown = fingerprint(&server.data().join("host_key.pub"));
    let port = server.port();
    for known in ["", "# nobody\n", "otherhost ssh-ed25519 AAAA\n127.0.0.1 ssh-ed25519 AAAA\n"] {
        options.sftp.known_hosts = server.data().join("nobody");
        fs::write(&options.sftp.known_hosts, known).unwrap();
        let error = refusal(&server, &options);
        assert_says(
            &error,
            Kind::Refused,
            &["the host is not in", &shown],
            &[&format!("ssh-keyscan -p {port} 127.0.0.1 >>")],
        );
    }
    options.sftp.known_hosts = server.data().join("absent");
    assert_says(
        &refusal(&server, &options),
        Kind::Refused,
        &["the host is not in", &shown],
        &["ssh-keyscan"],
    );
    // No name was given away, let alone a key.
    assert!(!server.log().contains("Accepted"), "{}", server.log());

    // What the hint says helps.
    let scanned = Command::new("ssh-keyscan").args(["-p", &port.to_string(), "127.0.0.1"]).output().unwrap();
    fs::write(&options.sftp.known_hosts, scanned.stdout).unwrap();
    run(open(&server.location(), &options)).unwrap();
}

#[test]
fn a_changed_host_key_is_refused_with_its_file_and_line() {
    let server = SshServer::start();
    let options = ssh_options(&server);
    let opened = run(open(&server.location(), &options)).unwrap();
    server.kill();
    server.generate_key("host_key", &["-t", "ed25519"]);
    server.start_again();
    let file = options.sftp.known_hosts.display().to_string();
    let line = format!("another key than {file}, line 2, has for it");
    let shown = fingerprint(&server.data().join("host_key.pub"));
    let hint = format!("-R '[127.0.0.1]:{}'", server.port());
    assert_says(&refusal(&server, &options), Kind::Refused, &[&line, &shown], &["fingerprint", &hint]);
    // Nor by a store that was opened before; nothing is tried again for it.
    let error = run(opened.size("object")).unwrap_err();
    assert_says(&error, Kind::Refused, &[&line], &[&hint]);
    // Another kind of key is another key, too.
    server.kill();
    server.generate_key("host_key", &["-t", "ecdsa"]);
    server.start_again();
    assert_says(&refusal(&server, &options), Kind::Refused, &[&line], &[&hint]);
}

#[test]
fn hosts_are_known_by_hashed_names_and_by_any_of_their_keys() {
    let server = SshServer::start();
    let options = ssh_options(&server);
    let hashed = Command::new("ssh-keygen").args(["-Hf"]).arg(&options.sftp.known_hosts).output().unwrap();
    assert!(hashed.status.success());
    assert!(!fs::read_to_string(&options.sftp.known_hosts).unwrap().contains("127.0.0.1"));
    run(open(&server.location(), &options)).unwrap();
    // The host has two keys, of which we know the one that is not preferred.
    for kind in ["rsa", "ecdsa"] {
        let key = server.generate_key("second_host_key", &["-t", kind]);
        let config = server.data().join("sshd_config");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("HostKey {}\n{text}", key.display())).unwrap();
        server.kill();
        server.start_again();
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        fs::write(&options.sftp.known_hosts, format!("[127.0.0.1]:{} {public}", server.port())).unwrap();
        run(open(&server.location(), &options)).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        server.configure("");
    }
}

#[test]
fn each_kind_of_key_logs_in_and_a_wrong_one_is_named() {
    let server = SshServer::start();
    let mut options = ssh_options(&server);
    for kind in [
        &["-t", "rsa", "-b", "3072"][..],
        &["-t", "ecdsa"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-m", "PEM"],
    ] {
        options.sftp.identity_files = vec!["/absent".into(), server.generate_key("other", kind)];
        let other = fingerprint(&server.data().join("other.pub"));
        let error = refusal(&server, &options);
        assert_says(
            &error,
            Kind::Refused,
            &["takes none of our keys", "other", &other],
            &["authorized_keys"],
        );
        server.authorize("other");
        run(open(&server.location(), &options)).unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        server.authorize("identity");
    }
    options.sftp.identity_files = vec!["/absent/id".into()];
    assert_says(
        &refusal(&server, &options),
        Kind::Refused,
        &["no key to log in with", "/absent/id"],
        &["ssh-keygen -t ed25519"],
    );
}

#[test]
fn a_key_with_a_passphrase_needs_it() {
    let server = SshServer::start();
    let mut options = ssh_options(&server);
    options.sftp.identity_files = vec![server.generate_key("locked", &["-t", "ed25519", "-N", "hunter2"])];
    server.authorize("locked");
    assert_says(&refusal(&server, &options), Kind::Refused, &["locked needs its passphrase"], &["ssh-add"]);
    options.sftp.passphrase = Some(Secret::new("hunter3"));
    let error = refusal(&server, &options);
    assert_says(&error, Kind::Refused, &["is its passphrase wrong?"], &["ssh-keygen -yf"]);
    assert!(!format!("{error:?} {options:?}").contains("hunter"));
    options.sftp.passphrase = Some(Secret::new("hunter2"));
    run(open(&server.location(), &options)).unwrap();
}

/// An agent with a key; ended when dropped.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(server: &SshServer, key: &Path) -> Agent {
        let socket = server.data().join("agent");
        let process =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let agent = Agent { process, socket };
        wait_for(|| agent.socket.exists().then_some(())).expect("an agent listens");
        let added =
            Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).output().unwrap();
        assert!(added.status.success(), "{added:?}");
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop((self.process.kill(), self.process.wait()));
    }
}

#[test]
fn an_agents_keys_log_in() {
    let server = SshServer::start();
    let mut options = ssh_options(&server);
    options.sftp.identity_files = Vec::new();
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let key = server.generate_key("held", &["-t", kind]);
        let agent = Agent::start(&server, &key);
        options.sftp.use_agent = true;
        options.sftp.agent_socket = Some(agent.socket.clone());
        let error = refusal(&server, &options);
        assert_says(&error, Kind::Refused, &["none of our keys: the agent's SHA256:"], &["authorized_keys"]);
        server.authorize("held");
        run(open(&server.location(), &options)).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        options.sftp.use_agent = false;
        assert_says(&refusal(&server, &options), Kind::Refused, &["no key to log in with"], &[]);
        drop((agent, fs::remove_file(server.data().join("agent"))));
        server.authorize("identity");
    }
    // An agent that is gone is none; the files are tried.
    options.sftp.use_agent = true;
    options.sftp.identity_files = vec![server.identity()];
    run(open(&server.location(), &options)).unwrap();
}

#[test]
fn a_server_that_is_not_there_counts_for_its_side() {
    let server = SshServer::start();
    let mut options = ssh_options(&server);
    let store = store(&server);
    server.kill();
    for (side, kind) in [(Side::Source, Kind::SourceUnreachable), (Side::Target, Kind::TargetUnreachable)] {
        options.side = side;
        assert_says(&refusal(&server, &options), kind, &["cannot be reached"], &["is the host up"]);
    }
    let error = run(store.create("object", Content::Bytes("x".into()))).unwrap_err();
    assert!(error.kind() == Kind::TargetUnreachable && error.retries(), "{error:?}");
    assert!(
        error.what().starts_with(&format!("postgres@[127.0.0.1]:{}", server.port()))
            || server.user() != "postgres"
    );
    server.start_again();
    assert_eq!(run(store.create("object", Content::Bytes("x".into()))).unwrap(), Put::Created);
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let server = SshServer::start();
    let options = ssh_options(&server);
    let location = format!("{}/absent", server.location());
    let error = run(open(&location, &options)).unwrap_err();
    assert_says(
        &error,
        Kind::Config,
        &[&format!("there is no directory {location}")],
        &["mounted", "mkdir -p"],
    );
    fs::write(server.archive().join("file"), "").unwrap();
    let error = run(open(&format!("{}/file", server.location()), &options)).unwrap_err();
    assert_says(&error, Kind::Config, &["/file is no directory"], &["name a directory"]);

    let store = store(&server);
    for mode in [0o500, 0o700] {
        fs::set_permissions(server.archive(), fs::Permissions::from_mode(mode)).unwrap();
        let result = run(store.create("object", Content::Bytes("x".into())));
        if mode == 0o700 {
            assert_eq!(result.unwrap(), Put::Created);
        } else {
            assert_says(
                &result.unwrap_err(),
                Kind::Refused,
                &["may not do this"],
                &["the right to read and write"],
            );
        }
    }
    // The directory goes away: it is not made again.
    fs::rename(server.archive(), server.data().join("elsewhere")).unwrap();
    run(store.create("another", Content::Bytes("x".into()))).unwrap_err();
    assert!(!server.archive().exists());
}

#[test]
fn what_lies_there_besides_objects_is_not_listed() {
    let server = SshServer::start();
    let store = store(&server);
    for name in [".hidden", "with space", "lost*found", "ok.json"] {
        fs::write(server.archive().join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink("ok.json", server.archive().join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", server.archive().join("dangling")).unwrap();
    let listed = run(store.list("", None)).unwrap();
    let names: Vec<&str> = listed.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["link", "ok.json"]);
    assert!(listed.iter().all(|object| object.size == 1));
    assert_eq!(run(store.folders("")).unwrap(), [""; 0]);
}

/// Waits until an upload has brought something, does `act`, and gives what came of the upload.
fn while_uploading<T>(
    server: &SshServer,
    upload: impl Future<Output = T>,
    act: impl FnOnce() + Send + 'static,
) -> T {
    run(async {
        let mut act = Some(act);
        let mut upload = Box::pin(upload);
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_millis(1)), if act.is_some() => {
                    if unfinished(server).iter().any(|length| *length > 2_000_000) {
                        tokio::task::spawn_blocking(act.take().unwrap()).await.unwrap();
                    }
                }
                result = &mut upload => {
                    assert!(act.is_none(), "the upload was faster than the fault");
                    return result;
                }
            }
        }
    })
}

#[test]
fn a_server_killed_in_mid_upload_shows_nothing_and_takes_the_object_later() {
    let server = std::sync::Arc::new(SshServer::start());
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", LARGE);
    let store = store(&server);
    let killed = server.clone();
    let error =
        while_uploading(&server, store.create("bases/object", Content::File(&file)), move || killed.kill())
            .unwrap_err();
    assert!(error.kind() == Kind::TargetUnreachable && error.hint_text().is_some(), "{error:?}");
    server.start_again();
    assert_eq!(run(store.list("bases", None)).unwrap(), []);
    assert_eq!(run(store.size("bases/object")).unwrap(), None);
    assert_eq!(run(store.create("bases/object", Content::File(&file))).unwrap(), Put::Created);
    assert!(run(store.read_all("bases/object", LARGE)).unwrap().unwrap() == content_of(LARGE));
}

#[test]
fn a_session_killed_in_mid_upload_is_gone_on_with() {
    let server = std::sync::Arc::new(SshServer::start());
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", LARGE);
    let store = store(&server);
    let killed = server.clone();
    let put = while_uploading(&server, store.create("object", Content::File(&file)), move || {
        killed.kill_sessions();
    });
    assert_eq!(put.unwrap_or_else(|error| panic!("{error:?}\n{}", server.log())), Put::Created);
    assert!(run(store.read_all("object", LARGE)).unwrap().unwrap() == content_of(LARGE));
    assert_eq!(unfinished(&server), [0; 0]);
}

#[test]
fn a_network_cut_in_mid_fetch_is_gone_on_after() {
    let server = SshServer::start();
    let proxy = Proxy::start(server.port());
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", LARGE);
    assert_eq!(run(store(&server).create("object", Content::File(&file))).unwrap(), Put::Created);
    let mut options = ssh_options(&server);
    options.sftp.known_hosts = server.known_hosts_at(proxy.port());
    options.side = Side::Source;
    run(async {
        let store = open(&server.location_at(proxy.port()), &options).await.unwrap();
        let to = local.path().join("fetched");
        // Some of it comes each time, and after enough times all of it.
        let mut cuts = 0;
        loop {
            let before = proxy.forwarded_bytes();
            proxy.truncate_after(20 * 1024 * 1024);
            match store.fetch("object", &to).await {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), Kind::SourceUnreachable, "{error:?}"),
            }
            cuts += 1;
            assert!(!to.exists() && proxy.forwarded_bytes() > before && cuts < 10);
            proxy.heal();
        }
        assert!(cuts >= 2, "{cuts} cuts");
        assert!(fs::read(&to).unwrap() == content_of(LARGE));
    });
}

#[test]
fn what_killed_writers_left_is_removed_after_a_day() {
    let server = SshServer::start();
    let partial = server.archive().join(".partial");
    fs::create_dir(&partial).unwrap();
    give_to_service_user(&partial);
    let leftover = |name: &str, age: Duration| {
        fs::write(partial.join(name), "half").unwrap();
        let file = fs::File::options().write(true).open(partial.join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    leftover("old", Duration::from_hours(25));
    leftover("young", Duration::from_hours(23));
    assert_eq!(run(store(&server).create("object", Content::Bytes("x".into()))).unwrap(), Put::Created);
    assert!(!partial.join("old").exists() && partial.join("young").exists());
}

#[test]
fn a_server_without_sftp_is_told_from_one_that_is_away() {
    let server = SshServer::start();
    let config = server.data().join("sshd_config");
    let text = fs::read_to_string(&config).unwrap().replace("Subsystem sftp internal-sftp", "");
    fs::write(&config, text).unwrap();
    server.kill();
    server.start_again();
    assert_says(
        &refusal(&server, &ssh_options(&server)),
        Kind::Refused,
        &["does not offer SFTP"],
        &["Subsystem sftp"],
    );
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(server) = SshServer::start_on_small_disk(2 * 1024 * 1024) else {
        return eprintln!("skipped: file systems cannot be mounted here");
    };
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", 4 * 1024 * 1024);
    let store = store(&server);
    let error = run(store.create("bases/object", Content::File(&file))).unwrap_err();
    assert_says(&error, Kind::Capacity, &["no space is left for sftp://"], &["make room on the host"]);
    assert_eq!(run(store.size("bases/object")).unwrap(), None);
    // There is room again: what was begun is gone.
    let fits = Content::Bytes(vec![1; 1_500_000].into());
    assert_eq!(run(store.create("bases/object", fits)).unwrap(), Put::Created);
}

/// Forwards connections to a port. The first one is cut once so many bytes came from the server, later ones never.
fn cut_once(upstream: u16, bytes: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut allowed = bytes;
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", upstream)).unwrap());
            let (mut requests, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                drop(std::io::copy(&mut requests, &mut to_server));
                drop(to_server.shutdown(Shutdown::Both));
            });
            let limit = std::mem::replace(&mut allowed, usize::MAX) as u64;
            std::thread::spawn(move || {
                drop(std::io::copy(&mut (&server).take(limit), &mut &client));
                drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
            });
        }
    });
    port
}

/// Wherever the connection breaks, and whichever answer is lost with it: one object, ours, and nothing left behind.
#[test]
fn a_create_whose_connection_breaks_anywhere_makes_the_object_once() {
    let server = SshServer::start();
    let mut options = ssh_options(&server);
    let logins = || server.log().matches("Accepted publickey").count();
    let mut made_by_two = 0;
    // From within the handshake until after the last answer, when one connection was enough.
    for bytes in (1500..).step_by(32) {
        let before = logins();
        let port = cut_once(server.port(), bytes);
        options.sftp.known_hosts = server.known_hosts_at(port);
        let name = format!("meta/files/{bytes}");
        let result = run(async {
            let store = open(&server.location_at(port), &options).await?;
            store.create(&name, Content::Bytes(name.clone().into())).await
        });
        fs::remove_file(&options.sftp.known_hosts).unwrap();
        let content = fs::read(server.archive().join(&name)).ok();
        assert_eq!(unfinished(&server), [0; 0], "after {bytes} bytes");
        match result {
            Ok(put) => {
                assert_eq!((put, content), (Put::Created, Some(name.into_bytes())), "after {bytes} bytes");
                if logins() == before + 1 {
                    break;
                }
                made_by_two += 1;
            }
            // It broke before there was a connection.
            Err(error) => assert!(error.retries() && content.is_none(), "after {bytes} bytes: {error:?}"),
        }
    }
    assert!(made_by_two > 20, "{made_by_two}");
}
