//! Keeps a timetable: waits for each due time, works, and tells what was missed.
//!
//! Due times are wall-clock times and the wall clock can jump, so that nobody sleeps for long: the next time is
//! computed anew at least every minute. Work that takes longer than the interval lets the times pass that come due
//! meanwhile; they are never queued.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{Timetable, utc};
use crate::config::Retry;
use crate::error::{Error, Kind, Result};

/// The longest sleep: a clock that was set is noticed this soon.
pub const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What time it is, and how it passes.
pub trait Clock {
    fn now(&self) -> Timestamp;
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Works at each due time until `stop` holds true; fails only with what no later time can mend. Work is never
/// dropped: it hears of `stop` itself.
pub async fn keep<C: Clock>(
    timetable: Timetable,
    retry: &Retry,
    clock: &C,
    stop: watch::Receiver<bool>,
    work: impl AsyncFnMut(Timestamp) -> Result<()>,
) -> Result<()> {
    let mut keeper = Keeper { timetable, retry, clock, stop, work };
    while !keeper.is_stopped() {
        let now = clock.now();
        match keeper.timetable.due(now) {
            Some(due) => keeper.turn(due).await?,
            None => keeper.sleep(keeper.until_the_next(now)).await,
        }
    }
    Ok(())
}

struct Keeper<'a, C, W> {
    timetable: Timetable,
    retry: &'a Retry,
    clock: &'a C,
    stop: watch::Receiver<bool>,
    work: W,
}

