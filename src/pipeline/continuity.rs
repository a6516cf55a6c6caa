//! Whether a table's changes have come without a gap: what leaves a publication and returns to it, a partition that is
//! detached and attached again, say, has missed what was written meanwhile, and no message tells of that.
//!
//! Its *ties* tell: the rows of the source's catalog that put the table into the publication, by identifiers that are
//! new when it returns. They are read before the table's copy and stored with it, and looked at now and then.
//!
//! ```text
//! stored   16402:731 r16410            as a partition (of the attachment made by transaction 731) of what r16410 names
//! now      16402:755 r16410            nothing in common: there may be a gap, the table is copied again
//! now      16402:731 r16410, r16499    also by itself: one tie has held all the time
//! ```
//!
//! Two changes leave these ties as they are and are told by others, read and stored with them: options of the
//! publication that left out a kind of change for a while, and an `alter table` that computed rows anew.
//!
//! Where a publication sends partitions as their root, the root's rows are those of its partitions: one that was
//! attached brought rows along, one that was detached took them away, and neither is in the stream.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::TableName;
use crate::config::{Pipeline, SchemaDrift, written};
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::{Row, Session};
use crate::target::postgres::progress;

/// What ties a table to the publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ties {
    /// The ways by which the publication reaches it.
    by: BTreeSet<String>,
    /// Partitions that are sent as this table.
    partitions: BTreeSet<String>,
    /// Those that were created in their place, empty. `ATTACH PARTITION` writes all of a table's columns anew, so that
    /// none is of the command that made the table.
    born: BTreeSet<String>,
    /// The publication's own row, `xmin` of it: new with every change of its options. Empty: not known.
    options: String,
    /// The publication leaves out a kind of change now.
    narrow: bool,
    /// The relations whose rows these are, `oid:file:columns`; a rewrite that a command made of columns needs gives
    /// both file and columns anew. `VACUUM FULL`, `CLUSTER` and `TRUNCATE` leave the columns, others the file.
    files: BTreeSet<String>,
}

/// By the name that the publication sends.
pub type Carriage = BTreeMap<TableName, Ties>;

/// What has become of a table that was copied.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Unchanged,
    /// Without a gap, by other ties.
    Held,
    Left,
    /// Why the target's rows may not be the source's.
    Gap(&'static str),
}

impl Ties {
    /// For SQL: `by`, `partitions`, `options` and `files`.
    pub fn literals(&self) -> [String; 4] {
        let joined = |ties: &BTreeSet<String>| {
            quote::literal(&ties.iter().map(String::as_str).collect::<Vec<_>>().join(","))
        };
        [joined(&self.by), joined(&self.partitions), quote::literal(&self.options), joined(&self.files)]
    }

    /// Whether one of the files that were there before may have been written anew with other values.
    fn was_rewritten(&self, now: &Ties) -> bool {
        let parts = |file: &str| {
            let mut parts = file.split(':').map(str::to_owned);
            Some((parts.next()?, (parts.next()?, parts.next()?)))
        };
        let before: BTreeMap<_, _> = self.files.iter().filter_map(|file| parts(file)).collect();
        now.files.iter().filter_map(|file| parts(file)).any(|(oid, (file, columns))| {
            before
                .get(&oid)
                .is_some_and(|(old_file, old_columns)| *old_file != file && *old_columns != columns)
        })
    }

    fn judge(&self, now: Option<&Ties>) -> Verdict {
        let Some(now) = now else { return Verdict::Left };
        if self.by.is_disjoint(&now.by) {
            return Verdict::Gap("it left the publication and returned to it");
        }
        if !self.partitions.is_subset(&now.partitions) {
            return Verdict::Gap("a partition was detached or dropped, and its rows with it");
        }
        if now.partitions.difference(&self.partitions).any(|tie| !now.born.contains(tie)) {
            return Verdict::Gap("a partition was attached, and its rows with it");
        }
        if !self.options.is_empty() && self.options != now.options {
            return Verdict::Gap(
                "the publication's options were changed, and may have left out changes meanwhile",
            );
        }
        if self.was_rewritten(now) {
            return Verdict::Gap("it was rewritten by an alter table, which may have changed its values");
        }
        let is_same = self.by == now.by && self.partitions == now.partitions;
        if is_same && self.options == now.options && self.files == now.files {
            Verdict::Unchanged
        } else {
            Verdict::Held
        }
    }
}

