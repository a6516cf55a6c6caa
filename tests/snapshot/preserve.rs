//! What belongs to the replica goes over from copy to copy, or the copy does not serve.

use super::*;

const USERS: &str = "
    create table users (name text unique, password_hash text, admin smallint not null default 0, shown text);
    insert into users select '@u' || n, 'main', 0, 'v1' from generate_series(1, 50) n;
    create table login (id int generated always as identity primary key, name text, at timestamptz);
    insert into login (name) values ('main')";

const LOCAL: &str = "
    create schema li_local authorization li_app;
    set role li_app;
    create type li_local.mood as enum ('calm', 'angry');
    create table li_local.note (
        id serial primary key, v text, mood li_local.mood, words int generated always as (length(v)) stored,
        name text references public.users (name), item int references public.item);
    create index on li_local.note (v);
    create function li_local.noted() returns trigger language plpgsql security definer
        as $$ begin new.v := new.v || '!'; return new; end $$;
    create trigger noted before insert on li_local.note for each row execute function li_local.noted();
    create view li_local.users as select u.name, n.v from public.users u join li_local.note n using (name);
    create sequence li_local.counted; select setval('li_local.counted', 77);
    grant select on li_local.note to viewer;
    insert into li_local.note (v, mood, name, item) select 'n' || n, 'angry', '@u' || n, n from generate_series(1, 5) n";

const PRESERVE: &str = r#"
    [pipeline.li.snapshot]
    preserve = ["li_local.*", "public.mine_?"]
    empty = ["public.login"]
    [pipeline.li.snapshot.preserve_rows."public.users"]
    columns = ["password_hash", "admin"]
    [pipeline.li.snapshot.preserve_rows."public.login"]
"#;

/// The target's user is nobody special.
fn ground() -> Ground {
    let ground = Ground::new();
    ground.source.psql("app", USERS);
    ground.target.psql(
        "postgres",
        "create role li_owner login createdb; grant pg_signal_backend to li_owner; create role viewer login;
         create role li_app login; grant li_app to li_owner",
    );
    ground
}

fn pgdiode(ground: &Ground, lines: &str) -> PgdiodeRun {
    let pgdiode = ground.configured(&ground.target.conninfo_as("li_owner", "li"), lines);
    std::fs::write(
        pgdiode.directory().join("grants.sql"),
        "grant select on all tables in schema public to li_app;
        grant references on all tables in schema public to li_app",
    )
    .unwrap();
    pgdiode
}

fn told(pgdiode: &PgdiodeRun) -> serde_json::Value {
    serde_json::from_str(&pgdiode.run(&["sync", "--json"]).success()).unwrap()
}

#[test]
fn what_is_declared_goes_over_and_nothing_else() {
    let ground = ground();
    let lines = PRESERVE.replace("empty", "grants = \"grants.sql\"\n    empty");
    let pgdiode = pgdiode(&ground, &lines);
    let first = told(&pgdiode);
    assert_eq!((&first["preserved"], &first["discarded"]), (&serde_json::json!([]), &serde_json::json!([])));
    ground.target.psql("li", LOCAL);
    ground.target.psql(
        "li",
        "update users set password_hash = 'li', admin = 1, shown = 'own' where name = '@u7';
         insert into users values ('@own', 'li', 1);
         insert into login (name) values ('li'), ('li');
         create table mine_1 (id int); insert into mine_1 values (1); alter table mine_1 owner to li_owner;
         create table other (id int)",
    );
    let whole = "select string_agg(id || v || mood || words || coalesce(name, '-'), ' ' order by id) from li_local.note";
    let before = ground.target.psql("li", whole);
    assert!(before.starts_with("1n1!angry3@u1 "), "{before}");
    for round in 2..4 {
        ground.source.psql(
            "app",
            &format!("update users set shown = 'v{round}', password_hash = 'main {round}'; update stamp set generation = {round}"),
        );
        let told = told(&pgdiode);
        assert_eq!(ground.stamp(), round.to_string());
        assert_eq!(ground.target.psql("li", whole), before, "round {round}");
        let users = "select string_agg(concat_ws(' ', name, password_hash, admin, shown), ', ' order by name) from users
                      where name in ('@u7', '@u8', '@own')";
        let expected = format!("@u7 li 1 v{round}, @u8 main {round} 0 v{round}");
        assert_eq!(ground.target.psql("li", users), expected);
        assert_eq!(
            ground.target.psql("li", "select string_agg(name, ' ') from login"),
            "li li",
            "its rows alone"
        );
        let preserved = &told["preserved"];
        for (table, rows) in
            [("li_local.note", 5), ("public.mine_1", 1), ("public.users", 1), ("public.login", 2)]
        {
            let is_it = |one: &serde_json::Value| one["table"] == table && one["rows"] == rows;
            assert!(preserved.as_array().unwrap().iter().any(is_it), "{table} {preserved}");
        }
        assert_eq!(told["left_out"], serde_json::json!([]));
        let discarded = told["discarded"].to_string();
        let expected = if round == 2 { (true, true) } else { (false, false) };
        let found = (
            discarded.contains("table public.other"),
            discarded.contains("\"table public.users\",\"rows_gone\":0,\"rows_written\":1"),
        );
        assert_eq!(found, expected, "{discarded}");
        assert!(!discarded.contains("li_local") && !discarded.contains("mine_1"), "{discarded}");
    }
    // All of it works as before: sequences go on, triggers fire, privileges and owners are there.
    let app = ground.target.conninfo_as("li_app", "li");
    ground.target.try_psql_at(&app, "insert into li_local.note (v, name) values ('new', '@u9')").unwrap();
    assert_eq!(ground.target.psql("li", "select id || v from li_local.note where name = '@u9'"), "6new!");
    assert_eq!(ground.target.psql("li", "select count(*) from li_local.users"), "6");
    assert_eq!(ground.target.psql("li", "select nextval('li_local.counted')"), "78");
    let owners = "select string_agg(distinct pg_get_userbyid(relowner), ' ') from pg_class where relnamespace = 'li_local'::regnamespace";
    assert_eq!(ground.target.psql("li", owners), "li_app");
    let owner = "select pg_get_userbyid(proowner), prosecdef from pg_proc where proname = 'noted'";
    assert_eq!(ground.target.psql("li", owner), "li_app|t");
    assert_eq!(
        ground.target.psql("li", "select has_table_privilege('viewer', 'li_local.note', 'select')"),
        "t"
    );

    // What it refers to is gone from the source.
    ground.source.psql("app", "delete from item where id = 3");
    let told = told(&pgdiode);
    assert!(told["left_out"].to_string().contains("note_item_fkey"), "{told}");
    assert_eq!(ground.target.psql("li", "select count(*) from li_local.note"), "6");
}

