//! What a sync and a rollback write into the audit log, which is in the control database: no swap takes it along.
//!
//! Each begins with an entry, without which nothing is done. A swap commits together with its own entry and with the one
//! that says how the sync or rollback ended: whatever serves, the log says since when and by whose doing.

use serde_json::{Map, Value, json};

use crate::audit::{Action, Entry, Journal};
use crate::config::Pipeline;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::snapshot::control;
use crate::snapshot::generation::Generation;
use crate::snapshot::guards::Contents;
use crate::snapshot::place::{Place, drop_database};
use crate::snapshot::swap::{self, Swap};
use crate::snapshot::{SyncOptions, by_schema};
use crate::status::snapshot::Discarded;

pub(super) type Details = Map<String, Value>;

/// Tables are listed one by one up to this; an entry has a bound, and their digest stands for more of them.
const TABLES_BYTES_MAX: usize = 32 * 1024;
const VERSION_CHARACTERS_MAX: usize = 1000;
const DISCARDED_BYTES_MAX: usize = 16 * 1024;

/// Announces what is about to be done. On an error it must not be, and the run has ended.
pub(super) async fn begin(
    control: &mut Session,
    place: &Place<'_>,
    run: i64,
    action: Action,
    reason: Option<&str>,
    mut details: Details,
) -> Result<Journal> {
    details.insert("run".into(), run.into());
    let begun = Journal::begin(control, place.pipeline, action, reason, details).await;
    if let Err(error) = &begun {
        control::end(control, run, "failed", error).await?;
    }
    begun
}

/// What a sync was asked for.
pub(super) fn asked(place: &Place<'_>, options: &SyncOptions) -> Details {
    details(json!({
        "source": place.ends.source.display(),
        "target": place.ends.target.display(),
        "adopt": options.adopt,
        "accept_losses": options.accept_losses,
    }))
}

/// What a sync found in its copy; `pgdiode.run` has all of `tables` in any case.
pub(super) fn found(
    place: &Place<'_>,
    contents: &Contents,
    version: Option<Vec<String>>,
    rows: u64,
    bytes: u64,
) -> Details {
    let verify = place.pipeline.snapshot.verify.as_str();
    let mut found = details(json!({ "rows": rows, "bytes": bytes, "verify": verify }));
    if let Some(version) = version {
        found.insert(
            "schema_version".into(),
            version.join(" ").chars().take(VERSION_CHARACTERS_MAX).collect::<String>().into(),
        );
    }
    let tables = json!(contents);
    let text = tables.to_string();
    if text.len() <= TABLES_BYTES_MAX {
        found.insert("tables".into(), tables);
    } else {
        found.insert("tables_count".into(), contents.len().into());
        let digest = sha256(text.as_bytes());
        found.insert("tables_sha256".into(), digest.into());
    }
    found
}

/// What of the replica's own the swap takes out of sight; `pgdiode.run` has all of it in any case.
pub(super) fn tell_discarded(found: &mut Details, discarded: &[Discarded]) {
    if discarded.is_empty() {
        return;
    }
    found.insert("discarded_count".into(), discarded.len().into());
    let all = json!(discarded);
    if all.to_string().len() <= DISCARDED_BYTES_MAX {
        found.insert("discarded".into(), all);
    }
}

/// Where a rollback goes.
pub(super) fn back_to(place: &Place<'_>, generation: &Generation) -> Details {
    details(json!({ "target": place.ends.target.display(), "generation": generation.number }))
}

/// What the log says of a swap, and of the sync or rollback that is done with it, in the swap's own transaction.
pub(super) struct Announced<'a> {
    journal: &'a Journal,
    pub(super) entries: Vec<Entry>,
}

