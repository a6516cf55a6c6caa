//! Where a store is, in one line: `/path`, `file:///path`, `sftp://user@host:port/path`, `s3://bucket/prefix?endpoint=…`.
//!
//! No secret stands in a location: it is printed in errors and states. One that has a password is refused, and not
//! repeated.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::wire::percent;

const FORMS: &str =
    "write /path, sftp://user@host:port/path, or s3://bucket/prefix?endpoint=https://host&region=name";

const SFTP_PORT: u16 = 22;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Directory(PathBuf),
    Sftp {
        user: String,
        host: String,
        port: u16,
        /// Absolute.
        path: String,
    },
    S3 {
        bucket: String,
        /// Without slashes at its ends; empty is the bucket itself.
        prefix: String,
        /// Amazon's own, when there is none.
        endpoint: Option<String>,
        region: Option<String>,
    },
}

impl Location {
    pub fn parse(text: &str) -> Result<Location> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("file://") {
            return directory(&decode(path)?);
        }
        if let Some(rest) = text.strip_prefix("sftp://") {
            return sftp(rest);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return s3(rest);
        }
        match text.split_once("://") {
            Some((scheme, _)) => Err(Error::config(format!("{scheme}:// is no kind of archive")).hint(FORMS)),
            None => directory(text),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => write!(f, "{}", path.display()),
            Location::Sftp { user, host, port, path } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let port = if *port == SFTP_PORT { String::new() } else { format!(":{port}") };
                write!(f, "sftp://{user}@{host}{port}{path}")
            }
            Location::S3 { bucket, prefix, endpoint, region } => {
                write!(f, "s3://{bucket}")?;
                if !prefix.is_empty() {
                    write!(f, "/{prefix}")?;
                }
                let mut before = '?';
                for (key, value) in [("endpoint", endpoint), ("region", region)] {
                    if let Some(value) = value {
                        write!(f, "{before}{key}={value}")?;
                        before = '&';
                    }
                }
                Ok(())
            }
        }
    }
}

fn directory(path: &str) -> Result<Location> {
    if !path.starts_with('/') {
        let error = Error::config(format!("{path:?} is no absolute path"));
        return Err(error.hint(FORMS));
    }
    Ok(Location::Directory(PathBuf::from(path)))
}

fn sftp(rest: &str) -> Result<Location> {
    // Not repeated before it is known to hold no password.
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((user, address)) = authority.rsplit_once('@') else {
        return Err(Error::config("an sftp:// location has no user").hint(FORMS));
    };
    if user.contains(':') {
        return Err(Error::config("an sftp:// location has a password in it").hint(
            "take it out: pgdiode logs in with a key or an agent, and what stands in a location is printed",
        ));
    }
    let user = decode(user)?;
    let (host, port) = host_and_port(address)?;
    let path = decode(path)?;
    if user.is_empty() || host.is_empty() {
        return Err(Error::config(format!("sftp://{rest} has no user or no host")).hint(FORMS));
    }
    if path.starts_with("/~") || path.split('/').any(|part| part == "..") {
        return Err(Error::config(format!("sftp://{rest} does not name one place"))
            .hint("write the directory's absolute path: no ~ and no .."));
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Err(Error::config(format!("sftp://{rest} names no directory")).hint(FORMS));
    }
    Ok(Location::Sftp { user, host, port, path: path.to_owned() })
}

fn host_and_port(address: &str) -> Result<(String, u16)> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None => SFTP_PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
            Error::config(format!("{port:?} is no port, in sftp://…@{address}"))
                .hint("a port is 1 to 65535; an IPv6 address stands in brackets: sftp://user@[::1]:22/path")
        })?,
    };
    Ok((host.to_owned(), port))
}

fn s3(rest: &str) -> Result<Location> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.contains('@') {
        return Err(Error::config("an s3:// location has credentials in it").hint(
            "take them out: they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the configuration",
        ));
    }
    let is_bucket = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if bucket.is_empty() || !bucket.bytes().all(is_bucket) {
        return Err(Error::config(format!("{bucket:?} is no bucket")).hint(FORMS));
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() {
        super::name::check(prefix)
            .map_err(|error| error.context(format!("the prefix in bucket {bucket}")))?;
    }
    let (mut endpoint, mut region) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "endpoint" => endpoint = Some(endpoint_of(&decode(value)?)?),
            "region" => region = Some(decode(value)?),
            _ => {
                return Err(Error::config(format!("{key:?} is no option of an s3:// location"))
                    .hint("there are endpoint and region"));
            }
        }
    }
    Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned(), endpoint, region })
}

fn endpoint_of(text: &str) -> Result<String> {
    let is_plain = |rest: &str| !rest.is_empty() && !rest.contains(['@', '?', '#']);
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if is_plain(rest) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(Error::config("the endpoint of an s3:// location is no address of a server").hint(
            "write endpoint=https://host:port; http:// only where nobody listens in; no credentials in it",
        )),
    }
}

/// `%2F` and the like.
fn decode(text: &str) -> Result<String> {
    percent::decoded(text).ok_or_else(|| {
        Error::config(format!("{text:?} has a % that stands for nothing")).hint("write %25 for a % itself")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_shown_again() {
        for (text, shown) in [
            ("/srv/archive", ""),
            ("file:///srv/archive", "/srv/archive"),
            ("sftp://backup@host/srv/changes", ""),
            ("sftp://backup@host:22/srv/changes/", "sftp://backup@host/srv/changes"),
            ("sftp://backup@host:2222/srv/my%20changes", "sftp://backup@host:2222/srv/my changes"),
            ("sftp://backup@[::1]:2222/srv", ""),
            ("s3://bucket", ""),
            ("s3://bucket/a/b/?region=eu-1", "s3://bucket/a/b?region=eu-1"),
            ("s3://bucket/a?endpoint=http://127.0.0.1:9000/", "s3://bucket/a?endpoint=http://127.0.0.1:9000"),
        ] {
            let shown = if shown.is_empty() { text } else { shown };
            assert_eq!(Location::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_names_no_place_is_refused_with_a_hint() {
        for (text, expected) in [
            ("", "no absolute path"),
            ("archive", "no absolute path"),
            ("file://host", "no absolute path"),
            ("ftp://host/a", "ftp:// is no kind of archive"),
            ("sftp://host/a", "no user"),
            ("sftp://user@/a", "no host"),
            ("sftp://user@host", "names no directory"),
            ("sftp://user@host/", "names no directory"),
            ("sftp://user@host/~/a", "does not name one place"),
            ("sftp://user@host/a/../b", "does not name one place"),
            ("sftp://user@host:0/a", "no port"),
            ("sftp://user@host:ssh/a", "no port"),
            ("sftp://user@host/%zz", "stands for nothing"),
            ("sftp://user@host/a%00", "stands for nothing"),
            ("s3://", "no bucket"),
            ("s3://buck et/a", "no bucket"),
            ("s3://bucket/a b", "cannot be the name"),
            ("s3://bucket/a?endpoint=host:9000", "no address of a server"),
            ("s3://bucket/a?key=1", "no option"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.what().contains(expected) && error.hint_text().is_some(), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_secret_in_a_location_is_refused_and_not_repeated() {
        for text in [
            "sftp://user:hunter2@host/a",
            "sftp://hunter2:@host/a",
            "s3://key:hunter2@bucket/a",
            "s3://bucket/a?endpoint=https://key:hunter2@host",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
