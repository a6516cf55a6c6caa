//! Production's side of an archive: the publication, the role that the writer runs as, and the replication slot. Looked
//! at first, so that only what is missing is planned.
//!
//! The role may read the tables that are carried and stream, and nothing else. Whoever makes it is somebody else: an
//! administrator's connection, for this alone.

use std::collections::BTreeSet;

use crate::change::TableName;
use crate::config::{Endpoint, Pipeline, Plugin};
use crate::error::{Error, Result};
use crate::pg::conninfo::{ConnInfo, Environment};
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::archiving;
use crate::pipeline::ends::Origin;
use crate::pipeline::selection::Selection;
use crate::pipeline::setup::publication;
use crate::pipeline::step::{Step, run_at_source, tables_sql};
use crate::preflight::{self, Purpose};
use crate::secret::Secret;
use crate::source::postgres::{catalog, slot};

/// What is asked for beside the publication.
#[derive(Debug, Clone, Default)]
pub struct Production {
    pub slot: SlotWork,
    pub creates_user: bool,
    /// Who sets up, where that is not the writer itself.
    pub admin: Option<Endpoint>,
}

/// What becomes of the slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SlotWork {
    /// The first start makes it.
    #[default]
    Left,
    Create,
    /// It is there already: the archive goes on from where it stands.
    Adopt,
}

impl Production {
    /// Between two servers the first start makes the slot, and knows it by what it stored before.
    pub(super) fn refuse(&self, pipeline: &Pipeline) -> Result<()> {
        if self.slot == SlotWork::Left && !self.creates_user && self.admin.is_none() {
            return Ok(());
        }
        Err(Error::config(format!("pipeline \"{}\" does not fill an archive", pipeline.name)).hint(
            "--create-slot, --adopt-slot, --create-user and --admin are for a pipeline into an archive; elsewhere the \
             first start makes the slot.",
        ))
    }

    /// The pipeline as whoever sets it up sees it.
    fn seen_by_admin(&self, pipeline: &Pipeline) -> Pipeline {
        let mut seen = pipeline.clone();
        if let Some(admin) = &self.admin {
            seen.source = admin.clone();
        }
        seen
    }
}

/// What would be run.
pub(super) async fn plan(pipeline: &Pipeline, production: &Production) -> Result<Vec<String>> {
    Work::find(pipeline, production).await.map(|work| work.texts())
}

/// What was run.
pub(super) async fn setup(pipeline: &Pipeline, production: &Production) -> Result<Vec<String>> {
    let seen = production.seen_by_admin(pipeline);
    preflight::refuse_unsafe_origin(&seen, Purpose::Setup, false).await?;
    let work = Work::find(pipeline, production).await?;
    let mut source = work.origin.session_for_setup().await?;
    if work.claims && production.slot == SlotWork::Adopt {
        refuse_older_than_publication(&mut source, pipeline).await?;
    }
    // Before the slot: what a crash leaves behind is then known as ours.
    if work.claims {
        archiving::claim_slot(pipeline).await?;
    }
    run_at_source(&work.steps, &mut source).await?;
    Ok(work.texts())
}

/// What is missing.
struct Work {
    origin: Origin,
    steps: Vec<Step>,
    /// Whether the archive is to know the slot as its own.
    claims: bool,
    slot: String,
}

impl Work {
    async fn find(pipeline: &Pipeline, production: &Production) -> Result<Work> {
        let origin = Origin::resolve(&production.seen_by_admin(pipeline))?;
        let writer = Origin::resolve(pipeline)?;
        if origin.0.dbname != writer.0.dbname {
            return Err(Error::config(format!(
                "the administrator's connection is to database \"{}\", the source is \"{}\"",
                origin.0.dbname, writer.0.dbname
            ))
            .hint("give --admin the dbname of the source: publications and slots belong to a database"));
        }
        let mut source = origin.session().await?;
        let selection = Selection::read(&mut source, &pipeline.tables).await?;
        let mut steps = Vec::new();
        if production.creates_user {
            let password = password(pipeline)?;
            steps.extend(role(&mut source, &origin, &writer, password, &selection).await?);
        }
        if pipeline.plugin == Plugin::Pgoutput {
            steps.extend(publication(&mut source, pipeline, &selection).await?);
        }
        let claims = claims(&mut source, pipeline, production.slot).await?;
        if claims && production.slot == SlotWork::Create {
            steps.push(Step::source(format!(
                "select pg_catalog.pg_create_logical_replication_slot({}, '{}')",
                quote::literal(&pipeline.slot),
                pipeline.plugin.as_str()
            )));
        }
        Ok(Work { origin, steps, claims, slot: pipeline.slot.clone() })
    }

    fn texts(&self) -> Vec<String> {
        let mut texts: Vec<String> =
            self.steps.iter().map(|step| step.text_at(&self.origin.0.display())).collect();
        if self.claims {
            texts.push(format!("-- in the archive: a claim, by which the slot \"{}\" is its own", self.slot));
        }
        texts
    }
}

/// Whether the archive is to claim the slot: not if it knows it.
async fn claims(source: &mut Session, pipeline: &Pipeline, work: SlotWork) -> Result<bool> {
    if work == SlotWork::Left {
        return Ok(false);
    }
    let there = slot::read(source, &pipeline.slot).await?;
    let (name, is_known) = (&pipeline.slot, archiving::knows_slot(pipeline).await?);
    match (there, work) {
        (Some(_), _) if is_known => Ok(false),
        (Some(there), SlotWork::Create) => Err(Error::refused(format!(
            "the source has a replication slot \"{name}\" already, at {}, which the archive knows nothing of",
            there.confirmed
        ))
        .hint("If the archive is to go on from there: pgdiode setup --adopt-slot. Otherwise choose another `slot`.")),
        (None, SlotWork::Adopt) => Err(Error::refused(format!("the source has no replication slot \"{name}\""))
            .hint("Correct the key `slot`; or have it made: pgdiode setup --create-slot.")),
        (Some(_) | None, _) => Ok(true),
    }
}

