//! The demo: two throw-away PostgreSQL servers and a pipeline between them, under load, killed in the middle of a
//! large transaction, and compared at the end.
//!
//! ```text
//! writers -> source server -> `pgdiode start` (a child process) -> target server <- what the demo looks at
//! ```
//!
//! Everything belongs to one [`Stage`] and is gone when that is dropped, however the demo ends.

mod process;
mod readers;
mod server;
pub mod snapshot;
mod writers;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};
use crate::position::Lsn;
use process::Pgdiode;
use server::{DATABASE, Ground, Installation, Server};
use writers::Writers;

/// Takes one line of the narration.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

const TABLES: &str = include_str!("tables.sql");
const CONFIG_FILE: &str = "pgdiode.toml";
const SERVICE_FILE: &str = "pg_service.conf";

/// For anything that the demo waits for; a slow laptop is not a failure.
const PATIENCE: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(50);
/// How long the stream is watched before the crash.
const WATCH: Duration = Duration::from_secs(8);

/// How much the source holds, in MB, indexes and all.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl Size {
    fn accounts(self) -> u64 {
        self.0 * 3000
    }

    fn branches(self) -> u64 {
        1 + self.accounts() / 100_000
    }

    fn orders(self) -> u64 {
        self.0 * 250
    }
}

/// What happens after both sides were found identical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    End,
    /// All goes on until the future is dropped, with writers that write again.
    Stay,
}

/// Plays the demo. `Ok` means that `pgdiode verify` found both sides identical.
pub async fn run(size: Size, afterwards: Afterwards, tell: Tell) -> Result<()> {
    let mut stage = Stage::set(size, tell).await?;
    stage.first_copy().await?;
    stage.watch_the_stream().await?;
    stage.crash_inside_a_transaction().await?;
    stage.compare().await?;
    if afterwards == Afterwards::Stay {
        stage.stay().await?;
    }
    Ok(())
}

/// Fields are dropped in this order: nobody loses the ground under their feet.
struct Stage {
    pipeline: Option<Pgdiode>,
    writers: Writers,
    source: Server,
    target: Server,
    ground: Ground,
    size: Size,
    started: Instant,
    tell: Tell,
}

/// What was seen at the target while the writers wrote.
#[derive(Default)]
struct Seen {
    /// How old the newest row was, in milliseconds, at each look.
    ages: Vec<f64>,
    books_balanced: u64,
}

impl Stage {
    /// Starts both servers, fills the source and lets the writers in.
    async fn set(size: Size, tell: Tell) -> Result<Stage> {
        let started = Instant::now();
        let installation = Installation::find()?;
        let ground = Ground::new()?;
        tell("pgdiode demo: two throw-away PostgreSQL servers and a pipeline between them.");
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
        let pipeline = format!("stream.spool_dir = {:?}\n", ground.directory.to_string_lossy());
        write_files(&ground, &installation, &source, &target, &pipeline)?;
        step(
            &tell,
            started,
            &format!("Filling the source with about {} MB: accounts, wide orders, every type.", size.0),
        );
        let mut session = source.session(Side::Source).await?;
        session.query(&tables(size)).await?;
        let held =
            session.one("select pg_size_pretty(pg_database_size(current_database()))").await?.string(0);
        tell(&format!("    the source holds {held}"));
        let writers = Writers::start(&source.conninfo, size).await?;
        tell("    six connections write to it from now on: transfers, orders, deletes, bulk updates");
        Ok(Stage { pipeline: None, writers, source, target, ground, size, started, tell })
    }

    async fn first_copy(&mut self) -> Result<()> {
        self.set_up().await?;
        self.step("Starting the pipeline. It copies all tables as of one snapshot, while the writers write.");
        self.start_pipeline()?;
        self.wait_for("the copy", Side::Target, COPIED).await?;
        self.step("Copied, indexes and keys included. Now what was committed meanwhile.");
        self.wait_for("the target to catch up", Side::Target, FRESH).await?;
        self.step("Caught up: from here on each transaction follows as it commits.");
        Ok(())
    }

    async fn set_up(&mut self) -> Result<()> {
        self.step("Setting up: a publication at the source, and pgdiode's own schema at the target.");
        self.say("$ pgdiode setup --yes");
        // All its SQL is more than a demo shows; it is kept in case that it fails.
        let (said, heard) = std::sync::mpsc::channel();
        let keep: Tell = Arc::new(move |line| {
            // The receiver lives longer than the child.
            let _ = said.send(line.to_owned());
        });
        let status = Pgdiode::spawn(&self.ground, &["setup", "--yes"], &keep)?.ended().await?;
        if status.success() {
            return Ok(());
        }
        for line in heard.try_iter() {
            (self.tell)(&line);
        }
        Err(Error::unexpected(format!("pgdiode setup ended: {status}")).hint("what it said stands above"))
    }

