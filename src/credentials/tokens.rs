//! The file of machine tokens, one a line: `NAME:SHA256:ROLE:EXPIRY[:PIPELINE,PIPELINE]`.
//!
//! A token is 256 random bits, so that one quick hash of it is as good as a slow one. The file has that hash alone:
//! whoever reads it cannot come in with it.

use std::collections::HashMap;
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;

use super::file::Listed;
use super::{Role, is_name};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// How each token begins, so that it is known for what it is where it lies about.
pub const TOKEN_PREFIX: &str = "pgd_";

/// The tokens of a file, by their hashes.
#[derive(Debug, Default)]
pub struct Tokens(HashMap<String, Grant>);

/// What a token gives to whoever has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub name: String,
    pub role: Role,
    /// `None`: never.
    pub expires: Option<Timestamp>,
    /// The only pipelines that it sees; `None` for all.
    pub pipelines: Option<Vec<String>>,
}

/// A new token; it can be read here and never again.
pub struct Token {
    pub secret: Secret,
    /// The line for the file.
    pub line: String,
}

impl Token {
    pub fn new(grant: &Grant) -> Result<Token> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| Error::unexpected("the system has no random numbers"))?;
        let secret = format!("{TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        let line = grant.line(&sha256(secret.as_bytes()));
        Ok(Token { secret: Secret::new(secret), line })
    }
}

impl Tokens {
    /// What a token gives, unless it is unknown or has expired.
    pub fn grant(&self, token: &Secret, now: Timestamp) -> Option<&Grant> {
        // The time that looking for a hash takes tells nothing of the token.
        let grant = self.0.get(&sha256(token.reveal().as_bytes()))?;
        grant.expires.is_none_or(|expires| now < expires).then_some(grant)
    }

    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.0.values()
    }

    /// In their order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.grants().map(|grant| grant.name.clone()).collect();
        names.sort_unstable();
        names
    }
}

impl Listed for Tokens {
    const WHAT: &'static str = "tokens_file";

    fn add(&mut self, line: &str) -> Result<()> {
        let (hash, grant) = Grant::of_line(line).map_err(|error| {
            error.hint("a line is NAME:SHA256:ROLE:EXPIRY[:PIPELINE,...]; `pgdiode token NAME` prints one")
        })?;
        if self.0.contains_key(&hash) || self.0.values().any(|other| other.name == grant.name) {
            return Err(Error::config(format!(
                "token \"{}\" is there twice, by its name or its hash",
                grant.name
            ))
            .hint("leave one line of them"));
        }
        self.0.insert(hash, grant);
        Ok(())
    }
}

impl Grant {
    fn line(&self, hash: &str) -> String {
        let expiry = self.expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
        let scope = self.pipelines.as_ref().map(|names| format!(":{}", names.join(","))).unwrap_or_default();
        format!("{}:{hash}:{}:{expiry}{scope}", self.name, self.role.as_str())
    }

    fn of_line(line: &str) -> Result<(String, Grant)> {
        let mut parts = line.splitn(4, ':');
        let (Some(name), Some(hash), Some(role), Some(rest)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::config("the line has too few parts"));
        };
        if !is_name(name) {
            return Err(Error::config("the first part cannot be a token's name"));
        }
        let wrong = |what: &str| Error::config(format!("token \"{name}\": {what}"));
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hash.len() != 64 || !hash.bytes().all(is_hex) {
            return Err(wrong("the second part is no SHA-256 in 64 lower-case hexadecimal digits"));
        }
        let role = Role::named(role).ok_or_else(|| wrong("the role is none of viewer, operator, auditor"))?;
        let (expires, pipelines) = expiry_and_scope(rest)
            .ok_or_else(|| wrong("the expiry is no moment of RFC 3339 and not never"))?;
        let pipelines = pipelines.map(|names| names.split(',').map(|name| name.trim().to_owned()).collect());
        Ok((hash.to_owned(), Grant { name: name.to_owned(), role, expires, pipelines }))
    }
}

