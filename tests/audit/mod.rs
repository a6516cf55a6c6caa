//! The audit log against real servers: every verb that changes something leaves its entries, what cannot be audited is
//! not done, and whatever is done to the log afterwards is found.

mod signed;
mod tampering;

use std::thread;

use super::harness::{Cluster, PgdiodeRun, Version};

const TABLES: &str = "create table orders (id int primary key); create table users (id int primary key);
    insert into orders select generate_series(1, 10)";

struct Ground {
    source: Cluster,
    target: Cluster,
}

impl Ground {
    /// Two tables, of which `orders` is carried.
    fn new() -> Ground {
        let start = || Cluster::start(Version::V15, &[]);
        let ground = Ground { source: start(), target: start() };
        for cluster in [&ground.source, &ground.target] {
            cluster.psql("postgres", "create database app");
        }
        ground.source.psql("app", TABLES);
        ground
    }

    fn pgdiode(&self) -> PgdiodeRun {
        self.pgdiode_as("postgres", "")
    }

    fn pgdiode_as(&self, role: &str, sections: &str) -> PgdiodeRun {
        PgdiodeRun::new(&format!(
            "{sections}\n[pipeline.main]\nsource = \"{}\"\ntarget = \"{}\"\ntables = [\"public.orders\"]\n",
            self.source.conninfo("app"),
            self.target.conninfo_as(role, "app")
        ))
    }

    /// `action verdict reason` of all entries.
    fn entries(&self) -> Vec<String> {
        let sql = "select action || ' ' || verdict || coalesce(' ' || reason, '') from pgdiode.audit order by number";
        self.target.psql("app", sql).lines().map(str::to_owned).collect()
    }
}

/// What `audit verify --json` finds and how it ends.
fn verify(pgdiode: &PgdiodeRun, arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = pgdiode.run(&[&["audit", "verify", "--json"], arguments].concat());
    let report = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", output.stdout, output.stderr));
    (output.status.code().unwrap(), report)
}

/// The head of a log that is intact.
fn head(pgdiode: &PgdiodeRun) -> String {
    let (status, report) = verify(pgdiode, &[]);
    assert!(status == 0 && report["intact"] == true, "{report}");
    format!("{}:{}", report["head"]["number"], report["head"]["hash"].as_str().unwrap())
}

#[test]
fn the_chain_grows_with_each_verb() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode();
    pgdiode.run(&["audit", "verify"]).failure(3);
    pgdiode.run(&["setup", "--yes", "--reason", "CHG-1"]).success();
    pgdiode.run(&["start", "--once-caught-up", "--reason", "CHG-0"]).success();
    pgdiode.run(&["add-tables", "public.users", "--reason", "CHG-2"]).success();
    pgdiode.run(&["remove-tables", "public.users", "--reason", "CHG-3"]).success();
    pgdiode.run(&["resync", "public.orders", "--reason", "it's \"CHG-4\" é"]).success();
    let early = head(&pgdiode);
    let mut run = pgdiode.spawn(&["start"]);
    ground.target.wait_until("app", "select phase = 'streaming' from pgdiode.pipeline", "streaming");
    // Refused: nothing was done, nothing is said.
    pgdiode.run(&["reset", "--yes"]).failure(5);
    pgdiode.run(&["stop", "--reason", "CHG-6"]).success();
    assert!(run.wait().success());
    pgdiode.run(&["reset", "--yes", "--drop-slot", "--drop-publication", "--reason", "CHG-5"]).success();
    let expected = [
        "setup begun CHG-1",
        "setup done CHG-1",
        "start begun CHG-0",
        "start done CHG-0",
        "add-tables begun CHG-2",
        "add-tables done CHG-2",
        "remove-tables begun CHG-3",
        "remove-tables done CHG-3",
        "resync begun it's \"CHG-4\" é",
        "resync done it's \"CHG-4\" é",
        "start begun",
        "stop begun CHG-6",
    ];
    let mut entries = ground.entries();
    assert_eq!(entries[..expected.len()], expected);
    // The run's end and the end of the wait for it come in either order.
    entries[12..14].sort();
    assert_eq!(entries[12..], ["start done", "stop done CHG-6", "reset begun CHG-5", "reset done CHG-5"]);
    let told = ground.target.psql(
        "app",
        "select role, host <> '', os_user <> '', details from pgdiode.audit where number in (9, 10) order by number",
    );
    assert_eq!(told, "postgres|t|t|{\"tables\": [\"public.orders\"]}\npostgres|t|t|{\"begun\": 9}");
    assert_eq!(verify(&pgdiode, &["--head", &early]).0, 0);
    let list = pgdiode.run(&["audit", "list", "--last", "2"]).success();
    let is_told =
        list.lines().count() == 2 && list.trim_end().ends_with("as postgres  main  reset done: CHG-5");
    assert!(is_told, "{list}");
}

#[test]
fn a_verb_that_fails_and_a_run_that_is_killed_are_seen() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode();
    pgdiode.run(&["setup", "--yes"]).success();
    let mut run = pgdiode.spawn(&["start"]);
    ground.target.wait_until("app", "select phase = 'streaming' from pgdiode.pipeline", "streaming");
    run.kill9();
    assert_eq!(ground.entries()[2..], ["start begun"]);
    ground.target.psql(
        "app",
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no, %', 'é'; end $$;
         create trigger refuse before update on pgdiode.relation for each row execute function refuse()",
    );
    pgdiode.run(&["resync", "public.orders"]).failure(1);
    assert_eq!(ground.entries()[3..], ["resync begun", "resync failed"]);
    let error = ground.target.psql("app", "select details ->> 'error' from pgdiode.audit where number = 5");
    assert!(error.contains("no, é"), "{error}");
    head(&pgdiode);
}

