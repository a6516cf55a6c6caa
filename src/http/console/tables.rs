//! The tables of a pipeline: what was carried, what is quarantined and how it comes back.

use crate::config::written;
use crate::status::fleet::{Overview, State};
use crate::status::{PipelineStatus, TableState, TableStatus, text};

use super::action::{self, Action};
use super::chart::gauge;
use super::list::{Pager, Query};
use super::words::{Chip, Clock, Markup, Tone, dom_id, pipeline_path, sameness_chip};

pub(super) struct Tables {
    pub rows: Vec<TableRow>,
    pub pager: Pager,
    pub quarantined: Vec<Quarantined>,
    /// Each can be chosen to be copied again.
    pub can_resync: bool,
}

pub(super) struct TableRow {
    pub id: String,
    pub name: String,
    pub chip: Chip,
    pub copied_rows: String,
    pub copied: String,
    pub progress: Option<Markup>,
    pub inserts: String,
    pub updates: String,
    pub deletes: String,
    pub conflicts: u64,
    pub skipped: u64,
    pub verified: Option<(Chip, Markup)>,
}

pub(super) struct Quarantined {
    pub name: String,
    pub reason: Option<String>,
    pub remedy: Option<String>,
    pub action: Action,
}

pub(super) fn quarantined(status: &PipelineStatus) -> impl Iterator<Item = &TableStatus> {
    status.tables.iter().filter(|table| table.state == TableState::Quarantined)
}

pub(super) fn quarantined_of(pipeline: &Overview) -> Vec<Quarantined> {
    let Some(State::Stream(status)) = &pipeline.state else { return Vec::new() };
    quarantined(status)
        .map(|table| {
            let name = written(&table.name);
            Quarantined {
                action: action::resync_table(pipeline, &name),
                name,
                reason: table.reason.clone(),
                remedy: table.remedy.clone(),
            }
        })
        .collect()
}

/// Quarantined ones first, then by name.
pub(super) fn tables(pipeline: &Overview, query: &Query, clock: Clock) -> Tables {
    let mut found: Vec<(String, &TableStatus)> = match &pipeline.state {
        Some(State::Stream(status)) => {
            status.tables.iter().map(|table| (written(&table.name), table)).collect()
        }
        _ => Vec::new(),
    };
    found.retain(|(name, _)| query.matches(name));
    found.sort_by(|a, b| {
        let fine = |table: &TableStatus| table.state != TableState::Quarantined;
        fine(a.1).cmp(&fine(b.1)).then_with(|| a.0.cmp(&b.0))
    });
    let path = format!("{}/tables", pipeline_path(&pipeline.name));
    let (found, pager) = query.page(found, &path);
    let rows = found.into_iter().map(|(name, table)| row(pipeline, name, table, clock)).collect();
    let can_resync = !action::is_snapshot(pipeline) && !action::has_keys(pipeline);
    Tables { rows, pager, quarantined: quarantined_of(pipeline), can_resync }
}

fn row(pipeline: &Overview, name: String, table: &TableStatus, clock: Clock) -> TableRow {
    let verified = pipeline.verification.as_ref().and_then(|verification| {
        let one = verification.of_tables.iter().find(|one| one.name == name)?;
        Some((sameness_chip(one.identical), clock.moment(&one.at)))
    });
    #[allow(clippy::cast_precision_loss)] // a share of it is drawn
    let progress = match table.bytes_total {
        Some(total) if table.state == TableState::Copying && total > 0 => {
            Some(gauge(&format!("{name} copied"), table.bytes_copied as f64, total as f64, Tone::Work, &[]))
        }
        _ => None,
    };
    TableRow {
        id: dom_id("table", &name),
        chip: table.state.into(),
        copied_rows: text::count(table.rows_copied),
        copied: match table.bytes_total.filter(|_| table.state == TableState::Copying) {
            Some(total) => format!("{} of {}", text::bytes(table.bytes_copied), text::bytes(total)),
            None => text::bytes(table.bytes_copied),
        },
        progress,
        inserts: text::count(table.inserts),
        updates: text::count(table.updates),
        deletes: text::count(table.deletes),
        conflicts: table.conflicts,
        skipped: table.skipped,
        verified,
        name,
    }
}
