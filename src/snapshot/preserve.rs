//! What a replica keeps of its own from copy to copy: tables that only it has, and rows of the source's in which it has
//! values of its own ([`rows`]).
//!
//! It is carried over last, when the shadow is filled and has passed the guards. From then until the swap nobody can write
//! what is kept: a session of the serving database holds a lock on it that readers do not feel, and the swap ends that session after
//! all others. So nothing that somebody was told is committed gets lost in between.

mod rows;

use std::collections::{BTreeMap, BTreeSet};

use crate::change::TableName;
use crate::config::{self, Pipeline};
use crate::error::{Error, Kind, Result};
use crate::pg::copy::relay;
use crate::pg::dump::{self, Dump, DumpOptions, Section};
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::snapshot::discarded::Made;
use crate::snapshot::generation::Standing;
use crate::snapshot::place::{Place, not_promoted};
use crate::status::snapshot::{Discarded, Preserved};
use crate::target::postgres::schema;

/// How long a writer in the replica may keep the sync waiting.
const LOCK_WAIT: &str = "30s";

/// The serving database, in which nobody writes what is kept until this is dropped or its session ended.
pub(super) struct Keeping<'a> {
    place: &'a Place<'a>,
    serving: Session,
    /// Tables and the like that are kept whole.
    relations: Vec<Relation>,
    schemas: Vec<String>,
    pub(super) preserved: Vec<Preserved>,
    /// Rows whose columns were to be kept and that the source does not have.
    pub(super) unmatched: Vec<Discarded>,
    /// What could not be kept as it was, with reasons.
    pub(super) left_out: Vec<String>,
}

struct Relation {
    name: TableName,
    /// `pg_class.relkind`.
    kind: String,
    is_owned: bool,
}

impl Relation {
    fn has_rows(&self) -> bool {
        self.kind == "r"
    }
}

const RELATIONS: &str = "
    select n.nspname, c.relname, c.relkind,
           exists (select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype in ('a', 'i'))
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2";

/// Refuses, before anything is written, what cannot be kept for reasons that the source knows.
pub(super) async fn refuse_impossible(source: &mut Session, pipeline: &Pipeline) -> Result<()> {
    let preserve = &pipeline.preserve;
    if preserve.is_empty() {
        return Ok(());
    }
    for row in source.query(RELATIONS).await? {
        let name = TableName::new(row.string(0), row.string(1));
        let is_carried = row.string(2) != "S" && pipeline.tables.match_table(&name);
        if is_carried && preserve.whole.match_table(&name) {
            return Err(Error::refused(format!(
                "snapshot.preserve: {} is of the source too, which fills it",
                config::written(&name)
            ))
            .hint("Whole tables are preserved that only the replica has; for others there is snapshot.preserve_rows."));
        }
    }
    for (table, keys) in &preserve.rows {
        rows::refuse_impossible(source, table, keys).await?;
    }
    Ok(())
}

