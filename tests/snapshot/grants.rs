//! Who may read a replica may do so in every copy, and no more.

use super::*;

const READERS: &str = "-- who reads
grant usage on schema public to viewer;
grant select on all tables in schema public to viewer;
do $$ begin execute format('grant select on %s to viewer', 'public.totals'); end $$;
";

/// A configuration with `sql` as its grants, and the target's user not a superuser.
fn with_grants(ground: &Ground, sql: &str) -> PgdiodeRun {
    let pgdiode = ground.configured(
        &ground.target.conninfo_as("li_owner", "li"),
        "[pipeline.li.snapshot]\ngrants = \"readers.sql\"",
    );
    std::fs::write(pgdiode.directory().join("readers.sql"), sql).unwrap();
    pgdiode
}

fn ground() -> Ground {
    let ground = Ground::new();
    ground.target.psql(
        "postgres",
        "create role li_owner login createdb; grant pg_signal_backend to li_owner; create role viewer login",
    );
    ground
}

#[test]
fn readers_may_read_every_copy_and_no_more() {
    let ground = ground();
    let pgdiode = with_grants(&ground, READERS);
    let viewer = ground.target.conninfo_as("viewer", "li");
    let may_only_read = |what: &str| {
        for read in ["select count(*) from item", "select generation from stamp", "select items from totals"]
        {
            ground.target.try_psql_at(&viewer, read).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        for write in [
            "delete from item",
            "update stamp set generation = 9",
            "create table own (id int)",
            "truncate item",
        ] {
            let error = ground.target.try_psql_at(&viewer, write).unwrap_err();
            assert!(
                error.contains("permission denied") || error.contains("must be owner"),
                "{what}: {error}"
            );
        }
    };
    sync(&pgdiode).success();
    may_only_read("the first");
    ground.source.psql("app", "create table later (id int); insert into later values (1)");
    sync(&pgdiode).success();
    may_only_read("the second");
    assert_eq!(ground.target.try_psql_at(&viewer, "select id from later").unwrap(), "1");
    pgdiode.run(&["rollback"]).success();
    may_only_read("the first, again");
    // Without the file nobody may.
    sync(&ground.configured(&ground.target.conninfo_as("li_owner", "li"), "")).success();
    assert!(ground.target.try_psql_at(&viewer, "select count(*) from item").is_err());
}

#[test]
fn a_copy_whose_grants_fail_does_not_serve() {
    let ground = ground();
    sync(&with_grants(&ground, READERS)).success();
    ground.source.psql("app", "update stamp set generation = 2");
    let failing = with_grants(&ground, &format!("{READERS}\ngrant select on item\n  to nobody;\n"));
    let said = sync(&failing).failure(4);
    assert!(said.contains("readers.sql:6: grant select on item"), "{said}");
    assert!(said.contains("role \"nobody\" does not exist"), "{said}");
    assert_eq!((ground.stamp().as_str(), ground.last_verdict().as_str()), ("1", "not promoted"));
    assert!(!ground.databases().contains("shadow"), "{}", ground.databases());

    let runs = ground.control("select count(*) from pgdiode.run");
    for (sql, what) in [
        ("grant usage on schema public to viewer;\nCommit;", "readers.sql:2: \"Commit\" in a file of grants"),
        ("\\connect postgres", "readers.sql:1: a command of psql"),
    ] {
        let said = sync(&with_grants(&ground, sql)).failure(2);
        assert!(said.contains(what), "{said}");
    }
    let missing = with_grants(&ground, "");
    std::fs::remove_file(missing.directory().join("readers.sql")).unwrap();
    let said = sync(&missing).failure(2);
    assert!(said.contains("cannot read") && said.contains("readers.sql"), "{said}");
    missing.run(&["check"]).failure(3);
    assert_eq!(ground.control("select count(*) from pgdiode.run"), runs, "refused before anything starts");
}
