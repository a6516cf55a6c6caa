//! The status of a pipeline out of Redis: what the target has stored of it, and how far the server's history reaches.

use super::place;
use super::verbs::has_keyspace_tables;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::report;
use crate::redis::connection::Connection;
use crate::source::redis::server::Server;
use crate::status::{KeysStatus, PipelineStatus};

pub(in crate::pipeline) async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    let end = TargetEnd::resolve(pipeline)?;
    let location = place::location(pipeline)?;
    let mut target = end.session().await?;
    let mut status = report::of_target(&mut target, pipeline, location.display(), &end).await?;
    let Some(mut keys) = of_keys(&mut target, &pipeline.name).await? else { return Ok(status) };
    let asked = async {
        let mut connection =
            Connection::open(&location, &format!("pgdiode-{}-status", pipeline.name)).await?;
        Server::ask(&mut connection).await
    };
    match asked.await {
        Ok(server) => {
            let ours =
                server.filter(|server| keys.history.as_deref() == Some(server.replication_id.as_str()));
            keys.source_offset = ours.map(|server| server.offset);
        }
        Err(error) => status.notes.push(report::unreachable(&error)),
    }
    status.lag_bytes = keys.source_offset.map(|end| end.saturating_sub(keys.offset));
    status.keys = Some(keys);
    Ok(status)
}

/// What the target knows of keys; `None` before the first start.
async fn of_keys(target: &mut Session, pipeline: &str) -> Result<Option<KeysStatus>> {
    if !has_keyspace_tables(target).await? {
        return Ok(None);
    }
    let sql = "select p.replication_id, p.read_offset, p.is_scanned,
                      (select count(*) from pgdiode.keyspace_key k where k.pipeline = p.pipeline and k.hash is not null),
                      (select count(*) from pgdiode.keyspace_key k where k.pipeline = p.pipeline and k.hash is null),
                      (select count(*) from pgdiode.keyspace_misfit m where m.pipeline = p.pipeline)
                 from pgdiode.keyspace_position p where p.pipeline = $1";
    let rows = target.query_with(sql, &[Some(pipeline)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let keys = || -> Result<KeysStatus, Error> {
        Ok(KeysStatus {
            history: Some(row.string(0)).filter(|history| !history.is_empty()),
            offset: row.get(1)?,
            source_offset: None,
            is_scanned: row.bool(2),
            present: row.get(3)?,
            gone: row.get(4)?,
            misfits: row.get(5)?,
        })
    };
    keys().map(Some)
}
