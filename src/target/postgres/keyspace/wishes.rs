//! What a run has been asked to look at anew, whatever is stored of it: everything, or single keys.
//!
//! Everything: `keyspace_resync` counts how often that was asked for. The count goes into the hashes of values and into
//! what is kept of a key's rows, so that nothing of before is taken for known, and no row of `keyspace_key` need be
//! touched. The position names the hashes' kind (`mapping`): one of before has not been looked at.
//!
//! A key: its row of `keyspace_key` forgets what it was, and not that it was there.

use super::KeyspaceTarget;
use super::control;
use crate::error::Result;
use crate::keyspace::{Key, KeyId};
use crate::pg::quote;
use crate::pg::session::Session;

/// A hash that no value has.
const NO_HASH: &str = "00000000-0000-0000-0000-000000000000";

/// A key that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub number: i64,
    pub key: Key,
}

/// How often everything was asked for, and the keys that wait.
pub async fn wishes(session: &mut Session, pipeline: &str) -> Result<(u64, Vec<Wish>)> {
    let name = quote::literal(pipeline);
    let resyncs = session
        .one(&format!("select coalesce(max(number), 0) from pgdiode.keyspace_resync where pipeline = {name}"))
        .await?
        .get(0)?;
    let sql = format!(
        "select number, database, name from pgdiode.keyspace_wish where pipeline = {name} order by 1"
    );
    let mut wishes = Vec::new();
    for row in session.query(&sql).await? {
        let name = control::bytes(row.text(2).unwrap_or_default())?;
        wishes.push(Wish { number: row.get(0)?, key: Key::new(row.get(1)?, name) });
    }
    Ok((resyncs, wishes))
}

impl KeyspaceTarget {
    /// From now on rows that were kept before the resync of that number count as unknown.
    pub fn begin_resync(&mut self, number: u64) {
        for shape in &mut self.shapes {
            let tag = u64::from_be_bytes(shape.tag) ^ self.resyncs ^ number;
            shape.tag = tag.to_be_bytes();
        }
        self.resyncs = number;
    }

    /// Forgets of these keys what they hold, so that it is written again.
    pub async fn forget_values(&mut self, keys: impl Iterator<Item = KeyId>) -> Result<()> {
        let ids: Vec<String> = keys.map(|id| id.to_string()).collect();
        let sql = format!(
            "update pgdiode.keyspace_key set hash = '{NO_HASH}', read_offset = null, parts = null \
             where pipeline = {} and id = any ('{{{}}}'::uuid[]) and hash is not null",
            quote::literal(&self.pipeline),
            ids.join(",")
        );
        self.underway.session.query(&sql).await.map(drop)
    }

    /// These wishes are fulfilled.
    pub async fn fulfilled(&mut self, wishes: impl Iterator<Item = i64>) -> Result<()> {
        let numbers: Vec<String> = wishes.map(|number| number.to_string()).collect();
        let sql = format!("delete from pgdiode.keyspace_wish where number in ({})", numbers.join(","));
        self.underway.session.query(&sql).await.map(drop)
    }
}
