//! The demo of a live pipeline: killed in the middle of a large transaction, and compared at the end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::process::Pgdiode;
use super::stage::Stage;
use super::{Afterwards, Enough, PATIENCE, POLL, Playing};
use crate::error::{Error, Kind, Result};
use crate::pg::session::{Session, Side};
use crate::position::Lsn;

/// How long the stream is watched before the crash.
const WATCH: Duration = Duration::from_secs(8);

/// Plays the demo. `Ok` means that `pgdiode verify` found both sides identical.
pub async fn run(playing: Playing) -> Result<()> {
    let mut live = Live::set(&playing).await?;
    live.first_copy().await?;
    live.watch_the_stream().await?;
    live.crash_inside_a_transaction().await?;
    live.compare().await?;
    if let Afterwards::Stay(enough) = playing.afterwards {
        live.stay(&enough).await?;
    }
    Ok(())
}

/// The pipeline is dropped before the stage that it plays on.
struct Live {
    pipeline: Option<Pgdiode>,
    stage: Stage,
}

/// What was seen at the target while the writers wrote.
#[derive(Default)]
struct Seen {
    /// How old the newest row was, in milliseconds, at each look.
    ages: Vec<f64>,
    books_balanced: u64,
}

impl Live {
    async fn set(playing: &Playing) -> Result<Live> {
        let title = "pgdiode demo: two throw-away PostgreSQL servers and a pipeline between them.";
        let stage = Stage::set(title, "", playing).await?;
        stage.configure_pair(&format!(
            "stream.spool_dir = {:?}\n",
            stage.ground.directory.to_string_lossy()
        ))?;
        Ok(Live { pipeline: None, stage })
    }

    async fn first_copy(&mut self) -> Result<()> {
        self.set_up().await?;
        self.stage
            .step("Starting the pipeline. It copies all tables as of one snapshot, while the writers write.");
        self.start_pipeline()?;
        self.stage.show_console();
        self.wait_for("the copy", Side::Target, COPIED).await?;
        self.stage.step("Copied, indexes and keys included. Now what was committed meanwhile.");
        self.wait_for("the target to catch up", Side::Target, FRESH).await?;
        self.stage.step("Caught up: from here on each transaction follows as it commits.");
        Ok(())
    }

    async fn set_up(&mut self) -> Result<()> {
        self.stage.step("Setting up: a publication at the source, and pgdiode's own schema at the target.");
        // All its SQL is more than a demo shows.
        self.stage.run_quietly(&["setup", "--yes"]).await
    }

    /// Looks at the target again and again, as an application there would.
    async fn watch_the_stream(&mut self) -> Result<()> {
        self.stage.step(&format!("Watching the target for {} seconds.", WATCH.as_secs()));
        let mut session = self.stage.target.session(Side::Target).await?;
        let (mut seen, from, before) = (Seen::default(), Instant::now(), self.stage.writers.committed());
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
        self.stage.say(&format!(
            "{} transactions were committed at the source meanwhile",
            self.stage.writers.committed() - before
        ));
        self.stage.say(&seen.text());
        Ok(())
    }

    /// Kills the pipeline while it is receiving a transaction that has not committed yet.
    async fn crash_inside_a_transaction(&mut self) -> Result<()> {
        let half = self.stage.size.accounts() / 2;
        self.stage.step(&format!(
            "The crash: one transaction that audits all {} accounts begins at the source.",
            half * 2
        ));
        let mut session = self.stage.source.session(Side::Source).await?;
        let streamed = session.one(STREAMED).await?.get::<i64>(0)?;
        session.query(&format!("begin; update accounts set audited = true where id <= {half}")).await?;
        self.wait_for(
            "the transaction to be sent",
            Side::Source,
            &format!("select ({STREAMED}) > {streamed}"),
        )
        .await?;
        if let Some(pipeline) = self.pipeline.take() {
            self.stage.say(&format!("half of it is written and on its way: kill -9 {}", pipeline.id()));
            pipeline.kill().await?;
        }
        let mut target = self.stage.target.session(Side::Target).await?;
        let shown = target.one(LARGE).await?.string(0);
        self.stage.say(&format!("the pipeline is gone; of that transaction the target shows {shown} rows"));
        session.query(&format!("update accounts set audited = true where id > {half}; commit")).await?;
        self.stage.say("the transaction goes on without it, and commits; the writers write on");
        self.stage
            .step("Starting the pipeline again: it goes on from where the target's own data says it stands.");
        self.start_pipeline()?;
        self.catch_up().await?;
        let shown = target.one(LARGE).await?.string(0);
        self.stage.step(&format!(
            "Caught up. Of the large transaction the target now shows {shown} rows: all or nothing."
        ));
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        self.stage.writers.stop().await?;
        self.stage.step(&format!("The writers stop, after {} transactions.", self.stage.writers.committed()));
        self.catch_up().await?;
        self.stage.step("Comparing both sides, row by row.");
        self.stage.say("$ pgdiode verify");
        let status = self.stage.spawn(&["verify"])?.ended().await?;
        if !status.success() {
            let is_difference = status.code() == Some(i32::from(Kind::Difference.exit_status()));
            let kind = if is_difference { Kind::Difference } else { Kind::Unexpected };
            return Err(
                Error::new(kind, format!("pgdiode verify ended: {status}")).hint("what it said stands above")
            );
        }
        self.stage.step("Identical: nothing was lost and nothing applied twice, kill -9 or not.");
        Ok(())
    }

    /// Writes on until somebody has seen enough, or something ends by itself.
    async fn stay(&mut self, enough: &Enough) -> Result<()> {
        let heading = "Everything stays, and the writers write again. In another terminal:";
        self.stage
            .invite(
                heading,
                &[
                    "psql service=source   write what you like: insert, delete, create table, alter table orders add column",
                    "psql service=target   read it there",
                    "{program} status --watch",
                    "{program} verify          the writers may go on meanwhile",
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

    fn start_pipeline(&mut self) -> Result<()> {
        self.stage.say("$ pgdiode start");
        let started = self.stage.spawn(&["start", "--progress-seconds=1"])?;
        self.pipeline = Some(started);
        Ok(())
    }

    /// Waits until the target holds all that the source has committed by now.
    async fn catch_up(&mut self) -> Result<()> {
        let mut source = self.stage.source.session(Side::Source).await?;
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
        let server = if side == Side::Source { &self.stage.source } else { &self.stage.target };
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
        self.stage.writers.still_write()?;
        self.pipeline.as_mut().map_or(Ok(()), Pgdiode::still_runs)
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

/// The answer; a table that is not there yet means "not yet".
async fn is_true(session: &mut Session, sql: &str) -> Result<bool> {
    match session.one(sql).await {
        Ok(row) => Ok(row.bool(0)),
        Err(error) if matches!(error.sqlstate(), Some("42P01" | "3F000")) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_told_with_its_median() {
        let seen = Seen { ages: vec![30.0, 900.0, 10.0], books_balanced: 3 };
        assert!(seen.text().contains("30 ms old (median; 900 ms at worst)"), "{}", seen.text());
    }
}