    /// Looks at the target again and again, as an application there would.
    async fn watch_the_stream(&mut self) -> Result<()> {
        self.step(&format!("Watching the target for {} seconds.", WATCH.as_secs()));
        let mut session = self.target.session(Side::Target).await?;
        let (mut seen, from, before) = (Seen::default(), Instant::now(), self.writers.committed());
        while from.elapsed() < WATCH {
            self.still_well()?;
            let row = session.one(LOOK).await?;
            seen.ages.push(row.get(0)?);
            if !row.bool(1) {
                return Err(Error::new(
                    Kind::Difference,
                    "the target shows a state that the source never had",
                ));
            }
            seen.books_balanced += 1;
            sleep(POLL).await;
        }
        self.say(&format!(
            "{} transactions were committed at the source meanwhile",
            self.writers.committed() - before
        ));
        self.say(&seen.text());
        Ok(())
    }

    /// Kills the pipeline while it is receiving a transaction that has not committed yet.
    async fn crash_inside_a_transaction(&mut self) -> Result<()> {
        let half = self.size.accounts() / 2;
        self.step(&format!(
            "The crash: one transaction that audits all {} accounts begins at the source.",
            half * 2
        ));
        let mut session = self.source.session(Side::Source).await?;
        let streamed = session.one(STREAMED).await?.get::<i64>(0)?;
        session.query(&format!("begin; update accounts set audited = true where id <= {half}")).await?;
        self.wait_for(
            "the transaction to be sent",
            Side::Source,
            &format!("select ({STREAMED}) > {streamed}"),
        )
        .await?;
        if let Some(pipeline) = self.pipeline.take() {
            self.say(&format!("half of it is written and on its way: kill -9 {}", pipeline.id()));
            pipeline.kill().await?;
        }
        let mut target = self.target.session(Side::Target).await?;
        let shown = target.one(LARGE).await?.string(0);
        self.say(&format!("the pipeline is gone; of that transaction the target shows {shown} rows"));
        session.query(&format!("update accounts set audited = true where id > {half}; commit")).await?;
        self.say("the transaction goes on without it, and commits; the writers write on");
        self.step("Starting the pipeline again: it goes on from where the target's own data says it stands.");
        self.start_pipeline()?;
        self.catch_up().await?;
        let shown = target.one(LARGE).await?.string(0);
        self.step(&format!(
            "Caught up. Of the large transaction the target now shows {shown} rows: all or nothing."
        ));
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        self.writers.stop().await?;
        self.step(&format!("The writers stop, after {} transactions.", self.writers.committed()));
        self.catch_up().await?;
        self.step("Comparing both sides, row by row.");
        self.say("$ pgdiode verify");
        let status = Pgdiode::spawn(&self.ground, &["verify"], &self.tell)?.ended().await?;
        if !status.success() {
            let is_difference = status.code() == Some(i32::from(Kind::Difference.exit_status()));
            let kind = if is_difference { Kind::Difference } else { Kind::Unexpected };
            return Err(
                Error::new(kind, format!("pgdiode verify ended: {status}")).hint("what it said stands above")
            );
        }
        self.step("Identical: nothing was lost and nothing applied twice, kill -9 or not.");
        Ok(())
    }

    /// Writes on until the future is dropped, or something ends by itself.
    async fn stay(&mut self) -> Result<()> {
        self.writers = Writers::start(&self.source.conninfo, self.size).await?;
        self.step("Everything stays, and the writers write again. In another terminal:");
        let directory = self.ground.directory.display();
        let program = process::this_program()?;
        let program = program.display();
        for line in [
            format!("export PGSERVICEFILE={directory}/{SERVICE_FILE} PGDIODE_CONFIG={directory}/{CONFIG_FILE}"),
            "psql service=source   write what you like: insert, delete, create table, alter table orders add column".into(),
            "psql service=target   read it there".into(),
            format!("{program} status --watch"),
            format!("{program} verify          the writers may go on meanwhile"),
        ] {
            self.say(&line);
        }
        (self.tell)("Ctrl-C ends it and removes everything.");
        loop {
            self.still_well()?;
            sleep(POLL).await;
        }
    }

    fn start_pipeline(&mut self) -> Result<()> {
        self.say("$ pgdiode start");
        let started = Pgdiode::spawn(&self.ground, &["start", "--progress-seconds=1"], &self.tell)?;
        self.pipeline = Some(started);
        Ok(())
    }

