//! Asks each pipeline how it does, now and then, and what its replica takes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::member::{Member, Wish};
use super::schemas::{self, Compared};
use crate::config::Mode;
use crate::error::Result;
use crate::pipeline::{self, record};
use crate::snapshot;
use crate::status::fleet::{Duty, State};

/// How often a pipeline is asked, where there are few.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// What each configured pipeline adds to that: asking costs both servers a session.
const ASK_EVERY_EACH: Duration = Duration::from_millis(50);
/// Sizes and verifications change slowly.
const MEASURE_EVERY: u32 = 20;
/// Pipelines that are asked at the same time.
const AT_ONCE: usize = 8;
/// One that does not answer must not keep others from being asked.
const ANSWER_MAX: Duration = Duration::from_secs(20);

static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(AT_ONCE));

/// Asks until the member is to end; `count` is how many pipelines there are.
pub(super) async fn sample(member: Arc<Member>, count: usize) {
    let mut wishes = member.wish.subscribe();
    let every = ASK_EVERY.max(ASK_EVERY_EACH * u32::try_from(count).unwrap_or(u32::MAX));
    let mut turn = 0_u32;
    let mut compared = Compared::default();
    while *wishes.borrow_and_update() != Wish::End {
        let began = Instant::now();
        {
            // It is never closed.
            let _turn = TURNS.acquire().await;
            ask(&member).await;
            if turn.is_multiple_of(MEASURE_EVERY) {
                measure(&member).await;
            }
            schemas::compare(&member, &mut compared).await;
        }
        turn = turn.wrapping_add(1);
        // Others' turns come between, evenly: where asking takes long, it is done less often.
        let pause = every.max(began.elapsed() * 4);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = member.look.notified() => {}
            () = member.measure.notified() => turn = 0,
            () = ended(&mut wishes) => {}
        }
    }
}

async fn ended(wishes: &mut watch::Receiver<Wish>) {
    // The sender is the member's: it cannot be gone.
    let _ = wishes.wait_for(|wish| *wish == Wish::End).await;
}

async fn ask(member: &Member) {
    let state = async {
        let pipeline = &member.pipeline;
        if pipeline.mode == Mode::Snapshot {
            return snapshot::status(pipeline).await.map(|status| State::Snapshot(Box::new(status)));
        }
        pipeline::status(pipeline).await.map(|status| State::Stream(Box::new(status)))
    };
    match tokio::time::timeout(ANSWER_MAX, Box::pin(state)).await {
        Ok(state) => member.has_state(state),
        Err(_) => member.has_state(Err(crate::error::Error::unexpected(format!(
            "its status has not come for {} s",
            ANSWER_MAX.as_secs()
        ))
        .hint("see whether source and target answer: pgdiode check"))),
    }
}

/// What is measured seldom. That it could not be is told by the status.
async fn measure(member: &Member) {
    let measured = tokio::time::timeout(ANSWER_MAX, Box::pin(measured(member))).await;
    if let Ok(Err(error)) = measured {
        tracing::debug!(pipeline = member.pipeline.name, error = error.chain(), "it could not be measured");
    }
}

async fn measured(member: &Member) -> Result<()> {
    let pipeline = &member.pipeline;
    if !record::has_record(pipeline) {
        member.is_paused(record::pause_of(pipeline).await?);
        return Ok(());
    }
    let mut session = pipeline::audit_session(pipeline).await?;
    // A keeper looks more often; who only watches has none.
    member.is_paused(record::read_pause(&mut session, &pipeline.name).await?);
    member.was_verified(record::verification_of(&mut session, &pipeline.name).await?);
    let growth = record::growth_of(&mut session, &pipeline.name).await?;
    drop(session);
    let storage = pipeline::storage(pipeline, growth).await?;
    if let Some(storage) = &storage
        && member.duty() == Duty::Active
    {
        record::record_size(pipeline, storage.database_bytes).await?;
    }
    member.has_storage(storage);
    Ok(())
}
