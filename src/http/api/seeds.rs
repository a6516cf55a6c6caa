//! Routes that other programs know already: a sync by hand, how syncing does, one session, and both sides' sessions
//! compared. They speak of the only pipeline they can mean, or of the one that `?pipeline=` names.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::request::{Body, Query, Why, order, seen};
use crate::config::{Mode, Pipeline, Way};
use crate::daemon::{Order, on_its_own};
use crate::http::access::{Right, Visitor};
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::pipeline;
use crate::status::Phase;
use crate::status::fleet::{self, Health, Overview};
use crate::status::keys::{KeyDifference, KeyDifferenceKind, KeysReport};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Needed where several pipelines could be meant.
    pipeline: Option<String>,
}

/// The one that is meant, among those that fit.
fn meant(
    door: &Door,
    visitor: &Visitor,
    which: &Which,
    fits: fn(&Pipeline) -> bool,
) -> Result<String, Problem> {
    if let Some(name) = &which.pipeline {
        return seen(door, visitor, name).map(|one| one.name.clone());
    }
    let names = door.daemon.names().into_iter().filter(|name| visitor.sees(name));
    let fit: Vec<String> =
        names.filter(|name| door.daemon.pipeline(name).is_ok_and(|pipeline| fits(&pipeline))).collect();
    match fit.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-pipeline",
            "There is no such pipeline",
            "no pipeline is of the kind that this route is for",
        )
        .hint("the routes of every kind are under /api/v1/pipelines")),
        several => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "which-pipeline",
            "Several pipelines could be meant",
            format!("these could be meant: {}", several.join(", ")),
        )
        .hint("name one: ?pipeline=NAME")),
    }
}

fn is_synced(pipeline: &Pipeline) -> bool {
    pipeline.mode == Mode::Snapshot || pipeline.way() == Way::FromRedis
}

fn has_keys(pipeline: &Pipeline) -> bool {
    pipeline.way() == Way::FromRedis
}

/// Sync now
#[utoipa::path(post, path = "/api/v1/sync/manual", tag = "sync", params(Which), request_body = Option<Why>,
    responses((status = 202, body = Object)))]
pub(super) async fn manual(
    State(door): State<Door>,
    visitor: Visitor,
    Query(which): Query<Which>,
    headers: HeaderMap,
    Body(why): Body<Why>,
) -> Result<Response, Problem> {
    visitor.must(Right::Act)?;
    let name = meant(&door, &visitor, &which, is_synced)?;
    let what = Order::Sync { adopt: false, accept_losses: false };
    order(&door, &visitor, &name, what, why.reason, &headers).await
}

/// How syncing does.
// Those who ask know these names.
#[allow(clippy::struct_field_names)]
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SyncStatus {
    pipeline: String,
    /// It is not paused, and somebody runs it or keeps its schedule.
    sync_enabled: bool,
    /// The Redis server answered when it was asked last; null where there is none.
    redis_connected: Option<bool>,
    /// `running`, `syncing`, `paused`, `stopped` or `error`.
    service_status: String,
    verdict: String,
    /// Of a snapshot pipeline: when the last sync ended, as what, and why it failed.
    last_sync_at: Option<String>,
    last_sync_status: Option<String>,
    last_error: Option<String>,
    total_syncs: Option<u64>,
    failed_syncs: Option<u64>,
    /// Runs that are under way, by id.
    runs: Vec<String>,
}

/// How syncing does
#[utoipa::path(get, path = "/api/v1/sync/status", tag = "sync", params(Which),
    responses((status = 200, body = SyncStatus)))]
pub(super) async fn status(
    State(door): State<Door>,
    visitor: Visitor,
    Query(which): Query<Which>,
) -> Result<Json<SyncStatus>, Problem> {
    let name = meant(&door, &visitor, &which, is_synced)?;
    Ok(Json(told(&*seen(&door, &visitor, &name)?)))
}

