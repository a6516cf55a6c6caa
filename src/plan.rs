//! Which tables a pipeline carries, and from which commit on.
//!
//! The whole state machine is one number per table: `copied_at`, the consistent point of the snapshot that its copy
//! was read under. A change whose commit record begins before it is in the copy already; any other is applied. A table
//! that joins late, a copy that crashed halfway and a table that is copied again are all this one rule.

use std::collections::HashMap;

use crate::change::{ByNumber, Relation, TableName};
use crate::position::Lsn;

/// What is known of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// In step since its copy. `relation` is the source's OID at that time: a table that was dropped and created again
    /// has another, and its copy is of something else.
    Copied { at: Lsn, relation: Option<u32> },
    /// Not followed until it is copied again.
    Quarantined,
}

/// What happens to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Apply,
    /// It is in the table's copy already.
    InCopy,
    /// The table is not known, or not in this shape: once it is copied, that copy will hold the change, because its
    /// snapshot is younger than the change.
    AwaitsCopy,
    /// Counted and passed over: copying the table again brings it back.
    PassOver,
    /// Published, but not this pipeline's to carry.
    NotCarried,
}

/// Whether a table that has no rule is to join.
pub type Joins = Box<dyn Fn(&TableName) -> bool + Send + Sync>;

pub struct Plan {
    rules: HashMap<TableName, Rule>,
    joins: Joins,
    /// Whether a table that joins is copied first.
    needs_copy: bool,
    /// `rules` by the source's OID and the name that it had then, filled as relations are met. A table that is renamed
    /// keeps its OID and falls under another rule.
    met: ByNumber<u32, (TableName, Met)>,
}

#[derive(Clone, Copy)]
enum Met {
    Rule(Rule),
    Joins,
    NotCarried,
}

impl Plan {
    pub fn new(rules: impl IntoIterator<Item = (TableName, Rule)>, joins: Joins) -> Plan {
        Plan { rules: rules.into_iter().collect(), joins, needs_copy: true, met: ByNumber::default() }
    }

    /// For a target that takes every change of these tables as it is and needs no copy.
    pub fn of_all(carries: Joins) -> Plan {
        Plan { needs_copy: false, ..Plan::new([], carries) }
    }

    /// For tables that join as they are at the target, with nowhere to copy them from.
    pub fn without_copies(rules: impl IntoIterator<Item = (TableName, Rule)>, joins: Joins) -> Plan {
        Plan { needs_copy: false, ..Plan::new(rules, joins) }
    }

    /// What to do with a change of `relation` in a transaction whose commit record begins at `commit_lsn`.
    pub fn admit(&mut self, relation: &Relation, commit_lsn: Lsn) -> Admission {
        let met = match self.met.get(&relation.id) {
            Some((name, met)) if name.name == relation.name && name.schema == relation.schema => *met,
            _ => self.meet(relation),
        };
        match met {
            Met::Rule(Rule::Quarantined) => Admission::PassOver,
            Met::Rule(Rule::Copied { at, .. }) if commit_lsn < at => Admission::InCopy,
            Met::Rule(Rule::Copied { relation: copied, .. }) if copied.is_none_or(|id| id == relation.id) => {
                Admission::Apply
            }
            Met::Joins if !self.needs_copy => Admission::Apply,
            Met::Rule(Rule::Copied { .. }) | Met::Joins => Admission::AwaitsCopy,
            Met::NotCarried => Admission::NotCarried,
        }
    }

    fn meet(&mut self, relation: &Relation) -> Met {
        let table = relation.table();
        let met = match self.rules.get(&table) {
            Some(rule) => Met::Rule(*rule),
            None if (self.joins)(&table) => Met::Joins,
            None => Met::NotCarried,
        };
        self.met.insert(relation.id, (table, met));
        met
    }

    /// Follows a table no further.
    pub fn quarantine(&mut self, table: &TableName) {
        self.rules.insert(table.clone(), Rule::Quarantined);
        self.met.clear();
    }

    /// The latest copy: before this position the target shows tables of different moments.
    pub fn consistent_from(&self) -> Lsn {
        let copied = self.rules.values().filter_map(|rule| match rule {
            Rule::Copied { at, .. } => Some(*at),
            Rule::Quarantined => None,
        });
        copied.max().unwrap_or(Lsn::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ReplicaIdentity;

    fn relation(id: u32, name: &str) -> Relation {
        let identity = ReplicaIdentity::Default;
        Relation { id, schema: "public".into(), name: name.into(), identity, columns: Vec::new() }
    }

    fn plan(rule: Rule) -> Plan {
        Plan::new([(TableName::new("public", "t"), rule)], Box::new(|table| table.name != "private"))
    }

    #[test]
    fn a_change_is_applied_exactly_from_its_tables_copy_on() {
        let rule = Rule::Copied { at: Lsn(100), relation: Some(7) };
        let mut plan = plan(rule);
        assert_eq!(plan.admit(&relation(7, "t"), Lsn(99)), Admission::InCopy);
        assert_eq!(plan.admit(&relation(7, "t"), Lsn(100)), Admission::Apply);
        assert_eq!(plan.consistent_from(), Lsn(100));
    }

    #[test]
    fn a_table_that_was_made_anew_is_not_the_one_that_was_copied() {
        let rule = Rule::Copied { at: Lsn(100), relation: Some(7) };
        let mut plan = plan(rule);
        assert_eq!(plan.admit(&relation(8, "t"), Lsn(200)), Admission::AwaitsCopy);
        assert_eq!(plan.admit(&relation(9, "unknown"), Lsn(200)), Admission::AwaitsCopy);
        assert_eq!(plan.admit(&relation(10, "private"), Lsn(200)), Admission::NotCarried);
    }

    #[test]
    fn a_renamed_table_is_another_one() {
        let mut plan = plan(Rule::Copied { at: Lsn(100), relation: Some(7) });
        assert_eq!(plan.admit(&relation(7, "t"), Lsn(200)), Admission::Apply);
        assert_eq!(plan.admit(&relation(7, "private"), Lsn(201)), Admission::NotCarried);
        assert_eq!(plan.admit(&relation(7, "called_otherwise"), Lsn(202)), Admission::AwaitsCopy);
    }

    #[test]
    fn a_quarantined_table_is_passed_over_at_once() {
        let rule = Rule::Copied { at: Lsn(100), relation: None };
        let mut plan = plan(rule);
        assert_eq!(plan.admit(&relation(7, "t"), Lsn(200)), Admission::Apply);
        plan.quarantine(&TableName::new("public", "t"));
        assert_eq!(plan.admit(&relation(7, "t"), Lsn(200)), Admission::PassOver);
        assert_eq!(plan.consistent_from(), Lsn::ZERO);
    }
}
