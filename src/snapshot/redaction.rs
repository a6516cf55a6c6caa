//! What a replica must not hold, found in the source's catalog: which tables come empty, and what the source computes in
//! place of which columns.
//!
//! Whatever is asked for a table holds for the partitions and children below it too, where their rows are. A name that
//! the source does not have, and a mask that cannot work, is refused before anything is written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::change::TableName;
use crate::config::{self, Mask, Masking, Redaction};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::source::postgres::catalog::SourceTable;

/// What was asked for, by the source's tables.
#[derive(Debug, Default)]
pub(super) struct Redacted {
    emptied: BTreeSet<TableName>,
    /// SQL by column.
    masks: BTreeMap<TableName, BTreeMap<String, String>>,
}

impl Redacted {
    /// One line for a check.
    pub(super) fn summary(&self) -> String {
        let columns: usize = self.masks.values().map(BTreeMap::len).sum();
        format!("{} tables of the source come empty, {columns} columns masked", self.emptied.len())
    }

    /// Marks tables for the copy.
    pub(super) fn mark(&mut self, tables: &mut [SourceTable]) {
        for table in tables {
            if self.emptied.contains(&table.table) {
                (table.is_emptied, table.bytes, table.blocks) = (true, 0, 0);
            } else if let Some(masks) = self.masks.get_mut(&table.table) {
                for column in &mut table.columns {
                    column.mask = masks.remove(&column.name);
                }
            }
        }
    }
}

/// Relations with columns, and whether these are tables.
const RELATIONS: &str = "
    select c.oid, n.nspname, c.relname, c.relkind in ('r', 'p')
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
     order by c.oid";

const COLUMNS: &str = "
    select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull or t.typnotnull, a.attgenerated <> '',
           t.typcategory, coalesce(nullif(t.typbasetype, 0), t.oid)::pg_catalog.regtype::text
      from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
     where a.attrelid = {OID} and a.attnum > 0 and not a.attisdropped order by a.attnum";

struct Relation {
    oid: u32,
    name: TableName,
    is_table: bool,
}

#[derive(Debug)]
struct Column {
    name: String,
    type_sql: String,
    is_not_null: bool,
    is_generated: bool,
    /// `pg_type.typcategory`.
    category: String,
    /// The type below a domain.
    base: String,
}

struct Catalog {
    relations: Vec<Relation>,
    /// Places in `relations`.
    children: HashMap<u32, Vec<usize>>,
}

/// Finds what is asked for in the source as the session sees it.
pub(super) async fn resolve(source: &mut Session, redaction: &Redaction) -> Result<Redacted> {
    if redaction.is_empty() {
        return Ok(Redacted::default());
    }
    let catalog = Catalog::read(source).await?;
    let mut redacted = Redacted { emptied: emptied(&catalog, redaction)?, ..Redacted::default() };
    let mut masks: Vec<(usize, &Mask)> = Vec::new();
    for mask in &redaction.masks {
        masks.extend(catalog.table(mask)?.map(|place| (place, mask)));
    }
    // A mask of a child's own goes before its parent's.
    let mut chosen: BTreeMap<(usize, &str), &Mask> = BTreeMap::new();
    for (place, mask) in &masks {
        for member in catalog.family(*place) {
            chosen.insert((member, &mask.column), mask);
        }
    }
    for (place, mask) in &masks {
        chosen.insert((*place, &mask.column), mask);
    }
    let mut columns: HashMap<usize, Vec<Column>> = HashMap::new();
    for ((place, _), mask) in chosen {
        let relation = &catalog.relations[place];
        if let std::collections::hash_map::Entry::Vacant(vacant) = columns.entry(place) {
            vacant.insert(columns_of(source, relation.oid).await?);
        }
        let Some(column) = find_column(relation, &columns[&place], mask)? else { continue };
        let Some(sql) = replacement(relation, column, &mask.with)? else { continue };
        try_mask(source, relation, column, &sql).await?;
        redacted.masks.entry(relation.name.clone()).or_default().insert(column.name.clone(), sql);
    }
    Ok(redacted)
}

fn emptied(catalog: &Catalog, redaction: &Redaction) -> Result<BTreeSet<TableName>> {
    let mut emptied = BTreeSet::new();
    for asked in &redaction.emptied {
        let matching = |relation: &&Relation| relation.is_table && asked.tables.matches(&relation.name);
        let mut is_there = asked.if_there;
        for (place, _) in catalog.relations.iter().enumerate().filter(|(_, relation)| matching(relation)) {
            is_there = true;
            emptied.extend(catalog.family(place).map(|member| catalog.relations[member].name.clone()));
        }
        if !is_there {
            let what = format!("snapshot.empty: the source has no table that fits {}", asked.tables);
            return Err(catalog.unknown(what, &asked.tables.to_string()));
        }
    }
    emptied.retain(|table| !redaction.filled.iter().any(|filled| filled.matches(table)));
    Ok(emptied)
}

impl Catalog {
    async fn read(source: &mut Session) -> Result<Catalog> {
        let mut relations = Vec::new();
        for row in source.query(RELATIONS).await? {
            let name = TableName::new(row.string(1), row.string(2));
            relations.push(Relation { oid: row.get(0)?, name, is_table: row.bool(3) });
        }
        let places: HashMap<u32, usize> =
            relations.iter().enumerate().map(|(place, relation)| (relation.oid, place)).collect();
        let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
        let inherits = "select i.inhparent, i.inhrelid from pg_catalog.pg_inherits i
                          join pg_catalog.pg_class c on c.oid = i.inhrelid where c.relkind in ('r', 'p', 'f')";
        for row in source.query(inherits).await? {
            let child: u32 = row.get(1)?;
            if let Some(place) = places.get(&child) {
                children.entry(row.get(0)?).or_default().push(*place);
            }
        }
        Ok(Catalog { relations, children })
    }

