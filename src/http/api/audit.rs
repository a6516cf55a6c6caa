//! The audit log of a pipeline's target.

use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::request::{Query, seen};
use crate::audit::{Record, Report};
use crate::daemon::on_its_own;
use crate::error::Error;
use crate::http::access::{Right, Visitor};
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::pipeline;

const LATEST: u32 = 100;
const LATEST_MAX: u32 = 1000;
/// Lines that wait for whoever reads an export.
const LINES_WAITING_MAX: usize = 256;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Count {
    /// How many of the latest entries, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The latest entries, the oldest of them first
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/audit", tag = "audit", params(("name" = String, Path), Count),
    responses((status = 200, body = Vec<Object>)))]
pub(super) async fn list(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    Query(count): Query<Count>,
) -> Result<Json<Value>, Problem> {
    let limit = count.limit.unwrap_or(LATEST);
    if !(1..=LATEST_MAX).contains(&limit) {
        let what = format!("limit={limit} is not from 1 to {LATEST_MAX}");
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "unfit-query",
            "The query is not what is wanted",
            what,
        ));
    }
    let entries = latest(&door, &visitor, &name, limit).await?;
    Ok(Json(json!(entries)))
}

/// The latest entries that a visitor may see: of the pipelines in its scope.
pub(in crate::http) async fn latest(
    door: &Door,
    visitor: &Visitor,
    name: &str,
    count: u32,
) -> Result<Vec<Record>, Problem> {
    visitor.must(Right::Audit)?;
    seen(door, visitor, name)?;
    let pipeline = door.daemon.pipeline(name)?;
    let entries = on_its_own("audit", async move || pipeline::audit_latest(&pipeline, count).await).await;
    let mut entries = match entries {
        // Nothing was ever done.
        Err(error) if error.kind() == crate::error::Kind::Refused => Vec::new(),
        entries => entries?,
    };
    entries.retain(|entry| visitor.sees(&entry.pipeline));
    Ok(entries)
}

/// Whether the chain of entries is whole
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/audit/verify", tag = "audit", params(("name" = String, Path)),
    responses((status = 200, body = Object)))]
pub(super) async fn verify(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<Report>, Problem> {
    verified(&door, &visitor, &name).await.map(Json)
}

pub(in crate::http) async fn verified(door: &Door, visitor: &Visitor, name: &str) -> Result<Report, Problem> {
    visitor.must(Right::Audit)?;
    seen(door, visitor, name)?;
    let pipeline = door.daemon.pipeline(name)?;
    Ok(on_its_own("audit", async move || pipeline::audit_verify(&pipeline, None).await).await?)
}

/// Every entry, one JSON object a line; `pgdiode audit verify FILE` checks such a file
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/audit/export", tag = "audit", params(("name" = String, Path)),
    responses((status = 200, content_type = "application/jsonl", body = String)))]
pub(in crate::http) async fn export(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    visitor.must(Right::Audit)?;
    seen(&door, &visitor, &name)?;
    if visitor.pipelines.is_some() {
        let what =
            "the log is one chain of all pipelines of its database, and this token is for some of them";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "That is not yours to see", what));
    }
    let pipeline = door.daemon.pipeline(&name)?;
    let (sender, mut lines) = mpsc::channel::<Result<Vec<u8>, Error>>(LINES_WAITING_MAX);
    tokio::spawn(on_its_own("audit export", async move || {
        let pass_on = |line| tokio::task::block_in_place(|| sender.blocking_send(line));
        let exported = pipeline::audit_export(&pipeline, |record| {
            let mut line = serde_json::to_vec(record)
                .map_err(|error| Error::unexpected("an entry is no JSON").because(error))?;
            line.push(b'\n');
            pass_on(Ok(line)).map_err(|_| Error::unexpected("nobody reads the export any more"))
        });
        if let Err(error) = exported.await {
            // The answer breaks off, so that a part is not taken for the whole.
            let _ = pass_on(Err(error));
        }
        Ok(())
    }));
    // Where there is nothing to export, that is the answer.
    let first = lines.recv().await.transpose()?;
    let stream = async_stream::stream! {
        if let Some(line) = first {
            yield Ok(line);
        }
        while let Some(line) = lines.recv().await {
            yield line.map_err(|error| io::Error::other(error.chain()));
        }
    };
    let disposition = format!("attachment; filename=\"audit-{name}.jsonl\"");
    let headers =
        [(header::CONTENT_TYPE, "application/jsonl".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(stream)).into_response())
}
