//! A look at every key: of the server first, then those that the target knows and the server no longer has.
//!
//! ```text
//! scan each database  ->  count known keys that are gone  ->  too many? stop and ask  ->  remove them
//! ```
//!
//! A primary that was restarted without its data looks like one where everything was deleted. Nobody but an operator can
//! tell these apart, so nothing is removed where more is gone than expected. Keys whose time has come do not count, nor
//! those of a database that somebody emptied while we listened: what was done before the keys were counted is heard first,
//! and then they are counted again.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::apply::Work;
use crate::error::{Error, Result};
use crate::keyspace::{Key, KeyId};
use crate::source::redis::dirty::Pending;
use crate::source::redis::mapping::Mapper;
use crate::source::redis::scan::Scan;
use crate::source::redis::server::Server;

/// With fewer known keys a mapping is being tried out.
const GUARDED_FROM_KEYS: u64 = 100;
/// News of what made many keys disappear, where no history says how far it was heard, comes within moments.
const NEWS_DELAY: Duration = Duration::from_secs(3);
/// So many answers of `SCAN` make one batch, if they have keys for it: meanwhile nobody applies what is heard.
const SCANS_A_STEP: usize = 16;
/// Known keys that are asked about at once.
const PAGE_KEYS: usize = 2000;
/// How soon what was heard is looked at again.
const DOUBT_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Survey {
    /// The position counts as whole only once it is done.
    pub(super) is_owed: bool,
    databases: BTreeSet<u32>,
    /// Databases whose keys may all be gone.
    emptied: BTreeSet<u32>,
    globs: Vec<Vec<u8>>,
    stage: Stage,
    /// Not before: a survey that nobody waits for is done slowly.
    pause_until: Instant,
}

enum Stage {
    /// With the databases that follow.
    Scanning {
        scan: Scan,
        then: Vec<u32>,
    },
    Counting {
        after: Option<KeyId>,
        counted: Counted,
        /// Everything was heard that happened before a first count.
        is_sure: bool,
    },
    /// Too many are gone: until everything up to this offset was heard.
    Doubting {
        until: u64,
    },
    Removing {
        after: Option<KeyId>,
    },
}

impl Stage {
    fn counting(is_sure: bool) -> Stage {
        Stage::Counting { after: None, counted: Counted::default(), is_sure }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    known: u64,
    /// Of these, gone; and gone though nothing said that they would be.
    gone: u64,
    unexpected: u64,
}

impl Survey {
    /// Looks at all keys once in a while.
    pub(super) fn routine(mapper: &Mapper) -> Survey {
        Survey::new(mapper, mapper.databases().iter().copied().collect(), BTreeSet::new(), false)
    }

    /// Looks at all keys of `databases`, and at what a survey before it had to look at.
    pub(super) fn owed(
        mapper: &Mapper,
        before: Option<Survey>,
        mut databases: BTreeSet<u32>,
        mut emptied: BTreeSet<u32>,
    ) -> Survey {
        if let Some(before) = before {
            databases.extend(before.databases);
            emptied.extend(before.emptied);
        }
        Survey::new(mapper, databases, emptied, true)
    }

    fn new(mapper: &Mapper, databases: BTreeSet<u32>, emptied: BTreeSet<u32>, is_owed: bool) -> Survey {
        let globs = mapper.globs();
        let mut then: Vec<u32> = databases.iter().rev().copied().collect();
        let stage = match then.pop() {
            Some(first) => Stage::Scanning { scan: Scan::new(first, &globs), then },
            None => Stage::counting(false),
        };
        Survey { is_owed, databases, emptied, globs, stage, pause_until: Instant::now() }
    }

