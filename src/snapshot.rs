//! Full replacement that cannot hurt: a fresh copy of the source is made beside the database that serves, checked, and
//! put in its place by two renames in one transaction.
//!
//! ```text
//! lock -> clear up after killed runs -> shadow database -> copy -> refresh, analyze -> guards -> swap -> drop old ones
//!                                             \------------- any failure: the shadow is dropped, nothing else happened
//! ```
//!
//! Until the swap commits, the serving database is only read: a run that fails, is killed or loses a server leaves it as
//! it was. [`control`] holds what must outlive every swap.

mod by_schema;
mod control;
mod guards;
mod place;
mod preparation;
mod report;
mod shadow;
mod swap;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::meter::Meter;
use crate::snapshot::control::Generation;
use crate::snapshot::guards::Contents;
use crate::snapshot::place::{Place, drop_database, is_empty, oid_of};
use crate::snapshot::preparation::Standing;
use crate::snapshot::swap::Swap;
use crate::source::postgres::stream::now_us;
use crate::status::snapshot::Promoted;
use crate::status::{Phase, Progress};

pub use preparation::check;
pub use report::{generations, status};

/// How often whoever watches is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a run that was stopped may clear up after itself; the next one does it otherwise.
const CLEAR_UP_MAX: Duration = Duration::from_secs(8);

/// What the operator says about one sync.
#[derive(Debug, Clone, Default)]
pub struct SyncOptions {
    /// Why it is run, for the history.
    pub reason: Option<String>,
    /// Replace a database that no sync has made; it is kept as a generation.
    pub adopt: bool,
    /// Swap although tables have lost more rows than they may.
    pub accept_losses: bool,
}

/// Makes a fresh copy serve; `None` when `stop` was ready before it did.
pub async fn sync(
    pipeline: &Pipeline,
    options: &SyncOptions,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Option<Promoted>> {
    let mut stop = std::pin::pin!(stop);
    let place = Place::resolve(pipeline)?;
    let opened = tokio::select! {
        opened = begin(&place, options) => opened?,
        () = &mut stop => return Ok(None),
    };
    let (control, run, standing) = opened;
    let meter = Arc::new(Meter::default());
    let mut sync = Sync { place: &place, options, control, run, standing, meter: Arc::clone(&meter) };
    let worked = tokio::select! {
        worked = sync.work() => worked.map(Some),
        () = tell(&place, run, &meter, progress) => unreachable!("it tells until it is dropped"),
        () = &mut stop => Ok(None),
    };
    // With its session goes whatever transaction was open, before anything else is said of the run.
    drop(sync);
    let (verdict, error) = match &worked {
        Ok(Some(_)) => return worked,
        Ok(None) => ("killed", &Error::unexpected("it was asked to stop")),
        Err(error) if error.kind() == Kind::Difference => ("not promoted", error),
        Err(error) => ("failed", error),
    };
    let cleared = tokio::time::timeout(CLEAR_UP_MAX, clear_up(&place, run, verdict, error)).await;
    if !matches!(cleared, Ok(Ok(()))) {
        tracing::warn!(run, "the next sync clears up after this one");
    }
    worked
}

/// Refuses what must not be replaced, before anything is written; then takes the lock and notes the run.
async fn begin(place: &Place<'_>, options: &SyncOptions) -> Result<(Session, i64, Standing)> {
    preparation::refuse_unsafe(place, options.adopt).await?;
    let mut control = control::open(place).await?;
    control::clear_up(&mut control, place).await?;
    // What was looked at without the lock may have changed.
    let standing = preparation::refuse_unsafe(place, options.adopt).await?;
    let run = control::begin(&mut control, place, "sync", options.reason.as_deref()).await?;
    Ok((control, run, standing))
}

/// Says how a run ended that was not promoted, and drops its shadow.
async fn clear_up(place: &Place<'_>, run: i64, verdict: &str, error: &Error) -> Result<()> {
    let mut session = place.session(&place.control).await?;
    control::end(&mut session, run, verdict, error).await?;
    if place.is_by_schema() {
        return by_schema::drop_shadow(&mut session, run).await;
    }
    let sql = format!("select shadow from pgdiode.run where id = {run} and shadow is not null");
    if let Some(row) = session.query(&sql).await?.first() {
        drop_database(&mut session, &row.string(0)).await?;
        session.query(&format!("update pgdiode.run set shadow = null where id = {run}")).await?;
    }
    Ok(())
}

/// Keeps those who watch and the run's row informed.
async fn tell(place: &Place<'_>, run: i64, meter: &Meter, progress: &watch::Sender<Progress>) {
    let mut session: Option<Session> = None;
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let now = meter.progress(now_us());
        let (rows, bytes) = (now.rows, now.bytes);
        // Nobody has to watch.
        let _ = progress.send(now);
        if session.is_none() {
            session = place.session(&place.control).await.ok();
        }
        let sql = format!(
            "update pgdiode.run set rows = {rows}, bytes = {bytes} where id = {run} and verdict = 'running'"
        );
        let told = match &mut session {
            Some(session) => session.query(&sql).await,
            None => continue,
        };
        if let Err(error) = told {
            tracing::debug!(error = error.chain(), "the progress could not be stored");
            session = None;
        }
    }
}

