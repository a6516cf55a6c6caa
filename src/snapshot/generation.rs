//! Generations: the copies that serve or have served, as the control tables have them, and what stands under the
//! target's name.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;

/// The OIDs of schemas, by their plain names.
pub(super) type Schemas = BTreeMap<String, u32>;

/// A copy that has served, or serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) number: i64,
    pub(super) database: String,
    pub(super) oid: u32,
    pub(super) run: Option<i64>,
    pub(super) is_serving: bool,
    /// What it consists of, where it is no database.
    pub(super) schemas: Schemas,
}

/// What stands under the target's name.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    pub(super) exists: bool,
    /// Nothing had been made in it.
    pub(super) was_empty: bool,
    /// The generation that it is, when a sync has made it.
    pub(super) serving: Option<Generation>,
    /// The schemas that are replaced, where it is schemas that are.
    pub(super) schemas: Schemas,
}

/// The generations that exist, the one that changed its state last first.
pub(super) async fn generations(session: &mut Session, target: &str) -> Result<Vec<Generation>> {
    if session.one("select pg_catalog.to_regclass('pgdiode.generation') is null").await?.bool(0) {
        return Ok(Vec::new());
    }
    let sql = "select number, database, database_oid, run, state = 'serving', schemas from pgdiode.generation
                where target = $1 and state <> 'dropped' order by changed desc";
    let rows = session.query_with(sql, &[Some(target)]).await?;
    let read = |row: &crate::pg::session::Row| {
        Ok(Generation {
            number: row.get(0)?,
            database: row.string(1),
            oid: row.get(2)?,
            run: row.optional(3)?,
            is_serving: row.bool(4),
            schemas: read_schemas(row.text(5))?,
        })
    };
    rows.iter().map(read).collect()
}

/// As the control tables have them.
pub(super) fn read_schemas(json: Option<&str>) -> Result<Schemas> {
    let Some(json) = json else { return Ok(Schemas::new()) };
    serde_json::from_str(json).map_err(|error| {
        Error::unexpected("schema pgdiode holds an unreadable list of schemas").because(error)
    })
}

pub(super) fn written_schemas(schemas: &Schemas) -> Result<String> {
    serde_json::to_string(schemas)
        .map(|json| quote::literal(&json))
        .map_err(|error| Error::unexpected("a list of schemas cannot be written").because(error))
}
