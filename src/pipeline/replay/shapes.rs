//! The shapes that tables have had: what a change in another shape means, with no source's catalog to ask.
//!
//! A base and the first change of a table say which columns it has, by name, type and modifier, and which table it is,
//! by its OID; that is written down beside it. What a later shape cannot be told to be, it is not guessed to be: a
//! column that came while another went may be the same one renamed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::archive::manifest::BaseTable;
use crate::change::{Relation, TableName};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::drift;
use crate::pipeline::ends::TargetEnd;
use crate::target::postgres::progress::{note, of_relation};
use crate::target::postgres::table::Mismatch;
use crate::target::postgres::{FollowSchema, Followed};

/// Types from here on are a server's own: their OIDs mean nothing on another.
const FIRST_OWN_OID: u32 = 16384;

/// A column's type OID and modifier at the origin; `None` while no change has said so.
type Types = BTreeMap<String, Option<(u32, i32)>>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shape {
    /// The origin's OID; `None` while no change has said so.
    oid: Option<u32>,
    columns: Types,
}

impl Shape {
    fn of(relation: &Relation) -> Shape {
        let columns = relation
            .columns
            .iter()
            .map(|column| (column.name.clone(), Some((column.type_id, column.type_modifier))));
        Shape { oid: Some(relation.id), columns: columns.collect() }
    }

    fn literals(&self) -> [String; 2] {
        let columns = serde_json::to_string(&self.columns).expect("names and numbers");
        let oid = self.oid.map_or_else(|| "null".to_owned(), |oid| oid.to_string());
        [oid, quote::literal(&columns)]
    }

    /// Why rows of `new` cannot go on where rows of this shape are, if so.
    fn refuses(&self, new: &Shape) -> Option<String> {
        if self.oid.is_some() && self.oid != new.oid {
            return Some(
                "the table was dropped at the origin, and is another one now under the same name".into(),
            );
        }
        let altered = self.columns.iter().find(|(name, known)| {
            let now = new.columns.get(*name).copied().flatten();
            known.is_some() && now.is_some() && **known != now
        });
        if let Some((name, _)) = altered {
            return Some(format!(
                "column \"{name}\" changed its type at the origin, which rewrote older rows unseen"
            ));
        }
        let gone = self.columns.keys().find(|name| !new.columns.contains_key(*name));
        let come = new.columns.keys().find(|name| !self.columns.contains_key(*name));
        match (gone, come) {
            (Some(gone), Some(come)) if !self.columns.is_empty() => Some(format!(
                "column \"{gone}\" is gone at the origin and \"{come}\" has come: renamed or not, the archive does not tell"
            )),
            _ => None,
        }
    }
}

/// The shapes of a run's tables.
#[derive(Default)]
pub struct Shapes(HashMap<TableName, Shape>);

/// The shape of a table that was filled from a base: its OID, and its columns as [`Shapes::read`] has them, in SQL. A base
/// that does not describe it says at least how they are called.
pub fn of_base(table: &BaseTable) -> [String; 2] {
    let types = table.shape.iter().flat_map(|shape| &shape.types).map(Some).chain(std::iter::repeat(None));
    let columns = table.columns.iter().zip(types).map(|(name, column)| (name.clone(), column.copied()));
    Shape { oid: table.shape.as_ref().map(|shape| shape.oid), columns: columns.collect() }.literals()
}

impl Shapes {
    pub async fn read(target: &mut Session, pipeline: &str) -> Result<Shapes> {
        let rows = target
            .query_with(
                "select schema_name, table_name, source_oid, column_types from pgdiode.relation where pipeline = $1",
                &[Some(pipeline)],
            )
            .await?;
        let shape = |row: &crate::pg::session::Row| -> Result<Shape> {
            let columns = row.text(3).map(serde_json::from_str).transpose().map_err(|error| {
                Error::unexpected("pgdiode.relation holds columns that cannot be read").because(error)
            })?;
            Ok(Shape { oid: row.optional(2)?, columns: columns.unwrap_or_default() })
        };
        let shapes = rows.iter().map(|row| Ok((TableName::new(row.string(0), row.string(1)), shape(row)?)));
        Ok(Shapes(shapes.collect::<Result<_>>()?))
    }

