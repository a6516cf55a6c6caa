//! A pass: what was filled from a base catches up with the pipeline, through the files in between, alone.
//!
//! Its position is a row of its own in `pgdiode.position`, named `PIPELINE/NUMBER`, and commits with the rows: a pass that
//! was cut off goes on where it was. It ends at exactly the pipeline's position; from then on its tables are in step, and
//! what the others show has never been touched.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::change::TableName;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::meter::Meter;
use crate::pipeline::replay::desk::{Applying, Desk};
use crate::pipeline::replay::ledger;
use crate::pipeline::replay::shapes::Shapes;
use crate::pipeline::replay::watch;
use crate::plan::{Plan, Rule};
use crate::position::{Lsn, Position};
use crate::pump::{Command, Ended, Pump};
use crate::source::archive::{ArchiveSource, ReadOptions};
use crate::status::Phase;
use crate::target::postgres::PostgresTarget;
use crate::target::postgres::apply::Applier;

/// Tables by the pass that they are in, with the moment that each was filled as of.
pub(super) type Passes = BTreeMap<String, Vec<(TableName, Lsn)>>;

/// Runs every pass that there is, up to `position`.
pub async fn run_all(
    pipeline: &Pipeline,
    end: &TargetEnd,
    desk: &Desk,
    meter: &Meter,
    target: &mut Session,
    position: &Position,
) -> Result<()> {
    forget_abandoned(target, pipeline).await?;
    for (pass, tables) in read(target, pipeline).await? {
        let names: Vec<String> = tables.iter().map(|(table, _)| table.to_string()).collect();
        meter.phase(Phase::Copying, &format!("catching up: {}", names.join(", ")));
        let from = stands_at(target, &pass).await?;
        if from < position.offset {
            run(pipeline, end, desk, meter, target, &pass, &tables, from, position).await?;
        }
        join(target, &pass).await?;
    }
    Ok(())
}

/// The tables of a pass that has come to its end are in step with the others.
pub(super) async fn join(target: &mut Session, pass: &str) -> Result<()> {
    let pass = quote::literal(pass);
    let sql = format!(
        "update pgdiode.relation set state = 'ready', carried_by = null where carried_by = {pass} and state = 'copied';
         delete from pgdiode.position where pipeline = {pass};"
    );
    target.query(&sql).await.map(drop)
}

/// A table that is filled anew leaves its pass; the last one leaves it without any.
pub(super) async fn forget_abandoned(target: &mut Session, pipeline: &Pipeline) -> Result<()> {
    let passes = format!("{}/", pipeline.name);
    let sql = "delete from pgdiode.position s where pg_catalog.starts_with(s.pipeline, $1)
          and not exists (select from pgdiode.relation r where r.carried_by = s.pipeline and r.state = 'copied')";
    target.query_with(sql, &[Some(&passes)]).await.map(drop)
}

pub(super) async fn read(target: &mut Session, pipeline: &Pipeline) -> Result<Passes> {
    let rows = target
        .query_with(
            "select carried_by, schema_name, table_name, copied_at from pgdiode.relation
              where pipeline = $1 and state = 'copied' and carried_by is not null",
            &[Some(&pipeline.name)],
        )
        .await?;
    let mut passes = Passes::new();
    for row in rows {
        let table = (TableName::new(row.string(1), row.string(2)), row.get(3)?);
        passes.entry(row.string(0)).or_default().push(table);
    }
    Ok(passes)
}

pub(super) async fn stands_at(target: &mut Session, pass: &str) -> Result<Lsn> {
    let rows =
        target.query_with("select lsn from pgdiode.position where pipeline = $1", &[Some(pass)]).await?;
    let row = rows.first().ok_or_else(|| {
        Error::unexpected(format!("the position of {pass} is missing from pgdiode.position"))
            .hint("Somebody removed it: pgdiode resync fills its tables anew.")
    })?;
    row.get(0)
}

#[allow(clippy::too_many_arguments)]
async fn run(
    pipeline: &Pipeline,
    end: &TargetEnd,
    desk: &Desk,
    meter: &Meter,
    target: &mut Session,
    pass: &str,
    tables: &[(TableName, Lsn)],
    from: Lsn,
    to: &Position,
) -> Result<()> {
    tracing::info!(pass, %from, to = %to.offset, tables = tables.len(), "tables catch up");
    let rules = tables.iter().map(|(table, at)| (table.clone(), Rule::Copied { at: *at, relation: None }));
    let mut plan = Plan::new(rules, Box::new(|_| false));
    let wanted: HashSet<TableName> = tables.iter().map(|(table, _)| table.clone()).collect();
    let options = ReadOptions {
        lineage: to.lineage.clone(),
        from,
        copied_at: from,
        wanted: Arc::new(move |table| wanted.contains(table)),
        spool_directory: desk.spool.clone(),
        poll: desk.poll,
        reader: None,
    };
    let mut source = ArchiveSource::start(Arc::clone(&desk.shelf), options).await?;
    let applying = Applying::of(pipeline);
    let shapes = Shapes::read(target, &pipeline.name).await?;
    let follow = shapes.follow(end, &pipeline.name, applying.follows);
    let session = end.session_for_rows().await?;
    let applier =
        Applier::new(session, pipeline.name.clone(), from, applying.on_conflict, Arc::clone(&follow));
    let mut rows = PostgresTarget::new(applier.keeping_position_of(pass), applying.limits.bytes, follow);
    // Its position is not the pipeline's, but its rows count.
    let own = Arc::new(Meter::default());
    let (commands, mut link) = watch::link(&own);
    // The channel is empty: this cannot wait.
    let _ = commands.send(Command::EndAt(to.offset)).await;
    let pump = Pump::new(&mut source, &mut rows, &mut link, &mut plan, applying.limits, from);
    let ended = pump.run().await;
    let counts = own.take_counts();
    let rows = counts.iter().map(|(table, counts)| (table, counts.inserts + counts.updates + counts.deletes));
    let logged = ledger::caught_up(pipeline, rows, to.offset);
    meter.put_counts_back(counts);
    match ended? {
        Ended::Reached => target.query(&logged).await.map(drop),
        other => Err(Error::unexpected(format!("a pass ended otherwise than at its end: {other:?}"))),
    }
}
