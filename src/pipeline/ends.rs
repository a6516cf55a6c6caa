//! The two ends of a pipeline, resolved: where they are, and sessions to them.

use std::sync::Arc;

use crate::change::TableName;
use crate::config::{Mode, Pipeline, Way};
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

/// Whoever needs two databases says so before anything is tried.
fn refuse_archives(pipeline: &Pipeline) -> Result<()> {
    let end = match pipeline.way() {
        Way::Direct => return Ok(()),
        Way::ToArchive => "target",
        Way::FromArchive => "source",
        Way::FromRedis => {
            return pipeline.refuse_redis("such verb", "It works between two databases of PostgreSQL alone.");
        }
    };
    Err(Error::config(format!(
        "the {end} of pipeline \"{}\" is an archive, and this works between two databases alone",
        pipeline.name
    ))
    .hint("What there is for an archive: pgdiode archive --help."))
}

/// A source database, whatever becomes of what it sends.
#[derive(Debug, Clone)]
pub struct Origin(pub ConnInfo);

impl Origin {
    pub fn resolve(pipeline: &Pipeline) -> Result<Origin> {
        refuse_idle_masks(pipeline)?;
        resolve(pipeline, Side::Source).map(Origin)
    }

    /// A session that cannot write: sources are read-only to us (invariant 7).
    pub async fn session(&self) -> Result<Session> {
        let options = format!("{TEXT_FORMAT} -c default_transaction_read_only=on -c row_security=off");
        Session::connect(&self.0, Side::Source, &[("options", &options)]).await
    }

    /// The one kind of source session that may write: for set-up, which says what it runs.
    pub async fn session_for_setup(&self) -> Result<Session> {
        Session::connect(&self.0, Side::Source, &[("options", TEXT_FORMAT)]).await
    }

    pub async fn replication(&self) -> Result<Session> {
        Session::connect_replication(&self.0).await
    }
}

/// The target alone: all that there is to connect to where the source is an archive, and all that many a verb needs.
#[derive(Debug, Clone)]
pub struct TargetEnd {
    pub conninfo: ConnInfo,
}

impl TargetEnd {
    pub fn resolve(pipeline: &Pipeline) -> Result<TargetEnd> {
        refuse_idle_masks(pipeline)?;
        Ok(TargetEnd { conninfo: resolve(pipeline, Side::Target)? })
    }

    pub async fn session(&self) -> Result<Session> {
        Session::connect(&self.conninfo, Side::Target, &[("options", progress::TARGET_OPTIONS)]).await
    }

    /// As [`Ends::target_for_rows`].
    pub async fn session_for_rows(&self) -> Result<Session> {
        let mut session = self.session().await?;
        prepare_for_rows(&mut session, &self.conninfo).await.map(|()| session)
    }
}

fn resolve(pipeline: &Pipeline, side: Side) -> Result<ConnInfo> {
    let endpoint = match side {
        Side::Source if pipeline.way() == Way::FromRedis => {
            pipeline.refuse_redis("session of PostgreSQL", "This works on a source of PostgreSQL alone.")?;
            &pipeline.source
        }
        Side::Source => &pipeline.source,
        Side::Target => &pipeline.target,
    };
    let written = endpoint.conninfo()?;
    let parameters = written.parameters.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
    let text = written.text.as_ref().map_or("", |text| text.reveal());
    let mut conninfo = ConnInfo::parse_with(text, parameters, &Environment::of_process())
        .map_err(|error| error.context(format!("{} of pipeline \"{}\"", side.name(), pipeline.name)))?;
    conninfo.application_name.get_or_insert_with(|| format!("pgdiode {}", pipeline.name));
    Ok(conninfo)
}

async fn prepare_for_rows(session: &mut Session, target: &ConnInfo) -> Result<()> {
    session.query(progress::APPLY_SETTINGS).await.map(drop).map_err(|error| match error.sqlstate() {
        Some("42501") => error.with_kind(Kind::Refused).hint(format!(
            "The target's user must be able to switch triggers off for its own session. As a superuser, on \
             PostgreSQL 15 or newer: grant set on parameter session_replication_role to {}",
            quote::identifier(&target.user)
        )),
        _ => error,
    })
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
        refuse_archives(pipeline)?;
        Ok(Ends {
            source: resolve(pipeline, Side::Source)?,
            target: resolve(pipeline, Side::Target)?,
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

    /// The source alone.
    pub fn origin(&self) -> Origin {
        Origin(self.source.clone())
    }

    pub async fn source(&self) -> Result<Session> {
        self.origin().session().await
    }

    pub async fn source_for_setup(&self) -> Result<Session> {
        self.origin().session_for_setup().await
    }

    pub async fn replication(&self) -> Result<Session> {
        self.origin().replication().await
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
        prepare_for_rows(&mut session, &self.target).await?;
        Ok(session)
    }
}
