//! In what the schemas of both sides differ, with the remedy, and what is quarantined because of it.

use crate::status::drift::{SchemaDifference, SchemaDrift};
use crate::status::fleet::Overview;

use super::action;
use super::list::{Pager, Query};
use super::tables::{Quarantined, quarantined_of};
use super::words::{Chip, Clock, Markup, Tone, pipeline_path};

pub(super) struct SchemaView {
    pub chip: Chip,
    pub says: String,
    pub at: Option<Markup>,
    pub ago: Option<String>,
    pub rows: Vec<SchemaRow>,
    pub pager: Pager,
    pub has_any: bool,
    pub left_out: u64,
    pub quarantined: Vec<Quarantined>,
    /// There are two sides of tables.
    pub can_compare: bool,
    pub path: String,
}

pub(super) struct SchemaRow {
    pub table: String,
    pub chip: Chip,
    pub object: Option<String>,
    pub source: Option<String>,
    pub target: Option<String>,
    pub remedy: String,
    pub sql: Option<String>,
}

pub(super) fn schema(pipeline: &Overview, query: &Query, clock: Clock) -> SchemaView {
    let drift = pipeline.schema_drift.as_ref();
    let found: Vec<&SchemaDifference> = drift.map_or_else(Vec::new, |drift| {
        drift.differences.iter().filter(|one| query.matches(&one.table)).collect()
    });
    let path = format!("{}/schema", pipeline_path(&pipeline.name));
    let (found, pager) = query.page(found, &path);
    let can_compare = can_compare(pipeline);
    let (chip, says) = match drift {
        Some(drift) => (verdict_chip(drift), drift.verdict()),
        None if can_compare => (
            Chip::new(Tone::Idle, "not compared"),
            "Both schemas are compared once everything has been copied, and every ten minutes from then on."
                .to_owned(),
        ),
        None => (
            Chip::new(Tone::Idle, "nothing to compare"),
            "There are no two databases here whose schemas could differ.".to_owned(),
        ),
    };
    SchemaView {
        chip,
        says,
        at: drift.map(|drift| clock.moment(&drift.at)),
        ago: drift.map(|drift| clock.relative(&drift.at)),
        rows: found.into_iter().map(row).collect(),
        pager,
        has_any: drift.is_some_and(|drift| !drift.differences.is_empty()),
        left_out: drift.map_or(0, |drift| drift.left_out),
        quarantined: quarantined_of(pipeline),
        can_compare,
        path,
    }
}

fn can_compare(pipeline: &Overview) -> bool {
    let is_archive = pipeline.stream().is_some_and(|status| status.archive.is_some());
    pipeline.schema_drift.is_some() || !(is_archive || action::has_keys(pipeline))
}

/// The worst of it.
pub(super) fn verdict_chip(drift: &SchemaDrift) -> Chip {
    match drift.differences.len() as u64 + drift.left_out {
        0 => Chip::new(Tone::Good, "alike"),
        _ if drift.differences.iter().any(|one| one.kind.stops_rows()) => Chip::new(Tone::Bad, "differ"),
        _ => Chip::new(Tone::Warn, "differ"),
    }
}

fn row(one: &SchemaDifference) -> SchemaRow {
    let tone = if one.kind.stops_rows() { Tone::Bad } else { Tone::Warn };
    SchemaRow {
        table: one.table.clone(),
        chip: Chip::new(tone, one.kind.words()),
        object: one.object.clone(),
        source: one.source.clone(),
        target: one.target.clone(),
        remedy: one.remedy.clone(),
        sql: one.sql.clone(),
    }
}
