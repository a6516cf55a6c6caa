//! The source's tables: whether the patterns find them, may be read, and can be published without harm.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Purpose, Survey, counted, listed, refusal};
use crate::change::TableName;
use crate::config::{Pipeline, Plugin, written};
use crate::error::{Error, Result};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::selection::Selection;
use crate::source::postgres::catalog::{Identity, SourceTable};
use crate::status::{CheckReport, Level};

/// What this user may do with each table, and whether row security stands before it.
const ACCESS: &str = "
    select n.nspname, c.relname, pg_catalog.has_schema_privilege(n.oid, 'usage'),
           pg_catalog.has_table_privilege(c.oid, 'select'), pg_catalog.row_security_active(c.oid)
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p')";

/// Unique indexes that can name a row: not partial, not on expressions, checked at once, over columns without nulls.
const IDENTITY_INDEXES: &str = "
    select i.indrelid, x.relname, i.indisprimary
      from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
     where i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
       and not exists (
             select from pg_catalog.pg_attribute a
              where a.attrelid = i.indrelid and not a.attnotnull
                and a.attnum = any ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1]))
     order by i.indrelid, i.indisprimary desc, i.indnkeyatts, x.relname";

/// Tables that patterns may match and nothing can carry.
const OTHER_TABLES: &str = "
    select n.nspname, c.relname,
           case when c.relkind = 'f' then 'foreign' when c.relpersistence = 'u' then 'unlogged' else 'temporary' end
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where (c.relkind = 'f' or (c.relkind in ('r', 'p') and c.relpersistence = 'u'))
       and n.nspname not in ('pg_catalog', 'information_schema', 'pgdiode') and n.nspname !~ '^pg_'
     order by 1, 2";

/// Sequences that this user cannot read. The function fails for what is no sequence, and conditions have no order.
const UNREADABLE_SEQUENCES: &str = "
    select n.nspname, c.relname
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'S' and c.relpersistence <> 't' and n.nspname !~ '^pg_'
       and case when c.relkind = 'S' then not pg_catalog.has_sequence_privilege(c.oid, 'select') end
     order by 1, 2";

impl Survey<'_> {
    pub(super) async fn tables(&mut self, session: &mut Session, selection: &Selection) -> Result<()> {
        self.matched(selection);
        self.not_carried(session, selection).await?;
        for (what, hint) in access(session, &selection.carried).await? {
            self.refuse_at_first(what, hint);
        }
        let plugin = self.pipeline.plugin;
        for (_, what, hint) in unnamed_rows(session, selection, &selection.carried, plugin).await? {
            if plugin == Plugin::Wal2json {
                self.refuse_at_first(what, hint);
                continue;
            }
            // A start publishes nothing: what is published already may well be meant to take inserts alone.
            let level = if self.purpose == Purpose::Start { Level::Warning } else { Level::Refused };
            self.report.push(level, what, Some(hint));
        }
        self.whole_rows(selection);
        self.sequences(session, selection).await
    }

    /// Whether each pattern finds something.
    fn matched(&mut self, selection: &Selection) {
        for pattern in &self.pipeline.tables.included {
            if selection.all.keys().any(|table| pattern.matches(table)) {
                continue;
            }
            match pattern.exact() {
                Some(table) => {
                    let error = selection.unknown(&table);
                    self.report.fail(&Error::refused(error.what()).hint(format!(
                        "correct the key tables of [pipeline.{}]: {}",
                        self.pipeline.name,
                        error.hint_text().unwrap_or_default()
                    )));
                }
                None => self.report.warn(
                    format!("the pattern {pattern} matches no table of the source"),
                    "names count as the catalog stores them, upper and lower case told apart; see pgdiode list-tables",
                ),
            }
        }
        let bytes: u64 =
            selection.carried.iter().filter_map(|table| selection.all.get(table)).map(|it| it.bytes).sum();
        self.report.ok(format!(
            "{} of the source match, {} MB",
            counted(selection.carried.len(), "table"),
            bytes.div_ceil(1 << 20)
        ));
    }

    async fn not_carried(&mut self, session: &mut Session, selection: &Selection) -> Result<()> {
        let mut left_out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in session.query(OTHER_TABLES).await? {
            let table = TableName::new(row.string(0), row.string(1));
            if self.pipeline.tables.match_table(&table) && !selection.all.contains_key(&table) {
                left_out.entry(row.string(2)).or_default().push(written(&table));
            }
        }
        for (kind, tables) in left_out {
            self.report.ok(format!(
                "{} not carried, its changes are not in the log: {}",
                counted(tables.len(), &format!("{kind} table")),
                listed(&tables)
            ));
        }
        Ok(())
    }

    /// Tables whose every changed row is logged and looked for as a whole.
    fn whole_rows(&mut self, selection: &Selection) {
        let full: Vec<String> = carried(selection, &selection.carried)
            .filter(|table| table.identity == Identity::Full)
            .map(|table| written(&table.table))
            .collect();
        if !full.is_empty() {
            self.report.warn(
                format!("{} named by whole rows (replica identity full): {}", counted(full.len(), "table"), listed(&full)),
                "each UPDATE and DELETE logs the whole old row, and without a key at the target looks for it by \
                 comparing rows; a primary key makes both cheap",
            );
        }
    }

    async fn sequences(&mut self, session: &mut Session, selection: &Selection) -> Result<()> {
        let schemas: HashSet<&str> = selection.carried.iter().map(|table| table.schema.as_str()).collect();
        let rows = session.query(UNREADABLE_SEQUENCES).await?;
        let names: Vec<TableName> = rows
            .iter()
            .map(|row| TableName::new(row.string(0), row.string(1)))
            .filter(|sequence| schemas.contains(sequence.schema.as_str()))
            .collect();
        if !names.is_empty() {
            let shown: Vec<String> = names.iter().map(written).collect();
            let quoted: Vec<String> = names.iter().map(quote::table).collect();
            self.report.warn(
                format!(
                    "{} cannot be read, their values stay behind: {}",
                    counted(names.len(), "sequence"),
                    listed(&shown)
                ),
                format!("grant select on sequence {} to {}", quoted.join(", "), user(session).await?),
            );
        }
        Ok(())
    }
}

