//! `pgdiode start` of all pipelines: the daemon, its door, and what the system tells it by signals.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::signals::Signals;
use super::{Global, Outcome, output};
use crate::config::{Config, ServerOptions};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::http;

/// Runs everything until a signal ends it.
pub(super) async fn run(
    global: &Global,
    config: Config,
    server: Option<ServerOptions>,
    reason: Option<String>,
) -> Result<Outcome> {
    let mut signals = Signals::listen()?;
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Error::unexpected("cannot listen for signals").because(error))?;
    let (ends, ending) = watch::channel(false);
    // What is wrong with the door is said before anything runs.
    let door = match &server {
        Some(options) => Some(http::Entrance::open(options).await?),
        None => None,
    };
    let path = global.config.clone();
    let reread = move || Config::load(path.as_deref(), &|name| std::env::var(name).ok());
    let names: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    output::note(&format!("running {}", names.join(", ")));
    let daemon = Daemon::start(config, Box::new(reread), reason);
    let serving = door.map(|door| {
        output::note(&format!("console, API and metrics: {}", door.address()));
        tokio::spawn(door.serve(daemon.clone(), ending))
    });
    tells_systemd();
    let first = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            _ = hangup.recv() => reload(&daemon).await,
        }
    };
    output::note("stopping after the last commits; a second signal stops at once");
    tell(&[NotifyState::Stopping]);
    let end = async {
        daemon.end().await;
        ends.send_replace(true);
        if let Some(serving) = serving {
            // It ends by itself; a panic of it is no reason to end badly.
            let _ = serving.await;
        }
    };
    Ok(Outcome::Signalled(tokio::select! {
        () = end => first,
        second = signals.next() => second,
    }))
}

async fn reload(daemon: &Daemon) {
    tell(&[NotifyState::Reloading]);
    match daemon.reload().await {
        Ok(reloaded) => tracing::info!(
            added = reloaded.added.join(", "),
            removed = reloaded.removed.join(", "),
            changed = reloaded.changed.join(", "),
            from_the_next_start = reloaded.from_the_next_start.join(", "),
            "the configuration was read again"
        ),
        Err(error) => {
            tracing::error!(hint = error.hint_text(), "the configuration stays as it was: {}", error.chain());
        }
    }
    tell(&[NotifyState::Ready]);
}

/// Tells systemd, where that has started the process.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}

/// Says to systemd, where that has started the process, that it runs, and from then on that it is alive.
pub(super) fn tells_systemd() {
    tell(&[NotifyState::Ready]);
    tokio::spawn(stays_alive());
}

/// Says to systemd's watchdog that the process is alive, as often as that wants to hear it.
async fn stays_alive() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// What `--pipeline` and `--until-lsn` are for is one pipeline; everything else is the daemon's.
pub(super) fn is_meant(global: &Global, config: &Config, server: Option<&ServerOptions>) -> bool {
    global.pipeline.is_none() && (server.is_some() || config.pipelines.len() > 1)
}