    /// How the target asks. `follows`: what the configuration wants of drift.
    pub fn follow(self, end: &TargetEnd, pipeline: &str, follows: bool) -> FollowSchema {
        let (end, pipeline) = (end.clone(), pipeline.to_owned());
        let shapes = Arc::new(Mutex::new(self));
        Arc::new(move |relation, mismatch| {
            let (end, pipeline, shapes) = (end.clone(), pipeline.clone(), Arc::clone(&shapes));
            Box::pin(async move {
                let table = relation.table();
                let new = Shape::of(&relation);
                let known =
                    shapes.lock().expect("nobody panics here").0.get(&table).cloned().unwrap_or_default();
                if let Some(reason) = known.refuses(&new) {
                    return Ok(Followed::Refused(reason));
                }
                let mut statements = match mismatch {
                    Mismatch::Unseen if known == new => return Ok(Followed::Altered(Vec::new())),
                    Mismatch::Unseen => Vec::new(),
                    Mismatch::Value => {
                        let reason = "where an enum got a label at the origin, add it here too: alter type ... add value";
                        return Ok(Followed::Refused(reason.into()));
                    }
                    Mismatch::NoTable | Mismatch::NotATable(_) => {
                        return Ok(Followed::Refused(mismatch.to_string()));
                    }
                    _ if !follows => {
                        let reason = format!("{mismatch}, and the configuration says not to follow");
                        return Ok(Followed::Refused(reason));
                    }
                    Mismatch::RequiredColumns(required) => {
                        let altered = drift::altered_table(&mut end.session().await?, &table).await?;
                        drift::no_longer_required(&altered, &required)
                    }
                    Mismatch::MissingColumns(missing) => {
                        match added_columns(&mut end.session().await?, &pipeline, &relation, &known, &missing)
                            .await?
                        {
                            Ok(statements) => statements,
                            Err(reason) => return Ok(Followed::Refused(reason)),
                        }
                    }
                };
                statements.push(remember(&pipeline, &table, &new));
                // What is rolled back ends the attempt, and these with it.
                shapes.lock().expect("nobody panics here").0.insert(table, new);
                Ok(Followed::Altered(statements))
            })
        })
    }
}

/// The statements that add columns of types which every server has; or why they cannot be added.
async fn added_columns(
    target: &mut Session,
    pipeline: &str,
    relation: &Relation,
    known: &Shape,
    missing: &[String],
) -> Result<Result<Vec<String>, String>> {
    let table = relation.table();
    let altered = drift::altered_table(target, &table).await?;
    let mut statements = Vec::new();
    for name in missing {
        let Some(column) = relation.columns.iter().find(|column| column.name == *name) else { continue };
        if known.columns.contains_key(name) {
            return Ok(Err(format!("column \"{name}\" was dropped at the target")));
        }
        if column.type_id >= FIRST_OWN_OID {
            return Ok(Err(format!(
                "column \"{name}\" was added at the origin, of a type of its own: add it here too"
            )));
        }
        let format = format!("select pg_catalog.format_type({}, {})", column.type_id, column.type_modifier);
        let type_sql = target.one(&format).await?.string(0);
        statements.push(format!(
            "alter table {} add column {} {type_sql}",
            quote::table(&altered),
            quote::identifier(name)
        ));
        let detail = format!(
            "column \"{name}\" was added at the origin; what older rows got for it there no file tells, here it is null \
             for them: with a base taken since then, pgdiode resync brings it"
        );
        statements.push(note(pipeline, &table, "column-added", &detail));
    }
    Ok(Ok(statements))
}

fn remember(pipeline: &str, table: &TableName, shape: &Shape) -> String {
    let [oid, columns] = shape.literals();
    format!(
        "update pgdiode.relation set source_oid = {oid}, column_types = {columns} {}",
        of_relation(pipeline, table)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(oid: Option<u32>, columns: &[(&str, Option<u32>)]) -> Shape {
        let columns = columns.iter().map(|(name, type_id)| ((*name).to_owned(), type_id.map(|id| (id, -1))));
        Shape { oid, columns: columns.collect() }
    }

    #[test]
    fn what_cannot_be_told_is_not_guessed() {
        let known = shape(Some(1), &[("a", Some(23)), ("b", Some(25))]);
        let of_base = shape(None, &[("a", None), ("b", None)]);
        for (before, now, refused) in [
            (&known, shape(Some(1), &[("a", Some(23)), ("b", Some(25))]), None),
            (&known, shape(Some(1), &[("a", Some(23))]), None),
            (&known, shape(Some(1), &[("a", Some(23)), ("b", Some(25)), ("c", Some(25))]), None),
            (&known, shape(Some(2), &[("a", Some(23)), ("b", Some(25))]), Some("another one")),
            (&known, shape(Some(1), &[("a", Some(20)), ("b", Some(25))]), Some("changed its type")),
            (&known, shape(Some(1), &[("a", Some(23)), ("c", Some(25))]), Some("renamed or not")),
            (&of_base, shape(Some(7), &[("a", Some(23)), ("b", Some(25))]), None),
            (&of_base, shape(Some(7), &[("a", Some(23)), ("c", Some(25))]), Some("renamed or not")),
            (&Shape::default(), shape(Some(7), &[("a", Some(23))]), None),
        ] {
            let reason = before.refuses(&now);
            let is_as_expected = match (&reason, refused) {
                (Some(reason), Some(part)) => reason.contains(part),
                (reason, refused) => reason.is_none() && refused.is_none(),
            };
            assert!(is_as_expected, "{before:?} {now:?}: {reason:?}");
        }
    }

    #[test]
    fn shapes_are_read_as_they_were_written() {
        let of_base = shape(None, &[("a", None), ("b", None)]);
        let text = serde_json::to_string(&of_base.columns).unwrap();
        assert_eq!(serde_json::from_str::<Types>(&text).unwrap(), of_base.columns);
        let known = shape(Some(1), &[("a", Some(23))]);
        let text = serde_json::to_string(&known.columns).unwrap();
        assert_eq!(serde_json::from_str::<Types>(&text).unwrap(), known.columns);
    }
}
