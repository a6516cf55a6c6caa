//! The demo of full replacement: a replica with readers that never stop, replaced three times, one of the runs killed
//! midway, and rolled back.
//!
//! ```text
//! writers -> source server -> `pgdiode sync` (a child process, again and again) -> target server <- readers
//! ```

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::process::Pgdiode;
use super::readers::{LEAVES, Readers, Seen};
use super::server::DATABASE;
use super::stage::{Stage, identical};
use super::{Afterwards, Enough, PATIENCE, POLL, Playing};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};

const EDITIONS: &str = "
    create table edition (number integer not null);
    create table leaf (id integer primary key, edition integer not null, text text not null);
    insert into edition values (1);
    insert into leaf select n, 1, repeat(md5(n::text), 8) from generate_series(1, {leaves}) as n;";

/// Plays the demo. `Ok` means that every reader saw whole editions only, and that both sides were identical at the end.
pub async fn run(playing: Playing) -> Result<()> {
    let mut play = Replaced::set(&playing).await?;
    play.open_the_console()?;
    play.first_copy().await?;
    play.replace(2).await?;
    play.replace_with_a_crash(3).await?;
    play.stage.writers.stop().await?;
    play.replace(4).await?;
    play.roll_back().await?;
    play.compare().await?;
    if let Afterwards::Stay(enough) = playing.afterwards {
        play.stay(&enough).await?;
    }
    Ok(())
}

/// Who reads and who copies are dropped before the stage that they play on.
struct Replaced {
    sync: Option<Pgdiode>,
    /// Has no schedule to keep: it shows what the syncs do, and syncs when somebody presses a button.
    daemon: Option<Pgdiode>,
    readers: Option<Readers>,
    seen: Seen,
    stage: Stage,
}

impl Replaced {
    async fn set(playing: &Playing) -> Result<Replaced> {
        let title = "pgdiode demo snapshot: a replica that is replaced while it is read.";
        let editions = EDITIONS.replace("{leaves}", &LEAVES.to_string());
        let stage = Stage::set(title, &editions, playing).await?;
        let lock = stage.ground.directory.join("sync.lock");
        stage.configure_pair(&format!(
            "mode = \"snapshot\"\nsnapshot.keep = 2\nsnapshot.verify = \"full\"\nsnapshot.lock_file = {:?}\n",
            lock.to_string_lossy()
        ))?;
        Ok(Replaced { sync: None, daemon: None, readers: None, seen: Seen::default(), stage })
    }

    fn open_the_console(&mut self) -> Result<()> {
        if self.stage.console().is_some() {
            self.stage.say("$ pgdiode start");
            self.daemon = Some(self.stage.spawn(&["start"])?);
            self.stage.show_console();
        }
        Ok(())
    }

    async fn first_copy(&mut self) -> Result<()> {
        self.stage.step("The first copy. Nobody has been served yet.");
        self.stage.run(&["sync"]).await?;
        self.readers = Some(Readers::start(&self.stage.target.conninfo));
        self.stage.step("Readers are let in. From here on they read and check the replica without a pause.");
        self.await_edition(1).await
    }

    /// A new edition, whole in one transaction of the source.
    async fn publish(&self, edition: i64) -> Result<()> {
        let mut session = self.stage.source.session(Side::Source).await?;
        let sql = format!(
            "begin; update edition set number = {edition}; update leaf set edition = {edition}; commit"
        );
        session.query(&sql).await.map(drop)
    }

    async fn replace(&mut self, edition: i64) -> Result<()> {
        self.stage.step(&format!("Edition {edition} is published at the source, and the replica replaced."));
        self.publish(edition).await?;
        self.stage.run(&["sync"]).await?;
        self.await_edition(edition).await
    }

    /// The same, but the first run is killed in the middle of its copy.
    async fn replace_with_a_crash(&mut self, edition: i64) -> Result<()> {
        self.stage
            .step(&format!("Edition {edition}. This time the run is killed in the middle of its copy."));
        self.publish(edition).await?;
        self.stage.say("$ pgdiode sync");
        self.sync = Some(self.stage.spawn(&["sync", "--progress-seconds=1"])?);
        let shadow = self.half_copied().await?;
        if let Some(sync) = self.sync.take() {
            self.stage.say(&format!("\"{shadow}\" is a third full: kill -9 {}", sync.id()));
            sync.kill().await?;
        }
        self.look_at_readers(edition - 1)?;
        self.stage.step(
            "The readers have noticed nothing. The next run drops what was left, and replaces the replica.",
        );
        self.stage.run(&["sync"]).await?;
        let mut session = self.stage.target.session(Side::Target).await?;
        if exists(&mut session, &shadow).await? {
            return Err(Error::unexpected(format!("\"{shadow}\" was not dropped")));
        }
        self.await_edition(edition).await
    }

