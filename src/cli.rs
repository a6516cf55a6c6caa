//! The command line: one file per verb. A verb reads the configuration, asks the house (`pipeline`) and renders what
//! it says; nothing here knows a source or a target.
//!
//! Results go to standard output, everything else to standard error. A closed pipe on standard output is not an
//! error: whoever read it has seen enough.

// What documents a verb is its help, and terminals show no Markdown.
#![allow(clippy::doc_markdown)]

/// The exit statuses, as every `--help` ends.
macro_rules! exit_statuses {
    () => {
        "\
Exit statuses:
    0  done
    1  unexpected
    2  wrong usage or configuration
    3  refused by a check: version, replica identity, privileges, ownership
    4  verification found a difference, a sync was not promoted, or the audit log is broken
    5  another run holds the lock
    6  source unreachable
    7  target unreachable
    8  capacity guard: too little room
    9  the audit log cannot be written
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)"
    };
}

mod add_tables;
mod archive;
mod audit;
mod check;
mod clear;
mod completions;
mod demo;
mod detach;
mod generations;
mod init;
mod list_tables;
mod man;
mod named;
mod output;
mod pause;
mod progress;
mod remove_tables;
mod reset;
mod resume;
mod resync;
mod rollback;
mod service;
mod setup;
mod signals;
mod start;
mod status;
mod stop;
mod sync;
mod token;
pub mod top;
mod verify;

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::change::TableName;
use crate::config::{Config, Level, Log, LogFormat, Pattern, Pipeline};
use crate::error::Result;

pub use output::{report, report_usage, stderr_is_coloured, succeeded_anyway};
pub use progress::LogWriter;
pub use signals::Signal;

const TEMPLATE: &str = "\
{before-help}{about-with-newline}
{usage-heading} {usage}

{all-args}{after-help}";

/// Moves data one way, provably intact, into a PostgreSQL you own.
#[derive(Debug, Parser)]
#[command(
    name = "pgdiode",
    version,
    max_term_width = 100,
    disable_help_subcommand = false,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    help_template = TEMPLATE,
    long_about = "\
Moves data one way, provably intact, into a PostgreSQL you own.

A pipeline copies a source and then applies each of its transactions, in commit order, together with how far it has \
come. No row of the source is ever written; what a pipeline needs there, a publication and a replication slot, is \
created and dropped by the verbs whose help says so.",
    after_help = "\
First steps:
  pgdiode init     write a sample configuration, and fill it in
  pgdiode check    find what would fail
  pgdiode setup    create the publication
  pgdiode start    copy, then follow
  pgdiode verify   compare both sides

`pgdiode VERB --help` explains a verb.",
    after_long_help = concat!(
        "\
First steps:
  pgdiode init     write a sample configuration, and fill it in
  pgdiode check    find what would fail
  pgdiode setup    create the publication
  pgdiode start    copy, then follow
  pgdiode verify   compare both sides

",
        exit_statuses!()
    ),
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Options of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Configuration file
    ///
    /// Without it: the one that PGDIODE_CONFIG or DATA_SYNC_CONFIG names, else the pipeline that PGDIODE_SOURCE,
    /// PGDIODE_TARGET, PGDIODE_TABLES and PGDIODE_NAME describe, else the first found of ./pgdiode.toml,
    /// $XDG_CONFIG_HOME/pgdiode/pgdiode.toml and /etc/pgdiode/pgdiode.toml, else the snapshot pipeline `li` that
    /// MAIN_DB_HOST, MAIN_DB_PORT, MAIN_DB_NAME, MAIN_DB_USER, MAIN_DB_PASSWORD and the same with LI_DB_ describe.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Pipeline, when several are configured
    #[arg(long, short, global = true, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Results and errors as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Format of the log on standard error: text or json
    #[arg(long, global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormatName>,
    /// Log more; twice for still more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less; twice for errors only
    #[arg(long, short, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

/// Why an operator does something.
#[derive(Debug, Args)]
pub struct Why {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatName {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Init(init::Init),
    Check(check::Check),
    Setup(setup::Setup),
    Start(start::Start),
    Stop(stop::Stop),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Status(status::Status),
    Top(top::Top),
    Verify(verify::Verify),
    Resync(resync::Resync),
    AddTables(add_tables::AddTables),
    RemoveTables(remove_tables::RemoveTables),
    ListTables(list_tables::ListTables),
    Clear(clear::Clear),
    Reset(reset::Reset),
    Audit(audit::Audit),
    Archive(archive::ArchiveVerbs),
    Sync(sync::Sync),
    Generations(generations::Generations),
    Rollback(rollback::Rollback),
    Token(token::Token),
    Password(token::Password),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Man),
}

