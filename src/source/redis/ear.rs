//! Listening to a server, whatever it is that it tells: until the connection breaks, or is silent for too long.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::live::Live;
use crate::error::{Error, Kind, Result};
use crate::redis::connection::Connection;

/// A connection on which a server has begun to tell of changes.
pub trait Ear: Send + 'static {
    /// How often the server hears from us.
    const SPEAK_INTERVAL: Duration;
    /// Who is silent for so long is gone.
    const SILENCE_MAX: Duration;

    /// Waits for what comes before the changes.
    fn begin(&mut self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    fn connection(&mut self) -> &mut Connection;

    /// Takes what was received and is whole.
    fn hear(&mut self, live: &Live) -> impl Future<Output = Result<()>> + Send;

    /// Lets the server know that we are there.
    fn speak(&mut self, live: &Live) -> impl Future<Output = Result<()>> + Send;
}

/// Listens on a task of its own, which ends with why it ended. What is heard goes into `live`.
pub fn spawn(ear: impl Ear, live: Arc<Live>) -> JoinSet<Error> {
    let mut task = JoinSet::new();
    spawn_with(&mut task, ear, live);
    task
}

/// The same beside others.
pub fn spawn_with(tasks: &mut JoinSet<Error>, ear: impl Ear, live: Arc<Live>) {
    tasks.spawn(async move { listen(ear, &live).await });
}

async fn listen<E: Ear>(mut ear: E, live: &Live) -> Error {
    if let Err(error) = ear.begin().await {
        return error;
    }
    let mut ticks = interval(E::SPEAK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_heard = Instant::now();
    loop {
        let worked = tokio::select! {
            received = ear.connection().receive() => {
                last_heard = Instant::now();
                match received {
                    Ok(()) => ear.hear(live).await,
                    Err(error) => Err(error),
                }
            }
            _ = ticks.tick() => {
                if last_heard.elapsed() > E::SILENCE_MAX { Err(silent(E::SILENCE_MAX)) } else { ear.speak(live).await }
            }
        };
        if let Err(error) = worked {
            live.heard().dirty.forget_open();
            return error;
        }
    }
}

fn silent(patience: Duration) -> Error {
    let seconds = patience.as_secs();
    Error::new(Kind::SourceUnreachable, format!("nothing was heard from the Redis server for {seconds} s"))
}