    /// Waits until a shadow holds a good part of the source; its name.
    async fn half_copied(&mut self) -> Result<String> {
        let mut source = self.stage.source.session(Side::Source).await?;
        let size = "select pg_database_size(current_database()) - (select pg_database_size('template0'))";
        let filled: i64 = source.one(size).await?.get(0)?;
        let mut target = self.stage.target.session(Side::Target).await?;
        let sql = format!(
            "select datname from pg_database where datname like '{DATABASE}_shadow_%'
                and pg_database_size(oid) - (select pg_database_size('template0')) > {}",
            filled / 3
        );
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(row) = target.query(&sql).await?.first() {
                return Ok(row.string(0));
            }
            self.still_well()?;
            if Instant::now() > deadline {
                return Err(Error::unexpected("waited in vain for the copy"));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn roll_back(&mut self) -> Result<()> {
        self.stage.step("The rollback: the copy before is still there.");
        self.stage.run(&["generations"]).await?;
        self.stage.run(&["rollback", "--reason", "the demo"]).await?;
        self.await_edition(3).await?;
        self.stage.step("And forth again.");
        let mut control = self.control().await?;
        let newest = control.one("select max(number) from pgdiode.generation").await?.string(0);
        drop(control);
        self.stage.run(&["rollback", "--to", &newest]).await?;
        self.await_edition(4).await
    }

    /// Compares each table with the source by a query of its own; the writers have stopped before the last copy.
    async fn compare(&mut self) -> Result<()> {
        self.stage.step("Comparing both sides, row by row.");
        let (mut source, mut replica) =
            (self.stage.source.session(Side::Source).await?, self.stage.target.session(Side::Target).await?);
        let named = "select format('%I.%I', schemaname, tablename) from pg_tables
                      where schemaname not in ('pg_catalog', 'information_schema') order by 1";
        let (here, there) = (source.query(named).await?, replica.query(named).await?);
        let names =
            |rows: &[crate::pg::session::Row]| rows.iter().map(|row| row.string(0)).collect::<Vec<_>>();
        if names(&here) != names(&there) {
            return Err(Error::new(Kind::Difference, "both sides have different tables"));
        }
        identical(&mut source, &mut replica, &names(&here)).await?;
        let last = self.take_seen()?;
        self.seen.add(&last);
        self.stage.say(&format!("{} tables are identical", here.len()));
        self.stage.say(&format!("the readers, from the first copy on: {}", self.seen.text()));
        self.stage.step("Identical. Every reader saw whole editions only, kill -9 or not.");
        Ok(())
    }

    /// Goes on being read and written until somebody has seen enough, or something ends by itself.
    async fn stay(&mut self, enough: &Enough) -> Result<()> {
        let heading = "Everything stays; readers read, and the writers write again. In another terminal:";
        self.stage
            .invite(
                heading,
                &[
                    "psql service=source   write what you like",
                    "psql service=target   read it there, after the next sync",
                    "{program} sync",
                    "{program} status, {program} generations, {program} rollback",
                ],
                enough,
            )
            .await?;
        while !enough.was_said() {
            self.still_well()?;
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until the readers see this edition and no other, and tells what they saw until then.
    async fn await_edition(&mut self, edition: i64) -> Result<()> {
        let mut seen = Seen::default();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let latest = self.take_seen()?;
            let arrived = latest.editions.iter().eq([&edition]);
            seen.add(&latest);
            if arrived {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::unexpected(format!(
                    "waited in vain for a reader to see edition {edition}"
                )));
            }
            sleep(POLL).await;
        }
        self.stage.say(&format!("readers: {}", seen.text()));
        self.seen.add(&seen);
        Ok(())
    }

    /// Fails when the readers have seen anything but this edition.
    fn look_at_readers(&mut self, edition: i64) -> Result<()> {
        let seen = self.take_seen()?;
        self.stage.say(&format!("readers: {}", seen.text()));
        self.seen.add(&seen);
        if seen.editions.iter().all(|seen| *seen == edition) && seen.reconnects == 0 {
            return Ok(());
        }
        Err(Error::new(Kind::Difference, format!("the readers should have seen edition {edition} alone")))
    }

    fn take_seen(&mut self) -> Result<Seen> {
        self.stage.writers.still_write()?;
        self.readers.as_mut().map_or(Ok(Seen::default()), Readers::take)
    }

    fn still_well(&mut self) -> Result<()> {
        self.stage.writers.still_write()?;
        self.readers.as_mut().map_or(Ok(()), Readers::still_read)?;
        self.daemon.as_mut().map_or(Ok(()), Pgdiode::still_runs)?;
        self.sync.as_mut().map_or(Ok(()), Pgdiode::still_runs)
    }

    async fn control(&self) -> Result<Session> {
        let mut conninfo = self.stage.target.conninfo.clone();
        conninfo.dbname = format!("{DATABASE}_pgdiode");
        Session::connect(&conninfo, Side::Target, &[]).await
    }
}

async fn exists(session: &mut Session, database: &str) -> Result<bool> {
    let sql = format!("select exists (select from pg_database where datname = '{database}')");
    Ok(session.one(&sql).await?.bool(0))
}
