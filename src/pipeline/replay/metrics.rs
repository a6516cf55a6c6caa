//! `data_sync_metrics`: how many rows were added, updated and deleted in each table and period.
//!
//! What has been counted for a table (`pgdiode.relation_count`) less what was seen of it the last time (`pgdiode.metric_seen`)
//! goes into the window of the sync frequency that it is now, at once, and waits in `pgdiode.metric_carry` for its week and
//! month, which are brought up to date every `archive.metrics_hours`. Each of the two is one transaction and only ever
//! adds: nothing is counted twice or lost by a run that is killed, nor by one that takes over.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::Pipeline;
use crate::error::Result;
use crate::pg::quote;
use crate::pg::session::Session;
use crate::pipeline::replay::{control, periods};

/// `poll_seconds = 0` is no frequency; syncdata's is ten minutes.
const FREQUENCY_SECONDS: u64 = 600;

/// Beside the control schema, which is there. Idempotent.
pub const CREATE: &str = "
create table if not exists pgdiode.metric_seen (
    pipeline text not null,
    schema_name text not null,
    table_name text not null,
    inserts int8 not null,
    updates int8 not null,
    deletes int8 not null,
    primary key (pipeline, schema_name, table_name)
);
create table if not exists pgdiode.metric_carry (
    pipeline text not null,
    table_name text not null,
    period_type text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    inserts int8 not null,
    updates int8 not null,
    deletes int8 not null,
    primary key (pipeline, table_name, period_type, period_start)
);
create table if not exists pgdiode.metric_summed (
    pipeline text primary key,
    at timestamptz not null
);
";

pub struct Metrics {
    pipeline: String,
    table: String,
    frequency_seconds: u64,
    hours: u64,
    zone: TimeZone,
}

impl Metrics {
    pub fn of(pipeline: &Pipeline) -> Result<Metrics> {
        let frequency_seconds = match pipeline.archive.poll_seconds {
            0 => FREQUENCY_SECONDS,
            seconds => seconds,
        };
        Ok(Metrics {
            pipeline: quote::literal(&pipeline.name),
            table: control::metrics(pipeline),
            frequency_seconds,
            hours: pipeline.archive.metrics_hours,
            zone: pipeline.archive.time_zone()?,
        })
    }

    /// Adds what was counted since the last time to the periods that `now` is in.
    pub async fn record(&self, target: &mut Session, now: Timestamp) -> Result<()> {
        self.count(target, now).await?;
        self.sum_up(target, now).await
    }

    async fn count(&self, target: &mut Session, now: Timestamp) -> Result<()> {
        let (pipeline, table) = (&self.pipeline, &self.table);
        let [window, week, month] = periods::of(now, self.frequency_seconds, &self.zone)?;
        // Counts that are less than before were begun anew.
        let since = |counter: &str| {
            format!(
                "case when c.{counter} < coalesce(s.{counter}, 0) then c.{counter} else c.{counter} - coalesce(s.{counter}, 0) end"
            )
        };
        let sql = format!(
            "select from pgdiode.ledger where pipeline = {pipeline} for update;
             with counted as (
                 select c.schema_name, c.table_name, {name} as name, c.inserts, c.updates, c.deletes,
                        {inserts} as added, {updates} as updated, {deletes} as deleted
                   from pgdiode.relation_count c
                   left join pgdiode.metric_seen s using (pipeline, schema_name, table_name)
                  where c.pipeline = {pipeline}
             ), new as (
                 select * from counted where added > 0 or updated > 0 or deleted > 0
             ), seen as (
                 insert into pgdiode.metric_seen (pipeline, schema_name, table_name, inserts, updates, deletes)
                 select {pipeline}, schema_name, table_name, inserts, updates, deletes from new
                 on conflict (pipeline, schema_name, table_name)
                 do update set inserts = excluded.inserts, updates = excluded.updates, deletes = excluded.deletes
             ), carried as (
                 insert into pgdiode.metric_carry as m
                        (pipeline, table_name, period_type, period_start, period_end, inserts, updates, deletes)
                 select {pipeline}, name, p.kind, p.starts, p.ends, added, updated, deleted
                   from new cross join (values ('{}', timestamptz '{}', timestamptz '{}'), ('{}', '{}', '{}')) p (kind, starts, ends)
                 on conflict (pipeline, table_name, period_type, period_start)
                 do update set inserts = m.inserts + excluded.inserts, updates = m.updates + excluded.updates,
                               deletes = m.deletes + excluded.deletes
             )
             insert into {table} as m
                    (table_name, period_type, period_start, period_end, records_added, records_updated, records_deleted)
             select name, '{}', timestamptz '{}', timestamptz '{}', added, updated, deleted from new
             {ADDS}",
            week.kind, week.start, week.end, month.kind, month.start, month.end,
            window.kind, window.start, window.end,
            name = control::name_sql("c"),
            inserts = since("inserts"),
            updates = since("updates"),
            deletes = since("deletes"),
        );
        target.query(&sql).await.map(drop)
    }

    /// Brings weeks and months up to date, when it is time.
    async fn sum_up(&self, target: &mut Session, now: Timestamp) -> Result<()> {
        let (pipeline, table) = (&self.pipeline, &self.table);
        let begin = format!(
            "insert into pgdiode.metric_summed (pipeline, at) values ({pipeline}, '{now}') on conflict do nothing"
        );
        target.query(&begin).await?;
        let sql = format!(
            "with due as (
                 update pgdiode.metric_summed set at = '{now}'
                  where pipeline = {pipeline} and at <= timestamptz '{now}' - {} * interval '1 hour' returning pipeline
             ), moved as (
                 delete from pgdiode.metric_carry where pipeline in (select pipeline from due) returning *
             )
             insert into {table} as m
                    (table_name, period_type, period_start, period_end, records_added, records_updated, records_deleted)
             select table_name, period_type, period_start, period_end, inserts, updates, deletes from moved
             {ADDS}",
            self.hours
        );
        target.query(&sql).await.map(drop)
    }
}

/// Another pipeline's rows may be there, or an earlier run's.
const ADDS: &str = "on conflict (table_name, period_start, period_type)
             do update set records_added = coalesce(m.records_added, 0) + excluded.records_added,
                           records_updated = coalesce(m.records_updated, 0) + excluded.records_updated,
                           records_deleted = coalesce(m.records_deleted, 0) + excluded.records_deleted";

/// The statements that forget what waits, when a pipeline's counts are forgotten.
pub fn forget(pipeline: &str) -> String {
    let name = quote::literal(pipeline);
    format!(
        "delete from pgdiode.metric_seen where pipeline = {name}; delete from pgdiode.metric_carry where pipeline = {name}"
    )
}
