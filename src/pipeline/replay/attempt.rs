//! One attempt, from connecting to the last file.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::session::Session;
use crate::pipeline::holder;
use crate::pipeline::lifecycle::{self, Attempted, Attempts};
use crate::pipeline::monitor::Link;
use crate::pipeline::replay::base::{self, Bases};
use crate::pipeline::replay::desk::{Applying, Desk, Steering, location, poll, spool};
use crate::pipeline::replay::filling::{Filling, JoinsWith, join};
use crate::pipeline::replay::shapes::Shapes;
use crate::pipeline::replay::watch::{Applied, Watch};
use crate::pipeline::replay::{Replay, control, foreign, ledger, metrics, pass, stored, whitelist};
use crate::pipeline::stop;
use crate::plan::{Plan, Rule};
use crate::position::{Lsn, Position};
use crate::pump::{Command, Ended, Pump};
use crate::source::archive::{ArchiveSource, Marks, ReadOptions, Shelf};
use crate::status::{Phase, StopReason, Until};
use crate::target::postgres::PostgresTarget;
use crate::target::postgres::apply::Applier;
use crate::target::postgres::progress::{self, RelationState, Stored};

impl Replay<'_> {
    pub(super) async fn one_attempt(&mut self, retries: u64) -> Result<Attempted> {
        let mut target = self.end.session().await?;
        target.query(progress::CREATE_CONTROL_SCHEMA).await?;
        target.query(stored::CREATE).await?;
        target.query(ledger::CREATE).await?;
        target.query(metrics::CREATE).await?;
        control::create(&mut target, self.pipeline).await?;
        let mut rows_session = self.end.session_for_rows().await?;
        holder::lock(&mut rows_session, &self.pipeline.name).await?;
        if retries > 0 && stop::is_requested(&mut target, &self.pipeline.name).await? {
            return Ok(Attempted::Stopped(self.stopped(StopReason::Asked)));
        }
        lifecycle::register(&mut target, self.pipeline, retries).await?;
        let opened = foreign::open(self.pipeline).await.map_err(|error| self.lost(error))?;
        if let Some(opened) = opened {
            self.was_open = true;
            return Box::pin(self.attempt_foreign(opened, target, rows_session)).await;
        }
        let desk = self.open().await?;
        let (mut watch, link) = Watch::new(&self.end, self.pipeline, &self.meter, &self.stop)?;
        let (commands, applied) = (watch.commands.clone(), Arc::clone(&watch.applied));
        let attempted = tokio::select! {
            attempted = self.work(desk, target, rows_session, commands, link, applied) => attempted,
            () = watch.run() => unreachable!("it watches until it is dropped"),
        };
        watch.store_last().await;
        attempted
    }

    /// Opens the archive, and makes a place for files of it here.
    async fn open(&mut self) -> Result<Desk> {
        let (location, options) = location(self.pipeline)?;
        let keys = self.pipeline.archive.reader_keys()?;
        let shelf = Shelf::open(&location, &options, keys).await.map_err(|error| self.lost(error))?;
        if shelf.is_signed && shelf.keys.signed_by.is_empty() && !self.was_open {
            tracing::warn!(
                "the archive is signed, and archive.signed_by does not say by whom it must be: whoever can write there is believed"
            );
        }
        self.was_open = true;
        let spool = spool(self.pipeline, &self.end.conninfo.display())?;
        Ok(Desk { shelf: Arc::new(shelf), spool, poll: poll(self.pipeline, &location) })
    }

    /// What an archive that cannot be opened means.
    fn lost(&self, error: Error) -> Error {
        match error.kind() {
            // It was there before: its disk has gone, and may come back.
            Kind::Config | Kind::Refused if self.was_open => error.with_kind(Kind::SourceUnreachable),
            _ => error,
        }
    }

    pub(super) async fn stored(&self, target: &mut Session) -> Result<Stored> {
        progress::read(target, &self.pipeline.name).await?.ok_or_else(|| {
            Error::unexpected(format!("pipeline \"{}\" vanished from the target", self.pipeline.name))
        })
    }

    /// Fills what is pending, lets it catch up, then applies file after file.
    async fn work(
        &mut self,
        desk: Desk,
        mut target: Session,
        rows_session: Session,
        commands: mpsc::Sender<Command>,
        link: Link,
        applied: Arc<OnceLock<Applied>>,
    ) -> Result<Attempted> {
        let bases = Bases::read(&desk.shelf).await?;
        let position =
            base::find_position(&mut target, self.pipeline, &desk.shelf, &bases, &self.meter).await?;
        self.meter.positioned(position.offset);
        ledger::begin(&mut target, self.pipeline, &bases).await?;
        if self.pipeline.is_whitelisted {
            whitelist::follow(&mut target, self.pipeline, &bases).await?;
        }
        let fill = async {
            let filling = Filling {
                pipeline: self.pipeline,
                end: &self.end,
                desk: &desk,
                bases: &bases,
                meter: &self.meter,
                position: position.offset,
            };
            filling.run(&mut target).await?;
            pass::run_all(self.pipeline, &self.end, &desk, &self.meter, &mut target, &position).await
        };
        tokio::select! {
            filled = fill => filled?,
            // Stopping in mid-copy is the same as crashing there.
            reason = lifecycle::asked_to_stop(&self.stop) => return Ok(Attempted::Stopped(self.stopped(reason))),
        }
        let steering = Steering { commands, link, applied };
        let newest_base = bases.newest.as_ref().map(|base| base.at);
        self.apply_files(&desk, target, rows_session, position, newest_base, steering).await
    }

    async fn apply_files(
        &mut self,
        desk: &Desk,
        mut target: Session,
        rows_session: Session,
        position: Position,
        newest_base: Option<Lsn>,
        mut steering: Steering,
    ) -> Result<Attempted> {
        let stored = self.stored(&mut target).await?;
        let mut plan = plan(self.pipeline, &stored);
        let consistent_from = plan.consistent_from();
        let shapes = Shapes::read(&mut target, &self.pipeline.name).await?;
        let options = ReadOptions {
            lineage: position.lineage.clone(),
            from: position.offset,
            copied_at: newest_base.unwrap_or_default().max(consistent_from),
            wanted: wanted(self.pipeline, &stored),
            spool_directory: desk.spool.clone(),
            poll: desk.poll,
            reader: Some(reader_name(&self.pipeline.name)),
        };
        let mut source = ArchiveSource::start(Arc::clone(&desk.shelf), options).await?;
        let marks = source.marks();
        if let Some(end) = self.ends_at(&marks, position.offset) {
            // The channel is empty: this cannot wait.
            let _ = steering.commands.send(Command::EndAt(end)).await;
        }
        let _ = steering.applied.set(Applied {
            marks,
            tables: stored.relations.len(),
            shelf: Some(Arc::clone(&desk.shelf)),
        });
        let applying = Applying::of(self.pipeline);
        let follow = shapes.follow(&self.end, &self.pipeline.name, applying.follows);
        let name = self.pipeline.name.clone();
        let applier =
            Applier::new(rows_session, name, position.offset, applying.on_conflict, Arc::clone(&follow));
        let mut rows = PostgresTarget::new(applier, applying.limits.bytes, follow);
        self.meter.streams(consistent_from);
        tracing::info!(tables = stored.relations.len(), position = %position.offset, "applying files");
        self.reached_files = Some(Instant::now());
        let pump = Pump::new(
            &mut source,
            &mut rows,
            &mut steering.link,
            &mut plan,
            applying.limits,
            position.offset,
        );
        let ended = pump.run().await?;
        source.finish().await;
        self.settle(&mut target, ended, newest_base.is_some()).await
    }

    /// The position to end at, if the run is to.
    fn ends_at(&self, marks: &Marks, position: Lsn) -> Option<Lsn> {
        match self.until {
            Until::Stopped => None,
            Until::CaughtUp => Some(marks.last_sealed().map_or(position, |(_, to)| to.max(position))),
            Until::Reached(end) => Some(end),
        }
    }

    pub(super) async fn settle(
        &self,
        target: &mut Session,
        ended: Ended,
        has_base: bool,
    ) -> Result<Attempted> {
        match ended {
            Ended::Stopped => {
                let reason = self.stop.borrow().unwrap_or(StopReason::Asked);
                Ok(Attempted::Stopped(self.stopped(reason)))
            }
            Ended::Reached => Ok(Attempted::Stopped(self.stopped(StopReason::Reached))),
            Ended::Paused => Ok(Attempted::Again),
            Ended::AwaitsCopy(tables) => {
                let tables: Vec<TableName> = tables.into_iter().collect();
                tracing::info!(tables = ?tables.iter().map(ToString::to_string).collect::<Vec<_>>(), "tables to be filled");
                let joins_with = if has_base { JoinsWith::Base } else { JoinsWith::ItsRows };
                join(target, self.pipeline, &tables, joins_with).await?;
                self.meter.phase(Phase::Copying, "");
                Ok(Attempted::Again)
            }
        }
    }
}

