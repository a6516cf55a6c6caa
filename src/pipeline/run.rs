//! A run: from wherever the target says it stands, copy what is missing, then stream; again after a broken
//! connection.
//!
//! ```text
//! attempt:  lock -> whose history? -> slot -> copy what is pending -> stream ... -> pause -> (again, to copy)
//!                                                                            \-> broken -> backoff -> again
//! ```
//!
//! Nothing is carried from one attempt to the next in memory: a retry, a restart and a crash are the same. Where the target
//! stood is remembered while it is away, so that the source's log can be spilled (`spill/away.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::audit::{Action, Journal};
use crate::change::TableName;
use crate::config::{Binary, OnConflict, Pipeline, SchemaDrift};
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::continuity;
use crate::pipeline::copy::{self, Moment, Order, SchemaWork};
use crate::pipeline::drift;
use crate::pipeline::ends::Ends;
use crate::pipeline::holder;
use crate::pipeline::lifecycle::{self, Asked, Attempted, Attempts, until_details};
use crate::pipeline::meter::Meter;
use crate::pipeline::monitor::{Known, Link, Monitor, await_copies};
use crate::pipeline::spill::{self, Feeds, Spill};
use crate::pipeline::stop;
use crate::pipeline::streaming::{explained, mebibytes, start_stream, stream_options};
use crate::plan::{Plan, Rule};
use crate::position::{Lineage, Lsn, Position};
use crate::preflight::{self, Purpose};
use crate::pump::{BatchLimits, Command, Ended, Pump};
use crate::source::postgres::catalog::{self, SourceTable};
use crate::source::postgres::slot;
use crate::source::postgres::stream::Format;
use crate::status::{Phase, Progress, StopReason, Stopped, Until};
use crate::target::postgres::apply::{self, Applier};
use crate::target::postgres::progress::{self, RelationState, Stored};
use crate::target::postgres::{PostgresTarget, schema::LeftOut};

/// Runs the pipeline until it is asked to stop, has reached `until`, or fails.
pub async fn run(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    preflight::refuse_unsafe(pipeline, Purpose::Start).await?;
    let ends = Ends::resolve(pipeline)?;
    let details = until_details(until);
    let journal = Journal::begin(&mut ends.target().await?, pipeline, Action::Start, None, details).await?;
    let ended = work(pipeline, ends.clone(), until, progress, stop).await;
    lifecycle::conclude(journal, ended, async || ends.target().await).await
}

async fn work(
    pipeline: &Pipeline,
    ends: Ends,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    let meter = Arc::new(Meter::default());
    let stop_reason = watch::Sender::new(None);
    let mut run = Run {
        pipeline,
        ends,
        meter: Arc::clone(&meter),
        until,
        stop: stop_reason.clone(),
        reached_streaming: None,
        streamed: None,
    };
    let work = lifecycle::until_ended(&mut run);
    lifecycle::watched(work, &meter, progress, &stop_reason, stop).await
}

struct Run<'a> {
    pipeline: &'a Pipeline,
    ends: Ends,
    meter: Arc<Meter>,
    until: Until,
    stop: watch::Sender<Option<StopReason>>,
    /// When the current attempt began to stream.
    reached_streaming: Option<Instant>,
    /// The history that an attempt of this run has streamed.
    streamed: Option<Lineage>,
}

/// Where an attempt goes on.
struct Start {
    position: Position,
    /// The slot has let go of some of what follows: it is in the spill.
    is_spilled: bool,
}

