//! What is looked at in a fresh copy before it serves: rows without a parent, the schema's version.

use super::*;

/// Children under a foreign key that was not validated, one of them an orphan at the source already.
const FAMILY: &str = "
    create table family (a int, b text, primary key (a, b)); insert into family values (1, 'x'), (2, 'y');
    create table child (id int primary key, a int, b text);
    insert into child values (1, 1, 'x'), (2, 2, 'y'), (3, 9, 'z'), (4, null, 'z');
    alter table child add constraint child_family foreign key (a, b) references family not valid;
    create table whole (a int, b text);
    insert into whole values (null, null), (1, 'x'), (null, 'z');
    alter table whole add constraint whole_family foreign key (a, b) references family match full not valid;
    create table strict (item int references item) partition by list (item);
    create table strict_7 partition of strict for values in (7); insert into strict values (7)";

/// Takes a parent from a copy and puts another row in its place, so that counts agree.
const SPOIL: &str = "
    create function spoil() returns int language plpgsql as $$ begin
        if current_database() like '%shadow%' then
            set local session_replication_role = replica;
            update public.family set a = 77 where a = 2;
        end if;
        return 1;
    end $$;
    create materialized view spoils as select public.spoil() as one";

#[test]
fn a_copy_with_more_orphans_than_its_source_does_not_serve() {
    let ground = Ground::new();
    ground.source.psql("app", FAMILY);
    let pgdiode = ground.pgdiode("");
    let first = sync(&pgdiode);
    for noted in [
        "public.child has rows without a parent in public.family (child_family), as its source has",
        "public.whole has rows without a parent in public.family (whole_family), as its source has",
    ] {
        assert!(first.stderr.contains(noted) && first.stderr.contains("rows=1"), "{first:?}");
    }
    assert!(!first.stderr.contains("strict"), "{first:?}");
    first.success();
    assert_eq!(ground.target.psql("li", "select count(*) from child"), "4");

    ground.source.psql("app", SPOIL);
    ground.source.psql("app", "update stamp set generation = 2");
    let said = sync(&pgdiode).failure(4);
    let reason = "foreign key child_family of public.child: 2 rows without a parent in public.family, for example (2, y), \
                  1 at the source";
    assert!(said.contains(reason), "{said}");
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("not promoted", "1"));
    assert!(pgdiode.run(&["status"]).success().contains(reason));
    sync(&ground.pgdiode("snapshot.refuse_orphans = false")).success();
    assert_eq!(ground.stamp(), "2");
}

/// The source was counted at the exported moment, however long ago, and the copy is counted when it is whole.
#[test]
fn a_copy_with_other_rows_than_its_source_does_not_serve() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    // What the source does meanwhile is nothing that the moment shows.
    let mut running = ground.held_sync(&pgdiode);
    ground.source.psql("app", "insert into item values (5000, 'new'); update stamp set generation = 2");
    ground.let_copy_go();
    assert!(running.wait().success(), "{}", running.stderr());
    assert_eq!(
        (ground.stamp().as_str(), ground.target.psql("li", "select count(*) from item").as_str()),
        ("1", "1000")
    );

    ground.source.psql(
        "app",
        &SPOIL.replace("update public.family set a = 77 where a = 2", "delete from public.item where id = 7"),
    );
    let said = sync(&pgdiode).failure(4);
    let reason =
        "table public.item is not what it is at the source: 1001 rows at the source, 1000 in its copy";
    assert!(said.contains(reason), "{said}");
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("not promoted", "1"));
}

/// A table that is sent in pieces is counted by itself.
#[test]
fn a_copy_in_pieces_with_other_rows_than_its_source_does_not_serve() {
    let ground = Ground::new();
    ground.source.psql(
        "app",
        "create table large as select i as id, repeat('x', 900) as filler from generate_series(1, 4000) i",
    );
    let pgdiode = ground.pgdiode("copy = { split_mb = 1, jobs = 2 }");
    sync(&pgdiode).success();
    assert_eq!(ground.target.psql("li", "select count(*), sum(id) from large"), "4000|8002000");

    ground.source.psql(
        "app",
        &SPOIL
            .replace("update public.family set a = 77 where a = 2", "delete from public.large where id = 7"),
    );
    let said = sync(&pgdiode).failure(4);
    let reason =
        "table public.large is not what it is at the source: 4000 rows at the source, 3999 in its copy";
    assert!(said.contains(reason), "{said}");
}

/// A constraint that the source itself breaks cannot be made; parents that are not carried were the operator's decision.
#[test]
fn a_key_that_the_source_breaks_is_named() {
    let ground = Ground::new();
    ground.source.psql("app", FAMILY);
    let keyed = "tables = [\"*.*\", \"!public.family\"]";
    let without = sync(&ground.pgdiode(keyed));
    assert!(without.stderr.contains("child_family: it refers to a table that is not carried"), "{without:?}");
    without.success();
    ground.source.psql("app", "set session_replication_role = replica; delete from item where id = 7");
    let said = sync(&ground.pgdiode(keyed)).failure(3);
    assert!(said.contains("strict_item_fkey") && said.contains("Key (item)=(7) is not present"), "{said}");
    assert_eq!((ground.last_verdict().as_str(), ground.stamp().as_str()), ("failed", "1"));
}

#[test]
fn another_schema_version_does_not_serve() {
    let ground = Ground::new();
    ground.source.psql("app", "create table schema_version (version int, note text); insert into schema_version values (72, null), (3, 'b')");
    let keyed = "snapshot.schema_version = \"select * from schema_version;\"";
    sync(&ground.pgdiode(keyed)).success();
    let noted = ground.control(
        "select details ->> 'schema_version' from pgdiode.audit where verdict = 'done' and action = 'sync'",
    );
    assert_eq!(noted, "(3,b) (72,)");

    // Not the same: another database answers otherwise.
    ground.source.psql("app", "update stamp set generation = 2");
    let named = "snapshot.schema_version = \"select current_database(), 1\"";
    let said = sync(&ground.pgdiode(named)).failure(4);
    assert!(said.contains("the source answers (app,1), its fresh copy (li_shadow_2,1)"), "{said}");
    // It is not carried, or there is no such table at all.
    let left_out = format!(
        "tables = [\"*.*\", \"!public.schema_version\"]\nsnapshot.rows_drop_percent_max = 100\n{keyed}"
    );
    let said = sync(&ground.pgdiode(&left_out)).failure(4);
    assert!(said.contains("could not be asked of the fresh copy") && said.contains("hint: "), "{said}");
    let said = sync(&ground.pgdiode("snapshot.schema_version = \"select nonsense\"")).failure(4);
    assert!(said.contains("could not be asked of the source"), "{said}");
    let said =
        sync(&ground.pgdiode("snapshot.schema_version = \"select * from item, item as other\"")).failure(4);
    assert!(said.contains("more than 1000 rows"), "{said}");
    assert_eq!((ground.stamp().as_str(), ground.databases().as_str()), ("1", "li li_pgdiode"));

    // The source has moved on: told, and not refused.
    ground.source.psql("app", "update schema_version set version = 73 where version = 72");
    let moved = sync(&ground.pgdiode(keyed));
    let told = "the schema's version has changed since the copy that serves before=\"(3,b) (72,)\" now=\"(3,b) (73,)\"";
    assert!(moved.stderr.contains(told), "{moved:?}");
    moved.success();
    assert_eq!(ground.stamp(), "2");
}
