//! One run: what happens between its beginning and its end, step by step, each named in the run's row.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::copy::SchemaAhead;
use crate::pipeline::ends::Ends;
use crate::pipeline::meter::Meter;
use crate::pipeline::statistics;
use crate::snapshot::SyncOptions;
use crate::snapshot::audited::{Announced, Details};
use crate::snapshot::counts::Rows;
use crate::snapshot::discarded::Made;
use crate::snapshot::generation::{Generation, Standing, generations};
use crate::snapshot::grants::Grants;
use crate::snapshot::guards::Contents;
use crate::snapshot::place::{Place, is_empty, oid_of};
use crate::snapshot::preserve::Keeping;
use crate::snapshot::shadow::Exported;
use crate::snapshot::swap::Swap;
use crate::snapshot::{answers, audited, by_schema, capacity, discarded, guards, leftovers, orphans, shadow};
use crate::status::Phase;
use crate::status::snapshot::{Discarded, Promoted};

/// A run that has begun.
pub(super) struct Sync<'a> {
    pub(super) place: &'a Place<'a>,
    pub(super) options: &'a SyncOptions,
    /// Holds the lock.
    pub(super) control: Session,
    pub(super) run: i64,
    pub(super) standing: Standing,
    pub(super) journal: &'a Journal,
    pub(super) meter: Arc<Meter>,
}

/// A shadow that holds what its source held at one moment.
struct Filled {
    /// Of its database; empty where it is schemas.
    name: String,
    ends: Ends,
    taken_at: String,
    session: Session,
    /// What of the source's schema the target could not take, with reasons.
    left_out: Vec<String>,
    /// Tables that have statistics already.
    gathered: HashSet<TableName>,
    /// The rows that the source has sent of the tables that it sent in one piece.
    sent: Rows,
}

/// What the guards found in it.
struct Checked {
    contents: Contents,
    discarded: Vec<Discarded>,
    version: Option<Vec<String>>,
    made: Made,
}

