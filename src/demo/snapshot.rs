//! The demo of full replacement: a replica with readers that never stop, replaced three times, one of the runs killed
//! midway, and rolled back.
//!
//! ```text
//! writers -> source server -> `pgdiode sync` (a child process, again and again) -> target server <- readers
//! ```

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::process::{Pgdiode, this_program};
use super::readers::{LEAVES, Readers, Seen};
use super::server::{DATABASE, Ground, Installation, Server};
use super::writers::Writers;
use super::{Afterwards, CONFIG_FILE, PATIENCE, POLL, SERVICE_FILE, Size, Tell, step, tables, write_files};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};

const EDITIONS: &str = "
    create table edition (number integer not null);
    create table leaf (id integer primary key, edition integer not null, text text not null);
    insert into edition values (1);
    insert into leaf select n, 1, repeat(md5(n::text), 8) from generate_series(1, {leaves}) as n;";

/// Plays the demo. `Ok` means that every reader saw whole editions only, and that both sides were identical at the end.
pub async fn run(size: Size, afterwards: Afterwards, tell: Tell) -> Result<()> {
    let mut stage = Stage::set(size, tell).await?;
    stage.first_copy().await?;
    stage.replace(2).await?;
    stage.replace_with_a_crash(3).await?;
    stage.writers.stop().await?;
    stage.replace(4).await?;
    stage.roll_back().await?;
    stage.compare().await?;
    if afterwards == Afterwards::Stay {
        stage.stay().await?;
    }
    Ok(())
}

/// Fields are dropped in this order: nobody loses the ground under their feet.
struct Stage {
    sync: Option<Pgdiode>,
    readers: Option<Readers>,
    writers: Writers,
    source: Server,
    target: Server,
    ground: Ground,
    size: Size,
    seen: Seen,
    started: Instant,
    tell: Tell,
}

impl Stage {
    async fn set(size: Size, tell: Tell) -> Result<Stage> {
        let started = Instant::now();
        let installation = Installation::find()?;
        let ground = Ground::new()?;
        tell("pgdiode demo snapshot: a replica that is replaced while it is read.");
        tell(&format!(
            "Everything lives in {} and is gone at the end; nothing else of this machine is touched.",
            ground.directory.display()
        ));
        step(&tell, started, &format!("Starting two servers of PostgreSQL {}.", installation.version));
        let (source, target) = tokio::try_join!(
            Server::start(&installation, &ground, "source"),
            Server::start(&installation, &ground, "target")
        )?;
        tell(&format!("    source 127.0.0.1:{}, target 127.0.0.1:{}", source.port, target.port));
        let pipeline = "mode = \"snapshot\"\nsnapshot.keep = 2\nsnapshot.verify = \"full\"\n";
        write_files(&ground, &installation, &source, &target, pipeline)?;
        step(&tell, started, &format!("Filling the source with about {} MB.", size.0));
        let mut session = source.session(Side::Source).await?;
        session.query(&tables(size)).await?;
        session.query(&EDITIONS.replace("{leaves}", &LEAVES.to_string())).await?;
        let writers = Writers::start(&source.conninfo, size).await?;
        tell("    six connections write to it from now on: transfers, orders, deletes, bulk updates");
        let (sync, readers, seen) = (None, None, Seen::default());
        Ok(Stage { sync, readers, writers, source, target, ground, size, seen, started, tell })
    }

    async fn first_copy(&mut self) -> Result<()> {
        self.step("The first copy. Nobody has been served yet.");
        self.pgdiode(&["sync"]).await?;
        self.readers = Some(Readers::start(&self.target.conninfo));
        self.step("Readers are let in. From here on they read and check the replica without a pause.");
        self.await_edition(1).await
    }

    /// A new edition, whole in one transaction of the source.
    async fn publish(&self, edition: i64) -> Result<()> {
        let mut session = self.source.session(Side::Source).await?;
        let sql = format!(
            "begin; update edition set number = {edition}; update leaf set edition = {edition}; commit"
        );
        session.query(&sql).await.map(drop)
    }

    async fn replace(&mut self, edition: i64) -> Result<()> {
        self.step(&format!("Edition {edition} is published at the source, and the replica replaced."));
        self.publish(edition).await?;
        self.pgdiode(&["sync"]).await?;
        self.await_edition(edition).await
    }

    /// The same, but the first run is killed in the middle of its copy.
    async fn replace_with_a_crash(&mut self, edition: i64) -> Result<()> {
        self.step(&format!("Edition {edition}. This time the run is killed in the middle of its copy."));
        self.publish(edition).await?;
        self.say("$ pgdiode sync");
        self.sync = Some(Pgdiode::spawn(&self.ground, &["sync", "--progress-seconds=1"], &self.tell)?);
        let shadow = self.half_copied().await?;
        if let Some(sync) = self.sync.take() {
            self.say(&format!("\"{shadow}\" is a third full: kill -9 {}", sync.id()));
            sync.kill().await?;
        }
        self.look_at_readers(edition - 1)?;
        self.step(
            "The readers have noticed nothing. The next run drops what was left, and replaces the replica.",
        );
        self.pgdiode(&["sync"]).await?;
        let mut session = self.target.session(Side::Target).await?;
        if exists(&mut session, &shadow).await? {
            return Err(Error::unexpected(format!("\"{shadow}\" was not dropped")));
        }
        self.await_edition(edition).await
    }

