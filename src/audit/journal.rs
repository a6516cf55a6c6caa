//! The two entries around whatever changes something: one before it, one that says how it ended.

use serde_json::{Map, Value};

use super::checkpoint::Checkpoints;
use super::{Action, Entry, append, create_if_missing, for_the_reason, in_the_name_of};
use crate::config::{Audit, Pipeline};
use crate::error::{Error, Kind, Result};
use crate::pg::session::Session;

/// An error's text is cut here; the log of the process has all of it.
const ERROR_BYTES_MAX: usize = 4096;

/// An operation that was announced in the log and has not ended. It must be concluded; one that never is, because its
/// process was killed, is seen as `begun` in the log.
#[must_use]
#[derive(Debug)]
pub struct Journal {
    audit: Audit,
    entry: Entry,
    number: i64,
}

impl Journal {
    /// Writes that `action` is about to be done, creating the log where there is none. On an error it must not be.
    pub async fn begin(
        session: &mut Session,
        pipeline: &Pipeline,
        action: Action,
        reason: Option<&str>,
        mut details: Map<String, Value>,
    ) -> Result<Journal> {
        create_if_missing(session).await?;
        if let Some(actor) = in_the_name_of() {
            details.insert("actor".into(), actor.into());
        }
        let entry = Entry {
            pipeline: pipeline.name.clone(),
            action,
            reason: reason.map(str::to_owned).or_else(for_the_reason),
            verdict: "begun".into(),
            details,
        };
        let number = append(session, &entry).await?;
        let journal = Journal { audit: pipeline.audit.clone(), entry, number };
        journal.say(&journal.entry, number);
        // Its end may be weeks away.
        if action == Action::Start {
            journal.is_signed(session).await;
        }
        Ok(journal)
    }

    /// The number of the entry that announced it.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Writes how it ended, and passes that on. What was done without its end being written is an error too.
    pub async fn conclude<T>(self, session: &mut Session, result: Result<T>) -> Result<T> {
        self.conclude_with(session, result, |_| Map::new()).await
    }

    /// The same, with details of what came of it.
    pub async fn conclude_with<T>(
        mut self,
        session: &mut Session,
        result: Result<T>,
        details: impl FnOnce(&T) -> Map<String, Value>,
    ) -> Result<T> {
        self.ends_as(&result, details);
        if result.is_err() {
            // A failed transaction takes no entry; without one this does nothing.
            let _ = session.query("rollback").await;
        }
        let written = append(session, &self.entry).await;
        if written.is_ok() {
            self.is_signed(session).await;
        }
        self.passes_on(result, written)
    }

