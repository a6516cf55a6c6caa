//! Runs a pipeline: the only place that names both a source and a target.

pub mod archiving;
pub mod asked;
mod backoff;
mod continuity;
pub mod copy;
pub mod drift;
pub mod ends;
pub mod holder;
pub mod keyspace;
mod labels;
mod lifecycle;
mod membership;
pub mod meter;
pub mod monitor;
mod production;
pub mod queue;
pub mod record;
pub mod replay;
mod report;
mod reset;
pub mod run;
pub(crate) mod schemas;
pub mod selection;
mod setup;
pub mod shadow_schemas;
pub mod spill;
pub mod statistics;
mod step;
mod stop;
mod storage;
mod streaming;
mod subscription;

use tokio::sync::watch;

use crate::archive::manifest::Base;
use crate::audit;
use crate::audit::checkpoint::{self, Checkpoint, Checkpoints};
use crate::change::TableName;
use crate::config::{Mode, Pipeline, Way};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::{Ends, TargetEnd};
use crate::preflight;
use crate::snapshot;
use crate::status::drift::SchemaDrift;
use crate::status::fleet::Storage;
use crate::status::keys::KeysReport;
use crate::status::syncdata::SyncdataStatus;
use crate::status::{
    CheckReport, KeySync, PipelineStatus, Progress, Reset, RunningOn, Stopped, TableListing, Until,
    VerifyReport,
};

pub use production::{Production, SlotWork};

/// Everything that can be found wrong before anything runs.
pub async fn check(pipeline: &Pipeline) -> Result<CheckReport> {
    match pipeline.way() {
        Way::ToArchive => return preflight::check_writer(pipeline).await,
        Way::FromArchive => return preflight::check_reader(pipeline).await,
        Way::FromRedis => return preflight::check_keys(pipeline).await,
        Way::Direct => {}
    }
    match pipeline.mode {
        Mode::Snapshot => snapshot::check(pipeline).await,
        Mode::Stream | Mode::Subscription => preflight::check(pipeline).await,
    }
}

const TABLES_BY_CONFIGURATION: &str = "Change `tables` in the configuration; the next sync goes by it.";

/// The SQL that would be run at each side.
pub async fn setup_plan(pipeline: &Pipeline, production: &Production) -> Result<Vec<String>> {
    pipeline.refuse_snapshot("setup", "It needs none: run pgdiode sync.")?;
    if pipeline.way() == Way::ToArchive {
        return production::plan(pipeline, production).await;
    }
    production.refuse(pipeline)?;
    if pipeline.way() == Way::FromRedis {
        return keyspace::verbs::setup_plan(pipeline).await;
    }
    setup::plan(pipeline).await
}

/// What somebody else has to do before a start, where pgdiode itself has no right to; nothing for most pipelines.
pub async fn setup_by_others(pipeline: &Pipeline) -> Result<Vec<String>> {
    if pipeline.way() == Way::FromRedis { keyspace::verbs::rights(pipeline).await } else { Ok(Vec::new()) }
}

/// The SQL that was run at each side; `reason` is for the audit log, here and below.
pub async fn setup(
    pipeline: &Pipeline,
    production: &Production,
    reason: Option<&str>,
) -> Result<Vec<String>> {
    pipeline.refuse_snapshot("setup", "It needs none: run pgdiode sync.")?;
    if pipeline.way() == Way::ToArchive {
        return production::setup(pipeline, production).await;
    }
    production.refuse(pipeline)?;
    if pipeline.way() == Way::FromRedis {
        return keyspace::verbs::setup(pipeline, reason).await;
    }
    setup::setup(pipeline, reason).await
}

/// Why the pipeline cannot be started, if so.
pub fn refuse_start(pipeline: &Pipeline) -> Result<()> {
    if pipeline.mode == Mode::Snapshot { snapshot::refuse_unscheduled(pipeline) } else { Ok(()) }
}

fn no_reset(pipeline: &Pipeline) -> Error {
    let what = format!("pipeline \"{}\" has mode = \"snapshot\", for which there is no reset", pipeline.name);
    Error::config(what).hint("Generations are databases of the target's server: pgdiode generations.")
}

