//! What each answer tells the browser not to do, and problems as pages.

use askama::Template;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;

use super::identity::accepts;
use crate::http::console::asset_url;
use crate::http::problem::{Problem, as_page};

/// Everything comes from this server; no script and no style stands in a page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// A year, for this host alone.
const STRICT_TRANSPORT_SECURITY: &str = "max-age=31536000";

const ALWAYS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // For browsers that do not know `frame-ancestors`.
    (header::X_FRAME_OPTIONS, "DENY"),
];

#[derive(Template)]
#[template(path = "refusal.html")]
struct ProblemPage<'a> {
    css: String,
    problem: &'a Problem,
}

/// How browsers come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// Puts the headers of security on each answer, and shows problems to browsers as pages. Must be outermost;
/// [`Access::layer`](super::Access::layer) does it.
pub fn secure(router: Router, scheme: Scheme) -> Router {
    router.layer(middleware::from_fn_with_state(scheme, secured))
}

async fn secured(State(scheme): State<Scheme>, request: Request, next: Next) -> Response {
    let is_asset = request.uri().path().starts_with("/assets/");
    let wants_page = accepts(request.headers(), "text/html");
    let mut response = next.run(request).await;
    if wants_page && let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let text = (ProblemPage { problem: &problem, css: asset_url("console.css") }).render();
        if let Ok(text) = text {
            response = as_page(text, &response);
        }
    }
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !is_asset {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if scheme == Scheme::Https {
        headers
            .insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT_TRANSPORT_SECURITY));
    }
    response
}
