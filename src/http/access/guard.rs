//! What happens to each request before a handler sees it, in this order: is it meant for us, who sent it, may they.

use std::net::SocketAddr;

use aws_lc_rs::constant_time;
use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use futures_util::StreamExt as _;

use super::identity::{accepts, unauthorized};
use super::login::{Client, login_address};
use super::origin::{is_safe, one};
use super::{Access, Current};
use super::{By, Right, Visitor};
use crate::http::problem::Problem;

/// No form of the console is longer.
const FORM_BYTES_MAX: usize = 64 * 1024;
const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
const CSRF_FIELD: &str = "csrf";

/// What needs nobody: probes, and what the page for signing in is made of.
fn is_open(path: &str) -> bool {
    ["/livez", "/readyz", "/startupz"].contains(&path) || path.starts_with("/assets/")
}

pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let request = match access.now().admit(request).await {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let visitor = request.extensions().get::<Visitor>().cloned();
    let headers = request.headers().clone();
    let answer = next.run(request).await;
    match visitor {
        Some(visitor) if is_stream(&answer) => while_known(access, visitor, headers, answer),
        _ => answer,
    }
}

fn is_stream(answer: &Response) -> bool {
    let media_type = answer.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|text| text.as_bytes().starts_with(b"text/event-stream"))
}

/// Events end for whoever has been signed out meanwhile, with the next that would have been told.
fn while_known(access: Access, visitor: Visitor, headers: HeaderMap, answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    let mut events = body.into_data_stream();
    let known = async_stream::stream! {
        while let Some(event) = events.next().await {
            if !access.now().0.knows_still(&visitor, &headers) {
                break;
            }
            yield event;
        }
    };
    Response::from_parts(parts, Body::from_stream(known))
}

impl Current {
    /// The request with its [`Visitor`], or the answer to it.
    async fn admit(&self, request: Request) -> Result<Request, Response> {
        let (mut parts, body) = request.into_parts();
        self.0.origins.check(&parts).map_err(Problem::into_response)?;
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        let peer = peer.ok_or_else(|| not_connected().into_response())?;
        let client = self.0.client(peer, &parts.headers);
        parts.extensions.insert(Client(client));
        let path = parts.uri.path().to_owned();
        let is_open = is_open(&path) || (path == "/metrics" && self.0.metrics_are_public);
        let found = if is_open { Ok(None) } else { self.0.identify(&parts, peer, client).await };
        // Whoever signs in may have shown something that no longer counts.
        let found = if path == "/login" { Ok(found.ok().flatten()) } else { found };
        let visitor = found.map_err(|problem| self.challenge(&parts.headers, problem).into_response())?;
        if let Some(name) = &self.0.user_header {
            parts.headers.remove(name);
        }
        match visitor {
            None if is_open => Ok(Request::from_parts(parts, body)),
            _ if path == "/login" => {
                parts.extensions.extend(visitor.map(with_visitor).unwrap_or_default());
                Ok(Request::from_parts(parts, body))
            }
            None => Err(self.sign_in_first(&parts)),
            Some(visitor) => {
                let body = self.permit(&visitor, &parts, body).await.map_err(Problem::into_response)?;
                parts.extensions.insert(visitor);
                Ok(Request::from_parts(parts, body))
            }
        }
    }

    /// Refuses a change that the visitor's own page did not ask for, or that is not the visitor's to make.
    async fn permit(&self, visitor: &Visitor, parts: &Parts, body: Body) -> Result<Body, Problem> {
        if is_safe(&parts.method) {
            return Ok(body);
        }
        let body = match &visitor.csrf {
            Some(expected) => self.check_intent(visitor.by, expected, &parts.headers, body).await?,
            None => body,
        };
        // Handlers look closer; nothing is open to a viewer because one of them forgot to.
        if parts.uri.path() != "/logout" && !visitor.may(Right::Audit) {
            visitor.must(Right::Act)?;
        }
        Ok(body)
    }

