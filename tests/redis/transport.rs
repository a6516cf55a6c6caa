//! The way to a real server: TLS by a private authority, with and without a certificate of our own, and a Unix socket.

use std::path::PathBuf;

use pgdiode::error::{Error, Kind, Result};
use pgdiode::redis::location::Location;
use pgdiode::redis::transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Authority, RedisServer, RedisVersion};

/// Connects and exchanges a PING.
async fn ping(location: &str) -> Result<()> {
    let location = Location::parse(location)?;
    let host = &location.hosts[0];
    let mut transport = transport::connect(&location, host).await?;
    let broken = |error| transport::failure(error, &location, host);
    transport.write_all(b"*1\r\n$4\r\nPING\r\n").await.map_err(broken)?;
    transport.flush().await.map_err(broken)?;
    let mut answer = [0; 7];
    transport.read_exact(&mut answer).await.map_err(broken)?;
    assert_eq!(&answer, b"+PONG\r\n");
    Ok(())
}

async fn refused(location: &str) -> (String, String) {
    let error: Error = ping(location).await.expect_err("it must not connect");
    assert_eq!(error.kind(), Kind::Refused, "{error:?}");
    (error.what().to_owned(), error.hint_text().unwrap_or_default().to_owned())
}

/// A server with TLS, its location, and the authority's file.
fn server(
    version: RedisVersion,
    authority: &Authority,
    options: &[(&str, &str)],
) -> (RedisServer, String, PathBuf) {
    let redis = RedisServer::start_tls(version, authority, options);
    let location = format!("rediss://127.0.0.1:{}", redis.tls_port());
    let file = redis.place("roots.pem", authority.certificate());
    (redis, location, file)
}

#[tokio::test]
async fn a_private_authority_vouches_for_its_servers_only() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("ours"));
    for version in RedisVersion::WITH_TLS {
        let (redis, location, roots) = server(version, &authority, &[]);
        let by_name = location.replace("127.0.0.1", "localhost");
        for location in [&location, &by_name] {
            ping(&format!("{location}?sslrootcert={}", roots.display()))
                .await
                .expect("a certificate of ours");
        }
        let strange = redis.place("strange.pem", stranger.certificate());
        let (what, hint) = refused(&format!("{location}?sslrootcert={}", strange.display())).await;
        assert!(what.contains("is not trusted") && what.contains("strange.pem"), "{what}");
        assert!(hint.contains("sslrootcert"), "{hint}");
        let (what, _) = refused(&location).await;
        assert!(what.contains("is not trusted: the operating system"), "{what}");
        let elsewhere = authority.issue("redis", &["redis.example"]);
        redis.place("server.pem", &elsewhere.certificate);
        redis.place("server.key", &elsewhere.key);
        redis.kill();
        redis.start_again();
        let (what, hint) = refused(&format!("{by_name}?sslrootcert={}", roots.display())).await;
        assert!(what.contains("another host name"), "{what}");
        assert!(hint.contains("a name or an address that the certificate carries"), "{hint}");
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_us_gets_one() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    for version in RedisVersion::WITH_TLS {
        for protocol in ["TLSv1.2", "TLSv1.3"] {
            let options = [("tls-auth-clients", "yes"), ("tls-protocols", protocol)];
            let (redis, location, roots) = server(version, &authority, &options);
            let location = format!("{location}?sslrootcert={}", roots.display());
            let (what, hint) = refused(&location).await;
            assert!(what.contains("ended the TLS handshake"), "{version} {protocol}: {what}");
            assert!(hint.contains("give sslcert and sslkey"), "{version} {protocol}: {hint}");
            let with = |name: &str, authority: &Authority| {
                let issued = authority.issue("a client", &[]);
                let certificate = redis.place(&format!("{name}.pem"), &issued.certificate);
                let key = redis.place(&format!("{name}.key"), &issued.key);
                format!("{location}&sslcert={}&sslkey={}", certificate.display(), key.display())
            };
            ping(&with("client", &authority)).await.expect("a certificate of the server's authority");
            let (_, hint) = refused(&with("stranger", &stranger)).await;
            assert!(hint.contains("tls-ca-cert-file"), "{version} {protocol}: {hint}");
        }
    }
}

#[tokio::test]
async fn tls_with_a_port_that_has_none_is_told_to_be_that() {
    for version in RedisVersion::ALL {
        let redis = RedisServer::start(version, &[]);
        let error = ping(&format!("rediss://127.0.0.1:{}?connect_timeout=2", redis.port())).await;
        let error = error.expect_err("that port has no TLS");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("tls-port")), "{version}: {error:?}");
    }
}

#[tokio::test]
async fn a_socket_and_a_port_lead_to_the_same_server() {
    for version in RedisVersion::ALL {
        let redis = RedisServer::start(version, &[]);
        for location in [redis.location(), redis.socket_location()] {
            ping(&location).await.expect("the server listens");
        }
        redis.kill();
        for location in [redis.location(), redis.socket_location()] {
            let error = ping(&location).await.expect_err("the server is gone");
            assert_eq!(error.kind(), Kind::SourceUnreachable, "{error:?}");
        }
    }
}
