//! Going back: a kept generation serves again, by the same swap that put it out of sight.

use std::time::Instant;

use crate::audit::{Action, Journal};
use crate::config::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::snapshot::audited::{Announced, Details};
use crate::snapshot::generation::{Generation, generations};
use crate::snapshot::place::{Place, oid_of};
use crate::snapshot::swap::Swap;
use crate::snapshot::{audited, by_schema, clear_up, control, host, leftovers};
use crate::status::snapshot::Promoted;

/// Makes a kept generation serve again: the one numbered `to`, else the newest that is older than the one that serves.
pub async fn rollback(pipeline: &Pipeline, to: Option<i64>, reason: Option<&str>) -> Result<Promoted> {
    let began = Instant::now();
    let place = Place::resolve(pipeline)?;
    let _lock = host::lock(pipeline, "rollback")?;
    if !control::exists(&place).await? {
        return Err(no_generation("there has never been a sync"));
    }
    let mut control = control::open(&place).await?;
    leftovers::clear(&mut control, &place).await?;
    let all = generations(&mut control, &place.database).await?;
    let serving = all.iter().find(|one| one.is_serving);
    let chosen = choose(&all, serving, to)?;
    for one in serving.into_iter().chain([chosen]) {
        let is_intact = if one.schemas.is_empty() {
            oid_of(&mut control, &one.database).await? == Some(one.oid)
        } else {
            by_schema::is_intact(&mut control, one).await?
        };
        if !is_intact {
            return Err(Error::refused(format!(
                "database \"{}\" is not generation {} any more",
                one.database, one.number
            ))
            .hint("Somebody has dropped, renamed or replaced it: pgdiode generations."));
        }
    }
    let run = control::begin(&mut control, &place, "rollback", reason).await?;
    let details = audited::back_to(&place, chosen);
    let journal =
        audited::begin(&mut control, &place, run, Action::Rollback, reason, details.clone()).await?;
    let turn = Turn { place: &place, run, serving, chosen, journal: &journal, details };
    let bytes = match turn.take(&mut control).await {
        Ok(bytes) => bytes,
        Err(error) => {
            drop(control);
            let verdict = if error.kind() == Kind::Difference { "not promoted" } else { "failed" };
            clear_up(&place, run, journal, verdict, &error).await?;
            return Err(error);
        }
    };
    let rows = match chosen.run {
        Some(run) => {
            let sql = format!("select coalesce(rows, 0) from pgdiode.run where id = {run}");
            control.query(&sql).await?.first().map_or(Ok(0), |row| row.get(0))?
        }
        None => 0,
    };
    Ok(Promoted {
        run,
        generation: chosen.number,
        database: place.database.clone(),
        previous: serving.map(|serving| serving.number),
        rows,
        bytes,
        seconds: began.elapsed().as_secs_f64(),
        left_out: Vec::new(),
        discarded: Vec::new(),
        preserved: Vec::new(),
    })
}

/// One rollback: what serves goes out of sight, and what was chosen serves.
struct Turn<'a> {
    place: &'a Place<'a>,
    run: i64,
    serving: Option<&'a Generation>,
    chosen: &'a Generation,
    journal: &'a Journal,
    details: Details,
}

impl Turn<'_> {
    /// Swaps, and says the size in bytes of what serves then.
    async fn take(self, control: &mut Session) -> Result<u64> {
        let (place, chosen) = (self.place, self.chosen);
        let size = if place.is_by_schema() {
            self.swap_schemas(control).await?;
            let oids = chosen.schemas.values().map(u32::to_string).collect::<Vec<_>>().join(", ");
            by_schema::size_of(&oids)
        } else {
            self.swap_databases(control).await?;
            format!("pg_catalog.pg_database_size({})", quote::literal(&place.database))
        };
        control.one(&format!("select {size}")).await?.get(0)
    }

    async fn swap_schemas(self, control: &mut Session) -> Result<()> {
        let Turn { place, run, serving, chosen, journal, details } = self;
        let named = |one: &Generation| format!("generation {}", one.number);
        let names = [Some(named(chosen)), serving.map(named)];
        let announced = Announced::new(place, journal, Action::Rollback, run, names, details);
        let swapped = by_schema::roll_back(control, place, run, serving, chosen, &announced.entries).await?;
        announced.committed(swapped);
        Ok(())
    }

    async fn swap_databases(self, control: &mut Session) -> Result<()> {
        let Turn { place, run, serving, chosen, journal, details } = self;
        let target = quote::literal(&place.database);
        let outgoing = serving.map(|serving| place.generation(serving.number));
        let mut record = String::new();
        if let (Some(serving), Some(outgoing)) = (serving, &outgoing) {
            record.push_str(&format!(
                "update pgdiode.generation set state = 'kept', database = {}, changed = nextval('pgdiode.change')
                  where target = {target} and number = {};",
                quote::literal(outgoing),
                serving.number
            ));
        }
        record.push_str(&format!(
            "update pgdiode.generation set state = 'serving', database = {target}, changed = nextval('pgdiode.change')
              where target = {target} and number = {number};
             update pgdiode.run set generation = {number} where id = {run}",
            number = chosen.number
        ));
        let (incoming, entries) = (chosen.database.clone(), Vec::new());
        let swap = Swap { run, outgoing, incoming, record, keeper: None, entries };
        audited::swap(control, place, swap, journal, Action::Rollback, details).await
    }
}

fn choose<'a>(
    generations: &'a [Generation],
    serving: Option<&Generation>,
    to: Option<i64>,
) -> Result<&'a Generation> {
    let mut kept = generations.iter().filter(|one| !one.is_serving);
    match to {
        Some(number) if serving.is_some_and(|serving| serving.number == number) => {
            Err(no_generation(&format!("generation {number} serves already")))
        }
        Some(number) => kept
            .find(|one| one.number == number)
            .ok_or_else(|| no_generation(&format!("there is no generation {number} that is kept"))),
        None => kept
            .filter(|one| serving.is_none_or(|serving| one.number < serving.number))
            .max_by_key(|one| one.number)
            .ok_or_else(|| no_generation("there is no older generation to go back to")),
    }
}

fn no_generation(what: &str) -> Error {
    Error::refused(what).hint("What there is: pgdiode generations. How many are kept: snapshot.keep.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: i64, is_serving: bool) -> Generation {
        Generation {
            number,
            database: format!("g{number}"),
            oid: 1,
            run: None,
            is_serving,
            schemas: crate::snapshot::generation::Schemas::new(),
        }
    }

    #[test]
    fn a_rollback_goes_to_the_newest_that_is_older() {
        let all = [generation(5, false), generation(4, true), generation(3, false), generation(2, false)];
        let chosen = |to| choose(&all, Some(&all[1]), to).map(|one| one.number);
        assert_eq!(chosen(None).unwrap(), 3);
        assert_eq!(chosen(Some(5)).unwrap(), 5);
        for (to, what) in [(4, "serves already"), (7, "no generation 7")] {
            let error = chosen(Some(to)).unwrap_err();
            assert!(error.kind() == Kind::Refused && error.what().contains(what), "{error:?}");
        }
        assert!(choose(&all[1..2], Some(&all[1]), None).is_err());
    }
}
