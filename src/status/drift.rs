//! In what the tables of both sides differ, as their catalogs say it: what a replica that follows rows does not tell by
//! itself, because a missing index loses no row.

use serde::Serialize;

use super::text::{count, several};

/// Both schemas compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaDrift {
    /// When both sides were looked at, RFC 3339.
    pub at: String,
    /// Tables that were compared: those that the pipeline carries.
    pub tables: u64,
    pub tables_different: u64,
    /// By table; the worst of each first. Of very many, the first.
    pub differences: Vec<SchemaDifference>,
    /// Differences that are not listed.
    pub left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaDifference {
    /// As the configuration has it: `schema.table`.
    pub table: String,
    pub kind: SchemaDifferenceKind,
    /// The column, index or constraint; `None` where the table itself is meant.
    pub object: Option<String>,
    /// What the source has, as its catalog writes it.
    pub source: Option<String>,
    pub target: Option<String>,
    /// What to do.
    pub remedy: String,
    /// The statement that does it, where one does.
    pub sql: Option<String>,
}

/// From what stops rows to what only somebody who looks would miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaDifferenceKind {
    TableMissing,
    ColumnMissing,
    ColumnDiffers,
    /// UPDATE and DELETE fail at the source once the table is published.
    ReplicaIdentity,
    ConstraintMissing,
    IndexMissing,
    /// The target has a column that the source lacks.
    ColumnAdded,
}

impl SchemaDifferenceKind {
    pub const ALL: [SchemaDifferenceKind; 7] = [
        SchemaDifferenceKind::TableMissing,
        SchemaDifferenceKind::ColumnMissing,
        SchemaDifferenceKind::ColumnDiffers,
        SchemaDifferenceKind::ReplicaIdentity,
        SchemaDifferenceKind::ConstraintMissing,
        SchemaDifferenceKind::IndexMissing,
        SchemaDifferenceKind::ColumnAdded,
    ];

    /// The label of a metric, and the JSON.
    pub fn word(self) -> &'static str {
        match self {
            SchemaDifferenceKind::TableMissing => "table_missing",
            SchemaDifferenceKind::ColumnMissing => "column_missing",
            SchemaDifferenceKind::ColumnDiffers => "column_differs",
            SchemaDifferenceKind::ReplicaIdentity => "replica_identity",
            SchemaDifferenceKind::ConstraintMissing => "constraint_missing",
            SchemaDifferenceKind::IndexMissing => "index_missing",
            SchemaDifferenceKind::ColumnAdded => "column_added",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            SchemaDifferenceKind::TableMissing => "table missing",
            SchemaDifferenceKind::ColumnMissing => "column missing",
            SchemaDifferenceKind::ColumnDiffers => "column differs",
            SchemaDifferenceKind::ReplicaIdentity => "no replica identity",
            SchemaDifferenceKind::ConstraintMissing => "constraint missing",
            SchemaDifferenceKind::IndexMissing => "index missing",
            SchemaDifferenceKind::ColumnAdded => "column added",
        }
    }

    /// Whether rows may be refused because of it, at either side.
    pub fn stops_rows(self) -> bool {
        self <= SchemaDifferenceKind::ReplicaIdentity
    }
}

impl SchemaDrift {
    pub fn count(&self, kind: SchemaDifferenceKind) -> u64 {
        self.differences.iter().filter(|one| one.kind == kind).count() as u64
    }

    /// In a sentence.
    pub fn verdict(&self) -> String {
        let tables = several(self.tables, "table");
        match self.differences.len() as u64 + self.left_out {
            0 => format!("Both schemas agree: {tables} compared."),
            number => {
                format!("{} in {} of {tables}.", several(number, "difference"), count(self.tables_different))
            }
        }
    }
}

impl SchemaDifference {
    /// What to do, in one line.
    pub fn hint(&self) -> String {
        match &self.sql {
            Some(sql) => format!("{}: {sql}", self.remedy),
            None => self.remedy.clone(),
        }
    }

    /// `public.orders: index missing, orders_placed_at_idx`.
    pub fn what(&self) -> String {
        let mut what = format!("{}: {}", self.table, self.kind.words());
        if let Some(object) = &self.object {
            what.push_str(&format!(", {object}"));
        }
        if let (Some(source), Some(target)) = (&self.source, &self.target) {
            what.push_str(&format!(" ({source} at the source, {target} at the target)"));
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_what_is_not_listed_too() {
        let one = SchemaDifference {
            table: "public.a".into(),
            kind: SchemaDifferenceKind::ColumnDiffers,
            object: Some("b".into()),
            source: Some("bigint".into()),
            target: Some("integer".into()),
            remedy: "at the target".into(),
            sql: Some("mend it;".into()),
        };
        let mut drift = SchemaDrift {
            at: "2026-11-22T05:12:26Z".into(),
            tables: 3,
            tables_different: 1,
            differences: vec![one],
            left_out: 6,
        };
        assert_eq!(drift.verdict(), "7 differences in 1 of 3 tables.");
        assert_eq!(
            drift.differences[0].what(),
            "public.a: column differs, b (bigint at the source, integer at the target)"
        );
        assert_eq!(drift.differences[0].hint(), "at the target: mend it;");
        (drift.differences, drift.left_out) = (Vec::new(), 0);
        assert_eq!(drift.verdict(), "Both schemas agree: 3 tables compared.");
    }

    #[test]
    fn every_kind_has_the_word_that_json_has() {
        for kind in SchemaDifferenceKind::ALL {
            assert_eq!(serde_json::json!(kind), kind.word());
        }
    }
}
