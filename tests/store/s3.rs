//! What can go wrong between us and an S3 server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use pgdiode::error::{Error, Kind, Side};
use pgdiode::store::{Content, Put, Store as _};

use super::{content_of, file_of, open, run, s3_options};
use crate::harness::{BUCKET, Proxy, S3Server};

fn assert_says(error: &Error, kind: Kind, what: &str, hint: &str) {
    let is_said = error.what().contains(what) && error.hint_text().unwrap_or_default().contains(hint);
    assert!(error.kind() == kind && is_said, "{error:?}\nis not {kind:?} {what:?} {hint:?}");
    assert!(!format!("{error:?}").contains("hunter2") && !error.chain().contains('\n'), "{error:?}");
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let server = S3Server::start();
    let error = run(open(&S3Server::location_at(server.port(), "other"), &s3_options())).unwrap_err();
    assert_says(&error, Kind::Config, "there is no bucket other", "create the bucket");
    // The cause is told, and once.
    assert_eq!(error.chain().matches("NoSuchBucket").count(), 1, "{error:?}");
}

#[test]
fn half_of_a_credential_is_refused() {
    let mut options = s3_options();
    options.s3.secret_access_key = None;
    let error = run(open("s3://bucket", &options)).unwrap_err();
    assert_says(&error, Kind::Config, "s3://bucket cannot be used", "both or neither");
}

#[test]
fn a_server_that_is_away_counts_for_its_side_and_loses_no_object_in_halves() {
    // Above what goes up in one request.
    const LENGTH: usize = 40 * 1024 * 1024;
    let server = S3Server::start();
    let proxy = Proxy::start(server.port());
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", LENGTH);
    let mut options = s3_options();
    run(async {
        let location = S3Server::location_at(proxy.port(), BUCKET);
        let store = open(&location, &options).await.unwrap();
        assert_eq!(store.create("first", Content::Bytes("x".into())).await.unwrap(), Put::Created);
        // The answers to some parts still come.
        proxy.truncate_after(1000);
        let error = store.create("bases/object", Content::File(&file)).await.unwrap_err();
        assert_says(&error, Kind::TargetUnreachable, "cannot be reached", "endpoint");
        options.side = Side::Source;
        let error = open(&location, &options).await.unwrap_err();
        assert_says(&error, Kind::SourceUnreachable, "cannot be reached", "endpoint");
        proxy.heal();
        assert_eq!(store.list("bases", None).await.unwrap(), []);
        assert_eq!(store.create("bases/object", Content::File(&file)).await.unwrap(), Put::Created);
        assert!(store.read_all("bases/object", LENGTH).await.unwrap().unwrap() == content_of(LENGTH));
        proxy.cut();
        let error = store.read("bases/object", 0, 10).await.unwrap_err();
        assert_says(&error, Kind::TargetUnreachable, "cannot be reached", "endpoint");
    });
}

#[test]
fn a_server_killed_in_mid_upload_takes_the_object_later() {
    let server = S3Server::start();
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", 40 * 1024 * 1024);
    run(async {
        let store = open(&server.location(), &s3_options()).await.unwrap();
        assert_eq!(store.create("first", Content::Bytes("x".into())).await.unwrap(), Put::Created);
        let uploaded = || server.log().contains("partNumber=1");
        let create = store.create("object", Content::File(&file));
        let kill = async {
            while !uploaded() {
                tokio::task::yield_now().await;
            }
            server.kill();
        };
        let (created, ()) = tokio::join!(create, kill);
        assert_says(&created.unwrap_err(), Kind::TargetUnreachable, "cannot be reached", "endpoint");
        server.start_again();
        assert_eq!(store.list("", None).await.unwrap(), []);
        assert_eq!(store.create("object", Content::File(&file)).await.unwrap(), Put::Created);
    });
}

/// What says yes to everything: as some servers do that do not know conditions.
fn agree(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut Vec::new())?;
        let body =
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        let answer =
            format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes())?;
    }
}

#[test]
fn a_server_that_ignores_conditions_is_refused_before_an_object_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || agree(stream));
        }
    });
    run(async {
        let store = open(&S3Server::location_at(port, BUCKET), &s3_options()).await.unwrap();
        for _ in 0..2 {
            let error = store.create("object", Content::Bytes("x".into())).await.unwrap_err();
            assert_says(&error, Kind::Refused, "ignores If-None-Match", "overwrite each other");
        }
    });
}
