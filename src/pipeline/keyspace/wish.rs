//! What a run is asked to look at anew, between whoever hears of it and whoever does it.

use std::sync::{Mutex, PoisonError};

use super::apply::Work;
use crate::digest::Sha256;
use crate::error::Result;
use crate::keyspace::{ContentHash, Key};
use crate::source::redis::dirty::Pending;
use crate::source::redis::mapping::Mapper;
use crate::target::postgres::keyspace::Wish;

/// The last of what was heard.
#[derive(Debug, Default)]
pub(super) struct Wishes(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    resyncs: u64,
    keys: Vec<Wish>,
}

impl Wishes {
    /// Of a run that begins with this resync.
    pub(super) fn new(resyncs: u64) -> Wishes {
        Wishes(Mutex::new(Heard { resyncs, keys: Vec::new() }))
    }

    /// True where there is something new to do.
    pub(super) fn hear(&self, resyncs: u64, keys: Vec<Wish>) -> bool {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = heard.resyncs != resyncs || !keys.is_empty();
        *heard = Heard { resyncs, keys };
        is_new
    }

    fn take(&self) -> (u64, Vec<Wish>) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (heard.resyncs, std::mem::take(&mut heard.keys))
    }
}

/// What hashes of values are salted with: another one after each resync, so that every value is news.
pub(super) fn salt(mapper: &Mapper, resyncs: u64) -> ContentHash {
    if resyncs == 0 {
        return ContentHash(mapper.digest());
    }
    let mut hash = Sha256::default();
    hash.update(&mapper.digest());
    hash.update(&resyncs.to_be_bytes());
    ContentHash(hash.half())
}

impl Work<'_> {
    pub(super) async fn fulfil(&mut self, wishes: &Wishes) -> Result<()> {
        let (resyncs, keys) = wishes.take();
        let mapping = salt(self.mapper, resyncs);
        if mapping != self.position.mapping {
            tracing::info!("asked to look at every key");
            self.target.begin_resync(resyncs);
            self.begin_anew(mapping).await?;
        }
        if keys.is_empty() {
            return Ok(());
        }
        let mut asked: Vec<Key> = keys.iter().map(|wish| wish.key.clone()).collect();
        asked.sort_unstable();
        asked.dedup();
        tracing::info!(keys = asked.len(), "asked to look at single keys");
        self.target.forget_values(asked.iter().map(Key::id)).await?;
        let position = self.position.clone();
        for key in asked {
            self.look(vec![(key, Pending::look())], &position).await?;
        }
        self.target.fulfilled(keys.iter().map(|wish| wish.number)).await
    }
}
