//! The two ends of a pipeline, resolved: where they are, and sessions to them.

use std::sync::Arc;

use crate::change::TableName;
use crate::config::{Mode, Pipeline};
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::quote;
use crate::pg::replication::TEXT_FORMAT;
use crate::pg::session::{Session, Side};
use crate::pipeline::shadow_schemas::ShadowSchemas;
use crate::target::postgres::progress;

/// Whoever asks for masks must get them, or nothing.
fn refuse_idle_masks(pipeline: &Pipeline) -> Result<()> {
    if pipeline.mode == Mode::Snapshot || pipeline.redaction.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "pipeline \"{}\" has mode = \"{}\", which carries rows as they are",
        pipeline.name,
        pipeline.mode.as_str()
    ))
    .hint(
        "snapshot.empty, snapshot.mask and snapshot.preset work with mode = \"snapshot\" alone: remove them",
    ))
}

/// Where both ends are.
#[derive(Debug, Clone)]
pub struct Ends {
    pub source: ConnInfo,
    pub target: ConnInfo,
    /// The target is a database of our own making, which has no trigger and no foreign key before its rows are in: the
    /// privilege to switch these off is not needed. Nobody relies on it before a later transaction of the same server
    /// puts it in place, whose commit waits for all that was written before: none of its own commits waits.
    pub target_is_fresh: bool,
    /// The target is not in the schemas of the source's names.
    pub schemas: Option<Arc<ShadowSchemas>>,
}

impl Ends {
    pub fn resolve(pipeline: &Pipeline) -> Result<Ends> {
        refuse_idle_masks(pipeline)?;
        let environment = Environment::of_process();
        let name = format!("pgdiode {}", pipeline.name);
        let resolve = |endpoint: &crate::config::Endpoint, side: Side| -> Result<ConnInfo> {
            let written = endpoint.conninfo()?;
            let parameters =
                written.parameters.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
            let text = written.text.as_ref().map_or("", |text| text.reveal());
            let mut conninfo = ConnInfo::parse_with(text, parameters, &environment).map_err(|error| {
                error.context(format!("{} of pipeline \"{}\"", side.name(), pipeline.name))
            })?;
            conninfo.application_name.get_or_insert_with(|| name.clone());
            Ok(conninfo)
        };
        Ok(Ends {
            source: resolve(&pipeline.source, Side::Source)?,
            target: resolve(&pipeline.target, Side::Target)?,
            target_is_fresh: false,
            schemas: None,
        })
    }

    /// The name at the target of a table of the source.
    pub fn at_target(&self, table: &TableName) -> TableName {
        self.schemas.as_ref().map_or_else(|| table.clone(), |schemas| schemas.table(table))
    }

    /// What begins a transaction of the target in which the source's names are the target's.
    pub fn begin_named(&self) -> String {
        self.schemas.as_ref().map_or_else(|| "begin".into(), |schemas| schemas.enter())
    }

    /// What commits it.
    pub fn commit_named(&self) -> String {
        self.schemas.as_ref().map_or_else(|| "commit".into(), |schemas| schemas.leave())
    }

    /// A session that cannot write: sources are read-only to us (invariant 7).
    pub async fn source(&self) -> Result<Session> {
        let options = format!("{TEXT_FORMAT} -c default_transaction_read_only=on -c row_security=off");
        Session::connect(&self.source, Side::Source, &[("options", &options)]).await
    }

    /// The one kind of source session that may write: for set-up, which says what it runs.
    pub async fn source_for_setup(&self) -> Result<Session> {
        Session::connect(&self.source, Side::Source, &[("options", TEXT_FORMAT)]).await
    }

    pub async fn replication(&self) -> Result<Session> {
        Session::connect_replication(&self.source).await
    }

    pub async fn target(&self) -> Result<Session> {
        let mut options = progress::TARGET_OPTIONS.to_owned();
        if self.target_is_fresh {
            options.push_str(" -c synchronous_commit=off");
        }
        if self.schemas.is_some() {
            // The database serves, and its readers may be kept from writing by a setting of it.
            options.push_str(" -c default_transaction_read_only=off");
        }
        Session::connect(&self.target, Side::Target, &[("options", &options)]).await
    }

    /// A target session for writing rows: no triggers, no foreign keys, stable text formats.
    pub async fn target_for_rows(&self) -> Result<Session> {
        let mut session = self.target().await?;
        if self.target_is_fresh {
            let settings = progress::APPLY_SETTINGS.replace(progress::REPLICA_ROLE, "");
            session.query(&format!("{settings} set synchronous_commit = off")).await?;
            return Ok(session);
        }
        session.query(progress::APPLY_SETTINGS).await.map_err(|error| match error.sqlstate() {
            Some("42501") => error.with_kind(Kind::Refused).hint(format!(
                "The target's user must be able to switch triggers off for its own session. As a superuser, on \
                 PostgreSQL 15 or newer: grant set on parameter session_replication_role to {}",
                quote::identifier(&self.target.user)
            )),
            _ => error,
        })?;
        Ok(session)
    }
}
