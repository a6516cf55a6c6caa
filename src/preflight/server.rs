//! The source's server: its version and settings, what it lets this user do, and the pipeline's slot.

use super::{Survey, counted};
use crate::config::{Mode, Plugin, Way};
use crate::error::Result;
use crate::pg::dump::find_pg_dump;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Origin;
use crate::source::postgres::slot::{self, SlotState};

/// The oldest version whose catalogs and slots are read here.
pub(super) const MAJOR_MIN: u32 = 13;
/// From here on a transaction is sent while it still runs.
const MAJOR_STREAMING: u32 = 14;

const SETTINGS: &str = "
    select pg_catalog.current_setting('wal_level'),
           pg_catalog.current_setting('max_replication_slots')::int,
           (select pg_catalog.count(*) from pg_catalog.pg_replication_slots),
           pg_catalog.current_setting('max_wal_senders')::int,
           (select pg_catalog.count(*) from pg_catalog.pg_stat_replication),
           pg_catalog.pg_is_in_recovery(),
           (select rolsuper or rolreplication from pg_catalog.pg_roles where rolname = current_user)
           or exists (select from pg_catalog.pg_roles r
                       where r.rolname = 'rds_replication' and pg_catalog.pg_has_role(r.oid, 'member')),
           current_user, pg_catalog.current_setting('max_slot_wal_keep_size', true),
           pg_catalog.current_setting('idle_replication_slot_timeout', true)";

/// What [`SETTINGS`] answers.
struct Settings {
    wal_level: String,
    slots_max: u32,
    slots: u32,
    senders_max: u32,
    senders: u32,
    in_recovery: bool,
    may_replicate: bool,
    user: String,
    slot_wal_keep: Option<String>,
    slot_idle_timeout: Option<String>,
}

impl Settings {
    async fn read(session: &mut Session) -> Result<Settings> {
        let row = session.one(SETTINGS).await?;
        Ok(Settings {
            wal_level: row.string(0),
            slots_max: row.get(1)?,
            slots: row.get(2)?,
            senders_max: row.get(3)?,
            senders: row.get(4)?,
            in_recovery: row.bool(5),
            may_replicate: row.bool(6),
            user: row.string(7),
            slot_wal_keep: row.text(8).map(str::to_owned),
            slot_idle_timeout: row.text(9).map(str::to_owned),
        })
    }
}

