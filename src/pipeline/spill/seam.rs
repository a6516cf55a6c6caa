//! Where one feed ends and another goes on: whoever listens hears every transaction whole and in order.
//!
//! A feed is cut wherever it is. The next one begins at or before the last whole transaction that was handed on; what was
//! handed on already is known again by its commit, and the pump passes over it. Only a transaction that was cut needs
//! more: its second telling, by the same decoder from the same log, is passed over up to where the first one ended.

use std::collections::VecDeque;

use crate::change::{Event, Transaction};
use crate::error::{Error, Result};
use crate::position::Lsn;

pub(super) struct Seam {
    /// Handed on, and not taken yet: at most a beginning and what follows it.
    ready: VecDeque<Event>,
    /// A transaction that has begun and has no change yet; one that is cut here has not begun.
    begun: Option<Transaction>,
    /// The commit of the transaction that is being handed on, and how many of its changes have been.
    inside: Option<(Lsn, u64)>,
    /// The end of the last whole transaction, or what is known to be empty.
    delivered: Lsn,
    /// Of a feed that must come to where the one before was cut.
    resumes: Resumes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resumes {
    No,
    /// Until this transaction.
    At(Lsn),
    /// After so many of its changes.
    After(u64),
}

impl Seam {
    pub(super) fn new(from: Lsn) -> Seam {
        Seam { ready: VecDeque::new(), begun: None, inside: None, delivered: from, resumes: Resumes::No }
    }

    /// All up to here has been handed on.
    pub(super) fn delivered(&self) -> Lsn {
        self.delivered
    }

    /// From now on another feed is taken from.
    pub(super) fn joins(&mut self) {
        self.begun = None;
        if let Some((commit, changes)) = self.inside {
            tracing::debug!(%commit, changes, "a transaction that was cut is told again");
        }
        self.resumes = self.inside.map_or(Resumes::No, |(commit, _)| Resumes::At(commit));
    }

    /// Whether what is taken must yet come to where the feed before was cut.
    pub(super) fn resumes(&self) -> bool {
        self.resumes != Resumes::No
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Takes what the feed has.
    pub(super) fn take(&mut self, event: Event) -> Result<()> {
        match self.resumes {
            Resumes::No => self.hand_on(event),
            Resumes::At(commit) => return self.look_for(commit, &event),
            Resumes::After(0) => {
                self.resumes = Resumes::No;
                self.hand_on(event);
            }
            Resumes::After(left) => match event {
                Event::Change(_) => self.resumes = Resumes::After(left - 1),
                _ => return Err(told_otherwise(self.inside.map_or(Lsn::ZERO, |(commit, _)| commit))),
            },
        }
        Ok(())
    }

    fn look_for(&mut self, commit: Lsn, event: &Event) -> Result<()> {
        match event {
            Event::Begin(transaction) if transaction.commit_lsn == commit => {
                self.resumes = Resumes::After(self.inside.map_or(0, |(_, changes)| changes));
            }
            Event::Begin(transaction) if transaction.commit_lsn > commit => {
                return Err(told_otherwise(commit));
            }
            Event::Idle { position, .. } if *position > commit => return Err(told_otherwise(commit)),
            _ => {}
        }
        Ok(())
    }

    fn hand_on(&mut self, event: Event) {
        match &event {
            Event::Begin(transaction) => {
                self.begun = Some(*transaction);
                return;
            }
            Event::Change(_) => {
                if let Some(begun) = self.begun.take() {
                    self.inside = Some((begun.commit_lsn, 0));
                    self.ready.push_back(Event::Begin(begun));
                }
                if let Some((_, changes)) = &mut self.inside {
                    *changes += 1;
                }
            }
            Event::Commit(end) => {
                if let Some(begun) = self.begun.take() {
                    self.ready.push_back(Event::Begin(begun));
                }
                self.inside = None;
                self.delivered = self.delivered.max(*end);
            }
            Event::Idle { position, .. } => self.delivered = self.delivered.max(*position),
        }
        self.ready.push_back(event);
    }
}

fn told_otherwise(commit: Lsn) -> Error {
    Error::unexpected(format!("the transaction that commits at {commit} was not told again as it was before"))
        .hint("Nothing of it was committed at the target: start again.")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, Relation, ReplicaIdentity, Tuple, Value};

    /// Transactions of 0, 1, 2 and so on changes; each change says which it is.
    fn history(transactions: u64) -> Vec<Event> {
        let relation = Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        });
        let mut events = Vec::new();
        for number in 0..transactions {
            let commit_lsn = Lsn(100 + 10 * number);
            events.push(Event::Begin(Transaction { xid: 1, commit_lsn, committed_at_us: 1 }));
            for change in 0..number {
                let text = format!("{number}.{change}");
                let new: Tuple = [Value::Text(text.as_bytes())].into_iter().collect();
                events.push(Event::Change(Change::Insert { relation: Arc::clone(&relation), new }));
            }
            events.push(Event::Commit(Lsn(105 + 10 * number)));
        }
        events
    }

    /// What is heard, without transactions that end at or before what was heard: those the pump passes over.
    fn heard(seam: &mut Seam, events: &[Event], all: &mut Vec<Event>) {
        for event in events {
            seam.take(event.clone()).unwrap();
            while let Some(event) = seam.pop() {
                all.push(event);
            }
        }
    }

    fn without_repeated(events: Vec<Event>) -> Vec<Event> {
        let (mut reached, mut repeats) = (Lsn::ZERO, false);
        let mut once = Vec::new();
        for event in events {
            if let Event::Begin(transaction) = &event {
                repeats = transaction.commit_lsn < reached;
            }
            if !repeats {
                once.push(event.clone());
            }
            if let Event::Commit(end) = event {
                reached = reached.max(end);
            }
        }
        once
    }

    #[test]
    fn wherever_a_feed_is_cut_every_change_is_heard_once() {
        let history = history(5);
        for first_cut in 0..=history.len() {
            for second_cut in 0..=history.len() {
                let mut seam = Seam::new(Lsn(1));
                let mut all = Vec::new();
                for feed in [&history[..first_cut], &history[..second_cut], &history[..]] {
                    seam.joins();
                    heard(&mut seam, feed, &mut all);
                }
                assert_eq!(without_repeated(all), history, "cut at {first_cut} and {second_cut}");
                assert_eq!(seam.delivered(), Lsn(145));
            }
        }
    }

    #[test]
    fn a_transaction_that_is_told_otherwise_is_not_guessed_at() {
        let history = history(5);
        let cut = history.len() - 2;
        let begins = |event: &Event| matches!(event, Event::Begin(_));
        let last = history.iter().rposition(begins).unwrap();
        let mut shorter = history.clone();
        shorter.drain(last + 1..history.len() - 1);
        let without = [&history[..last], &[Event::Idle { position: Lsn(200), urgent: false }]].concat();
        for other in [shorter, without] {
            let mut seam = Seam::new(Lsn(1));
            heard(&mut seam, &history[..cut], &mut Vec::new());
            seam.joins();
            assert!(other.into_iter().any(|event| seam.take(event).is_err()));
        }
    }
}
