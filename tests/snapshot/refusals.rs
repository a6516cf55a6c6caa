//! What must not be replaced is not, and nothing is written before that is known.

use super::*;

#[test]
fn swapped_credentials_destroy_nothing() {
    let ground = Ground::new();
    ground.target.psql("postgres", "create database li");
    ground.target.psql("li", "create table own (id int)");
    // The replica as the source, production as the target.
    let swapped = PgdiodeRun::new(&format!(
        "[pipeline.li]\nmode = \"snapshot\"\nsource = \"{}\"\ntarget = \"{}\"",
        ground.target.conninfo("li"),
        ground.source.conninfo("app")
    ));
    let before = ground.source.psql("app", "select count(*) from pg_database");
    let said = sync(&swapped).failure(3);
    assert!(said.contains("\"app\" of the target is not empty, and no sync has made it"), "{said}");
    assert!(said.contains("--adopt") && said.contains("swapped"), "{said}");
    assert_eq!(swapped.run(&["check"]).status.code(), Some(3));
    assert_eq!(ground.source.psql("app", "select count(*) from pg_database"), before, "nothing was made");
    assert_eq!(ground.source.psql("app", "select count(*) from item"), "1000");

    // Nor does a sync that ran the right way round make the source a generation.
    sync(&ground.pgdiode("")).failure(3);
    ground.pgdiode("").run(&["sync", "--adopt"]).success();
    sync(&swapped).failure(3);
    assert_eq!(ground.source.psql("app", "select count(*) from item"), "1000");

    let same = ground.configured(&ground.source.conninfo("app"), "");
    sync(&same).failure(2);
    let same = ground.configured(&ground.source.socket_conninfo("app"), "");
    let said = sync(&same).failure(3);
    assert!(said.contains("is the source itself"), "{said}");
}

#[test]
fn somebodys_database_is_replaced_only_when_adopted() {
    let ground = Ground::new();
    ground.target.psql("postgres", "create database li");
    ground.target.psql("li", "create function f() returns int language sql as 'select 1'");
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).failure(3);
    assert_eq!(ground.databases(), "li", "not even a control database is made");
    pgdiode.run(&["sync", "--adopt"]).success();
    assert_eq!(ground.databases(), "li li_gen_1 li_pgdiode");
    sync(&pgdiode).success();
    assert_eq!(ground.databases(), "li li_gen_2 li_pgdiode");

    // A database of the same name that somebody has put in its place is not ours.
    ground.target.psql("postgres", "drop database li");
    ground.target.psql("postgres", "create database li");
    ground.target.psql("li", "create table own (id int)");
    sync(&pgdiode).failure(3);
    assert_eq!(ground.target.psql("li", "select count(*) from own"), "0");
    pgdiode.run(&["sync", "--adopt"]).success();
    assert_eq!(ground.stamp(), "1");
    ground.target.psql("postgres", "drop database li");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "1");
}

#[test]
fn verbs_that_mean_nothing_for_snapshots_say_what_does() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    for (args, hint) in [
        (&["start"][..], "pgdiode sync"),
        (&["start", "--detach"], "pgdiode sync"),
        (&["setup"], "pgdiode sync"),
        (&["stop"], "SIGTERM"),
        (&["verify"], "snapshot.verify"),
        (&["resync", "public.item"], "pgdiode sync"),
        (&["add-tables", "public.item"], "next sync"),
        (&["remove-tables", "public.item"], "next sync"),
        (&["list-tables"], "pgdiode status"),
        (&["reset", "--yes"], "pgdiode generations"),
    ] {
        let said = pgdiode.run(args).failure(2);
        assert!(said.contains("mode = \"snapshot\"") && said.contains(hint), "{args:?}: {said}");
    }
    let stream = PgdiodeRun::new(&format!(
        "[pipeline.main]\nsource = \"{}\"\ntarget = \"{}\"",
        ground.source.conninfo("app"),
        ground.target.conninfo("postgres")
    ));
    for verb in ["sync", "generations", "rollback"] {
        let said = stream.run(&[verb]).failure(2);
        assert!(said.contains("mode = \"stream\""), "{verb}: {said}");
    }
    assert_eq!(ground.databases(), "");
}

#[test]
fn at_most_one_sync_runs() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    let mut first = ground.held_sync(&pgdiode);
    for args in [&["sync"][..], &["rollback"]] {
        let said = pgdiode.run(args).failure(5);
        assert!(
            said.contains("is running already: ")
                && said.contains(&format!("process {} since 20", first.pid())),
            "{said}"
        );
    }
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("sync 1 running, copying"), "{status}");
    ground.let_copy_go();
    assert!(first.wait().success(), "{}", first.stderr());
    assert_eq!(ground.stamp(), "1");
}