/// Works until `until`, or until `stop` is ready; returns after the last commit is confirmed.
pub async fn start(
    pipeline: &Pipeline,
    until: Until,
    progress: watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Stopped> {
    refuse_paused(pipeline).await?;
    match pipeline.mode {
        Mode::Stream if pipeline.way() == Way::ToArchive => {
            archiving::run(pipeline, until, progress, stop).await
        }
        Mode::Stream if pipeline.way() == Way::FromArchive => {
            replay::run(pipeline, until, progress, stop).await
        }
        Mode::Stream if pipeline.way() == Way::FromRedis => {
            keyspace::run(pipeline, until, progress, stop).await
        }
        Mode::Stream => run::run(pipeline, until, progress, stop).await,
        Mode::Subscription => subscription::start(pipeline, until, progress, stop).await,
        Mode::Snapshot => snapshot::keep_schedule(pipeline, &progress, stop).await,
    }
}

/// A target that cannot be asked is the run's to tell of.
async fn refuse_paused(pipeline: &Pipeline) -> Result<()> {
    match Box::pin(record::refuse_paused(pipeline)).await {
        Err(error) if error.kind() == Kind::Refused => Err(error),
        _ => Ok(()),
    }
}

/// Puts a base snapshot into the archive that the pipeline writes.
pub async fn archive_base(pipeline: &Pipeline, progress: watch::Sender<Progress>) -> Result<Base> {
    if pipeline.way() != Way::ToArchive {
        let what = format!("pipeline \"{}\" does not write an archive", pipeline.name);
        return Err(Error::config(what).hint("a base is taken by the pipeline whose target is the archive"));
    }
    archiving::take_base(pipeline, progress).await
}

/// Who runs the pipeline now. A schedule may be kept by several, and a sync holds a lock of its own.
pub async fn running(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    if pipeline.way() == Way::ToArchive {
        return archiving::running(pipeline);
    }
    holder::holder(&mut TargetEnd::resolve(pipeline)?.session().await?, &pipeline.name).await
}

/// What the replica takes, and may take; `None` where it is an archive, or not there yet.
pub async fn storage(pipeline: &Pipeline, growth: Option<f64>) -> Result<Option<Storage>> {
    storage::measure(pipeline, growth).await
}

/// In what the schemas of both sides differ; `None` where there are no two sides of tables.
pub async fn compare_schemas(pipeline: &Pipeline) -> Result<Option<SchemaDrift>> {
    schemas::compare(pipeline).await
}

/// Asks the running process to stop and waits until it has; `None` when none was running.
pub async fn stop(pipeline: &Pipeline) -> Result<Option<RunningOn>> {
    match pipeline.mode {
        Mode::Stream if pipeline.way() == Way::ToArchive => archiving::stop(pipeline).await,
        Mode::Stream => stop::stop(pipeline).await,
        Mode::Subscription => subscription::stop(pipeline).await,
        Mode::Snapshot => snapshot::stop(pipeline).await,
    }
}

pub async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    match pipeline.mode {
        Mode::Stream if pipeline.way() == Way::ToArchive => archiving::status(pipeline).await,
        Mode::Stream if pipeline.way() == Way::FromArchive => replay::status(pipeline).await,
        Mode::Stream if pipeline.way() == Way::FromRedis => keyspace::status(pipeline).await,
        Mode::Stream => report::status(pipeline).await,
        Mode::Subscription => subscription::status(pipeline).await,
        Mode::Snapshot => Err(Error::unexpected("a sync has a status of its own")),
    }
}

/// What a pipeline made from a syncdata file has to say, as syncdata says it.
pub async fn syncdata_status(pipeline: &Pipeline) -> Result<SyncdataStatus> {
    replay::syncdata_status(pipeline).await
}

fn refuse_clear(pipeline: &Pipeline) -> Result<()> {
    if pipeline.way() == Way::FromArchive {
        return Ok(());
    }
    let what = format!("pipeline \"{}\" is not filled from an archive, and cannot be cleared", pipeline.name);
    Err(Error::config(what).hint("to have its tables filled anew: pgdiode resync, or pgdiode reset"))
}

/// The SQL that would be run at the target.
pub async fn clear_plan(pipeline: &Pipeline) -> Result<Vec<String>> {
    refuse_clear(pipeline)?;
    replay::clear_plan(pipeline).await
}

/// Empties every table; the next start fills them. The SQL that was run.
pub async fn clear(pipeline: &Pipeline, reason: Option<&str>) -> Result<Vec<String>> {
    refuse_clear(pipeline)?;
    replay::clear(pipeline, reason).await
}