impl<'a> Announced<'a> {
    /// `incoming` and `outgoing` say what takes whose place.
    pub(super) fn new(
        place: &Place<'_>,
        journal: &'a Journal,
        action: Action,
        run: i64,
        [incoming, outgoing]: [Option<String>; 2],
        mut ended: Details,
    ) -> Announced<'a> {
        ended.insert("run".into(), run.into());
        let swapped = details(json!({
            "run": run,
            "database": place.database,
            "incoming": incoming,
            "outgoing": outgoing,
        }));
        Announced { journal, entries: vec![journal.done(Action::Swap, swapped), journal.done(action, ended)] }
    }

    /// Tells people, now that it is committed.
    pub(super) fn committed(&self, numbers: Vec<i64>) {
        for (entry, number) in self.entries.iter().zip(numbers) {
            self.journal.committed(entry, number);
        }
    }
}

/// Swaps databases, and in the same transaction says so, and that `action` was done.
pub(super) async fn swap(
    control: &mut Session,
    place: &Place<'_>,
    mut swap: Swap,
    journal: &Journal,
    action: Action,
    ended: Details,
) -> Result<()> {
    let names = [Some(swap.incoming.clone()), swap.outgoing.clone()];
    let mut announced = Announced::new(place, journal, action, swap.run, names, ended);
    swap.entries = std::mem::take(&mut announced.entries);
    let numbers = swap::swap(control, place, &swap).await?;
    announced.entries = swap.entries;
    announced.committed(numbers);
    Ok(())
}

/// Drops a kept generation.
pub(super) async fn drop_generation(
    control: &mut Session,
    place: &Place<'_>,
    generation: &Generation,
) -> Result<()> {
    let why = format!("snapshot.keep = {}", place.pipeline.snapshot.keep);
    drop_audited(control, place, generation, &why).await
}

/// Drops what was there before the first sync, which was empty.
pub(super) async fn drop_empty(
    control: &mut Session,
    place: &Place<'_>,
    generation: &Generation,
) -> Result<()> {
    drop_audited(control, place, generation, "it was empty before the first sync").await
}

async fn drop_audited(
    control: &mut Session,
    place: &Place<'_>,
    generation: &Generation,
    why: &str,
) -> Result<()> {
    let details =
        details(json!({ "generation": generation.number, "database": generation.database, "because": why }));
    let journal =
        Journal::begin(control, place.pipeline, Action::DropGeneration, None, details.clone()).await?;
    let dropped = if generation.schemas.is_empty() {
        drop_database(control, &generation.database).await
    } else {
        by_schema::drop_generation(control, generation).await
    };
    journal.conclude_with(control, dropped, |()| details).await
}

/// A session with the log of a snapshot pipeline.
pub async fn audit_session(pipeline: &Pipeline) -> Result<Session> {
    let place = Place::resolve(pipeline)?;
    match place.session_if_there(&place.control).await? {
        Some(session) => Ok(session),
        None => {
            // Says so when it is the server that is not there.
            place.server().await?;
            Err(Error::refused("the target has no audit log: there has never been a sync")
                .hint("The first pgdiode sync creates it."))
        }
    }
}

fn details(value: Value) -> Details {
    match value {
        Value::Object(details) => details,
        _ => unreachable!("details are an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::guards::Content;

    #[test]
    fn however_many_tables_there_are_an_entry_holds_them() {
        let pipeline = crate::config::Config::parse(
            std::path::Path::new("pgdiode.toml"),
            "[pipeline.li]\nmode = \"snapshot\"\nsource = \"host=a dbname=a\"\ntarget = \"host=b dbname=b\"",
        )
        .unwrap();
        let place = Place::resolve(&pipeline.pipelines[0]).unwrap();
        let contents = |count: u64| -> Contents {
            (0..count)
                .map(|number| {
                    (format!("public.t{number}"), Content { rows: number, digest: Some("d".repeat(32)) })
                })
                .collect()
        };
        let few = found(&place, &contents(3), None, 3, 1);
        assert_eq!(few["tables"]["public.t2"], json!({ "rows": 2, "digest": "d".repeat(32) }));
        let many = found(&place, &contents(2000), None, 3, 1);
        assert_eq!((many.get("tables"), &many["tables_count"]), (None, &json!(2000)));
        assert_eq!(many["tables_sha256"].as_str().unwrap().len(), 64);
        assert_ne!(many["tables_sha256"], found(&place, &contents(2001), None, 3, 1)["tables_sha256"]);
    }
}
