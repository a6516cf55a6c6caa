//! The test ground is tested too: a harness that cannot fail proves nothing.

use crate::harness::{Cluster, PgdiodeRun, Proxy, Rng, Version, load_fixtures, work};

#[test]
fn every_version_starts_with_an_identity_of_its_own() {
    let mut identifiers = Vec::new();
    for version in Version::ALL {
        for _ in 0..2 {
            let cluster = Cluster::start(version, &[("work_mem", "5MB")]);
            let number = cluster.psql("postgres", "show server_version_num");
            assert_eq!(number[..2], version.major().to_string());
            assert_eq!(cluster.psql("postgres", "show wal_level; show work_mem"), "logical\n5MB");
            identifiers.push(cluster.psql("postgres", "select system_identifier from pg_control_system()"));
        }
    }
    let count = identifiers.len();
    identifiers.sort();
    identifiers.dedup();
    assert_eq!(identifiers.len(), count, "clusters share a system identifier");
}

#[test]
fn a_killed_server_recovers_and_a_stopped_one_keeps_its_port() {
    let cluster = Cluster::start(Version::V15, &[]);
    cluster.psql("postgres", "create table kept (id int primary key); insert into kept values (1)");
    let port = cluster.port();
    let mut sleeper =
        cluster.spawn_psql("postgres", "begin; insert into kept values (2); select pg_sleep(600)");
    cluster.wait_until("postgres", ASLEEP, "the sleeper");
    assert!(sleeper.is_running());
    cluster.kill9();
    let broken = sleeper.wait().expect_err("its server was killed");
    assert!(broken.contains("connection") || broken.contains("terminated"), "{broken}");
    assert!(cluster.try_psql("postgres", "select 1").is_err(), "a killed server answered");
    cluster.start_again();
    assert!(cluster.log().contains("not properly shut down"), "{}", cluster.log());
    assert_eq!(cluster.psql("postgres", "select * from kept"), "1");
    cluster.stop_immediate();
    cluster.start_again();
    cluster.restart();
    assert_eq!(cluster.port(), port);
    assert_eq!(cluster.psql("postgres", "select * from kept"), "1");
}

#[test]
fn an_error_in_sql_ends_the_statements() {
    let cluster = Cluster::start(Version::V15, &[]);
    let sql = "create table before (); select 1/0; create table after ()";
    let error = cluster.try_psql("postgres", sql).expect_err("a division by zero");
    assert!(error.contains("division by zero"), "{error}");
    assert_eq!(
        cluster.psql("postgres", "select relname from pg_class where relname in ('before', 'after')"),
        "before"
    );
}

#[test]
fn a_scram_user_needs_its_password() {
    let cluster = Cluster::start(Version::V15, &[]);
    cluster.add_scram_user("with space", "p@ss/w'ord", "replication");
    let open = cluster.conninfo_as("with space", "postgres");
    assert!(
        cluster.try_psql_at(&open, "select 1").expect_err("no password").contains("no password supplied")
    );
    let with_password = format!("{open}?password=p%40ss%2Fw%27ord");
    assert_eq!(cluster.try_psql_at(&with_password, "select current_user"), Ok("with space".to_owned()));
}

#[test]
fn the_fixtures_load_and_can_be_worked_on_in_every_version() {
    for version in Version::ALL {
        let cluster = Cluster::start(version, &[]);
        load_fixtures(&cluster, "postgres");
        let mut rng = Rng::from_environment_or(1);
        work(&cluster, "postgres", &mut rng, 50);
        let done: u32 =
            cluster.psql("postgres", "select done from workload.progress").parse().expect("a number");
        assert!((30..=50).contains(&done), "{version}: {done} of 50 transactions committed");
        assert_eq!(cluster.psql("postgres", "select refused from workload.progress"), "0", "{version}");
    }
}

#[test]
fn a_cut_ends_connections_and_a_heal_lets_new_ones_in() {
    let cluster = Cluster::start(Version::V15, &[]);
    let proxy = Proxy::start(cluster.port());
    let through = proxy.conninfo("postgres");
    assert_eq!(cluster.try_psql_at(&through, "select 1"), Ok("1".to_owned()));
    let sleeper = cluster.spawn_psql_at(&through, "select pg_sleep(600)");
    cluster.wait_until("postgres", ASLEEP, "the sleeper");
    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    sleeper.wait().expect_err("its connection was cut");
    cluster.try_psql_at(&through, "select 1").expect_err("the proxy is cut");
    proxy.heal();
    assert_eq!(cluster.try_psql_at(&through, "select 2"), Ok("2".to_owned()));
}

#[test]
fn a_truncated_answer_ends_in_the_middle() {
    let cluster = Cluster::start(Version::V15, &[]);
    let proxy = Proxy::start(cluster.port());
    let through = proxy.conninfo("postgres");
    let before = proxy.forwarded_bytes();
    proxy.truncate_after(100_001);
    let error = cluster
        .try_psql_at(&through, "copy (select n from generate_series(1, 1000000) as n) to stdout")
        .expect_err("the answer was cut off");
    assert!(error.to_lowercase().contains("connection"), "{error}");
    assert_eq!(proxy.forwarded_bytes() - before, 100_001);
    proxy.heal();
    assert_eq!(cluster.try_psql_at(&through, "select 3"), Ok("3".to_owned()));
}

