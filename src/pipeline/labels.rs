//! Labels that an enum has gained at the source. No row tells of them before one holds such a value, and that one the
//! target refuses.
//!
//! A label cannot be used in the transaction that adds it, so it is added in a session of its own and stays even if
//! what asked for it comes to nothing. Labels are never dropped, so the target's are the first state of the source's,
//! unless one was renamed: which one, and whether its rows are older, is not to be told from outside.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;

/// An enum's qualified name, and its labels in order.
type Enums = BTreeMap<(String, String), Vec<String>>;

/// Adds what the target's enums lack of those that columns of these tables (by the source's OID) are made of. How many
/// labels that were, or why it cannot be done.
pub async fn follow(ends: &Ends, tables: &[u32]) -> Result<Result<usize, String>> {
    let wanted = at_source(&mut ends.source().await?, tables).await?;
    if wanted.is_empty() {
        return Ok(Ok(0));
    }
    let mut target = ends.target().await?;
    let here = at_target(&mut target, &wanted).await?;
    // Beside an open transaction of our own: nobody would ever see a deadlock with it.
    target.query("set lock_timeout = '10s'").await?;
    let mut added = 0;
    for (name, labels) in &wanted {
        let quoted = format!("{}.{}", quote::identifier(&name.0), quote::identifier(&name.1));
        let Some(labels_here) = here.get(name) else { continue };
        let additions = match additions(labels, labels_here) {
            Ok(additions) => additions,
            Err(foreign) => {
                return Ok(Err(format!(
                    "enum {}.{} has the label '{foreign}' at the target and not at the source: was it renamed?",
                    name.0, name.1
                )));
            }
        };
        for addition in additions {
            let sql = format!("alter type {quoted} {addition}");
            tracing::info!(sql, "following the source's schema");
            if let Err(error) = target.query(&sql).await {
                if error.retries() {
                    return Err(error);
                }
                return Ok(Err(format!("{sql}: {}", error.what())));
            }
            added += 1;
        }
    }
    Ok(Ok(added))
}

/// The clauses that add what `here` lacks, each beside its neighbour at the source; or a label that only `here` has.
fn additions<'a>(labels: &'a [String], here: &'a [String]) -> Result<Vec<String>, &'a str> {
    if let Some(foreign) = here.iter().find(|label| !labels.contains(label)) {
        return Err(foreign);
    }
    let mut additions = Vec::new();
    for (place, label) in labels.iter().enumerate().filter(|(_, label)| !here.contains(label)) {
        // The one before is there by now; only the first has none.
        let beside = match place.checked_sub(1) {
            Some(before) => format!(" after {}", quote::literal(&labels[before])),
            None => {
                here.first().map_or_else(String::new, |first| format!(" before {}", quote::literal(first)))
            }
        };
        additions.push(format!("add value if not exists {}{beside}", quote::literal(label)));
    }
    Ok(additions)
}

/// The enums that columns of the tables are made of, through arrays, domains, composites and ranges.
async fn at_source(source: &mut Session, tables: &[u32]) -> Result<Enums> {
    if tables.is_empty() {
        return Ok(Enums::new());
    }
    let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let sql = format!(
        "with recursive used (oid) as (
             select a.atttypid from pg_catalog.pg_attribute a
              where a.attrelid in ({}) and a.attnum > 0 and not a.attisdropped
             union
             select part.oid
               from used u join pg_catalog.pg_type t on t.oid = u.oid
              cross join lateral (
                    select t.typelem union all select t.typbasetype
                    union all select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
                    union all select a.atttypid from pg_catalog.pg_attribute a
                               where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) as part (oid)
         )
         select n.nspname, t.typname, e.enumlabel
           from used u join pg_catalog.pg_type t on t.oid = u.oid join pg_catalog.pg_namespace n on n.oid = t.typnamespace
           join pg_catalog.pg_enum e on e.enumtypid = t.oid
          order by t.oid, e.enumsortorder",
        tables.join(", ")
    );
    let mut enums = Enums::new();
    for row in source.query(&sql).await? {
        enums.entry((row.string(0), row.string(1))).or_default().push(row.string(2));
    }
    Ok(enums)
}

/// Those of the same names here.
async fn at_target(target: &mut Session, wanted: &Enums) -> Result<Enums> {
    let names: Vec<String> = wanted
        .keys()
        .map(|(schema, name)| format!("({}, {})", quote::literal(schema), quote::literal(name)))
        .collect();
    let sql = format!(
        "select n.nspname, t.typname, e.enumlabel
           from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
           left join pg_catalog.pg_enum e on e.enumtypid = t.oid
          where t.typtype = 'e' and (n.nspname, t.typname) in ({})
          order by t.oid, e.enumsortorder",
        names.join(", ")
    );
    let mut enums = Enums::new();
    for row in target.query(&sql).await? {
        let labels = enums.entry((row.string(0), row.string(1))).or_default();
        labels.extend(row.text(2).map(str::to_owned));
    }
    Ok(enums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_in_their_places() {
        let list = |labels: &str| labels.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (source, target, expected) in [
            ("a b c", "a b c", &[][..]),
            ("a x y c", "a c", &["'x' after 'a'", "'y' after 'x'"]),
            ("x y a", "a", &["'x' before 'a'", "'y' after 'x'"]),
            ("a b", "", &["'a'", "'b' after 'a'"]),
        ] {
            let expected: Vec<String> =
                expected.iter().map(|clause| format!("add value if not exists {clause}")).collect();
            assert_eq!(additions(&list(source), &list(target)), Ok(expected), "{source} / {target}");
        }
        assert_eq!(additions(&list("a new"), &list("a old")), Err("old"));
    }
}