fn split(text: &str) -> BTreeSet<String> {
    text.split(',').filter(|tie| !tie.is_empty()).map(str::to_owned).collect()
}

/// What ties the tables to publication `$1`. An attachment is told by who is attached and the transaction that did it,
/// a membership by its OID.
const TIES: &str = "
    with recursive publication as (
        select oid, xmin, puballtables, pubviaroot,
               not (pubinsert and pubupdate and pubdelete and pubtruncate) as narrow
          from pg_catalog.pg_publication where pubname = $1
    ), unit as (
        select c.oid, n.nspname, c.relname
          from pg_catalog.pg_publication_tables t
          join pg_catalog.pg_namespace n on n.nspname = t.schemaname
          join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
         where t.pubname = $1
    ), attachment as (
        select i.inhrelid, i.inhparent, i.inhrelid || ':' || i.xmin as tie
          from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
         where c.relispartition
    ), above (unit, relation, chain) as (
        select oid, oid, '' from unit
        union all
        select a.unit, i.inhparent, a.chain || i.tie || ' ' from above a join attachment i on i.inhrelid = a.relation
    ), below (unit, relation, tie) as (
        select u.oid, i.inhrelid, i.tie
          from unit u join attachment i on i.inhparent = u.oid join publication p on p.pubviaroot
        union all
        select b.unit, i.inhrelid, i.tie from below b join attachment i on i.inhparent = b.relation
    ), way (unit, tie) as (
        select a.unit, a.chain || 'r' || r.oid
          from above a join pg_catalog.pg_publication_rel r on r.prrelid = a.relation
          join publication p on p.oid = r.prpubid
        union all
        select u.oid, 'a' || p.oid from unit u join publication p on p.puballtables
        /* schemas */
    ), file (unit, state) as (
        select r.unit, c.oid || ':' || c.relfilenode || ':' || (
                   select pg_catalog.md5(coalesce(pg_catalog.string_agg(a.attnum || ' ' || a.xmin, ',' order by a.attnum), ''))
                     from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0)
          from (select oid as unit, oid as relation from unit union select unit, relation from below) r
          join pg_catalog.pg_class c on c.oid = r.relation
         where c.relkind = 'r'
    )
    select u.nspname, u.relname, coalesce(w.ties, ''), coalesce(b.ties, ''), coalesce(b.born, ''),
           p.oid || ':' || p.xmin, p.narrow, coalesce(f.states, '')
      from unit u
     cross join publication p
      left join (select unit, pg_catalog.string_agg(state, ',') as states from file group by unit) f on f.unit = u.oid
      left join (select unit, pg_catalog.string_agg(tie, ',') as ties from way group by unit) w on w.unit = u.oid
      left join (select unit, pg_catalog.string_agg(tie, ',') as ties,
                        pg_catalog.string_agg(tie, ',') filter (where exists (
                            select from pg_catalog.pg_type t join pg_catalog.pg_attribute a on a.attrelid = t.typrelid
                             where t.typrelid = below.relation and a.attnum > 0
                               and a.xmin = t.xmin and a.cmin = t.cmin)) as born
                   from below group by unit) b on b.unit = u.oid";

/// The ways through a schema, for where [`TIES`] says so: those are published from PostgreSQL 15 on.
const BY_SCHEMA: &str = "
        union all
        select a.unit, a.chain || 'n' || s.oid
          from above a join pg_catalog.pg_class c on c.oid = a.relation
          join pg_catalog.pg_publication_namespace s on s.pnnspid = c.relnamespace
          join publication p on p.oid = s.pnpubid";

/// The tables that a publication carries, and what ties them to it.
pub async fn read(source: &mut Session, publication: &str) -> Result<Carriage> {
    let by_schema = if source.server_major() >= 15 { BY_SCHEMA } else { "" };
    let sql = TIES.replace("/* schemas */", by_schema);
    let rows = source.query_with(&sql, &[Some(publication)]).await?;
    let ties = |row: &Row| Ties {
        by: split(row.text(2).unwrap_or_default()),
        partitions: split(row.text(3).unwrap_or_default()),
        born: split(row.text(4).unwrap_or_default()),
        options: row.string(5),
        narrow: row.bool(6),
        files: split(row.text(7).unwrap_or_default()),
    };
    Ok(rows.iter().map(|row| (TableName::new(row.string(0), row.string(1)), ties(row))).collect())
}

