//! What servers of each version really sent: a replication stream and answers, byte by byte, and what is read from them.
//!
//! `PGDIODE_RECORD=1` has them sent again by real servers, `UPDATE_GOLDEN=1` writes down what is read. Without these words no
//! server is needed. Captures that are spoilt by chance must not make anything panic: what a fuzzer does with its own.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use bytes::BytesMut;
use pgdiode::redis::resp::take_reply;

use crate::harness::{PATIENCE, RedisServer, RedisVersion, Rng};

#[path = "../../fuzz/bodies/redis.rs"]
mod bodies;

/// Of each kind that has a rule, and some that have none. Nothing in it depends on the clock or on chance.
const COMMANDS: &[&str] = &[
    "SET s:a 1",
    "SET s:b 2 PXAT 4102444800000",
    "SET s:b 3 KEEPTTL",
    "SETNX s:a 9",
    "MSET s:a 2 s:c 3",
    "APPEND s:a x",
    "INCRBYFLOAT s:n 0.5",
    "GETSET s:a 4",
    "GETDEL s:c",
    "PEXPIREAT s:a 4102444800000",
    "PERSIST s:a",
    "HSET h:a f v g w",
    "RPUSH l:a 1 2 3",
    "LPOP l:a",
    "SADD e:a m",
    "SPOP e:a",
    "ZADD z:a 1.5 m",
    "XADD x:a 1-1 f v",
    "RENAME s:a s:d",
    "COPY s:d s:e DB 1",
    "MOVE s:d 2",
    "SELECT 1",
    "SET s:other 1",
    "SWAPDB 0 1",
    "SELECT 0",
    "MULTI",
    "SET s:p 1",
    "DEL s:q s:p",
    "EXEC",
    "EVAL redis.call('SET','s:script',ARGV[1]);redis.call('DEL','s:script') 0 v",
    "PUBLISH channel message",
    "UNLINK h:a",
    "FLUSHDB",
    "FLUSHALL",
    "SET s:end 1",
];

const QUESTIONS: &[&str] = &[
    "PING",
    "SET s:a 1",
    "GET s:a",
    "GET s:none",
    "RPUSH s:a 1",
    "NOSUCHCOMMAND",
    "RPUSH l:a 1 2 3",
    "LRANGE l:a 0 -1",
    "HSET h:a f v",
    "HGETALL h:a",
    "ZADD z:a 1.5 m",
    "ZRANGE z:a 0 -1 WITHSCORES",
    "SADD e:a m",
    "SMEMBERS e:a",
    "XADD x:a 1-1 f v",
    "XRANGE x:a - +",
    "MULTI",
    "GET s:a",
    "PTTL s:a",
    "EXEC",
    "SCAN 0 COUNT 1000 MATCH none*",
];

fn name(version: RedisVersion) -> &'static str {
    match version {
        RedisVersion::V6_2 => "redis-6.2",
        RedisVersion::V7_0 => "redis-7.0",
        RedisVersion::V7_4 => "redis-7.4",
        RedisVersion::Valkey9 => "valkey-9",
    }
}

fn path(version: RedisVersion, kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/redis")
        .join(format!("{}.{kind}", name(version)))
}

fn is_asked_for(word: &str) -> bool {
    std::env::var_os(word).is_some()
}

/// A script's text has no spaces but before its own arguments.
fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

fn sent(command: &str) -> Vec<u8> {
    let words = words(command);
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        write!(bytes, "${}\r\n{word}\r\n", word.len()).expect("a text can be written to");
    }
    bytes.into_bytes()
}

fn connect(redis: &RedisServer) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream
}

/// Reads until what was read ends like this.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut received, mut byte) = (Vec::new(), [0]);
    while !received.ends_with(end) {
        stream.read_exact(&mut byte).expect("more comes");
        received.push(byte[0]);
    }
    received
}

fn record_stream(redis: &RedisServer) -> Vec<u8> {
    // Somebody must have listened before, or the stream would begin with a snapshot of a server that has all modules.
    let mut replica = connect(redis);
    replica.write_all(&sent("PSYNC ? -1")).expect("it takes commands");
    read_until(&mut replica, b"+FULLRESYNC ");
    read_until(&mut replica, b"\n$");
    let length = String::from_utf8(read_until(&mut replica, b"\r\n")).expect("a number");
    let mut snapshot = vec![0; length.trim().parse().expect("a length")];
    replica.read_exact(&mut snapshot).expect("a snapshot");
    let mut client = redis.client();
    for command in COMMANDS {
        client.call(&words(command));
    }
    read_until(&mut replica, b"s:end\r\n$1\r\n1\r\n")
}

