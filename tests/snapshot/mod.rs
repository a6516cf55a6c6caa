//! Full replacement, against real servers: a fresh copy serves or nothing has happened.

mod audit;
mod by_schema;
mod capacity;
mod clock;
mod discarded;
mod failures;
mod grants;
mod guards;
mod host;
mod kills;
mod objects;
mod phases;
mod preserve;
mod readers;
mod redaction;
mod refusals;
mod replaces;
mod rollback;
mod schedule;

use super::harness::{Cluster, Output, PgdiodeRun, Running, Version};

/// A source with a database `app`, and a server for the replica `li`.
struct Ground {
    source: Cluster,
    target: Cluster,
}

const TABLES: &str = "
    create table item (id int primary key, v text not null);
    create table stamp (generation int not null);
    insert into item select n, 'v' || n from generate_series(1, 1000) n;
    insert into stamp values (1);
    create materialized view totals as select count(*) as items from item;";

impl Ground {
    /// The source needs no logical log: a sync never decodes.
    fn new() -> Ground {
        let settings = [("wal_level", "replica"), ("max_replication_slots", "0"), ("max_wal_senders", "0")];
        let ground = Ground {
            source: Cluster::start(Version::V15, &settings),
            target: Cluster::start(Version::V15, &[]),
        };
        ground.source.psql("postgres", "create database app");
        ground.source.psql("app", TABLES);
        ground
    }

    fn pgdiode(&self, lines: &str) -> PgdiodeRun {
        self.configured(&self.target.conninfo("li"), lines)
    }

    fn configured(&self, target: &str, lines: &str) -> PgdiodeRun {
        PgdiodeRun::new(&format!(
            "[pipeline.li]\nmode = \"snapshot\"\nsource = \"{}\"\ntarget = \"{target}\"\n{lines}\n",
            self.source.conninfo("app")
        ))
    }

    /// The databases of the target's server that belong to the replica.
    fn databases(&self) -> String {
        self.target.psql(
            "postgres",
            "select string_agg(datname, ' ' order by datname) from pg_database where datname like 'li%'",
        )
    }

    fn control(&self, sql: &str) -> String {
        self.target.psql("li_pgdiode", sql)
    }

    fn last_verdict(&self) -> String {
        self.control("select verdict from pgdiode.run order by id desc limit 1")
    }

    fn stamp(&self) -> String {
        self.target.psql("li", "select generation from stamp")
    }

    /// Keeps syncs waiting in the copy: what a table's constraint calls waits in a shadow while the target has a role
    /// `hold`.
    fn hold_copy(&self) {
        self.source.psql(
            "app",
            "create or replace function wait() returns bool language plpgsql as $$ begin
                 while current_database() like '%shadow%' and exists (select from pg_roles where rolname = 'hold') loop
                     perform pg_sleep(0.02);
                 end loop;
                 return true;
             end $$;
             create table if not exists held (id int check (public.wait())); insert into held values (1)",
        );
        self.target.psql("postgres", "create role hold");
    }

    fn let_copy_go(&self) {
        self.target.psql("postgres", "drop role hold");
    }

    /// A sync that waits in its copy.
    fn held_sync(&self, pgdiode: &PgdiodeRun) -> Running {
        self.hold_copy();
        let running = pgdiode.spawn(&["sync"]);
        self.wait_for_phase("copying");
        self.target.wait_until(
            "postgres",
            "select exists (select from pg_stat_activity where datname like '%shadow%' and query ilike 'copy %' and wait_event = 'PgSleep')",
            "the copy",
        );
        running
    }

    fn wait_for_phase(&self, phase: &str) {
        self.target.wait_until(
            "postgres",
            "select exists (select from pg_database where datname = 'li_pgdiode')",
            "the control database",
        );
        self.target.wait_until(
            "li_pgdiode",
            &format!(
                "select phase = '{phase}' and verdict = 'running' from pgdiode.run order by id desc limit 1"
            ),
            phase,
        );
    }
}

fn sync(pgdiode: &PgdiodeRun) -> Output {
    pgdiode.run(&["sync"])
}
