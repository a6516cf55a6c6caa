//! Pipelines: how they do, and what is to be done with them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::request::{Body, Query, Why, order, reason, seen};
use crate::config::Mode;
use crate::daemon::{Order, on_its_own};
use crate::http::access::{Right, Visitor};
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::status::fleet::{self, Fleet, Health, Overview, Sample};
use crate::status::{CheckReport, Phase};
use crate::{audit, pipeline, snapshot};

/// What of a pipeline a list shows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Summary {
    name: String,
    mode: String,
    #[schema(value_type = String)]
    health: Health,
    verdict: String,
    since: String,
    #[schema(value_type = String)]
    duty: fleet::Duty,
    #[schema(value_type = Option<String>)]
    phase: Option<Phase>,
    source: String,
    target: String,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    /// Of a snapshot pipeline.
    replica_age_seconds: Option<u64>,
    paused: bool,
    /// What somebody asked for and is under way, by id.
    runs: Vec<String>,
}

impl Summary {
    pub(super) fn of(one: &Overview) -> Summary {
        let (lag_bytes, lag_seconds) = one.lag();
        Summary {
            name: one.name.clone(),
            mode: one.mode.clone(),
            health: one.health,
            verdict: one.verdict.clone(),
            since: one.since.clone(),
            duty: one.duty,
            phase: one.progress.as_ref().map(|live| live.phase).or_else(|| one.phase()),
            source: one.source.clone(),
            target: one.target.clone(),
            lag_bytes,
            lag_seconds,
            replica_age_seconds: one
                .snapshot()
                .and_then(|status| status.serving.as_ref())
                .and_then(|serving| serving.age_seconds),
            paused: one.paused.is_some(),
            runs: one.runs.iter().map(|run| run.id.clone()).collect(),
        }
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// `healthy`, `working`, `paused`, `attention` or `failed`.
    health: Option<String>,
    /// A part of the name.
    name: Option<String>,
}

/// Every pipeline in short
#[utoipa::path(get, path = "/api/v1/pipelines", tag = "pipelines", params(Filter),
    responses((status = 200, body = Vec<Summary>)))]
pub(super) async fn list(
    State(door): State<Door>,
    visitor: Visitor,
    Query(filter): Query<Filter>,
) -> impl IntoResponse {
    let is_wanted = |one: &Overview| {
        visitor.sees(&one.name)
            && filter.name.as_ref().is_none_or(|part| one.name.contains(part.as_str()))
            && filter.health.as_ref().is_none_or(|health| one.health.word() == health)
    };
    let listing = door.listings.of(&door.fleet());
    let is_whole = visitor.pipelines.is_none() && filter.name.is_none() && filter.health.is_none();
    let text = if is_whole { listing.all() } else { listing.of_those(is_wanted) };
    ([(header::CONTENT_TYPE, "application/json")], text)
}

/// Everything that is known, of all pipelines
#[utoipa::path(get, path = "/api/v1/fleet", tag = "pipelines", responses((status = 200, body = Object)))]
pub(super) async fn fleet(State(door): State<Door>, visitor: Visitor) -> Json<Arc<Fleet>> {
    Json(door.fleet_of(&visitor))
}

/// Everything that is known of a pipeline
#[utoipa::path(get, path = "/api/v1/pipelines/{name}", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, body = Object)))]
pub(super) async fn show(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<Arc<Overview>>, Problem> {
    seen(&door, &visitor, &name).map(Json)
}

/// Its tables, with state and counts
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/tables", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, body = Vec<Object>)))]
pub(super) async fn tables(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let one = seen(&door, &visitor, &name)?;
    Ok(Json(match &one.state {
        Some(fleet::State::Stream(status)) => json!(status.tables),
        _ => json!(
            one.storage.as_ref().map(|storage| &storage.tables).into_iter().flatten().collect::<Vec<_>>()
        ),
    }))
}

/// What was measured in the last day
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/samples", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, body = Vec<Object>)))]
pub(super) async fn samples(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<Arc<Vec<Sample>>>, Problem> {
    Ok(Json(Arc::clone(&seen(&door, &visitor, &name)?.samples)))
}

/// In what the schemas of both sides differ, as they were compared last; null before that
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/drift", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, body = Option<Object>)))]
pub(super) async fn drift(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(json!(seen(&door, &visitor, &name)?.schema_drift)))
}

/// Have the schemas of both sides compared now; what comes of it is at the same address some seconds later
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/drift", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 202, body = Object)))]
pub(super) async fn compare(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    compare_schemas(&door, &visitor, &name)?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "asked": true }))))
}

/// Has schemas compared: it changes nothing, and costs both servers something.
pub(in crate::http) fn compare_schemas(door: &Door, visitor: &Visitor, name: &str) -> Result<(), Problem> {
    visitor.must(Right::Act)?;
    seen(door, visitor, name)?;
    Ok(door.daemon.compare_schemas(name)?)
}

/// What would fail, looked for now
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/check", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, body = Object)))]
pub(super) async fn check(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<CheckReport>, Problem> {
    seen(&door, &visitor, &name)?;
    let pipeline = door.daemon.pipeline(&name)?;
    let report = on_its_own("check", async move || pipeline::check(&pipeline).await).await?;
    Ok(Json(report))
}

/// Copies that are kept, the one that serves first
#[utoipa::path(get, path = "/api/v1/pipelines/{name}/generations", tag = "pipelines", params(("name" = String, Path)),
    responses((status = 200, body = Vec<Object>)))]