/// Refuses tables that are about to join when they may not be read or not be published.
pub async fn refuse_unsafe_tables(
    pipeline: &Pipeline,
    session: &mut Session,
    selection: &Selection,
    tables: &[TableName],
) -> Result<()> {
    let mut report = CheckReport::default();
    for (what, hint) in access(session, tables).await? {
        report.refuse(what, hint);
    }
    for (_, what, hint) in unnamed_rows(session, selection, tables, pipeline.plugin).await? {
        report.refuse(what, hint);
    }
    refusal(&report, &pipeline.name)
}

fn carried<'a>(selection: &'a Selection, tables: &'a [TableName]) -> impl Iterator<Item = &'a SourceTable> {
    tables.iter().filter_map(|table| selection.all.get(table))
}

/// What keeps this user from reading the tables, with its remedy.
async fn access(session: &mut Session, tables: &[TableName]) -> Result<Vec<(String, String)>> {
    let wanted: HashSet<&TableName> = tables.iter().collect();
    let (mut schemas, mut unreadable, mut secured) = (Vec::new(), Vec::new(), Vec::new());
    for row in session.query(ACCESS).await? {
        let table = TableName::new(row.string(0), row.string(1));
        if !wanted.contains(&table) {
            continue;
        }
        if !row.bool(2) && !schemas.contains(&table.schema) {
            schemas.push(table.schema.clone());
        }
        if !row.bool(3) {
            unreadable.push(table);
        } else if row.bool(4) {
            secured.push(table);
        }
    }
    let user = user(session).await?;
    let mut findings = Vec::new();
    for schema in schemas {
        findings.push((
            format!("the source's user may not look into schema {schema}"),
            format!("grant usage on schema {} to {user}", quote::identifier(&schema)),
        ));
    }
    if !unreadable.is_empty() {
        let names: Vec<String> = unreadable.iter().map(written).collect();
        let quoted: Vec<String> = unreadable.iter().map(quote::table).collect();
        findings.push((
            format!("the source's user may not read {}: {}", counted(names.len(), "table"), listed(&names)),
            format!("grant select on {} to {user}", quoted.join(", ")),
        ));
    }
    if !secured.is_empty() {
        let names: Vec<String> = secured.iter().map(written).collect();
        findings.push((
            format!(
                "row security hides rows of {} from the source's user: {}",
                counted(names.len(), "table"),
                listed(&names)
            ),
            format!("as a superuser: alter role {user} bypassrls"),
        ));
    }
    Ok(findings)
}

/// Tables of which UPDATE and DELETE fail once they are published, each with its own remedy: an ALTER locks its table,
/// so each is to be a transaction of its own.
pub async fn unnamed_rows(
    session: &mut Session,
    selection: &Selection,
    tables: &[TableName],
    plugin: Plugin,
) -> Result<Vec<(TableName, String, String)>> {
    let consequence = match plugin {
        Plugin::Pgoutput => "once it is published, UPDATE and DELETE on it fail",
        Plugin::Wal2json => "wal2json leaves UPDATE and DELETE on it out",
    };
    let unnamed: Vec<&SourceTable> = carried(selection, tables)
        .filter(|table| table.identity == Identity::None && !table.is_partitioned)
        .collect();
    if unnamed.is_empty() {
        return Ok(Vec::new());
    }
    let mut indexes: HashMap<u32, (String, bool)> = HashMap::new();
    for row in session.query(IDENTITY_INDEXES).await? {
        indexes.entry(row.get(0)?).or_insert((row.string(1), row.bool(2)));
    }
    Ok(unnamed
        .into_iter()
        .map(|table| {
            let alter = format!("alter table {} replica identity", quote::table(&table.table));
            let remedy = match indexes.get(&table.oid) {
                Some((_, true)) => format!("{alter} default;"),
                Some((index, false)) => format!("{alter} using index {};", quote::identifier(index)),
                None => format!(
                    "{alter} full; -- or give it a primary key: full logs the whole old row with each UPDATE and DELETE"
                ),
            };
            let what = format!(
                "table {} has nothing that names its rows: {consequence}",
                written(&table.table)
            );
            (table.table.clone(), what, remedy)
        })
        .collect())
}

async fn user(session: &mut Session) -> Result<String> {
    Ok(quote::identifier(&session.one("select current_user").await?.string(0)))
}
