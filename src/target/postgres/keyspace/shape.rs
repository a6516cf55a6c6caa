//! The tables of a layout as the target has them: everything that the statements need to know, checked once.

use crate::change::{Column, Relation, ReplicaIdentity, TableName};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::keyspace::{Gone, Layout, Table, Write};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::target::postgres::table::{self, Key};

/// Non-deterministic collations call different texts equal.
const LOOSE_COLUMNS: &str = "
    select a.attname
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_collation c on c.oid = a.attcollation
     where a.attrelid = $1::pg_catalog.regclass and not c.collisdeterministic";

/// Whether an index begins with these columns, in whatever order.
const IS_INDEXED: &str = "
    select exists (
        select from pg_catalog.pg_index i
         where i.indrelid = $1::pg_catalog.regclass and i.indisvalid and i.indpred is null
           and i.indnkeyatts >= pg_catalog.cardinality($2::text[])
           and $2::text[] <@ (
               select pg_catalog.array_agg(a.attname::text)
                 from pg_catalog.unnest(i.indkey::int2[]) with ordinality as k (attnum, place)
                 join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                where k.place <= pg_catalog.cardinality($2::text[])))";

/// Whether a small number that is not written comes from a sequence.
const IS_NUMBERED: &str = "
    select exists (
        select from pg_catalog.pg_attribute a
          left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attrelid = $1::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped
           and a.atttypid in ('int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype)
           and (a.attidentity <> '' or pg_catalog.pg_get_expr(d.adbin, d.adrelid) ~ 'nextval')
           and a.attname <> all ($2::text[]))";

/// One table of the layout. Names are quoted.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)]
pub struct Shape {
    pub name: TableName,
    pub target: String,
    pub columns: Vec<ShapeColumn>,
    pub key: Vec<usize>,
    pub anchor: Vec<usize>,
    pub write: Write,
    pub gone: Gone,
    /// The columns of [`Gone::Mark`]: expired, deleted.
    pub marks: Option<(String, String)>,
    /// Texts that differ can be the same key here: `1` and `01` as numbers.
    pub is_loose: bool,
    pub kind: Kind,
    /// Another table of the layout refers to this one.
    pub is_referred: bool,
    /// Names table, key and anchor in what is stored of a key's rows, whatever the layout's order is by then.
    pub tag: [u8; 8],
}

/// What matters of a table for how rows are merged that may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// Each row that an insert tries takes a number from a sequence that ends at two thousand million, or earlier.
    Numbered,
    /// Its rows are said without their system columns.
    Partitioned,
}

#[derive(Debug, Clone)]
pub struct ShapeColumn {
    pub name: String,
    /// Without modifier.
    pub type_sql: String,
    pub equality: String,
    pub lookup: Option<Lookup>,
}

/// A value that is looked up in another table.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// For people.
    pub name: TableName,
    pub target: String,
    pub by: String,
    pub take: String,
    pub equality: String,
    /// Two values of `by` are the same exactly when their texts are.
    pub is_exact: bool,
}

/// Matches each table of the layout with the target's.
pub async fn load(session: &mut Session, layout: &Layout) -> Result<Vec<Shape>> {
    let mut shapes = Vec::with_capacity(layout.tables.len());
    for (number, table) in layout.tables.iter().enumerate() {
        let mut shape = load_one(session, layout, table).await?;
        let refers = |other: &Table| {
            other.columns.iter().any(|column| column.reference.as_ref().is_some_and(|to| to.table == number))
        };
        shape.is_referred = layout.tables.iter().any(refers);
        shapes.push(shape);
    }
    Ok(shapes)
}

pub async fn load_one(session: &mut Session, layout: &Layout, table: &Table) -> Result<Shape> {
    let name = &table.name;
    let marks: Vec<&str> = match &table.gone {
        Gone::Mark { expired_at, deleted_at } => vec![expired_at, deleted_at],
        Gone::Delete | Gone::Keep => Vec::new(),
    };
    let written: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let key: Vec<&str> = table.key.iter().map(|&index| written[index]).collect();
    let all: Vec<&str> = written.iter().chain(&marks).copied().collect();
    let found = find(session, name, &all, &key).await?;
    let plain = |&&index: &&usize| table.columns[index].reference.is_none();
    let plain: Vec<&str> = table.key.iter().filter(plain).map(|&index| written[index]).collect();
    let mut is_loose = !is_exact(session, name, &found, &plain).await?;
    let mut columns = Vec::with_capacity(written.len());
    for (index, column) in table.columns.iter().enumerate() {
        let here = &found.columns[index];
        let mut lookup = None;
        if let Some(reference) = &column.reference {
            let to = load_lookup(session, &layout.tables[reference.table], reference).await?;
            if table.key.contains(&index) {
                is_loose |= !to.is_exact;
            }
            lookup = Some(to);
        }
        let equality = if here.equality.is_empty() { "operator(pg_catalog.=)" } else { &here.equality };
        let (name, equality) = (here.name.clone(), equality.to_owned());
        columns.push(ShapeColumn { name, type_sql: here.type_sql.clone(), equality, lookup });
    }
    let anchor: Vec<&str> = table.anchor.iter().map(|&index| written[index]).collect();
    if table.write == Write::Replace {
        check_anchor(session, name, &anchor).await?;
    }
    let numbered =
        session.query_with(IS_NUMBERED, &[Some(&quote::table(name)), Some(&text_array(&written))]).await?;
    Ok(Shape {
        kind: match numbered.first().is_some_and(|row| row.bool(0)) {
            _ if found.target == found.target_plain => Kind::Partitioned,
            true => Kind::Numbered,
            false => Kind::Plain,
        },
        target: found.target_plain,
        columns,
        key: table.key.clone(),
        anchor: table.anchor.clone(),
        write: table.write,
        gone: table.gone.clone(),
        marks: marks
            .first()
            .zip(marks.get(1))
            .map(|(expired, deleted)| (quote::identifier(expired), quote::identifier(deleted))),
        is_loose,
        is_referred: false,
        tag: tag(name, &key, &anchor),
        name: name.clone(),
    })
}