/// Compares both sides at one position; no `tables` means all that are carried.
pub async fn verify(pipeline: &Pipeline, tables: &[TableName]) -> Result<VerifyReport> {
    pipeline.refuse_snapshot(
        "verify",
        "Every sync compares both sides before it swaps; with snapshot.verify = \"full\", row by row.",
    )?;
    let (progress, _) = watch::channel(Progress::default());
    let catch_up = async |at| {
        let unwatched = watch::channel(Progress::default()).0;
        Box::pin(start(pipeline, Until::Reached(at), unwatched, std::future::pending())).await.map(drop)
    };
    let report = crate::verify::verify(pipeline, tables, &progress, catch_up).await?;
    noted(record::verified(pipeline, &report, tables.is_empty()).await);
    Ok(report)
}

/// What is only told later of a comparison must not be what it fails with.
fn noted(kept: Result<()>) {
    if let Err(error) = kept {
        tracing::warn!(error = error.chain(), "how the comparison ended is not recorded");
    }
}

/// Compares the keys of a source of keys with the rows of the target, in both directions.
pub async fn verify_keys(pipeline: &Pipeline) -> Result<KeysReport> {
    if pipeline.way() != Way::FromRedis {
        let what = format!("the source of pipeline \"{}\" has no keys but tables", pipeline.name);
        return Err(Error::config(what).hint("Tables are compared by: pgdiode verify."));
    }
    let report = keyspace::verify(pipeline).await?;
    noted(record::keys_verified(pipeline, &report).await);
    Ok(report)
}

/// Has the tables copied again; of a Redis server every key looked at.
pub async fn resync(pipeline: &Pipeline, tables: &[TableName], reason: Option<&str>) -> Result<()> {
    pipeline.refuse_snapshot("resync", "Run pgdiode sync: it copies every table.")?;
    if pipeline.way() == Way::FromArchive && !tables.is_empty() {
        return replay::resync(pipeline, tables, reason).await;
    }
    if pipeline.way() == Way::FromRedis {
        return keyspace::verbs::resync(pipeline, tables, reason).await;
    }
    if tables.is_empty() {
        return Err(Error::config("no table is named").hint("pgdiode resync SCHEMA.TABLE"));
    }
    membership::resync(pipeline, tables, reason).await
}

/// Has one key of a Redis server looked at.
pub async fn sync_key(
    pipeline: &Pipeline,
    database: u32,
    key: &[u8],
    reason: Option<&str>,
) -> Result<KeySync> {
    if pipeline.way() != Way::FromRedis {
        let what =
            format!("the source of pipeline \"{}\" is no Redis server, and has no keys", pipeline.name);
        return Err(Error::config(what).hint("name tables: pgdiode resync SCHEMA.TABLE"));
    }
    keyspace::verbs::sync_key(pipeline, database, key, reason).await
}

/// The key of a Redis server that stands for an id, such as a session's: its database and name.
pub fn key_of(pipeline: &Pipeline, id: &str) -> Result<(u32, Vec<u8>)> {
    let key = pipeline.mapper.as_ref().and_then(|mapper| mapper.key_of(id.as_bytes()));
    key.map(|key| (key.database, key.name.to_vec())).ok_or_else(|| {
        let what = format!("no keys of pipeline \"{}\" are told apart by one id", pipeline.name);
        Error::config(what).hint("name the key itself: pgdiode resync --key")
    })
}

/// The id that a key stands for, the other way round.
pub fn id_of(pipeline: &Pipeline, key: &str) -> Option<String> {
    let id = pipeline.mapper.as_ref()?.id_of(key.as_bytes())?;
    String::from_utf8(id.to_vec()).ok()
}

/// The SQL that was run at the source.
pub async fn add_tables(
    pipeline: &Pipeline,
    tables: &[TableName],
    reason: Option<&str>,
) -> Result<Vec<String>> {
    pipeline.refuse_snapshot("add-tables", TABLES_BY_CONFIGURATION)?;
    if pipeline.way() == Way::FromArchive {
        return replay::add(pipeline, tables, reason).await;
    }
    keyspace::verbs::refuse_tables(pipeline, "add-tables")?;
    membership::add(pipeline, tables, reason).await
}

