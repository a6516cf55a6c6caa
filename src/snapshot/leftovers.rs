//! What is dropped: shadows that killed runs left behind, and copies older than are kept.

use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::generation::generations;
use crate::snapshot::place::{Place, drop_database, oid_of};
use crate::snapshot::{audited, by_schema};

/// What runs left behind that were killed: nobody holds the lock but us. Their shadows are dropped.
pub(super) async fn clear(session: &mut Session, place: &Place<'_>) -> Result<()> {
    let target = Some(place.database.as_str());
    session
        .query_with(
            "update pgdiode.run set verdict = 'killed', ended = clock_timestamp(),
                    error = coalesce(error, 'the process ended without a word while ' || coalesce(phase, 'starting'))
              where target = $1 and verdict = 'running'",
            &[target],
        )
        .await?;
    let sql = "select id from pgdiode.run where target = $1 and coalesce(shadow, schemas::text) is not null";
    for row in session.query_with(sql, &[target]).await? {
        let run = row.get(0)?;
        tracing::info!(run, "dropping what an earlier sync left behind");
        drop_shadow(session, run).await?;
    }
    Ok(())
}

/// Drops what a run has filled and nobody serves from: a database, or schemas; `Ok` if there is none.
pub(super) async fn drop_shadow(session: &mut Session, run: i64) -> Result<()> {
    let sql = format!("select shadow, shadow_oid, schemas is not null from pgdiode.run where id = {run}");
    let row = session.one(&sql).await?;
    if row.bool(2) {
        by_schema::drop_shadow(session, run).await?;
    }
    if row.text(0).is_none() {
        return Ok(());
    }
    let (shadow, oid) = (row.string(0), row.optional::<u32>(1)?);
    let found = oid_of(session, &shadow).await?;
    if found.is_some() && (oid.is_none() || oid == found) {
        drop_database(session, &shadow).await?;
    }
    session.query(&format!("update pgdiode.run set shadow = null where id = {run}")).await.map(drop)
}

/// Whether a database will be dropped once another copy serves.
pub(super) async fn will_drop(session: &mut Session, place: &Place<'_>) -> Result<bool> {
    let there = generations(session, &place.database).await?;
    let databases = there.iter().filter(|one| one.schemas.is_empty()).count();
    Ok(databases as u64 > place.pipeline.snapshot.keep)
}

/// Drops the oldest kept generations until `keep` are left. What cannot be dropped now is tried again by the next run.
pub(super) async fn prune(session: &mut Session, place: &Place<'_>) -> Result<u64> {
    let keep = usize::try_from(place.pipeline.snapshot.keep).unwrap_or(usize::MAX);
    let kept = generations(session, &place.database).await?;
    let mut dropped = 0;
    for generation in kept.into_iter().filter(|generation| !generation.is_serving).skip(keep) {
        let is_it = !generation.schemas.is_empty()
            || oid_of(session, &generation.database).await? == Some(generation.oid);
        let gone = if is_it { audited::drop_generation(session, place, &generation).await } else { Ok(()) };
        if let Err(error) = gone {
            tracing::warn!(
                number = generation.number,
                database = generation.database,
                error = error.chain(),
                "a generation stays"
            );
            continue;
        }
        let sql = format!(
            "update pgdiode.generation set state = 'dropped' where target = {} and number = {}",
            quote::literal(&place.database),
            generation.number
        );
        session.query(&sql).await?;
        dropped += 1;
    }
    Ok(dropped)
}
