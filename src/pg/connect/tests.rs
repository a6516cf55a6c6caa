//! Against a real server with TLS and a `pg_hba.conf` of every kind, and against impostors where no real server
//! behaves badly enough.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams,
};
use tempfile::TempDir;
use tokio::net::TcpListener as AsyncTcpListener;

use super::*;
use crate::pg::conninfo::Environment;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// Of every certificate here: each authority signs few.
const SERIAL: u64 = 7;

const HBA: &str = "\
local all all trust
host all scram_role 127.0.0.1/32 scram-sha-256
host all md5_role 127.0.0.1/32 md5
host all clear_role 127.0.0.1/32 password
hostssl all cert_role 127.0.0.1/32 cert
hostssl all tls_role 127.0.0.1/32 trust
hostnossl all plain_role 127.0.0.1/32 trust
host all trusted_role,read_only_role,missing_role 127.0.0.1/32 trust
host all rejected_role 127.0.0.1/32 reject
";

const ROLES: &str = "\
create role scram_role login password 'sesame';
set password_encryption = 'md5';
create role md5_role login password 'sesame';
create role clear_role login password 'sesame';
create role cert_role login; create role tls_role login; create role plain_role login;
create role trusted_role login; create role rejected_role login; create role read_only_role login;
alter role read_only_role set default_transaction_read_only = on;
create database closed; revoke connect on database closed from public;
";

/// A PostgreSQL of this test run's own, stopped when the last test lets go of it.
struct Server {
    directory: TempDir,
    port: u16,
}

impl Server {
    fn shared() -> Arc<Server> {
        static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start());
            *running = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let port = closed_port();
        let server = Server { directory, port };
        server.write_certificates();
        let data = server.path("data");
        fs::create_dir(&data).unwrap();
        if let Some((user, group)) = server_account() {
            for path in [server.directory.path(), data.as_ref(), server.path("server.key").as_ref()] {
                chown(path, Some(user), Some(group)).unwrap();
            }
        }
        server.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]);
        fs::write(server.path("data/pg_hba.conf"), HBA).unwrap();
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{0}'\nfsync = off\nssl = on\n\
             ssl_cert_file = '{0}/server.crt'\nssl_key_file = '{0}/server.key'\nssl_ca_file = '{0}/ca.crt'\n",
            server.directory.path().display()
        );
        fs::write(server.path("data/postgresql.auto.conf"), settings).unwrap();
        server.run("pg_ctl", &["-D", &data, "-w", "-l", &server.path("log"), "start"]);
        server.write("roles.sql", ROLES);
        let (socket, port) = (server.path(""), port.to_string());
        let place = ["-X", "-q", "-h", &socket, "-p", &port, "-U", "postgres", "-v", "ON_ERROR_STOP=1"];
        server.run("psql", &[&place[..], &["-f", "roles.sql"]].concat());
        server
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(format!("{BINARIES}/{program}"));
        command.args(arguments).current_dir(self.directory.path()).env_clear().env("LC_ALL", "C");
        // The server inherits these: a pipe would stay open as long as it runs.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = server_account() {
            command.uid(user).gid(group);
        }
        assert!(command.status().unwrap().success(), "{program} {arguments:?}");
    }

    fn write_certificates(&self) {
        let ca = authority();
        self.write("ca.crt", &ca.1);
        self.write("other_ca.crt", &authority().1);
        let (certificate, key) = signed(&ca.0, "server", &["localhost", "db.example"]);
        self.write("server.crt", &certificate);
        self.write("server.key", &key);
        self.write("clean.crl", &revocations(&ca.0, &[]));
        self.write("revoked.crl", &revocations(&ca.0, &[SERIAL]));
        self.write("others.crl", &revocations(&authority().0, &[]));
        let (certificate, key) = signed(&ca.0, "cert_role", &[]);
        self.write("client.crt", &certificate);
        self.write("client.key", &key);
        self.write("open.key", &key);
        fs::set_permissions(self.path("open.key"), Permissions::from_mode(0o644)).unwrap();
        self.write(
            "encrypted.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
        );
        let (certificate, key) = signed(&authority().0, "cert_role", &[]);
        self.write("stranger.crt", &certificate);
        self.write("stranger.key", &key);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        let mode = if name.ends_with("key") { 0o600 } else { 0o644 };
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// By TCP under the name of the certificate; `more` can override all of it. `{}` stands for the directory.
    fn conninfo(&self, more: &str) -> ConnInfo {
        let more = more.replace("{}", self.directory.path().to_str().unwrap());
        let text = format!(
            "host=localhost hostaddr=127.0.0.1 port={} dbname=postgres user=trusted_role {more}",
            self.port
        );
        let nothing = Environment::new([("", ""); 0], None, None);
        ConnInfo::parse(&text, &nothing).unwrap()
    }

    async fn connect(&self, more: &str) -> Result<Connected> {
        connect(&self.conninfo(more), &[]).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &self.path("data"), "-m", "immediate", "-w", "stop"]);
    }
}