/// Compares what ties the copied tables with what tied them when they were copied. One that has left is quarantined;
/// one with a gap is copied again, as is one that has left and returns.
pub async fn keep(
    source: &mut Session,
    target: &mut Session,
    pipeline: &Pipeline,
    carriage: &Carriage,
) -> Result<()> {
    let name = quote::literal(&pipeline.name);
    let rows = target
        .query(&format!(
            "select schema_name, table_name, state = 'quarantined', carried_by, partitions, source_oid, options, files
               from pgdiode.relation
              where pipeline = {name} and carried_by is not null and state in ('copied', 'ready', 'quarantined')"
        ))
        .await?;
    for row in rows {
        let known = Known {
            table: TableName::new(row.string(0), row.string(1)),
            is_quarantined: row.bool(2),
            ties: Ties {
                by: split(row.text(3).unwrap_or_default()),
                partitions: split(row.text(4).unwrap_or_default()),
                options: row.text(6).unwrap_or_default().to_owned(),
                files: split(row.text(7).unwrap_or_default()),
                ..Ties::default()
            },
            oid: row.optional(5)?,
        };
        if let Some(sql) = known.settle(source, pipeline, carriage.get(&known.table)).await? {
            target.query(&sql).await?;
        }
    }
    Ok(())
}

/// A table that was copied, as the target knows it.
struct Known {
    table: TableName,
    is_quarantined: bool,
    ties: Ties,
    /// The source's.
    oid: Option<u32>,
}

impl Known {
    /// What is to be written down of it.
    async fn settle(
        &self,
        source: &mut Session,
        pipeline: &Pipeline,
        now: Option<&Ties>,
    ) -> Result<Option<String>> {
        let table = &self.table;
        let is_narrow = now.is_some_and(|ties| ties.narrow);
        let now = now.filter(|ties| !ties.narrow);
        // Quarantined for another reason, it waits for somebody to mend that.
        let has_left = self.is_quarantined && self.ties.by.is_empty();
        if self.is_quarantined && !(has_left && now.is_some()) {
            return Ok(None);
        }
        let follows = has_left || pipeline.stream.schema_drift == SchemaDrift::Follow;
        Ok(match self.ties.judge(now) {
            Verdict::Unchanged => None,
            Verdict::Held => Some(store(&pipeline.name, table, now.unwrap_or(&Ties::default()))),
            Verdict::Left if is_narrow => Some(self.narrowed(pipeline)),
            Verdict::Left => Some(self.leave(source, pipeline).await?),
            Verdict::Gap(reason) if follows => {
                tracing::warn!(%table, reason, "the table is copied again");
                Some(again(&pipeline.name, table))
            }
            Verdict::Gap(reason) => {
                let remedy = format!("pgdiode resync '{}'", written(table));
                let reason = format!("{reason}, and the configuration says not to follow");
                Some(progress::quarantine(&pipeline.name, table, &reason, &remedy))
            }
        })
    }

    /// Quarantines a table some of whose changes the publication leaves out; it is copied again once it does not.
    fn narrowed(&self, pipeline: &Pipeline) -> String {
        let table = &self.table;
        let reason = "the publication's options leave out a kind of change";
        let remedy = format!(
            "alter publication {} set (publish = 'insert, update, delete, truncate'); it is copied again then",
            quote::identifier(&pipeline.publication)
        );
        tracing::error!(%table, reason, "the table is quarantined: some of its changes do not come any more");
        let quarantine = progress::quarantine(&pipeline.name, table, reason, &remedy);
        format!("{quarantine}; {}", store(&pipeline.name, table, &Ties::default()))
    }

