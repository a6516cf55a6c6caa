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

/// What a dump has to bring along beside the fixtures.
const FINE_OBJECTS: &str = "
    create materialized view deeper as select items + 1 as more from totals;
    create materialized view a_first as select more from deeper;
    create materialized view unfilled as select 1 as one with no data;
    create function via() returns bigint language sql stable as 'select more from public.deeper';
    create materialized view a_through as select public.via() as more;
    create sequence fresh start 5; select setval('fresh', 17, false);
    create sequence used; select setval('used', 99);
    comment on materialized view deeper is 'two';";

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

    /// Fills the source with one of everything, and lets the target's server know its roles.
    fn with_all_objects(&self, more: &str) {
        super::harness::load_fixtures(&self.source, "app");
        self.source.psql("app", &(FINE_OBJECTS.to_owned() + more));
        let roles = self.source.psql(
            "postgres",
            "select string_agg(format('create role %I', rolname), ';') from pg_roles
              where rolname !~ '^pg_' and rolname <> 'postgres'",
        );
        self.target.psql("postgres", &roles);
    }

    /// Kills syncs at moments that nobody has chosen; `stamp` reads what the replica serves. The last one is let through.
    fn kill_at_any_moment(&self, pgdiode: &PgdiodeRun, stamp: impl Fn() -> String) {
        sync(pgdiode).success();
        let mut rng = super::harness::Rng::from_environment_or(1);
        for generation in 2..10 {
            self.source.psql("app", &format!("update stamp set generation = {generation}"));
            let before = self.stamp();
            let mut running = pgdiode.spawn(&["sync"]);
            let wait = u64::try_from(rng.i32(0..1500)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(wait));
            running.kill9();
            let stamp = stamp();
            assert!(stamp == before || stamp == generation.to_string(), "{stamp} after {wait} ms");
            assert_eq!(self.target.psql("li", "select count(*) from item"), "1000");
        }
        sync(pgdiode).success();
        assert_eq!(self.stamp(), "9");
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
