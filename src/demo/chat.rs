//! The demo of Redis: a chat application writes, expires and deletes sessions, which become rows that outlive them; pgdiode
//! and Redis are killed in between, and both sides are compared at the end.
//!
//! ```text
//! people who talk -> Redis -> `pgdiode start` -> PostgreSQL: sessions, messages, users, groups
//! ```

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant, sleep};

use super::cache::{Cache, Chat};
use super::process::Pgdiode;
use super::server::{DATABASE, Server};
use super::stage::Scene;
use super::{Afterwards, Enough, PATIENCE, POLL, Playing};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};
use crate::redis::resp::Reply;

/// How long people talk in each scene.
const TALK: Duration = Duration::from_secs(4);

/// Plays the demo. `Ok` means that the tables hold what Redis does.
pub async fn run(playing: Playing) -> Result<()> {
    let mut play = Play::set(&playing).await?;
    play.sessions_become_rows().await?;
    play.pgdiode_is_killed().await?;
    play.redis_is_killed().await?;
    play.compare().await?;
    if let Afterwards::Stay(enough) = playing.afterwards {
        play.stay(&enough).await?;
    }
    Ok(())
}

/// Processes are dropped before what they work on.
struct Play {
    pgdiode: Option<Pgdiode>,
    chat: Option<Chat>,
    cache: Cache,
    target: Server,
    scene: Scene,
}

impl Play {
    async fn set(playing: &Playing) -> Result<Play> {
        let title = "pgdiode demo redis: chat sessions in Redis become rows that outlive them.";
        let (scene, installation) = Scene::set(title, playing)?;
        scene.step(&format!("Starting PostgreSQL {} and a Redis server.", installation.version));
        let target = Server::start(&installation, &scene.ground, "target").await?;
        let cache = Cache::start(&scene.ground).await?;
        scene.say(&format!("Redis 127.0.0.1:{}, target 127.0.0.1:{}", cache.port, target.port));
        scene.name_servers(&[("target", &target)])?;
        scene.configure(&format!(
            "[pipeline.{DATABASE}]\nsource = \"redis://127.0.0.1:{}\"\ntarget = \"service=target\"\n\
             redis.preset = \"chat-sessions\"\nretry.first_ms = 100\nretry.max_ms = 1000\n",
            cache.port
        ))?;
        let chat = Some(Chat::start(&cache.location()?, 1));
        scene.say("four people talk from now on, and every sentence writes its session anew");
        Ok(Play { pgdiode: None, chat, cache, target, scene })
    }

    async fn sessions_become_rows(&mut self) -> Result<()> {
        sleep(TALK / 2).await;
        self.scene.step("pgdiode joins as one of the server's replicas, and looks at every key once.");
        self.start()?;
        self.scene.show_console();
        self.wait_until("messages", "select count(*) > 500 from messages").await?;
        sleep(TALK).await;
        self.tell_counts().await
    }

    async fn pgdiode_is_killed(&mut self) -> Result<()> {
        self.scene.step("pgdiode is killed while people talk on.");
        if let Some(pgdiode) = self.pgdiode.take() {
            self.scene.say(&format!("kill -9 {}", pgdiode.id()));
            pgdiode.kill().await?;
        }
        sleep(TALK / 2).await;
        self.scene.step("It goes on from where its rows say it stands: Redis has kept what came since.");
        self.start()?;
        sleep(TALK).await;
        self.tell_counts().await
    }

    /// Redis loses what it had not written to disk: the target must lose it too.
    async fn redis_is_killed(&mut self) -> Result<()> {
        self.scene.step("Redis is killed, with what it had not yet written to disk.");
        self.scene.say(&format!("kill -9 {}", self.cache.id()));
        self.cache.kill()?;
        sleep(POLL).await;
        self.cache.start_again(&self.scene.ground).await?;
        self.scene
            .step("It is back, with a new history: pgdiode looks at every key again, while people talk on.");
        sleep(TALK).await;
        let sql = "select is_scanned from pgdiode.keyspace_position";
        self.wait_until("a look at every key", sql).await?;
        self.tell_counts().await
    }

