//! Rows to changes, by the shapes that the tables have at the target: a foreign file describes none.
//!
//! The target applies the rows of one shape in their order, and ends a batch where a table's shape changes. So shapes
//! are made to change rarely: inserts have the columns that they name, so that others get their defaults; updates and
//! deletes fit any shape that has their columns, and what an update does not name stays as it is.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::archive::row::{self, Field, Op, Row};
use crate::change::{Change, Column, Old, Relation, ReplicaIdentity, TableName, Tuple, Value};

/// A table as the target has it.
#[derive(Debug, Clone, Default)]
pub struct TargetTable {
    pub columns: Vec<TargetColumn>,
    /// The primary key, or a unique index that can stand for one; empty without either.
    pub key: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct TargetColumn {
    pub name: String,
    pub type_name: String,
    /// Computed by the target itself.
    pub generated: bool,
}

/// The tables that the target has.
pub type TargetTables = HashMap<TableName, TargetTable>;

/// The shapes that rows come in.
pub struct Shapes {
    tables: Arc<TargetTables>,
    current: HashMap<TableName, Arc<Relation>>,
    numbers: HashMap<TableName, u32>,
}

/// Which columns find the row.
#[derive(PartialEq, Eq)]
enum Found {
    By(BTreeSet<String>),
    ByAll,
}

impl Shapes {
    pub fn new(tables: Arc<TargetTables>) -> Shapes {
        Shapes { tables, current: HashMap::new(), numbers: HashMap::new() }
    }

    /// The change that a row says. `hex_bytes`: byte strings have no `\x`.
    pub fn change(&mut self, row: &Row<'_>, hex_bytes: bool) -> Result<Change, String> {
        let relation = self.relation(row);
        let target = self.tables.get(&row.table);
        let reading = Reading { relation: &relation, target, hex_bytes };
        Ok(match row.op {
            Op::Insert => {
                let new = reading.new_row(row)?;
                Change::Insert { relation, new }
            }
            Op::Update => {
                let new = reading.new_row(row)?;
                let old = row.old.as_ref().map(|old| reading.old_row(old)).transpose()?;
                let old = old.filter(|old| !is_same_key(old, &new, &relation));
                Change::Update { relation, old, new }
            }
            Op::Delete => {
                let old = reading.old_row(row.old.as_deref().unwrap_or_default())?;
                Change::Delete { relation, old }
            }
            Op::Truncate => {
                Change::Truncate { relations: vec![relation], cascade: false, restart_identity: false }
            }
        })
    }

    fn relation(&mut self, row: &Row<'_>) -> Arc<Relation> {
        let current = self.current.get(&row.table);
        if let Some(current) = current
            && self.fits(row, current)
        {
            return Arc::clone(current);
        }
        let next = u32::try_from(self.numbers.len() + 1).unwrap_or(u32::MAX);
        let id = *self.numbers.entry(row.table.clone()).or_insert(next);
        let relation = Arc::new(self.make(row, id));
        self.current.insert(row.table.clone(), Arc::clone(&relation));
        relation
    }

    fn fits(&self, row: &Row<'_>, current: &Relation) -> bool {
        let has = |name: &str| current.columns.iter().any(|column| column.name == name);
        let has_new = row.new.iter().all(|field| has(&field.name));
        match row.op {
            Op::Truncate => true,
            Op::Insert => has_new && row.new.len() == current.columns.len(),
            Op::Update | Op::Delete => {
                has_new && self.found(row) == found_by(current) && self.old_fits(row, has)
            }
        }
    }

    fn old_fits(&self, row: &Row<'_>, has: impl Fn(&str) -> bool) -> bool {
        match self.found(row) {
            Found::By(key) => key.iter().all(|name| has(name)),
            Found::ByAll => row.old.iter().flatten().all(|field| has(&field.name)),
        }
    }

    /// What finds the row: the target's key where the file tells it, otherwise what the file tells.
    fn found(&self, row: &Row<'_>) -> Found {
        let key = self.tables.get(&row.table).map(|table| &table.key).filter(|key| !key.is_empty());
        let names =
            |name: &str| row.old.as_ref().is_none_or(|old| old.iter().any(|field| field.name == name));
        if let Some(key) = key
            && key.iter().all(|name| names(name))
        {
            return Found::By(key.iter().cloned().collect());
        }
        let columns = self.tables.get(&row.table).map_or(&[][..], |table| &table.columns);
        let names_all = columns.iter().all(|column| column.generated || names(&column.name));
        match &row.old {
            Some(old) if !names_all => Found::By(old.iter().map(|field| field.name.to_string()).collect()),
            _ => Found::ByAll,
        }
    }

