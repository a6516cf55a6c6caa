//! Who a connection is to the server: passwords, users, TLS, and what an operator is told when that goes wrong.

use pgdiode::error::{Error, Kind, Result};
use pgdiode::redis::connection::Connection;
use pgdiode::redis::location::Location;
use pgdiode::secret::Secret;

use crate::harness::{Authority, RedisServer, RedisVersion, ground};

const READER: &str = "reader on >reader%sesame ~chat:* resetchannels +get +ping +client|setname";

async fn open(location: &str) -> Result<Connection> {
    Connection::open(&Location::parse(location)?, "pgdiode test").await
}

async fn refused(location: &str) -> Error {
    let Err(error) = open(location).await else { panic!("{location} lets us in") };
    assert_eq!(error.kind(), Kind::Refused, "{location}: {error:?}");
    assert!(error.hint_text().is_some(), "{location}: {error:?}");
    assert!(!format!("{error:?}").contains("sesame"), "{location}: {error:?}");
    error
}

async fn get(connection: &mut Connection, key: &str) -> Result<String> {
    let reply = connection.call(&[b"GET", key.as_bytes()]).await?;
    Ok(reply.text().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_password_is_asked_for_and_a_wrong_one_is_named_as_that() {
    for version in RedisVersion::ALL {
        let redis = RedisServer::start(version, &[("requirepass", "open-sesame")]);
        redis.cli(&["SET", "k", "v"]);
        for location in [
            redis.location().replace("://", "://:open-sesame@"),
            redis.location().replace("://", "://default:open%2Dsesame@"),
            redis.socket_location().replace("://", "://:open-sesame@"),
        ] {
            let mut connection = open(&location).await.expect("the password is right");
            assert_eq!(get(&mut connection, "k").await.unwrap(), "v");
        }
        let nobody = refused(&redis.location()).await;
        assert!(nobody.what().contains("a password is needed"), "{version}: {nobody:?}");
        for userinfo in [":sesame@", "default:sesame@", "nobody:open-sesame@"] {
            let wrong = refused(&redis.location().replace("://", &format!("://{userinfo}"))).await;
            assert!(wrong.what().contains("user name or password are not right"), "{version}: {wrong:?}");
            assert!(wrong.what().contains(&redis.port().to_string()), "{version}: {wrong:?}");
        }
    }
}

#[tokio::test]
async fn a_user_of_the_acl_may_do_what_it_may() {
    for version in RedisVersion::ALL {
        let redis = RedisServer::start(version, &[("requirepass", "open-sesame"), ("user", READER)]);
        let location = Location::parse(&redis.location()).unwrap();
        let location = location.with_user("reader").with_password(Secret::new("reader%sesame"));
        let mut connection =
            Connection::open(&location, "pgdiode test").await.expect("the password is right");
        assert_eq!(get(&mut connection, "chat:1").await.unwrap(), "");
        for (forbidden, said) in
            [(&[&b"GET"[..], b"other"][..], "key"), (&[b"SET", b"chat:1", b"v"], "command")]
        {
            let error = connection.call(forbidden).await.expect_err("the user has no right to this");
            assert_eq!(error.kind(), Kind::Refused, "{version}: {error:?}");
            assert!(error.what().contains("NOPERM") && error.what().contains(said), "{version}: {error:?}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("rights")), "{version}: {error:?}");
        }
        // A refusal leaves the connection in order.
        assert_eq!(get(&mut connection, "chat:2").await.unwrap(), "");
        refused(&redis.location().replace("://", "://reader:wrong@")).await;
        refused(&redis.location()).await;
    }
}

#[tokio::test]
async fn a_connection_says_who_it_is() {
    for version in RedisVersion::ALL {
        let redis = RedisServer::start(version, &[]);
        let location = redis.location();
        let name = "pgdiode:chat";
        let connection = Connection::open(&Location::parse(&location).unwrap(), name).await.unwrap();
        assert!(connection.place().ends_with(&redis.port().to_string()));
        let clients = redis.cli(&["CLIENT", "LIST"]);
        assert!(clients.contains(&format!("name={name} ")), "{version}: {clients}");
    }
}

#[tokio::test]
async fn a_password_goes_through_tls() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("ours"));
    for version in RedisVersion::WITH_TLS {
        let redis = RedisServer::start_tls(version, &authority, &[("requirepass", "open-sesame")]);
        let place = format!("127.0.0.1:{}", redis.tls_port());
        let roots = |name: &str, authority: &Authority| {
            format!("sslrootcert={}", redis.place(name, authority.certificate()).display())
        };
        let ours = roots("ours.pem", &authority);
        let mut connection =
            open(&format!("rediss://:open-sesame@{place}?{ours}")).await.expect("all is right");
        assert_eq!(get(&mut connection, "none").await.unwrap(), "");
        let wrong = refused(&format!("rediss://:sesame@{place}?{ours}")).await;
        assert!(wrong.what().contains("user name or password are not right"), "{version}: {wrong:?}");
        let strange = roots("strange.pem", &stranger);
        let untrusted = refused(&format!("rediss://:open-sesame@{place}?{strange}")).await;
        assert!(untrusted.what().contains("is not trusted"), "{version}: {untrusted:?}");
    }
}

#[tokio::test]
async fn the_first_server_of_the_list_that_answers_is_taken() {
    let redis = RedisServer::start(RedisVersion::V7_0, &[]);
    redis.cli(&["SET", "k", "v"]);
    let nobody = ground::free_port();
    let location = format!("redis://127.0.0.1:{nobody},127.0.0.1:{}", redis.port());
    let mut connection = open(&location).await.expect("one of both answers");
    assert_eq!(get(&mut connection, "k").await.unwrap(), "v");
    redis.kill();
    let broken = get(&mut connection, "k").await.expect_err("the server is gone");
    let gone = open(&location).await.err().expect("neither answers");
    for error in [broken, gone] {
        assert_eq!(error.kind(), Kind::SourceUnreachable, "{error:?}");
        assert!(error.retries());
    }
}