/// What was written before the publication was made cannot be decoded.
async fn refuse_older_than_publication(source: &mut Session, pipeline: &Pipeline) -> Result<()> {
    let is_needed = pipeline.plugin == Plugin::Pgoutput;
    if !is_needed || catalog::published(source, &pipeline.publication).await?.is_some() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the slot \"{}\" is there and the publication \"{}\" is not",
        pipeline.slot, pipeline.publication
    ))
    .hint(
        "The source cannot decode what was written before the publication was made. Name the publication that the slot is \
         for, or choose another `slot`: pgdiode setup --create-slot.",
    ))
}

/// The role that the writer connects as, with what it needs and lacks.
async fn role(
    source: &mut Session,
    admin: &Origin,
    writer: &Origin,
    password: Option<Secret>,
    selection: &Selection,
) -> Result<Vec<Step>> {
    if admin.0.user == writer.0.user {
        return Err(Error::config(format!("\"{}\" cannot make itself", writer.0.user))
            .hint("give --admin the connection of a superuser, and `source` the user that is to be made"));
    }
    let (user, literal) = (quote::identifier(&writer.0.user), quote::literal(&writer.0.user));
    let sql = format!(
        "select rolcanlogin, rolreplication or rolsuper, rolbypassrls or rolsuper, rolsuper
           from pg_catalog.pg_roles where rolname = {literal}"
    );
    let known = source.query(&sql).await?;
    let wanted = wanted(selection);
    let is_secured = is_secured(source, &wanted).await?;
    let mut steps = Vec::new();
    match known.first() {
        None => steps.push(creation(&user, password, is_secured)),
        Some(row) => {
            if row.bool(3) {
                tracing::warn!(
                    user = writer.0.user,
                    "the writer's user is a superuser: it may do more than it needs"
                );
            }
            let lacking = [
                (row.bool(0), "login"),
                (row.bool(1), "replication"),
                (row.bool(2) || !is_secured, "bypassrls"),
            ];
            let lacking: Vec<&str> =
                lacking.into_iter().filter(|(has, _)| !has).map(|(_, attribute)| attribute).collect();
            if !lacking.is_empty() {
                steps.push(Step::source(format!("alter role {user} {}", lacking.join(" "))));
            }
        }
    }
    let is_new = known.is_empty();
    let mut lacks = async |test: String| -> Result<bool> {
        Ok(is_new || !source.one(&format!("select {test}")).await?.bool(0))
    };
    let database = quote::identifier(&writer.0.dbname);
    if lacks(format!(
        "pg_catalog.has_database_privilege({literal}, {}, 'connect')",
        quote::literal(&writer.0.dbname)
    ))
    .await?
    {
        steps.push(Step::source(format!("grant connect on database {database} to {user}")));
    }
    let schemas: BTreeSet<&str> = wanted.iter().map(|table| table.schema.as_str()).collect();
    for schema in schemas {
        if lacks(format!("pg_catalog.has_schema_privilege({literal}, {}, 'usage')", quote::literal(schema)))
            .await?
        {
            steps
                .push(Step::source(format!("grant usage on schema {} to {user}", quote::identifier(schema))));
        }
    }
    let mut unreadable = Vec::new();
    for table in wanted {
        let oid = selection.all.get(&table).map_or(0, |known| known.oid);
        if lacks(format!("pg_catalog.has_table_privilege({literal}, {oid}::oid, 'select')")).await? {
            unreadable.push(table);
        }
    }
    if !unreadable.is_empty() {
        steps.push(Step::source(format!("grant select on {} to {user}", tables_sql(&unreadable))));
    }
    Ok(steps)
}

/// Tables and partitions whose rows are carried, and the roots that they are read through.
fn wanted(selection: &Selection) -> Vec<TableName> {
    let tables: BTreeSet<&TableName> = selection.carried.iter().chain(&selection.named).collect();
    tables.into_iter().cloned().collect()
}

async fn is_secured(source: &mut Session, tables: &[TableName]) -> Result<bool> {
    let rows = source
        .query(
            "select n.nspname, c.relname
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where c.relrowsecurity",
        )
        .await?;
    Ok(rows.iter().any(|row| tables.contains(&TableName::new(row.string(0), row.string(1)))))
}

/// The password that the configuration gives the writer: that of the environment may be the administrator's.
fn password(pipeline: &Pipeline) -> Result<Option<Secret>> {
    let written = pipeline.source.conninfo()?;
    if let Some(password) = written.parameters.get("password") {
        return Ok(Some(password.clone()));
    }
    let nothing = Environment::new([("", ""); 0], None, Some(String::new()));
    let parameters: Vec<(String, String)> = Vec::new();
    let text = written.text.as_ref().map_or("", |text| text.reveal());
    Ok(ConnInfo::parse_with(text, parameters, &nothing)?.password)
}

/// A password goes over as what PostgreSQL would store of it: neither a log nor a printed statement has it.
fn creation(user: &str, password: Option<Secret>, is_secured: bool) -> Step {
    let attributes = if is_secured { "login replication bypassrls" } else { "login replication" };
    let sql = format!("create role {user} {attributes}");
    match password {
        None => Step::source(sql),
        Some(password) => {
            let stored = postgres_protocol::password::scram_sha_256(password.reveal().as_bytes());
            Step {
                shown: Some(format!("{sql} /* with the password that the configuration holds */")),
                ..Step::source(format!("{sql} password {}", quote::literal(&stored)))
            }
        }
    }
}