fn record_replies(redis: &RedisServer) -> Vec<u8> {
    let mut all = Vec::new();
    let protocols: &[&str] = &["2", "3"];
    for protocol in protocols {
        redis.cli(&["FLUSHALL"]);
        let mut stream = connect(redis);
        if *protocol == "3" {
            stream.write_all(&sent("HELLO 3")).expect("it takes commands");
            read_until(&mut stream, b"modules\r\n");
            stream.write_all(&sent("PING")).expect("it takes commands");
            read_until(&mut stream, b"+PONG\r\n");
        }
        for question in QUESTIONS {
            stream.write_all(&sent(question)).expect("it takes commands");
        }
        stream.write_all(&sent("ECHO the-end")).expect("it takes commands");
        all.extend(read_until(&mut stream, b"the-end\r\n"));
    }
    all
}

fn capture(version: RedisVersion, kind: &str, record: fn(&RedisServer) -> Vec<u8>) -> Vec<u8> {
    let path = path(version, kind);
    if is_asked_for("PGDIODE_RECORD") {
        fs::write(&path, record(&RedisServer::start(version, &[("repl-diskless-sync", "no")])))
            .expect("the repository can be written");
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}\n  hint: PGDIODE_RECORD=1", path.display()))
}

fn compare(version: RedisVersion, kind: &str, read: &str) {
    let path = path(version, kind);
    if is_asked_for("UPDATE_GOLDEN") || is_asked_for("PGDIODE_RECORD") {
        fs::write(&path, read).expect("the repository can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(read, golden, "{} says something else\n  hint: UPDATE_GOLDEN=1", path.display());
}

#[test]
fn streams_of_real_servers_are_read_as_they_were() {
    for version in RedisVersion::ALL {
        let bytes = capture(version, "stream", record_stream);
        let mut read = String::new();
        let taken = bodies::commands(&bytes, |effect| writeln!(read, "{effect}").expect("it is a text"));
        assert_eq!(taken, bytes.len(), "{version}: all of it is commands");
        compare(version, "stream.txt", &readable(&read));
    }
}

/// Names instead of lists of numbers.
fn readable(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('[') {
        let (list, after) = behind.split_once(']').expect("a list ends");
        let bytes: Vec<u8> = list.split(", ").filter_map(|number| number.parse().ok()).collect();
        write!(shown, "{before}\"{}\"", bytes.escape_ascii()).expect("it is a text");
        rest = after;
    }
    shown + rest
}

#[test]
fn answers_of_real_servers_are_read_as_they_were() {
    for version in RedisVersion::ALL {
        let bytes = capture(version, "replies", record_replies);
        let mut received = BytesMut::from(&bytes[..]);
        let mut read = String::new();
        while let Some(reply) = take_reply(&mut received).expect("it is the protocol") {
            writeln!(read, "{reply:?}").expect("it is a text");
        }
        assert!(received.is_empty(), "{version}: all of it is answers");
        compare(version, "replies.txt", &read);
    }
}

/// Some bytes changed, left out, twice, or from elsewhere.
fn spoil(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut spoilt = bytes.to_vec();
    for _ in 0..rng.usize(1..6) {
        if spoilt.is_empty() {
            break;
        }
        let at = rng.usize(0..spoilt.len());
        let end = (at + rng.usize(0..24)).min(spoilt.len());
        match rng.u8(0..5) {
            0 => spoilt[at] = rng.u8(..),
            1 => drop(spoilt.drain(at..end)),
            2 => {
                let twice = spoilt[at..end].to_vec();
                spoilt.splice(at..at, twice);
            }
            3 => spoilt.truncate(at),
            _ => {
                let number = ["-1", "0", "9", "99999999999999999999", "1048577"][rng.usize(0..5)];
                spoilt.splice(at..at, number.bytes());
            }
        }
    }
    spoilt
}

#[test]
fn what_is_spoilt_on_its_way_makes_nothing_panic() {
    let mut rng = Rng::from_environment_or(83);
    let document = br#"{"user_id":"u1","created":"2026-01-01T00:00:00Z","messages":[{"content":"a\u00e9\ud83d\ude00","sender_id":"u1"},{"content":[1,2.5e3,null,true]}]}"#;
    for version in RedisVersion::ALL {
        let stream = capture(version, "stream", record_stream);
        let answers = capture(version, "replies", record_replies);
        assert!(bodies::replies(&answers) > QUESTIONS.len());
        for _ in 0..3000 {
            bodies::commands(&spoil(&stream, &mut rng), |_| ());
            bodies::replies(&spoil(&answers, &mut rng));
            bodies::document(&spoil(document, &mut rng));
        }
    }
}