pub(super) async fn generations(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    seen(&door, &visitor, &name)?;
    let pipeline = door.daemon.pipeline(&name)?;
    if pipeline.mode != Mode::Snapshot {
        return Ok(Json(json!([])));
    }
    let all = on_its_own("generations", async move || snapshot::generations(&pipeline).await).await?;
    Ok(Json(json!(all)))
}

// ---- orders ----

#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SyncOrder {
    #[schema(max_length = 2000)]
    reason: Option<String>,
    /// Replace a database that is not empty and that no sync has made; it is kept.
    adopt: bool,
    /// Swap although tables have lost more rows than they may.
    accept_losses: bool,
}

/// Sync now
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/sync", tag = "orders", params(("name" = String, Path)),
    request_body = Option<SyncOrder>,
    responses((status = 202, body = Object)))]
pub(super) async fn sync(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(body): Body<SyncOrder>,
) -> Result<Response, Problem> {
    let what = Order::Sync { adopt: body.adopt, accept_losses: body.accept_losses };
    order(&door, &visitor, &name, what, body.reason, &headers).await
}

#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TablesOrder {
    #[schema(max_length = 2000)]
    reason: Option<String>,
    /// `schema.table`, as the configuration has them.
    tables: Vec<String>,
}

/// Compare both sides
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/verify", tag = "orders", params(("name" = String, Path)),
    request_body = Option<TablesOrder>,
    responses((status = 202, body = Object)))]
pub(super) async fn verify(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(body): Body<TablesOrder>,
) -> Result<Response, Problem> {
    order(&door, &visitor, &name, Order::Verify { tables: body.tables }, body.reason, &headers).await
}

/// Copy tables again
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/resync", tag = "orders", params(("name" = String, Path)),
    request_body = Option<TablesOrder>,
    responses((status = 202, body = Object)))]
pub(super) async fn resync(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(body): Body<TablesOrder>,
) -> Result<Response, Problem> {
    order(&door, &visitor, &name, Order::Resync { tables: body.tables }, body.reason, &headers).await
}

#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RollbackOrder {
    #[schema(max_length = 2000)]
    reason: Option<String>,
    /// Left out: the one before the one that serves.
    generation: Option<i64>,
}

/// Put an older copy back
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/rollback", tag = "orders", params(("name" = String, Path)),
    request_body = Option<RollbackOrder>,
    responses((status = 202, body = Object)))]
pub(super) async fn rollback(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(body): Body<RollbackOrder>,
) -> Result<Response, Problem> {
    let what = Order::Rollback { generation: body.generation };
    order(&door, &visitor, &name, what, body.reason, &headers).await
}

/// Keep it from running, here and elsewhere
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/pause", tag = "orders", params(("name" = String, Path)),
    request_body = Option<Why>,
    responses((status = 200, body = Object)))]
pub(super) async fn pause(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    Body(why): Body<Why>,
) -> Result<Json<Value>, Problem> {
    set_paused(&door, &visitor, &name, why.reason, true).await?;
    Ok(Json(json!({ "paused": true })))
}

/// Let it run again
#[utoipa::path(post, path = "/api/v1/pipelines/{name}/resume", tag = "orders", params(("name" = String, Path)),
    request_body = Option<Why>,
    responses((status = 200, body = Object)))]
pub(super) async fn resume(
    State(door): State<Door>,
    visitor: Visitor,
    Path(name): Path<String>,
    Body(why): Body<Why>,
) -> Result<Json<Value>, Problem> {
    set_paused(&door, &visitor, &name, why.reason, false).await?;
    Ok(Json(json!({ "paused": false })))
}

/// Pauses a pipeline or lets it run.
pub(in crate::http) async fn set_paused(
    door: &Door,
    visitor: &Visitor,
    name: &str,
    why: Option<String>,
    is_paused: bool,
) -> Result<(), Problem> {
    visitor.must(Right::Act)?;
    seen(door, visitor, name)?;
    let (why, actor, name, daemon) = (reason(why)?, visitor.actor(), name.to_owned(), door.daemon.clone());
    let work = async move || {
        let why = why.as_deref();
        let work = async {
            if is_paused { daemon.pause(&name, why).await } else { daemon.resume(&name, why).await }
        };
        audit::acting_as(actor, work).await
    };
    Ok(on_its_own("pausing", work).await?)
}

// ---- the daemon itself ----

/// The configuration that counts, with every secret as set or unset
#[utoipa::path(get, path = "/api/v1/configuration", tag = "daemon", responses((status = 200, body = Vec<Object>)))]
pub(super) async fn configuration(State(door): State<Door>, visitor: Visitor) -> Json<Value> {
    Json(json!(door.configuration_of(&visitor)))
}

/// Read the configuration again; pipelines that it does not change go on undisturbed
#[utoipa::path(post, path = "/api/v1/reload", tag = "daemon",
    responses((status = 200, body = Object)))]
pub(super) async fn reload(State(door): State<Door>, visitor: Visitor) -> Result<Json<Value>, Problem> {
    visitor.must(Right::Act)?;
    if visitor.pipelines.is_some() {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "That is not yours to do",
            "this token is for some pipelines alone, and the configuration is of all",
        ));
    }
    tracing::info!(actor = visitor.actor(), "reloading the configuration");
    Ok(Json(json!(door.reload().await?)))
}
