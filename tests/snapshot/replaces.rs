//! A sync replaces the replica by what the source holds, settings and grants of the database included.

use super::*;

#[test]
fn a_sync_replaces_all_that_was_there() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    assert_eq!(pgdiode.run(&["check"]).status.code(), Some(0));
    assert_eq!(ground.databases(), "", "a check writes nothing");
    let status = pgdiode.run(&["status"]).success();
    assert!(status.contains("nothing yet"), "{status}");

    pgdiode.run(&["sync", "--reason", "first"]).success();
    assert_eq!(ground.databases(), "li li_pgdiode");
    assert_eq!(ground.target.psql("li", "select count(*), max(v) from item"), "1000|v999");
    assert_eq!(ground.target.psql("li", "select items from totals"), "1000");
    assert_eq!(ground.target.psql("li", "select to_regnamespace('pgdiode') is null"), "t");
    assert_eq!(ground.target.psql("li", "select reltuples from pg_class where relname = 'item'"), "1000");

    ground.target.psql(
        "li",
        "create table own (id int); delete from item; create role reader;
         alter database li set work_mem = '7MB'; alter database li set search_path = \"$user\", public, \"Odd name\";
         alter role reader in database li set statement_timeout = '9s'; comment on database li is 'it''s ours';
         alter database li connection limit 42; revoke connect on database li from public;
         grant connect on database li to reader with grant option",
    );
    let belongs = "select datconnlimit, shobj_description(d.oid, 'pg_database'),
                          (select string_agg(a::text, ' ' order by a::text) from unnest(datacl) a),
                          (select string_agg(setrole::regrole || array_to_string(setconfig, ';'), ' ' order by setrole) from pg_db_role_setting where setdatabase = d.oid)
                     from pg_database d where datname = 'li'";
    let before = ground.target.psql("postgres", belongs);
    assert!(before.contains("42|it's ours|") && before.contains("Odd name"), "{before}");

    ground.source.psql("app", "delete from item where id > 900; update stamp set generation = 2");
    pgdiode.run(&["sync", "--reason", "second"]).success();
    assert_eq!(ground.target.psql("li", "select count(*) from item"), "900");
    assert_eq!(ground.target.psql("li", "select to_regclass('own') is null"), "t", "local changes are gone");
    assert_eq!(ground.stamp(), "2");
    assert_eq!(ground.target.psql("postgres", belongs), before);
    assert_eq!(ground.databases(), "li li_gen_1 li_pgdiode");
    assert_eq!(ground.target.psql("li_gen_1", "select count(*) from own"), "0", "the one before is kept");

    pgdiode.run(&["sync"]).success();
    assert_eq!(ground.databases(), "li li_gen_2 li_pgdiode", "one is kept");
    let runs = ground.control("select string_agg(verdict || ' ' || coalesce(reason, '-') || ' ' || rows, ', ' order by id) from pgdiode.run");
    assert_eq!(runs, "done first 1001, done second 901, done - 901");

    let status: serde_json::Value =
        serde_json::from_str(&pgdiode.run(&["status", "--json"]).success()).unwrap();
    assert_eq!(status["serving"]["number"], 3);
    assert_eq!(status["last_run"]["verdict"], "done");
    assert_eq!(status["runs_done"], 3);
    let text = pgdiode.run(&["sync", "--status"]).success();
    assert!(text.contains("generation 3, taken 20") && text.contains("sync 3 done"), "{text}");
    let listed: serde_json::Value =
        serde_json::from_str(&pgdiode.run(&["generations", "--json"]).success()).unwrap();
    assert_eq!(listed[0]["state"], "serving");
    assert_eq!((&listed[1]["state"], &listed[1]["database"]), (&"kept".into(), &"li_gen_2".into()));
}