/// The account `postgres`, if this process is root, as which the server does not run.
fn server_account() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, "an authority");
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    (Issuer::new(parameters, key), certificate)
}

fn signed(issuer: &Issuer<'static, KeyPair>, common_name: &str, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.serial_number = Some(SERIAL.into());
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn revocations(issuer: &Issuer<'static, KeyPair>, serials: &[u64]) -> String {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: rcgen::date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let parameters = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    parameters.signed_by(issuer).unwrap().pem().unwrap()
}

fn failed(result: Result<Connected>) -> Error {
    result.err().expect("the server let us in")
}

#[tokio::test]
async fn passwords_are_proven_in_every_way() {
    let server = Server::shared();
    for role in ["scram_role", "md5_role", "clear_role"] {
        for sslmode in ["disable", "allow", "prefer", "require"] {
            let more = format!("user={role} password=sesame sslmode={sslmode}");
            let connected = server.connect(&more).await.expect(&more);
            assert_eq!(connected.tls, matches!(sslmode, "prefer" | "require"), "{more}");
            assert_eq!(connected.parameters["client_encoding"], "UTF8");
            assert_ne!(connected.process_id, 0);
            let error = failed(server.connect(&more.replace("sesame", "wrong_one")).await);
            assert_eq!((error.kind(), error.sqlstate()), (Kind::Refused, Some("28P01")), "{more}");
            assert!(error.hint_text().unwrap().contains(role), "{error:?}");
            assert!(!format!("{error:?}").contains("wrong_one"), "{error:?}");
        }
        let error = failed(server.connect(&format!("user={role}")).await);
        assert!(error.what().contains("none is given"), "{error:?}");
        assert!(error.hint_text().unwrap().contains("PGPASSWORD"));
    }
}

#[tokio::test]
async fn the_channel_is_bound_where_that_is_required() {
    let server = Server::shared();
    let scram = "user=scram_role password=sesame sslmode=require channel_binding=";
    assert!(server.connect(&format!("{scram}require")).await.unwrap().tls);
    assert!(server.connect(&format!("{scram}disable")).await.unwrap().tls);
    for (more, what) in [
        ("user=scram_role password=sesame sslmode=disable", "not encrypted"),
        ("user=md5_role password=sesame sslmode=require", "MD5"),
        ("user=clear_role password=sesame sslmode=require", "password itself"),
        ("user=trusted_role sslmode=require", "no password"),
    ] {
        let error = failed(server.connect(&format!("{more} channel_binding=require")).await);
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.what().contains(what), "{error:?}");
    }
}