impl<C: Clock, W: AsyncFnMut(Timestamp) -> Result<()>> Keeper<'_, C, W> {
    /// One due time: a broken connection is tried again until the next one comes.
    async fn turn(&mut self, due: Timestamp) -> Result<()> {
        let end = self.timetable.next(self.clock.now());
        let mut pause = Duration::from_millis(self.retry.first_ms);
        while let Err(error) = (self.work)(due).await {
            let fits = end.is_none_or(|end| after(self.clock.now(), pause) < end);
            match error.kind() {
                Kind::Config => return Err(error),
                Kind::Locked => tracing::info!("skipped: {}", error.chain()),
                _ if error.retries() && fits && !self.is_stopped() => {
                    tracing::warn!(
                        error = error.chain(),
                        "it is tried again in {:.1} s",
                        pause.as_secs_f64()
                    );
                    self.sleep(pause.min(LOOK_EVERY)).await;
                    pause = (pause * 2).min(Duration::from_millis(self.retry.max_ms));
                    if !self.is_stopped() {
                        continue;
                    }
                }
                _ => tell(&error),
            }
            break;
        }
        let missed = self.timetable.skip(self.clock.now());
        if missed > 0 {
            tracing::warn!(missed, "it took beyond the next due time, which was skipped");
        }
        if let Some(next) = self.timetable.next(self.clock.now()) {
            tracing::info!("the next is due at {}", utc(next));
        }
        Ok(())
    }

    fn until_the_next(&self, now: Timestamp) -> Duration {
        let next = self.timetable.next(now).map(|next| now.duration_until(next));
        next.and_then(|next| Duration::try_from(next).ok()).map_or(LOOK_EVERY, |next| next.min(LOOK_EVERY))
    }

    async fn sleep(&mut self, duration: Duration) {
        tokio::select! {
            () = self.clock.sleep(duration) => {}
            // Nobody is left who could ask: then the sleep is all there is.
            is_gone = async { self.stop.wait_for(|stop| *stop).await.is_err() } => if is_gone { self.clock.sleep(duration).await },
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

fn tell(error: &Error) {
    tracing::error!(hint = error.hint_text(), "{}", error.chain());
}

fn after(now: Timestamp, pause: Duration) -> Timestamp {
    SignedDuration::try_from(pause)
        .ok()
        .and_then(|pause| now.checked_add(pause).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::schedule::Schedule;

    /// Time passes by sleeping alone, and jumps where it is told to.
    struct Scripted {
        now: RefCell<Timestamp>,
        /// When the clock is to jump, and to when; the next one last.
        jumps: RefCell<Vec<(Timestamp, Timestamp)>>,
        longest: RefCell<Duration>,
    }

    impl Scripted {
        fn pass(&self, duration: Duration) {
            let mut now = self.now.borrow_mut();
            *now = after(*now, duration);
            let mut jumps = self.jumps.borrow_mut();
            if let Some((_, to)) = jumps.pop_if(|(at, _)| *at <= *now) {
                *now = to;
            }
        }
    }

    impl Clock for Scripted {
        fn now(&self) -> Timestamp {
            *self.now.borrow()
        }

        async fn sleep(&self, duration: Duration) {
            let longest = (*self.longest.borrow()).max(duration);
            *self.longest.borrow_mut() = longest;
            self.pass(duration);
            // Never in a row without letting others in.
            tokio::task::yield_now().await;
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const START: &str = "2026-01-01T01:00:00Z";

    /// Every six hours from 01:00 on, until so many times have been worked at. Gives when each began, and which was due.
    async fn works(
        jumps: &[(&str, &str)],
        turns: usize,
        work: impl Fn(usize, &Scripted) -> Result<()>,
    ) -> (Vec<(String, String)>, Result<()>) {
        let clock = Scripted {
            now: RefCell::new(at(START)),
            jumps: RefCell::new(jumps.iter().rev().map(|(from, to)| (at(from), at(to))).collect()),
            longest: RefCell::default(),
        };
        let schedule = Schedule::parse("0 */6 * * *", "UTC").unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut began = Vec::new();
        let kept =
            keep(Timetable::from(schedule, clock.now()), &Retry::default(), &clock, stopped, async |due| {
                began.push((utc(clock.now()), utc(due)));
                if began.len() == turns {
                    stop.send_replace(true);
                }
                work(began.len(), &clock)
            })
            .await;
        assert!(*clock.longest.borrow() <= LOOK_EVERY);
        (began, kept)
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(now, due)| (format!("2026-01-{now}:00Z"), format!("2026-01-{due}:00Z")))
            .collect()
    }

    #[tokio::test]
    async fn it_works_at_each_due_time() {
        let (began, kept) = works(&[], 3, |_, _| Ok(())).await;
        kept.unwrap();
        assert_eq!(
            began,
            pairs(&[("01T06:00", "01T06:00"), ("01T12:00", "01T12:00"), ("01T18:00", "01T18:00")])
        );
    }

    #[tokio::test]
    async fn a_clock_that_jumps_ahead_brings_one_run() {
        let jumps = [("2026-01-01T05:00:00Z", "2026-01-02T13:00:00Z")];
        let (began, _) = works(&jumps, 2, |_, _| Ok(())).await;
        assert_eq!(began, pairs(&[("02T13:00", "02T12:00"), ("02T18:00", "02T18:00")]));
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_brings_none_again() {
        let jumps = [("2026-01-01T12:30:00Z", "2026-01-01T05:30:00Z")];
        let (began, _) = works(&jumps, 3, |_, _| Ok(())).await;
        assert_eq!(
            began,
            pairs(&[("01T06:00", "01T06:00"), ("01T12:00", "01T12:00"), ("01T18:00", "01T18:00")])
        );
    }

    #[tokio::test]
    async fn what_comes_due_during_work_is_skipped_and_never_queued() {
        let (began, _) = works(&[], 2, |turn, clock| {
            if turn == 1 {
                clock.pass(Duration::from_hours(13));
            }
            Ok(())
        })
        .await;
        assert_eq!(began, pairs(&[("01T06:00", "01T06:00"), ("02T00:00", "02T00:00")]));
    }

    #[tokio::test]
    async fn a_failure_waits_for_the_next_time() {
        for error in [Error::unexpected, Error::refused] {
            let fail =
                |turn, _: &Scripted| if turn == 1 { Err(error("a reason".to_owned())) } else { Ok(()) };
            let (began, kept) = works(&[], 2, fail).await;
            kept.unwrap();
            assert_eq!(began, pairs(&[("01T06:00", "01T06:00"), ("01T12:00", "01T12:00")]));
        }
        let locked =
            |turn, _: &Scripted| if turn == 1 { Err(Error::new(Kind::Locked, "held")) } else { Ok(()) };
        assert_eq!(works(&[], 2, locked).await.0.len(), 2);
    }

    #[tokio::test]
    async fn a_broken_connection_is_tried_again_until_the_next_time() {
        let gone = || Err(Error::new(Kind::SourceUnreachable, "gone"));
        let (began, _) = works(&[], 4, |turn, _| if turn < 4 { gone() } else { Ok(()) }).await;
        assert!(began.iter().all(|(_, due)| due == "2026-01-01T06:00:00Z"), "{began:?}");
        assert!(began[3].0.starts_with("2026-01-01T06:00:0"), "{began:?}");

        let (began, _) = works(&[], 1000, |_, _| gone()).await;
        let second = began.iter().find(|(_, due)| due != &began[0].1).unwrap();
        assert_eq!(second, &("2026-01-01T12:00:00Z".into(), "2026-01-01T12:00:00Z".into()));
    }

    #[tokio::test]
    async fn what_no_later_time_can_mend_ends_it() {
        let (began, kept) = works(&[], 5, |_, _| Err(Error::config("no"))).await;
        assert_eq!((began.len(), kept.unwrap_err().kind()), (1, Kind::Config));
    }

    #[tokio::test]
    async fn it_stops_at_once_while_it_waits() {
        let schedule = Schedule::parse("0 0 1 1 *", "UTC").unwrap();
        let (stop, stopped) = watch::channel(false);
        let (timetable, retry) = (Timetable::from(schedule, at(START)), Retry::default());
        let kept = keep(timetable, &retry, &WallClock, stopped, async |_| Ok(()));
        // The real clock: whoever did not hear would sleep for a minute, longer than this is waited for.
        let asked = async {
            tokio::task::yield_now().await;
            stop.send_replace(true);
        };
        let both = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(kept, asked).0 });
        both.await.expect("it hears at once").unwrap();
    }
}