    /// A table and all below it, each once.
    fn family(&self, root: usize) -> impl Iterator<Item = usize> {
        let (mut members, mut seen) = (vec![root], HashSet::from([root]));
        let mut next = 0;
        while let Some(member) = members.get(next).copied() {
            next += 1;
            let children = self.children.get(&self.relations[member].oid).into_iter().flatten();
            members.extend(children.copied().filter(|child| seen.insert(*child)));
        }
        members.into_iter()
    }

    /// The table that a mask names; `None` when it need not be there.
    fn table(&self, mask: &Mask) -> Result<Option<usize>> {
        let named = config::written(&mask.table);
        let Some(place) = self.relations.iter().position(|relation| relation.name == mask.table) else {
            if mask.if_there {
                return Ok(None);
            }
            let what = format!("snapshot.mask: the source has no table {named}");
            return Err(self.unknown(what, &named));
        };
        if !self.relations[place].is_table {
            return Err(Error::refused(format!("snapshot.mask: {named} of the source is no table"))
                .hint("A view shows what its tables hold: mask the columns of those."));
        }
        Ok(Some(place))
    }

    fn unknown(&self, what: String, named: &str) -> Error {
        let tables = self.relations.iter().filter(|relation| relation.is_table);
        let known: Vec<String> = tables.map(|relation| config::written(&relation.name)).collect();
        Error::refused(what).hint(match config::nearest(named, known.iter().map(String::as_str)) {
            Some(near) => format!("Did you mean {near}? What is not masked or emptied is copied as it is."),
            None => "Correct the name, or remove the line once the source has dropped the table.".to_owned(),
        })
    }
}

async fn columns_of(source: &mut Session, oid: u32) -> Result<Vec<Column>> {
    let rows = source.query(&COLUMNS.replace("{OID}", &oid.to_string())).await?;
    let read = |row: &crate::pg::session::Row| Column {
        name: row.string(0),
        type_sql: row.string(1),
        is_not_null: row.bool(2),
        is_generated: row.bool(3),
        category: row.string(4),
        base: row.string(5),
    };
    Ok(rows.iter().map(read).collect())
}

/// `None` when it need not be there.
fn find_column<'a>(relation: &Relation, columns: &'a [Column], mask: &Mask) -> Result<Option<&'a Column>> {
    let table = config::written(&relation.name);
    let Some(column) = columns.iter().find(|column| column.name == mask.column) else {
        if mask.if_there {
            return Ok(None);
        }
        let error = Error::refused(format!("snapshot.mask: table {table} has no column \"{}\"", mask.column));
        let names = columns.iter().map(|column| column.name.as_str());
        return Err(error.hint(match config::nearest(&mask.column, names) {
            Some(near) => format!("Did you mean \"{near}\"? What is not masked is copied as it is."),
            None => "Correct the name, or remove the line once the source has dropped the column.".to_owned(),
        }));
    };
    Ok(Some(column))
}

/// The SQL that stands for the column, of its very type; `None` when it stays.
fn replacement(relation: &Relation, column: &Column, with: &Masking) -> Result<Option<String>> {
    let named = format!("{}.{}", config::written(&relation.name), column.name);
    let refused =
        |why: &str, hint: &str| Err(Error::refused(format!("snapshot.mask: {named} {why}")).hint(hint));
    if *with == Masking::Keep {
        return Ok(None);
    }
    if column.is_generated {
        return refused(
            "is generated, so that nothing can be put in its place",
            "Mask the columns that it is generated from.",
        );
    }
    let name = quote::identifier(&column.name);
    let value = match with {
        Masking::Null if column.is_not_null => {
            return refused("may not be null", "Use \"hash\", \"constant:TEXT\" or \"sql:EXPRESSION\".");
        }
        Masking::Null => "null".to_owned(),
        Masking::Constant(text) => quote::literal(text),
        Masking::Expression(sql) => format!("(\n{sql}\n)"),
        Masking::Hash => match hash(&format!("t.{name}"), column) {
            Some(hash) => hash,
            None => {
                return refused(
                    &format!("is of type {}, which no hash fits in", column.type_sql),
                    "\"hash\" is for texts, bytea and uuid; use \"null\", \"constant:TEXT\" or \"sql:EXPRESSION\".",
                );
            }
        },
        Masking::Keep => return Ok(None),
    };
    Ok(Some(format!("{value}::{}", column.type_sql)))
}

/// `sha256` is there from PostgreSQL 11 on.
fn hash(value: &str, column: &Column) -> Option<String> {
    let digest = format!(
        "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({value}::pg_catalog.text, 'UTF8')), 'hex')"
    );
    match column.base.as_str() {
        "bytea" => Some(format!("pg_catalog.sha256({value})")),
        "uuid" => Some(format!("pg_catalog.left({digest}, 32)")),
        _ if column.category == "S" => Some(digest),
        _ => None,
    }
}

/// Has the source understand the mask, so that what is wrong with it shows before anything is copied.
async fn try_mask(source: &mut Session, relation: &Relation, column: &Column, sql: &str) -> Result<()> {
    let asked = format!("select {sql} from only {} t limit 0", quote::table(&relation.name));
    match source.query(&asked).await {
        Ok(_) => Ok(()),
        Err(error) if error.retries() => Err(error),
        Err(error) => Err(Error::refused(format!(
            "snapshot.mask: the source cannot compute what stands for {}.{}",
            config::written(&relation.name),
            column.name
        ))
        .hint(format!(
            "It must be of type {} or fit in it; functions outside of pg_catalog are named with their schema.",
            column.type_sql
        ))
        .because(error)),
    }
}
