//! Partitions and tables that leave what is published and come back: what was written meanwhile is never missing in
//! silence.

use super::{Ends, Pair, stop};

const PARTS: &str = "
    create table parts (id int, region text, v text, primary key (id, region)) partition by list (region);
    create table parts_eu partition of parts for values in ('eu');
    create table parts_us partition of parts for values in ('us');
    create table parts_rest partition of parts default;
    create table plain (id int primary key, v text);
    insert into parts select n, (array['eu', 'us', 'asia'])[1 + n % 3], 'v' from generate_series(1, 120) n;
    insert into plain select n, 'v' from generate_series(1, 10) n";

const PARTS_MARS: &str = "
    create table parts_mars (region text not null, id int not null, v text, primary key (id, region));
    insert into parts_mars select 'mars', n, 'before it was attached' from generate_series(1, 50) n;
    alter table parts attach partition parts_mars for values in ('mars')";

fn rows_of(table: &str) -> String {
    format!(
        "select md5(string_agg(r::text, ' ' order by r::text collate \"C\")) from (select id, region, v from {table}) r"
    )
}

/// Waits until the target's table has the source's rows, which nobody writes to.
fn wait_for_rows(pair: &Pair, table: &str) {
    let wanted = pair.at_source(&rows_of(table));
    pair.wait_at_target(
        &format!("select ({}) = '{wanted}'", rows_of(table)),
        &format!("the rows of {table}"),
    );
}

fn copied_at(pair: &Pair, table: &str) -> String {
    pair.at_target(&format!("select copied_at from pgdiode.relation where table_name = '{table}'"))
}

#[test]
fn partitions_that_leave_and_return_are_not_left_behind() {
    let pair = Pair::start(Ends::default());
    pair.at_source(PARTS);
    pair.publish("parts, plain");
    let running = pair.begin_and_copy();
    let others = copied_at(&pair, "parts_eu");

    pair.at_source(
        "alter table parts detach partition parts_us; insert into parts_us values (1000, 'us', 'unseen')",
    );
    let reason = pair.quarantine_of("public.parts_us");
    assert!(reason.contains("it was detached from its parent"), "{reason}");
    let status = pair.pgdiode.run(&["status"]).success();
    assert!(status.contains("reason: it was detached from its parent"), "{status}");
    assert!(
        status.contains("remedy: detach it at the target too; to follow it by itself: pgdiode add-tables"),
        "{status}"
    );
    pair.at_source("insert into parts values (1001, 'eu', 'goes on')");
    pair.pulse();
    pair.assert_alike_now(&[]);

    // What it took meanwhile comes with it.
    pair.at_source("alter table parts attach partition parts_us for values in ('us')");
    wait_for_rows(&pair, "parts_us");
    pair.assert_alike();
    wait_for_rows(&pair, "parts");
    pair.at_source("update parts set v = 'followed' where region = 'us'");
    pair.assert_alike();

    // Too quick to be seen away.
    pair.at_source(
        "begin; alter table parts detach partition parts_us; update parts_us set v = 'unseen' where id < 50;
         delete from parts_us where id > 100; alter table parts attach partition parts_us for values in ('us'); commit",
    );
    wait_for_rows(&pair, "parts_us");
    // The same of a table that leaves the publication.
    pair.at_source(
        "begin; alter publication pgdiode_main drop table plain; update plain set v = 'unseen'; alter publication pgdiode_main add table plain; commit",
    );
    pair.wait_at_target("select count(*) = 10 from plain where v = 'unseen'", "what was written meanwhile");
    // And while nobody runs.
    stop(running);
    pair.at_source("alter table parts detach partition parts_us; update parts_us set v = 'at night'; alter table parts attach partition parts_us for values in ('us')");
    let running = pair.begin();
    wait_for_rows(&pair, "parts_us");

    // One that brings its rows, and becomes a partition here too.
    pair.at_source(PARTS_MARS);
    pair.wait_at_target(
        "select exists (select from pgdiode.relation where table_name = 'parts_mars')",
        "the partition",
    );
    pair.assert_alike();
    wait_for_rows(&pair, "parts");

    // By itself in time: no gap, no copy.
    let before = copied_at(&pair, "parts_mars");
    pair.at_source("alter publication pgdiode_main add table parts_mars");
    pair.wait_at_target(
        "select carried_by like '%,%' from pgdiode.relation where table_name = 'parts_mars'",
        "both ties",
    );
    pair.at_source("alter table parts detach partition parts_mars; insert into parts_mars (id, region) values (7000, 'mars')");
    pair.wait_at_target(
        "select carried_by not like '%,%' from pgdiode.relation where table_name = 'parts_mars'",
        "the other tie",
    );
    pair.assert_alike();
    assert_eq!(copied_at(&pair, "parts_mars"), before);
    assert_eq!(copied_at(&pair, "parts_eu"), others, "what stayed was left alone");

    // What left for good can be forgotten.
    pair.at_source("alter publication pgdiode_main drop table parts_mars, plain");
    let reason = pair.quarantine_of("public.plain");
    assert_eq!(reason, "the publication does not carry it any more");
    pair.quarantine_of("public.parts_mars");
    pair.pgdiode.run(&["remove-tables", "public.plain", "public.parts_mars"]).success();
    pair.assert_alike();
    assert_eq!(
        pair.at_target("select string_agg(r::text, ' ') from pgdiode.relation r where state <> 'ready'"),
        ""
    );
    stop(running);
}

