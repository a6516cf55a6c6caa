//! What the verbs that change something are made of: statements that can be shown before they run.

use crate::change::TableName;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::{Session, Side};
use crate::pipeline::ends::Ends;

/// A statement and where it runs.
pub(super) struct Step {
    pub side: Side,
    pub sql: String,
    /// What may be shown of it, where that is less than all.
    pub shown: Option<String>,
}

impl Step {
    pub(super) fn source(sql: impl Into<String>) -> Step {
        Step { side: Side::Source, sql: sql.into(), shown: None }
    }

    pub(super) fn target(sql: impl Into<String>) -> Step {
        Step { side: Side::Target, sql: sql.into(), shown: None }
    }

    /// The statement for people and psql, behind a comment that says where it belongs.
    pub(super) fn text(&self, ends: &Ends) -> String {
        self.text_at(&match self.side {
            Side::Source => ends.source.display(),
            Side::Target => ends.target.display(),
        })
    }

    async fn run(&self, session: &mut Session) -> Result<()> {
        tracing::debug!(
            sql = self.shown.as_ref().unwrap_or(&self.sql),
            "running at the {}",
            self.side.name()
        );
        session.query(&self.sql).await.map(drop)
    }

    pub(super) fn text_at(&self, place: &str) -> String {
        let sql = self.shown.as_ref().unwrap_or(&self.sql).trim();
        format!("-- at the {}, {place}:\n{};", self.side.name(), sql.trim_end_matches(';'))
    }
}

/// Runs the steps in their order, each a transaction of its own.
pub(super) async fn run(steps: &[Step], source: &mut Session, target: &mut Session) -> Result<()> {
    for step in steps {
        step.run(if step.side == Side::Source { &mut *source } else { &mut *target }).await?;
    }
    Ok(())
}

/// The same, where there is a source alone.
pub(super) async fn run_at_source(steps: &[Step], source: &mut Session) -> Result<()> {
    for step in steps {
        assert!(step.side == Side::Source, "there is no target");
        step.run(source).await?;
    }
    Ok(())
}

pub(super) fn tables_sql(tables: &[TableName]) -> String {
    tables.iter().map(quote::table).collect::<Vec<_>>().join(", ")
}

/// Whether the control schema is at the target, with its tables.
pub(super) async fn has_control_schema(target: &mut Session) -> Result<bool> {
    Ok(target.one("select pg_catalog.to_regclass('pgdiode.note') is not null").await?.bool(0))
}
