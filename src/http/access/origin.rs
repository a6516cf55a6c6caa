//! Whether a request is meant for this server, and comes from one of its own pages.
//!
//! A foreign page can have a browser send requests to 127.0.0.1 in two ways. By *rebinding* it points a name of its own
//! to this address; then `Host` is that name, and is refused. Or it sends a form or a `fetch` across origins; then the
//! browser adds `Origin` and `Sec-Fetch-Site`, which no page can set or leave out, and these are refused. Neither an
//! address in figures nor `localhost` can be pointed anywhere else, so that any port is accepted with them: a tunnel's
//! end may have another one than this server.

use std::net::{IpAddr, SocketAddr};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};

use crate::config::{PublicUrl, ServerOptions};
use crate::error::Result;
use crate::http::problem::Problem;

#[derive(Debug)]
pub(super) struct Origins {
    address: SocketAddr,
    public: Option<PublicUrl>,
    has_tls: bool,
}

impl Origins {
    pub(super) fn of(options: &ServerOptions) -> Result<Origins> {
        Ok(Origins { address: options.address()?, public: options.public()?, has_tls: options.has_tls() })
    }

    /// Refuses what names another host, or was sent by a page of another origin.
    pub(super) fn check(&self, parts: &Parts) -> Result<(), Problem> {
        let host = self.host(parts)?;
        if is_safe(&parts.method) {
            return from_own_page_or_typed(&parts.headers);
        }
        match one(&parts.headers, &SEC_FETCH_SITE) {
            Ok(None | Some("same-origin" | "none")) => {}
            _ => return Err(foreign("the browser says that another site sent it")),
        }
        let origin = one(&parts.headers, &header::ORIGIN)?;
        let referer = one(&parts.headers, &header::REFERER)?;
        let sender = origin.or_else(|| referer.map(origin_of));
        match sender {
            // No browser: a page's requests that change something always say where they come from.
            None => Ok(()),
            Some(sender) if self.is_own(sender, &host) => Ok(()),
            Some(_) => Err(foreign("a page of another origin sent it")),
        }
    }

    /// The host that the request names, if it is this one.
    fn host(&self, parts: &Parts) -> Result<String, Problem> {
        let named = one(&parts.headers, &header::HOST)?;
        let target = parts.uri.authority().map(axum::http::uri::Authority::as_str);
        let host = match (named, target) {
            (Some(named), Some(target)) if !named.eq_ignore_ascii_case(target) => None,
            (named, target) => named.or(target),
        };
        let host = host.map(str::to_ascii_lowercase).filter(|host| self.is_this(host));
        host.ok_or_else(|| {
            Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "wrong-host",
                "That is not this server",
                "the request names a host that this server is not known by",
            )
            .hint("use its address in figures, or tell it its name with `public_url` in [server]")
        })
    }

    fn is_this(&self, host: &str) -> bool {
        let name = without_port(host);
        if name == "localhost" || self.public.as_ref().is_some_and(|url| without_port(&url.authority) == name)
        {
            return true;
        }
        let figures = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let Ok(address) = figures.parse::<IpAddr>() else { return false };
        let own = self.address.ip();
        address.is_loopback() || own.is_unspecified() || own.to_canonical() == address.to_canonical()
    }

    fn is_own(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.public.as_ref().is_some_and(|url| url.origin() == origin) {
            return true;
        }
        // Beside `https://x` the page `http://x` is foreign: anybody on the way can have written it.
        let is_public = |url: &PublicUrl| without_port(&url.authority) == without_port(host);
        let scheme = if self.has_tls { "https" } else { "http" };
        !self.public.as_ref().is_some_and(is_public) && origin == format!("{scheme}://{host}")
    }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

pub(super) fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// A link may lead here from anywhere; a picture or a script of ours is for our own pages.
fn from_own_page_or_typed(headers: &HeaderMap) -> Result<(), Problem> {
    let site = one(headers, &SEC_FETCH_SITE)?;
    let mode = one(headers, &SEC_FETCH_MODE)?;
    if matches!(site, Some("cross-site" | "same-site")) && mode != Some("navigate") {
        return Err(foreign("a page of another origin asked for it"));
    }
    Ok(())
}

/// The only value of a header; where there are several, somebody added one.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    let text = first.map(|value| value.to_str()).transpose().ok().filter(|_| values.next().is_none());
    text.ok_or_else(|| {
        let detail = format!("the header {name} is there twice, or is no text");
        Problem::new(StatusCode::BAD_REQUEST, "malformed", "The request is malformed", detail)
    })
}

fn foreign(why: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "foreign-page", "A foreign page may not do that", why).hint(
        "open the console and do it there; behind a proxy, set `public_url` in [server] to what people type",
    )
}

/// `https://x/path?query` is a page of `https://x`.
fn origin_of(referer: &str) -> &str {
    let Some((scheme, rest)) = referer.split_once("://") else { return "" };
    let length = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    &referer[..scheme.len() + "://".len() + length]
}

