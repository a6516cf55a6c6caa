//! Copying and streaming, with the real binary between real servers.
//!
//! ```text
//! let pair = Pair::start(Ends::default());
//! pair.source.psql("postgres", "create table t (id int primary key, v text)");
//! pair.publish("t");
//! let mut running = pair.begin();          // pgdiode start
//! pair.source.psql("postgres", "insert into t values (1, 'one')");
//! pair.assert_alike();                     // waits until caught up, then compares every published table
//! ```
//!
//! The comparison is an independent oracle: psql prints every row of both sides as text, and nothing of pgdiode's
//! own is asked but how far it has come.

mod breaks;
mod conflicts;
mod copies;
mod edges;
mod fixtures;
mod gaps;
mod invariants;
mod keys;
mod large;
mod partitions;
mod refusals;
mod schema;
mod settings;
mod shapes;
mod status;

use std::cell::Cell;
use std::fs;

use crate::harness::{Cluster, PgdiodeRun, Proxy, Running, Version, wait_for};

/// The servers of a pair and what is special about them.
#[derive(Clone, Copy)]
pub struct Ends {
    pub versions: (Version, Version),
    pub source_settings: &'static [(&'static str, &'static str)],
    pub target_settings: &'static [(&'static str, &'static str)],
    /// Lines of `[pipeline.main.stream]`.
    pub stream: &'static str,
    /// Whole sections after it.
    pub sections: &'static str,
    /// Whether pgdiode's connections pass through proxies.
    pub proxied: bool,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends {
            versions: (Version::V15, Version::V15),
            source_settings: &[],
            target_settings: &[],
            stream: "",
            sections: "",
            proxied: false,
        }
    }
}

/// A source, a target, and pgdiode's configuration between them.
pub struct Pair {
    pub source: Cluster,
    pub target: Cluster,
    pub source_proxy: Option<Proxy>,
    pub target_proxy: Option<Proxy>,
    pub pgdiode: PgdiodeRun,
    /// The last run's process, so that nobody waits for what a dead one should do.
    process: Cell<u32>,
}

const SHORT_RETRIES: &str = "[pipeline.main.retry]\nfirst_ms = 50\nmax_ms = 500\n";

impl Pair {
    pub fn start(ends: Ends) -> Pair {
        let source = Cluster::start(ends.versions.0, ends.source_settings);
        let target = Cluster::start(ends.versions.1, ends.target_settings);
        // Written at the source to learn when the target has caught up: see `catch_up`.
        source.psql(
            "postgres",
            "create table public.pulse (id int primary key, beat int not null); insert into pulse values (1, 0)",
        );
        let proxy = |cluster: &Cluster| ends.proxied.then(|| Proxy::start(cluster.port()));
        let (source_proxy, target_proxy) = (proxy(&source), proxy(&target));
        let conninfo = |cluster: &Cluster, proxy: &Option<Proxy>| match proxy {
            Some(proxy) => proxy.conninfo("postgres"),
            None => cluster.conninfo("postgres"),
        };
        let config = format!(
            "[pipeline.main]\nsource = \"{}\"\ntarget = \"{}\"\n[pipeline.main.stream]\n{}\n{SHORT_RETRIES}{}",
            conninfo(&source, &source_proxy),
            conninfo(&target, &target_proxy),
            ends.stream,
            ends.sections
        );
        let mut pgdiode = PgdiodeRun::new(&config);
        let pg_dump = source.tools().path("pg_dump");
        pgdiode.set("PGDIODE_PG_DUMP", &pg_dump.display().to_string());
        Pair { pgdiode, source, target, source_proxy, target_proxy, process: Cell::new(0) }
    }

    /// Publishes tables by an explicit list, and the pulse with them.
    pub fn publish(&self, tables: &str) {
        self.publish_with(tables, "");
    }

    pub fn publish_with(&self, tables: &str, options: &str) {
        let sql = format!("create publication pgdiode_main for table public.pulse, {tables} {options}");
        self.at_source(&sql);
    }

    pub fn at_source(&self, sql: &str) -> String {
        self.source.psql("postgres", sql)
    }

