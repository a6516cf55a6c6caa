//! What went wrong, as the answer to a request: problem details as RFC 9457 has them, with the hint that the command
//! line gives too.
//!
//! A handler returns a [`Problem`], or any [`Error`] by `?`; programs are answered in JSON, and browsers with a page
//! that [`secure`](super::access::secure) makes of it.

use std::ops::Deref;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Kind};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// Boxed, since it is mostly what does not happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<Details>);

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct Details {
    /// Which problem it is, for programs: `/problems/` and a word that stays, relative to this server.
    #[serde(rename = "type")]
    pub kind: String,
    /// What that word says, for people; the same each time.
    pub title: String,
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where more is told of this very occurrence, such as a run's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Whatever else this kind of problem tells.
    #[serde(flatten)]
    #[schema(ignore)]
    pub members: Map<String, Value>,
    #[serde(skip)]
    #[schema(ignore)]
    headers: Vec<(&'static str, String)>,
}

impl Problem {
    /// `word` names the kind of problem and never changes: `locked`, `no-such-pipeline`.
    pub fn new(status: StatusCode, word: &str, title: &str, detail: impl Into<String>) -> Self {
        Problem(Box::new(Details {
            kind: format!("/problems/{word}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            hint: None,
            instance: None,
            members: Map::new(),
            headers: Vec::new(),
        }))
    }

    /// What the command line would have said, and ended with that error's exit status.
    pub fn of(error: &Error) -> Self {
        let (status, word, title) = named(error.kind());
        let mut problem = Problem::new(status, word, title, error.chain());
        problem.0.hint = error.hint_text().map(ToOwned::to_owned);
        problem.with("exit_status", error.kind().exit_status())
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.0.instance = Some(instance.into());
        self
    }

    /// A member of its own, beside those that every problem has.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// A header of the answer, such as `retry-after`.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.headers.push((name, value.into()));
        self
    }

    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl Deref for Problem {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

fn named(kind: Kind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        Kind::Unexpected => {
            (StatusCode::INTERNAL_SERVER_ERROR, "unexpected", "Something unexpected happened")
        }
        Kind::Config => (StatusCode::UNPROCESSABLE_ENTITY, "configuration", "The configuration is wrong"),
        Kind::Refused => (StatusCode::CONFLICT, "refused", "A check refused"),
        Kind::Difference => (StatusCode::CONFLICT, "difference", "Both sides differ"),
        Kind::Locked => (StatusCode::CONFLICT, "locked", "Another run holds the lock"),
        Kind::SourceUnreachable => {
            (StatusCode::BAD_GATEWAY, "source-unreachable", "The source cannot be reached")
        }
        Kind::TargetUnreachable => {
            (StatusCode::BAD_GATEWAY, "target-unreachable", "The target cannot be reached")
        }
        Kind::Capacity => (StatusCode::INSUFFICIENT_STORAGE, "capacity", "There is too little room"),
        Kind::Audit => (StatusCode::SERVICE_UNAVAILABLE, "audit", "The audit log cannot be written"),
    }
}

/// A page in the place of an answer, with its status and headers.
pub(super) fn as_page(text: String, response: &Response) -> Response {
    let mut page = Html(text).into_response();
    *page.status_mut() = response.status();
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            page.headers_mut().append(name, value.clone());
        }
    }
    page
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::of(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status_code(), Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        // For whoever makes a page of it.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_hint_and_its_exit_status() {
        let error = Error::new(Kind::Locked, "another sync runs").hint("wait for it").because("since noon");
        let problem = Problem::of(&error).instance("/runs/7");
        let json = serde_json::to_value(&problem).unwrap();
        let expected = serde_json::json!({
            "type": "/problems/locked", "title": "Another run holds the lock", "status": 409,
            "detail": "another sync runs: since noon", "hint": "wait for it", "instance": "/runs/7", "exit_status": 5,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn an_answer_says_what_it_is() {
        let problem = Problem::new(StatusCode::LOCKED, "paused", "The pipeline is paused", "main is paused");
        let answer = problem.header("retry-after", "3").into_response();
        assert_eq!(answer.status(), StatusCode::LOCKED);
        assert_eq!(answer.headers()["content-type"], CONTENT_TYPE);
        assert_eq!(answer.headers()["retry-after"], "3");
    }
}
