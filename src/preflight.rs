//! What would fail, found before anything runs: both ends, what lies between them, each finding with its remedy.
//!
//! [`check`] collects all that can be found: a finding never hides the next, and an end that cannot be reached leaves
//! the other one's findings. [`refuse_unsafe`] is the same as an error, for the verbs that are about to write.

mod archive;
mod between;
mod door;
mod publication;
mod redis;
mod server;
mod tables;
mod target;

use crate::archive::keys::WriterKeys;
use crate::config::{Mode, Pipeline, Plugin};
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::{Ends, Origin};
use crate::pipeline::selection::Selection;
use crate::position::Lsn;
use crate::source::postgres::slot::SlotState;
use crate::status::{CheckReport, Level};
use crate::target::postgres::progress::{self, Stored};

pub use archive::{check_reader, check_writer};
pub use door::check_door;
pub use redis::check_keys;
pub use tables::{refuse_unsafe_tables, unnamed_rows};

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Check,
    Setup,
    Start,
}

/// What the findings are about.
struct Survey<'a> {
    pipeline: &'a Pipeline,
    purpose: Purpose,
    report: CheckReport,
    /// What the target has stored; `None` when the pipeline was never set up there, or nobody could ask.
    stored: Option<Stored>,
    /// A pipeline that is under way is about to be started again.
    goes_on: bool,
    /// The findings, by index, that refuse a first start and not such a one.
    tolerated: Vec<usize>,
}

/// What the source is, for what lies between the ends.
struct Source {
    session: Session,
    selection: Selection,
    identity: Identity,
    slot: Option<SlotState>,
}

/// Which database of which cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    system_identifier: u64,
    database: String,
}

impl Identity {
    async fn read(session: &mut Session) -> Result<Identity> {
        let row = session
            .one(
                "select system_identifier, pg_catalog.current_database() from pg_catalog.pg_control_system()",
            )
            .await?;
        // The catalog shows an unsigned number as a signed one.
        let signed: i64 = row.get(0)?;
        Ok(Identity { system_identifier: signed.cast_unsigned(), database: row.string(1) })
    }
}

/// Everything that can be found wrong.
pub async fn check(pipeline: &Pipeline) -> Result<CheckReport> {
    Ok(survey(pipeline, Purpose::Check).await?.report)
}

/// The findings that refuse, as one error. Warnings go to the log: those of a pipeline that is under way were there
/// with its set-up and first start, and are left to [`check`], but for what would have refused those.
pub async fn refuse_unsafe(pipeline: &Pipeline, purpose: Purpose) -> Result<()> {
    survey(pipeline, purpose).await?.refuse()
}

/// The refusing findings of a report as an error.
fn refusal(report: &CheckReport, pipeline: &str) -> Result<()> {
    let Some(kind) = report.refusal else { return Ok(()) };
    let refused: Vec<_> = report.findings.iter().filter(|finding| finding.level == Level::Refused).collect();
    let joined = |texts: Vec<&str>| texts.join("; ");
    let what = joined(refused.iter().map(|finding| finding.what.as_str()).collect());
    let hint = joined(refused.iter().filter_map(|finding| finding.hint.as_deref()).collect());
    let what = match refused.len() {
        1 => what,
        number => format!("{number} checks refused pipeline \"{pipeline}\": {what}"),
    };
    let error = Error::new(kind, what);
    Err(if hint.is_empty() { error } else { error.hint(hint) })
}

/// The findings that refuse to fill an archive from this source, as one error.
pub async fn refuse_unsafe_origin(pipeline: &Pipeline, purpose: Purpose, goes_on: bool) -> Result<()> {
    let mut survey = Survey { goes_on, ..Survey::new(pipeline, purpose) };
    survey.origin().await?;
    survey.refuse()
}

async fn survey(pipeline: &Pipeline, purpose: Purpose) -> Result<Survey<'_>> {
    let ends = Ends::resolve(pipeline)?;
    let mut survey = Survey::new(pipeline, purpose);
    let (source, target) = tokio::join!(ends.source(), ends.target());
    let source = survey.kept(source);
    let target = survey.kept(target);
    let mut target = match target {
        Some(mut session) => {
            let stored = progress::read(&mut session, &pipeline.name).await;
            survey.stored = survey.kept(stored).flatten();
            survey.goes_on = purpose == Purpose::Start && survey.is_under_way();
            Some(session)
        }
        None => None,
    };
    let mut source = match source {
        Some(session) => {
            let examined = survey.source(session, &ends.origin()).await;
            survey.kept(examined)
        }
        None => None,
    };
    if let Some(session) = &mut target {
        let examined = survey.target(session, source.as_ref()).await;
        survey.kept(examined);
    }
    if let (Some(source), Some(target)) = (&mut source, &mut target) {
        let compared = survey.between(source, target, &ends).await;
        survey.kept(compared);
    }
    Ok(survey)
}

