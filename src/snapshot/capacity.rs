//! Room for one more copy: looked for before anything is made, since a server whose disk is full serves nobody.
//!
//! What is free is known in two ways: the file system of the server's data directory, when the server is on this host,
//! and the capacity that the operator states, less what the server has stored. The smaller one counts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::place::Place;
use crate::status::CheckReport;
use crate::status::text::bytes;

/// What a sync needs and what there is, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Room {
    percent: u64,
    /// The larger one of the source's database and the one that serves.
    copy: u64,
    /// Free on the file system of the data directory.
    on_volume: Option<u64>,
    /// Left of the capacity that was stated.
    stated: Option<u64>,
}

/// Refuses a sync that the target's disk would not hold.
pub(super) async fn refuse_full_disk(place: &Place<'_>) -> Result<()> {
    let Some(room) = measure(place).await? else { return Ok(()) };
    room.refuse()
}

/// The same as a finding, and that nobody knows.
pub(super) async fn check(place: &Place<'_>, report: &mut CheckReport) -> Result<()> {
    match measure(place).await? {
        None => report.warn(
            "the target's free disk is not guarded: snapshot.free_disk_percent_min = 0",
            "A disk that becomes full stops every database of the server.",
        ),
        Some(room) => match (room.free(), room.refuse()) {
            (_, Err(error)) => report.fail(&error),
            (Some(free), Ok(())) => {
                report.ok(format!("target's disk: {} free, {} needed", bytes(free), bytes(room.need())));
            }
            (None, Ok(())) => report.warn(
                "the target's free disk is not guarded: nothing here tells how much there is",
                "State the capacity of the target's volume: snapshot.disk_mb.",
            ),
        },
    }
    Ok(())
}

async fn measure(place: &Place<'_>) -> Result<Option<Room>> {
    let options = &place.pipeline.snapshot;
    if options.free_disk_percent_min == 0 {
        return Ok(None);
    }
    let (mut source, mut server) = tokio::try_join!(place.ends.source(), place.server())?;
    let size = "select pg_catalog.pg_database_size(pg_catalog.current_database())";
    let at_source: u64 = source.one(size).await?.get(0)?;
    let serving = format!(
        "select coalesce(pg_catalog.max({SIZE}), 0) from pg_catalog.pg_database where datname = {}",
        quote::literal(&place.database)
    );
    // Where schemas are replaced, the database has the kept ones too.
    let serving: u64 = if place.is_by_schema() { 0 } else { server.one(&serving).await?.get(0)? };
    let stated = match options.disk_mb {
        0 => None,
        capacity => Some((capacity << 20).saturating_sub(stored(&mut server).await?)),
    };
    Ok(Some(Room {
        percent: options.free_disk_percent_min,
        copy: at_source.max(serving),
        on_volume: free_on_volume(&mut server).await?,
        stated,
    }))
}

/// The size of a database, where this user may know it.
const SIZE: &str = "case when pg_catalog.has_database_privilege(oid, 'connect')
                           or pg_catalog.pg_has_role('pg_read_all_stats', 'usage')
                         then pg_catalog.pg_database_size(oid) end";

/// What the server has stored, as far as this user may know it.
async fn stored(server: &mut Session) -> Result<u64> {
    let databases = format!("select coalesce(pg_catalog.sum({SIZE}), 0)::int8 from pg_catalog.pg_database");
    let databases: u64 = server.one(&databases).await?.get(0)?;
    let may_read = "select pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute')";
    if !server.one(may_read).await?.bool(0) {
        return Ok(databases);
    }
    let log = "select coalesce(pg_catalog.sum(size), 0)::int8 from pg_catalog.pg_ls_waldir()";
    Ok(databases + server.one(log).await?.get::<u64>(0)?)
}

/// Where the server stores what it has: how much that holds, and what of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    pub bytes: u64,
    pub used: u64,
}

/// The volume of the target's server, where it is on this host or its capacity was stated.
pub async fn volume(pipeline: &Pipeline, server: &mut Session) -> Result<Option<Volume>> {
    if pipeline.snapshot.disk_mb > 0 {
        let used = stored(server).await?;
        return Ok(Some(Volume { bytes: pipeline.snapshot.disk_mb << 20, used }));
    }
    let volume = local_volume(server).await?;
    Ok(volume.map(|volume| {
        let bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
        Volume { bytes, used: bytes.saturating_sub(volume.f_bfree.saturating_mul(volume.f_frsize)) }
    }))
}

/// Free on the volume of the data directory; `None` when that is not known to be on this host.
async fn free_on_volume(server: &mut Session) -> Result<Option<u64>> {
    Ok(local_volume(server).await?.map(|volume| volume.f_bavail.saturating_mul(volume.f_frsize)))
}

async fn local_volume(server: &mut Session) -> Result<Option<rustix::fs::StatVfs>> {
    // No row for a user who may not know it.
    let sql = "select setting, (select system_identifier from pg_catalog.pg_control_system())
                 from pg_catalog.pg_settings where name = 'data_directory'";
    let rows = server.query(sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    // The catalog shows an unsigned number as a signed one.
    let (directory, identifier) = (PathBuf::from(row.string(0)), row.get::<i64>(1)?);
    if system_identifier(&directory) != Some(identifier.cast_unsigned()) {
        return Ok(None);
    }
    Ok(rustix::fs::statvfs(&directory).ok())
}

/// Whose data directory it is: `pg_control` begins with it, in the machine's own byte order.
fn system_identifier(directory: &Path) -> Option<u64> {
    let control = fs::read(directory.join("global/pg_control")).ok()?;
    Some(u64::from_ne_bytes(*control.first_chunk()?))
}

impl Room {
    fn need(&self) -> u64 {
        let need = u128::from(self.copy) * u128::from(self.percent) / 100;
        u64::try_from(need).unwrap_or(u64::MAX)
    }

    fn free(&self) -> Option<u64> {
        self.on_volume.into_iter().chain(self.stated).min()
    }

    fn refuse(&self) -> Result<()> {
        let Some(free) = self.free().filter(|free| *free < self.need()) else { return Ok(()) };
        let known = if self.stated == Some(free) {
            "left of snapshot.disk_mb"
        } else {
            "free on the volume of its data directory"
        };
        Err(Error::new(
            Kind::Capacity,
            format!(
                "the target's disk has too little room: {} {known}, and a copy of {} needs {} ({} %)",
                bytes(free),
                bytes(self.copy),
                bytes(self.need()),
                self.percent
            ),
        )
        .hint(
            "Free disk there (a smaller snapshot.keep drops older copies at the next sync), enlarge the volume, or lower \
             snapshot.free_disk_percent_min.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { percent: 200, copy: 1000, on_volume: None, stated: None };

    #[test]
    fn the_smaller_room_counts() {
        for (on_volume, stated, refused) in [
            (None, None, false),
            (Some(2000), None, false),
            (Some(1999), None, true),
            (None, Some(1999), true),
            (Some(u64::MAX), Some(1999), true),
            (Some(1999), Some(u64::MAX), true),
            (Some(2000), Some(2000), false),
        ] {
            let room = Room { on_volume, stated, ..ROOM };
            assert_eq!(room.refuse().is_err(), refused, "{room:?}");
        }
        let error = Room { stated: Some(5 << 20), copy: 4 << 20, ..ROOM }.refuse().unwrap_err();
        assert_eq!(error.kind().exit_status(), 8);
        assert!(error.what().contains("left of snapshot.disk_mb"), "{error}");
        assert_eq!(Room { copy: u64::MAX, ..ROOM }.need(), u64::MAX);
    }
}