impl<'a> Keeping<'a> {
    /// Finds what is to be kept and keeps others from writing it; `None` when there is nothing.
    pub(super) async fn open(place: &'a Place<'a>, standing: &Standing) -> Result<Option<Keeping<'a>>> {
        let preserve = &place.pipeline.preserve;
        if preserve.is_empty() || !standing.exists || standing.was_empty {
            return Ok(None);
        }
        let mut serving = place.session(&place.database).await?;
        let all = serving.query(RELATIONS).await?;
        let read = |row: &Row| Relation {
            name: TableName::new(row.string(0), row.string(1)),
            kind: row.string(2),
            is_owned: row.bool(3),
        };
        let (relations, others): (Vec<Relation>, Vec<Relation>) =
            all.iter().map(read).partition(|relation| preserve.whole.match_table(&relation.name));
        let named = "select nspname from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'";
        let schemas: Vec<String> = serving.query(named).await?.iter().map(|row| row.string(0)).collect();
        let schemas: Vec<String> =
            schemas.into_iter().filter(|schema| preserve.holds_schema(schema)).collect();
        let with_rows = others.iter().filter(|one| preserve.rows.iter().any(|(table, _)| *table == one.name));
        let locked: Vec<String> = relations
            .iter()
            .chain(with_rows)
            .filter(|relation| relation.has_rows())
            .map(|relation| format!("only {}", quote::table(&relation.name)))
            .collect();
        serving.query("begin").await?;
        if !locked.is_empty() {
            let sql = format!(
                "set local lock_timeout = '{LOCK_WAIT}'; lock table {} in share mode",
                locked.join(", ")
            );
            serving.query(&sql).await.map_err(|error| match error.sqlstate() {
                Some("55P03") => {
                    not_promoted("what the replica keeps is being written by a long transaction there")
                        .hint("Sync again when it has ended.")
                        .because(error)
                }
                _ => failed(error),
            })?;
        }
        let (preserved, unmatched, left_out) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Some(Keeping { place, serving, relations, schemas, preserved, unmatched, left_out }))
    }

    /// Whose locks keep writers waiting.
    pub(super) fn backend(&self) -> i32 {
        self.serving.process_id()
    }

    /// Carries whole tables over.
    pub(super) async fn tables(&mut self, shadow: &mut Session) -> Result<()> {
        if self.relations.is_empty() && self.schemas.is_empty() {
            return Ok(());
        }
        self.create(shadow).await.map_err(failed)?;
        self.copy_rows(shadow).await.map_err(failed)?;
        self.carry_sequences(shadow).await.map_err(failed)?;
        self.finish(shadow).await.map_err(failed)?;
        self.give_owners(shadow).await.map_err(failed)
    }

    /// Puts the replica's values into rows of the source's tables.
    pub(super) async fn rows(&mut self, shadow: &mut Session, made: &Made) -> Result<()> {
        let younger = made.younger(&mut self.serving).await?;
        for (table, keys) in &self.place.pipeline.preserve.rows {
            let carried = rows::carry(&mut self.serving, shadow, table, keys, younger).await;
            match carried.map_err(|error| failed(error.context(format!("rows of {table}"))))? {
                Some(rows::Carried { rows, unmatched }) => {
                    self.preserved.push(Preserved { table: table.to_string(), rows });
                    if unmatched > 0 {
                        let object = format!("table {table}");
                        self.unmatched
                            .push(Discarded { rows_written: unmatched, ..Discarded::of(object, "rows") });
                    }
                }
                None => {
                    let reason =
                        "it cannot be told which rows were changed in the replica; name them with `rows`";
                    self.left_out.push(format!("preserved rows of {table}: {reason}"));
                }
            }
        }
        Ok(())
    }

    /// Says in the log and in the run's row what was carried over, and what was not.
    pub(super) async fn tell(&self, control: &mut Session, run: i64) -> Result<()> {
        for Preserved { table, rows } in &self.preserved {
            tracing::info!(run, rows, "preserved: {table}");
        }
        for left in &self.left_out {
            tracing::warn!(run, "left out: {left}");
        }
        let json = serde_json::to_string(&self.preserved)
            .map_err(|error| Error::unexpected("what is preserved cannot be written").because(error))?;
        let sql = format!("update pgdiode.run set preserved = {} where id = {run}", quote::literal(&json));
        control.query(&sql).await.map(drop)
    }

    /// The dumps that together hold what is kept: of whole schemas, and of tables elsewhere.
    fn dumps(&self, section: Section) -> Vec<DumpOptions> {
        let apart =
            |relation: &&Relation| !relation.is_owned && !self.schemas.contains(&relation.name.schema);
        let tables: Vec<TableName> =
            self.relations.iter().filter(apart).map(|relation| relation.name.clone()).collect();
        let of = |schemas: Vec<String>, tables: Vec<TableName>| DumpOptions {
            section: Some(section),
            schemas,
            tables,
            ..DumpOptions::default()
        };
        [of(self.schemas.clone(), Vec::new()), of(Vec::new(), tables)]
            .into_iter()
            .filter(|options| !options.schemas.is_empty() || !options.tables.is_empty())
            .collect()
    }

    async fn dump(&self, options: &DumpOptions) -> Result<Dump> {
        let named = self.place.pipeline.pg_dump.as_deref();
        let program = dump::find_pg_dump(named, self.serving.server_major()).await?;
        let environment = self.place.ends_to(&self.place.database).target.to_libpq_env();
        Dump::parse(&dump::run(&program, &environment, options).await?)
    }

    async fn create(&mut self, shadow: &mut Session) -> Result<()> {
        shadow.query("begin").await?;
        for options in self.dumps(Section::PreData) {
            let schemas: BTreeSet<&str> = options.tables.iter().map(|table| table.schema.as_str()).collect();
            for schema in schemas {
                shadow.query(&format!("create schema if not exists {}", quote::identifier(schema))).await?;
            }
            let dump = self.dump(&options).await?;
            for left in schema::replay_pre_data(shadow, &dump, |_| true).await? {
                self.left_out.push(format!("preserved {}: {}", left.entry, left.reason));
            }
        }
        shadow.query("commit").await.map(drop)
    }

    async fn copy_rows(&mut self, shadow: &mut Session) -> Result<()> {
        for relation in self.relations.iter().filter(|relation| relation.has_rows()) {
            let name = quote::table(&relation.name);
            let columns = written_columns(&mut self.serving, &relation.name).await?;
            let rows = if columns.is_empty() {
                0
            } else {
                let columns = quote::identifiers(columns.iter().map(String::as_str));
                let out = format!("copy (select {columns} from only {name}) to stdout");
                let into = format!("copy {name} ({columns}) from stdin");
                relay(&mut self.serving, &out, shadow, &into, |_| ()).await?
            };
            self.preserved.push(Preserved { table: relation.name.to_string(), rows });
        }
        Ok(())
    }

    async fn carry_sequences(&mut self, shadow: &mut Session) -> Result<()> {
        let sql = "select n.nspname, c.relname, o.nspname, t.relname
                     from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                     left join pg_catalog.pg_depend d
                       on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype in ('a', 'i')
                     left join pg_catalog.pg_class t on t.oid = d.refobjid
                     left join pg_catalog.pg_namespace o on o.oid = t.relnamespace
                    where c.relkind = 'S'";
        let is_kept = |name: &TableName| self.relations.iter().any(|relation| relation.name == *name);
        for row in self.serving.query(sql).await? {
            let sequence = TableName::new(row.string(0), row.string(1));
            if !is_kept(&sequence) && !is_kept(&TableName::new(row.string(2), row.string(3))) {
                continue;
            }
            let name = quote::table(&sequence);
            let state = self.serving.one(&format!("select last_value, is_called from {name}")).await?;
            let sql = format!(
                "select pg_catalog.setval(oid, {}, {}) from pg_catalog.pg_class where oid = pg_catalog.to_regclass({})",
                state.string(0),
                state.bool(1),
                quote::literal(&name)
            );
            shadow.query(&sql).await?;
        }
        Ok(())
    }

    /// Keys, indexes, triggers; then what is computed from rows.
    async fn finish(&mut self, shadow: &mut Session) -> Result<()> {
        let roles = schema::roles(shadow).await?;
        for options in self.dumps(Section::PostData) {
            let dump = self.dump(&options).await?;
            schema::apply_settings(shadow, &dump).await?;
            for entry in dump.entries.iter().filter(|entry| !entry.stays_at_source()) {
                match schema::replay_post_data(shadow, entry, &roles).await {
                    Ok(left) => self.left_out.extend(
                        left.into_iter().map(|left| format!("preserved {}: {}", left.entry, left.reason)),
                    ),
                    // The rows that it speaks of are the source's, and gone.
                    Err(error) if error.sqlstate() == Some("23503") => {
                        self.left_out.push(format!("preserved {}: {}", entry.name, error.chain()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        for relation in &self.relations {
            let name = quote::table(&relation.name);
            match relation.kind.as_str() {
                "r" | "p" => shadow.query(&format!("analyze {name}")).await.map(drop)?,
                "m" => {
                    let filled = shadow.query(&format!("refresh materialized view {name}")).await;
                    self.left_out
                        .extend(filled.err().map(|error| format!("rows of {name}: {}", error.chain())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What belonged to somebody else than the target's user still does, if that user may give it away.
    async fn give_owners(&mut self, shadow: &mut Session) -> Result<()> {
        let words: BTreeMap<&str, &str> = [
            ("r", "table"),
            ("p", "table"),
            ("f", "foreign table"),
            ("v", "view"),
            ("m", "materialized view"),
            ("S", "sequence"),
        ]
        .into();
        let mut statements = Vec::new();
        let schemas = self.schemas.iter().map(|schema| quote::literal(schema)).collect::<Vec<_>>().join(", ");
        if !schemas.is_empty() {
            let sql = format!(
                "select 'schema ' || pg_catalog.quote_ident(nspname), pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(nspowner))
                   from pg_catalog.pg_namespace where nspname in ({schemas}) and nspowner <> (select oid from pg_catalog.pg_roles where rolname = current_user)
                 union all
                 select 'routine ' || p.oid::pg_catalog.regprocedure, pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(p.proowner))
                   from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
                  where n.nspname in ({schemas}) and p.proowner <> (select oid from pg_catalog.pg_roles where rolname = current_user)"
            );
            for row in self.serving.query(&sql).await? {
                statements.push(format!("alter {} owner to {}", row.string(0), row.string(1)));
            }
        }
        for relation in self.relations.iter().filter(|relation| !relation.is_owned) {
            let name = quote::table(&relation.name);
            let sql = format!(
                "select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)) from pg_catalog.pg_class
                  where oid = pg_catalog.to_regclass({}) and pg_catalog.pg_get_userbyid(relowner) <> current_user",
                quote::literal(&name)
            );
            if let (Some(row), Some(word)) =
                (self.serving.query(&sql).await?.first(), words.get(relation.kind.as_str()))
            {
                statements.push(format!("alter {word} {name} owner to {}", row.string(0)));
            }
        }
        for statement in statements {
            match shadow.query(&statement).await {
                Ok(_) => {}
                Err(error) if error.retries() => return Err(error),
                Err(error) => self.left_out.push(format!("preserved: {statement}: {}", error.what())),
            }
        }
        Ok(())
    }
}

/// The columns that rows are written with.
async fn written_columns(session: &mut Session, table: &TableName) -> Result<Vec<String>> {
    let sql = format!(
        "select attname from pg_catalog.pg_attribute
          where attrelid = pg_catalog.to_regclass({}) and attnum > 0 and not attisdropped and attgenerated = '' order by attnum",
        quote::literal(&quote::table(table))
    );
    Ok(session.query(&sql).await?.iter().map(|row| row.string(0)).collect())
}

/// A copy without what was to be kept does not serve.
fn failed(error: Error) -> Error {
    if error.retries() || matches!(error.kind(), Kind::Capacity | Kind::Difference) {
        return error;
    }
    not_promoted("what the replica keeps cannot be carried over")
        .hint("Mend what the message names, or take it out of snapshot.preserve or preserve_rows; then sync again.")
        .because(error)
}