impl Attempts for Run<'_> {
    fn pipeline(&self) -> &Pipeline {
        self.pipeline
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn asked(&self) -> &Asked {
        &self.stop
    }

    async fn attempt(&mut self, retries: u64) -> Result<Attempted> {
        self.reached_streaming = None;
        Box::pin(self.one_attempt(retries)).await
    }

    fn streamed(&self) -> Option<Duration> {
        self.reached_streaming.map(|since| since.elapsed())
    }

    async fn connect(&self) -> Result<Session> {
        self.ends.target().await
    }

    async fn rest(&self, error: &Error, wait: Duration) {
        let offset = self.meter.progress(0).position.unwrap_or_default();
        let spill =
            self.streamed.as_ref().filter(|_| error.kind() == Kind::TargetUnreachable).map(|lineage| {
                let options = stream_options(self.pipeline, offset, Format::Text);
                Spill::of(self.pipeline, &self.ends, &self.meter, lineage, &options)
            });
        match spill {
            Some(Ok(Some(spill))) => {
                let is_back = async || self.ends.target().await.is_ok();
                Box::pin(spill.while_away(offset, wait, is_back)).await;
            }
            _ => tokio::time::sleep(wait).await,
        }
    }
}

impl Run<'_> {
    /// One attempt, from connecting to the end of the stream.
    async fn one_attempt(&mut self, retries: u64) -> Result<Attempted> {
        let mut target = self.ends.target().await?;
        let source = self.ends.source().await?;
        target.query(progress::CREATE_CONTROL_SCHEMA).await?;
        let mut rows_session = self.ends.target_for_rows().await?;
        holder::lock(&mut rows_session, &self.pipeline.name).await?;
        if retries > 0 && stop::is_requested(&mut target, &self.pipeline.name).await? {
            return Ok(Attempted::Stopped(self.stopped(StopReason::Asked)));
        }
        self.register(&mut target, retries).await?;
        let (ends, meter) = (self.ends.clone(), Arc::clone(&self.meter));
        let (mut monitor, link) =
            Monitor::new(ends, self.pipeline.clone(), meter, self.stop.clone(), self.until);
        let commands = monitor.commander();
        let attempted = tokio::select! {
            attempted = self.work(source, target, rows_session, commands, link) => attempted,
            () = monitor.run() => unreachable!("the monitor watches until it is dropped"),
        };
        monitor.store_last_status().await;
        attempted
    }

    /// Copies what is pending, then streams.
    async fn work(
        &mut self,
        mut source: Session,
        mut target: Session,
        rows_session: Session,
        commands: mpsc::Sender<Command>,
        link: Link,
    ) -> Result<Attempted> {
        let carried = copy::carried(&mut source, self.pipeline).await?;
        let start = self.find_position(&mut target, &mut source).await?;
        self.meter.positioned(start.position.offset);
        self.meter.source_reaches(slot::log_reaches(&mut source).await?);
        let carriage = continuity::read(&mut source, &self.pipeline.publication).await?;
        continuity::keep(&mut source, &mut target, self.pipeline, &carriage).await?;
        let copying = async {
            // What is spilled is drained first: what it has of a table, that table's copy will have.
            if start.is_spilled { Ok(false) } else { self.copy_pending(&mut target, &carried).await }
        };
        let is_partial = tokio::select! {
            copied = copying => copied?,
            // Stopping in mid-copy is the same as crashing there.
            reason = lifecycle::asked_to_stop(&self.stop) => return Ok(Attempted::Stopped(self.stopped(reason))),
        };
        if is_partial {
            return Ok(Attempted::Again);
        }
        drop(source);
        if let Some(end) = self.end(&mut target).await? {
            // The channel is empty: this cannot wait. The pump that takes it out lives as long as the link.
            let _ = commands.send(Command::EndAt(end)).await;
        }
        self.stream(target, rows_session, start, link).await
    }

    /// Says in the target who runs the pipeline, and by which publication.
    async fn register(&self, target: &mut Session, retries: u64) -> Result<()> {
        lifecycle::register(target, self.pipeline, retries).await?;
        let sql = "update pgdiode.pipeline set publication = $1 where name = $2";
        target.query_with(sql, &[Some(&self.pipeline.publication), Some(&self.pipeline.name)]).await.map(drop)
    }

    async fn stored(&self, target: &mut Session) -> Result<Stored> {
        progress::read(target, &self.pipeline.name).await?.ok_or_else(|| {
            Error::unexpected(format!("pipeline \"{}\" vanished from the target", self.pipeline.name))
        })
    }

    /// Where to go on; creates the slot when there is no history yet.
    async fn find_position(&self, target: &mut Session, source: &mut Session) -> Result<Start> {
        let stored = self.stored(target).await?;
        let mut replication = self.ends.replication().await?;
        if let Some(at) = stored.at() {
            slot::check_name(&at.lineage, &self.pipeline.slot)?;
            let reaches = spill::reaches(self.pipeline, source, &at).await?;
            let lineage = slot::check_lineage(&mut replication, source, &at.lineage, reaches).await?;
            self.store_lineage(target, &lineage, None).await?;
            return Ok(Start { is_spilled: reaches > at.offset, position: Position { lineage, ..at } });
        }
        self.meter.phase(Phase::Copying, "creating the replication slot");
        if slot::read(source, &self.pipeline.slot).await?.is_some() {
            self.drop_unfinished_slot(target, &mut replication).await?;
        }
        // Said before the slot is made: what a crash leaves behind is then known as ours.
        let (name, slot_name) = (quote::literal(&self.pipeline.name), quote::literal(&self.pipeline.slot));
        let begun =
            format!("update pgdiode.pipeline set slot = {slot_name}, slot_begun = true where name = {name}");
        target.query(&begun).await?;
        let database = source.one("select pg_catalog.current_database()").await?.string(0);
        let making = slot::create(&mut replication, "pgoutput", &self.pipeline.slot, &database);
        let lineage = copy::telling_who_delays(&self.ends.origin(), &self.meter, making).await?;
        self.store_lineage(target, &lineage, Some(lineage.consistent_point)).await?;
        tracing::info!(slot = lineage.slot, position = %lineage.consistent_point, "created the replication slot");
        let position = Position { offset: lineage.consistent_point, lineage };
        Ok(Start { position, is_spilled: false })
    }

    async fn drop_unfinished_slot(&self, target: &mut Session, replication: &mut Session) -> Result<()> {
        if !self.stored(target).await?.slot_begun {
            return Err(Error::refused(format!(
                "the source has a replication slot \"{}\" already, which this target knows nothing of",
                self.pipeline.slot
            ))
            .hint("Choose another `slot`, or if nobody needs it: pgdiode reset --drop-slot."));
        }
        let sql = format!("DROP_REPLICATION_SLOT {} WAIT", quote::identifier(&self.pipeline.slot));
        match replication.query(&sql).await {
            // It was being made by a run that was killed, and went with that run's session.
            Err(error) if error.sqlstate() == Some("42704") => Ok(()),
            dropped => dropped.map(drop),
        }
    }

    async fn store_lineage(&self, target: &mut Session, lineage: &Lineage, start: Option<Lsn>) -> Result<()> {
        let name = quote::literal(&self.pipeline.name);
        let mut sql = format!(
            "update pgdiode.pipeline
                set system_identifier = {}, timeline = {}, database = {}, slot = {}, consistent_point = '{}', slot_begun = false
              where name = {name};",
            lineage.system_identifier,
            lineage.timeline,
            quote::literal(&lineage.database),
            quote::literal(&lineage.slot),
            lineage.consistent_point,
        );
        if let Some(start) = start {
            sql.push_str(&format!(
                "insert into pgdiode.position (pipeline, lsn) values ({name}, '{start}');"
            ));
        }
        target.query(&sql).await.map(drop)
    }

    /// Copies every table that is carried and not in step; whether one of them must be copied once more.
    async fn copy_pending(&self, target: &mut Session, carried: &[SourceTable]) -> Result<bool> {
        let names: Vec<TableName> = carried.iter().map(|table| table.table.clone()).collect();
        let stored = self.stored(target).await?;
        if !stored.schema_copied || self.pipeline.stream.new_tables {
            await_copies(target, &self.pipeline.name, &names, Known::Kept).await?;
        }
        let stored = if stored.relations.len() < names.len() { self.stored(target).await? } else { stored };
        let schema = match (stored.tables_created, stored.schema_copied) {
            (false, _) => SchemaWork::All,
            (true, false) => SchemaWork::Finish,
            (true, true) => SchemaWork::NewTables,
        };
        let pending: Vec<SourceTable> = stored
            .relations
            .iter()
            .filter(|relation| matches!(relation.state, RelationState::Pending | RelationState::Copying))
            .filter_map(|relation| carried.iter().find(|table| table.table == relation.table))
            .cloned()
            .collect();
        let unfinished = stored.relations.iter().any(|relation| relation.state == RelationState::Copied);
        if schema == SchemaWork::NewTables && pending.is_empty() && !unfinished {
            return self.drop_orphans(target, &stored, carried).await.map(|()| false);
        }
        let order = Order { tables: pending, schema, gathers_statistics: false };
        let copied = copy::run(&self.ends, self.pipeline, &self.meter, order, Moment::OfSlot).await?;
        self.note_left_out(target, &copied.left_out).await?;
        self.drop_orphans(target, &stored, carried).await.map(|()| copied.is_partial)
    }

    /// Pending tables that are not at the source or not published any more would be waited for without end.
    async fn drop_orphans(
        &self,
        target: &mut Session,
        stored: &Stored,
        carried: &[SourceTable],
    ) -> Result<()> {
        for relation in &stored.relations {
            let is_carried = carried.iter().any(|table| table.table == relation.table);
            if relation.state == RelationState::Pending && !is_carried {
                let sql = progress::quarantine(
                    &self.pipeline.name,
                    &relation.table,
                    "the publication does not carry this table, or it is gone from the source",
                    "publish it again with `pgdiode add-tables`, or forget it with `pgdiode remove-tables`",
                );
                target.query(&sql).await?;
            }
        }
        Ok(())
    }

    async fn note_left_out(&self, target: &mut Session, left_out: &[LeftOut]) -> Result<()> {
        for LeftOut { entry, reason } in left_out {
            tracing::warn!(entry, reason, "left out of the target's schema");
            let sql = format!(
                "insert into pgdiode.note (pipeline, kind, detail) values ({}, 'schema-left-out', {})",
                quote::literal(&self.pipeline.name),
                quote::literal(&format!("{entry}: {reason}"))
            );
            target.query(&sql).await?;
        }
        Ok(())
    }

    async fn stream(
        &mut self,
        mut target: Session,
        rows_session: Session,
        Start { position, is_spilled }: Start,
        mut link: Link,
    ) -> Result<Attempted> {
        let stored = self.stored(&mut target).await?;
        let mut plan = self.plan(&stored, is_spilled);
        let consistent_from = plan.consistent_from();
        let format = self.stream_format(&mut target).await?;
        let stream = &self.pipeline.stream;
        let options = stream_options(self.pipeline, position.offset, format);
        let spill = Spill::of(self.pipeline, &self.ends, &self.meter, &position.lineage, &options)?;
        let mut source = match spill {
            None => Feeds::live(start_stream(&self.ends.origin(), options).await?, position.offset),
            Some(spill) if is_spilled => Box::pin(spill.begin_spilled(position.offset)).await?,
            Some(spill) => Box::pin(spill.begin_live(position.offset)).await?,
        };
        let on_conflict = match stream.on_conflict {
            OnConflict::Apply => apply::OnConflict::Apply,
            OnConflict::Quarantine => apply::OnConflict::Quarantine,
        };
        let follow =
            drift::follow(&self.ends, &self.pipeline.name, stream.schema_drift == SchemaDrift::Follow);
        let name = self.pipeline.name.clone();
        let applier = Applier::new(rows_session, name, position.offset, on_conflict, Arc::clone(&follow));
        let mut rows = PostgresTarget::new(applier, mebibytes(stream.batch_mb), follow);
        self.meter.streams(consistent_from);
        self.reached_streaming = Some(Instant::now());
        self.streamed = Some(position.lineage);
        let age = Duration::from_millis(stream.batch_ms_max);
        let limits = BatchLimits::without_delay(mebibytes(stream.batch_mb), age);
        let pump = Pump::new(&mut source, &mut rows, &mut link, &mut plan, limits, position.offset);
        let ended = pump.run().await.map_err(|error| explained(self.pipeline, error))?;
        source.finish().await;
        self.settle(&mut target, ended).await
    }

    async fn settle(&self, target: &mut Session, ended: Ended) -> Result<Attempted> {
        match ended {
            Ended::Stopped => {
                let reason = self.stop.borrow().unwrap_or(StopReason::Asked);
                if let Err(error) = self.last_sequences(target).await {
                    tracing::warn!(error = error.chain(), "sequences were not carried once more");
                }
                Ok(Attempted::Stopped(self.stopped(reason)))
            }
            Ended::Reached => {
                self.last_sequences(target).await?;
                Ok(Attempted::Stopped(self.stopped(StopReason::Reached)))
            }
            Ended::Paused => Ok(Attempted::Again),
            Ended::AwaitsCopy(tables) => {
                let tables: Vec<TableName> = tables.into_iter().collect();
                tracing::info!(tables = ?tables.iter().map(ToString::to_string).collect::<Vec<_>>(), "tables to be copied");
                await_copies(target, &self.pipeline.name, &tables, Known::CopiedAgain).await?;
                Ok(Attempted::Again)
            }
        }
    }

    async fn last_sequences(&self, target: &mut Session) -> Result<()> {
        copy::carry_sequences(&self.ends, &mut self.ends.source().await?, target).await.map(drop)
    }

    /// While there is a spill, tables that are to be copied are passed over: their copies come after it.
    fn plan(&self, stored: &Stored, is_spilled: bool) -> Plan {
        let rules = stored.relations.iter().filter_map(|relation| {
            let rule = match (relation.state, relation.copied_at) {
                (RelationState::Ready | RelationState::Copied, Some(at)) => {
                    Rule::Copied { at, relation: relation.source_oid }
                }
                (RelationState::Quarantined, _) => Rule::Quarantined,
                _ if is_spilled => Rule::Copied { at: Lsn(u64::MAX), relation: None },
                _ => return None,
            };
            Some((relation.table.clone(), rule))
        });
        let patterns = self.pipeline.tables.clone();
        let new_tables = self.pipeline.stream.new_tables;
        Plan::new(rules, Box::new(move |table| new_tables && patterns.match_table(table)))
    }

    /// Binary only where every carried column means the same in it on both sides.
    async fn stream_format(&self, target: &mut Session) -> Result<Format> {
        if self.pipeline.stream.binary == Binary::Off {
            return Ok(Format::Text);
        }
        let mut source = self.ends.source().await?;
        if source.server_major() < 14 || target.server_major() < source.server_major() {
            return Ok(Format::Text);
        }
        let published =
            catalog::published(&mut source, &self.pipeline.publication).await?.unwrap_or_default();
        let (tables, here) = (catalog::tables(&mut source).await?, catalog::tables(target).await?);
        let is_safe = |table: &SourceTable| {
            // The target is its owner's to change: a column may have got a wider type there.
            let has_same_types = here.get(&table.table).is_none_or(|here| table.has_types_of(here));
            table.is_binary_safe && has_same_types
        };
        let all_safe = published.iter().filter_map(|name| tables.get(name)).all(is_safe);
        Ok(if all_safe { Format::Binary } else { Format::Text })
    }

    /// The position to end at, if it is known; the monitor finds where a run that is to catch up has done so.
    async fn end(&self, target: &mut Session) -> Result<Option<Lsn>> {
        let Until::Reached(end) = self.until else { return Ok(None) };
        let stored = self.stored(target).await?;
        let copied =
            stored.relations.iter().filter_map(|relation| relation.copied_at).max().unwrap_or(Lsn::ZERO);
        Ok(Some(end.max(copied)))
    }
}