#[tokio::test]
async fn the_servers_certificate_must_prove_what_sslmode_says() {
    let server = Server::shared();
    let ip = "host=127.0.0.1";
    for (more, accepted) in [
        ("sslmode=verify-full sslrootcert={}/ca.crt".to_owned(), Ok(())),
        ("sslmode=verify-full sslrootcert={}/ca.crt host=db.example".to_owned(), Ok(())),
        ("sslmode=verify-full sslrootcert={}/ca.crt host=other.example".to_owned(), Err("another host name")),
        (format!("sslmode=verify-full sslrootcert={{}}/ca.crt {ip}"), Err("another host name")),
        (format!("sslmode=verify-ca sslrootcert={{}}/ca.crt {ip}"), Ok(())),
        ("sslmode=verify-full sslrootcert={}/other_ca.crt".to_owned(), Err("not trusted")),
        ("sslmode=verify-ca sslrootcert={}/other_ca.crt".to_owned(), Err("not trusted")),
        ("sslmode=require sslrootcert={}/other_ca.crt".to_owned(), Err("not trusted")),
        ("sslmode=verify-full sslrootcert={}/server.crt".to_owned(), Ok(())),
        (format!("sslmode=verify-full sslrootcert={{}}/server.crt {ip}"), Err("another host name")),
        (format!("sslmode=require {ip}"), Ok(())),
        ("sslmode=verify-full sslrootcert={}/ca.crt sslcrl={}/clean.crl".to_owned(), Ok(())),
        ("sslmode=verify-full sslrootcert={}/ca.crt sslcrl={}/revoked.crl".to_owned(), Err("is revoked")),
        ("sslmode=verify-ca sslrootcert={}/ca.crt sslcrl={}/others.crl".to_owned(), Err("does not tell")),
        ("sslmode=require ssl_min_protocol_version=TLSv1.3".to_owned(), Ok(())),
        ("sslmode=verify-full sslrootcert={}/ca.crt ssl_max_protocol_version=TLSv1.2".to_owned(), Ok(())),
    ] {
        match (server.connect(&more).await, accepted) {
            (Ok(connected), Ok(())) => assert!(connected.tls, "{more}"),
            (Err(error), Err(what)) => {
                assert_eq!(error.kind(), Kind::Refused, "{more}");
                assert!(error.what().contains(what) && error.hint_text().is_some(), "{more}: {error:?}");
            }
            (result, _) => panic!("{more}: {:?}", result.err()),
        }
    }
    let error = failed(server.connect("sslmode=verify-ca sslrootcert={}/other_ca.crt").await);
    assert!(error.what().contains("other_ca.crt"), "{error:?}");
}

#[tokio::test]
async fn prefer_falls_back_where_libpq_does() {
    let server = Server::shared();
    assert!(!server.connect("sslmode=prefer user=plain_role").await.unwrap().tls);
    assert!(server.connect("sslmode=allow user=tls_role").await.unwrap().tls);
    assert!(!server.connect("sslmode=prefer sslrootcert={}/other_ca.crt").await.unwrap().tls);
    let error = failed(server.connect("sslmode=require user=plain_role").await);
    assert_eq!(error.sqlstate(), Some("28000"));
    let error = failed(server.connect("sslmode=disable user=tls_role").await);
    assert!(error.hint_text().unwrap().contains("pg_hba.conf"), "{error:?}");
}

