//! `pgdiode token` and `pgdiode password`: the lines of the files that say who may come in through the HTTP door.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit};
use serde::Serialize;

use super::{Global, output};
use crate::credentials::{Grant, Kept, Password as Hash, Role, Token as NewToken, Tokens, is_name};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// What is shorter is guessed, however slow its hash.
const PASSWORD_CHARACTERS_MIN: usize = 8;

/// Make a token with which a program comes in through the HTTP door
///
/// The token is shown this once; the file that `tokens_file` in [server] names keeps its hash. A program sends it as
/// `Authorization: Bearer TOKEN`. Take the line out of the file, and the token is worth nothing from the next request on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: with --append a file, which is created for its owner alone; otherwise nothing.

Examples:
  pgdiode token prometheus
  pgdiode token deploy --role operator --expires 30d --append /etc/pgdiode/tokens
  pgdiode token billing --scope billing --scope invoices --expires never

",
    exit_statuses!()
))]
pub struct Token {
    /// What the program is called, in logs and in the audit log
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// What it may: viewer looks, operator acts, auditor sees the audit log
    #[arg(long, value_name = "ROLE", value_enum, default_value_t = Role::Viewer, hide_possible_values = true)]
    role: Role,
    /// How long it is good for, such as 12h, 90d or 1y; or never
    #[arg(long, value_name = "TIME", default_value = "90d")]
    expires: String,
    /// A pipeline that it sees, and no other; may be repeated. --pipeline does the same
    #[arg(long, value_name = "PIPELINE")]
    scope: Vec<String>,
    /// The tokens file that the line is added to
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
}

/// Make the line of a user who signs in through the HTTP door
///
/// Asks for the password, or reads it from standard input where that is no terminal, and prints the line for the file
/// that `users_file` in [server] names: the name and a hash of argon2id.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode password alice
  pgdiode password alice >> /etc/pgdiode/users

",
    exit_statuses!()
))]
pub struct Password {
    /// Who signs in
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    role: Role,
    expires: Option<String>,
    token: &'a str,
    line: &'a str,
}

fn name(text: &str) -> Result<String, String> {
    let wrong = || "use letters, digits and . _ @ + -, at most 64 characters".to_owned();
    is_name(text).then(|| text.to_owned()).ok_or_else(wrong)
}

impl Token {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let scope: Vec<String> = self.scope.into_iter().chain(global.pipeline.clone()).collect();
        if let Some(pipeline) = scope.iter().find(|name| !is_name(name)) {
            return Err(Error::config(format!("\"{pipeline}\" cannot be a pipeline's name"))
                .hint("repeat --scope for each pipeline"));
        }
        let grant = Grant {
            name: self.name,
            role: self.role,
            expires: expiry(&self.expires, Timestamp::now())?,
            pipelines: (!scope.is_empty()).then_some(scope),
        };
        let token = NewToken::new(&grant)?;
        if let Some(path) = &self.append {
            append(path, &grant.name, &token.line)?;
        }
        let secret = token.secret.reveal();
        if global.json {
            let expires = grant.expires.map(|at| at.to_string());
            let made =
                Made { name: &grant.name, role: grant.role, expires, token: secret, line: &token.line };
            return output::json(&made);
        }
        match &self.append {
            Some(path) => {
                output::note(&format!("added to {}; the token is shown this once", path.display()));
                output::text(secret)
            }
            None => {
                output::note(
                    "the token is shown this once; the line is for the file that `tokens_file` names",
                );
                output::text(&format!("token      {secret}\nline       {}", token.line))
            }
        }
    }
}

fn expiry(text: &str, now: Timestamp) -> Result<Option<Timestamp>> {
    if text == "never" {
        return Ok(None);
    }
    let wrong = || {
        Error::config(format!("--expires: \"{text}\" is no time to come"))
            .hint("for example 12h, 90d or 1y; or never")
    };
    let span: Span = text.parse().map_err(|_| wrong())?;
    let at = now.to_zoned(TimeZone::UTC).checked_add(span).map_err(|_| wrong())?.timestamp();
    let at = at.round(Unit::Second).map_err(|_| wrong())?;
    if at <= now { Err(wrong()) } else { Ok(Some(at)) }
}

fn append(path: &Path, name: &str, line: &str) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::config(format!("cannot write {}", path.display()))
            .because(error)
            .hint("check that the directory exists and is yours to write")
    };
    if path.exists() && Kept::<Tokens>::open(path)?.now().names().iter().any(|other| other == name) {
        return Err(Error::config(format!("{} has a token \"{name}\" already", path.display()))
            .hint("choose another name, or take that line out of the file first"));
    }
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let mut file = opened.map_err(failed)?;
    let mut before = String::new();
    file.read_to_string(&mut before).map_err(failed)?;
    let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    file.write_all(format!("{end}{line}\n").as_bytes()).map_err(failed)
}

impl Password {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let password = if std::io::stdin().is_terminal() { asked()? } else { read()? };
        if password.reveal().chars().count() < PASSWORD_CHARACTERS_MIN {
            return Err(Error::config(format!(
                "a password has at least {PASSWORD_CHARACTERS_MIN} characters"
            ))
            .hint("several words in a row are easy to remember and hard to guess"));
        }
        let line = format!("{}:{}", self.name, Hash::new(&password)?.as_str());
        if global.json {
            output::json(&serde_json::json!({ "name": self.name, "line": line }))
        } else {
            output::text(&line)
        }
    }
}

fn asked() -> Result<Secret> {
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).map(Secret::new).map_err(|error| {
            Error::config("cannot ask for a password").because(error).hint("give it on standard input")
        })
    };
    let password = ask("Password: ")?;
    if password == ask("Again: ")? {
        return Ok(password);
    }
    Err(Error::config("these were two different passwords").hint("try again"))
}

fn read() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).map_err(|error| {
        Error::config("cannot read a password from standard input")
            .because(error)
            .hint("give it as one line of UTF-8")
    })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_expiry_is_to_come() {
        let of = |text: &str| expiry(text, at("2026-01-31T10:00:00.4Z"));
        assert_eq!(of("never").unwrap(), None);
        assert_eq!(of("90d").unwrap(), Some(at("2026-05-01T10:00:00Z")));
        assert_eq!(of("12h").unwrap(), Some(at("2026-01-31T22:00:00Z")));
        assert_eq!(of("1y").unwrap(), Some(at("2027-01-31T10:00:00Z")));
        for text in ["", "soon", "90", "-1d", "0s", "9999999y"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_line_is_added_for_the_owner_alone_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let line = |name: &str, digit: &str| format!("{name}:{}:viewer:never", digit.repeat(64));
        append(&path, "a", &line("a", "1")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, line("a", "1")).unwrap();
        append(&path, "b", &line("b", "2")).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{}\n{}\n", line("a", "1"), line("b", "2"))
        );
        let twice = append(&path, "a", &line("a", "3")).unwrap_err();
        assert!(twice.what().ends_with("has a token \"a\" already"), "{twice:?}");
        assert_eq!(Kept::<Tokens>::open(&path).unwrap().now().names(), ["a", "b"]);
    }
}
