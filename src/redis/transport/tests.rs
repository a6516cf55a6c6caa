//! What goes wrong before a server is one of Redis's; real servers are in `tests/redis/`.

use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn fails(text: &str) -> Error {
    let location = Location::parse(text).unwrap();
    let error = connect(&location, &location.hosts[0]).await.err().expect("it must not connect");
    assert!(error.hint_text().is_some(), "{error:?}");
    error
}

#[tokio::test]
async fn bytes_go_both_ways_over_tcp_and_a_socket() {
    let (listener, port) = listener().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock");
    let socket = tokio::net::UnixListener::bind(&path).unwrap();
    for text in [format!("redis://127.0.0.1:{port}"), format!("redis+unix://{}", path.display())] {
        let location = Location::parse(&text).unwrap();
        let mut transport = connect(&location, &location.hosts[0]).await.unwrap();
        transport.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        if matches!(transport, Stream::Tcp(_)) {
            listener.accept().await.unwrap().0.read_exact(&mut heard).await.unwrap();
        } else {
            socket.accept().await.unwrap().0.read_exact(&mut heard).await.unwrap();
        }
        assert_eq!(&heard, b"ping", "{text}");
    }
}

#[tokio::test]
async fn nobody_there_is_worth_another_attempt() {
    let (gone, port) = listener().await;
    drop(gone);
    let refused = fails(&format!("redis://127.0.0.1:{port}")).await;
    assert_eq!(refused.kind(), Kind::SourceUnreachable);
    assert!(refused.hint_text().is_some_and(|hint| hint.contains("is the server running")), "{refused:?}");
    let socket = fails("redis+unix:///nowhere/redis.sock").await;
    assert_eq!(socket.kind(), Kind::SourceUnreachable);
    let name = fails("redis://no-such-host.invalid").await;
    assert!(name.what().contains("no-such-host.invalid"), "{name:?}");
    assert_eq!(name.kind(), Kind::SourceUnreachable);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    // It takes the connection, and then is silent where a handshake should be.
    let (_silent, port) = listener().await;
    let error = fails(&format!("rediss://127.0.0.1:{port}?connect_timeout=1")).await;
    assert!(error.what().contains("has not answered the TLS handshake within 1 s"), "{error:?}");
    assert_eq!(error.kind(), Kind::SourceUnreachable);
}

#[tokio::test]
async fn a_port_without_tls_is_told_from_a_broken_one() {
    for (answer, expected, kind) in [
        (&b"-ERR Protocol error: unauthenticated multibulk length\r\n"[..], "does not do TLS", Kind::Refused),
        (b"", "broke while it was opened", Kind::SourceUnreachable),
    ] {
        let (listener, port) = listener().await;
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
            // Until the client has gone: an early reset would take the answer along.
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        });
        let error = fails(&format!("rediss://127.0.0.1:{port}")).await;
        assert!(error.what().contains(expected), "{error:?}");
        assert_eq!(error.kind(), kind, "{error:?}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str, mode: u32| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = CertificateParams::new(vec!["redis.example".to_owned()]).unwrap();
    let certificate = place("cert.pem", &certificate.self_signed(&key).unwrap().pem(), 0o644);
    let empty = place("empty.pem", "", 0o644);
    let open = place("open.pem", &key.serialize_pem(), 0o644);
    let other = place("other.pem", &other.serialize_pem(), 0o600);
    for (options, expected) in [
        ("sslrootcert=/nowhere.pem".to_owned(), "cannot read sslrootcert /nowhere.pem"),
        (format!("sslrootcert={empty}"), "holds nothing of its kind"),
        (format!("sslrootcert={certificate}&sslcert={certificate}&sslkey={open}"), "can be read by others"),
        (format!("sslrootcert={certificate}&sslcert={certificate}&sslkey={other}"), "cannot be used with"),
    ] {
        let error = fails(&format!("rediss://127.0.0.1:1?{options}")).await;
        assert!(error.what().contains(expected), "{error:?}");
        assert_eq!(error.kind(), Kind::Config);
    }
}