fn told(one: &Overview) -> SyncStatus {
    let (status, snapshot) = (one.stream(), one.snapshot());
    let runs_elsewhere =
        one.duty == fleet::Duty::Standby || snapshot.is_some_and(|status| !status.kept_by.is_empty());
    let is_enabled = one.paused.is_none() && (one.duty == fleet::Duty::Active || runs_elsewhere);
    let is_syncing = snapshot.is_some_and(|status| status.running.is_some())
        || one.progress.as_ref().is_some_and(|live| live.phase == Phase::Copying);
    let service_status = match one.health {
        Health::Paused if one.paused.is_some() => "paused",
        Health::Paused => "stopped",
        Health::Failed => "error",
        _ if is_syncing => "syncing",
        _ if is_enabled || one.duty == fleet::Duty::Active => "running",
        _ => "stopped",
    };
    let last = snapshot.and_then(|status| status.last_run.as_ref());
    SyncStatus {
        pipeline: one.name.clone(),
        sync_enabled: is_enabled,
        redis_connected: status
            .and_then(|status| status.keys.as_ref())
            .map(|keys| keys.source_offset.is_some() && one.problem.is_none()),
        service_status: service_status.into(),
        verdict: one.verdict.clone(),
        last_sync_at: last.and_then(|run| run.ended.clone()),
        last_sync_status: snapshot.map(|_| match last.map(|run| run.verdict.as_str()) {
            None => "never".into(),
            Some("done") => "success".into(),
            Some(_) => "failed".into(),
        }),
        last_error: last
            .and_then(|run| run.error.clone())
            .or_else(|| one.problem.as_ref().map(|problem| problem.what.clone())),
        total_syncs: snapshot.map(|status| status.runs_done + status.runs_failed),
        failed_syncs: snapshot.map(|status| status.runs_failed),
        runs: one.runs.iter().map(|run| run.id.clone()).collect(),
    }
}

/// Look at one session's key now
#[utoipa::path(post, path = "/api/v1/sync/session/{id}", tag = "sync", params(("id" = String, Path), Which),
    request_body = Option<Why>,
    responses((status = 202, body = Object)))]
pub(super) async fn session(
    State(door): State<Door>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(which): Query<Which>,
    headers: HeaderMap,
    Body(why): Body<Why>,
) -> Result<Response, Problem> {
    visitor.must(Right::Act)?;
    let name = meant(&door, &visitor, &which, has_keys)?;
    let pipeline = door.daemon.pipeline(&name)?;
    let (database, key) = pipeline::key_of(&pipeline, &id)?;
    order(&door, &visitor, &name, Order::Key { database, key }, why.reason, &headers).await
}

/// Both sides' sessions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Compared {
    pipeline: String,
    identical: bool,
    /// Sessions that the Redis server has.
    redis_sessions: u64,
    /// Of them, those that the database has too, whatever it holds of them.
    both: u64,
    /// Ids of sessions; the first 300 differences are told.
    missing_in_database: Vec<String>,
    missing_in_redis: Vec<String>,
    different: Vec<String>,
    differences_total: u64,
    /// Sessions that were written to each time: nothing can be said of them.
    unsettled: u64,
    seconds: f64,
}

/// Compare the sessions of both sides
#[utoipa::path(get, path = "/api/v1/sync/sessions/compare", tag = "sync", params(Which),
    responses((status = 200, body = Compared)))]
pub(super) async fn compare(
    State(door): State<Door>,
    visitor: Visitor,
    Query(which): Query<Which>,
) -> Result<Json<Compared>, Problem> {
    let name = meant(&door, &visitor, &which, has_keys)?;
    let pipeline = door.daemon.pipeline(&name)?;
    let asked = std::sync::Arc::clone(&pipeline);
    let report = on_its_own("compare", async move || pipeline::verify_keys(&asked).await).await?;
    Ok(Json(compared(&pipeline, &report)))
}

fn compared(pipeline: &Pipeline, report: &KeysReport) -> Compared {
    let ids = |is_meant: fn(KeyDifferenceKind) -> bool| {
        let differences = report.differences.iter().filter(|one| is_meant(one.kind));
        let mut ids: Vec<String> = differences.map(|one| id_of(pipeline, one)).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    let missing = ids(|kind| kind == KeyDifferenceKind::KeyMissing);
    Compared {
        pipeline: pipeline.name.clone(),
        identical: report.identical,
        redis_sessions: report.keys,
        both: report.keys.saturating_sub(missing.len() as u64),
        missing_in_database: missing,
        missing_in_redis: ids(|kind| {
            matches!(kind, KeyDifferenceKind::KeyExtra | KeyDifferenceKind::RowOfNoKey)
        }),
        different: ids(|kind| {
            use KeyDifferenceKind::{OtherValues, RowExtra, RowMissing};
            matches!(kind, OtherValues | RowExtra | RowMissing)
        }),
        differences_total: report.differences_total,
        unsettled: report.unsettled,
        seconds: report.seconds,
    }
}

/// A session's id; of a key of another kind or a row of no key, what it is called.
fn id_of(pipeline: &Pipeline, difference: &KeyDifference) -> String {
    let named = |key: &String| pipeline::id_of(pipeline, key).unwrap_or_else(|| key.clone());
    difference.key.as_ref().map(named).or_else(|| difference.row.clone()).unwrap_or_default()
}
