//! What a pipeline's patterns choose of the source's tables.
//!
//! Rows live in ordinary tables and in partitions; a publication may name a partitioned table for all of its
//! partitions, the ones to come included. So two lists: what the publication *names*, and whose rows it *carries*.
//! A partition belongs to what its parent belongs to, unless a pattern excludes it: then the parent is not named, and
//! its other partitions are named one by one.

use std::collections::{BTreeMap, HashMap};

use crate::change::TableName;
use crate::config::{Tables, nearest, written};
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::source::postgres::catalog::{self, SourceTable};

/// Publications can name partitioned tables from this version on.
const PARTITIONED_IN_PUBLICATION: u32 = 13;

#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Every table that could be carried.
    pub all: BTreeMap<TableName, SourceTable>,
    /// What the publication is to name.
    pub named: Vec<TableName>,
    /// Whose rows it then carries: ordinary tables and partitions, never a partitioned table.
    pub carried: Vec<TableName>,
    /// Each table's parents, the nearest first.
    ancestors: HashMap<TableName, Vec<TableName>>,
}

const PARENTS: &str = "
    select i.inhrelid, i.inhparent
      from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
     where c.relispartition
     order by 1";

impl Selection {
    /// Reads the source's tables and applies the patterns.
    pub async fn read(source: &mut Session, patterns: &Tables) -> Result<Selection> {
        let all = catalog::tables(source).await?;
        let mut parents = HashMap::new();
        for row in source.query(PARENTS).await? {
            parents.insert(row.get::<u32>(0)?, row.get::<u32>(1)?);
        }
        let names_roots = source.server_major() >= PARTITIONED_IN_PUBLICATION;
        Ok(Selection::choose(all, &parents, patterns, names_roots))
    }

    fn choose(
        all: BTreeMap<TableName, SourceTable>,
        parents: &HashMap<u32, u32>,
        patterns: &Tables,
        names_roots: bool,
    ) -> Selection {
        let by_oid: HashMap<u32, &TableName> = all.values().map(|table| (table.oid, &table.table)).collect();
        let mut children: HashMap<&TableName, Vec<&TableName>> = HashMap::new();
        let mut tops = Vec::new();
        for (name, table) in &all {
            match parents.get(&table.oid).and_then(|parent| by_oid.get(parent)) {
                Some(parent) => children.entry(parent).or_default().push(name),
                None => tops.push(name),
            }
        }
        let mut choice = Choice { all: &all, children, patterns, names_roots, chosen: Selection::default() };
        for top in tops {
            choice.visit(top, false, &[]);
        }
        let mut chosen = choice.chosen;
        chosen.named.sort();
        chosen.carried.sort();
        Selection { all, ..chosen }
    }

    /// Whether a publication that names `named` carries the rows of `table`.
    pub fn is_carried_by(&self, table: &TableName, named: &[TableName]) -> bool {
        named.contains(table)
            || self.ancestors.get(table).is_some_and(|parents| parents.iter().any(|it| named.contains(it)))
    }

    /// The carried tables that `named` stands for: itself, or the partitions below it.
    pub fn carried_through(&self, named: &TableName) -> Vec<TableName> {
        self.all
            .values()
            .filter(|table| !table.is_partitioned)
            .map(|table| &table.table)
            .filter(|table| self.is_carried_by(table, std::slice::from_ref(named)))
            .cloned()
            .collect()
    }

    /// The partitioned table among `named` that stands for `table`.
    pub fn parent_among<'a>(&self, table: &TableName, named: &'a [TableName]) -> Option<&'a TableName> {
        let ancestors = self.ancestors.get(table)?;
        named.iter().find(|name| ancestors.contains(name))
    }

    /// Whether the schema of what is called `table` goes to the target: carried tables, their parents, and all that is
    /// no table.
    pub fn wants_schema_of(&self, table: &TableName) -> bool {
        let is_parent = || {
            self.carried.iter().any(|it| self.ancestors.get(it).is_some_and(|above| above.contains(table)))
        };
        !self.all.contains_key(table) || self.carried.contains(table) || is_parent()
    }

    /// The same source with only these tables carried.
    #[must_use]
    pub fn only(&self, tables: &[TableName]) -> Selection {
        Selection { carried: tables.to_vec(), named: tables.to_vec(), ..self.clone() }
    }

    /// The tables, each of which must be one of the source's.
    pub fn known(&self, tables: &[TableName]) -> Result<Vec<&SourceTable>> {
        tables.iter().map(|table| self.all.get(table).ok_or_else(|| self.unknown(table))).collect()
    }

    /// That there is no such table, with the one that was probably meant.
    pub fn unknown(&self, table: &TableName) -> Error {
        let known: Vec<String> = self.all.keys().map(written).collect();
        let hint = match self.nearest(table, &known) {
            Some(near) => format!("did you mean {near}?"),
            None => "see the source's tables with: pgdiode list-tables".to_owned(),
        };
        Error::config(format!("the source has no table {}", written(table))).hint(hint)
    }

    /// The name as it was meant: in another schema, in another case, or with a slip.
    fn nearest(&self, table: &TableName, known: &[String]) -> Option<String> {
        let same_name = self.all.keys().filter(|other| other.name.eq_ignore_ascii_case(&table.name));
        let same_name: Vec<&TableName> = same_name.collect();
        if let [only] = same_name.as_slice() {
            return Some(written(only));
        }
        nearest(&written(table), known.iter().map(String::as_str)).map(str::to_owned)
    }
}

