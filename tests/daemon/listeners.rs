//! Many who look at once: each is told what changes, nobody waits for another, and all are let go in order.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::Lab;
use super::memory::resident_mb;
use crate::harness::wait_for;

const LISTENERS: usize = 500;
/// A debug build takes some 70 MB with them all.
const RESIDENT_MB_MAX: u64 = 150;

/// One who waits for events, and what has come so far.
struct Listener {
    stream: TcpStream,
    told: Vec<u8>,
    has_ended: bool,
}

impl Listener {
    fn new(port: u16) -> Listener {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the daemon takes connections");
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Listener { stream, told: Vec::new(), has_ended: false }
    }

    /// Reads what has come.
    fn listen(&mut self) {
        let mut part = [0; 4096];
        while !self.has_ended {
            match self.stream.read(&mut part) {
                Ok(0) => self.has_ended = true,
                Ok(length) => self.told.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a connection broke off: {error}"),
            }
        }
    }

    fn events(&self) -> usize {
        String::from_utf8_lossy(&self.told).matches("event: fleet").count()
    }
}

/// Until it is so for each of them.
fn all(listeners: &mut [Listener], what: &str, is_so: impl Fn(usize, &Listener) -> bool) {
    let found = wait_for(|| {
        listeners.iter_mut().for_each(Listener::listen);
        listeners.iter().enumerate().all(|(at, one)| is_so(at, one)).then_some(())
    });
    let count = listeners.iter().enumerate().filter(|(at, one)| is_so(*at, one)).count();
    assert!(found.is_some(), "{what}: only {count} of {}", listeners.len());
}

#[test]
fn five_hundred_listeners_are_told_of_each_change_and_let_go_in_order() {
    let lab = Lab::new();
    lab.run.run(&["setup", "--yes", "--pipeline", "orders"]).success();
    let mut running = lab.start();
    let http = lab.http();
    let mut listeners: Vec<Listener> = (0..LISTENERS).map(|_| Listener::new(lab.port)).collect();
    all(&mut listeners, "the first event", |_, one| one.events() > 0);
    assert!(listeners.iter().all(|one| one.told.starts_with(b"HTTP/1.1 200 ")));
    let before: Vec<usize> = listeners.iter().map(Listener::events).collect();
    http.post("/api/v1/pipelines/li/pause", &json!({ "reason": "many look" })).success();
    all(&mut listeners, "told of the pause", |at, one| one.events() > before[at]);
    // Whoever asks meanwhile is answered.
    assert_eq!(http.json("/api/v1/pipelines/li")["health"], "paused");
    assert_eq!(http.get("/readyz").status, 200);
    let resident = resident_mb(&running);
    assert!(resident < RESIDENT_MB_MAX, "{resident} MB are resident");
    assert!(listeners.iter().all(|one| !one.has_ended));
    running.terminate();
    all(&mut listeners, "let go", |_, one| one.has_ended);
    // An answer in chunks that is whole ends with an empty one.
    assert!(listeners.iter().all(|one| one.told.ends_with(b"0\r\n\r\n")), "an answer was broken off");
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
}
