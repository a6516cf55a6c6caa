//! A target beside the one that serves, in the same database: each of the source's schemas is there under another name.
//!
//! Rows go to the tables by that name. Statements that name the source's schemas themselves (what `pg_dump` wrote, an
//! operator's queries) run between [`ShadowSchemas::enter`] and [`ShadowSchemas::leave`], in one transaction that gives
//! the shadow the plain names for as long as it lasts. The catalog is versioned like any table: nobody else sees it.

use std::collections::{BTreeMap, HashSet};

use crate::change::TableName;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;

#[derive(Debug, Clone)]
pub struct ShadowSchemas {
    /// The shadow's name, by the source's.
    names: BTreeMap<String, String>,
    enter: String,
    leave: String,
}

impl ShadowSchemas {
    /// `serving`: which of the plain names stand for something now. `extensions`: those whose objects are in one of
    /// them, which go along with the plain name; `(extension, schema)`.
    pub fn new(
        names: BTreeMap<String, String>,
        serving: &[String],
        extensions: &[(String, String)],
    ) -> ShadowSchemas {
        let away = |number: usize| quote::identifier(&format!("pgdiode_away_{number}"));
        let rename = |from: &str, to: &str| format!("alter schema {from} rename to {to};");
        let (mut enter, mut leave) = (String::new(), String::new());
        for (number, (plain, shadow)) in names.iter().enumerate() {
            let (plain, shadow) = (quote::identifier(plain), quote::identifier(shadow));
            leave.push_str(&rename(&plain, &shadow));
            if serving.contains(&names.keys().nth(number).cloned().unwrap_or_default()) {
                enter.push_str(&rename(&plain, &away(number)));
                leave.push_str(&rename(&away(number), &plain));
            }
            enter.push_str(&rename(&shadow, &plain));
        }
        let mut back = String::new();
        for (extension, schema) in extensions {
            let Some(number) = names.keys().position(|plain| plain == schema) else { continue };
            let extension = quote::identifier(extension);
            enter.push_str(&format!("alter extension {extension} set schema {};", quote::identifier(schema)));
            back.push_str(&format!("alter extension {extension} set schema {};", away(number)));
        }
        ShadowSchemas { names, enter, leave: back + &leave }
    }

    /// Where a table of the source is in the shadow.
    pub fn table(&self, table: &TableName) -> TableName {
        match self.names.get(&table.schema) {
            Some(schema) => TableName::new(schema.clone(), table.name.clone()),
            None => table.clone(),
        }
    }

    /// The shadow's names, by the source's.
    pub fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }

    /// The shadow's own names.
    pub fn shadows(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(String::as_str)
    }

    /// Begins such a transaction. One at a time: the others wait, or they would trip over each other's renames.
    pub fn enter(&self) -> String {
        format!("begin; select pg_catalog.pg_advisory_xact_lock({LOCK}); {}", self.enter)
    }

    /// Ends it, and keeps what it did.
    pub fn leave(&self) -> String {
        format!("{}commit", self.leave)
    }
}

/// Types whose values are written as names of other objects.
pub const NAMING_TYPES: [&str; 10] = [
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regtype",
];

/// The OIDs of the source's tables whose rows mean the same only under the source's names: values that are names, and
/// functions that look names up when a row arrives, in constraints, domains and generated columns.
pub async fn read_by_name(source: &mut Session) -> Result<HashSet<u32>> {
    let types = NAMING_TYPES.map(quote::literal).join(", ");
    let sql = format!(
        "
        with naming (oid) as (
            select oid from pg_catalog.pg_type
             where typnamespace = 'pg_catalog'::pg_catalog.regnamespace and typname in ({types})),
        calling (class, object) as (
            select d.classid, d.objid from pg_catalog.pg_depend d
             where d.classid in ('pg_catalog.pg_constraint'::pg_catalog.regclass,
                                 'pg_catalog.pg_attrdef'::pg_catalog.regclass)
               and d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
               and not exists (select from pg_catalog.pg_depend m
                                where m.classid = d.refclassid and m.objid = d.refobjid and m.deptype = 'e'))
        select a.attrelid from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
         where a.attnum > 0 and (t.oid in (select oid from naming) or t.typelem in (select oid from naming)
                                 or t.typbasetype in (select oid from naming))
         union
        select a.attrelid from pg_catalog.pg_attribute a
          join pg_catalog.pg_constraint k on k.contypid = a.atttypid
          join calling on calling.object = k.oid and calling.class = 'pg_catalog.pg_constraint'::pg_catalog.regclass
         union
        select k.conrelid from pg_catalog.pg_constraint k
          join calling on calling.object = k.oid and calling.class = 'pg_catalog.pg_constraint'::pg_catalog.regclass
         where k.conrelid <> 0
         union
        select e.adrelid from pg_catalog.pg_attrdef e
          join calling on calling.object = e.oid and calling.class = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
          join pg_catalog.pg_attribute a on a.attrelid = e.adrelid and a.attnum = e.adnum and a.attgenerated <> ''"
    );
    source.query(&sql).await?.iter().map(|row| row.get(0)).collect()
}

/// Of the transactions that rename; any number that nobody else takes.
pub const LOCK: i64 = 0x7067_6469_6f64_6531;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_undoes_entering() {
        let names = [("app", "app_shadow_1"), ("public", "public_shadow_1")];
        let names = names.map(|(plain, shadow)| (plain.to_owned(), shadow.to_owned())).into();
        let extensions = [("citext".to_owned(), "public".to_owned())];
        let schemas = ShadowSchemas::new(names, &["public".to_owned()], &extensions);
        assert!(
            schemas.enter().ends_with(
                "alter schema \"app_shadow_1\" rename to \"app\";\
                 alter schema \"public\" rename to \"pgdiode_away_1\";\
                 alter schema \"public_shadow_1\" rename to \"public\";\
                 alter extension \"citext\" set schema \"public\";"
            ),
            "{}",
            schemas.enter()
        );
        assert_eq!(
            schemas.leave(),
            "alter extension \"citext\" set schema \"pgdiode_away_1\";\
             alter schema \"app\" rename to \"app_shadow_1\";\
             alter schema \"public\" rename to \"public_shadow_1\";\
             alter schema \"pgdiode_away_1\" rename to \"public\";commit"
        );
        assert_eq!(schemas.table(&TableName::new("app", "t")), TableName::new("app_shadow_1", "t"));
        assert_eq!(schemas.table(&TableName::new("other", "t")), TableName::new("other", "t"));
    }
}