/// The variables alone, as the first deployments have them.
#[test]
fn variables_are_configuration_enough() {
    let ground = Ground::new();
    let mut pgdiode = PgdiodeRun::new("");
    pgdiode.set("PGDIODE_CONFIG", "");
    let (source, target) = (ground.source.port().to_string(), ground.target.port().to_string());
    ground.source.add_scram_user("reader", "s3cret", "");
    ground.source.psql("app", "grant pg_read_all_data to reader");
    for (name, value) in [
        ("MAIN_DB_HOST", "127.0.0.1"),
        ("MAIN_DB_PORT", &source),
        ("MAIN_DB_NAME", "app"),
        ("MAIN_DB_USER", "reader"),
        ("LI_DB_HOST", "127.0.0.1"),
        ("LI_DB_PORT", &target),
        ("LI_DB_USER", "postgres"),
    ] {
        pgdiode.set(name, value);
    }
    std::fs::remove_file(pgdiode.config_path()).unwrap();
    let said = sync(&pgdiode).failure(2);
    assert!(said.contains("the variable LI_DB_NAME is not set"), "{said}");
    pgdiode.set("LI_DB_NAME", "li");
    let said = sync(&pgdiode).failure(3);
    assert!(!said.contains("s3cret"), "{said}");
    pgdiode.set("MAIN_DB_PASSWORD", "s3cret");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "1");
    let text = pgdiode.run(&["sync", "--status"]).success();
    assert!(text.starts_with("pipeline li  snapshot"), "{text}");
    assert_eq!(ground.control("select count(*) from pgdiode.run where source like '%s3cret%'"), "0");
}

/// An empty database that somebody has made for the replica is replaced, and nothing to go back to.
#[test]
fn an_empty_database_is_taken_over() {
    let ground = Ground::new();
    ground.target.psql("postgres", "create role li_owner login createdb; create database li owner li_owner; alter database li set work_mem = '7MB'");
    let pgdiode = ground.configured(
        &ground.target.conninfo_as("postgres", "li"),
        "verify = \"full\"".replace("verify", "snapshot.verify").as_str(),
    );
    sync(&pgdiode).success();
    assert_eq!(ground.databases(), "li li_pgdiode");
    assert_eq!(ground.target.psql("li", "show work_mem"), "7MB");
    assert_eq!(
        ground.target.psql("li", "select pg_get_userbyid(datdba) from pg_database where datname = 'li'"),
        "li_owner"
    );
    let digests = ground.control(
        "select count(*) from pgdiode.run, jsonb_each(tables) t where length(t.value->>'digest') = 32",
    );
    assert_eq!(digests, "2");
    pgdiode.run(&["rollback"]).failure(3);
}

/// Whoever owns the replica need not be a superuser, nor whoever reads the source.
#[test]
fn ordinary_users_are_enough() {
    let ground = Ground::new();
    ground.source.psql(
        "app",
        "create role reader login; grant pg_read_all_data to reader; create table child (id int references item);
         insert into child values (1); create function noted() returns trigger language plpgsql as $$ begin return new; end $$;
         create trigger noted before insert on item for each row execute function noted()",
    );
    ground.target.psql(
        "postgres",
        "create role li_owner login createdb; grant pg_signal_backend to li_owner; create role viewer login",
    );
    let pgdiode = PgdiodeRun::new(&format!(
        "[pipeline.li]\nmode = \"snapshot\"\nsource = \"{}\"\ntarget = \"{}\"\n",
        ground.source.conninfo_as("reader", "app"),
        ground.target.conninfo_as("li_owner", "li")
    ));
    sync(&pgdiode).success();
    let reader =
        ground.target.spawn_psql_at(&ground.target.conninfo_as("viewer", "li"), "select pg_sleep(600)");
    ground.target.wait_until(
        "postgres",
        "select exists (select from pg_stat_activity where datname = 'li' and query like '%600%')",
        "the reader",
    );
    ground.source.psql("app", "update stamp set generation = 2");
    sync(&pgdiode).success();
    assert!(reader.wait().unwrap_err().contains("terminating connection"));
    assert_eq!(ground.stamp(), "2");
    assert_eq!(ground.target.psql("li", "select count(*) from child"), "1");
    let triggers = "select count(*) from pg_trigger where tgname = 'noted' and tgenabled = 'O'";
    assert_eq!(ground.target.psql("li", triggers), "1");
    pgdiode.run(&["rollback"]).success();
    assert_eq!(ground.stamp(), "1");
}
