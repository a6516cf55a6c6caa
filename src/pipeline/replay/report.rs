//! The status of a pipeline from an archive: what the target has stored of it, and what is sealed by now.

use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::replay::desk::location;
use crate::pipeline::replay::{control, foreign, stored, verbs, whitelist};
use crate::pipeline::step::has_control_schema;
use crate::pipeline::{holder, report};
use crate::position::Lsn;
use crate::source::archive::Shelf;
use crate::status::syncdata::SyncdataStatus;
use crate::status::{ArchiveStatus, PipelineStatus};

pub async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    let end = TargetEnd::resolve(pipeline)?;
    let (location, _) = location(pipeline)?;
    let mut target = end.session().await?;
    let mut status = report::of_target(&mut target, pipeline, location.to_string(), &end).await?;
    let opened = match foreign::open(pipeline).await {
        Ok(Some(_)) => Ok(None),
        Ok(None) => verbs::open(pipeline).await.map(Some),
        Err(error) => Err(error),
    };
    let shelf = opened.map_err(|error| status.notes.push(report::unreachable(&error))).ok().flatten();
    if let Some(stored) = stored::read(&mut target, &pipeline.name).await? {
        status.archive = Some(of_archive(&mut target, pipeline, &stored, shelf.as_ref()).await?);
    }
    Ok(status)
}

async fn of_archive(
    target: &mut Session,
    pipeline: &Pipeline,
    stored: &stored::Stored,
    shelf: Option<&Shelf>,
) -> Result<ArchiveStatus> {
    let committed = target
        .query_with(
            "select pg_catalog.to_char(committed_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), lsn
               from pgdiode.position where pipeline = $1",
            &[Some(&pipeline.name)],
        )
        .await?;
    let row = committed.first();
    let position = row.map(|row| row.get(1)).transpose()?.unwrap_or(Lsn::ZERO);
    let (file, sealed) = match shelf {
        Some(shelf) => {
            whole(shelf, stored, position).await.map_or((None, None), |(file, later)| (file, Some(later)))
        }
        None => (stored.file.as_ref().map(|mark| mark.number), None),
    };
    let last_file = match &sealed {
        Some(later) => later.last().copied().or(file),
        None => stored.last_sealed,
    };
    let last_file_sealed_at = match (shelf, last_file) {
        (Some(shelf), Some(last)) => shelf.manifest(last).await.ok().flatten().map(|last| last.sealed),
        _ => None,
    };
    Ok(ArchiveStatus {
        archive: stored.archive.clone(),
        file,
        last_file,
        last_file_sealed_at,
        files_behind: sealed.map(|later| later.len() as u64),
        last_commit_at: row.and_then(|row| row.text(0)).map(str::to_owned),
    })
}

/// The last file that the target has wholly, and those behind it. The position tells: a file that had nothing for this
/// reader, or lies before its base, has left no mark.
async fn whole(shelf: &Shelf, stored: &stored::Stored, position: Lsn) -> Result<(Option<u64>, Vec<u64>)> {
    let mut file = stored.file.as_ref().map(|mark| mark.number);
    let mut later = shelf.sealed(file.unwrap_or(0)).await?;
    while let Some(&next) = later.first() {
        if shelf.manifest_of_listed(next).await?.to > position {
            break;
        }
        file = Some(later.remove(0));
    }
    Ok((file, later))
}

/// What syncdata says of itself; asks the target alone.
pub async fn syncdata_status(pipeline: &Pipeline) -> Result<SyncdataStatus> {
    let mut target = TargetEnd::resolve(pipeline)?.session().await?;
    let mut status =
        SyncdataStatus { frequency_seconds: pipeline.archive.poll_seconds, ..SyncdataStatus::default() };
    let running = holder::holder(&mut target, &pipeline.name).await?;
    status.is_active = running.is_some();
    status.start_time = running.map(|running| running.since);
    if has_control_schema(&mut target).await? {
        let sql = "select runs_at, retry_at is not null from pgdiode.pipeline where name = $1";
        let rows = target.query_with(sql, &[Some(&pipeline.name)]).await?;
        let last = rows.first().and_then(|row| row.text(0)).and_then(holder::parse);
        // Between two attempts a run holds no lock.
        status.is_active |= rows.first().is_some_and(|row| row.bool(1));
        status.start_time = status.start_time.or(last.map(|last| last.since));
    }
    let logs = control::logs(pipeline);
    let is_there = format!("select pg_catalog.to_regclass({}) is not null", quote::literal(&logs));
    if target.one(&is_there).await?.bool(0) {
        let sql = format!(
            "select pg_catalog.to_char(max(sync_time) filter (where status = 'SUCCESS') at time zone 'UTC',
                                       'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                    coalesce(sum(rows_synced) filter (where status = 'SUCCESS'), 0)::int8,
                    count(*) filter (where status = 'FAILED')
               from {logs}"
        );
        let row = target.one(&sql).await?;
        status.last_sync = row.text(0).map(str::to_owned);
        (status.records_synced, status.errors) = (row.get(1)?, row.get(2)?);
    }
    status.tables = whitelist::listed(&mut target, pipeline).await?;
    Ok(status)
}
