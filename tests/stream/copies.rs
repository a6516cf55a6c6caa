//! A copy whose snapshot is not what is read, or whose pieces do not all arrive.

use super::{Ends, Pair, stop};

/// A rewrite does not keep to snapshots: to the copy's, the table looks empty.
#[test]
fn a_table_rewritten_while_it_is_copied_is_copied_again() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table t (id int primary key, v int); insert into t select n, n from generate_series(1, 100) n",
    );
    pair.publish("t");
    let running = pair.begin_and_copy();
    let reader = pair.target.spawn_psql("postgres", "begin; lock table t; select pg_sleep(1000)");
    let locks = |granted: bool| {
        format!(
            "select exists (select from pg_locks where relation = 't'::regclass and granted = {granted} \
             and mode = 'AccessExclusiveLock')"
        )
    };
    pair.wait_at_target(&locks(true), "the lock");
    pair.pgdiode.run(&["resync", "public.t"]).success();
    pair.wait_at_target(&locks(false), "the copy to wait, with its snapshot");
    pair.at_source("alter table t alter v type int using v + 1");
    pair.at_target("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(1000)' and pid <> pg_backend_pid()");
    assert!(reader.wait().is_err(), "the lock was held until it was taken away");
    pair.assert_alike();
    stop(running);
}

/// A trigger that fires at commit stands for a connection that breaks there.
#[test]
fn a_piece_that_does_not_arrive_leaves_the_table_uncopied() {
    let pair =
        Pair::start(Ends { sections: "[pipeline.main.copy]\nsplit_mb = 1\njobs = 2\n", ..Ends::default() });
    pair.at_source(
        "create table t (id int primary key, v text);
         insert into t select n, repeat('x', 1000) from generate_series(1, 2000) n",
    );
    pair.publish("t");
    let running = pair.begin_and_copy();
    // The piece with row 2000 ends after the one with row 1 has failed.
    pair.at_target(
        "create function refuse() returns trigger language plpgsql as $$ begin
           if new.id = 1 then raise exception 'refused at commit'; end if;
           while not exists (select from pgdiode.relation where table_name = 't' and state = 'quarantined') loop
             perform pg_sleep(0.02);
           end loop;
           return new; end $$;
         create constraint trigger refuse after insert on t deferrable initially deferred
           for each row when (new.id = 1) execute function refuse();
         create trigger wait before insert on t for each row when (new.id = 2000) execute function refuse();
         alter table t enable always trigger refuse; alter table t enable always trigger wait",
    );
    pair.pgdiode.run(&["resync", "public.t"]).success();
    assert!(pair.quarantine_of("public.t").contains("refused at commit"));
    pair.catch_up();
    assert!(pair.quarantine_of("public.t").contains("refused at commit"));
    stop(running);
}

/// A snapshot pins rows, not the catalog.
#[test]
fn columns_that_come_and_go_while_a_table_is_copied_are_not_mistaken() {
    let pair = Pair::start(Ends::default());
    let tables = ["added", "dropped", "renamed"];
    for table in tables {
        pair.at_source(&format!(
            "create table {table} (id int primary key, v text, w text); insert into {table} select n, 'v', 'w' from generate_series(1, 100) n"
        ));
    }
    pair.publish(&tables.join(", "));
    let running = pair.begin_and_copy();
    let lock = "select count(*) > 0 from pg_locks where relation = 'added'::regclass and mode = 'AccessExclusiveLock' and";
    let reader = pair.target.spawn_psql("postgres", "begin; lock table added; select pg_sleep(1000)");
    pair.wait_at_target(&format!("{lock} granted"), "the lock");
    pair.pgdiode.run(&["resync", "public.added", "public.dropped", "public.renamed"]).success();
    pair.wait_at_target(&format!("{lock} not granted"), "the copy to wait, with its snapshot");
    pair.at_source(
        "alter table added add column c int default 5; insert into added values (101, 'x', 'y', 6);
         alter table dropped drop column v; insert into dropped values (101, 'y');
         alter table renamed rename column v to x; insert into renamed values (101, 'x', 'y')",
    );
    pair.at_target("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(1000)' and pid <> pg_backend_pid()");
    assert!(reader.wait().is_err(), "the lock was held until it was taken away");
    pair.catch_up();
    for table in tables {
        let state = pair.state_of(&format!("public.{table}"));
        let others: Vec<&str> = tables.into_iter().filter(|other| *other != table).collect();
        let differences = pair.differences(&others);
        assert!(
            state.starts_with("quarantined: ") || differences.is_empty(),
            "{table} is {state}: {differences:?}"
        );
    }
    pair.pgdiode.run(&["resync", "public.added", "public.dropped", "public.renamed"]).success();
    pair.wait_at_target(
        "select count(*) = 3 from pgdiode.relation where state = 'ready' and table_name <> 'pulse'",
        "the copies",
    );
    pair.assert_alike();
    stop(running);
}

/// A lock that outlives its piece keeps the TRUNCATE waiting, and behind it what the copy itself still needs.
#[test]
fn a_table_that_is_truncated_all_the_time_is_copied() {
    let pair = Pair::start(Ends::default());
    pair.at_source(
        "create table big (id int primary key, v text); create table staging (id int primary key);
         insert into big select n, repeat('x', 100) from generate_series(1, 50000) n",
    );
    pair.publish("big, staging");
    let writer = pair.source.spawn_psql(
        "postgres",
        "do $$ begin for n in 1 .. 400 loop
           truncate staging; insert into staging select generate_series(1, 50); commit; perform pg_sleep(0.005);
         end loop; end $$",
    );
    let running = pair.begin();
    writer.wait().expect("the writer is not kept waiting");
    pair.assert_alike();
    stop(running);
}
