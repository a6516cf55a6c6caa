//! What lies between the ends: versions, encodings, collations, extensions, roles, and whether the stored position
//! still means something at the source.

use std::collections::{BTreeMap, HashSet};

use super::{Purpose, Source, Survey, listed};
use crate::change::TableName;
use crate::config::written;
use crate::error::Result;
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::schemas;
use crate::pipeline::spill::{self, Place};
use crate::position::Position;
use crate::source::postgres::slot;
use crate::status::drift::SchemaDifferenceKind;
use crate::target::postgres::schema;

/// Differences of schemas that are told one by one; the console and the API have all of them.
const DRIFT_SHOWN_MAX: usize = 20;

/// The source's extensions, and the tables that need each: by a column's type, a default, an index or a constraint.
/// Array types are members of an extension through their element type only.
const EXTENSIONS: &str = "
    with member as (
        select e.extname, d.classid, d.objid
          from pg_catalog.pg_extension e
          join pg_catalog.pg_depend d on d.refobjid = e.oid and d.deptype = 'e'
               and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
         where e.extname <> 'plpgsql'
    ), part as (
        table member
        union
        select m.extname, m.classid, t.typarray
          from member m join pg_catalog.pg_type t on t.oid = m.objid
         where m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and t.typarray <> 0
    )
    select e.extname, n.nspname, c.relname
      from pg_catalog.pg_extension e
      left join part p on p.extname = e.extname
      left join pg_catalog.pg_depend d on d.refclassid = p.classid and d.refobjid = p.objid and d.deptype in ('n', 'a')
      left join pg_catalog.pg_index i
             on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and i.indexrelid = d.objid
      left join pg_catalog.pg_attrdef f
             on d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and f.oid = d.objid
      left join pg_catalog.pg_constraint k
             on d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass and k.oid = d.objid
      left join pg_catalog.pg_class c on c.oid = coalesce(i.indrelid, f.adrelid, k.conrelid,
             case when d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass then d.objid end)
      left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where e.extname <> 'plpgsql'
     group by 1, 2, 3
     order by 1, 2, 3";

/// Roles that hold privileges on tables, beside the owner and the user that reads.
const GRANTEES: &str = "
    select distinct r.rolname, n.nspname, c.relname
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      cross join lateral pg_catalog.aclexplode(c.relacl) a
      join pg_catalog.pg_roles r on r.oid = a.grantee
     where c.relkind in ('r', 'p') and a.grantee <> c.relowner and r.rolname <> current_user";