#[tokio::test]
async fn files_that_cannot_serve_are_named() {
    let server = Server::shared();
    for (more, what) in [
        ("sslmode=verify-full", "needs a root certificate"),
        ("sslmode=require sslrootcert={}/absent", "cannot read sslrootcert"),
        ("sslmode=require sslrootcert={}/client.key", "sslrootcert"),
        ("sslmode=require sslrootcert={}/ca.crt sslcrl={}/ca.crt", "sslcrl"),
        ("sslmode=require sslcert={}/client.crt", "has no key"),
        ("sslmode=require sslcert={}/client.crt sslkey={}/absent", "cannot read sslkey"),
        ("sslmode=require sslcert={}/client.crt sslkey={}/open.key", "read by others"),
        ("sslmode=require sslcert={}/client.crt sslkey={}/encrypted.key", "is encrypted"),
        ("sslmode=require sslcert={}/client.crt sslkey={}/stranger.key", "cannot be used with"),
        ("sslmode=require ssl_max_protocol_version=TLSv1.1", "no TLS version"),
        ("sslmode=verify-full sslrootcert={}/ca.crt host=''", "cannot verify the name"),
    ] {
        let error = failed(server.connect(more).await);
        assert_eq!(error.kind(), Kind::Config, "{more}: {error:?}");
        assert!(error.what().contains(what) && error.hint_text().is_some(), "{more}: {error:?}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_a_way_in() {
    let server = Server::shared();
    let mine =
        "user=cert_role sslmode=verify-full sslrootcert={}/ca.crt sslcert={}/client.crt sslkey={}/client.key";
    assert!(server.connect(mine).await.unwrap().tls);
    let error = failed(server.connect(&format!("{mine} sslcertmode=disable")).await);
    assert_eq!((error.kind(), error.sqlstate()), (Kind::Refused, Some("28000")), "{error:?}");
    // The server says so in its answer or by closing the connection under it, in TLS 1.3 after the handshake.
    let strangers = mine.replace("client.", "stranger.");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let error = failed(server.connect(&format!("{strangers} ssl_max_protocol_version={version}")).await);
        assert_eq!(error.kind(), Kind::Refused, "{version}: {error:?}");
        assert!(error.hint_text().unwrap().contains("stranger.crt"), "{version}: {error:?}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let server = Server::shared();
    for (more, sqlstate, hint) in [
        ("dbname=missing", "3D000", "check dbname"),
        ("user=missing_role", "28000", "missing_role"),
        ("user=rejected_role", "28000", "pg_hba.conf"),
        ("user=unheard_of", "28000", "pg_hba.conf"),
        ("dbname=closed", "42501", "grant connect"),
        ("options='-c nonsense=1'", "42704", ""),
    ] {
        let error = failed(server.connect(more).await);
        assert_eq!((error.kind(), error.sqlstate()), (Kind::Refused, Some(sqlstate)), "{more}: {error:?}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{more}: {error:?}");
        assert!(error.what().contains("localhost:"), "{more}: {error:?}");
    }
}

#[tokio::test]
async fn the_next_host_serves_when_one_is_down() {
    let server = Server::shared();
    let (port, closed) = (server.port, closed_port());
    let list = format!("hostaddr='' host=localhost,127.0.0.1 port={closed},{port}");
    let connected = server.connect(&list).await.unwrap();
    assert_eq!(connected.host.port, port);
    assert_eq!(connected.host.address, Some([127, 0, 0, 1].into()));
    let socket = format!("hostaddr='' host=/nonexistent,{} port={port}", server.directory.path().display());
    let connected = server.connect(&socket).await.unwrap();
    assert!(matches!(connected.stream, Stream::Unix(_)) && connected.host.address.is_none());

    let error = failed(server.connect(&format!("port={closed}")).await);
    assert_eq!(error.kind(), Kind::SourceUnreachable);
    assert!(error.chain().contains("refused") && error.hint_text().unwrap().contains(&closed.to_string()));
    let error = failed(server.connect("hostaddr='' host=no-such-host.invalid").await);
    assert!(error.retries() && error.what().contains("no-such-host.invalid"), "{error:?}");
    let error =
        failed(server.connect(&format!("hostaddr='' host=127.0.0.1,/nonexistent port={closed}")).await);
    assert!(error.what().contains("127.0.0.1") && error.what().contains("/nonexistent"), "{error:?}");
    // A refusal is an answer: the list ends there.
    let refused = format!("hostaddr='' host=localhost,127.0.0.1 port={port},{closed} dbname=missing");
    assert_eq!(failed(server.connect(&refused).await).sqlstate(), Some("3D000"));
}

#[tokio::test]
async fn servers_of_the_wanted_kind_are_chosen() {
    let server = Server::shared();
    for (role, wanted, suits) in [
        ("trusted_role", "read-write", true),
        ("trusted_role", "read-only", false),
        ("trusted_role", "primary", true),
        ("trusted_role", "standby", false),
        ("trusted_role", "prefer-standby", true),
        ("read_only_role", "read-write", false),
        ("read_only_role", "read-only", true),
    ] {
        let more = format!("user={role} target_session_attrs={wanted}");
        let result = server.connect(&more).await;
        assert_eq!(result.is_ok(), suits, "{more}: {:?}", result.err());
        if let Err(error) = result {
            assert!(error.retries() && error.what().contains(wanted), "{error:?}");
        }
    }
    let read_only = [("options", "-c default_transaction_read_only=on")];
    let conninfo = server.conninfo("target_session_attrs=read-write options='-c work_mem=1MB'");
    let mut session = session(connect(&conninfo, &read_only).await.unwrap(), &conninfo);
    assert_eq!(session.value("show default_transaction_read_only").await.unwrap(), "on");
    assert_eq!(session.value("show work_mem").await.unwrap(), "1MB");
    // Servers before 14 report neither parameter and are asked.
    session.parameters.clear();
    assert!(!session.in_recovery().await.unwrap());
    assert!(session.read_only(&[]).await.unwrap());
}

/// Back to where SQL can be sent.
fn session(connected: Connected, conninfo: &ConnInfo) -> Opening<'_> {
    Opening {
        conninfo,
        host: &conninfo.hosts[0],
        stream: connected.stream,
        buffer: connected.buffer,
        parameters: connected.parameters,
        process_id: connected.process_id,
        secret_key: connected.secret_key,
    }
}

#[tokio::test]
async fn a_long_statement_can_be_cancelled() {
    let server = Server::shared();
    for sslmode in ["disable", "prefer", "require"] {
        let conninfo = server.conninfo(&format!("sslmode={sslmode}"));
        let connected = connect(&conninfo, &[]).await.unwrap();
        let (host, process_id, key) = (connected.host.clone(), connected.process_id, connected.secret_key);
        let mut session = session(connected, &conninfo);
        // A request that comes before the statement is lost, so it is repeated.
        let cancelling = async {
            loop {
                cancel(&conninfo, &host, process_id, key).await.unwrap();
            }
        };
        let error = tokio::select! {
            result = session.value("select pg_catalog.pg_sleep(600)") => result.unwrap_err(),
            () = cancelling => unreachable!(),
        };
        assert_eq!(error.sqlstate(), Some("57014"), "{error:?}");
    }
}

#[tokio::test]
async fn a_child_process_reaches_the_same_server() {
    let server = Server::shared();
    let conninfo = server.conninfo(
        "user=scram_role password=sesame sslmode=verify-full sslrootcert={}/ca.crt options='-c a.b=c'",
    );
    let mut command = Command::new(format!("{BINARIES}/psql"));
    command.env("PGSERVICE", "elsewhere").env("PGHOST", "elsewhere");
    conninfo.prepare_command(&mut command);
    let query =
        "select current_user, ssl, current_setting('a.b') from pg_stat_ssl where pid = pg_backend_pid()";
    let output = command.args(["-X", "-A", "-t", "-w", "-c", query]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "scram_role|t|c\n", "{output:?}");
}

/// A server that says `lines` in turn, each after it has read something, and then waits.
async fn impostor(lines: &'static [&'static [u8]]) -> ConnInfo {
    let listener = AsyncTcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for line in lines {
            stream.read_buf(&mut BytesMut::new()).await.unwrap();
            stream.write_all(line).await.unwrap();
        }
        while stream.read_buf(&mut BytesMut::new()).await.is_ok_and(|count| count > 0) {}
    });
    let text = format!("host=127.0.0.1 port={port} user=u password=sesame sslmode=disable");
    ConnInfo::parse(&text, &Environment::default()).unwrap()
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let mut conninfo = impostor(&[]).await;
    conninfo.connect_timeout = Some(Duration::from_millis(50));
    let error = failed(connect(&conninfo, &[]).await);
    assert!(error.retries() && error.hint_text().unwrap().contains("connect_timeout"), "{error:?}");
}