    /// A browser adds cookies, passwords and its place on this host to what any page has it send. A form, and whatever a
    /// session changes, must hold what only our own pages can know; JSON cannot be sent across origins without being asked for
    /// first, which is never granted.
    async fn check_intent(
        &self,
        by: By,
        expected: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Body, Problem> {
        let media_type =
            one(headers, &header::CONTENT_TYPE)?.map(|text| text.split(';').next().unwrap_or_default());
        let media_type = media_type.map(|text| text.trim().to_ascii_lowercase());
        let is_form = media_type.as_deref() == Some("application/x-www-form-urlencoded");
        let is_json =
            media_type.as_deref().is_some_and(|text| text == "application/json" || text.ends_with("+json"));
        let is_empty = media_type.is_none() && body.is_end_stream();
        if !(is_form || is_json || is_empty) {
            return Err(unsupported());
        }
        if let Some(token) = one(headers, &CSRF_HEADER)? {
            return if is_same(expected, token) { Ok(body) } else { Err(unintended(is_form)) };
        }
        if !is_form {
            return if by == By::Session { Err(unintended(is_form)) } else { Ok(body) };
        }
        let too_long = |_| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", "The form is too long", "over 64 KiB")
        };
        let bytes = to_bytes(body, FORM_BYTES_MAX).await.map_err(too_long)?;
        let mut fields = form_urlencoded::parse(&bytes).filter(|(name, _)| name == CSRF_FIELD);
        let token = fields.next().map(|(_, token)| token.into_owned()).unwrap_or_default();
        if !is_same(expected, &token) {
            return Err(unintended(is_form));
        }
        Ok(Body::from(bytes))
    }

    fn sign_in_first(&self, parts: &Parts) -> Response {
        if !accepts(&parts.headers, "text/html") || self.0.users.is_none() {
            let detail = "this is for those who have signed in";
            return self.challenge(&parts.headers, unauthorized(detail)).into_response();
        }
        let wanted = parts.uri.path_and_query().filter(|_| is_safe(&parts.method));
        Redirect::to(&login_address(wanted.map_or("/", |wanted| wanted.as_str()))).into_response()
    }

    /// Says how to come in. A browser is not told of passwords: it would ask for one in a window of its own.
    fn challenge(&self, headers: &HeaderMap, problem: Problem) -> Problem {
        if problem.status_code() != StatusCode::UNAUTHORIZED {
            return problem;
        }
        let problem = problem.header("www-authenticate", "Bearer realm=\"pgdiode\"");
        let is_browser = headers.contains_key("sec-fetch-site") || accepts(headers, "text/html");
        let problem = if self.0.users.is_some() && !is_browser {
            problem.header("www-authenticate", "Basic realm=\"pgdiode\", charset=\"UTF-8\"")
        } else {
            problem
        };
        problem.hint("send `Authorization: Bearer` and a token of `pgdiode token NAME`, or sign in at /login")
    }
}

/// Compared so that the time that it takes tells nothing.
fn is_same(expected: &str, token: &str) -> bool {
    constant_time::verify_slices_are_equal(expected.as_bytes(), token.as_bytes()).is_ok()
}

fn with_visitor(visitor: Visitor) -> axum::http::Extensions {
    let mut extensions = axum::http::Extensions::new();
    extensions.insert(visitor);
    extensions
}

fn unintended(is_form: bool) -> Problem {
    let detail =
        "what shows that one of this server's own pages asked for it is missing, or of an earlier session";
    let hint = if is_form {
        "reload the page and try again; a program sends JSON with `Content-Type: application/json` instead of a form"
    } else {
        "reload the page and try again; a page sends the header X-CSRF-Token, a program uses a token instead of a session"
    };
    Problem::new(StatusCode::FORBIDDEN, "not-intended", "The page is out of date", detail).hint(hint)
}

fn unsupported() -> Problem {
    let detail = "a change is asked for by a form, by JSON, or without a body";
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "media-type",
        "That kind of content is not understood",
        detail,
    )
    .hint("send `Content-Type: application/json`")
}

/// A mistake in how the router is served.
fn not_connected() -> Problem {
    let detail = "the connection's other end is not known";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected", "Something unexpected happened", detail)
}