struct Sync<'a> {
    place: &'a Place<'a>,
    options: &'a SyncOptions,
    /// Holds the lock.
    control: Session,
    run: i64,
    standing: Standing,
    meter: Arc<Meter>,
}

impl Sync<'_> {
    async fn work(&mut self) -> Result<Promoted> {
        let began = Instant::now();
        let place = self.place;
        self.phase("exporting").await?;
        let mut exported = shadow::export(place).await?;
        let taken_at = self.control.one("select clock_timestamp()").await?.string(0);
        let mut source = place.ends.source().await?;
        let (name, ends) = if place.is_by_schema() {
            let (run, outgoing) = (self.run, &self.standing.schemas);
            let ends =
                by_schema::create(&mut self.control, place, &mut exported.session, run, outgoing).await?;
            (String::new(), ends)
        } else {
            let name = self.create_shadow(&mut source).await?;
            let ends = place.ends_to(&name);
            (name, ends)
        };

        self.phase("copying").await?;
        let left_out = shadow::fill(place, &ends, &exported, &self.meter).await?;
        let left_out: Vec<String> =
            left_out.into_iter().map(|left| format!("{}: {}", left.entry, left.reason)).collect();
        for entry in &left_out {
            tracing::warn!(entry, "left out of the target's schema");
        }
        self.phase("refreshing").await?;
        let mut filled = ends.target().await?;
        if !place.is_by_schema() {
            shadow::carry_large_objects(&mut exported.session, &mut filled).await?;
        }
        shadow::refresh(&ends, &mut source, &mut filled).await?;
        self.phase("analyzing").await?;
        match &ends.schemas {
            Some(schemas) => by_schema::analyze(&mut filled, schemas).await?,
            None => drop(filled.query("analyze").await?),
        }

        self.phase("checking").await?;
        let contents = guards::compare(place, &ends, &mut exported).await?;
        // The source is let go of as early as can be.
        drop((exported.session, source));
        if !self.options.accept_losses {
            let before = self.contents_of_serving().await?;
            guards::refuse_losses(&contents, &before, place.pipeline.snapshot.rows_drop_percent_max)?;
        }
        guards::check(place, &ends, &mut filled).await?;
        drop(filled);
        if self.standing.exists && !place.is_by_schema() {
            shadow::dress(&mut self.control, &place.database, &name).await?;
        }
        let rows = contents.values().map(|content| content.rows).sum();
        let bytes = self.size_of(&name, &ends).await?;
        self.note_contents(&contents, &left_out, rows, bytes).await?;

        self.phase("swapping").await?;
        let (number, previous) = self.swap(name, &taken_at, &exported.at.to_string()).await?;
        // From here on the run has succeeded; what follows is repeated by the next one if it fails.
        if let Err(error) = self.tidy_up(previous).await {
            tracing::warn!(error = error.chain(), "older generations stay until the next sync");
        }
        Ok(Promoted {
            run: self.run,
            generation: number,
            database: place.database.clone(),
            previous,
            rows,
            bytes,
            seconds: began.elapsed().as_secs_f64(),
            left_out,
        })
    }

    async fn phase(&mut self, phase: &str) -> Result<()> {
        tracing::info!(run = self.run, "{phase}");
        self.meter.phase(Phase::Copying, phase);
        let sql = format!("update pgdiode.run set phase = {} where id = {}", quote::literal(phase), self.run);
        self.control.query(&sql).await.map(drop)
    }

    /// The name is noted first, so that a shadow always has a run that answers for it.
    async fn create_shadow(&mut self, source: &mut Session) -> Result<String> {
        let (place, run) = (self.place, self.run);
        let name = place.shadow(run);
        if oid_of(&mut self.control, &name).await?.is_some() {
            return Err(Error::refused(format!("there is a database \"{name}\" that no sync has made"))
                .hint("Rename or drop it, then sync again."));
        }
        let noted = format!("update pgdiode.run set shadow = {} where id = {run}", quote::literal(&name));
        self.control.query(&noted).await?;
        let serving = self.standing.exists.then_some(place.database.as_str());
        shadow::create(&mut self.control, source, &name, serving).await?;
        let noted = format!(
            "update pgdiode.run set shadow_oid = (select oid from pg_catalog.pg_database where datname = shadow)
              where id = {run}"
        );
        self.control.query(&noted).await?;
        Ok(name)
    }

    async fn contents_of_serving(&mut self) -> Result<Contents> {
        let Some(run) = self.standing.serving.as_ref().and_then(|serving| serving.run) else {
            return Ok(Contents::new());
        };
        let sql = format!("select tables from pgdiode.run where id = {run} and tables is not null");
        let rows = self.control.query(&sql).await?;
        let Some(row) = rows.first() else { return Ok(Contents::new()) };
        serde_json::from_str(&row.string(0))
            .map_err(|error| Error::unexpected("pgdiode.run holds unreadable row counts").because(error))
    }

    async fn size_of(&mut self, database: &str, ends: &Ends) -> Result<u64> {
        let sql = match &ends.schemas {
            Some(schemas) => by_schema::size_of(&by_schema::oids_of_shadow(schemas)),
            None => format!("pg_catalog.pg_database_size({})", quote::literal(database)),
        };
        let sql = format!("select {sql}");
        self.control.one(&sql).await?.get(0)
    }

    async fn note_contents(
        &mut self,
        contents: &Contents,
        left_out: &[String],
        rows: u64,
        bytes: u64,
    ) -> Result<()> {
        let json = |text: serde_json::Result<String>| {
            text.map_err(|error| Error::unexpected("the run's contents cannot be written").because(error))
        };
        let (tables, left_out) =
            (json(serde_json::to_string(contents))?, json(serde_json::to_string(left_out))?);
        let sql = format!(
            "update pgdiode.run set tables = {}, left_out = {}, rows = {rows}, bytes = {bytes} where id = {}",
            quote::literal(&tables),
            quote::literal(&left_out),
            self.run
        );
        self.control.query(&sql).await.map(drop)
    }

    /// The numbers of the generation that serves now, and of the one that did.
    async fn swap(&mut self, shadow: String, taken_at: &str, position: &str) -> Result<(i64, Option<i64>)> {
        let place = self.place;
        let target = quote::literal(&place.database);
        let sql =
            format!("select coalesce(max(number), 0) + 1 from pgdiode.generation where target = {target}");
        let next: i64 = self.control.one(&sql).await?.get(0)?;
        // What was there before the first sync is a generation too.
        let (previous, number) = match (&self.standing.serving, self.standing.exists) {
            (Some(serving), _) => (Some(serving.number), next),
            // A database is never without schemas: empty ones are gone right after.
            (None, true) if place.is_by_schema() && self.standing.was_empty && next == 1 => (Some(0), next),
            (None, true) => (Some(next), next + 1),
            (None, false) => (None, next),
        };
        if place.is_by_schema() {
            let recorded = by_schema::Recorded { run: self.run, number, previous, taken_at, position };
            by_schema::swap(&mut self.control, place, &self.standing.schemas, &recorded).await?;
            tracing::info!(run = self.run, generation = number, "swapped");
            return Ok((number, previous));
        }
        let outgoing = previous.map(|number| place.generation(number));
        let mut record = String::new();
        if let (Some(number), Some(outgoing)) = (previous, &outgoing) {
            record.push_str(&format!(
                "insert into pgdiode.generation (target, number, database, database_oid, state)
                 select {target}, {number}, datname, oid, 'kept' from pg_catalog.pg_database where datname = {name}
                 on conflict (target, number) do update
                    set state = 'kept', database = excluded.database, changed = nextval('pgdiode.change');",
                name = quote::literal(outgoing)
            ));
        }
        // One that served and that somebody has dropped or replaced is none.
        record.push_str(&format!(
            "update pgdiode.generation set state = 'dropped' where target = {target} and state = 'serving';
             insert into pgdiode.generation (target, number, database, database_oid, run, taken_at, position, state)
             select {target}, {number}, datname, oid, {run}, {taken_at}, '{position}', 'serving'
               from pg_catalog.pg_database where datname = {target};
             update pgdiode.run set generation = {number}, source_position = '{position}' where id = {run}",
            run = self.run,
            taken_at = quote::literal(taken_at),
        ));
        let swap = Swap { run: self.run, outgoing, incoming: shadow, record };
        swap::swap(&mut self.control, place, &swap).await?;
        tracing::info!(run = self.run, generation = number, "swapped");
        Ok((number, previous))
    }

    /// What was empty before the first sync is nothing to go back to; what is older than is kept goes too.
    async fn tidy_up(&mut self, previous: Option<i64>) -> Result<()> {
        let place = self.place;
        if let (None, Some(number), true) = (&self.standing.serving, previous, self.standing.was_empty) {
            let gone = if place.is_by_schema() {
                by_schema::drop_if_empty(&mut self.control, &self.standing.schemas, number).await?
            } else {
                let name = place.generation(number);
                let mut session = place.session(&name).await?;
                let still_empty = is_empty(&mut session).await?;
                drop(session);
                if still_empty {
                    drop_database(&mut self.control, &name).await?;
                }
                still_empty
            };
            if gone {
                let sql = format!(
                    "delete from pgdiode.generation where target = {} and number = {number}",
                    quote::literal(&place.database)
                );
                self.control.query(&sql).await?;
            }
        }
        control::prune(&mut self.control, place).await.map(drop)
    }
}