impl Survey<'_> {
    pub(super) async fn source_server(&mut self, session: &mut Session) -> Result<()> {
        self.version(session);
        self.encoding(session);
        let settings = Settings::read(session).await?;
        self.standby(session, &settings);
        self.logical(&settings);
        self.room(session, &settings).await?;
        self.retention(&settings);
        let pg_dump = find_pg_dump(self.pipeline.pg_dump.as_deref(), session.server_major()).await;
        // An archive without a base needs no schema.
        let is_needed = self.pipeline.way() == Way::Direct || self.pipeline.archive.base;
        if let (Err(error), true) = (pg_dump, is_needed) {
            // The schema is there already; only a table that joins later needs its own.
            if self.stored.as_ref().is_some_and(|stored| stored.schema_copied) {
                let hint = error.hint_text().unwrap_or_default().to_owned();
                self.report.warn(error.chain(), hint);
            } else {
                self.report.fail(&error);
            }
        }
        Ok(())
    }

    fn version(&mut self, session: &Session) {
        let version = session.parameter("server_version").unwrap_or("of unknown version").to_owned();
        let what = format!("source {} is PostgreSQL {version}", session.place());
        match session.server_major() {
            major if major < MAJOR_MIN => self.report.refuse(
                format!("{what}, too old"),
                format!("pgdiode reads PostgreSQL {MAJOR_MIN} and newer; upgrade the source"),
            ),
            major if major < MAJOR_STREAMING => self.report.warn(
                what,
                format!(
                    "before PostgreSQL {MAJOR_STREAMING} a large transaction is sent only once it has committed: \
                     expect lag behind it"
                ),
            ),
            _ => self.report.ok(what),
        }
    }

    /// wal2json writes values as the database holds them, in whatever encoding, and calls it JSON.
    fn encoding(&mut self, session: &Session) {
        let encoding = session.parameter("server_encoding").unwrap_or("unknown");
        if self.pipeline.plugin == Plugin::Wal2json && encoding != "UTF8" {
            self.report.refuse(
                format!("the source's encoding is {encoding}, and wal2json's messages are only read in UTF8"),
                format!("leave plugin out of [pipeline.{}]: pgoutput converts", self.pipeline.name),
            );
        }
    }

    fn standby(&mut self, session: &Session, settings: &Settings) {
        if !settings.in_recovery {
            return;
        }
        if session.server_major() < 16 {
            self.report.refuse(
                "the source is a standby, and before PostgreSQL 16 a standby has no logical slots",
                "point the pipeline at the primary: target_session_attrs=read-write finds it among several hosts",
            );
        } else {
            self.report.warn(
                "the source is a standby",
                "set up the publication on its primary; the standby needs hot_standby_feedback = on",
            );
        }
    }

    fn logical(&mut self, settings: &Settings) {
        if settings.wal_level != "logical" {
            self.report.refuse(
                format!("wal_level is {} at the source, it must be logical", settings.wal_level),
                "as a superuser: alter system set wal_level = logical; then restart the server",
            );
        }
        if !settings.may_replicate {
            self.report.refuse(
                format!("the source's user {} may not replicate", settings.user),
                format!(
                    "as a superuser: alter role {} replication (on Amazon RDS: grant rds_replication to it)",
                    quote::identifier(&settings.user)
                ),
            );
        }
    }

    /// Whether a slot and a sender are free, unless the pipeline holds its own already.
    async fn room(&mut self, session: &mut Session, settings: &Settings) -> Result<()> {
        let own = slot::read(session, &self.pipeline.slot).await?;
        if own.is_none() && settings.slots >= settings.slots_max {
            self.report.refuse(
                format!("all {} of the source are in use", counted(settings.slots_max as usize, "slot")),
                format!(
                    "as a superuser: alter system set max_replication_slots = {}; then restart the server; or drop a \
                     slot that nobody uses: select * from pg_replication_slots where not active",
                    settings.slots_max + 2
                ),
            );
        }
        if !own.is_some_and(|slot| slot.active) && settings.senders >= settings.senders_max {
            self.report.refuse(
                format!(
                    "all {} of the source are in use",
                    counted(settings.senders_max as usize, "WAL sender")
                ),
                format!(
                    "as a superuser: alter system set max_wal_senders = {}; then restart the server",
                    settings.senders_max + 2
                ),
            );
        }
        Ok(())
    }

    fn retention(&mut self, settings: &Settings) {
        let budget = self.pipeline.limits.wal_budget_mb;
        if settings.slot_wal_keep.as_deref() == Some("-1") {
            self.report.warn(
                "max_slot_wal_keep_size is unlimited: a slot that nobody reads can fill the source's disk",
                format!(
                    "pgdiode warns from limits.wal_budget_mb = {budget} on; for a limit that the server keeps, above \
                     that budget: alter system set max_slot_wal_keep_size = '{}MB'",
                    budget * 2
                ),
            );
        }
        if let Some(timeout) = settings.slot_idle_timeout.as_deref().filter(|timeout| *timeout != "0") {
            self.report.warn(
                format!("a slot that is idle for {timeout} is invalidated by the source"),
                "a pipeline that is stopped for longer starts over; idle_replication_slot_timeout = 0 turns that off",
            );
        }
    }

    /// Opens a replication connection: `pg_hba.conf` and poolers treat those apart.
    pub(super) async fn replication(&mut self, origin: &Origin) -> Result<()> {
        if self.report.refusal.is_some() {
            return Ok(());
        }
        let session = origin.replication().await;
        session.map(drop).map_err(|error| error.context("no replication connection"))
    }

    /// What has become of the slot.
    pub(super) async fn slot(&mut self, session: &mut Session) -> Result<Option<SlotState>> {
        let name = &self.pipeline.slot;
        let Some(state) = slot::read(session, name).await? else { return Ok(None) };
        let row = session
            .one(&format!(
                "select coalesce(plugin, 'none'), coalesce(database, ''), \
                        coalesce(database, '') = pg_catalog.current_database() \
                   from pg_catalog.pg_replication_slots where slot_name = {}",
                quote::literal(name)
            ))
            .await?;
        let (plugin, database) = (row.string(0), row.string(1));
        if plugin != self.pipeline.plugin.as_str() || !row.bool(2) {
            self.report.refuse(
                format!("slot \"{name}\" is somebody else's: plugin {plugin}, database \"{database}\""),
                format!(
                    "name another slot with the key slot of [pipeline.{}], or its plugin with the key plugin",
                    self.pipeline.name
                ),
            );
        }
        if state.wal_status == "lost" || state.invalidation.is_some() {
            let reason = state.invalidation.as_deref().unwrap_or("its write-ahead log was removed");
            self.report.refuse(
                format!("slot \"{name}\" is lost: {reason}"),
                "raise max_slot_wal_keep_size at the source, then start over: pgdiode reset --drop-slot, pgdiode start",
            );
        }
        let held_mb = state.wal_held_bytes >> 20;
        if held_mb > self.pipeline.limits.wal_budget_mb {
            self.report.warn(
                format!(
                    "slot \"{name}\" makes the source keep {held_mb} MB of write-ahead log, above the budget"
                ),
                "start the pipeline, or give it up: pgdiode reset --drop-slot",
            );
        }
        if state.wal_status == "unreserved" {
            self.report.warn(
                format!("slot \"{name}\" is about to be lost: the source may remove its log at the next checkpoint"),
                "start the pipeline now, or raise max_slot_wal_keep_size",
            );
        }
        let is_direct = self.pipeline.mode == Mode::Stream && self.pipeline.way() == Way::Direct;
        if is_direct && self.stored.is_none() && state.active {
            self.report.warn(
                format!("slot \"{name}\" is in use, and not by a pipeline of this target"),
                "two pipelines cannot share a slot: name another one",
            );
        }
        Ok(Some(state))
    }
}