impl<'a> Survey<'a> {
    fn new(pipeline: &'a Pipeline, purpose: Purpose) -> Survey<'a> {
        Survey {
            pipeline,
            purpose,
            report: CheckReport::default(),
            stored: None,
            goes_on: false,
            tolerated: Vec::new(),
        }
    }

    /// Logs the warnings; the refusals are an error.
    fn refuse(&self) -> Result<()> {
        for (index, finding) in self.report.findings.iter().enumerate() {
            match finding.level {
                Level::Warning if self.goes_on && !self.tolerated.contains(&index) => {
                    tracing::debug!(hint = finding.hint, "{}", finding.what);
                }
                Level::Warning => tracing::warn!(hint = finding.hint, "{}", finding.what),
                Level::Ok | Level::Refused => {}
            }
        }
        refusal(&self.report, &self.pipeline.name)
    }

    /// The source alone.
    async fn origin(&mut self) -> Result<()> {
        let origin = Origin::resolve(self.pipeline)?;
        let session = origin.session().await;
        if let Some(session) = self.kept(session) {
            let examined = self.source(session, &origin).await;
            self.kept(examined);
        }
        Ok(())
    }
}

impl Survey<'_> {
    /// Whether an archive's keys can be used, and what its readers must be told.
    /// Whose keys a writer has; `None` where they cannot be used.
    fn keys(&mut self) -> Option<WriterKeys> {
        let keys = self.kept(self.pipeline.archive.writer_keys())?;
        if let Some(recipients) = &keys.recipients {
            self.report.ok(format!("the archive is encrypted to {recipients:?}"));
        }
        if let Some(signer) = &keys.signer {
            self.report.ok(format!("the archive is signed by {}", signer.public()));
        }
        Some(keys)
    }

    /// The value, or its error as a finding.
    fn kept<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.report.fail(&error)).ok()
    }

    /// Whether the pipeline has begun: what is wrong with one table is then that table's trouble.
    fn is_under_way(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.lineage.is_some())
    }

    fn is_subscription(&self) -> bool {
        self.pipeline.mode == Mode::Subscription
    }

    /// Refuses, unless a pipeline that is under way is to go on.
    fn refuse_at_first(&mut self, what: String, hint: String) {
        if self.goes_on {
            self.tolerated.push(self.report.findings.len());
        }
        let level = if self.goes_on { Level::Warning } else { Level::Refused };
        self.report.push(level, what, Some(hint));
    }

    async fn source(&mut self, mut session: Session, origin: &Origin) -> Result<Source> {
        self.source_server(&mut session).await?;
        let replication = self.replication(origin).await;
        self.kept(replication);
        let slot = self.slot(&mut session).await?;
        let selection = Selection::read(&mut session, &self.pipeline.tables).await?;
        self.tables(&mut session, &selection).await?;
        if self.pipeline.plugin == Plugin::Pgoutput {
            self.publication(&mut session, &selection).await?;
        }
        let identity = Identity::read(&mut session).await?;
        Ok(Source { session, selection, identity, slot })
    }

    fn position(&self) -> Option<Lsn> {
        self.stored.as_ref().and_then(|stored| stored.position)
    }
}

/// `a, b, c and 4 more`.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 table`, `3 tables`.
fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_refusal_is_one_error() {
        let mut report = CheckReport::default();
        report.warn("w", "x");
        assert!(refusal(&report, "main").is_ok());
        report.fail(&Error::new(Kind::TargetUnreachable, "no way").hint("start it"));
        let error = refusal(&report, "main").unwrap_err();
        assert_eq!(
            (error.kind(), error.what(), error.hint_text()),
            (Kind::TargetUnreachable, "no way", Some("start it"))
        );
        report.refuse("bad", "mend it");
        report.fail(&Error::new(Kind::SourceUnreachable, "gone"));
        let error = refusal(&report, "main").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(error.what(), "3 checks refused pipeline \"main\": no way; bad; gone");
        assert_eq!(error.hint_text(), Some("start it; mend it"));
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["x"; 10]), "x, x, x, x, x, x, x, x and 2 more");
        assert_eq!((counted(1, "table"), counted(2, "table")), ("1 table".into(), "2 tables".into()));
    }
}
