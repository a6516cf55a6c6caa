//! The test ground is tested too: a harness that cannot fail proves nothing.

use crate::harness::{Cluster, Version};

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
    let asleep = "select exists (select from pg_stat_activity where wait_event = 'PgSleep')";
    cluster.wait_until("postgres", asleep, "the sleeper");
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
fn an_error_in_sql_is_an_error_and_so_is_a_condition_never_met() {
    let cluster = Cluster::start(Version::V15, &[]);
    let error =
        cluster.try_psql("postgres", "select 1; select 1/0; select 2").expect_err("a division by zero");
    assert!(error.contains("division by zero"), "{error}");
}

#[test]
fn a_scram_user_needs_its_password() {
    let cluster = Cluster::start(Version::V15, &[]);
    cluster.add_scram_user("with \"quote", "p@ss/w'ord", "replication");
    let open = cluster.conninfo_as("with \"quote", "postgres");
    assert!(
        cluster.try_psql_at(&open, "select 1").expect_err("no password").contains("no password supplied")
    );
    let with_password = format!("{open}?password=p%40ss%2Fw%27ord");
    assert_eq!(cluster.try_psql_at(&with_password, "select current_user"), Ok("with \"quote".to_owned()));
}
