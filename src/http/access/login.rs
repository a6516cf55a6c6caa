//! Signing in and out at the console.

use std::net::IpAddr;

use askama::Template;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;

use super::Access;
use super::attempts::TooMany;
use super::visitor::Visitor;
use crate::error::Error;
use crate::http::console::asset_url;
use crate::http::problem::Problem;
use crate::secret::Secret;

/// A longer address is not remembered.
const NEXT_BYTES_MAX: usize = 2000;

/// Where a request came from, as far as can be believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub IpAddr);

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    css: String,
    next: &'a str,
    name: &'a str,
    problem: Option<String>,
}

impl<'a> LoginPage<'a> {
    fn new(next: &'a str, name: &'a str, problem: Option<String>) -> Self {
        LoginPage { css: asset_url("console.css"), next, name, problem }
    }
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    name: String,
    #[serde(default = "nothing")]
    password: Secret,
    #[serde(default)]
    next: String,
}

fn nothing() -> Secret {
    Secret::new("")
}

pub(super) fn router(access: Access) -> Router {
    Router::new().route("/login", get(page).post(sign_in)).route("/logout", post(sign_out)).with_state(access)
}

/// The page for signing in, which leads back to `wanted`.
pub(super) fn login_address(wanted: &str) -> String {
    match local(wanted) {
        "/" => "/login".to_owned(),
        next => {
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
            format!("/login?{query}")
        }
    }
}

/// An address on this server, `/` for any other. Browsers take `//x` and `/\x` for another server, and leave out control
/// characters before they look.
fn local(next: &str) -> &str {
    let plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_path = next.starts_with('/') && !next.starts_with("//");
    let path = next.split(['?', '#']).next().unwrap_or_default();
    let is_fine = plain && is_path && next.len() <= NEXT_BYTES_MAX && !["/login", "/logout"].contains(&path);
    if is_fine { next } else { "/" }
}

async fn page(
    State(access): State<Access>,
    visitor: Option<Extension<Visitor>>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let next = local(&wanted.next);
    if visitor.is_some() {
        return Redirect::to(next).into_response();
    }
    if access.now().0.users.is_none() {
        return nobody_signs_in().into_response();
    }
    shown(StatusCode::OK, &LoginPage::new(next, "", None))
}

async fn sign_in(
    State(access): State<Access>,
    Extension(Client(address)): Extension<Client>,
    headers: HeaderMap,
    Form(form): Form<Shown>,
) -> Response {
    let access = access.now();
    let Some(users) = access.0.users.as_ref().map(super::Kept::now) else {
        return nobody_signs_in().into_response();
    };
    let next = local(&form.next);
    let again = |problem: String| LoginPage::new(next, &form.name, Some(problem));
    let now = access.0.clock.now();
    match access.0.passwords.check(&users, (&form.name, form.password.clone()), address, now).await {
        Ok(Some(stored)) => match access.0.sessions.begin(&form.name, stored, now) {
            Ok(id) => {
                // What was there before must not be what is signed in now.
                access.0.cookies(&headers).into_iter().for_each(|id| access.0.sessions.end(id));
                tracing::info!(%address, user = form.name, "signed in");
                ([(header::SET_COOKIE, access.0.cookie(id.reveal()))], Redirect::to(next)).into_response()
            }
            Err(error) => Problem::from(error).into_response(),
        },
        Ok(None) => shown(StatusCode::FORBIDDEN, &again("The name or the password is wrong.".to_owned())),
        Err(TooMany { retry_after }) => {
            let seconds = retry_after.as_secs().to_string();
            let words = format!("Too many attempts. The next is possible in {seconds} seconds.");
            let page = shown(StatusCode::TOO_MANY_REQUESTS, &again(words));
            ([(header::RETRY_AFTER, seconds)], page).into_response()
        }
    }
}

async fn sign_out(State(access): State<Access>, headers: HeaderMap) -> Response {
    let access = access.now();
    access.0.cookies(&headers).into_iter().for_each(|id| access.0.sessions.end(id));
    let next = if access.0.users.is_some() { "/login" } else { "/" };
    ([(header::SET_COOKIE, access.0.cookie_that_is_gone())], Redirect::to(next)).into_response()
}

fn shown(status: StatusCode, page: &LoginPage<'_>) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => Problem::from(Error::unexpected("cannot make the page").because(error)).into_response(),
    }
}

fn nobody_signs_in() -> Problem {
    let detail = "there are no users with passwords here";
    Problem::new(StatusCode::NOT_FOUND, "no-login", "Nobody signs in here", detail)
        .hint("name a `users_file` in [server]; `pgdiode password NAME` writes a line of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_on_this_server_is_gone_to() {
        for own in ["/", "/pipelines/main", "/pipelines?x=1&y=%2F", "/a//b", "/x?next=//evil.example"] {
            assert_eq!(local(own), own);
        }
        let foreign = [
            "",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "\t//evil.example",
            "/\n/evil.example",
            "https://evil.example",
            "evil.example",
            "javascript:alert(1)",
            "\\\\evil.example",
            " /x",
            "/x\\y",
            "/é",
            "/x\r\nset-cookie: a=b",
            "/login",
            "/login?next=/x",
            "/logout",
        ];
        for foreign in foreign {
            assert_eq!(local(foreign), "/", "{foreign:?}");
        }
        assert_eq!(local(&format!("/{}", "x".repeat(NEXT_BYTES_MAX))), "/");
    }

    #[test]
    fn the_way_back_survives_the_query() {
        assert_eq!(login_address("/a?b=c&d=%20"), "/login?next=%2Fa%3Fb%3Dc%26d%3D%2520");
        assert_eq!(login_address("//evil.example"), "/login");
    }
}