/// A tables' rule is its copy's; the origin's OID is looked at with its shape.
fn plan(pipeline: &Pipeline, stored: &Stored) -> Plan {
    let rules = stored.relations.iter().filter_map(|relation| {
        let rule = match (relation.state, relation.copied_at) {
            (RelationState::Ready, Some(at)) => Rule::Copied { at, relation: None },
            (RelationState::Quarantined, _) => Rule::Quarantined,
            _ => return None,
        };
        Some((relation.table.clone(), rule))
    });
    let patterns = pipeline.tables.clone();
    let new_tables = pipeline.stream.new_tables;
    Plan::new(rules, Box::new(move |table| new_tables && patterns.match_table(table)))
}

/// The tables whose rows are read at all: those that are known, and those that may join.
fn wanted(pipeline: &Pipeline, stored: &Stored) -> crate::source::archive::Wanted {
    let known: std::collections::HashSet<TableName> =
        stored.relations.iter().map(|relation| relation.table.clone()).collect();
    let patterns = pipeline.tables.clone();
    let new_tables = pipeline.stream.new_tables;
    Arc::new(move |table| known.contains(table) || (new_tables && patterns.match_table(table)))
}

/// `main@laptop`: pipelines of one name on two machines are two readers.
fn reader_name(pipeline: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let host: String =
        crate::lock::host_name().chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
    format!("{pipeline}@{host}")
}