#[test]
fn frozen_data_arrives_after_a_heal_and_delayed_data_arrives() {
    let cluster = Cluster::start(Version::V15, &[]);
    cluster.psql("postgres", "create table t (id int)");
    let proxy = Proxy::start(cluster.port());
    let through = proxy.conninfo("postgres");
    let hold = "select pg_advisory_lock(7); insert into t values (1); select 'arrived'";
    // The lock holds psql until the proxy is frozen, so that what follows must wait.
    let holder = cluster.spawn_psql("postgres", "select pg_advisory_lock(7); select pg_sleep(600)");
    cluster.wait_until("postgres", ASLEEP, "the holder");
    let mut frozen = cluster.spawn_psql_at(&through, hold);
    let waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted)";
    cluster.wait_until("postgres", waits, "the frozen psql");
    proxy.freeze();
    holder.kill();
    cluster.psql(
        "postgres",
        "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'",
    );
    let granted = "select exists (select from pg_locks where locktype = 'advisory' and granted)
        and not exists (select from pg_locks where locktype = 'advisory' and not granted)";
    cluster.wait_until("postgres", granted, "the lock");
    assert!(frozen.is_running());
    assert_eq!(cluster.psql("postgres", "select count(*) from t"), "0", "a statement passed the frost");
    proxy.heal();
    assert!(frozen.wait().is_ok_and(|output| output.ends_with("arrived")));
    assert_eq!(cluster.psql("postgres", "select count(*) from t"), "1");

    proxy.delay(30);
    assert_eq!(cluster.try_psql_at(&through, "select 4"), Ok("4".to_owned()));
}

#[test]
fn a_half_closed_connection_still_takes_what_the_client_sends() {
    let cluster = Cluster::start(Version::V15, &[]);
    let proxy = Proxy::start(cluster.port());
    let sleeper = cluster.spawn_psql_at(&proxy.conninfo("postgres"), "select pg_sleep(600)");
    cluster.wait_until("postgres", ASLEEP, "the sleeper");
    proxy.half_close();
    // psql takes the end of the server's data for the end of the server.
    let error = sleeper.wait().expect_err("the server's half was closed");
    assert!(error.contains("server closed the connection unexpectedly"), "{error}");
}

#[test]
fn runs_of_the_binary_see_their_own_environment_only() {
    let run = PgdiodeRun::new("# empty\n");
    assert!(run.config_path().exists());
    let output = run.run(&["--version"]);
    assert!(output.status.success(), "{}", output.stderr);
    let mut running = run.spawn(&["--version"]);
    assert!(running.wait().success());
}

#[test]
fn the_same_seed_throws_the_same_dice() {
    let throw = |seed| Rng::with_seed(seed).u64(..);
    assert_eq!(throw(7), throw(7));
    assert_ne!(throw(7), throw(8));
}

const ASLEEP: &str = "select exists (select from pg_stat_activity where wait_event = 'PgSleep')";

#[test]
fn the_fixtures_pass_through_pg_dump() {
    for version in [Version::V15, Version::V18] {
        let source = Cluster::start(version, &[]);
        load_fixtures(&source, "postgres");
        let mut pg_dump = source.tools().command("pg_dump");
        let dump = pg_dump.arg(source.conninfo("postgres")).output().expect("pg_dump runs");
        assert!(dump.status.success(), "{version}: {}", String::from_utf8_lossy(&dump.stderr));
        let target = Cluster::start(version, &[]);
        target.psql("postgres", "create role fixture_reader; create role \"Fixture Owner\"");
        target.psql("postgres", &String::from_utf8(dump.stdout).expect("a dump is UTF-8"));
        // As text: some of the types have no equality.
        let digest = "select string_agg(c.oid::regclass || ' ' || md5(query_to_xml(
                format('select t::text from only %s as t order by 1', c.oid::regclass), true, false, '')::text), E'\\n'
                order by c.oid::regclass::text)
            from pg_class c where relkind in ('r', 'm') and relispopulated and relnamespace::regnamespace::text !~ '^pg_|^information_'";
        let expected = source.psql("postgres", digest);
        assert!(expected.lines().count() > 50, "the digest sees {expected}");
        assert_eq!(target.psql("postgres", digest), expected, "{version}");
        source.psql("postgres", "update odd.documents set doc = '{\"a\":  1}' where id = 1");
        assert_ne!(source.psql("postgres", digest), expected, "the digest is blind");
    }
}

#[test]
fn sessions_can_work_on_the_fixtures_at_once() {
    let cluster = Cluster::start(Version::V17, &[("deadlock_timeout", "20ms")]);
    load_fixtures(&cluster, "postgres");
    let runs =
        [1, 2, 3].map(|seed| cluster.spawn_psql("postgres", &format!("call workload.run({seed}, 30)")));
    for run in runs {
        run.wait().expect("a session among others");
    }
}