#[tokio::test]
async fn what_is_not_postgresql_is_told_apart() {
    for sslmode in [SslMode::Disable, SslMode::Require] {
        let mut conninfo = impostor(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).await;
        conninfo.sslmode = sslmode;
        let error = failed(connect(&conninfo, &[]).await);
        assert!(error.what().contains("is not a PostgreSQL server"), "{error:?}");
    }
    // A length that no such message has.
    let conninfo = impostor(&[b"R\xff\xff\xff\xff"]).await;
    assert!(failed(connect(&conninfo, &[]).await).what().contains("is not a PostgreSQL server"));
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_demanded() {
    let mut conninfo = impostor(&[b"N"]).await;
    conninfo.sslmode = SslMode::Require;
    let error = failed(connect(&conninfo, &[]).await);
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.what().contains("does not do TLS") && error.hint_text().unwrap().contains("ssl = on"));
}

#[tokio::test]
async fn a_server_that_skips_its_own_proof_is_refused() {
    let conninfo = impostor(&[b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", b"R\0\0\0\x08\0\0\0\0"]).await;
    let error = failed(connect(&conninfo, &[]).await);
    assert!(error.what().contains("out of turn"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_starting_is_worth_another_try() {
    let conninfo = impostor(&[b"E\0\0\0\x26SFATAL\0C57P03\0Mstarting up now..\0\0"]).await;
    let error = failed(connect(&conninfo, &[]).await);
    assert_eq!(error.sqlstate(), Some("57P03"), "{error:?}");
    assert!(error.retries() && error.hint_text().unwrap().contains("soon"), "{error:?}");
}

/// A server of TLS from the first byte that lets everybody in.
async fn direct_impostor(alpn: &[&[u8]]) -> ConnInfo {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    configuration.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let listener = AsyncTcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream =
            tokio_rustls::TlsAcceptor::from(Arc::new(configuration)).accept(stream).await.unwrap();
        stream.read_buf(&mut BytesMut::new()).await.unwrap();
        stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05Iafterwards").await.unwrap();
        stream.flush().await.unwrap();
        while stream.read_buf(&mut BytesMut::new()).await.is_ok_and(|count| count > 0) {}
    });
    let text = format!("host=127.0.0.1 port={port} user=u sslmode=require sslnegotiation=direct");
    ConnInfo::parse(&text, &Environment::default()).unwrap()
}

#[tokio::test]
async fn tls_can_begin_with_the_first_byte() {
    let connected = connect(&direct_impostor(&[b"postgresql"]).await, &[]).await.unwrap();
    assert!(connected.tls);
    assert_eq!(connected.buffer.as_ref(), b"afterwards");
    let error = failed(connect(&direct_impostor(&[]).await, &[]).await);
    assert!(error.what().contains("is not a PostgreSQL server"), "{error:?}");
}

#[test]
fn only_trouble_that_passes_is_worth_another_try() {
    for sqlstate in ["53300", "57P03", "57P01", "08006", "58030"] {
        assert_eq!(kind_of(sqlstate), Kind::SourceUnreachable, "{sqlstate}");
    }
    for sqlstate in ["28P01", "28000", "3D000", "42501", "55000", "0A000", "XX000", ""] {
        assert_eq!(kind_of(sqlstate), Kind::Refused, "{sqlstate}");
    }
}

proptest! {
    #[test]
    fn no_answer_is_too_odd(tag in "[RENSKZ]", mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let length = u32::try_from(bytes.len() + 4).unwrap().to_be_bytes();
        let framed = [tag.as_bytes(), &length, &bytes].concat();
        let mut buffer = BytesMut::from(framed.as_slice());
        let message = next_message(&mut buffer).ok().flatten().unwrap();
        prop_assert_eq!(message.body.as_ref(), bytes.as_slice());
        prop_assert!(buffer.is_empty());
        Said::read(&bytes);
        bytes.insert(0, tag.as_bytes()[0]);
        let _ = next_message(&mut BytesMut::from(bytes.as_slice()));
    }
}