    async fn compare(&mut self) -> Result<()> {
        if let Some(chat) = self.chat.take() {
            let commands = chat.stop().await?;
            self.scene.step(&format!("People stop talking, after {commands} commands."));
        }
        self.scene.step("Comparing every session of Redis with its rows.");
        let deadline = Instant::now() + PATIENCE;
        let mut session = self.session().await?;
        loop {
            let (ours, theirs) = (self.sessions_of_redis().await?, rows(&mut session).await?);
            if ours == theirs {
                self.scene.say(&format!("{} sessions and their messages are identical", ours.len()));
                break;
            }
            if Instant::now() > deadline {
                let differing =
                    ours.iter().filter(|(key, messages)| theirs.get(*key) != Some(*messages)).count();
                return Err(Error::new(
                    Kind::Difference,
                    format!("{differing} of {} sessions differ", ours.len()),
                ));
            }
            self.still_well()?;
            sleep(POLL).await;
        }
        let sql = "select count(*) filter (where expired_at is not null), count(*) filter (where deleted_at is not null),
                          (select count(*) from messages m join sessions s on s.id = m.session_id
                            where s.expired_at is not null or s.deleted_at is not null) from sessions";
        let row = session.one(sql).await?;
        self.scene.say(&format!(
            "{} more have expired and {} were deleted: their {} messages are still here",
            row.string(0),
            row.string(1),
            row.string(2)
        ));
        self.scene.run(&["verify"]).await?;
        self.scene.run(&["status"]).await?;
        self.scene.step("Identical: nothing was lost, and nothing is there that Redis took back.");
        Ok(())
    }

    /// Goes on until somebody has seen enough, or something ends by itself.
    async fn stay(&mut self, enough: &Enough) -> Result<()> {
        self.chat = Some(Chat::start(&self.cache.location()?, 2));
        let port = format!("redis-cli -p {}              write what you like", self.cache.port);
        let lines = [port.as_str(), "psql service=target            read it there", "{program} status"];
        self.scene.invite("Everything stays, and people talk again. In another terminal:", &lines, enough)?;
        while !enough.was_said() {
            self.still_well()?;
            sleep(POLL).await;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.scene.say("$ pgdiode start");
        self.pgdiode = Some(self.scene.spawn(&["start", "--progress-seconds=2"])?);
        Ok(())
    }

    async fn session(&self) -> Result<Session> {
        self.target.session(Side::Target).await
    }

    async fn tell_counts(&mut self) -> Result<()> {
        let sql = "select count(*), count(*) filter (where expired_at is not null),
                          (select count(*) from messages), (select count(*) from users) from sessions";
        let row = self.session().await?.one(sql).await?;
        let counts = [row.string(0), row.string(1), row.string(2), row.string(3)];
        let [sessions, expired, messages, users] = counts;
        self.scene.say(&format!(
            "{sessions} sessions, {expired} of them expired, {messages} messages of {users} users"
        ));
        Ok(())
    }

    async fn wait_until(&mut self, what: &str, sql: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut session = self.session().await?;
        loop {
            match session.query(sql).await {
                Ok(rows) if rows.first().is_some_and(|row| row.bool(0)) => return Ok(()),
                // The table is not there yet.
                Err(error) if error.sqlstate() != Some("42P01") => return Err(error),
                _ => {}
            }
            self.still_well()?;
            if Instant::now() > deadline {
                return Err(Error::unexpected(format!("waited {} s in vain for {what}", PATIENCE.as_secs())));
            }
            sleep(POLL).await;
        }
    }

    fn still_well(&mut self) -> Result<()> {
        self.pgdiode.as_mut().map_or(Ok(()), Pgdiode::still_runs)
    }

    /// Each session's messages, in their order.
    async fn sessions_of_redis(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut connection = self.cache.connect().await?;
        let keys = connection.call(&[b"KEYS", b"session:*"]).await?.into_array().unwrap_or_default();
        let mut sessions = BTreeMap::new();
        for key in keys.iter().filter_map(Reply::bytes) {
            let value = connection.call(&[b"GET", key]).await?;
            // It may have expired since.
            let Some(Ok(value)) = value.text().map(serde_json::from_str::<serde_json::Value>) else {
                continue;
            };
            let messages = value["messages"].as_array().cloned().unwrap_or_default();
            let said = messages.iter().map(|message| {
                let (who, what) = (message["sender_id"].as_str(), message["content"].as_str());
                format!("{}: {}", who.unwrap_or_default(), what.unwrap_or_default())
            });
            sessions.insert(value["session_id"].as_str().unwrap_or_default().to_owned(), said.collect());
        }
        Ok(sessions)
    }
}

/// The same, as the tables have it.
async fn rows(session: &mut Session) -> Result<BTreeMap<String, Vec<String>>> {
    let sql = "select s.session_key, u.external_id || ': ' || m.content
                 from sessions s left join messages m on m.session_id = s.id left join users u on u.id = m.sender_id
                where s.expired_at is null and s.deleted_at is null order by s.session_key, m.position";
    let mut sessions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in session.query(sql).await? {
        sessions.entry(row.string(0)).or_default().extend(row.text(1).map(str::to_owned));
    }
    Ok(sessions)
}
