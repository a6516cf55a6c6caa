//! Keeps one pipeline running: stands by while another process does, rests while it is paused, and starts it again
//! after whatever ended it.

use std::time::Duration;

use tokio::sync::watch;

use super::member::{Member, Wish};
use crate::audit;
use crate::config::Mode;
use crate::error::{Kind, Result};
use crate::pipeline::{self, record};
use crate::status::fleet::Duty;
use crate::status::{Progress, StopReason, Until};

/// How soon a standby notices that nobody runs the pipeline any more, and everybody a pause.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// After an error that trying again at once cannot help; doubled each time.
const RESTART_FIRST: Duration = Duration::from_secs(10);
const RESTART_MAX: Duration = Duration::from_mins(5);

/// Runs until the member is to end.
pub(super) async fn keep(member: std::sync::Arc<Member>) {
    let mut wishes = member.wish.subscribe();
    let mut restart = RESTART_FIRST;
    loop {
        let wish = *wishes.borrow_and_update();
        match wish {
            Wish::End => break,
            Wish::Rest => {
                member.has_duty(Duty::Idle);
                // The sender is the member's: it cannot be gone.
                let _ = wishes.wait_for(|wish| *wish != Wish::Rest).await;
                continue;
            }
            Wish::Run => {}
        }
        // By hand alone: nothing is to be kept.
        if pipeline::refuse_start(&member.pipeline).is_err() {
            look_for_pause(&member).await;
            rest(&member, LOOK_EVERY).await;
            continue;
        }
        match may_run(&member).await {
            Ok(true) => {}
            Ok(false) => {
                rest(&member, LOOK_EVERY).await;
                continue;
            }
            Err(error) => {
                member.has_duty(Duty::Idle);
                member.failed(&error, Some(LOOK_EVERY));
                rest(&member, LOOK_EVERY).await;
                continue;
            }
        }
        if *wishes.borrow() != Wish::Run {
            continue;
        }
        member.has_duty(Duty::Active);
        let ended = run(&member).await;
        match ended {
            Ok(StopReason::Asked) => {
                tracing::info!(
                    pipeline = member.pipeline.name,
                    "it was asked to stop, and rests until resumed"
                );
                member.wish.send_if_modified(|wish| {
                    let rests = *wish == Wish::Run;
                    if rests {
                        *wish = Wish::Rest;
                    }
                    rests
                });
                member.works();
            }
            Ok(_) => restart = RESTART_FIRST,
            Err(error) if error.kind() == Kind::Locked => member.has_duty(Duty::Standby),
            Err(error) => {
                tracing::error!(
                    pipeline = member.pipeline.name,
                    hint = error.hint_text(),
                    "{}; it is tried again in {} s",
                    error.chain(),
                    restart.as_secs()
                );
                member.has_duty(Duty::Idle);
                member.failed(&error, Some(restart));
                rest(&member, restart).await;
                restart = (restart * 2).min(RESTART_MAX);
                continue;
            }
        }
        member.has_duty(Duty::Idle);
    }
    member.has_duty(Duty::Idle);
}

/// Waits, unless something is wished meanwhile.
async fn rest(member: &Member, most: Duration) {
    // A wish that came before is nudged for as well: no waiting for what has happened.
    tokio::select! {
        () = tokio::time::sleep(most) => {}
        () = member.nudge.notified() => {}
    }
}

async fn look_for_pause(member: &Member) {
    if let Ok(pause) = record::pause_of(&member.pipeline).await {
        member.is_paused(pause);
    }
}

/// Whether it is our turn: it is not paused, and nobody else runs it.
async fn may_run(member: &Member) -> Result<bool> {
    let pause = record::pause_of(&member.pipeline).await?;
    let is_paused = pause.is_some();
    member.is_paused(pause);
    if is_paused {
        member.has_duty(Duty::Idle);
        member.works();
        return Ok(false);
    }
    if member.pipeline.mode == Mode::Snapshot {
        return Ok(true);
    }
    let is_free = pipeline::running(&member.pipeline).await?.is_none();
    if !is_free {
        member.works();
        member.has_duty(Duty::Standby);
    }
    Ok(is_free)
}

/// One run, to its end.
async fn run(member: &Member) -> Result<StopReason> {
    let (sender, mut progress) = watch::channel(Progress::default());
    let stop = async {
        let mut wishes = member.wish.subscribe();
        let mut paused = member.paused();
        tokio::select! {
            _ = wishes.wait_for(|wish| *wish != Wish::Run) => {}
            _ = paused.wait_for(Option::is_some) => {}
            pause = record::until_paused(&member.pipeline, LOOK_EVERY) => member.is_paused(Some(pause)),
        }
    };
    let started = pipeline::start(&member.pipeline, Until::Stopped, sender, stop);
    let mut work = Box::pin(audit::because(member.reason(), started));
    loop {
        tokio::select! {
            biased;
            ended = &mut work => return ended.map(|stopped| stopped.reason),
            changed = progress.changed() => match changed {
                Ok(()) => member.progresses(progress.borrow_and_update().clone()),
                Err(_) => return work.await.map(|stopped| stopped.reason),
            },
        }
    }
}