/// The walk from the topmost parents down.
struct Choice<'a> {
    all: &'a BTreeMap<TableName, SourceTable>,
    children: HashMap<&'a TableName, Vec<&'a TableName>>,
    patterns: &'a Tables,
    names_roots: bool,
    chosen: Selection,
}

impl<'a> Choice<'a> {
    fn visit(&mut self, name: &'a TableName, parent_is_chosen: bool, ancestors: &[TableName]) {
        self.chosen.ancestors.insert(name.clone(), ancestors.to_vec());
        let is_chosen = self.patterns.match_table(name) || (parent_is_chosen && !self.is_excluded(name));
        let children = self.children.get(name).cloned().unwrap_or_default();
        let is_partitioned = self.all.get(name).is_some_and(|table| table.is_partitioned);
        if !is_partitioned {
            if is_chosen {
                self.chosen.named.push(name.clone());
                self.chosen.carried.push(name.clone());
            }
            return;
        }
        let mut path = vec![name.clone()];
        path.extend_from_slice(ancestors);
        if is_chosen && self.names_roots && !children.iter().any(|child| self.excludes_below(child)) {
            self.chosen.named.push(name.clone());
            for child in children {
                self.carry(child, &path);
            }
        } else {
            for child in children {
                self.visit(child, is_chosen, &path);
            }
        }
    }

    /// Takes a partition and all below it, which a named parent stands for.
    fn carry(&mut self, name: &'a TableName, ancestors: &[TableName]) {
        self.chosen.ancestors.insert(name.clone(), ancestors.to_vec());
        if self.all.get(name).is_some_and(|table| !table.is_partitioned) {
            self.chosen.carried.push(name.clone());
        }
        let mut path = vec![name.clone()];
        path.extend_from_slice(ancestors);
        for child in self.children.get(name).cloned().unwrap_or_default() {
            self.carry(child, &path);
        }
    }

    fn is_excluded(&self, name: &TableName) -> bool {
        self.patterns.excluded.iter().any(|pattern| pattern.matches(name))
    }

    fn excludes_below(&self, name: &TableName) -> bool {
        self.is_excluded(name)
            || self
                .children
                .get(name)
                .is_some_and(|children| children.iter().any(|child| self.excludes_below(child)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::postgres::catalog::Identity;

    /// `(name, parent, partitioned)`; OIDs are places in the list.
    const TABLES: [(&str, Option<u32>, bool); 6] = [
        ("plain", None, false),
        ("events", None, true),
        ("events_1", Some(1), false),
        ("events_2", Some(1), true),
        ("events_2a", Some(3), false),
        ("events_2b", Some(3), false),
    ];

    fn choose(patterns: &[&str], names_roots: bool) -> Selection {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let mut all = BTreeMap::new();
        let mut parents = HashMap::new();
        for (oid, (name, parent, is_partitioned)) in (0..).zip(TABLES) {
            let table = TableName::new("public", name);
            parents.extend(parent.map(|parent| (oid, parent)));
            all.insert(
                table.clone(),
                SourceTable {
                    oid,
                    table,
                    is_partitioned,
                    bytes: 0,
                    blocks: 0,
                    columns: Vec::new(),
                    identity: Identity::Index,
                    is_binary_safe: true,
                    is_emptied: false,
                },
            );
        }
        Selection::choose(all, &parents, &Tables::parse(&patterns).unwrap(), names_roots)
    }

    fn names(tables: &[TableName]) -> String {
        tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_parent_stands_for_its_partitions_unless_one_is_excluded() {
        for (patterns, named, carried) in [
            (&["*.*"][..], "events plain", "events_1 events_2a events_2b plain"),
            (&["public.events"], "events", "events_1 events_2a events_2b"),
            (&["public.events", "!public.events_1"], "events_2", "events_2a events_2b"),
            (&["*.*", "!public.events_2a"], "events_1 events_2b plain", "events_1 events_2b plain"),
            (&["public.events_2"], "events_2", "events_2a events_2b"),
            (&["public.events_2b"], "events_2b", "events_2b"),
            (&["*.*", "!public.events"], "events_1 events_2 plain", "events_1 events_2a events_2b plain"),
            (&["other.*"], "", ""),
        ] {
            let selection = choose(patterns, true);
            assert_eq!((names(&selection.named), names(&selection.carried)), (named.into(), carried.into()));
        }
        let old = choose(&["public.events"], false);
        assert_eq!(names(&old.named), "events_1 events_2a events_2b");
    }

    #[test]
    fn a_partition_is_carried_by_a_named_ancestor() {
        let selection = choose(&["*.*"], true);
        let named = [TableName::new("public", "events")];
        assert!(selection.is_carried_by(&TableName::new("public", "events_2a"), &named));
        assert!(!selection.is_carried_by(&TableName::new("public", "plain"), &named));
    }

    #[test]
    fn an_unknown_table_brings_the_nearest() {
        let selection = choose(&["*.*"], true);
        for (schema, name, hint) in [
            ("public", "plian", "did you mean public.plain?"),
            ("other", "Plain", "did you mean public.plain?"),
            ("x", "nothing_like_it", "see the source's tables with: pgdiode list-tables"),
        ] {
            let error = selection.known(&[TableName::new(schema, name)]).unwrap_err();
            assert_eq!(error.hint_text(), Some(hint));
        }
    }
}