impl Survey<'_> {
    pub(super) async fn between(
        &mut self,
        source: &mut Source,
        target: &mut Session,
        ends: &Ends,
    ) -> Result<()> {
        self.versions(&source.session, target);
        self.encodings(&source.session, target);
        self.collations(&mut source.session, target).await?;
        self.extensions(source, target).await?;
        self.grantees(source, target).await?;
        self.history(source, ends).await?;
        self.schemas(source, target).await?;
        self.spill().await
    }

    /// In what the tables differ that have been copied.
    async fn schemas(&mut self, source: &mut Source, target: &mut Session) -> Result<()> {
        let is_copied = self.stored.as_ref().is_some_and(|stored| stored.schema_copied);
        if self.purpose != Purpose::Check || !is_copied {
            return Ok(());
        }
        let drift = schemas::between(self.pipeline, &mut source.session, target, &source.selection).await?;
        // Tables whose rows nothing names were told of before.
        let told = drift.differences.iter().filter(|one| one.kind != SchemaDifferenceKind::ReplicaIdentity);
        for one in told.clone().take(DRIFT_SHOWN_MAX) {
            self.report.warn(one.what(), one.hint());
        }
        if told.count() == 0 {
            self.report.ok(drift.verdict().trim_end_matches('.'));
        }
        Ok(())
    }

    /// Where the pipeline would spill to.
    async fn spill(&mut self) -> Result<()> {
        let Some(place) = Place::of(self.pipeline)?.filter(|_| self.purpose == Purpose::Check) else {
            return Ok(());
        };
        match place.look().await {
            Ok(()) => self.report.ok(format!("{} takes what a slow target leaves", place.display())),
            Err(error) => self.report.warn(error.chain(), error.hint_text().unwrap_or_default()),
        }
        Ok(())
    }

    fn versions(&mut self, source: &Session, target: &Session) {
        let (from, to) = (source.server_major(), target.server_major());
        if to < from {
            self.report.warn(
                format!("the target, PostgreSQL {to}, is older than the source, PostgreSQL {from}"),
                format!(
                    "what only PostgreSQL {} and newer have (types, functions, kinds of constraints and of generated \
                     columns) does not load; upgrade the target",
                    to + 1
                ),
            );
        }
    }

    fn encodings(&mut self, source: &Session, target: &Session) {
        let encoding =
            |session: &Session| session.parameter("server_encoding").unwrap_or_default().to_owned();
        let (from, to) = (encoding(source), encoding(target));
        if from == to || to == "UTF8" && from != "SQL_ASCII" {
            return;
        }
        let what = format!("the source's encoding is {from}, the target's {to}");
        if from == "SQL_ASCII" {
            self.report.warn(
                what,
                "SQL_ASCII lets any bytes in; a row whose text is not UTF-8 stops its table's copy: find and mend \
                 those at the source, or create the target with encoding SQL_ASCII",
            );
        } else {
            self.report.warn(
                what,
                "a character that the target's encoding lacks stops its table: create the target with encoding UTF8",
            );
        }
    }

    async fn collations(&mut self, source: &mut Session, target: &mut Session) -> Result<()> {
        let (from, to) = (collation(source).await?, collation(target).await?);
        if from != to {
            self.report.warn(
                format!("text sorts by {from} at the source, by {to} at the target"),
                "the rows are the same; order by and ranges of text may differ. For the same order create the target \
                 database with the source's locale and provider",
            );
        }
        Ok(())
    }

    async fn extensions(&mut self, source: &mut Source, target: &mut Session) -> Result<()> {
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in source.session.query(EXTENSIONS).await? {
            let tables = used.entry(row.string(0)).or_default();
            let table = TableName::new(row.string(1), row.string(2));
            if source.selection.is_carried_by(&table, &source.selection.carried)
                || source.selection.named.contains(&table)
            {
                tables.push(written(&table));
            }
        }
        let rows = target.query("select name from pg_catalog.pg_available_extensions").await?;
        let available: HashSet<String> = rows.iter().map(|row| row.string(0)).collect();
        for (extension, tables) in used.iter().filter(|(extension, _)| !available.contains(*extension)) {
            let package = package(extension, target.server_major());
            let hint = format!("install {package} on the target's machine");
            if tables.is_empty() {
                self.report.warn(
                    format!("extension {extension} of the source is not available at the target; no carried table needs it"),
                    hint,
                );
            } else {
                self.refuse_at_first(
                    format!(
                        "extension {extension} is not available at the target, and needed by {}",
                        listed(tables)
                    ),
                    hint,
                );
            }
        }
        Ok(())
    }

    async fn grantees(&mut self, source: &mut Source, target: &mut Session) -> Result<()> {
        let roles = schema::roles(target).await?;
        let mut missing: Vec<String> = Vec::new();
        for row in source.session.query(GRANTEES).await? {
            let table = TableName::new(row.string(1), row.string(2));
            if !roles.contains(&row.string(0)) && source.selection.carried.contains(&table) {
                missing.push(row.string(0));
            }
        }
        missing.sort();
        missing.dedup();
        if !missing.is_empty() {
            self.report.warn(
                format!(
                    "the target lacks roles that the source's tables are granted to: {}",
                    listed(&missing)
                ),
                "their grants are left out; for them, create the roles at the target before the first start",
            );
        }
        Ok(())
    }

    /// Whether the stored position and the slot belong together (invariant 4).
    async fn history(&mut self, source: &mut Source, ends: &Ends) -> Result<()> {
        if self.is_subscription() {
            return Ok(());
        }
        let lineage = self.stored.as_ref().and_then(|stored| stored.lineage.clone());
        match (lineage, self.position()) {
            (Some(lineage), Some(position)) => {
                if self.kept(slot::check_name(&lineage, &self.pipeline.slot)).is_none() {
                    return Ok(());
                }
                let at = Position { lineage, offset: position };
                let reaches = spill::reaches(self.pipeline, &mut source.session, &at).await;
                let (Some(reaches), lineage) = (self.kept(reaches), at.lineage) else { return Ok(()) };
                let mut replication = ends.replication().await?;
                let checked =
                    slot::check_lineage(&mut replication, &mut source.session, &lineage, reaches).await;
                if self.kept(checked).is_some() {
                    self.report.ok(format!("slot \"{}\" holds what follows {position}", lineage.slot));
                }
            }
            // A first start that was cut off may leave its slot; whoever holds the pipeline's lock makes it anew.
            (None, _) if source.slot.is_some() && self.stored.as_ref().is_some_and(|stored| stored.slot_begun) => {
                self.report.warn(
                    format!("slot \"{}\" holds nothing that the target could go on from", self.pipeline.slot),
                    "the next start makes it anew; to give it up: pgdiode reset --drop-slot",
                );
            }
            (None, _) if source.slot.is_some() && self.purpose != Purpose::Setup => self.report.refuse(
                format!("slot \"{}\" exists at the source, and the target knows nothing of it", self.pipeline.slot),
                format!(
                    "if nobody uses it: pgdiode reset --drop-slot; otherwise name another slot with the key slot of \
                     [pipeline.{}]",
                    self.pipeline.name
                ),
            ),
            _ => {}
        }
        Ok(())
    }
}

