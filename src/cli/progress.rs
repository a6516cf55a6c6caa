//! Shows where a run is: a bar on a terminal, otherwise a log line every few seconds.
//!
//! The bar and the log share standard error; [`LogWriter`] lifts the bar while a log line is written.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::status::text::{bytes, count, duration, lag, printable, several};
use crate::status::{Phase, Progress};

/// Between two redraws: faster than an eye needs costs the pipeline time.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Tables named beside the bar.
const CURRENT_MAX: usize = 3;

/// What is drawn on standard error; one, because there is one terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Shows until the sender is gone; without a terminal, a log line every so often and at each new phase.
pub(super) async fn show(receiver: watch::Receiver<Progress>, line_every: Duration) {
    if io::stderr().is_terminal() && tracing::enabled!(tracing::Level::INFO) {
        draw(receiver).await;
    } else {
        tell(receiver, line_every).await;
    }
}

async fn draw(mut receiver: watch::Receiver<Progress>) {
    let bar = Bar(BARS.add(ProgressBar::new_spinner()));
    while receiver.changed().await.is_ok() {
        let progress = receiver.borrow_and_update().clone();
        let known = progress.phase == Phase::Copying && progress.bytes_total > 0;
        let template = if known { "{bar:30} {wide_msg}" } else { "{spinner} {wide_msg}" };
        // The templates are ours, and correct.
        bar.0.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.0.set_length(progress.bytes_total.max(1));
        bar.0.set_position(progress.bytes.min(progress.bytes_total));
        bar.0.set_message(line(&progress));
        bar.0.tick();
        tokio::time::sleep(DRAW_EVERY).await;
    }
}

/// Leaves a clean terminal when the display is dropped, as it is when a run ends.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        BARS.remove(&self.0);
    }
}

async fn tell(mut receiver: watch::Receiver<Progress>, line_every: Duration) {
    let mut told: Option<(Phase, Instant)> = None;
    while receiver.changed().await.is_ok() {
        let progress = receiver.borrow_and_update().clone();
        let due = told.is_none_or(|(phase, at)| phase != progress.phase || at.elapsed() >= line_every);
        if due {
            tracing::info!("{}", line(&progress));
            told = Some((progress.phase, Instant::now()));
        }
    }
}

/// A run's progress on one line.
fn line(progress: &Progress) -> String {
    let mut parts = vec![progress.phase.words().to_owned()];
    if !progress.doing.is_empty() {
        parts.push(printable(&progress.doing).into_owned());
    }
    if progress.phase == Phase::Copying {
        copied(&mut parts, progress);
    } else {
        streamed(&mut parts, progress);
    }
    parts.join("  ")
}

fn copied(parts: &mut Vec<String>, progress: &Progress) {
    parts.push(format!("{} of {}", count(progress.tables_done), several(progress.tables_total, "table")));
    parts.push(several(progress.rows, "row"));
    parts.push(match progress.bytes_total {
        0 => bytes(progress.bytes),
        // The total is an estimate and may be exceeded.
        total => format!(
            "{} of {} ({} %)",
            bytes(progress.bytes),
            bytes(total),
            (u128::from(progress.bytes) * 100 / u128::from(total)).min(99)
        ),
    });
    if progress.bytes_per_second > 0 {
        parts.push(format!("{}/s", bytes(progress.bytes_per_second)));
    }
    if let Some(eta) = progress.eta_seconds {
        parts.push(format!("{} left", duration(eta)));
    }
    if !progress.current.is_empty() {
        let named: Vec<_> = progress.current.iter().take(CURRENT_MAX).map(|name| printable(name)).collect();
        let more = if progress.current.len() > CURRENT_MAX { ", ..." } else { "" };
        parts.push(format!("{}{more}", named.join(", ")));
    }
}

fn streamed(parts: &mut Vec<String>, progress: &Progress) {
    if let Some(position) = progress.position {
        parts.push(format!("at {position}"));
    }
    if let Some(lag) = lag(progress.lag_bytes, progress.lag_seconds) {
        parts.push(format!("lag {lag}"));
    }
    if progress.transactions > 0 {
        parts.push(several(progress.transactions, "transaction"));
        parts.push(format!(
            "{} ({}/s)",
            several(progress.changes, "change"),
            count(progress.changes_per_second)
        ));
    }
}

/// While something has the whole terminal, a log line would be in its way.
static IS_HIDDEN: AtomicBool = AtomicBool::new(false);

/// Writes nothing beside the display any more, until [`unhide`].
pub(super) fn hide() {
    IS_HIDDEN.store(true, Ordering::Relaxed);
}

pub(super) fn unhide() {
    IS_HIDDEN.store(false, Ordering::Relaxed);
}

/// Writes to standard error with the bar lifted.
pub(super) fn beside(text: &[u8]) -> io::Result<()> {
    if IS_HIDDEN.load(Ordering::Relaxed) {
        return Ok(());
    }
    BARS.suspend(|| io::stderr().write_all(text))
}

/// Where log lines go.
#[derive(Debug, Clone, Copy)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        beside(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    #[test]
    fn a_copy_is_told_on_one_line() {
        let progress = Progress {
            phase: Phase::Copying,
            tables_done: 3,
            tables_total: 12,
            rows: 1_234_567,
            bytes: 1 << 30,
            bytes_total: 4 << 30,
            bytes_per_second: 85 << 20,
            eta_seconds: Some(36),
            current: ["a", "b", "c", "d"].map(Into::into).into(),
            ..Progress::default()
        };
        assert_eq!(
            line(&progress),
            "copying  3 of 12 tables  1,234,567 rows  1 GB of 4 GB (25 %)  85 MB/s  36 s left  a, b, c, ..."
        );
        let unknown = Progress {
            phase: Phase::Copying,
            doing: "building indexes".into(),
            tables_total: 1,
            ..Progress::default()
        };
        assert_eq!(line(&unknown), "copying  building indexes  0 of 1 table  0 rows  0 B");
        let exceeded = Progress { phase: Phase::Copying, bytes: 30, bytes_total: 20, ..Progress::default() };
        assert!(line(&exceeded).contains("(99 %)"));
    }

    #[test]
    fn a_stream_is_told_on_one_line() {
        let progress = Progress {
            phase: Phase::Streaming,
            position: Some(Lsn(0x16_B374_D848)),
            lag_bytes: Some(0),
            lag_seconds: Some(0.03),
            transactions: 123,
            changes: 4567,
            changes_per_second: 89,
            ..Progress::default()
        };
        assert_eq!(
            line(&progress),
            "streaming  at 16/B374D848  lag 0 B, 0.03 s  123 transactions  4,567 changes (89/s)"
        );
    }

    #[tokio::test]
    async fn showing_ends_with_its_sender() {
        let (sender, receiver) = watch::channel(Progress::default());
        sender.send_replace(Progress { phase: Phase::Copying, ..Progress::default() });
        drop(sender);
        show(receiver, Duration::from_secs(10)).await;
    }
}