/// A replica whose `li_local.t` is kept, and a sync of it that waits in its grants, when all has been carried over.
fn held_before_the_swap(ground: &Ground) -> (PgdiodeRun, Running) {
    let grants = "grants = \"wait.sql\"\n    empty";
    let pgdiode = pgdiode(ground, &PRESERVE.replace("empty", grants));
    std::fs::write(
        pgdiode.directory().join("wait.sql"),
        "do $$ begin while exists (select from pg_roles where rolname = 'hold') loop perform pg_sleep(0.02); end loop; end $$",
    )
    .unwrap();
    sync(&pgdiode).success();
    ground.target.psql(
        "li",
        "create schema li_local; create table li_local.t (id int); insert into li_local.t values (1);
         alter schema li_local owner to li_owner; alter table li_local.t owner to li_owner; create role hold",
    );
    let running = pgdiode.spawn(&["sync"]);
    ground.target.wait_until(
        "postgres",
        "select exists (select from pg_stat_activity where datname like 'li_shadow%' and wait_event = 'PgSleep')",
        "the grants",
    );
    (pgdiode, running)
}

fn wait_for_writers(ground: &Ground, number: u32) {
    let sql = format!(
        "select count(*) = {number} from pg_stat_activity where datname = 'li' and wait_event_type = 'Lock'"
    );
    ground.target.wait_until("postgres", &sql, "writers that wait");
}

/// Between the carrying over and the swap a writer waits, and learns that it did not write.
#[test]
fn no_write_is_acknowledged_and_lost() {
    let ground = ground();
    let (_pgdiode, mut running) = held_before_the_swap(&ground);
    let conninfo = ground.target.conninfo_as("li_owner", "li");
    let writers: Vec<_> =
        (0..8).map(|_| ground.target.spawn_psql_at(&conninfo, "insert into li_local.t values (2)")).collect();
    let of_rows = ground.target.spawn_psql_at(&conninfo, "update users set admin = 1 where name = '@u1'");
    wait_for_writers(&ground, 9);
    let read = "select count(*) from li_local.t, users where name = '@u1'";
    assert_eq!(ground.target.psql("li", read), "1", "readers do not wait");
    ground.target.psql("postgres", "drop role hold");
    assert!(running.wait().success(), "{}", running.stderr());
    for writer in writers {
        assert!(writer.wait().unwrap_err().contains("terminating connection"));
    }
    assert_eq!(
        ground.target.psql("li_gen_1", "select count(*) from li_local.t"),
        "1",
        "nobody wrote what is gone"
    );
    assert!(of_rows.wait().unwrap_err().contains("terminating connection"));
    assert_eq!(ground.target.psql("li", "select string_agg(id::text, ' ') from li_local.t"), "1");
}

/// A writer that the target's user may not end gets its turn when the sync has given up, in the copy that still serves.
#[test]
fn who_cannot_be_ended_does_not_write_what_is_gone() {
    let ground = ground();
    let (_pgdiode, mut running) = held_before_the_swap(&ground);
    let writer = ground.target.spawn_psql("li", "insert into li_local.t values (2)");
    wait_for_writers(&ground, 1);
    ground.target.psql("postgres", "drop role hold");
    assert_eq!(running.wait().code(), Some(4));
    let said = running.stderr();
    assert!(said.contains("of postgres (psql)") && !said.contains("(pgdiode"), "{said}");
    writer.wait().unwrap();
    assert_eq!(ground.target.psql("li", "select string_agg(id::text, ' ') from li_local.t"), "1 2");
    assert_eq!(ground.databases(), "li li_pgdiode");
}