#[test]
fn partitions_of_a_root_that_come_and_go_bring_and_take_their_rows() {
    let pair = Pair::start(Ends::default());
    pair.at_source(PARTS);
    pair.publish_with("parts, plain", "with (publish_via_partition_root = true)");
    let running = pair.begin_and_copy();
    let before = (copied_at(&pair, "parts"), copied_at(&pair, "plain"));

    // A new one is empty, and so are its own partitions.
    pair.at_source(
        "create table parts_moon partition of parts for values in ('moon') partition by range (id);
         create table parts_moon_1 partition of parts_moon default; insert into parts values (1, 'moon', 'new')",
    );
    pair.wait_at_target(
        "select partitions like '%,%,%,%,%' from pgdiode.relation where table_name = 'parts'",
        "the partitions",
    );
    pair.assert_alike();
    assert_eq!((copied_at(&pair, "parts"), copied_at(&pair, "plain")), before, "nothing was copied again");

    pair.at_source("alter table parts detach partition parts_us");
    wait_for_rows(&pair, "parts");
    pair.at_source("insert into parts_us values (1000, 'us', 'unseen'); alter table parts attach partition parts_us for values in ('us')");
    wait_for_rows(&pair, "parts");
    pair.at_source(
        "begin; alter table parts detach partition parts_us; delete from parts_us where id < 50;
         alter table parts attach partition parts_us for values in ('us'); commit",
    );
    wait_for_rows(&pair, "parts");
    // Made, filled and attached at once.
    pair.at_source(&format!("begin; {PARTS_MARS}; commit"));
    wait_for_rows(&pair, "parts");
    pair.at_source("drop table parts_mars; drop table parts_eu");
    wait_for_rows(&pair, "parts");
    pair.at_source("update parts set v = 'followed'");
    pair.assert_alike();
    assert_eq!(copied_at(&pair, "plain"), before.1);
    stop(running);
}

#[test]
fn gaps_quarantine_where_nothing_is_followed() {
    let pair = Pair::start(Ends { stream: "schema_drift = \"quarantine\"", ..Ends::default() });
    pair.at_source(PARTS);
    pair.publish_with("parts, plain", "with (publish_via_partition_root = true)");
    let running = pair.begin_and_copy();
    pair.at_source("alter table parts detach partition parts_us");
    let reason = pair.quarantine_of("public.parts");
    assert!(reason.contains("a partition was detached") && reason.contains("says not to follow"), "{reason}");
    pair.pgdiode.run(&["resync", "public.parts"]).success();
    wait_for_rows(&pair, "parts");
    pair.assert_alike();
    stop(running);
}
