//! Every key of a database, a few at a time.
//!
//! `SCAN` shows each key that is there from its beginning to its end at least once; some twice, and of those that come
//! and go meanwhile any. Whoever also hears of changes misses none.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::keyspace::Key;
use crate::redis::connection::Connection;

/// Buckets that the server looks into for one answer; it serves nobody else meanwhile, for some 100 microseconds.
const COUNT: &[u8] = b"1000";
/// The cursor of a scan that has not begun.
const BEGINNING: &[u8] = b"0";

pub struct Scan {
    database: u32,
    /// The pattern that the server narrows its answers down to, where one says it all.
    glob: Option<Vec<u8>>,
    cursor: Option<Bytes>,
    /// Of a cluster: which of its nodes is being looked at, and whether others follow.
    node: usize,
    is_last: bool,
}

impl Scan {
    pub fn new(database: u32, globs: &[Vec<u8>]) -> Scan {
        let glob = match globs {
            [only] => Some(only.clone()),
            _ => None,
        };
        Scan { database, glob, cursor: Some(Bytes::from_static(BEGINNING)), node: 0, is_last: true }
    }

    /// Whether all keys were there.
    pub fn is_over(&self) -> bool {
        self.cursor.is_none() && self.is_last
    }

    /// Of a cluster: which of its nodes was asked last.
    pub(super) fn at(&self) -> usize {
        self.node
    }

    /// Which of so many nodes is asked next.
    pub(super) fn node(&mut self, nodes: usize) -> usize {
        if self.cursor.is_none() && self.node + 1 < nodes {
            self.node += 1;
            self.cursor = Some(Bytes::from_static(BEGINNING));
        }
        self.is_last = self.node + 1 >= nodes;
        self.node
    }

    /// Some more keys, maybe none; nothing once all were there.
    pub async fn next(&mut self, connection: &mut Connection) -> Result<Option<Vec<Key>>> {
        let Some(cursor) = self.cursor.clone() else { return Ok(None) };
        connection.call(&[b"SELECT", self.database.to_string().as_bytes()]).await?;
        let answer = match &self.glob {
            Some(glob) => connection.call(&[b"SCAN", &cursor, b"COUNT", COUNT, b"MATCH", glob]).await?,
            None => connection.call(&[b"SCAN", &cursor, b"COUNT", COUNT]).await?,
        };
        let strange = || Error::unexpected("the Redis server answers SCAN with another shape");
        let mut parts = answer.into_array().ok_or_else(strange)?.into_iter();
        let next = parts.next().and_then(|cursor| cursor.bytes().cloned()).ok_or_else(strange)?;
        let names = parts.next().and_then(crate::redis::resp::Reply::into_array).ok_or_else(strange)?;
        self.cursor = (next != BEGINNING).then_some(next);
        let keys =
            names.iter().filter_map(|name| name.bytes().map(|name| Key::new(self.database, name.clone())));
        Ok(Some(keys.collect()))
    }
}
