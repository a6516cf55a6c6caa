//! Pauses between attempts: twice as long after each failure, short again after an attempt that worked for a while.

use std::time::Duration;

use crate::config::Retry;
use crate::error::{Error, Result};

/// An attempt that streamed this long was a good one: the next pause is short again.
const GOOD_ATTEMPT: Duration = Duration::from_secs(10);

pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    pause: Duration,
    /// Failed attempts since one that streamed for a while.
    pub(super) retries: u64,
}

/// What is known of an attempt that failed.
pub(super) struct Failed {
    /// How long it streamed; `None` if it never came to that.
    pub(super) streamed: Option<Duration>,
    /// Nothing has worked yet: more likely a wrong address than an outage.
    pub(super) nothing_worked: bool,
    /// Nobody wants another attempt.
    pub(super) is_over: bool,
}

impl Backoff {
    pub(super) fn new(retry: &Retry) -> Backoff {
        let first = Duration::from_millis(retry.first_ms);
        Backoff { first, longest: Duration::from_millis(retry.max_ms), pause: first, retries: 0 }
    }

    /// How long to wait before the next attempt; the error, if there is to be none.
    pub(super) fn wait(&mut self, error: Error, failed: &Failed) -> Result<(Error, Duration)> {
        let streamed = failed.streamed.is_some_and(|streamed| streamed > GOOD_ATTEMPT);
        if streamed {
            (self.pause, self.retries) = (self.first, 0);
        }
        let is_first = self.retries == 0 && !streamed && failed.nothing_worked;
        if !error.retries() || is_first || failed.is_over {
            return Err(error);
        }
        self.retries += 1;
        // Half of it by chance, so that many pipelines do not come back in step.
        let wait = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(self.longest);
        tracing::warn!(
            error = error.chain(),
            retries = self.retries,
            wait_ms = wait.as_millis(),
            "trying again"
        );
        Ok((error, wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn lost() -> Error {
        Error::new(Kind::TargetUnreachable, "lost")
    }

    #[test]
    fn pauses_grow_and_a_good_attempt_makes_them_short_again() {
        let mut backoff = Backoff::new(&Retry { first_ms: 100, max_ms: 300 });
        let failed = |streamed| Failed { streamed, nothing_worked: false, is_over: false };
        for (least, most) in [(50, 100), (100, 200), (150, 300), (150, 300)] {
            let (_, wait) = backoff.wait(lost(), &failed(None)).unwrap();
            assert!((least..=most).contains(&wait.as_millis()), "{wait:?}");
        }
        let good = failed(Some(GOOD_ATTEMPT + Duration::from_secs(1)));
        assert!(backoff.wait(lost(), &good).unwrap().1.as_millis() <= 100);
        assert_eq!(backoff.retries, 1);
    }

    #[test]
    fn what_no_attempt_can_mend_is_not_tried_again() {
        let mut backoff = Backoff::new(&Retry::default());
        let went_on = Failed { streamed: None, nothing_worked: false, is_over: false };
        assert!(backoff.wait(Error::refused("no"), &went_on).is_err());
        assert!(backoff.wait(lost(), &Failed { nothing_worked: true, ..went_on }).is_err());
        let went_on = Failed { streamed: None, nothing_worked: false, is_over: true };
        assert!(backoff.wait(lost(), &went_on).is_err());
    }
}