    /// Quarantines a table that the publication carries no more, saying what became of it.
    async fn leave(&self, source: &mut Session, pipeline: &Pipeline) -> Result<String> {
        let table = &self.table;
        let sql = format!(
            "select n.nspname, c.relname, c.relispartition
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where c.oid = {}",
            self.oid.unwrap_or(0)
        );
        let rows = source.query(&sql).await?;
        let found = rows.first().map(|row| (TableName::new(row.string(0), row.string(1)), row.bool(2)));
        let (name, was_partition) = (written(table), self.ties.by.iter().any(|tie| tie.contains(' ')));
        let forget = format!("to leave it as it is: pgdiode remove-tables '{name}'");
        let (reason, remedy) = match found {
            None => ("it was dropped at the source".to_owned(), forget),
            Some((other, _)) if other != *table => {
                (format!("at the source it is {} now", written(&other)), forget)
            }
            Some((_, false)) if was_partition => (
                "it was detached from its parent at the source, and the publication does not carry it any more"
                    .to_owned(),
                format!(
                    "detach it at the target too; to follow it by itself: pgdiode add-tables '{name}'; {forget}"
                ),
            ),
            Some(_) => (
                "the publication does not carry it any more".to_owned(),
                format!("to follow it again: pgdiode add-tables '{name}'; {forget}"),
            ),
        };
        tracing::error!(%table, reason, "the table is quarantined: its changes do not come any more");
        let quarantine = progress::quarantine(&pipeline.name, table, &reason, &remedy);
        Ok(format!("{quarantine}; {}", store(&pipeline.name, table, &Ties::default())))
    }
}

fn store(pipeline: &str, table: &TableName, ties: &Ties) -> String {
    let [by, partitions, options, files] = ties.literals();
    format!(
        "update pgdiode.relation set carried_by = {by}, partitions = {partitions}, options = {options},
                files = {files} {}",
        progress::of_relation(pipeline, table)
    )
}

fn again(pipeline: &str, table: &TableName) -> String {
    format!(
        "update pgdiode.relation
            set state = 'pending', copied_at = null, reason = null, remedy = null, carried_by = null, since = now() {}",
        progress::of_relation(pipeline, table)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_from_other_ties() {
        let ties = |by: &str, partitions: &str, born: &str| Ties {
            by: split(by),
            partitions: split(partitions),
            born: split(born),
            ..Ties::default()
        };
        let stored = ties("1:7 r5", "", "");
        assert_eq!(stored.judge(Some(&ties("1:7 r5", "", ""))), Verdict::Unchanged);
        assert_eq!(stored.judge(Some(&ties("1:7 r5,r6", "", ""))), Verdict::Held);
        assert_eq!(stored.judge(None), Verdict::Left);
        for other in ["1:8 r5", "1:7 r6", "r6", ""] {
            assert!(matches!(stored.judge(Some(&ties(other, "", ""))), Verdict::Gap(_)), "{other}");
        }
        let root = ties("r5", "1:7,2:7", "");
        assert_eq!(root.judge(Some(&ties("r5", "1:7,2:7,3:9", "3:9"))), Verdict::Held);
        assert!(matches!(root.judge(Some(&ties("r5", "1:7,2:7,3:9", ""))), Verdict::Gap(_)));
        assert!(matches!(root.judge(Some(&ties("r5", "1:7", "1:7"))), Verdict::Gap(_)));
        assert!(matches!(root.judge(Some(&ties("r5", "1:7,2:9", ""))), Verdict::Gap(_)));
    }

    #[test]
    fn a_gap_is_told_from_other_options_and_from_a_new_file_with_new_columns() {
        let ties = |options: &str, files: &str| Ties {
            by: split("r5"),
            options: options.to_owned(),
            files: split(files),
            ..Ties::default()
        };
        let stored = ties("9:1", "1:10:a,2:20:b");
        assert_eq!(stored.judge(Some(&ties("9:1", "1:10:a,2:20:b"))), Verdict::Unchanged);
        for other in ["1:11:a,2:20:b", "1:10:c,2:20:b", "1:10:a,2:20:b,3:30:c", "1:11:a,2:20:c"] {
            assert_eq!(stored.judge(Some(&ties("9:1", other))), Verdict::Held, "{other}");
        }
        assert!(matches!(stored.judge(Some(&ties("9:1", "1:10:a,2:21:c"))), Verdict::Gap(_)));
        assert!(matches!(stored.judge(Some(&ties("9:2", "1:10:a,2:20:b"))), Verdict::Gap(_)));
        assert_eq!(ties("", "").judge(Some(&stored)), Verdict::Held);
    }
}