fn without_port(host: &str) -> &str {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && (name.ends_with(']') || !name.contains(':')) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn origins(options: &ServerOptions) -> Origins {
        Origins::of(options).unwrap()
    }

    fn on(listen: &str) -> Origins {
        origins(&ServerOptions::listening(listen))
    }

    fn proxied() -> Origins {
        let public_url = Some("https://replica.example".to_owned());
        origins(&ServerOptions { public_url, behind_proxy: true, ..ServerOptions::default() })
    }

    fn status(origins: &Origins, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let request =
            headers.iter().fold(Request::builder().method(method).uri(uri), |request, (name, value)| {
                request.header(*name, *value)
            });
        let (parts, ()) = request.body(()).unwrap().into_parts();
        origins.check(&parts).map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn a_name_that_was_pointed_here_is_not_this_server() {
        let loopback = on("127.0.0.1:8000");
        let host = |origins: &Origins, host| status(origins, "GET", "/", &[("host", host)]);
        for own in ["127.0.0.1:8000", "LOCALHOST:8000", "localhost", "[::1]:8000", "[::1]", "localhost:9000"]
        {
            assert_eq!(host(&loopback, own), 200, "{own}");
        }
        let foreign = [
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8000",
            "evil.example:127.0.0.1",
            "10.0.0.1:8000",
            "[::2]",
            "127.0.0.1:8000@evil.example",
            "0x7f000001",
            "",
            ":8000",
        ];
        for foreign in foreign {
            assert_eq!(host(&loopback, foreign), 421, "{foreign}");
            assert_eq!(status(&loopback, "POST", "/", &[("host", foreign)]), 421, "{foreign}");
        }
        assert_eq!(status(&loopback, "GET", "/", &[]), 421);
        assert_eq!(status(&loopback, "GET", "/", &[("host", "localhost"), ("host", "evil.example")]), 400);
        // By HTTP/2 the host is in the address.
        assert_eq!(status(&loopback, "GET", "http://localhost:8000/", &[]), 200);
        assert_eq!(status(&loopback, "GET", "http://evil.example/", &[]), 421);
        assert_eq!(status(&loopback, "GET", "http://evil.example/", &[("host", "localhost")]), 421);
    }

    #[test]
    fn other_addresses_are_known_by_figures_and_by_their_public_name() {
        let every = on("0.0.0.0:8443");
        assert_eq!(status(&every, "GET", "/", &[("host", "10.0.0.9:8443")]), 200);
        assert_eq!(status(&every, "GET", "/", &[("host", "replica.example")]), 421);
        assert_eq!(status(&on("10.0.0.1:80"), "GET", "/", &[("host", "10.0.0.1")]), 200);
        assert_eq!(status(&on("10.0.0.1:80"), "GET", "/", &[("host", "10.0.0.2")]), 421);
        assert_eq!(status(&proxied(), "GET", "/", &[("host", "Replica.example")]), 200);
        assert_eq!(status(&proxied(), "GET", "/", &[("host", "replica.example:443")]), 200);
        assert_eq!(status(&proxied(), "GET", "/", &[("host", "other.example")]), 421);
    }

    /// Whatever a foreign page can have a browser send, and what our own pages and programs do.
    #[test]
    fn a_foreign_page_changes_nothing() {
        let ours = on("127.0.0.1:8000");
        let post = |headers: &[(&str, &str)]| {
            let headers: Vec<_> = [("host", "127.0.0.1:8000")].iter().chain(headers).copied().collect();
            status(&ours, "POST", "/api/v1/sync/manual", &headers)
        };
        assert_eq!(post(&[]), 200);
        assert_eq!(post(&[("origin", "http://127.0.0.1:8000"), ("sec-fetch-site", "same-origin")]), 200);
        assert_eq!(post(&[("referer", "http://127.0.0.1:8000/pipelines/main?x")]), 200);
        for origin in [
            "http://evil.example",
            "null",
            "",
            "http://localhost:8000",
            "http://127.0.0.1:3000",
            "http://127.0.0.1",
            "https://127.0.0.1:8000",
            "http://127.0.0.1:8000.evil.example",
            "http://127.0.0.1:8000/",
            "file://",
        ] {
            assert_eq!(post(&[("origin", origin)]), 403, "{origin}");
        }
        for site in ["cross-site", "same-site", "anything"] {
            assert_eq!(post(&[("sec-fetch-site", site)]), 403, "{site}");
            assert_eq!(post(&[("sec-fetch-site", site), ("origin", "http://127.0.0.1:8000")]), 403, "{site}");
        }
        for referer in [
            "http://evil.example/",
            "http://127.0.0.1:8000.evil.example/",
            "http://127.0.0.1:8000@evil/",
            "x",
        ] {
            assert_eq!(post(&[("referer", referer)]), 403, "{referer}");
        }
        assert_eq!(post(&[("origin", "http://127.0.0.1:8000"), ("origin", "http://evil.example")]), 400);
        for method in ["PUT", "PATCH", "DELETE", "PROPFIND"] {
            let headers = [("host", "localhost"), ("origin", "http://evil.example")];
            assert_eq!(status(&ours, method, "/", &headers), 403, "{method}");
        }
    }

    #[test]
    fn links_lead_here_and_pictures_do_not() {
        let get = |site, mode| {
            let headers = [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            status(&on("127.0.0.1:8000"), "GET", "/", &headers)
        };
        assert_eq!(get("cross-site", "navigate"), 200);
        assert_eq!(get("same-origin", "cors"), 200);
        assert_eq!(get("none", "navigate"), 200);
        assert_eq!(get("cross-site", "no-cors"), 403);
        assert_eq!(get("same-site", "cors"), 403);
    }

    #[test]
    fn behind_a_proxy_the_public_origin_is_ours_whatever_host_the_proxy_names() {
        let post = |host, origin| status(&proxied(), "POST", "/", &[("host", host), ("origin", origin)]);
        assert_eq!(post("replica.example", "https://replica.example"), 200);
        assert_eq!(post("127.0.0.1:8000", "https://replica.example"), 200);
        assert_eq!(post("127.0.0.1:8000", "http://127.0.0.1:8000"), 200);
        assert_eq!(post("replica.example", "http://replica.example"), 403);
        assert_eq!(post("replica.example", "https://replica.example:444"), 403);
        assert_eq!(post("127.0.0.1:8000", "https://evil.example"), 403);
    }
}