    pub(super) fn goes_on_at(&self) -> Instant {
        self.pause_until
    }
}

impl Work<'_> {
    /// Goes on with the survey by a few keys; false while it pauses.
    pub(super) async fn survey_step(&mut self) -> Result<bool> {
        let Some(mut survey) = self.survey.take_if(|survey| survey.pause_until <= Instant::now()) else {
            return Ok(false);
        };
        let is_owed = survey.is_owed;
        let looked = self.advance(&mut survey).await;
        // Whatever happens, what is owed stays owed.
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.survey = Some(survey);
                return Err(error);
            }
        };
        match looked {
            Some(keys) => {
                if !is_owed {
                    survey.pause_until = survey.pause_until.max(Instant::now() + self.pace(keys));
                }
                self.survey = Some(survey);
            }
            None => {
                self.end_survey();
                if is_owed {
                    self.position.is_scanned = true;
                    self.store_idle(Duration::ZERO).await?;
                    // It may have found nothing to store.
                    self.show();
                }
            }
        }
        Ok(true)
    }

    /// How long so many keys are to take at least, where nobody waits.
    fn pace(&self, keys: usize) -> Duration {
        let a_second = self.pipeline.redis.reconcile_keys_per_second.max(1);
        Duration::from_micros((keys as u64).saturating_mul(1_000_000) / a_second)
    }

    /// The keys that it looked at; nothing once the survey is done.
    async fn advance(&mut self, survey: &mut Survey) -> Result<Option<usize>> {
        match &mut survey.stage {
            Stage::Scanning { scan, then } => {
                let mut keys = Vec::new();
                for _ in 0..SCANS_A_STEP {
                    let Some(more) = self.fetcher.scan(scan).await? else { break };
                    keys.extend(more.into_iter().filter(|key| self.mapper.wants(key.database, &key.name)));
                    if keys.len() >= self.batch_keys() {
                        break;
                    }
                }
                if !keys.is_empty() || !scan.is_over() {
                    return self.look_at_all(keys, survey.is_owed).await.map(Some);
                }
                survey.stage = match then.pop() {
                    Some(next) => {
                        Stage::Scanning { scan: Scan::new(next, &survey.globs), then: std::mem::take(then) }
                    }
                    None => Stage::counting(false),
                };
                Ok(Some(0))
            }
            Stage::Doubting { until } => {
                if self.position.offset < *until {
                    survey.pause_until = Instant::now() + DOUBT_PAUSE;
                } else {
                    survey.stage = Stage::counting(true);
                }
                Ok(Some(0))
            }
            Stage::Counting { after, counted, is_sure } => {
                let page = self.target.page(*after, PAGE_KEYS).await?;
                let Some((last, _)) = page.last() else {
                    let (counted, is_sure) = (*counted, *is_sure);
                    if let Err(error) = self.refuse_mass_disappearance(counted) {
                        if is_sure {
                            return Err(error);
                        }
                        let until = self.history_end().await?;
                        if until.is_none() {
                            survey.pause_until = Instant::now() + NEWS_DELAY;
                        }
                        survey.stage = Stage::Doubting { until: until.unwrap_or(0) };
                        return Ok(Some(0));
                    }
                    if counted.gone == 0 {
                        return Ok(None);
                    }
                    survey.stage = Stage::Removing { after: None };
                    return Ok(Some(0));
                };
                *after = Some(*last);
                let known = page.len() as u64;
                let gone = self.gone_of(page, &survey.databases).await?;
                let ids: Vec<KeyId> = gone.iter().map(Key::id).collect();
                let stored = self.target.known(&ids).await?;
                let now = self.live.now();
                let is_expected = |(key, id): &(&Key, &KeyId)| {
                    survey.emptied.contains(&key.database)
                        || stored.get(id).and_then(|known| known.expires_at).is_some_and(|at| at <= now)
                };
                let unexpected = gone.iter().zip(&ids).filter(|pair| !is_expected(pair)).count() as u64;
                counted.known += known;
                counted.gone += gone.len() as u64;
                counted.unexpected += unexpected;
                Ok(Some(PAGE_KEYS))
            }
            Stage::Removing { after } => {
                let page = self.target.page(*after, PAGE_KEYS).await?;
                let Some((last, _)) = page.last() else { return Ok(None) };
                *after = Some(*last);
                let gone = self.gone_of(page, &survey.databases).await?;
                self.look_at_all(gone, survey.is_owed).await?;
                Ok(Some(PAGE_KEYS))
            }
        }
    }

    /// Of known keys of these databases those that the server does not have.
    async fn gone_of(&mut self, page: Vec<(KeyId, Key)>, databases: &BTreeSet<u32>) -> Result<Vec<Key>> {
        let mut keys: Vec<Key> =
            page.into_iter().map(|(_, key)| key).filter(|key| databases.contains(&key.database)).collect();
        keys.sort_unstable();
        let there = self.fetcher.exist(&keys).await?;
        Ok(keys.into_iter().zip(there).filter_map(|(key, is_there)| (!is_there).then_some(key)).collect())
    }

    /// Looks at keys that nothing was heard of.
    async fn look_at_all(&mut self, mut keys: Vec<Key>, is_owed: bool) -> Result<usize> {
        keys.retain(|key| self.mapper.wants(key.database, &key.name));
        keys.sort_unstable();
        keys.dedup();
        let looked_at = keys.len();
        let mut position = self.position.clone();
        position.is_scanned &= !is_owed;
        let mut rest = keys.into_iter().map(|key| (key, Pending::look())).peekable();
        while rest.peek().is_some() {
            let batch = self.batch_keys();
            let batch: Vec<_> = rest.by_ref().take(batch).collect();
            self.look(batch, &position).await?;
        }
        Ok(looked_at)
    }

    /// How far the history goes that is listened to.
    async fn history_end(&mut self) -> Result<Option<u64>> {
        let Some(connection) = self.fetcher.server() else { return Ok(None) };
        let server = Server::ask(connection).await?;
        let is_heard = |server: &Server| server.replication_id == self.position.replication_id;
        Ok(server.filter(is_heard).map(|server| server.offset))
    }

    fn refuse_mass_disappearance(&self, counted: Counted) -> Result<()> {
        let Counted { known, unexpected, .. } = counted;
        let percent_max = self.pipeline.redis.disappearance_percent_max;
        if known < GUARDED_FROM_KEYS || unexpected * 100 <= known * percent_max {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{unexpected} of {known} known keys are no longer at the source, and nobody was heard deleting them"
        ))
        .hint(
            "Was the server restarted without its data? Nothing was removed at the target. Where they are meant to be gone, start once with \
             redis.disappearance_percent_max = 100",
        ))
    }
}