    fn make(&self, row: &Row<'_>, id: u32) -> Relation {
        let found = self.found(row);
        let is_named = |name: &str| row.new.iter().any(|field| field.name == name);
        let mut names: Vec<&str> = match self.tables.get(&row.table) {
            Some(table) => table.columns.iter().map(|column| column.name.as_str()).collect(),
            None => Vec::new(),
        };
        if row.op == Op::Insert {
            names.retain(|name| is_named(name));
        }
        let wanted_old = row.old.iter().flatten().filter(|field| match &found {
            Found::By(key) => key.contains(field.name.as_ref()),
            Found::ByAll => true,
        });
        // What the target lacks is named too, for the target to say so.
        for field in row.new.iter().chain(wanted_old) {
            if !names.contains(&field.name.as_ref()) {
                names.push(&field.name);
            }
        }
        let is_key = |name: &str| match &found {
            Found::By(key) => key.contains(name),
            Found::ByAll => true,
        };
        let columns = names.iter().map(|name| Column {
            name: (*name).to_owned(),
            type_id: 0,
            type_modifier: -1,
            key: is_key(name),
        });
        Relation {
            id,
            schema: row.table.schema.clone(),
            name: row.table.name.clone(),
            identity: if found == Found::ByAll { ReplicaIdentity::Full } else { ReplicaIdentity::Default },
            columns: columns.collect(),
        }
    }
}

fn found_by(relation: &Relation) -> Found {
    if relation.identity == ReplicaIdentity::Full {
        return Found::ByAll;
    }
    let key = relation.columns.iter().filter(|column| column.key);
    Found::By(key.map(|column| column.name.clone()).collect())
}

fn is_same_key(old: &Old, new: &Tuple, relation: &Relation) -> bool {
    let Old::Key(old) = old else { return false };
    let mut columns = relation.columns.iter().zip(old.values().zip(new.values()));
    columns.all(|(column, (old, new))| !column.key || old == new)
}

/// Reads a row's values in the order of a relation's columns.
struct Reading<'r> {
    relation: &'r Relation,
    target: Option<&'r TargetTable>,
    hex_bytes: bool,
}

impl Reading<'_> {
    fn new_row(&self, row: &Row<'_>) -> Result<Tuple, String> {
        let mut cells = Vec::with_capacity(self.relation.columns.len());
        for (at, column) in self.relation.columns.iter().enumerate() {
            let of_key =
                || row.old.as_deref().filter(|_| column.key).and_then(|old| find(old, at, &column.name));
            let field = find(&row.new, at, &column.name).or_else(of_key);
            cells.push(self.cell(field)?);
        }
        Ok(cells.iter().map(|cell| cell.value_or(Value::Unchanged)).collect())
    }

    fn old_row(&self, old: &[Field<'_>]) -> Result<Old, String> {
        let is_full = self.relation.identity == ReplicaIdentity::Full;
        let mut cells = Vec::with_capacity(self.relation.columns.len());
        for (at, column) in self.relation.columns.iter().enumerate() {
            let field = find(old, at, &column.name).filter(|_| is_full || column.key);
            cells.push(self.cell(field)?);
        }
        let tuple = cells.iter().map(|cell| cell.value_or(Value::Null)).collect();
        Ok(if is_full { Old::Full(tuple) } else { Old::Key(tuple) })
    }

    fn cell<'f>(&self, field: Option<&Field<'f>>) -> Result<Cell<'f>, String> {
        let Some(field) = field else { return Ok(Cell::Missing) };
        let columns = self.target.map_or(&[][..], |table| &table.columns);
        let here =
            columns.iter().find(|column| column.name == field.name).map_or("", |column| &column.type_name);
        let type_name = field.type_name.as_deref().unwrap_or(here);
        let text = row::text(field, here.ends_with("[]"), self.hex_bytes && type_name == "bytea");
        let text = text.map_err(|error| format!("column \"{}\": {error}", field.name))?;
        Ok(text.map_or(Cell::Null, Cell::Text))
    }
}

/// A column's value, if the row has one.
enum Cell<'a> {
    Missing,
    Null,
    Text(Cow<'a, str>),
}

impl Cell<'_> {
    fn value_or<'c>(&'c self, missing: Value<'c>) -> Value<'c> {
        match self {
            Cell::Missing => missing,
            Cell::Null => Value::Null,
            Cell::Text(text) => Value::Text(text.as_bytes()),
        }
    }
}

