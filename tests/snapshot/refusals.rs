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
    // Another home, so that no lock file is shared: another host.
    let elsewhere = ground.pgdiode("");
    let mut first = ground.held_sync(&pgdiode);
    for args in [&["sync"][..], &["rollback"]] {
        let said = elsewhere.run(args).failure(5);
        assert!(
            said.contains("is running already: ")
                && said.contains(&format!("process {} since 20", first.pid())),
            "{said}"
        );
        let said = pgdiode.run(args).failure(5);
        let is_named = said.contains("li.lock is held by process ") && said.contains(": sync of pipeline li");
        assert!(is_named && said.contains(&format!("process {} on ", first.pid())), "{said}");
    }
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("sync 1 running, copying"), "{status}");
    ground.let_copy_go();
    assert!(first.wait().success(), "{}", first.stderr());
    assert_eq!(ground.stamp(), "1");
}

/// Which end it was, in the history and in the checkpoint file too; the replica serves on.
#[test]
fn an_end_that_does_not_let_us_in_is_named() {
    let ground = Ground::new();
    let keyed = "snapshot.checkpoint_file = \"checkpoint.json\"";
    sync(&ground.pgdiode(keyed)).success();
    for (cluster, user) in [(&ground.source, "reader"), (&ground.target, "writer")] {
        cluster.add_scram_user(user, "right", "superuser");
    }
    let wrong = |uri: String| uri.replacen('@', ":wr0ng@", 1);
    let source = wrong(ground.source.conninfo_as("reader", "app"));
    let target = wrong(ground.target.conninfo_as("writer", "li"));
    let run = |source: &str, target: &str| {
        PgdiodeRun::new(&format!(
            "[pipeline.li]\nmode = \"snapshot\"\nsource = \"{source}\"\ntarget = \"{target}\"\n{keyed}\n"
        ))
    };
    for (pgdiode, end) in [
        (run(&source, &ground.target.conninfo("li")), "source"),
        (run(&ground.source.conninfo("app"), &target), "target"),
    ] {
        let said = sync(&pgdiode).failure(3);
        assert!(said.contains("password authentication failed") && said.contains("hint: "), "{said}");
        assert!(said.contains(end) && !said.contains("wr0ng"), "{said}");
        let told = std::fs::read_to_string(pgdiode.directory().join("checkpoint.json")).unwrap();
        assert!(
            told.contains("password authentication failed") && told.contains("\"failed_syncs\": 1"),
            "{told}"
        );
        assert_eq!(pgdiode.run(&["check"]).status.code(), Some(3));
    }
    let noted = ground.control("select verdict, error ~ 'password' from pgdiode.run order by id");
    assert_eq!(noted, "done|\nfailed|t", "what the target let in is in its history");
    assert_eq!(ground.stamp(), "1");
}

/// A source that is away must not look like a replica that is renewed; one due time that is tried again and again is one
/// run.
#[test]
fn a_sync_that_cannot_begin_is_in_the_history() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    ground.source.stop_fast();
    for arguments in [&["sync"][..], &["sync"], &["sync", "--reason", "due"], &["sync", "--reason", "due"]] {
        pgdiode.run(arguments).failure(6);
    }
    let noted = ground.control(
        "select string_agg(concat_ws(' ', verdict, reason), ', ' order by id), bool_and(error ~ 'cannot connect')
           from pgdiode.run",
    );
    assert_eq!(noted, "done, failed, failed, failed due|t");
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("sync 4 failed") && status.contains("source: cannot connect to"), "{status}");
    ground.source.start_again();
    sync(&pgdiode).success();
    assert_eq!(ground.last_verdict(), "done");
}