#[test]
fn what_cannot_be_kept_is_refused_or_not_promoted() {
    let ground = ground();
    ground.source.psql("app", "create table keyless (id int, v text)");
    let rows = |table: &str, keys: &str| format!("[pipeline.li.snapshot.preserve_rows.\"{table}\"]\n{keys}");
    for (lines, status, what) in [
        (
            "[pipeline.li.snapshot]\npreserve = [\"public.it*\"]".to_owned(),
            3,
            "public.item is of the source too",
        ),
        ("[pipeline.li.snapshot]\npreserve = [\"own\"]".to_owned(), 2, "the schema is missing"),
        ("[pipeline.li.snapshot]\npreserve = [\"!a.b\"]".to_owned(), 2, "every pattern excludes"),
        (rows("public.usres", ""), 3, "the source has no table public.usres"),
        (rows("public.*", ""), 2, "names no single table"),
        (rows("public.totals", ""), 3, "holds no rows of its own"),
        (rows("public.users", "columns = [\"pasword_hash\"]"), 3, "Did you mean \"password_hash\"?"),
        (rows("public.keyless", ""), 3, "nothing tells the rows of public.keyless apart"),
    ] {
        let said = sync(&pgdiode(&ground, &lines)).failure(status);
        assert!(said.contains(what), "{lines}: {said}");
    }
    assert_eq!(ground.databases(), "", "nothing was written");

    sync(&pgdiode(&ground, "")).success();
    ground.source.psql("app", "update stamp set generation = 2");
    let said = sync(&pgdiode(&ground, &rows("public.users", "rows = \"nonsense = 1\""))).failure(4);
    assert!(said.contains("what the replica keeps cannot be carried over"), "{said}");
    // A trigger would change what is put in, and this user may not switch it off.
    ground.source.psql(
        "app",
        "create function changed() returns trigger language plpgsql as $$ begin new.shown := 'changed'; return new; end $$;
         create trigger changed before update on users for each row execute function changed()",
    );
    ground.target.psql("li", "update users set admin = 1 where name = '@u1'");
    let said = sync(&pgdiode(&ground, &rows("public.users", "columns = [\"admin\"]"))).failure(4);
    assert!(
        said.contains("trigger \"changed\" would fire") && said.contains("session_replication_role"),
        "{said}"
    );
    assert_eq!(ground.stamp(), "1", "nothing was swapped");
    ground.target.psql("postgres", "grant set on parameter session_replication_role to li_owner");
    sync(&pgdiode(&ground, &rows("public.users", "columns = [\"admin\"]"))).success();
    assert_eq!(ground.target.psql("li", "select admin || shown from users where name = '@u1'"), "1v1");
}

/// What a generation holds does not depend on the servers' versions.
#[test]
fn servers_of_other_versions_do_the_same() {
    for (source, target) in
        [(Version::V14, Version::V14), (Version::V14, Version::V18), (Version::V18, Version::V18)]
    {
        let ground = Ground { source: Cluster::start(source, &[]), target: Cluster::start(target, &[]) };
        ground.source.psql("postgres", "create database app");
        ground.source.psql("app", TABLES);
        ground.source.psql("app", USERS);
        let mut pgdiode = ground.pgdiode(
            "[pipeline.li.snapshot]\nverify = \"full\"\npreserve = [\"li_local.*\"]\nempty = [\"public.login\"]\n\
             mask.\"public.users.password_hash\" = \"hash\"\nmask.\"public.item.v\" = \"sql:upper(v)\"\n\
             [pipeline.li.snapshot.preserve_rows.\"public.users\"]\ncolumns = [\"admin\"]",
        );
        pgdiode.set("PGDIODE_PG_DUMP", &ground.target.tools().path("pg_dump").display().to_string());
        assert_eq!(told(&pgdiode)["discarded"], serde_json::json!([]), "{source:?} {target:?}");
        assert_eq!(ground.target.psql("li", "select v from item where id = 7"), "V7");
        ground.target.psql(
            "li",
            "create role viewer; create role li_app superuser; update users set admin = 1 where name = '@u7'; update item set v = '' where id < 3;
             create table own (id int primary key); create index on item (v); grant select on stamp to viewer",
        );
        ground.target.psql("li", LOCAL);
        let told = told(&pgdiode);
        let discarded = told["discarded"].as_array().unwrap().iter();
        let discarded: Vec<_> = discarded
            .map(|one| {
                format!(
                    "{} {} {}",
                    one["object"].as_str().unwrap(),
                    one["what"].as_str().unwrap(),
                    one["rows_written"]
                )
            })
            .collect();
        let expected = [
            "index public.item_v_idx added 0",
            "table public.item rows 2",
            "table public.own added 0",
            "table public.stamp granted to viewer 0",
        ];
        assert_eq!(discarded, expected, "{source:?} {target:?}");
        let kept = "select (select count(*) from li_local.note), (select sum(admin) from users), (select count(*) from login)";
        assert_eq!(ground.target.psql("li", kept), "5|1|0", "{source:?} {target:?}");
    }
}