/// A field by its name, which is nearly always where it is expected.
fn find<'f, 'a>(fields: &'f [Field<'a>], at: usize, name: &str) -> Option<&'f Field<'a>> {
    fields
        .get(at)
        .filter(|field| field.name == name)
        .or_else(|| fields.iter().find(|field| field.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::wal2json;
    use crate::source::archive::foreign::seed;

    fn shapes(key: &[&str]) -> Shapes {
        let column = |(name, type_name): &(&str, &str)| TargetColumn {
            name: (*name).to_owned(),
            type_name: (*type_name).to_owned(),
            generated: false,
        };
        let columns = [("id", "integer"), ("name", "text"), ("bytes", "bytea")].iter().map(column).collect();
        let key = key.iter().map(|name| (*name).to_owned()).collect();
        let tables = HashMap::from([(TableName::new("public", "t"), TargetTable { columns, key })]);
        Shapes::new(Arc::new(tables))
    }

    fn change(shapes: &mut Shapes, line: &str) -> Change {
        shapes.change(&seed::parse(line).unwrap().0, false).unwrap()
    }

    fn tuple(values: &[Value<'_>]) -> Tuple {
        values.iter().copied().collect()
    }

    const INSERT: &str = r#"{"table":"t","op":"INSERT","data":{"name":"a","id":1}}"#;
    const UPDATE: &str = r#"{"table":"t","op":"UPDATE","data":{"name":"b"},"old_keys":{"id":1}}"#;
    const DELETE: &str = r#"{"table":"t","op":"DELETE","old_keys":{"id":1}}"#;

    #[test]
    fn a_table_keeps_its_shape_while_rows_fit() {
        let mut shapes = shapes(&["id"]);
        let Change::Insert { relation: first, new } = change(&mut shapes, INSERT) else { panic!() };
        assert_eq!(
            new,
            tuple(&[Value::Text(b"1"), Value::Text(b"a")]),
            "in the target's order, others by default"
        );
        let Change::Update { relation, old, new } = change(&mut shapes, UPDATE) else { panic!() };
        assert!(Arc::ptr_eq(&relation, &first) && old.is_none(), "{old:?}");
        assert_eq!(new, tuple(&[Value::Text(b"1"), Value::Text(b"b")]), "the key is known from before");
        let Change::Delete { relation, old } = change(&mut shapes, DELETE) else { panic!() };
        assert!(Arc::ptr_eq(&relation, &first));
        assert_eq!(old, Old::Key(tuple(&[Value::Text(b"1"), Value::Null])));
        // A column more is another shape of the same table.
        let wider = r#"{"table":"t","op":"UPDATE","data":{"id":2,"bytes":null},"old_keys":{"id":1}}"#;
        let Change::Update { relation, old, new } = change(&mut shapes, wider) else { panic!() };
        assert!(relation.id == first.id && relation.columns.len() == 3 && old.is_some());
        assert_eq!(
            new,
            tuple(&[Value::Text(b"2"), Value::Unchanged, Value::Null]),
            "what is not named stays"
        );
    }

    #[test]
    fn rows_are_found_by_what_the_file_tells() {
        let whole = r#"{"table":"t","op":"DELETE","old_keys":{"id":1,"name":null,"bytes":null}}"#;
        let Change::Delete { relation, old } = change(&mut shapes(&["id"]), whole) else { panic!() };
        assert!(
            relation.identity == ReplicaIdentity::Default && matches!(old, Old::Key(_)),
            "the target's key is enough"
        );
        let Change::Delete { relation, old } = change(&mut shapes(&[]), whole) else { panic!() };
        assert!(relation.identity == ReplicaIdentity::Full && matches!(old, Old::Full(_)), "all of the row");
        let Change::Delete { relation, .. } = change(&mut shapes(&[]), DELETE) else { panic!() };
        let keys: Vec<&str> =
            relation.columns.iter().filter(|column| column.key).map(|column| column.name.as_str()).collect();
        assert_eq!(keys, ["id"]);
    }

    #[test]
    fn byte_strings_get_their_prefix_back() {
        let line = r#"{"action":"I","table":"t","columns":[{"name":"id","type":"integer","value":1},{"name":"bytes","value":"00ff"}]}"#;
        let Ok(wal2json::Said::Row(row)) = wal2json::parse_2(line) else { panic!() };
        let Change::Insert { new, .. } = shapes(&["id"]).change(&row, true).unwrap() else { panic!() };
        assert_eq!(new, tuple(&[Value::Text(b"1"), Value::Text(b"\\x00ff")]));
    }
}
