//! A guard that fails, a session that cannot be ended: nothing is swapped, and the reason is everywhere.

use super::*;

fn refused(ground: &Ground, lines: &str, reason: &str) {
    let pgdiode = ground.pgdiode(lines);
    let said = sync(&pgdiode).failure(4);
    assert!(said.contains(reason) && said.contains("hint: "), "{said}");
    assert_eq!(ground.last_verdict(), "not promoted");
    let noted = ground.control("select error from pgdiode.run order by id desc limit 1");
    assert!(noted.contains(reason), "{noted}");
    assert!(pgdiode.run(&["status"]).success().contains(reason));
    assert!(!ground.databases().contains("shadow"), "{}", ground.databases());
}

#[test]
fn a_failed_guard_swaps_nothing() {
    let ground = Ground::new();
    refused(&ground, "snapshot.checks = [\"select false\"]", "it answered false");
    assert_eq!(ground.databases(), "li_pgdiode", "there is no first copy either");
    sync(&ground.pgdiode("snapshot.checks = [\"select count(*) = 1000 from item;\", \"select true\"]"))
        .success();
    ground.source.psql("app", "update stamp set generation = 2");
    refused(&ground, "snapshot.checks = [\"select nonsense\"]", "it failed");
    refused(&ground, "snapshot.checks = [\"select null::bool\"]", "it answered nothing");
    ground.source.psql("app", "delete from item where id > 400");
    refused(&ground, "", "table public.item has 400 rows, the copy that serves has 1000");
    refused(&ground, "snapshot.verify = \"full\"", "more than 50 % are gone");
    assert_eq!(ground.stamp(), "1");
    sync(&ground.pgdiode("snapshot.rows_drop_percent_max = 60")).success();
    assert_eq!(ground.stamp(), "2");
    ground.source.psql("app", "drop table item cascade");
    refused(&ground, "", "public.item has 0 rows");
    ground.pgdiode("").run(&["sync", "--accept-losses"]).success();
    assert_eq!(ground.target.psql("li", "select to_regclass('item') is null"), "t");
}

/// A table whose rows cannot be carried fails the run, with the reason that the copy gives.
#[test]
fn a_replica_without_one_of_its_tables_is_none() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    // What the constraint calls is false at the target: the values do not load.
    ground.source.psql(
        "app",
        "create function is_here() returns bool language sql immutable as $$ select current_database() = 'app' $$;
         create table local (id int check (is_here())); insert into local values (1); update stamp set generation = 2",
    );
    let said = sync(&pgdiode).failure(1);
    assert!(
        said.contains("table public.local could not be copied") && said.contains("violates check"),
        "{said}"
    );
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("failed", "1"));
    assert_eq!(ground.databases(), "li li_pgdiode");
}

/// A prepared transaction cannot be ended by us: the rename gives up, and the replica serves on.
#[test]
fn what_cannot_be_ended_is_named() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    ground.target.psql("li", "begin; delete from item; prepare transaction 'in doubt'");
    ground.source.psql("app", "update stamp set generation = 2");
    let said = sync(&pgdiode).failure(4);
    assert!(
        said.contains("\"li\" is still in use") && said.contains("prepared transaction \"in doubt\""),
        "{said}"
    );
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("not promoted", "1"));
    ground.target.psql("li", "rollback prepared 'in doubt'");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "2");
}
