//! One query, asked of the source, of its copy and of what serves: that a copy has the schema version of its source, for
//! whatever the application calls that.

use crate::error::{Error, Result};
use crate::pg::session::Session;
use crate::pipeline::ends::Ends;
use crate::snapshot::place::{Place, not_promoted};

/// More than this is no version.
const ROWS_MAX: usize = 1000;

/// What the query answered, as the source and its copy both say; `None` without a query. `exported` shows the moment that
/// was copied.
pub(super) async fn refuse_another_version(
    place: &Place<'_>,
    ends: &Ends,
    exported: &mut Session,
    shadow: &mut Session,
) -> Result<Option<Vec<String>>> {
    let Some(query) = &place.pipeline.snapshot.schema_version else { return Ok(None) };
    let at_source = ask(exported, query).await.map_err(|error| failed(error, "the source"))?;
    shadow.query(&format!("{}; set transaction read only", ends.begin_named())).await?;
    let in_copy = ask(shadow, query).await.map_err(|error| failed(error, "the fresh copy"))?;
    shadow.query("rollback").await?;
    if at_source != in_copy {
        return Err(not_promoted(format!(
            "snapshot.schema_version: the source answers {}, its fresh copy {}",
            shown(&at_source),
            shown(&in_copy)
        ))
        .hint(format!("Is what it asks for carried? See `tables`. It asks: {}", query.trim())));
    }
    if let Some(before) = of_serving(place, query).await.filter(|before| *before != at_source) {
        let (before, now) = (shown(&before), shown(&at_source));
        tracing::info!(before, now, "the schema's version has changed since the copy that serves");
    }
    Ok(Some(at_source))
}

/// What serves may have no such table: then there is nothing to tell.
async fn of_serving(place: &Place<'_>, query: &str) -> Option<Vec<String>> {
    let mut session = place.session_if_there(&place.database).await.ok()??;
    session.query("begin read only").await.ok()?;
    ask(&mut session, query).await.ok()
}

/// Inside the open transaction. Rows in an order of our own: the query need not have one.
async fn ask(session: &mut Session, query: &str) -> Result<Vec<String>> {
    session.query("set local search_path = \"$user\", public").await?;
    let query = query.trim().trim_end_matches(';');
    let sql = format!("select answer::pg_catalog.text from (\n{query}\n) as answer limit {}", ROWS_MAX + 1);
    let rows = session.query(&sql).await?;
    session.query("set local search_path = ''").await?;
    if rows.len() > ROWS_MAX {
        return Err(Error::unexpected(format!("it has more than {ROWS_MAX} rows")));
    }
    let mut rows: Vec<String> = rows.iter().map(|row| row.string(0)).collect();
    rows.sort();
    Ok(rows)
}

fn failed(error: Error, whom: &str) -> Error {
    if error.retries() {
        return error;
    }
    not_promoted(format!("snapshot.schema_version could not be asked of {whom}"))
        .because(error)
        .hint("It is one query, whose rows are compared; a wrong one is mended in the configuration.")
}

fn shown(rows: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = rows.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" ");
    if rows.len() > SHOWN {
        text.push_str(&format!(" and {} more", rows.len() - SHOWN));
    }
    if rows.is_empty() { "nothing".into() } else { text }
}
