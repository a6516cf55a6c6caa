//! From a table's changes to their net effect: at most one delete, update or insert for each row.
//!
//! Any final state that the source had at a commit is reached by *deletes, then updates, then inserts*, whatever
//! order the changes came in. The exceptions are unique values that move between two updated rows; then the
//! statements fail and the changes are applied one by one, in order, instead.
//!
//! Rows are told apart by the bytes of their key. Keys that are equal but not identical (citext, `1.0` and `1.00`) are
//! different rows here, which is right: the source names a row by the key's bytes as they were.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::{BufMut, BytesMut};

use crate::change::{Change, Tuple, Value};
use crate::target::postgres::statement::key_values;
use crate::target::postgres::table::{Key, Table};

/// The net effect of a batch on one table.
#[derive(Debug, Default)]
pub struct NetEffect {
    /// Rows to delete; each tuple holds the key at least.
    pub deletes: Vec<Tuple>,
    /// Updates by the columns that they leave alone.
    pub updates: Vec<(Vec<usize>, Vec<Tuple>)>,
    pub inserts: Vec<Tuple>,
}

/// What the batch so far does to the row with one key.
enum Effect {
    /// The row was not there before.
    Insert(Tuple),
    /// It was, and keeps its key; unchanged values stay as they are.
    Update(Tuple),
    /// It was there; the tuple holds its key.
    Delete(Tuple),
    /// It was there, is deleted, and another takes its key: the old key's tuple and the new row.
    Replace(Tuple, Tuple),
    /// It came and went within the batch.
    Nothing,
}

/// The changes cannot be merged: they must be applied one by one.
#[derive(Debug, PartialEq, Eq)]
pub struct Unmergeable;

/// One table's changes on the way to their net effect: merged as they come, so that a flush need not wait for it.
#[derive(Default)]
pub struct Merge {
    state: State,
}

#[derive(Default)]
enum State {
    /// Nothing to merge so far, and no key needed.
    #[default]
    InsertsOnly,
    Rows(Rows),
    Unmergeable,
}

impl Merge {
    /// Takes the last of `changes`, which are in the source's order; those before it have been taken.
    pub fn add(&mut self, table: &Table, changes: &[Change]) {
        let Some((last, before)) = changes.split_last() else { return };
        let outcome = match &mut self.state {
            State::Unmergeable => return,
            State::Rows(rows) => rows.add(table, last),
            State::InsertsOnly if matches!(last, Change::Insert { .. }) => return,
            State::InsertsOnly => Rows::of(table, before).and_then(|mut rows| {
                rows.add(table, last)?;
                self.state = State::Rows(rows);
                Ok(())
            }),
        };
        if outcome.is_err() {
            self.state = State::Unmergeable;
        }
    }

    /// What `changes`, all of them taken, amount to.
    pub fn net_effect(self, table: &Table, changes: &[Change]) -> Result<NetEffect, Unmergeable> {
        if has_unsettable_column(table) {
            return Err(Unmergeable);
        }
        match self.state {
            State::Unmergeable => Err(Unmergeable),
            State::Rows(rows) => Ok(rows.net_effect(table)),
            State::InsertsOnly => {
                let inserts = changes.iter().filter_map(|change| match change {
                    Change::Insert { new, .. } => Some(new.clone()),
                    _ => None,
                });
                Ok(NetEffect { inserts: inserts.collect(), ..NetEffect::default() })
            }
        }
    }
}

/// An UPDATE may not set it, and a COPY sets it only on insert.
fn has_unsettable_column(table: &Table) -> bool {
    table.columns.iter().any(|column| column.identity_always && !column.key)
}

#[derive(Default)]
struct Rows {
    /// By key bytes: index into `order`.
    effects: HashMap<Vec<u8>, usize>,
    /// In order of first appearance.
    order: Vec<Effect>,
}

impl Rows {
    fn of(table: &Table, changes: &[Change]) -> Result<Rows, Unmergeable> {
        if table.key != Key::Unique
            || has_unsettable_column(table)
            || table.columns.iter().all(|column| column.key)
        {
            return Err(Unmergeable);
        }
        let mut rows = Rows::default();
        changes.iter().try_for_each(|change| rows.add(table, change))?;
        Ok(rows)
    }

    fn add(&mut self, table: &Table, change: &Change) -> Result<(), Unmergeable> {
        match change {
            Change::Insert { new, .. } => self.insert(table, new.clone()),
            Change::Delete { old, .. } => self.delete(table, old.tuple()).map(drop),
            Change::Update { old, new, .. } => {
                let key = key(table, new)?;
                match old {
                    Some(old) if self::key(table, old.tuple())? != key => {
                        self.move_key(table, old.tuple(), new)
                    }
                    _ => self.update(key, new),
                }
            }
            Change::Truncate { .. } => unreachable!("truncates are not rows"),
        }
    }