/// The SQL that was run at the source.
pub async fn remove_tables(
    pipeline: &Pipeline,
    tables: &[TableName],
    reason: Option<&str>,
) -> Result<Vec<String>> {
    pipeline.refuse_snapshot("remove-tables", TABLES_BY_CONFIGURATION)?;
    if pipeline.way() == Way::FromArchive {
        return replay::remove(pipeline, tables, reason).await;
    }
    keyspace::verbs::refuse_tables(pipeline, "remove-tables")?;
    membership::remove(pipeline, tables, reason).await
}

/// Every ordinary table of the source, carried or not.
pub async fn list_tables(pipeline: &Pipeline) -> Result<Vec<TableListing>> {
    pipeline.refuse_snapshot("list-tables", "What the last sync copied: pgdiode status --json.")?;
    if pipeline.way() == Way::FromArchive {
        return replay::list(pipeline).await;
    }
    if pipeline.way() == Way::FromRedis {
        return keyspace::verbs::list(pipeline).await;
    }
    membership::list(pipeline).await
}

/// The SQL that would be run at each side.
pub async fn reset_plan(pipeline: &Pipeline, reset: Reset) -> Result<Vec<String>> {
    match pipeline.mode {
        Mode::Snapshot => Err(no_reset(pipeline)),
        Mode::Stream if pipeline.way() == Way::FromArchive => replay::reset_plan(pipeline, reset).await,
        Mode::Stream if pipeline.way() == Way::FromRedis => {
            keyspace::verbs::reset_plan(pipeline, reset).await
        }
        Mode::Stream => reset::plan(pipeline, reset).await,
        Mode::Subscription => subscription::reset_plan(pipeline, reset).await,
    }
}

/// The SQL that was run at each side.
pub async fn reset(pipeline: &Pipeline, reset: Reset, reason: Option<&str>) -> Result<Vec<String>> {
    match pipeline.mode {
        Mode::Snapshot => Err(no_reset(pipeline)),
        Mode::Stream if pipeline.way() == Way::FromArchive => replay::reset(pipeline, reset, reason).await,
        Mode::Stream if pipeline.way() == Way::FromRedis => {
            keyspace::verbs::reset(pipeline, reset, reason).await
        }
        Mode::Stream => reset::reset(pipeline, reset, reason).await,
        Mode::Subscription => subscription::reset(pipeline, reset, reason).await,
    }
}

/// A session with the database that holds the log.
pub(crate) async fn audit_session(pipeline: &Pipeline) -> Result<Session> {
    match pipeline.mode {
        Mode::Snapshot => snapshot::audit_session(pipeline).await,
        Mode::Stream | Mode::Subscription if matches!(pipeline.way(), Way::FromArchive | Way::FromRedis) => {
            TargetEnd::resolve(pipeline)?.session().await
        }
        Mode::Stream | Mode::Subscription => Ends::resolve(pipeline)?.target().await,
    }
}

/// Checks the audit log of the target; it must lead through a known head, and through each signed checkpoint.
pub async fn audit_verify(pipeline: &Pipeline, known: Option<audit::Head>) -> Result<audit::Report> {
    let kept = Checkpoints::of(&pipeline.name, &pipeline.audit)?;
    let signed = kept.map_or(Ok(Vec::new()), |kept| kept.all())?;
    let known = known.into_iter().chain(signed.iter().map(Checkpoint::head));
    let report = audit::verify(&mut audit_session(pipeline).await?, known).await?;
    Ok(audit::Report { checkpoints: checkpoint::summary(&signed), ..report })
}

/// Checks it in the same way and signs its head; `None` where the log has no entries.
pub async fn audit_checkpoint(pipeline: &Pipeline) -> Result<Option<Checkpoint>> {
    let Some(checkpoints) = Checkpoints::of(&pipeline.name, &pipeline.audit)? else {
        return Err(Error::config("nobody signs the audit log")
            .hint("name a key with audit.signing_key, or --signing-key"));
    };
    checkpoints.make(&mut audit_session(pipeline).await?).await
}

/// Hands on every entry of the target's audit log, of all its pipelines.
pub async fn audit_export(pipeline: &Pipeline, each: impl FnMut(&audit::Record) -> Result<()>) -> Result<()> {
    audit::export(&mut audit_session(pipeline).await?, each).await
}

/// The latest entries, the oldest of them first.
pub async fn audit_latest(pipeline: &Pipeline, count: u32) -> Result<Vec<audit::Record>> {
    audit::latest(&mut audit_session(pipeline).await?, count).await
}