    /// Makes a checkpoint, where somebody signs. What was done is done: that it could not be signed is told.
    async fn is_signed(&self, session: &mut Session) {
        let signed = async {
            match Checkpoints::of(&self.entry.pipeline, &self.audit)? {
                Some(checkpoints) if self.audit.signing_key.is_some() => {
                    checkpoints.go_on(session).await.map(drop)
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = Box::pin(signed).await {
            tracing::error!(hint = error.hint_text(), "no checkpoint was made: {}", error.chain());
        }
    }

    /// An entry that says that `action`, the operation itself or a part of it, was done: for
    /// [`super::append_in_transaction`] in the very transaction that does it.
    pub fn done(&self, action: Action, mut details: Map<String, Value>) -> Entry {
        details.insert("begun".into(), self.number.into());
        Entry { action, verdict: "done".into(), details, ..self.entry.clone() }
    }

    /// Tells people of such an entry once that transaction has committed.
    pub fn committed(&self, entry: &Entry, number: i64) {
        self.say(entry, number);
    }

    /// Writes that it was not done, with a verdict of its own for why. That error is told, not one of writing this.
    pub async fn fails(mut self, session: &mut Session, verdict: &str, error: &Error) {
        self.entry.details = self.details_of(error);
        self.entry.verdict = verdict.into();
        match append(session, &self.entry).await {
            Ok(number) => {
                self.say(&self.entry, number);
                self.is_signed(session).await;
            }
            Err(error) => tracing::warn!(error = error.chain(), "the audit log lacks how this ended"),
        }
    }

    /// The verdict that could not be written because there is no session, passed on like one that was refused.
    pub fn conclude_without<T>(mut self, result: Result<T>, error: Error) -> Result<T> {
        self.ends_as(&result, |_| Map::new());
        self.passes_on(result, Err(error))
    }

    fn ends_as<T>(&mut self, result: &Result<T>, details: impl FnOnce(&T) -> Map<String, Value>) {
        let (verdict, mut details) = match result {
            Ok(value) => ("done", details(value)),
            Err(error) => ("failed", self.details_of(error)),
        };
        details.insert("begun".into(), self.number.into());
        self.entry.verdict = verdict.into();
        self.entry.details = details;
    }

    fn details_of(&self, error: &Error) -> Map<String, Value> {
        let text = cut(&error.chain(), ERROR_BYTES_MAX).to_owned();
        Map::from_iter([
            ("error".into(), text.into()),
            ("exit_status".into(), error.kind().exit_status().into()),
            ("begun".into(), self.number.into()),
        ])
    }

    fn passes_on<T>(&self, result: Result<T>, written: Result<i64>) -> Result<T> {
        match (result, written) {
            (result, Ok(number)) => {
                self.say(&self.entry, number);
                result
            }
            // A run does nothing at its end, and ends in order while its target is away as well.
            (Ok(value), Err(error)) if self.entry.action == Action::Start && error.retries() => {
                tracing::warn!(error = error.chain(), "the audit log lacks how this ended");
                Ok(value)
            }
            (Ok(_), Err(error)) => Err(error.with_kind(Kind::Audit).context(format!(
                "{} of pipeline \"{}\" was done, and its end could not be audited",
                self.entry.action.as_str(),
                self.entry.pipeline
            ))),
            (Err(first), Err(error)) => {
                tracing::warn!(error = error.chain(), "the audit log lacks how this ended");
                Err(first)
            }
        }
    }

    /// A line for people who read logs; without a prefix nobody waits for it.
    fn say(&self, entry: &Entry, number: i64) {
        let Entry { pipeline, action, reason, verdict, .. } = entry;
        let (prefix, action) = (&self.audit.audit_prefix, action.as_str());
        let reason = reason.as_deref();
        if prefix.is_empty() {
            tracing::debug!(number, reason, "audit: {action} of pipeline {pipeline}: {verdict}");
        } else {
            tracing::info!(number, reason, "{prefix} {action} of pipeline {pipeline}: {verdict}");
        }
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_without_its_end_being_written_is_an_error() {
        let journal = |action| Journal {
            audit: Audit::default(),
            entry: Entry {
                pipeline: "main".into(),
                action,
                reason: None,
                verdict: "done".into(),
                details: Map::new(),
            },
            number: 1,
        };
        let away = || Err(Error::new(Kind::TargetUnreachable, "away"));
        let refused = || Err(Error::new(Kind::Audit, "refused"));
        let kind =
            |action, result, written| journal(action).passes_on(result, written).map_err(|it| it.kind());
        assert_eq!(kind(Action::Reset, Ok(()), Ok(2)), Ok(()));
        assert_eq!(kind(Action::Reset, Ok(()), away()), Err(Kind::Audit));
        assert_eq!(kind(Action::Start, Ok(()), refused()), Err(Kind::Audit));
        assert_eq!(kind(Action::Start, Ok(()), away()), Ok(()));
        // What went wrong first is what is told.
        assert_eq!(kind(Action::Reset, Err(Error::refused("no")), refused()), Err(Kind::Refused));
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        assert_eq!(cut("äö", 3), "ä");
        assert_eq!(cut("äö", 9), "äö");
    }
}
