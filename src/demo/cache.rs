//! A throw-away Redis that writes its data to disk, so that it comes back with almost all of it, and a chat application
//! that keeps its sessions there.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::backup::find;
use super::server::{Ground, free_port};
use crate::error::{Error, Result};
use crate::redis::connection::Connection;
use crate::redis::location::Location;
use crate::redis::resp::Reply;

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

pub(super) struct Cache {
    program: PathBuf,
    directory: PathBuf,
    process: Child,
    pub(super) port: u16,
}

impl Cache {
    pub(super) async fn start(ground: &Ground) -> Result<Cache> {
        let program = ["redis-server", "valkey-server"].into_iter().find_map(find).ok_or_else(|| {
            Error::refused("no Redis server is installed here")
                .hint("install one, on Debian: apt-get install redis-server")
        })?;
        let directory = ground.directory.join("cache");
        DirBuilder::new().mode(0o700).create(&directory).map_err(cannot)?;
        ground.give(&directory).map_err(cannot)?;
        let port = free_port()?;
        let process = spawn(ground, &program, &directory, port)?;
        let cache = Cache { program, directory, process, port };
        cache.answers().await?;
        Ok(cache)
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: what it has not written to disk is lost.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.kill().and_then(|()| self.process.wait()).map(drop).map_err(cannot)
    }

    pub(super) async fn start_again(&mut self, ground: &Ground) -> Result<()> {
        self.process = spawn(ground, &self.program, &self.directory, self.port)?;
        self.answers().await
    }

    pub(super) fn location(&self) -> Result<Location> {
        Location::at("127.0.0.1", self.port)
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.location()?, "demo").await
    }

    async fn answers(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.connect().await {
            if Instant::now() > deadline {
                return Err(error.context("the Redis server does not start"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn cannot(error: io::Error) -> Error {
    Error::unexpected("cannot run a Redis server").because(error)
}

fn spawn(ground: &Ground, program: &Path, directory: &Path, port: u16) -> Result<Child> {
    let log = File::create(ground.directory.join("cache.log")).map_err(cannot)?;
    let port = port.to_string();
    ground
        .command(program)
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--appendonly",
            "yes",
            "--repl-backlog-size",
            "64mb",
            "--save",
            "",
            "--dir",
        ])
        .arg(directory)
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot)
}

/// People who talk; each sentence writes its session anew, as such applications do.
pub(super) struct Chat {
    talking: JoinSet<Result<u64>>,
    stop: watch::Sender<bool>,
}

const TALKERS: u64 = 4;
const SESSIONS: u64 = 400;

impl Chat {
    pub(super) fn start(location: &Location, round: u64) -> Chat {
        let stop = watch::Sender::new(false);
        let mut talking = JoinSet::new();
        for number in 0..TALKERS {
            talking.spawn(talk(location.clone(), round * TALKERS + number, stop.subscribe()));
        }
        Chat { talking, stop }
    }

    /// Waits until all have finished their sentence; how many commands they gave.
    pub(super) async fn stop(mut self) -> Result<u64> {
        self.stop.send_replace(true);
        let mut commands = 0;
        while let Some(ended) = self.talking.join_next().await {
            commands +=
                ended.unwrap_or_else(|error| Err(Error::unexpected("a talker is gone").because(error)))?;
        }
        Ok(commands)
    }
}

/// Talks until it is asked to stop; a server that is away is waited for.
async fn talk(location: Location, seed: u64, stop: watch::Receiver<bool>) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut commands = 0;
    let mut connection = None;
    while !*stop.borrow() {
        let open = match &mut connection {
            Some(open) => open,
            none => match Connection::open(&location, "chat").await {
                Ok(opened) => none.insert(opened),
                Err(_) => {
                    sleep(POLL).await;
                    continue;
                }
            },
        };
        match say(open, &mut random, seed).await {
            Ok(said) => commands += said,
            Err(error) if error.retries() => connection = None,
            Err(error) => return Err(error),
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(commands)
}

/// One sentence, or a session that ends.
async fn say(connection: &mut Connection, random: &mut fastrand::Rng, talker: u64) -> Result<u64> {
    // Of its own sessions: nobody else writes there.
    let number = random.u64(0..SESSIONS / TALKERS) * TALKERS + talker % TALKERS;
    let key = format!("session:{number}");
    if random.u8(..) < 8 {
        connection.call(&[b"DEL", key.as_bytes()]).await?;
        return Ok(1);
    }
    let before = connection.call(&[b"GET", key.as_bytes()]).await?;
    let mut session = match before.text().map(serde_json::from_str) {
        Some(Ok(session)) => session,
        _ => serde_json::json!({
            "session_id": number.to_string(), "title": format!("talk {number}"), "group_id": format!("room {}", number % 7),
            "created_at": now(), "messages": [],
        }),
    };
    let sender = random.u64(0..40);
    let sentence = serde_json::json!({
        "sender_id": format!("user {sender}"), "sender_name": format!("Number {sender}"),
        "content": format!("sentence {}", random.u32(..)), "timestamp": now(),
    });
    if let Some(messages) = session["messages"].as_array_mut() {
        messages.push(sentence);
        // A session does not grow for ever.
        if messages.len() > 30 {
            messages.drain(..10);
        }
    }
    session["updated_at"] = now().into();
    // Most live long enough to be compared, some for a moment only.
    let lives: &[u8] = if random.u8(..) < 30 { b"400" } else { b"86400000" };
    let text = session.to_string();
    match connection.call(&[b"SET", key.as_bytes(), text.as_bytes(), b"PX", lives]).await? {
        Reply::Line(_) => Ok(2),
        other => Err(Error::unexpected(format!("Redis answered SET with {other:?}"))),
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