/// Makes a kept generation serve again: the one numbered `to`, else the newest that is older than the one that serves.
pub async fn rollback(pipeline: &Pipeline, to: Option<i64>, reason: Option<&str>) -> Result<Promoted> {
    let began = Instant::now();
    let place = Place::resolve(pipeline)?;
    if place.session_if_there(&place.control).await?.is_none() {
        return Err(no_generation("there has never been a sync"));
    }
    let mut control = control::open(&place).await?;
    control::clear_up(&mut control, &place).await?;
    let generations = control::generations(&mut control, &place.database).await?;
    let serving = generations.iter().find(|one| one.is_serving);
    let chosen = choose(&generations, serving, to)?;
    for one in serving.into_iter().chain([chosen]) {
        let is_intact = if one.schemas.is_empty() {
            oid_of(&mut control, &one.database).await? == Some(one.oid)
        } else {
            by_schema::is_intact(&mut control, one).await?
        };
        if !is_intact {
            return Err(Error::refused(format!(
                "database \"{}\" is not generation {} any more",
                one.database, one.number
            ))
            .hint("Somebody has dropped, renamed or replaced it: pgdiode generations."));
        }
    }
    let run = control::begin(&mut control, &place, "rollback", reason).await?;
    let swapped = if place.is_by_schema() {
        by_schema::roll_back(&mut control, &place, run, serving, chosen).await
    } else {
        roll_back_database(&mut control, &place, run, serving, chosen).await
    };
    let bytes = match swapped {
        Ok(bytes) => bytes,
        Err(error) => {
            drop(control);
            let verdict = if error.kind() == Kind::Difference { "not promoted" } else { "failed" };
            clear_up(&place, run, verdict, &error).await?;
            return Err(error);
        }
    };
    let rows = match chosen.run {
        Some(run) => {
            let sql = format!("select coalesce(rows, 0) from pgdiode.run where id = {run}");
            control.query(&sql).await?.first().map_or(Ok(0), |row| row.get(0))?
        }
        None => 0,
    };
    Ok(Promoted {
        run,
        generation: chosen.number,
        database: place.database.clone(),
        previous: serving.map(|serving| serving.number),
        rows,
        bytes,
        seconds: began.elapsed().as_secs_f64(),
        left_out: Vec::new(),
    })
}

