//! What a request brings, understood: its body and query, which pipeline it means, and what is to be done with that.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::config::unknown_pipeline;
use crate::daemon::{Answer, Order, Orderer};
use crate::error::Error;
use crate::http::access::{Right, Visitor};
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::status::fleet::Overview;

/// What no request's body is longer than.
const BODY_BYTES_MAX: usize = 64 * 1024;
const KEY_BYTES_MAX: usize = 200;
const REASON_CHARACTERS_MAX: usize = 2000;

/// A JSON body; nothing at all stands for `{}`.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
                "no request needs so much",
            )
        })?;
        let bytes = if bytes.is_empty() { "{}".into() } else { bytes };
        // A list would pass for an object with its fields in this order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(unfit(StatusCode::UNPROCESSABLE_ENTITY, "the body is a list and no object".into()));
        }
        let mut request = Request::from_parts(parts, body::Body::from(bytes));
        request
            .headers_mut()
            .entry(header::CONTENT_TYPE)
            .or_insert(header::HeaderValue::from_static("application/json"));
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Body(value)),
            Err(rejection) => Err(unfit(rejection.status(), rejection.body_text())),
        }
    }
}

fn unfit(status: StatusCode, what: String) -> Problem {
    Problem::new(status, "unfit-body", "The body is not what is wanted", what)
        .hint("send application/json as /openapi.json describes it")
}

/// Query parameters of the API; wrong ones are a problem like any other.
pub(super) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> axum::extract::FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Query(query)),
            Err(rejection) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "unfit-query",
                "The query is not what is wanted",
                rejection.body_text(),
            )),
        }
    }
}

/// Why something is done.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// For the audit log.
    #[schema(max_length = 2000)]
    pub reason: Option<String>,
}

/// A pipeline, if the visitor may see it. Others do not exist for them.
pub(in crate::http) fn seen(
    door: &Door,
    visitor: &Visitor,
    name: &str,
) -> Result<std::sync::Arc<Overview>, Problem> {
    let found = door.fleet().pipelines.iter().find(|one| one.name == name && visitor.sees(name)).cloned();
    found.ok_or_else(|| no_pipeline(door, visitor, name))
}

fn no_pipeline(door: &Door, visitor: &Visitor, name: &str) -> Problem {
    let names: Vec<String> = door.daemon.names().into_iter().filter(|name| visitor.sees(name)).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = unknown_pipeline(name, &known);
    let problem =
        Problem::new(StatusCode::NOT_FOUND, "no-such-pipeline", "There is no such pipeline", error.what());
    problem.hint(error.hint_text().unwrap_or_default())
}

/// A reason that the audit log can hold, without the blanks around it.
pub(super) fn reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    let Some(reason) = reason else { return Ok(None) };
    // As it came: blanks count too, as the description has it.
    if reason.chars().count() > REASON_CHARACTERS_MAX {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "reason-too-long",
            "The reason is too long",
            format!("a reason has at most {REASON_CHARACTERS_MAX} characters"),
        ));
    }
    // PostgreSQL's text cannot hold it.
    if reason.contains('\0') {
        return Err(unfit(StatusCode::UNPROCESSABLE_ENTITY, "the reason has a NUL character in it".into()));
    }
    Ok(Some(reason.trim().to_owned()).filter(|reason| !reason.is_empty()))
}

/// Has something done, and answers where it can be watched.
pub(super) async fn order(
    door: &Door,
    visitor: &Visitor,
    name: &str,
    order: Order,
    why: Option<String>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let id = ordered(door, visitor, name, order, "api", why, idempotency_key(headers)?).await?;
    let run = door.daemon.run(&id).await?;
    let run = run.ok_or_else(|| Problem::of(&Error::unexpected("the run is gone")))?;
    let location = format!("/api/v1/runs/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(run)).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "unfit-idempotency-key",
            "The idempotency key is not fit",
            format!("Idempotency-Key has 1 to {KEY_BYTES_MAX} printable characters"),
        )),
    }
}

/// Has something done; the id of its run.
pub(in crate::http) async fn ordered(
    door: &Door,
    visitor: &Visitor,
    name: &str,
    order: Order,
    by: &'static str,
    why: Option<String>,
    idempotency_key: Option<String>,
) -> Result<String, Problem> {
    visitor.must(Right::Act)?;
    seen(door, visitor, name)?;
    // Two visitors' keys are not the same.
    let idempotency_key = idempotency_key.map(|key| format!("{} {key}", visitor.name));
    let orderer = Orderer { by, actor: visitor.actor(), reason: reason(why)?, idempotency_key };
    let conflict =
        |word: &str, title: &str, what: String| Problem::new(StatusCode::CONFLICT, word, title, what);
    match door.daemon.order(name, order, orderer).await? {
        Answer::Run(id) => Ok(id),
        Answer::Busy(id) => {
            let instance = format!("/api/v1/runs/{id}");
            let what = format!("the same is under way for pipeline \"{name}\"");
            Err(conflict("busy", "It is under way already", what)
                .hint("wait for it, or cancel it")
                .with("run", id)
                .instance(instance))
        }
        Answer::BusyElsewhere(who) => {
            Err(conflict("busy", "It is under way already", who).hint("wait until it has ended"))
        }
        Answer::Misused => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The idempotency key stands for something else",
            "this key came with another request before",
        )),
        Answer::Paused(pause) => {
            let what = format!("pipeline \"{name}\" is paused by {} since {}", pause.actor, pause.since);
            let paused = Problem::new(StatusCode::LOCKED, "paused", "The pipeline is paused", what);
            Err(paused.hint("resume it first").with("pause", json!(pause)))
        }
    }
}
