//! What servers, databases and roles set for every session, and databases of other encodings.

use std::fs;

use super::{Ends, Pair, stop};
use crate::harness::Version;

const UNKIND: &[(&str, &str)] = &[
    ("array_nulls", "off"),
    ("bytea_output", "escape"),
    ("client_encoding", "latin1"),
    ("datestyle", "SQL, DMY"),
    ("default_transaction_isolation", "repeatable read"),
    ("extra_float_digits", "-15"),
    ("intervalstyle", "sql_standard"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("timezone", "Asia/Kolkata"),
    ("transform_null_equals", "on"),
    ("xmloption", "document"),
];

#[test]
fn values_mean_the_same_whatever_the_servers_are_set_to() {
    let pair = Pair::start(Ends {
        source_settings: UNKIND,
        target_settings: UNKIND,
        stream: "binary = \"off\"",
        sections: "[pipeline.main.copy]\nformat = \"text\"\n",
        ..Ends::default()
    });
    pair.at_source(
        "create table t (id int primary key, ts text[], n int[], at timestamptz, d date, i interval, f float8, b bytea, x xml,
           m money, s text)",
    );
    let insert = |from: u32, to: u32| {
        pair.at_source(&format!(
            "set array_nulls = on; set xmloption = content; set standard_conforming_strings = on;
             insert into t select n, '{{NULL,\"NULL\",a}}', array[1, null], '2020-03-04 05:06:07.89+01', '2020-02-03',
               '1 mon -2 days 03:04:05', 1.0 / 3, '\\x00ff5c', '<a/>x', '1234.5', E'a\\\\b''c' from generate_series({from}, {to}) n"
        ));
    };
    insert(1, 10);
    pair.publish("t");
    let running = pair.begin_and_copy();
    pair.assert_alike();
    assert_eq!(pair.state_of("public.t"), "ready");
    insert(11, 20);
    insert(21, 200);
    pair.assert_alike();
    stop(running);
}

#[test]
fn sessions_outlast_what_the_servers_allow_others() {
    let settings = &[("idle_session_timeout", "1s"), ("transaction_timeout", "1s")];
    let pair = Pair::start(Ends {
        versions: (Version::V17, Version::V17),
        source_settings: settings,
        target_settings: settings,
        ..Ends::default()
    });
    pair.at_source("create table t (id int primary key, v int)");
    pair.publish("t");
    let running = pair.begin_and_copy();
    // One transaction at the target takes longer than it may, while other sessions have nothing to do.
    let lock = pair.target.spawn_psql(
        "postgres",
        "set transaction_timeout = 0; begin; lock table t; select pg_sleep(3); commit",
    );
    pair.wait_at_target(
        "select exists (select from pg_locks where relation = 't'::regclass and mode = 'AccessExclusiveLock' and granted)",
        "the lock",
    );
    pair.at_source("insert into t values (101, 101)");
    lock.wait().expect("the lock is held for its time");
    pair.assert_alike();
    assert!(!running.stderr().contains("trying again"), "{}", running.stderr());
    stop(running);
}

#[test]
fn databases_of_other_encodings_are_carried() {
    for encoding in ["latin1", "sql_ascii"] {
        let pair = Pair::start(Ends::default());
        pair.at_source(&format!("create database d encoding '{encoding}' template template0"));
        pair.at_target("create database d");
        let config = fs::read_to_string(pair.pgdiode.config_path()).expect("a configuration");
        fs::write(pair.pgdiode.config_path(), config.replace("/postgres\"", "/d\"")).expect("written");
        pair.source.psql(
            "d",
            "create table \"größe\" (id int primary key, \"ö\" text); insert into \"größe\" values (1, 'äöü');
             create publication pgdiode_main for table \"größe\"",
        );
        pair.pgdiode.run(&["start", "--once-caught-up"]).success();
        pair.source.psql(
            "d",
            "insert into \"größe\" values (2, 'ß'); update \"größe\" set \"ö\" = 'é' where id = 1",
        );
        pair.pgdiode.run(&["start", "--once-caught-up"]).success();
        assert_eq!(pair.target.psql("d", "select \"ö\" from \"größe\" order by id"), "é\nß", "{encoding}");
        pair.pgdiode.run(&["verify"]).success();
    }
}
