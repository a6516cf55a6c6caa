//! What a shadow must pass before it serves: it holds what the source holds, it has not lost what the serving copy has,
//! and the operator's own queries are content. One failure, and nothing is swapped.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::change::TableName;
use crate::config::SnapshotVerify;
use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::pipeline::shadow_schemas::NAMING_TYPES;
use crate::snapshot::counts::{self, Rows};
use crate::snapshot::place::{Place, not_promoted};
use crate::snapshot::shadow::Exported;
use crate::source::postgres::catalog::{SourceColumn, SourceTable};
use crate::status::Progress;
use crate::verify::{self, TableToVerify};

/// Rows, and the digest where one was taken, by table.
pub(super) type Contents = BTreeMap<String, Content>;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Content {
    pub(super) rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
}

/// Compares source and shadow at the exported moment. `sent` has the rows of tables that the source counted as it sent
/// them.
pub(super) async fn compare(
    place: &Place<'_>,
    ends: &Ends,
    exported: &mut Exported,
    sent: &Rows,
) -> Result<Contents> {
    if place.pipeline.snapshot.verify == SnapshotVerify::Full {
        return compare_digests(place, ends, exported).await;
    }
    let Exported { session, tables, .. } = exported;
    let (source, copied) =
        tokio::try_join!(counts::at_source(session, tables, sent), counts::at_target(ends, tables))?;
    let mut contents = Contents::new();
    for table in exported.tables.iter().map(|table| &table.table) {
        let missing = || Error::unexpected(format!("table {table} was not counted"));
        let [source, copied] = [&source, &copied].map(|rows| rows.get(table).copied().ok_or_else(missing));
        let (source, copied) = (source?, copied?);
        if source != copied {
            return Err(differs(table, &format!("{source} rows at the source, {copied} in its copy")));
        }
        contents.insert(table.to_string(), Content { rows: copied, digest: None });
    }
    Ok(contents)
}

async fn compare_digests(place: &Place<'_>, ends: &Ends, exported: &Exported) -> Result<Contents> {
    let mut shadow = ends.target().await?;
    shadow.query("begin isolation level repeatable read read only").await?;
    let snapshot = shadow.one("select pg_catalog.pg_export_snapshot()").await?.string(0);
    let tables: Vec<TableToVerify> = exported.tables.iter().map(|table| to_verify(table, ends)).collect();
    let jobs = place.pipeline.copy.jobs();
    let unwatched = watch::channel(Progress::default()).0;
    let report =
        verify::compare(ends, &exported.snapshot, &snapshot, exported.at, &tables, jobs, &unwatched).await?;
    let mut contents = Contents::new();
    for table in report.tables {
        if !table.identical {
            let rows =
                || format!("{} rows at the source, {} in its copy", table.rows_source, table.rows_target);
            return Err(differs(&table.name, &table.note.clone().unwrap_or_else(rows)));
        }
        let content = Content { rows: table.rows_target, digest: Some(table.digest_target) };
        contents.insert(table.name.to_string(), content);
    }
    Ok(contents)
}

/// A redacted table must hold what the source computes in place of its values. Names are written differently where
/// schemas have other names: such columns are left out of the digest there.
fn to_verify(table: &SourceTable, ends: &Ends) -> TableToVerify {
    let masked = |column: &SourceColumn| Some((column.name.clone(), column.mask.clone()?));
    let mut verified = TableToVerify {
        filter: table.is_emptied.then(|| "false".to_owned()),
        masks: table.columns.iter().filter_map(masked).collect(),
        ..TableToVerify::new(table.table.clone())
    };
    let is_name = |type_sql: &str| NAMING_TYPES.contains(&type_sql.trim_end_matches("[]"));
    if ends.schemas.is_some() && table.columns.iter().any(|column| is_name(&column.type_sql)) {
        let others = table.columns.iter().filter(|column| !is_name(&column.type_sql));
        verified.columns = Some(others.map(|column| column.name.clone()).collect());
    }
    verified
}

/// What comes empty by order has lost nothing.
pub(super) fn forget_emptied(before: &mut Contents, tables: &[SourceTable]) {
    for table in tables.iter().filter(|table| table.is_emptied) {
        before.remove(&table.table.to_string());
    }
}

fn differs(table: &TableName, how: &str) -> Error {
    not_promoted(format!("table {table} is not what it is at the source: {how}")).hint(
        "If it was truncated or rewritten meanwhile, sync again; otherwise report this, it should never be.",
    )
}

/// Whether a table has lost more rows than it may, against the copy that serves.
pub(super) fn refuse_losses(now: &Contents, before: &Contents, percent_max: u64) -> Result<()> {
    for (table, Content { rows: before, .. }) in before {
        let now = now.get(table).map_or(0, |content| content.rows);
        let lost = before.saturating_sub(now);
        if u128::from(lost) * 100 > u128::from(*before) * u128::from(percent_max) {
            return Err(not_promoted(format!(
                "table {table} has {now} rows, the copy that serves has {before}: more than {percent_max} % are gone"
            ))
            .hint(
                "If the source is right, sync once with --accept-losses, or raise snapshot.rows_drop_percent_max.",
            ));
        }
    }
    Ok(())
}

/// Runs the operator's queries.
pub(super) async fn check(place: &Place<'_>, ends: &Ends, shadow: &mut Session) -> Result<()> {
    shadow.query("set search_path = \"$user\", public").await?;
    for check in &place.pipeline.snapshot.checks {
        let asked = check.trim().trim_end_matches(';');
        shadow.query(&format!("{}; set transaction read only", ends.begin_named())).await?;
        let answer = shadow.one(&format!("select (\n{asked}\n)::pg_catalog.bool")).await;
        shadow.query("rollback").await?;
        let failed = |how: &str| {
            not_promoted(format!("a check is not content: {check}: {how}"))
                .hint("Look at what the check asks at the source; a wrong one is mended in snapshot.checks.")
        };
        match answer {
            Ok(row) if row.bool(0) => {}
            Ok(row) if row.text(0).is_none() => return Err(failed("it answered nothing")),
            Ok(_) => return Err(failed("it answered false")),
            Err(error) if error.retries() => return Err(error),
            Err(error) => return Err(failed("it failed").because(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(rows: &[(&str, u64)]) -> Contents {
        rows.iter().map(|(name, rows)| ((*name).to_owned(), Content { rows: *rows, digest: None })).collect()
    }

    #[test]
    fn a_loss_beyond_the_limit_is_refused() {
        let before = contents(&[("public.a", 100), ("public.b", 0)]);
        for (now, percent, refused) in [
            (contents(&[("public.a", 50)]), 50, false),
            (contents(&[("public.a", 49)]), 50, true),
            (contents(&[]), 99, true),
            (contents(&[]), 100, false),
            (contents(&[("public.a", 99)]), 0, true),
            (contents(&[("public.a", 101), ("public.c", 1)]), 0, false),
        ] {
            assert_eq!(refuse_losses(&now, &before, percent).is_err(), refused, "{now:?} {percent}");
        }
    }
}
