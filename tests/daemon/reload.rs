//! A configuration that is read again counts for the door too: who may come in, what they may, and its certificate.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use data_encoding::BASE64;
use pgdiode::credentials::Password;
use pgdiode::secret::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;

use super::Lab;
use crate::harness::http::Http;
use crate::harness::{Authority, ground, wait_for};

impl Lab {
    fn file(&self, name: &str, text: &str) {
        let path = self.run.directory().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Puts these keys into `[server]`, in the place of those that it had.
    fn serve(&self, keys: &str) {
        let config = fs::read_to_string(self.run.config_path()).unwrap();
        let (_, pipelines) = config.split_once("[pipeline.orders]").unwrap();
        fs::write(self.run.config_path(), format!("[server]\n{keys}\n[pipeline.orders]{pipelines}")).unwrap();
    }
}

fn user(name: &str) -> String {
    format!("{name}:{}\n", Password::new(&Secret::new(name)).unwrap().as_str())
}

fn signed_in(lab: &Lab, name: &str) -> Http {
    let shown = BASE64.encode(format!("{name}:{name}").as_bytes());
    lab.http().with("authorization", &format!("Basic {shown}"))
}

#[test]
fn who_may_do_what_follows_the_configuration() {
    let lab = Lab::new();
    let listen = format!("listen = \"127.0.0.1:{}\"", lab.port);
    lab.file("users", &(user("alice") + &user("bob")));
    lab.file("others", &user("bob"));
    lab.serve(&format!("{listen}\nusers_file = \"users\"\noperators = [\"alice\"]"));
    let mut running = lab.run.spawn(&["start"]);
    running.wait_for_log("console, API and metrics");
    let (alice, bob) = (signed_in(&lab, "alice"), signed_in(&lab, "bob"));
    let pause = "/api/v1/pipelines/orders/pause";
    bob.post(pause, &json!({})).with_status(403);

    // One whose files cannot be read changes nothing.
    lab.serve(&format!("{listen}\nusers_file = \"none\"\noperators = [\"bob\"]"));
    let wrong = alice.post("/api/v1/reload", &json!({})).with_status(422);
    assert!(wrong["detail"].as_str().unwrap().contains("cannot read users_file"), "{wrong}");
    bob.post(pause, &json!({})).with_status(403);

    lab.serve(
        "listen = \"127.0.0.1:9\"\nusers_file = \"others\"\noperators = [\"bob\"]\nsession_idle_minutes = 5",
    );
    let reloaded = alice.post("/api/v1/reload", &json!({})).success();
    let waits = json!(["server.listen", "server.session_idle_minutes"]);
    assert_eq!(reloaded["from_the_next_start"], waits, "{reloaded}");
    running.wait_for_log("server.listen, server.session_idle_minutes counts from the next start on");
    bob.post(pause, &json!({"reason": "I may now"})).success();
    assert_eq!(alice.get("/api/v1/pipelines").status, 401);
    bob.post("/api/v1/pipelines/orders/resume", &json!({})).success();
}

/// Whether the server shows a certificate that this authority vouches for.
fn shows(port: u16, authority: &Authority) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    while session.is_handshaking() {
        if session.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let lab = Lab::new();
    let [first, second] = ["first", "second"].map(Authority::new);
    let renew = |authority: &Authority| {
        let issued = authority.issue("localhost", &["localhost"]);
        lab.file("crt", &issued.certificate);
        lab.file("key", &issued.key);
    };
    renew(&first);
    let listen = format!("listen = \"127.0.0.1:{}\"", lab.port);
    lab.serve(&format!("{listen}\ntls_certificate = \"crt\"\ntls_key = \"key\""));
    let mut running = lab.run.spawn(&["start"]);
    wait_for(|| shows(lab.port, &first).then_some(())).unwrap_or_else(|| panic!("{}", running.stderr()));
    renew(&second);
    assert!(shows(lab.port, &first) && !shows(lab.port, &second), "nobody has asked for it yet");
    ground::signal("HUP", &[running.pid()]);
    wait_for(|| shows(lab.port, &second).then_some(())).unwrap_or_else(|| panic!("{}", running.stderr()));
    assert!(!shows(lab.port, &first));

    // Half of the two files is not shown.
    lab.file("key", &first.issue("localhost", &["localhost"]).key);
    ground::signal("HUP", &[running.pid()]);
    running.wait_for_log("does not fit the certificate");
    assert!(shows(lab.port, &second));
    assert!(running.is_running());
}
