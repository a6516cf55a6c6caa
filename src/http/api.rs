//! The REST API under `/api/v1`, as `/openapi.json` describes it.
//!
//! An answer is the plain data that the command line prints with `--json`; what goes wrong is a [`Problem`]. What takes
//! a while is answered with 202 and the address of its run.
//!
//! [`Problem`]: super::problem::Problem

mod audit;
mod events;
mod listing;
mod openapi;
mod pipelines;
mod request;
mod runs;
mod seeds;

use axum::Router;
use axum::routing::{get, post};

use super::door::Door;

pub(super) use audit::{latest as audit_latest, verified as audit_verified};
pub(super) use events::of_fleet;
pub(super) use listing::Listings;
pub use openapi::document;
pub(super) use pipelines::{compare_schemas, set_paused};
pub(super) use request::{ordered, seen};
pub(super) use runs::{cancelled, found as run_found, seen as run_seen};

/// Every route.
pub(super) fn router() -> Router<Door> {
    Router::new()
        .route("/openapi.json", get(openapi::show))
        .route("/api/v1/fleet", get(pipelines::fleet))
        .route("/api/v1/pipelines", get(pipelines::list))
        .route("/api/v1/pipelines/{name}", get(pipelines::show))
        .route("/api/v1/pipelines/{name}/tables", get(pipelines::tables))
        .route("/api/v1/pipelines/{name}/samples", get(pipelines::samples))
        .route("/api/v1/pipelines/{name}/drift", get(pipelines::drift).post(pipelines::compare))
        .route("/api/v1/pipelines/{name}/check", get(pipelines::check))
        .route("/api/v1/pipelines/{name}/generations", get(pipelines::generations))
        .route("/api/v1/pipelines/{name}/sync", post(pipelines::sync))
        .route("/api/v1/pipelines/{name}/verify", post(pipelines::verify))
        .route("/api/v1/pipelines/{name}/resync", post(pipelines::resync))
        .route("/api/v1/pipelines/{name}/rollback", post(pipelines::rollback))
        .route("/api/v1/pipelines/{name}/pause", post(pipelines::pause))
        .route("/api/v1/pipelines/{name}/resume", post(pipelines::resume))
        .route("/api/v1/pipelines/{name}/audit", get(audit::list))
        .route("/api/v1/pipelines/{name}/audit/export", get(audit::export))
        .route("/api/v1/pipelines/{name}/audit/verify", post(audit::verify))
        .route("/api/v1/runs", get(runs::list))
        .route("/api/v1/runs/{id}", get(runs::show))
        .route("/api/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/api/v1/runs/{id}/events", get(events::of_run))
        .route("/api/v1/events", get(events::of_fleet))
        .route("/api/v1/configuration", get(pipelines::configuration))
        .route("/api/v1/reload", post(pipelines::reload))
        .route("/api/v1/sync/manual", post(seeds::manual))
        .route("/api/v1/sync/status", get(seeds::status))
        .route("/api/v1/sync/session/{id}", post(seeds::session))
        .route("/api/v1/sync/sessions/compare", get(seeds::compare))
}