/// Swaps, and says the size of what serves then.
async fn roll_back_database(
    control: &mut Session,
    place: &Place<'_>,
    run: i64,
    serving: Option<&Generation>,
    chosen: &Generation,
) -> Result<u64> {
    let target = quote::literal(&place.database);
    let outgoing = serving.map(|serving| place.generation(serving.number));
    let mut record = String::new();
    if let (Some(serving), Some(outgoing)) = (serving, &outgoing) {
        record.push_str(&format!(
            "update pgdiode.generation set state = 'kept', database = {}, changed = nextval('pgdiode.change')
              where target = {target} and number = {};",
            quote::literal(outgoing),
            serving.number
        ));
    }
    record.push_str(&format!(
        "update pgdiode.generation set state = 'serving', database = {target}, changed = nextval('pgdiode.change')
          where target = {target} and number = {number};
         update pgdiode.run set generation = {number} where id = {run}",
        number = chosen.number
    ));
    let swap = Swap { run, outgoing, incoming: chosen.database.clone(), record };
    swap::swap(control, place, &swap).await?;
    control.one(&format!("select pg_catalog.pg_database_size({target})")).await?.get(0)
}

fn choose<'a>(
    generations: &'a [Generation],
    serving: Option<&Generation>,
    to: Option<i64>,
) -> Result<&'a Generation> {
    let mut kept = generations.iter().filter(|one| !one.is_serving);
    match to {
        Some(number) if serving.is_some_and(|serving| serving.number == number) => {
            Err(no_generation(&format!("generation {number} serves already")))
        }
        Some(number) => kept
            .find(|one| one.number == number)
            .ok_or_else(|| no_generation(&format!("there is no generation {number} that is kept"))),
        None => kept
            .filter(|one| serving.is_none_or(|serving| one.number < serving.number))
            .max_by_key(|one| one.number)
            .ok_or_else(|| no_generation("there is no older generation to go back to")),
    }
}

fn no_generation(what: &str) -> Error {
    Error::refused(what).hint("What there is: pgdiode generations. How many are kept: snapshot.keep.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: i64, is_serving: bool) -> Generation {
        Generation {
            number,
            database: format!("g{number}"),
            oid: 1,
            run: None,
            is_serving,
            schemas: by_schema::Schemas::new(),
        }
    }

    #[test]
    fn a_rollback_goes_to_the_newest_that_is_older() {
        let all = [generation(5, false), generation(4, true), generation(3, false), generation(2, false)];
        let chosen = |to| choose(&all, Some(&all[1]), to).map(|one| one.number);
        assert_eq!(chosen(None).unwrap(), 3);
        assert_eq!(chosen(Some(5)).unwrap(), 5);
        for (to, what) in [(4, "serves already"), (7, "no generation 7")] {
            let error = chosen(Some(to)).unwrap_err();
            assert!(error.kind() == Kind::Refused && error.what().contains(what), "{error:?}");
        }
        assert!(choose(&all[1..2], Some(&all[1]), None).is_err());
    }
}
