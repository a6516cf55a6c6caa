//! The statements of one table, made once from its [`Shape`].
//!
//! A batch's rows wait in a temporary table as they are in the entries (`rows`); references are looked up when they are
//! merged. `anchors` has whose rows are to go or to be marked, `kept` the keys of those that stay although others of the
//! same Redis key go. Each statement reads a stage once and finds the rest by index (decision 10).

use crate::keyspace::{Gone, Write};
use crate::pg::quote;
use crate::target::postgres::keyspace::bulk::Bulk;
use crate::target::postgres::keyspace::shape::{Kind, Lookup, Shape};

/// Whether a row is written anew costs less to ask when it is known beforehand that it hardly is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is stored of any of the keys.
    New,
    /// Rows that are there already are left alone where they are equal: not even locked.
    There,
}

/// Which of the staged rows an insert tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    All,
    Missing,
    MissingOrDifferent,
}

/// All statements of one table.
#[derive(Debug)]
pub struct Statements {
    pub create_stages: Vec<String>,
    /// The names of the stages.
    pub rows: String,
    pub anchors: String,
    pub kept: String,
    pub merge_new: String,
    pub merge_there: String,
    /// Another way for many rows.
    pub bulk: Option<Bulk>,
    /// Notes what stays, deletes what has been lost.
    pub lost: [String; 2],
    /// What is done with the rows of keys that are gone.
    pub gone: Option<String>,
}

impl Statements {
    /// `is_checked`: no foreign key needs to be checked row by row ([`bulk::checked`](super::bulk::checked)).
    pub fn new(number: usize, shape: &Shape, is_checked: bool) -> Statements {
        let table = Staged { number, shape };
        let mut create_stages = vec![table.create_rows()];
        let replaces = shape.write == Write::Replace;
        if replaces {
            create_stages.extend([table.create_anchors(), table.create_kept(), table.index_keys("kept")]);
        }
        let bulk = Bulk::new(number, shape, is_checked);
        create_stages.extend(bulk.iter().flat_map(|bulk| bulk.create_stages.iter().cloned()));
        Statements {
            create_stages,
            rows: table.stage("rows"),
            anchors: table.stage("anchors"),
            kept: table.stage("kept"),
            merge_new: table.merge(Expected::New),
            merge_there: table.merge(Expected::There),
            bulk,
            lost: [table.note_kept(), table.delete_lost()],
            gone: table.gone().filter(|_| replaces),
        }
    }
}

pub(super) struct Staged<'a> {
    pub(super) number: usize,
    pub(super) shape: &'a Shape,
}