/// A moment has colons of its own, with an offset one more.
fn expiry_and_scope(text: &str) -> Option<(Option<Timestamp>, Option<&str>)> {
    let expiry = |text: &str| match text {
        "never" => Some(None),
        moment => moment.parse().ok().map(Some),
    };
    if let Some(expires) = expiry(text) {
        return Some((expires, None));
    }
    let (before, pipelines) = text.rsplit_once(':')?;
    Some((expiry(before)?, Some(pipelines)))
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::file::parsed;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn grant(expires: Option<&str>, pipelines: Option<&[&str]>) -> Grant {
        let pipelines = pipelines.map(|names| names.iter().map(ToString::to_string).collect());
        Grant { name: "ci".to_owned(), role: Role::Operator, expires: expires.map(at), pipelines }
    }

    #[test]
    fn what_is_written_is_read() {
        for expires in [None, Some("2027-01-01T00:00:00Z")] {
            for pipelines in [None, Some(["main"].as_slice()), Some(&["main", "chat_2"])] {
                let grant = grant(expires, pipelines);
                let token = Token::new(&grant).unwrap();
                assert!(!token.line.contains(token.secret.reveal()));
                let tokens = parsed::<Tokens>(&token.line).unwrap();
                assert_eq!(
                    tokens.grant(&token.secret, at("2026-12-31T23:59:59Z")),
                    Some(&grant),
                    "{}",
                    token.line
                );
                assert_eq!(tokens.grant(&Secret::new("pgd_x"), at("2026-01-01T00:00:00Z")), None);
            }
        }
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let [one, other] = [(); 2].map(|()| Token::new(&grant(None, None)).unwrap());
        assert_ne!(one.secret, other.secret);
        assert_eq!(one.secret.reveal().len(), "pgd_".len() + 43);
        assert_eq!(format!("{one:?}"), "***");
    }

    #[test]
    fn a_token_ends_at_its_moment() {
        let token = Token::new(&grant(Some("2027-01-01T00:00:00Z"), None)).unwrap();
        let tokens = parsed::<Tokens>(&token.line).unwrap();
        assert!(tokens.grant(&token.secret, at("2026-12-31T23:59:59.999Z")).is_some());
        assert!(tokens.grant(&token.secret, at("2027-01-01T00:00:00Z")).is_none());
    }

    #[test]
    fn the_colons_of_a_moment_are_not_those_of_the_line() {
        let of = |rest: &str| {
            let line = format!("ci:{}:viewer:{rest}", "a".repeat(64));
            Grant::of_line(&line).map(|(_, grant)| (grant.expires, grant.pipelines))
        };
        let main = Some(vec!["main".to_owned()]);
        assert_eq!(of("never").unwrap(), (None, None));
        assert_eq!(of("never:main").unwrap(), (None, main.clone()));
        assert_eq!(of("2027-01-01T02:00:00+02:00").unwrap(), (Some(at("2027-01-01T00:00:00Z")), None));
        assert_eq!(of("2027-01-01T02:00:00+02:00:main").unwrap(), (Some(at("2027-01-01T00:00:00Z")), main));
        // What is no scope must not become one that is wider.
        assert_eq!(of("never:").unwrap(), (None, Some(vec![String::new()])));
        for rest in ["", "soon", "2027-01-01", "main:never", "never:main:chat"] {
            assert!(of(rest).is_err(), "{rest}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let hash = "0".repeat(64);
        let of = |text: &str| parsed::<Tokens>(text).unwrap_err().what().to_owned();
        assert!(of("ci:abc:viewer").contains("too few parts"));
        assert!(of("ci:pgd_plain:viewer:never").contains("no SHA-256"));
        assert!(of(&format!("ci:{}:viewer:never", "A".repeat(64))).contains("no SHA-256"));
        assert!(of(&format!("ci:{hash}:root:never")).contains("none of viewer"));
        assert!(of(&format!("c i:{hash}:viewer:never")).contains("cannot be a token's name"));
        assert!(
            of(&format!("a:{hash}:viewer:never\nb:{hash}:operator:never")).contains("file:2: token \"b\"")
        );
    }
}