/// How a verb ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A signal ended it; the exit status says which.
    Signalled(Signal),
}

impl Global {
    pub(crate) fn config(&self) -> Result<Config> {
        Config::load(self.config.as_deref(), &|name| std::env::var(name).ok())
    }

    pub(crate) fn pipeline(&self) -> Result<Pipeline> {
        self.config()?.pipeline(self.pipeline.as_deref()).cloned()
    }

    /// The log that was configured, moved by the command line. Never fails: what is wrong with the configuration is
    /// the verb's to say.
    pub fn log(&self) -> Log {
        const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        let mut log = self.config().map(|config| config.log).unwrap_or_default();
        match self.log_format {
            Some(LogFormatName::Text) => log.format = LogFormat::Text,
            Some(LogFormatName::Json) => log.format = LogFormat::Json,
            None => {}
        }
        let configured = LEVELS.iter().position(|level| *level == log.level).unwrap_or_default();
        let moved = (configured + usize::from(self.verbose)).saturating_sub(usize::from(self.quiet));
        log.level = LEVELS[moved.min(LEVELS.len() - 1)];
        log
    }
}

impl Cli {
    /// Does what was asked.
    pub async fn run(self) -> Result<Outcome> {
        let Some(verb) = self.verb else {
            output::text(&Cli::command().render_help().to_string())?;
            return Ok(Outcome::Done);
        };
        // Starting and syncing end in order on a signal; everything else is simply dropped.
        let verb = match verb {
            Verb::Start(start) => return Box::pin(start.run(&self.global)).await,
            Verb::Sync(sync) => return Box::pin(sync.run(&self.global)).await,
            // It waits for somebody who types, and a signal ends it there.
            Verb::Password(password) => return password.run(&self.global).map(|()| Outcome::Done),
            verb => verb,
        };
        let mut signals = signals::Signals::listen()?;
        tokio::select! {
            result = Box::pin(verb.run(&self.global)) => result.map(|()| Outcome::Done),
            signal = signals.next() => Ok(Outcome::Signalled(signal)),
        }
    }
}

impl Verb {
    async fn run(self, global: &Global) -> Result<()> {
        match self {
            Verb::Init(verb) => verb.run(),
            Verb::Check(verb) => verb.run(global).await,
            Verb::Setup(verb) => verb.run(global).await,
            Verb::Start(verb) => Box::pin(verb.run(global)).await.map(drop),
            Verb::Stop(verb) => verb.run(global).await,
            Verb::Pause(verb) => verb.run(global).await,
            Verb::Resume(verb) => verb.run(global).await,
            Verb::Status(verb) => verb.run(global).await,
            Verb::Top(verb) => Box::pin(verb.run(global)).await,
            Verb::Verify(verb) => verb.run(global).await,
            Verb::Resync(verb) => verb.run(global).await,
            Verb::AddTables(verb) => verb.run(global).await,
            Verb::RemoveTables(verb) => verb.run(global).await,
            Verb::ListTables(verb) => verb.run(global).await,
            Verb::Clear(verb) => verb.run(global).await,
            Verb::Reset(verb) => verb.run(global).await,
            Verb::Audit(verb) => verb.run(global).await,
            Verb::Archive(verb) => verb.run(global).await,
            Verb::Sync(verb) => Box::pin(verb.run(global)).await.map(drop),
            Verb::Generations(verb) => verb.run(global).await,
            Verb::Rollback(verb) => verb.run(global).await,
            Verb::Token(verb) => verb.run(global),
            Verb::Password(verb) => verb.run(global),
            Verb::Demo(verb) => verb.run().await,
            Verb::Completions(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
        }
    }
}

/// `schema.table` as an argument; a part in double quotes keeps its dots.
fn table_name(text: &str) -> Result<TableName, String> {
    let pattern = text.parse::<Pattern>().map_err(|error| error.what().to_owned())?;
    pattern.exact().ok_or_else(|| "one table is meant here, without * and ?".into())
}

#[cfg(test)]
mod tests;