    /// Waits until the target holds all that the source has committed by now.
    async fn catch_up(&mut self) -> Result<()> {
        let mut source = self.source.session(Side::Source).await?;
        let end: Lsn = source.one("select pg_current_wal_insert_lsn()").await?.get(0)?;
        // Positions are ends of commits: after this one there is one beyond `end`, writers or not.
        source.query("update pulse set at = clock_timestamp()").await?;
        self.wait_for(
            "the target to catch up",
            Side::Target,
            &format!("select max(lsn) >= '{end}' from pgdiode.position"),
        )
        .await
    }

    /// Waits until `sql` answers true.
    async fn wait_for(&mut self, what: &str, side: Side, sql: &str) -> Result<()> {
        let server = if side == Side::Source { &self.source } else { &self.target };
        let mut session = server.session(side).await?;
        let deadline = Instant::now() + PATIENCE;
        while !is_true(&mut session, sql).await? {
            self.still_well()?;
            if Instant::now() > deadline {
                return Err(Error::unexpected(format!("waited {} s in vain for {what}", PATIENCE.as_secs())));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn still_well(&mut self) -> Result<()> {
        self.writers.still_write()?;
        self.pipeline.as_mut().map_or(Ok(()), Pgdiode::still_runs)
    }

    fn step(&self, text: &str) {
        step(&self.tell, self.started, text);
    }

    fn say(&self, text: &str) {
        (self.tell)(&format!("    {text}"));
    }
}

/// Every table is in step, its indexes and constraints made.
const COPIED: &str = "select count(*) > 0 and bool_and(r.state = 'ready') and bool_and(p.schema_copied)
  from pgdiode.relation r join pgdiode.pipeline p on p.name = r.pipeline";

/// What was committed half a second ago is there.
const FRESH: &str = "select clock_timestamp() - at < interval '0.5 s' from pulse";

/// How old the pulse is, and whether branches, tellers and history agree, which every transaction leaves them in.
const LOOK: &str = "select extract(epoch from clock_timestamp() - p.at) * 1000,
       (select sum(balance) from branches) = (select sum(balance) from tellers)
   and (select sum(balance) from branches) = (select coalesce(sum(delta), 0) from history)
  from pulse p";

/// What the source has sent of unfinished transactions.
const STREAMED: &str = "select coalesce(sum(stream_bytes), 0)::int8 from pg_stat_replication_slots";

const LARGE: &str = "select count(*) from accounts where audited";

impl Seen {
    fn text(&self) -> String {
        let mut ages = self.ages.clone();
        ages.sort_by(f64::total_cmp);
        let (median, worst) = (ages.get(ages.len() / 2), ages.last());
        format!(
            "looked {} times: the newest row was {:.0} ms old (median; {:.0} ms at worst), and the books balanced each time",
            self.books_balanced,
            median.unwrap_or(&0.0),
            worst.unwrap_or(&0.0)
        )
    }
}

fn step(tell: &Tell, started: Instant, text: &str) {
    tell(&format!("[{:>3} s] {text}", started.elapsed().as_secs()));
}

/// The answer; a table that is not there yet means "not yet".
async fn is_true(session: &mut Session, sql: &str) -> Result<bool> {
    match session.one(sql).await {
        Ok(row) => Ok(row.bool(0)),
        Err(error) if matches!(error.sqlstate(), Some("42P01" | "3F000")) => Ok(false),
        Err(error) => Err(error),
    }
}

fn tables(size: Size) -> String {
    [("{accounts}", size.accounts()), ("{branches}", size.branches()), ("{orders}", size.orders())]
        .iter()
        .fold(TABLES.to_owned(), |sql, (name, number)| sql.replace(name, &number.to_string()))
}

/// Writes the pipeline's configuration, and the connections that it and `psql` know by name.
fn write_files(
    ground: &Ground,
    installation: &Installation,
    source: &Server,
    target: &Server,
    pipeline: &str,
) -> Result<()> {
    let services =
        server::service_entry("source", source, ground) + &server::service_entry("target", target, ground);
    let config = format!(
        "pg_dump = {:?}\n\n[pipeline.{DATABASE}]\nsource = \"service=source\"\ntarget = \"service=target\"\n{pipeline}",
        installation.program("pg_dump").to_string_lossy(),
    );
    ground
        .write(SERVICE_FILE, &services)
        .and_then(|_| ground.write(CONFIG_FILE, &config))
        .map(drop)
        .map_err(|error| Error::unexpected("cannot write the demo's configuration").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_rows_is_filled_in() {
        let sql = tables(Size(1));
        for name in ["{accounts}", "{branches}", "{orders}"] {
            assert!(TABLES.contains(name) && !sql.contains(name), "{name}");
        }
    }

    #[test]
    fn what_was_seen_is_told_with_its_median() {
        let seen = Seen { ages: vec![30.0, 900.0, 10.0], books_balanced: 3 };
        assert!(seen.text().contains("30 ms old (median; 900 ms at worst)"), "{}", seen.text());
    }
}
