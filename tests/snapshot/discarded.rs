//! What was changed in a replica, and goes out of sight with it, is said before.

use super::*;

fn discarded(pgdiode: &PgdiodeRun) -> Vec<String> {
    let told: serde_json::Value = serde_json::from_str(&pgdiode.run(&["sync", "--json"]).success()).unwrap();
    let list = told["discarded"].as_array().expect("a list").iter();
    list.map(|one| {
        let text = |key: &str| one[key].as_str().expect("a text").to_owned();
        format!("{}: {} +{} -{}", text("object"), text("what"), one["rows_written"], one["rows_gone"])
    })
    .collect()
}

const SCHEMA: &str = "
    create table kind (id int primary key); insert into kind select generate_series(1, 10);
    create table gone (id int); insert into gone values (1), (2);
    create unlogged table scratch (id serial);
    create view kinds as select id from kind;
    create type mood as enum ('calm');
    create function one() returns int language sql as 'select 1';
    alter table item add constraint named check (v <> '');
    create table wide (id int, at date) partition by range (at);
    create table wide_1 partition of wide for values from ('2024-01-01') to ('2025-01-01');
    insert into wide values (1, '2024-02-29')";

#[test]
fn what_was_changed_in_a_replica_is_told() {
    let ground = Ground::new();
    ground.source.psql("app", SCHEMA);
    let pgdiode = ground.pgdiode("");
    assert_eq!(discarded(&pgdiode), Vec::<String>::new(), "the first replaces nothing");
    // What servers do by themselves, and readers, changes nothing.
    ground
        .target
        .psql("li", "analyze; begin; select * from item for update; commit; reindex table item; checkpoint");
    ground.target.psql("li", "vacuum (freeze)");
    ground.target.psql("li", "vacuum full kind");
    assert_eq!(discarded(&pgdiode), Vec::<String>::new(), "nothing was changed");

    ground.target.psql(
        "li",
        "insert into item select n, 'own' from generate_series(2001, 2007) n; update item set v = 'own' where id <= 5;
         delete from item where id between 101 and 103; delete from kind where id = 1; drop table gone; truncate scratch;
         insert into wide values (2, '2024-03-01');
         create table own (id serial primary key, v text); insert into own (v) values ('a'), ('b');
         create schema li_local; create table li_local.t (id int);
         create view seen as select 1 as one; create or replace view kinds as select id from kind where id > 0;
         create or replace function one() returns int language sql as 'select 2'; create function two() returns int language sql as 'select 2';
         alter type mood add value 'angry'; alter table stamp add column more int; create index on stamp (generation);
         create role visitor; grant select on stamp to visitor; create sequence counted;
         alter table item drop constraint named; alter table item add constraint named check (v <> 'x');
         select lo_create(0)",
    );
    let expected = [
        "function public.one(): changed +0 -0",
        "function public.two(): changed +0 -0",
        "index public.stamp_generation_idx: added +0 -0",
        "large objects: written 1 +0 -0",
        "schema li_local: changed +0 -0",
        "sequence public.counted: added +0 -0",
        "table constraint named on public.item: changed +0 -0",
        "table li_local.t: added +0 -0",
        "table public.gone: dropped +0 -2",
        "table public.item: rows +12 -8",
        "table public.kind: rows +0 -1",
        "table public.own: added +2 -0",
        "table public.stamp: changed +0 -0",
        "table public.stamp: granted to visitor +0 -0",
        "table public.wide_1: rows +1 -0",
        "type public.mood: changed +0 -0",
        "view public.kinds: changed +0 -0",
        "view public.seen: added +0 -0",
    ];
    let mut running = pgdiode.spawn(&["sync"]);
    assert!(running.wait().success());
    let said = running.stderr();
    assert!(
        said.contains("will be discarded: table public.item: 12 rows written since, 8 rows of the copy"),
        "{said}"
    );
    assert!(said.contains("discarded: table public.own: added, with 2 rows"), "{said}");
    let noted = "select string_agg((d->>'object') || ': ' || (d->>'what') || ' +' || (d->>'rows_written') || ' -' || (d->>'rows_gone'), e'\\n'
                                   order by (d->>'object') collate \"C\", d->>'what')
                   from pgdiode.run, jsonb_array_elements(discarded) d where id = (select max(id) from pgdiode.run)";
    assert_eq!(ground.control(noted).lines().collect::<Vec<_>>(), expected);
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("discarded function public.one(): changed"), "{status}");
    assert!(status.contains("and 8 more"), "{status}");

    // A generation that serves again is compared with what its own sync had put there.
    ground.target.psql("li_gen_2", "select 1");
    pgdiode.run(&["rollback"]).success();
    assert_eq!(discarded(&pgdiode).len(), expected.len());
    assert_eq!(discarded(&pgdiode), Vec::<String>::new());
}

/// However long the copy takes, the last look comes after it.
#[test]
fn what_is_changed_while_the_next_copy_is_made_is_told() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    let mut running = ground.held_sync(&pgdiode);
    ground.target.psql("li", "insert into item values (2001, 'own'); delete from item where id = 1");
    ground.let_copy_go();
    assert!(running.wait().success());
    let said = running.stderr();
    assert!(
        said.contains("discarded: table public.item: 1 rows written since, 1 rows of the copy"),
        "{said}"
    );
}

#[test]
fn a_database_that_no_sync_made_is_discarded_whole() {
    let ground = Ground::new();
    ground.target.psql("postgres", "create database li");
    ground.target.psql("li", "create table own (id int)");
    let said = ground.pgdiode("").run(&["sync", "--adopt"]).stderr;
    assert!(said.contains("discarded: database \"li\": all that was in it"), "{said}");
}
