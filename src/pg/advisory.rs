//! Advisory locks: the server gives each to one session of a database at a time, and takes it back when that ends.

use std::time::Duration;

use tokio::time::Instant;

use super::quote;
use super::session::Session;
use crate::error::Result;

const PAUSE: Duration = Duration::from_millis(250);

/// A lock by its name; two of the same name are the same lock.
#[derive(Debug, Clone)]
pub struct AdvisoryLock {
    /// SQL for its number.
    key: String,
}

/// The session that holds a lock, as `pg_stat_activity` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub backend: u32,
    pub host: String,
    /// RFC 3339: when its session began.
    pub since: String,
}

impl AdvisoryLock {
    pub fn named(name: &str) -> AdvisoryLock {
        AdvisoryLock { key: format!("pg_catalog.hashtextextended({}, 0)", quote::literal(name)) }
    }

    /// Takes it for the rest of the session; false when somebody has it and keeps it for as long as `patience`.
    pub async fn take(&self, session: &mut Session, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        let sql = format!("select pg_catalog.pg_try_advisory_lock({})", self.key);
        loop {
            if session.one(&sql).await?.bool(0) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Who holds it.
    pub async fn holder(&self, session: &mut Session) -> Result<Option<Holder>> {
        let sql = format!(
            "select l.pid, coalesce(pg_catalog.host(a.client_addr), 'the server''s own machine'),
                    pg_catalog.to_char(coalesce(a.backend_start, pg_catalog.now()) at time zone 'UTC',
                                       'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
               from pg_catalog.pg_locks l
               left join pg_catalog.pg_stat_activity a on a.pid = l.pid
              where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
                and (l.classid::int8 << 32) | l.objid::int8 = {}",
            self.key
        );
        let rows = session.query(&sql).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Holder { backend: row.get(0)?, host: row.string(1), since: row.string(2) }))
    }
}