    pub fn at_target(&self, sql: &str) -> String {
        self.target.psql("postgres", sql)
    }

    /// Runs `pgdiode start` in the background.
    pub fn begin(&self) -> Running {
        let running = self.pgdiode.spawn(&["start", "-v"]);
        self.process.set(running.pid());
        running
    }

    /// The same, and waits until everything is copied.
    pub fn begin_and_copy(&self) -> Running {
        let running = self.begin();
        self.catch_up();
        running
    }

    /// Waits until no table waits for its copy, and all that the source has committed by now has arrived.
    pub fn catch_up(&self) {
        self.wait_at_target(ALL_SETTLED, "the copies");
        self.pulse();
        // A pulse may have been behind tables that joined meanwhile.
        self.wait_at_target(ALL_SETTLED, "the copies");
        self.wait_at_target(ALL_IN_STEP, "tables that were copied late");
    }

    /// Writes at the source and waits until the target shows it: then it shows everything before. Takes its time, as
    /// long as the target comes nearer.
    pub fn pulse(&self) {
        let beat = self.at_source("update public.pulse set beat = beat + 1 returning beat");
        let sql = format!("select beat >= {beat} from public.pulse");
        let position = || self.target.try_psql("postgres", "select lsn from pgdiode.position").ok();
        let mut before = position();
        while let Err(last) = self.comes_true(&sql) {
            let now = position();
            assert!(now != before, "waited in vain for a pulse\n  {sql}\n  last answer: {last}");
            before = now;
        }
    }

    /// Waits until the target answers `t`, as long as pgdiode runs.
    pub fn wait_at_target(&self, sql: &str, what: &str) {
        if let Err(last) = self.comes_true(sql) {
            panic!("waited in vain for {what}\n  {sql}\n  last answer: {last}");
        }
    }

    /// Waits until the target answers `t`, as long as pgdiode runs, but not for ever; else its last answer.
    fn comes_true(&self, sql: &str) -> Result<(), String> {
        let mut last = String::new();
        let mut ended = false;
        let met = wait_for(|| {
            let answer = self.target.try_psql("postgres", sql);
            let is_met = answer.as_ref().is_ok_and(|answer| answer == "t");
            last = answer.unwrap_or_else(|error| error);
            // Looked at before the answer counts: it may have ended after it did what is waited for.
            let is_over = std::mem::replace(&mut ended, !is_running(self.process.get()));
            (is_met || is_over).then_some(is_met)
        });
        if met == Some(true) { Ok(()) } else { Err(last) }
    }

    /// Waits until caught up; then both sides must agree on every published table.
    pub fn assert_alike(&self) {
        self.catch_up();
        self.assert_alike_now(&[]);
    }

    /// Compares all published tables but those whose names hold one of `left_out`.
    pub fn assert_alike_now(&self, left_out: &[&str]) {
        let differences = self.differences(left_out);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    /// What differs, by table. Rows are compared as text, sorted, on the columns that the source has.
    pub fn differences(&self, left_out: &[&str]) -> Vec<String> {
        let tables = self.at_source(PUBLISHED);
        assert!(!tables.is_empty(), "the oracle sees no table");
        let tables: Vec<(&str, &str)> = tables
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(table, _)| !left_out.iter().any(|name| table.contains(name)))
            .collect();
        let digests: Vec<String> = tables
            .iter()
            .map(|(table, columns)| {
                format!(
                    "select count(*) || ' ' || coalesce(md5(string_agg(r::text, E'\\n' order by r::text collate \"C\")), '')
                       from (select row({columns}) as r from {table} as t) as rows;\n"
                )
            })
            .collect();
        let script = format!("{PINNED}{}", digests.concat());
        let (here, there) = (self.at_source(&script), self.at_target(&script));
        let pairs = here.lines().zip(there.lines()).zip(&tables);
        pairs
            .filter(|((here, there), _)| here != there)
            .map(|(_, (table, columns))| self.difference(table, columns))
            .collect()
    }

