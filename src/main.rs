//! Parses the command line, sets up the log and turns what happened into an exit status.

use std::process::ExitCode;

use clap::Parser;
use pgdiode::cli::{self, Cli, LogWriter, Outcome};
use pgdiode::config::{Level, Log, LogFormat};
use tracing_subscriber::filter::LevelFilter;

/// Gives memory back soon after a large transaction, where the C library's allocator keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return cli::report_usage(&usage),
    };
    let as_json = cli.global.json;
    log_to_stderr(&cli.global.log());
    match Box::pin(cli.run()).await {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Signalled(signal)) => ExitCode::from(signal.exit_status()),
        Err(error) if cli::succeeded_anyway(&error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::report(&error, as_json);
            ExitCode::from(error.kind().exit_status())
        }
    }
}

fn log_to_stderr(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let log_lines =
        tracing_subscriber::fmt().with_max_level(level).with_writer(|| LogWriter).with_target(false);
    match log.format {
        LogFormat::Text => log_lines.with_ansi(cli::stderr_is_coloured()).init(),
        LogFormat::Json => log_lines.json().flatten_event(true).init(),
    }
}
