//! What was asked for and takes a while.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::request::{Body, Query, Why, reason};
use crate::daemon::pipeline_of;
use crate::http::access::{Right, Visitor};
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::status::fleet::Run;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    pipeline: Option<String>,
}

/// What was asked for lately, the newest first
#[utoipa::path(get, path = "/api/v1/runs", tag = "runs", params(Filter),
    responses((status = 200, body = Vec<Object>)))]
pub(super) async fn list(
    State(door): State<Door>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> Json<Vec<Run>> {
    let mut runs = door.daemon.runs().list(filter.pipeline.as_deref());
    runs.retain(|run| visitor.sees(&run.pipeline));
    Json(runs)
}

/// A run of this process that the visitor may see.
pub(in crate::http) fn seen(door: &Door, visitor: &Visitor, id: &str) -> Result<Run, Problem> {
    let run = door.daemon.runs().run(id).filter(|run| visitor.sees(&run.pipeline));
    run.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Problem {
    let what = format!("no run \"{id}\" is known");
    Problem::new(StatusCode::NOT_FOUND, "no-such-run", "There is no such run", what)
        .hint("runs are known for 30 days; the audit log and the history of a snapshot pipeline stay")
}

/// A run that the visitor may see, of this process or of one before it.
pub(in crate::http) async fn found(door: &Door, visitor: &Visitor, id: &str) -> Result<Run, Problem> {
    // Nobody is asked about what is not theirs to see.
    if pipeline_of(id).is_none_or(|pipeline| !visitor.sees(pipeline)) {
        return seen(door, visitor, id);
    }
    door.daemon.run(id).await?.filter(|run| visitor.sees(&run.pipeline)).ok_or_else(|| unknown(id))
}

/// A run
#[utoipa::path(get, path = "/api/v1/runs/{id}", tag = "runs", params(("id" = String, Path)),
    responses((status = 200, body = Object)))]
pub(super) async fn show(
    State(door): State<Door>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Json<Run>, Problem> {
    found(&door, &visitor, &id).await.map(Json)
}

/// Ask a run to end
#[utoipa::path(post, path = "/api/v1/runs/{id}/cancel", tag = "runs", params(("id" = String, Path)),
    request_body = Option<Why>,
    responses((status = 202, body = Object)))]
pub(super) async fn cancel(
    State(door): State<Door>,
    visitor: Visitor,
    Path(id): Path<String>,
    Body(why): Body<Why>,
) -> Result<(StatusCode, Json<Run>), Problem> {
    cancelled(&door, &visitor, &id, why.reason)?;
    Ok((StatusCode::ACCEPTED, Json(seen(&door, &visitor, &id)?)))
}

/// Asks a run to end that has not.
pub(in crate::http) fn cancelled(
    door: &Door,
    visitor: &Visitor,
    id: &str,
    why: Option<String>,
) -> Result<(), Problem> {
    visitor.must(Right::Act)?;
    let run = seen(door, visitor, id)?;
    let why = reason(why)?;
    if door.daemon.runs().cancel(id) == Some(false) {
        let what = format!("the {} of pipeline \"{}\" has ended", run.verb, run.pipeline);
        return Err(Problem::new(StatusCode::CONFLICT, "ended", "It has ended already", what));
    }
    tracing::info!(actor = visitor.actor(), reason = why, "cancelling the {} of {}", run.verb, run.pipeline);
    Ok(())
}
