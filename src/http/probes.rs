//! What watches the process asks: probes, and Prometheus.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};

use super::access::Visitor;
use super::door::Door;
use super::metrics;

/// Whether the process is alive, ready, and has started: anybody may ask.
pub(super) fn router() -> Router<Door> {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/startupz", get(started))
        .route("/metrics", get(scrape))
}

async fn ready(State(door): State<Door>) -> impl IntoResponse {
    if *door.ending().borrow() {
        (StatusCode::SERVICE_UNAVAILABLE, "ending\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// Once each pipeline was asked how it does, or could not be.
async fn started(State(door): State<Door>) -> impl IntoResponse {
    let waits =
        door.fleet().pipelines.iter().filter(|one| one.asked_at.is_none() && one.problem.is_none()).count();
    if waits == 0 {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{waits} pipelines have not been asked yet\n"))
    }
}

/// Where it takes no signing in there is no visitor, and nothing that would be kept from one.
async fn scrape(
    State(door): State<Door>,
    visitor: Option<Extension<Visitor>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let fleet = visitor.map_or_else(|| door.fleet(), |Extension(visitor)| door.fleet_of(&visitor));
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = metrics::Format::accepted(accepted);
    ([(header::CONTENT_TYPE, format.content_type())], metrics::render(&fleet, format))
}
