//! `pgdiode status`: how a pipeline does.

use std::io::IsTerminal;
use std::time::Duration;

use super::{Global, output, report};
use crate::config::{Mode, Pipeline};
use crate::error::Result;
use crate::{pipeline, snapshot};

/// Show how far a pipeline has come
///
/// Phase, position and lag, what the slot makes the source keep, and each table's state and counts.
#[derive(Debug, clap::Args)]
#[command(after_long_help = concat!(
    "\
Changes: nothing.

Examples:
  pgdiode status
  pgdiode status --watch=5
  pgdiode status --json | jq .lag_seconds

With several pipelines and no --pipeline, shows all; --json then prints one object a line. --watch --json prints one \
object a line, each time.

",
    exit_statuses!()
))]
pub struct Status {
    /// Show it again and again, every 2 seconds or as given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

/// Moves to the top left and clears to the end of the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

impl Status {
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        let config = global.config()?;
        let pipelines: Vec<&Pipeline> = match &global.pipeline {
            Some(name) => vec![config.pipeline(Some(name))?],
            None => config.pipelines.iter().collect(),
        };
        let Some(seconds) = self.watch else { return show(&pipelines, global.json, "").await };
        let clear = if std::io::stdout().is_terminal() && !global.json { CLEAR } else { "" };
        loop {
            // Somebody who watches wants to see it come back.
            match show(&pipelines, global.json, clear).await {
                Err(error) if error.retries() => report(&error, global.json),
                shown => shown?,
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }
}

impl Status {
    /// What `pgdiode sync --status` shows.
    pub(super) async fn once(global: &Global) -> Result<()> {
        Box::pin(Status { watch: None }.run(global)).await
    }
}

/// Its status as one line of JSON, or as text.
async fn told(pipeline: &Pipeline, as_json: bool) -> Result<Option<String>> {
    if pipeline.mode == Mode::Snapshot {
        let status = snapshot::status(pipeline).await?;
        return if as_json {
            output::json_line(&status).map(|()| None)
        } else {
            Ok(Some(status.text(output::paint())))
        };
    }
    if pipeline.is_whitelisted && !as_json {
        return Ok(Some(pipeline::syncdata_status(pipeline).await?.text()));
    }
    let status = pipeline::status(pipeline).await?;
    if as_json { output::json_line(&status).map(|()| None) } else { Ok(Some(status.text(output::paint()))) }
}

/// Shows what can be shown, then fails with the first failure.
async fn show(pipelines: &[&Pipeline], as_json: bool, before: &str) -> Result<()> {
    let mut texts = Vec::with_capacity(pipelines.len());
    let mut failure = None;
    for pipeline in pipelines {
        match told(pipeline, as_json).await {
            Ok(text) => texts.extend(text),
            Err(error) => {
                let error = if pipelines.len() > 1 {
                    error.context(format!("pipeline \"{}\"", pipeline.name))
                } else {
                    error
                };
                failure.get_or_insert(error);
            }
        }
    }
    if !as_json {
        output::text(&format!("{before}{}", texts.join("\n")))?;
    }
    failure.map_or(Ok(()), Err)
}