    fn insert(&mut self, table: &Table, new: Tuple) -> Result<(), Unmergeable> {
        let key = key(table, &new)?;
        let effect = match self.effects.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(self.order.len());
                self.order.push(Effect::Insert(new));
                return Ok(());
            }
            Entry::Occupied(occupied) => &mut self.order[*occupied.get()],
        };
        *effect = match std::mem::replace(effect, Effect::Nothing) {
            Effect::Delete(old) => Effect::Replace(old, new),
            Effect::Nothing => Effect::Insert(new),
            Effect::Insert(_) | Effect::Update(_) | Effect::Replace(..) => return Err(Unmergeable),
        };
        Ok(())
    }

    fn update(&mut self, key: Vec<u8>, new: &Tuple) -> Result<(), Unmergeable> {
        let effect = match self.effects.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(self.order.len());
                self.order.push(Effect::Update(new.clone()));
                return Ok(());
            }
            Entry::Occupied(occupied) => &mut self.order[*occupied.get()],
        };
        match effect {
            Effect::Insert(row) | Effect::Update(row) | Effect::Replace(_, row) => *row = overlaid(row, new),
            Effect::Delete(_) | Effect::Nothing => return Err(Unmergeable),
        }
        Ok(())
    }

    /// Removes a row; what the batch knew of its values comes back, for a row that only changes its key.
    fn delete(&mut self, table: &Table, old: &Tuple) -> Result<Option<Tuple>, Unmergeable> {
        let key = key(table, old)?;
        let effect = match self.effects.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(self.order.len());
                self.order.push(Effect::Delete(old.clone()));
                return Ok(None);
            }
            Entry::Occupied(occupied) => &mut self.order[*occupied.get()],
        };
        let (left, known) = match std::mem::replace(effect, Effect::Nothing) {
            Effect::Insert(row) => (Effect::Nothing, Some(row)),
            Effect::Update(row) => (Effect::Delete(old.clone()), Some(row)),
            Effect::Replace(before, row) => (Effect::Delete(before), Some(row)),
            Effect::Delete(_) | Effect::Nothing => return Err(Unmergeable),
        };
        *effect = left;
        Ok(known)
    }

    /// The row takes another key: the old one goes, the new one comes, with values that the update left alone filled
    /// in from what the batch knows of the row. What only the target knows cannot be filled in here.
    fn move_key(&mut self, table: &Table, old: &Tuple, new: &Tuple) -> Result<(), Unmergeable> {
        let known = self.delete(table, old)?;
        let whole = known.map_or_else(|| new.clone(), |known| overlaid(&known, new));
        if whole.has_unchanged() { Err(Unmergeable) } else { self.insert(table, whole) }
    }

    /// Rows that are there are visited in the order of their keys, so that neighbours are met together; new ones are
    /// written in the order in which the source wrote them.
    fn net_effect(self, table: &Table) -> NetEffect {
        let mut net = NetEffect::default();
        let mut there: Vec<(Vec<u8>, Effect)> = Vec::with_capacity(self.order.len());
        let mut keys: Vec<(usize, Vec<u8>)> =
            self.effects.into_iter().map(|(key, place)| (place, key)).collect();
        keys.sort_unstable_by_key(|(place, _)| *place);
        for ((_, key), effect) in keys.into_iter().zip(self.order) {
            match effect {
                Effect::Insert(new) => net.inserts.push(new),
                Effect::Replace(old, new) => {
                    there.push((key, Effect::Delete(old)));
                    net.inserts.push(new);
                }
                Effect::Delete(_) | Effect::Update(_) => there.push((key, effect)),
                Effect::Nothing => {}
            }
        }
        there.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (_, effect) in there {
            match effect {
                Effect::Delete(old) => net.deletes.push(old),
                Effect::Update(new) => net.update(unchanged(table, &new), new),
                _ => unreachable!("only rows that are there"),
            }
        }
        net
    }
}

/// The key's bytes: kinds and lengths included, so that no two different keys share them.
fn key(table: &Table, tuple: &Tuple) -> Result<Vec<u8>, Unmergeable> {
    let mut key = Vec::with_capacity(16);
    for value in key_values(table, tuple) {
        let (kind, bytes) = match value {
            Value::Text(bytes) => (b't', bytes),
            Value::Binary(bytes) => (b'b', bytes),
            Value::Null | Value::Unchanged => return Err(Unmergeable),
        };
        key.put_u8(kind);
        key.put_u32(u32::try_from(bytes.len()).map_err(|_| Unmergeable)?);
        key.put_slice(bytes);
    }
    Ok(key)
}

impl NetEffect {
    fn update(&mut self, unchanged: Vec<usize>, new: Tuple) {
        match self.updates.iter_mut().find(|(columns, _)| *columns == unchanged) {
            Some((_, tuples)) => tuples.push(new),
            None => self.updates.push((unchanged, vec![new])),
        }
    }
}

/// The table's columns that `tuple` leaves alone.
fn unchanged(table: &Table, tuple: &Tuple) -> Vec<usize> {
    if !tuple.has_unchanged() {
        return Vec::new();
    }
    tuple
        .values()
        .zip(&table.by_source)
        .filter(|(value, _)| *value == Value::Unchanged)
        .filter_map(|(_, column)| *column)
        .collect()
}

/// `new` with the values that it leaves alone taken from `before`.
fn overlaid(before: &Tuple, new: &Tuple) -> Tuple {
    if !new.has_unchanged() {
        return new.clone();
    }
    let pairs = before.values().zip(new.values());
    pairs.map(|(before, new)| if new == Value::Unchanged { before } else { new }).collect()
}

/// Bytes that a stage or table COPY of these tuples will take, roughly.
pub fn reserve_for(out: &mut BytesMut, tuples: &[Tuple]) {
    out.reserve(tuples.iter().map(|tuple| tuple.size() + 16).sum());
}
