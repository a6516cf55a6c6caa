//! The status of a pipeline out of Redis: what the target has stored of it, and how far the server's history reaches.

use super::place;
use super::verbs::has_keyspace_tables;
use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::TargetEnd;
use crate::pipeline::report;
use crate::redis::connection::Connection;
use crate::source::redis::cluster::Nodes;
use crate::source::redis::server::Server;
use crate::status::{KeysStatus, NodeStatus, PipelineStatus};

pub(in crate::pipeline) async fn status(pipeline: &Pipeline) -> Result<PipelineStatus> {
    let end = TargetEnd::resolve(pipeline)?;
    let location = place::location(pipeline)?;
    let mut target = end.session().await?;
    let mut status = report::of_target(&mut target, pipeline, location.display(), &end).await?;
    let Some(mut keys) = of_keys(&mut target, &pipeline.name).await? else { return Ok(status) };
    let asked = async {
        let name = format!("pgdiode-{}-status", pipeline.name);
        if keys.nodes.is_empty() {
            let server = Server::ask(&mut Connection::open(&location, &name).await?).await?;
            let ours =
                server.filter(|server| keys.history.as_deref() == Some(server.replication_id.as_str()));
            keys.source_offset = ours.map(|server| server.offset);
            return Ok(());
        }
        let mut nodes = Nodes::open(&location, &name).await?;
        let ids: Vec<String> = nodes.primaries().map(|primary| primary.id.clone()).collect();
        for node in &mut keys.nodes {
            let Some(index) = ids.iter().position(|id| *id == node.id) else { continue };
            let server = Server::ask(nodes.connection(index)).await?;
            let ours = server.filter(|server| server.replication_id == node.history);
            node.source_offset = ours.map(|server| server.offset);
        }
        keys.source_offset = keys.nodes.iter().map(|node| node.source_offset).sum();
        Ok::<(), Error>(())
    };
    if let Err(error) = asked.await {
        status.notes.push(report::unreachable(&error));
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
    let sql = "select node, replication_id, read_offset, is_scanned from pgdiode.keyspace_position
                where pipeline = $1 order by node";
    let positions = target.query_with(sql, &[Some(pipeline)]).await?;
    let Some(first) = positions.first() else { return Ok(None) };
    let sql = "select count(*) filter (where hash is not null), count(*) filter (where hash is null),
                      (select count(*) from pgdiode.keyspace_misfit where pipeline = $1)
                 from pgdiode.keyspace_key where pipeline = $1";
    let counts = target.query_with(sql, &[Some(pipeline)]).await?;
    let Some(counts) = counts.first() else { return Ok(None) };
    let mut keys = KeysStatus {
        is_scanned: positions.iter().all(|row| row.bool(3)),
        present: counts.get(0)?,
        gone: counts.get(1)?,
        misfits: counts.get(2)?,
        ..KeysStatus::default()
    };
    for row in &positions {
        let offset: u64 = row.get(2)?;
        keys.offset += offset;
        if !row.string(0).is_empty() {
            keys.nodes.push(NodeStatus {
                id: row.string(0),
                history: row.string(1),
                offset,
                source_offset: None,
            });
        }
    }
    keys.history = Some(first.string(1)).filter(|history| keys.nodes.is_empty() && !history.is_empty());
    Ok(Some(keys))
}
