//! Server-sent events: what changes, while somebody looks.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde_json::json;

use super::runs::seen;
use crate::http::access::Visitor;
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::status::fleet::RunState;

/// A proxy closes what is silent for longer.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Whoever looks is told this often, at most.
const TELL_EVERY: Duration = Duration::from_millis(500);

type Events<S> = Sse<axum::response::sse::KeepAliveStream<S>>;

/// An event `fleet` whenever something has changed
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(in crate::http) async fn of_fleet(
    State(door): State<Door>,
    _visitor: Visitor,
) -> Events<impl Stream<Item = Result<Event, Infallible>>> {
    let mut fleet = door.daemon.fleet();
    let mut ending = door.ending();
    let events = async_stream::stream! {
        let mut revision = 0_u64;
        loop {
            fleet.borrow_and_update();
            yield Ok(Event::default().event("fleet").id(revision.to_string()).data(json!({ "revision": revision }).to_string()));
            revision += 1;
            tokio::select! {
                changed = fleet.changed() => if changed.is_err() { break },
                _ = ending.wait_for(|ends| *ends) => break,
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    };
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE_EVERY))
}

/// A run, as an event `run` each time that it has changed; ends with it
#[utoipa::path(get, path = "/api/v1/runs/{id}/events", tag = "events", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn of_run(
    State(door): State<Door>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Events<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    seen(&door, &visitor, &id)?;
    let mut changes = door.daemon.runs().changes();
    let mut ending = door.ending();
    let events = async_stream::stream! {
        let mut last = String::new();
        loop {
            changes.borrow_and_update();
            let Some(run) = door.daemon.runs().run(&id) else { break };
            let is_over = !matches!(run.state, RunState::Running | RunState::Cancelling);
            let text = serde_json::to_string(&run).unwrap_or_default();
            if text != last {
                yield Ok(Event::default().event("run").data(&text));
                last = text;
            }
            if is_over {
                break;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                _ = ending.wait_for(|ends| *ends) => break,
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    };
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)))
}