    fn difference(&self, table: &str, columns: &str) -> String {
        let sql = format!(
            "{PINNED}select left(row({columns})::text, 300) from {table} as t order by row({columns})::text collate \"C\""
        );
        let rows = |cluster: &Cluster| cluster.psql("postgres", &sql);
        let (here, there) = (rows(&self.source), rows(&self.target));
        let only = |rows: &str, others: &str| -> Vec<String> {
            let others: Vec<&str> = others.lines().collect();
            rows.lines().filter(|row| !others.contains(row)).take(5).map(str::to_owned).collect()
        };
        format!(
            "{table} differs: {} rows at the source, {} at the target\n  only there: {:#?}\n  only here: {:#?}\n  {}",
            here.lines().count(),
            there.lines().count(),
            only(&here, &there),
            only(&there, &here),
            self.at_target(
                "select string_agg(r::text, E'\\n  ') from pgdiode.relation r where state <> 'ready'"
            )
        )
    }

    /// `state`, or nothing when pgdiode does not know the table.
    pub fn state_of(&self, table: &str) -> String {
        self.at_target(&format!(
            "select state || coalesce(': ' || reason, '') from pgdiode.relation where schema_name || '.' || table_name = '{table}'"
        ))
    }

    /// Waits until a table is quarantined; the reason.
    pub fn quarantine_of(&self, table: &str) -> String {
        let reason = wait_for(|| {
            let state = self.state_of(table);
            state.strip_prefix("quarantined: ").map(str::to_owned)
        });
        reason.unwrap_or_else(|| panic!("{table} was not quarantined: {}", self.state_of(table)))
    }

    /// One of the counters of `pgdiode.relation_count`, which are stored once a second.
    pub fn count_of(&self, table: &str, counter: &str) -> u64 {
        let count = self.at_target(&format!(
            "select coalesce(sum({counter}), 0) from pgdiode.relation_count where schema_name || '.' || table_name = '{table}'"
        ));
        count.parse().expect("a count")
    }

    /// Waits until a counter has reached a value; it must not go beyond.
    pub fn wait_for_count(&self, table: &str, counter: &str, expected: u64) {
        let reached = wait_for(|| (self.count_of(table, counter) >= expected).then_some(()));
        assert!(reached.is_some(), "{counter} of {table} never reached {expected}");
        assert_eq!(self.count_of(table, counter), expected, "{counter} of {table}");
    }

    pub fn source_proxy(&self) -> &Proxy {
        self.source_proxy.as_ref().expect("the pair was started with proxies")
    }

    pub fn target_proxy(&self) -> &Proxy {
        self.target_proxy.as_ref().expect("the pair was started with proxies")
    }
}

/// Asks a run to stop, and sees that it does so in good order.
pub fn stop(mut running: Running) {
    running.terminate();
    let status = running.wait();
    assert!(status.code().is_some_and(|code| code == 0 || code == 143), "{status}\n{}", running.stderr());
}

fn is_running(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Settings under which values print the same on any server.
const PINNED: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3; \
     set bytea_output = 'hex'; set lc_monetary = 'C'; set row_security = off;\n";

/// What is published, by quoted name, with the columns as the source has them.
const PUBLISHED: &str = "
    select format('%s%I.%I', case c.relkind when 'p' then '' else 'only ' end, p.schemaname, p.tablename) || E'\\t' ||
           coalesce((select string_agg(regexp_replace(format('t.%I', a.attname), E'\\n', ' ', 'g'), ', ' order by a.attnum)
                       from pg_attribute a
                      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attname !~ E'\\n'), '')
      from pg_publication_tables p
      join pg_namespace n on n.nspname = p.schemaname
      join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
     where p.pubname = 'pgdiode_main' order by 1";

const ALL_SETTLED: &str = "
    select exists (select from pgdiode.relation)
       and not exists (select from pgdiode.relation where state in ('pending', 'copying', 'copied'))";

const ALL_IN_STEP: &str = "
    select (select lsn from pgdiode.position)
           >= (select coalesce(max(copied_at), '0/0') from pgdiode.relation where state = 'ready')";