    /// Waits until a shadow holds a good part of the source; its name.
    async fn half_copied(&mut self) -> Result<String> {
        let mut source = self.source.session(Side::Source).await?;
        let size = "select pg_database_size(current_database()) - (select pg_database_size('template0'))";
        let filled: i64 = source.one(size).await?.get(0)?;
        let mut target = self.target.session(Side::Target).await?;
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
        self.step("The rollback: the copy before is still there.");
        self.pgdiode(&["generations"]).await?;
        self.pgdiode(&["rollback", "--reason", "the demo"]).await?;
        self.await_edition(3).await?;
        self.step("And forth again.");
        let mut control = self.control().await?;
        let newest = control.one("select max(number) from pgdiode.generation").await?.string(0);
        drop(control);
        self.pgdiode(&["rollback", "--to", &newest]).await?;
        self.await_edition(4).await
    }

    /// Compares each table with the source by a query of its own; the writers have stopped before the last copy.
    async fn compare(&mut self) -> Result<()> {
        self.step("Comparing both sides, row by row.");
        let (mut source, mut replica) =
            (self.source.session(Side::Source).await?, self.target.session(Side::Target).await?);
        let named = "select format('%I.%I', schemaname, tablename) from pg_tables
                      where schemaname not in ('pg_catalog', 'information_schema') order by 1";
        let (here, there) = (source.query(named).await?, replica.query(named).await?);
        let names =
            |rows: &[crate::pg::session::Row]| rows.iter().map(|row| row.string(0)).collect::<Vec<_>>();
        if names(&here) != names(&there) {
            return Err(Error::new(Kind::Difference, "both sides have different tables"));
        }
        for table in names(&here) {
            let sql = format!(
                "select count(*), md5(string_agg(digest, '' order by digest))
                   from (select md5(t::text) as digest from {table} t) as rows"
            );
            let (ours, theirs) = (source.one(&sql).await?, replica.one(&sql).await?);
            if (ours.text(0), ours.text(1)) != (theirs.text(0), theirs.text(1)) {
                return Err(Error::new(Kind::Difference, format!("table {table} differs")));
            }
        }
        let last = self.take_seen()?;
        self.seen.add(&last);
        self.say(&format!("{} tables are identical", here.len()));
        self.say(&format!("the readers, from the first copy on: {}", self.seen.text()));
        self.step("Identical. Every reader saw whole editions only, kill -9 or not.");
        Ok(())
    }

    /// Goes on being read and written until the future is dropped, or something ends by itself.
    async fn stay(&mut self) -> Result<()> {
        self.writers = Writers::start(&self.source.conninfo, self.size).await?;
        self.step("Everything stays; readers read, and the writers write again. In another terminal:");
        let directory = self.ground.directory.display();
        let program = this_program()?;
        let program = program.display();
        for line in [
            format!(
                "export PGSERVICEFILE={directory}/{SERVICE_FILE} PGDIODE_CONFIG={directory}/{CONFIG_FILE}"
            ),
            "psql service=source   write what you like".into(),
            "psql service=target   read it there, after the next sync".into(),
            format!("{program} sync"),
            format!("{program} status, {program} generations, {program} rollback"),
        ] {
            self.say(&line);
        }
        (self.tell)("Ctrl-C ends it and removes everything.");
        loop {
            self.still_well()?;
            sleep(POLL).await;
        }
    }

    /// Runs it to its end, which must be a good one.
    async fn pgdiode(&mut self, arguments: &[&str]) -> Result<()> {
        self.say(&format!("$ pgdiode {}", arguments.join(" ")));
        let status = Pgdiode::spawn(&self.ground, arguments, &self.tell)?.ended().await?;
        if status.success() {
            return Ok(());
        }
        Err(Error::unexpected(format!("pgdiode {} ended: {status}", arguments[0]))
            .hint("what it said stands above"))
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
        self.say(&format!("readers: {}", seen.text()));
        self.seen.add(&seen);
        Ok(())
    }

    /// Fails when the readers have seen anything but this edition.
    fn look_at_readers(&mut self, edition: i64) -> Result<()> {
        let seen = self.take_seen()?;
        self.say(&format!("readers: {}", seen.text()));
        self.seen.add(&seen);
        if seen.editions.iter().all(|seen| *seen == edition) && seen.reconnects == 0 {
            return Ok(());
        }
        Err(Error::new(Kind::Difference, format!("the readers should have seen edition {edition} alone")))
    }

    fn take_seen(&mut self) -> Result<Seen> {
        self.writers.still_write()?;
        self.readers.as_mut().map_or(Ok(Seen::default()), Readers::take)
    }

    fn still_well(&mut self) -> Result<()> {
        self.writers.still_write()?;
        self.readers.as_mut().map_or(Ok(()), Readers::still_read)?;
        self.sync.as_mut().map_or(Ok(()), Pgdiode::still_runs)
    }

    async fn control(&self) -> Result<Session> {
        let mut conninfo = self.target.conninfo.clone();
        conninfo.dbname = format!("{DATABASE}_pgdiode");
        Session::connect(&conninfo, Side::Target, &[]).await
    }

    fn step(&self, text: &str) {
        step(&self.tell, self.started, text);
    }

    fn say(&self, text: &str) {
        (self.tell)(&format!("    {text}"));
    }
}

async fn exists(session: &mut Session, database: &str) -> Result<bool> {
    let sql = format!("select exists (select from pg_database where datname = '{database}')");
    Ok(session.one(&sql).await?.bool(0))
}