impl<'a> Sync<'a> {
    /// Fills a shadow, checks it and puts it in place. Dropped at any point, it has changed nothing that serves.
    pub(super) async fn work(&mut self) -> Result<Promoted> {
        let began = Instant::now();
        let place = self.place;
        capacity::refuse_full_disk(place).await?;
        let will_drop = leftovers::will_drop(&mut self.control, place).await?;
        let (mut filled, exported) = self.fill(will_drop).await?;
        let position = exported.at.to_string();
        let Checked { contents, mut discarded, version, made } =
            self.check(&mut filled, exported, will_drop).await?;
        let Filled { name, ends, taken_at, mut session, mut left_out, .. } = filled;
        let keeping = self.complete(&ends, &mut session, &made).await?;
        if let Some(keeping) = &keeping {
            left_out.extend(keeping.left_out.iter().cloned());
            discarded.extend(keeping.unmatched.iter().cloned());
        }
        discarded::tell(&mut self.control, self.run, &discarded).await?;
        drop(session);
        if self.standing.exists && !place.is_by_schema() {
            shadow::dress(&mut self.control, &place.database, &name).await?;
        }
        let rows = contents.values().map(|content| content.rows).sum();
        let bytes = self.size_of(&name, &ends).await?;
        self.note_contents(&contents, &left_out, rows, bytes).await?;

        self.phase("swapping").await?;
        let keeper = keeping.as_ref().map(Keeping::backend);
        let mut found = audited::found(place, &contents, version, rows, bytes);
        audited::tell_discarded(&mut found, &discarded);
        let (number, previous) = self.swap(name, &taken_at, &position, keeper, found).await?;
        let preserved = keeping.map(|keeping| keeping.preserved).unwrap_or_default();
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
            discarded,
            preserved,
        })
    }

    /// Opens a moment of the source and makes a shadow of it.
    async fn fill(&mut self, will_drop: bool) -> Result<(Filled, Exported)> {
        let place = self.place;
        self.phase("exporting").await?;
        let mut exported = shadow::export(place).await?;
        let major = exported.session.server_major();
        let schema = SchemaAhead::begin(&place.ends, place.pipeline, &exported.snapshot, major);
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
        let copied = tokio::select! {
            copied = shadow::fill(place, &ends, &exported, schema, &self.meter) => copied?,
            never = checkpoint_of_rows(place, &self.meter, will_drop) => match never {},
        };
        let left_out: Vec<String> =
            copied.left_out.into_iter().map(|left| format!("{}: {}", left.entry, left.reason)).collect();
        for entry in &left_out {
            tracing::warn!(entry, "left out of the target's schema");
        }
        self.phase("refreshing").await?;
        let mut session = ends.target().await?;
        if !place.is_by_schema() {
            shadow::carry_large_objects(&mut exported.session, &mut session).await?;
        }
        shadow::refresh(&ends, &mut source, &mut session).await?;
        let (gathered, sent) = (copied.gathered, copied.sent);
        Ok((Filled { name, ends, taken_at, session, left_out, gathered, sent }, exported))
    }

    /// Gathers statistics, looks what the swap would take out of sight, and has every guard look at the shadow.
    async fn check(
        &mut self,
        filled: &mut Filled,
        mut exported: Exported,
        will_drop: bool,
    ) -> Result<Checked> {
        let (place, ends) = (self.place, &filled.ends);
        self.phase("analyzing").await?;
        let made = Made::read(&mut self.control, &self.standing).await?;
        // Each reads by itself, and both servers have processors to spare by now.
        let ((), (), contents, discarded) = tokio::try_join!(
            statistics::gather(ends, place.pipeline.copy.jobs(), &filled.gathered),
            checkpoint_early(place, will_drop),
            guards::compare(place, ends, &mut exported, &filled.sent),
            discarded::find(place, &self.standing, &made)
        )?;
        self.phase("checking").await?;
        let session = &mut filled.session;
        if place.pipeline.snapshot.refuse_orphans {
            orphans::refuse_orphans(ends, &mut exported.session, session).await?;
        }
        let version = answers::refuse_another_version(place, ends, &mut exported.session, session).await?;
        // The source is let go of as early as can be.
        drop(exported.session);
        if !self.options.accept_losses {
            let mut before = made.contents.clone();
            guards::forget_emptied(&mut before, &exported.tables);
            guards::refuse_losses(&contents, &before, place.pipeline.snapshot.rows_drop_percent_max)?;
        }
        guards::check(place, ends, session).await?;
        Ok(Checked { contents, discarded, version, made })
    }

    /// Adds what is not the source's. Gives back what keeps the replica's own rows as they were carried over.
    async fn complete(
        &mut self,
        ends: &Ends,
        filled: &mut Session,
        made: &Made,
    ) -> Result<Option<Keeping<'a>>> {
        let mut keeping = Keeping::open(self.place, &self.standing).await?;
        if let Some(keeping) = &mut keeping {
            self.phase("preserving").await?;
            keeping.tables(filled).await?;
        }
        if let Some(grants) = Grants::read(self.place.pipeline)? {
            grants.apply(ends, filled).await?;
        }
        discarded::mark_filled(&mut self.control, filled, self.run).await?;
        if let Some(keeping) = &mut keeping {
            keeping.rows(filled, made).await?;
            keeping.tell(&mut self.control, self.run).await?;
        }
        Ok(keeping)
    }

    async fn phase(&mut self, phase: &str) -> Result<()> {
        tracing::info!(run = self.run, "{phase}");
        self.meter.phase(Phase::Copying, phase);
        let sql = format!(
            "update pgdiode.run set phase = {0}, phases = coalesce(phases, '[]') || pg_catalog.jsonb_build_object(
                 'phase', {0}, 'at', extract(epoch from pg_catalog.clock_timestamp())) where id = {1}",
            quote::literal(phase),
            self.run
        );
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
    async fn swap(
        &mut self,
        shadow: String,
        taken_at: &str,
        position: &str,
        keeper: Option<i32>,
        mut found: Details,
    ) -> Result<(i64, Option<i64>)> {
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
        found.extend([("taken_at".into(), taken_at.into()), ("position".into(), position.into())]);
        if place.is_by_schema() {
            let run = self.run;
            let names =
                [Some(number), previous].map(|number| number.map(|number| format!("generation {number}")));
            let announced = Announced::new(place, self.journal, Action::Sync, run, names, found);
            let entries = &announced.entries;
            let recorded = by_schema::Recorded { run, number, previous, taken_at, position, entries };
            let swapped =
                by_schema::swap(&mut self.control, place, &self.standing.schemas, &recorded).await?;
            announced.committed(swapped);
            tracing::info!(run, generation = number, "swapped");
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
        let swap = Swap { run: self.run, outgoing, incoming: shadow, record, keeper, entries: Vec::new() };
        audited::swap(&mut self.control, place, swap, self.journal, Action::Sync, found).await?;
        tracing::info!(run = self.run, generation = number, "swapped");
        Ok((number, previous))
    }

    /// What was empty before the first sync is nothing to go back to; what is older than is kept goes too.
    async fn tidy_up(&mut self, previous: Option<i64>) -> Result<()> {
        let place = self.place;
        if let (None, Some(number), true) = (&self.standing.serving, previous, self.standing.was_empty) {
            let all = generations(&mut self.control, &place.database).await?;
            if let Some(replaced) = all.iter().find(|one| one.number == number)
                && self.is_still_empty(replaced).await?
            {
                audited::drop_empty(&mut self.control, place, replaced).await?;
                let sql = format!(
                    "delete from pgdiode.generation where target = {} and number = {number}",
                    quote::literal(&place.database)
                );
                self.control.query(&sql).await?;
            }
        }
        leftovers::prune(&mut self.control, place).await.map(drop)
    }

    /// Somebody may have connected to it and made something before it was swapped out.
    async fn is_still_empty(&mut self, replaced: &Generation) -> Result<bool> {
        if replaced.schemas.is_empty() {
            return is_empty(&mut self.place.session(&replaced.database).await?).await;
        }
        by_schema::are_empty(&mut self.control, &replaced.schemas).await
    }
}

/// Once the rows are there, and beside the indexes that are still built: most of what is to be written then is.
async fn checkpoint_of_rows(place: &Place<'_>, meter: &Meter, will_drop: bool) -> Infallible {
    meter.rows_are_copied().await;
    if let Err(error) = checkpoint_early(place, will_drop).await {
        tracing::debug!(error = error.chain(), "no checkpoint beside the copy");
    }
    std::future::pending().await
}

/// The checkpoint that dropping a database waits for, begun beside other work: then little is left of it after the swap.
async fn checkpoint_early(place: &Place<'_>, will_drop: bool) -> Result<()> {
    if !will_drop {
        return Ok(());
    }
    match place.session(&place.control).await?.query("checkpoint").await {
        // Not everybody may ask for one.
        Err(error) if !error.retries() => {
            tracing::debug!(error = error.chain(), "no checkpoint before the swap");
            Ok(())
        }
        done => done.map(drop),
    }
}