/// The database's collation: provider, locale, version.
async fn collation(session: &mut Session) -> Result<String> {
    let columns = match session.server_major() {
        ..=14 => "'libc', datcollate, datctype, null",
        15..=16 => {
            "case datlocprovider when 'i' then 'icu' else 'libc' end, coalesce(daticulocale, datcollate), datctype, \
             datcollversion"
        }
        _ => {
            "case datlocprovider when 'i' then 'icu' when 'b' then 'builtin' else 'libc' end, \
             coalesce(datlocale, datcollate), datctype, datcollversion"
        }
    };
    let sql =
        format!("select {columns} from pg_catalog.pg_database where datname = pg_catalog.current_database()");
    let row = session.one(&sql).await?;
    let version = row.text(3).map_or_else(String::new, |version| format!(" version {version}"));
    Ok(format!("{} {} ({}){version}", row.string(0), row.string(1), row.string(2)))
}

/// Where an extension comes from, in Debian's and the PostgreSQL project's package names.
fn package(extension: &str, major: u32) -> String {
    /// Shipped with the server's own source.
    const CONTRIB: &[&str] = &[
        "amcheck",
        "bloom",
        "btree_gin",
        "btree_gist",
        "citext",
        "cube",
        "dblink",
        "dict_int",
        "earthdistance",
        "fuzzystrmatch",
        "hstore",
        "intarray",
        "isn",
        "lo",
        "ltree",
        "pageinspect",
        "pg_buffercache",
        "pg_prewarm",
        "pg_stat_statements",
        "pg_trgm",
        "pgcrypto",
        "pgrowlocks",
        "pgstattuple",
        "postgres_fdw",
        "seg",
        "sslinfo",
        "tablefunc",
        "tsm_system_rows",
        "unaccent",
        "uuid-ossp",
        "xml2",
    ];
    let name = match extension {
        name if CONTRIB.contains(&name) => {
            return format!(
                "the contrib modules (Debian: postgresql-{major}, Red Hat: postgresql{major}-contrib)"
            );
        }
        "vector" => "pgvector",
        name if name.starts_with("postgis") => "postgis-3",
        "pg_cron" => "cron",
        "pg_partman" => "partman",
        "pg_repack" => "repack",
        other => return format!("the package of extension {other} for PostgreSQL {major}"),
    };
    format!("postgresql-{major}-{name}")
}
