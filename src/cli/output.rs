//! What reaches the terminal: results on standard output, errors with their causes and hint on standard error.

use std::error::Error as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::progress;
use crate::change::TableName;
use crate::config::written;
use crate::error::{Error, Kind, Result};
use crate::status::text::{Paint, printable, printable_lines};

/// Writes a result; a line break is added where it lacks one.
pub(super) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| if !text.is_empty() && !text.ends_with('\n') { out.write_all(b"\n") } else { Ok(()) });
    written
        .and_then(|()| out.flush())
        .map_err(|error| Error::unexpected("cannot write to standard output").because(error))
}

/// Writes a part of a result as it is.
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Error::unexpected("cannot write to standard output").because(error))
}

/// Writes a result as one indented JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let document = serde_json::to_string_pretty(value)
        .map_err(|error| Error::unexpected("cannot serialise the result").because(error))?;
    text(&document)
}

/// Writes a result as one line of JSON, for a stream of them.
pub(super) fn json_line(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value)
        .map_err(|error| Error::unexpected("cannot serialise the result").because(error))?;
    text(&line)
}

/// Writes SQL that was run or would be; an empty list is an empty output.
pub(super) fn statements(statements: &[String], as_json: bool) -> Result<()> {
    if as_json { json(&statements) } else { text(&statements.join("\n")) }
}

/// `a.b, c.d`.
pub(super) fn listed(tables: &[TableName]) -> String {
    let names: Vec<String> = tables.iter().map(|table| printable(&written(table)).into_owned()).collect();
    names.join(", ")
}

/// Tells the operator, beside the result.
pub(super) fn note(text: &str) {
    // Nobody is left to be told when standard error is gone.
    let _ = progress::beside(format!("{text}\n").as_bytes());
}

pub(super) fn paint() -> Paint {
    Paint::for_terminal(io::stdout().is_terminal())
}

/// Whether what goes to standard error, the log too, is coloured.
pub fn stderr_is_coloured() -> bool {
    Paint::for_terminal(io::stderr().is_terminal()) == Paint::Coloured
}

/// Asks before something is changed; without a terminal, only `--yes` says so.
pub(super) fn confirm(question: &str) -> Result<()> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::config("nobody is there to confirm").hint("pass --yes to go on without asking"));
    }
    let mut err = io::stderr();
    let asked = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Error::unexpected("cannot ask for confirmation").because(error))?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::refused("not confirmed; nothing was changed")),
    }
}

/// Whether the only trouble is that nobody reads standard output any more.
pub fn succeeded_anyway(error: &Error) -> bool {
    let io_error = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        && error.what() == "cannot write to standard output"
}

/// Prints an error where the operator looks for it: as text, or with `json` as an object on one line.
pub fn report(error: &Error, as_json: bool) {
    let text = if as_json {
        error_json(error).to_string()
    } else {
        error_text(error, Paint::for_terminal(io::stderr().is_terminal()))
    };
    note(&text);
}

/// Prints what clap says: help and version (0), or what is wrong with the usage (2).
pub fn report_usage(usage: &clap::Error) -> ExitCode {
    let as_json = std::env::args_os().any(|argument| argument == "--json");
    if usage.use_stderr() && as_json {
        let rendered = usage.render().to_string();
        let message = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        report(&Error::config(message).hint("see `pgdiode --help`"), true);
    } else {
        // A closed pipe is no error, and nobody is left to be told.
        let _ = usage.print();
    }
    ExitCode::from(if usage.use_stderr() { Kind::Config.exit_status() } else { 0 })
}

fn error_text(error: &Error, paint: Paint) -> String {
    let mut lines = vec![format!("{} {}", paint.bad("error:"), printable_lines(error.what(), 2))];
    lines.extend(causes(error).iter().map(|cause| format!("  caused by: {}", printable_lines(cause, 4))));
    lines.extend(error.sqlstate().map(|sqlstate| format!("  SQLSTATE: {sqlstate}")));
    lines.extend(
        error.hint_text().map(|hint| format!("{} {}", paint.strong("hint:"), printable_lines(hint, 2))),
    );
    lines.join(
        "
",
    )
}

fn error_json(error: &Error) -> serde_json::Value {
    json!({
        "error": {
            "kind": kind_name(error.kind()),
            "message": error.what(),
            "causes": causes(error),
            "hint": error.hint_text(),
            "sqlstate": error.sqlstate(),
            "exit_status": error.kind().exit_status(),
        }
    })
}

fn causes(error: &Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unexpected => "unexpected",
        Kind::Config => "config",
        Kind::Refused => "refused",
        Kind::Difference => "difference",
        Kind::Locked => "locked",
        Kind::SourceUnreachable => "source_unreachable",
        Kind::TargetUnreachable => "target_unreachable",
        Kind::Capacity => "capacity",
        Kind::Audit => "audit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Error {
        Error::refused("table public.users: no replica identity")
            .because(Error::unexpected("outer").because(io::Error::other("inner")))
            .with_sqlstate("55000")
            .hint("add a primary key")
    }

    #[test]
    fn an_error_is_told_with_causes_and_hint() {
        assert_eq!(
            error_text(&example(), Paint::Plain),
            "error: table public.users: no replica identity\n  caused by: outer\n  caused by: inner\n  \
             SQLSTATE: 55000\nhint: add a primary key"
        );
    }

    #[test]
    fn what_a_program_said_keeps_its_lines() {
        let error = Error::unexpected("pg_dump failed:\npg_dump: error: a\x1b[2J\npg_dump: detail: b\n");
        assert_eq!(
            error_text(&error, Paint::Plain),
            "error: pg_dump failed:\n  pg_dump: error: a\\u{1b}[2J\n  pg_dump: detail: b"
        );
    }

    #[test]
    fn an_error_is_told_as_json() {
        assert_eq!(
            error_json(&example()),
            json!({"error": {
                "kind": "refused",
                "message": "table public.users: no replica identity",
                "causes": ["outer", "inner"],
                "hint": "add a primary key",
                "sqlstate": "55000",
                "exit_status": 3,
            }})
        );
    }

    #[test]
    fn only_a_pipe_on_standard_output_may_break() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(succeeded_anyway(&Error::unexpected("cannot write to standard output").because(broken())));
        assert!(!succeeded_anyway(&Error::new(Kind::SourceUnreachable, "connection lost").because(broken())));
        assert!(!succeeded_anyway(
            &Error::unexpected("cannot write to standard output").because(io::Error::other("x"))
        ));
    }
}