/// The table with these columns, found by a unique index on exactly `key`.
async fn find(
    session: &mut Session,
    name: &TableName,
    columns: &[&str],
    key: &[&str],
) -> Result<table::Table> {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        type_id: 0,
        type_modifier: -1,
        key: key.contains(name),
    };
    let relation = Relation {
        id: 0,
        schema: name.schema.clone(),
        name: name.name.clone(),
        identity: ReplicaIdentity::Index,
        columns: columns.iter().map(column).collect(),
    };
    let found =
        table::load(session, &relation).await?.map_err(|mismatch| unfit(name, &mismatch.to_string()))?;
    if found.columns.len() != columns.len() {
        return Err(unfit(name, "the target computes a column that the mapping writes"));
    }
    if found.key != Key::Unique {
        return Err(unfit(
            name,
            &format!(
                "it has no unique index on exactly ({}), whole, immediate and of columns that are not null",
                key.join(", ")
            ),
        ));
    }
    Ok(found)
}

async fn load_lookup(
    session: &mut Session,
    to: &Table,
    reference: &crate::keyspace::Reference,
) -> Result<Lookup> {
    let mut columns: Vec<&str> = to.columns.iter().map(|column| column.name.as_str()).collect();
    for name in [&reference.by, &reference.take] {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let by = [reference.by.as_str()];
    let found = find(session, &to.name, &columns, &by).await?;
    let is_exact = is_exact(session, &to.name, &found, &by).await?;
    let place = columns.iter().position(|name| *name == reference.by).unwrap_or_default();
    Ok(Lookup {
        name: to.name.clone(),
        target: found.target,
        by: quote::identifier(&reference.by),
        take: quote::identifier(&reference.take),
        equality: found.columns[place].equality.clone(),
        is_exact,
    })
}

/// Whether two values of these columns are the same exactly when their texts are.
async fn is_exact(
    session: &mut Session,
    name: &TableName,
    found: &table::Table,
    key: &[&str],
) -> Result<bool> {
    let is_text =
        |column: &&table::TableColumn| ["text", "character varying"].contains(&column.type_sql.as_str());
    let is_key = |column: &&table::TableColumn| key.iter().any(|name| quote::identifier(name) == column.name);
    if !found.columns.iter().filter(is_key).all(|column| is_text(&column)) {
        return Ok(false);
    }
    let loose = session.query_with(LOOSE_COLUMNS, &[Some(&quote::table(name))]).await?;
    Ok(!loose.iter().any(|row| key.contains(&row.string(0).as_str())))
}

async fn check_anchor(session: &mut Session, name: &TableName, anchor: &[&str]) -> Result<()> {
    if anchor.is_empty() {
        return Err(Error::config(format!(
            "{name} is to hold the rows of its key, and no column says whose they are"
        ))
        .hint("Name a column that is filled from the name of the key, or ensure the rows instead."));
    }
    let list = text_array(anchor);
    let rows = session.query_with(IS_INDEXED, &[Some(&quote::table(name)), Some(&list)]).await?;
    if !rows.first().is_some_and(|row| row.bool(0)) {
        tracing::warn!(
            table = %name,
            "no index begins with ({}): to remove a key's rows, all of the table is read",
            anchor.join(", ")
        );
    }
    Ok(())
}

pub(super) fn text_array(texts: &[&str]) -> String {
    let quote = |text: &&str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let quoted: Vec<String> = texts.iter().map(quote).collect();
    format!("{{{}}}", quoted.join(","))
}

fn unfit(name: &TableName, why: &str) -> Error {
    Error::refused(format!("{name} cannot take the rows that the mapping makes: {why}"))
        .hint("Change the table or the mapping; where the table is moved out of the way, pgdiode makes one that fits.")
}

fn tag(name: &TableName, key: &[&str], anchor: &[&str]) -> [u8; 8] {
    let mut hash = Sha256::default();
    for part in [&[name.schema.as_str(), name.name.as_str()], key, anchor] {
        for text in part {
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(&[0xff; 8]);
    }
    let mut tag = [0; 8];
    tag.copy_from_slice(&hash.half()[..8]);
    tag
}