#[test]
fn two_writers_do_not_fork_the_chain() {
    const EACH: usize = 6;
    let ground = Ground::new();
    let pgdiode = ground.pgdiode();
    pgdiode.run(&["setup", "--yes"]).success();
    pgdiode.run(&["start", "--once-caught-up"]).success();
    let before = ground.entries().len();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    pgdiode.run(&["resync", "public.orders"]).success();
                }
            });
        }
    });
    let (status, report) = verify(&pgdiode, &[]);
    assert_eq!((status, report["entries"].as_u64()), (0, Some((before + 3 * EACH * 2) as u64)), "{report}");
}

/// A writer whose transaction is open keeps the others waiting, and they follow what it wrote.
#[test]
fn a_writer_waits_for_the_one_before_it() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode();
    pgdiode.run(&["setup", "--yes"]).success();
    pgdiode.run(&["start", "--once-caught-up"]).success();
    let lock = "begin; select pg_advisory_xact_lock(hashtextextended('pgdiode audit', 0));";
    // Until the other one waits.
    let wait = "do $$ begin loop perform pg_sleep(0.02); exit when exists
        (select from pg_locks where locktype = 'advisory' and not granted); end loop; end $$; commit;";
    let holder = ground.target.spawn_psql("app", &format!("{lock}{wait}"));
    ground.target.wait_until(
        "app",
        "select exists (select from pg_locks where locktype = 'advisory')",
        "the lock",
    );
    pgdiode.run(&["resync", "public.orders"]).success();
    holder.wait().unwrap();
    head(&pgdiode);
}

#[test]
fn what_cannot_be_audited_is_not_done() {
    let ground = Ground::new();
    let owner = ground.pgdiode();
    owner.run(&["setup", "--yes"]).success();
    owner.run(&["start", "--once-caught-up"]).success();
    ground.target.psql(
        "app",
        "create role writer login; grant all on database app to writer;
         grant usage, create on schema public, pgdiode to writer;
         grant all on all tables in schema public, pgdiode to writer;
         grant set on parameter session_replication_role to writer;
         grant all on all sequences in schema pgdiode to writer;
         revoke insert on pgdiode.audit from writer",
    );
    let state = || {
        let source = ground.source.psql(
            "app",
            "select * from pg_publication_tables; select slot_name, confirmed_flush_lsn, active from pg_replication_slots",
        );
        let at_target = ["pipeline", "position", "relation", "relation_count", "note", "audit"]
            .map(|table| ground.target.psql("app", &format!("select * from pgdiode.{table} order by 1, 2")));
        (source, at_target)
    };
    let before = state();
    let writer = ground.pgdiode_as("writer", "");
    for arguments in [
        &["resync", "public.orders"][..],
        &["add-tables", "public.users"],
        &["remove-tables", "public.orders"],
        &["reset", "--yes"],
        &["reset", "--yes", "--drop-slot"],
        &["setup", "--yes"],
        &["start", "--once-caught-up"],
    ] {
        if arguments[0] == "setup" {
            // Something to do.
            ground.source.psql("app", "alter publication pgdiode_main drop table orders");
            let said = writer.run(arguments).failure(9);
            assert!(said.contains("the audit log cannot be written"), "{said}");
            assert_eq!(ground.source.psql("app", "select * from pg_publication_tables"), "");
            ground.source.psql("app", "alter publication pgdiode_main add table orders");
            continue;
        }
        let said = writer.run(arguments).failure(9);
        assert!(said.contains("select and insert on pgdiode.audit"), "{arguments:?}: {said}");
        assert_eq!(state(), before, "{arguments:?}");
    }
    // Nor is a run asked to stop by somebody who cannot say so.
    let mut run = owner.spawn(&["start"]);
    ground.target.wait_until("app", "select phase = 'streaming' from pgdiode.pipeline", "streaming");
    writer.run(&["stop"]).failure(9);
    assert_eq!(ground.target.psql("app", "select stop_requested from pgdiode.pipeline"), "f");
    assert!(run.is_running());
    ground.target.psql("app", "grant insert on pgdiode.audit to writer");
    writer.run(&["stop"]).success();
    assert!(run.wait().success());
    head(&writer);
}

/// A target that holds somebody else's rows is refused before anything is written there.
#[test]
fn a_target_that_is_refused_gets_no_log() {
    let ground = Ground::new();
    ground.target.psql("app", TABLES);
    for arguments in [&["setup", "--yes"][..], &["start"]] {
        ground.pgdiode().run(arguments).failure(3);
    }
    assert_eq!(ground.target.psql("app", "select to_regnamespace('pgdiode') is null"), "t");
}

#[test]
fn lines_of_the_log_begin_with_the_prefix() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode_as("postgres", "[audit]\naudit_prefix = \"LI:\"");
    let setup = pgdiode.run(&["setup", "--yes", "--reason", "CHG-1"]);
    for verdict in ["begun", "done"] {
        assert!(setup.stderr.contains(&format!("LI: setup of pipeline main: {verdict}")), "{setup:?}");
    }
    let quiet = ground.pgdiode().run(&["resync", "public.users"]);
    assert!(!quiet.stderr.contains("audit"), "{quiet:?}");
}