impl Staged<'_> {
    pub(super) fn stage(&self, what: &str) -> String {
        format!("pg_temp.pgdiode_{what}_{}", self.number)
    }

    pub(super) fn lookup(&self, index: usize) -> Option<&Lookup> {
        self.shape.columns[index].lookup.as_ref()
    }

    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.shape.columns.len()
    }

    /// The columns that a merge sets.
    fn set_columns(&self) -> Vec<usize> {
        self.all().filter(|index| !self.shape.key.contains(index)).collect()
    }

    // ---- stages ----

    /// The types come from the catalog: a value that is looked up has the type of the column that it is looked up by.
    pub(super) fn create_as(
        &self,
        what: &str,
        first: &[&str],
        columns: impl Iterator<Item = usize>,
    ) -> String {
        let mut values: Vec<String> = first.iter().map(|&column| column.to_owned()).collect();
        let mut from = vec![format!("{} as t", self.shape.target)];
        for index in columns {
            match self.lookup(index) {
                Some(lookup) => {
                    values.push(format!("r{index}.{} as c{index}", lookup.by));
                    from.push(format!("{} as r{index}", lookup.target));
                }
                None => values.push(format!("t.{} as c{index}", self.shape.columns[index].name)),
            }
        }
        format!(
            "create temporary table pgdiode_{what}_{} as select {} from {} with no data",
            self.number,
            values.join(", "),
            from.join(", ")
        )
    }

    fn create_rows(&self) -> String {
        self.create_as("rows", &["false as lost"], self.all())
    }

    fn create_anchors(&self) -> String {
        self.create_as(
            "anchors",
            &["'l'::\"char\" as why", "0::int8 as at"],
            self.shape.anchor.iter().copied(),
        )
    }

    fn create_kept(&self) -> String {
        self.create_keys("kept")
    }

    /// A stage for keys of the table's rows.
    pub(super) fn create_keys(&self, what: &str) -> String {
        let columns: Vec<String> = self
            .shape
            .key
            .iter()
            .map(|&index| format!("{} as c{index}", self.shape.columns[index].name))
            .collect();
        format!(
            "create temporary table pgdiode_{what}_{} as select {} from {} with no data",
            self.number,
            columns.join(", "),
            self.shape.target
        )
    }

    pub(super) fn index_keys(&self, what: &str) -> String {
        format!("create index on {} ({})", self.stage(what), self.key_list("c"))
    }

    // ---- rows ----

    pub(super) fn lookups(&self, columns: impl Iterator<Item = usize>, join: &str) -> String {
        let one = |index| {
            let Lookup { target, by, equality, .. } = self.lookup(index)?;
            Some(format!(" {join} {target} as r{index} on r{index}.{by} {equality} s.c{index}"))
        };
        columns.filter_map(one).collect()
    }

    /// A staged column's value for the table; one that refers to a row which is not there is an error, never null.
    fn value(&self, index: usize) -> String {
        let Some(Lookup { name, take, .. }) = self.lookup(index) else { return format!("s.c{index}") };
        format!(
            "case when s.c{index} is not null then \
             coalesce(r{index}.{take}, pgdiode.missing_reference(r{index}.{take}, {})) end::{}",
            quote::literal(&name.to_string()),
            self.shape.columns[index].type_sql
        )
    }

    /// The staged rows with references looked up, one of each key. `place` is the order in which they were staged.
    fn resolved(&self) -> String {
        let values: Vec<String> =
            self.all().map(|index| format!("{} as c{index}", self.value(index))).collect();
        let rows = format!(
            "select {}, s.ctid as place from {} as s{}",
            values.join(", "),
            self.stage("rows"),
            self.lookups(self.all(), "left join")
        );
        if !self.shape.is_loose {
            return rows;
        }
        let key = self.key_list("d.c");
        // The first of rows that are made once, the last of others.
        let order = if self.shape.write == Write::Ensure { "" } else { " desc" };
        format!("select distinct on ({key}) d.* from ({rows}) as d order by {key}, d.place{order}")
    }

    pub(super) fn key_list(&self, prefix: &str) -> String {
        let columns: Vec<String> = self.shape.key.iter().map(|index| format!("{prefix}{index}")).collect();
        columns.join(", ")
    }

    pub(super) fn key_condition(&self, table: &str, stage: &str) -> String {
        let one = |&index: &usize| {
            let column = &self.shape.columns[index];
            format!("{table}.{} {} {stage}.c{index}", column.name, column.equality)
        };
        self.shape.key.iter().map(one).collect::<Vec<_>>().join(" and ")
    }

    pub(super) fn merge(&self, expected: Expected) -> String {
        // Rows that several keys share are there, however new the key is.
        let is_new = expected == Expected::New && self.shape.write == Write::Replace;
        if self.shape.write == Write::Ensure || self.sets(|_| String::new()).is_empty() {
            let insert = self.insert("returning 1", if is_new { Tried::All } else { Tried::Missing });
            return format!("with made as ({insert}) select count(*), 0 from made");
        }
        let is_one_statement = match self.shape.kind {
            Kind::Plain => true,
            Kind::Numbered => is_new,
            Kind::Partitioned => false,
        };
        if is_one_statement {
            let tried = if is_new { Tried::All } else { Tried::MissingOrDifferent };
            let insert = self.insert("returning xmax = 0 as is_new", tried);
            return format!(
                "with made as ({insert}) \
                 select count(*) filter (where is_new), count(*) filter (where not is_new) from made"
            );
        }
        // Inserting is not tried for rows that are there: the sequence would come to its end.
        format!(
            "with changed as ({} returning 1), made as ({}) \
             select (select count(*) from made), (select count(*) from changed)",
            self.update(),
            self.insert("returning 1", Tried::Missing)
        )
    }

    /// `column = value` for all that a merge sets; the marks are emptied.
    fn sets(&self, value: impl Fn(usize) -> String) -> String {
        let mut sets: Vec<String> = self
            .set_columns()
            .into_iter()
            .map(|index| format!("{} = {}", self.shape.columns[index].name, value(index)))
            .collect();
        if let Some((expired, deleted)) = &self.shape.marks {
            sets.extend([format!("{expired} = null"), format!("{deleted} = null")]);
        }
        sets.join(", ")
    }

    /// Whether a row has other values than it is to have: by their images, which every type has.
    pub(super) fn differs(&self, here: &str, value: impl Fn(usize) -> String) -> String {
        let columns = self.set_columns();
        let mut terms = Vec::new();
        if !columns.is_empty() {
            let stored: Vec<String> =
                columns.iter().map(|&index| format!("{here}.{}", self.shape.columns[index].name)).collect();
            let given: Vec<String> = columns.into_iter().map(value).collect();
            terms.push(format!(
                "row({})::record operator(pg_catalog.*<>) row({})::record",
                stored.join(", "),
                given.join(", ")
            ));
        }
        if let Some((expired, deleted)) = &self.shape.marks {
            terms.extend([format!("{here}.{expired} is not null"), format!("{here}.{deleted} is not null")]);
        }
        terms.join(" or ")
    }

    fn update(&self) -> String {
        let staged = |index| format!("x.c{index}");
        format!(
            "update {} as t set {} from ({}) as x where {} and ({})",
            self.shape.target,
            self.sets(staged),
            self.resolved(),
            self.key_condition("t", "x"),
            self.differs("t", staged)
        )
    }

    fn insert(&self, returning: &str, tried: Tried) -> String {
        let names: Vec<&str> = self.shape.columns.iter().map(|column| column.name.as_str()).collect();
        let values: Vec<String> = self.all().map(|index| format!("x.c{index}")).collect();
        let key: Vec<&str> = self.shape.key.iter().map(|&index| names[index]).collect();
        let (target, is_same) = (&self.shape.target, self.key_condition("e", "x"));
        let only = match tried {
            Tried::All => String::new(),
            Tried::Missing => format!(" where not exists (select from {target} as e where {is_same})"),
            Tried::MissingOrDifferent => format!(
                " left join {target} as e on {is_same} where e.{} is null or {}",
                key[0],
                self.differs("e", |index| format!("x.c{index}"))
            ),
        };
        // Rows that several keys share may be written by others at the same time: always in the same order.
        let order = if self.shape.write == Write::Replace {
            String::new()
        } else {
            format!(" order by {}, x.place", self.key_list("x.c"))
        };
        let given = |index: usize| format!("excluded.{}", self.shape.columns[index].name);
        let sets = self.sets(given);
        let action = if self.shape.write == Write::Ensure || sets.is_empty() {
            "nothing".to_owned()
        } else {
            format!("update set {sets} where {}", self.differs("t", given))
        };
        format!(
            "insert into {target} as t ({}) overriding system value select {} from ({}) as x{only}{order} \
             on conflict ({}) do {action} {returning}",
            names.join(", "),
            values.join(", "),
            self.resolved(),
            key.join(", ")
        )
    }

    // ---- what goes ----

    fn note_kept(&self) -> String {
        self.note_keys("kept", "rows") + " where s.lost"
    }

    /// Notes in one stage the keys of another's rows, with references looked up.
    pub(super) fn note_keys(&self, noted: &str, rows: &str) -> String {
        let values: Vec<String> = self.shape.key.iter().map(|&index| self.taken(index)).collect();
        format!(
            "insert into {} select {} from {} as s{}",
            self.stage(noted),
            values.join(", "),
            self.stage(rows),
            self.lookups(self.shape.key.iter().copied(), "left join")
        )
    }

    /// A staged column's value, or what was looked up by it.
    pub(super) fn taken(&self, index: usize) -> String {
        match self.lookup(index) {
            Some(lookup) => format!("r{index}.{}", lookup.take),
            None => format!("s.c{index}"),
        }
    }

    fn anchors(&self) -> String {
        self.owners("anchors")
    }

    /// The anchors in a stage, with references looked up.
    pub(super) fn owners(&self, stage: &str) -> String {
        let lookups = self.lookups(self.shape.anchor.iter().copied(), "join");
        format!("{} as s{lookups}", self.stage(stage))
    }

    pub(super) fn anchor_condition(&self) -> String {
        let one = |&index: &usize| {
            let column = &self.shape.columns[index];
            format!("t.{} {} {}", column.name, column.equality, self.taken(index))
        };
        self.shape.anchor.iter().map(one).collect::<Vec<_>>().join(" and ")
    }

    fn delete_lost(&self) -> String {
        format!(
            "delete from {} as t using {} where s.why = 'l' and {} and not exists (select from {} as k where {})",
            self.shape.target,
            self.anchors(),
            self.anchor_condition(),
            self.stage("kept"),
            self.key_condition("t", "k")
        )
    }

    fn gone(&self) -> Option<String> {
        let (target, anchors, condition) = (&self.shape.target, self.anchors(), self.anchor_condition());
        match self.shape.gone {
            Gone::Keep => None,
            Gone::Delete => {
                Some(format!("delete from {target} as t using {anchors} where s.why <> 'l' and {condition}"))
            }
            Gone::Mark { .. } => {
                let (expired, deleted) = self.shape.marks.as_ref()?;
                let when = |why| {
                    format!(
                        "case s.why when '{why}' then timestamptz 'epoch' + s.at * interval '1 millisecond' end"
                    )
                };
                Some(format!(
                    "update {target} as t set {expired} = {}, {deleted} = {} from {anchors} \
                     where s.why <> 'l' and {condition} and t.{expired} is null and t.{deleted} is null",
                    when('e'),
                    when('d')
                ))
            }
        }
    }
}
