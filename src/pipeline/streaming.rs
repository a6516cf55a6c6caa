//! How a pipeline's slot is read, whatever is filled from it.

use std::time::Duration;

use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::session::Side;
use crate::pipeline::ends::Origin;
use crate::position::Lsn;
use crate::source::postgres::stream::{Format, Plugin, PostgresSource, StreamOptions};

/// What the source cannot decode, it cannot decode at the next attempt either.
pub(super) fn explained(pipeline: &Pipeline, error: Error) -> Error {
    let is_of_publication = error.what().contains("publication") && error.what().contains("does not exist");
    if error.sqlstate() == Some("42704") && is_of_publication {
        let publication = &pipeline.publication;
        return error.with_kind(Kind::Refused).hint(format!(
            "The source cannot decode what was written while \"{publication}\" did not exist, also when it is there \
             again. To copy everything anew: pgdiode reset --drop-slot, then pgdiode setup, then pgdiode start."
        ));
    }
    // An internal error of the server, met in its own log: what it is about only the server's log can say.
    let is_of_source = error.what().starts_with(Side::Source.name());
    if is_of_source && error.sqlstate().is_some_and(|state| state.starts_with("XX")) {
        return error.hint(
            "The source cannot decode its own log; see the server's log. If the next start fails likewise, copy \
             everything anew: pgdiode reset --drop-slot, then pgdiode start.",
        );
    }
    error
}

/// How the pipeline's slot is read from a position on.
pub(super) fn stream_options(pipeline: &Pipeline, from: Lsn, format: Format) -> StreamOptions {
    StreamOptions {
        slot: pipeline.slot.clone(),
        plugin: Plugin::Pgoutput { publication: pipeline.publication.clone() },
        from,
        format,
        spool_memory_max: mebibytes(pipeline.stream.spool_mb),
        spool_directory: pipeline.stream.spool_dir(),
    }
}

/// Starts streaming; a walsender of an earlier connection may hold the slot for a moment.
pub(super) async fn start_stream(origin: &Origin, options: StreamOptions) -> Result<PostgresSource> {
    const ATTEMPTS_MAX: u32 = 40;
    const PAUSE: Duration = Duration::from_millis(250);
    let mut attempts = 0;
    loop {
        match PostgresSource::start(&origin.0, options.clone()).await {
            Err(error) if error.sqlstate() == Some("55006") && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

pub(super) fn mebibytes(count: u64) -> usize {
    usize::try_from(count << 20).unwrap_or(usize::MAX)
}
