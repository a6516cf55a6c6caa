//! What is not to be in a replica never gets there: emptied tables, masked columns, presets.

use std::path::{Path, PathBuf};

use super::*;

/// No value that must stay at the source is without it.
const SECRET: &str = "s3cr3t-4711";

const SECRETS: &str = "
    create domain mail as text not null;
    create type mood as enum ('calm', 'angry');
    create table token (id int primary key, token text not null);
    insert into token select n, 's3cr3t-4711-' || n from generate_series(1, 100) n;
    create table used (id int primary key, token_id int references token);
    insert into used values (1, 1), (2, null);
    create table person (
        email mail primary key, phone varchar(40), card bytea, tag uuid default gen_random_uuid() unique, mood mood,
        age int, remark text, shown text generated always as ('<' || remark || '>') stored);
    insert into person (email, phone, card, mood, age, remark)
        select 's3cr3t-4711-' || n || '@example.org', 's3cr3t-4711-' || n, 's3cr3t-4711', 'angry', n, 's3cr3t-4711 ' || n
          from generate_series(1, 500) n;
    create table log (id int, at date not null, said text) partition by range (at);
    create table log_1 partition of log for values from ('2024-01-01') to ('2025-01-01');
    create table log_2 partition of log for values from ('2025-01-01') to ('2026-01-01');
    insert into log select n, date '2024-06-01' + n, 's3cr3t-4711' from generate_series(1, 400) n;
    create table trace (id int, said text) partition by list (id);
    create table trace_1 partition of trace for values in (1);
    insert into trace values (1, 's3cr3t-4711');
    create table big (id int, said text);
    insert into big select n, repeat('s3cr3t-4711 ', 10) || n from generate_series(1, 30000) n;
    create materialized view remarks as select remark from person";

const REDACTION: &str = r#"
    [pipeline.li.snapshot]
    empty = ["public.tok*", "public.trace"]
    [pipeline.li.snapshot.mask]
    "public.person.email" = "hash"
    "public.person.phone" = "hash"
    "public.person.card" = "hash"
    "public.person.tag" = "hash"
    "public.person.mood" = "constant:calm"
    "public.person.age" = "sql: age / 10 * 10 -- the decade"
    "public.person.remark" = "sql:case when age % 2 = 0 then 'even' end"
    "public.log.said" = "null"
    "public.big.said" = "hash"
    [pipeline.li.copy]
    split_mb = 1
"#;

fn ground() -> Ground {
    let ground = Ground::new();
    ground.source.psql("app", SECRETS);
    ground
}

/// A configuration's lines with a key in front of [`REDACTION`]'s.
fn redacted(key: &str) -> String {
    REDACTION.replace("[pipeline.li.snapshot]", &format!("[pipeline.li.snapshot]\n{key}"))
}

/// Places of the target's database that `pg_dump` shows a secret in.
fn secrets_in(ground: &Ground, database: &str) -> usize {
    let output =
        ground.target.tools().command("pg_dump").arg(ground.target.conninfo(database)).output().unwrap();
    let dump = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && dump.contains("CREATE TABLE public.item"), "{:?}", output.status);
    dump.matches(SECRET).count()
}

/// Files of the server that hold a secret: tables, its log, the log of its changes.
fn files_with_secrets(cluster: &Cluster) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                walk(&path, found);
            } else if std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(SECRET.len()).any(|at| at == SECRET.as_bytes()))
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(cluster.directory(), &mut found);
    found
}

#[test]
fn secrets_stay_at_the_source() {
    let ground = ground();
    sync(&ground.pgdiode("")).success();
    ground.target.psql("postgres", "checkpoint");
    assert!(secrets_in(&ground, "li") > 1000, "the search finds secrets where they are");
    assert!(files_with_secrets(&ground.target).len() > 5, "in files too");
    // A fresh server, of which nothing may hold one.
    let ground = Ground { target: Cluster::start(Version::V15, &[]), ..ground };

    let pgdiode = ground.pgdiode(&redacted("verify = \"full\""));
    let checked = pgdiode.run(&["check"]).success();
    assert!(checked.contains("3 tables of the source come empty, 11 columns masked"), "{checked}");
    let told: serde_json::Value = serde_json::from_str(&pgdiode.run(&["sync", "--json"]).success()).unwrap();
    assert_eq!(secrets_in(&ground, "li"), 0);
    ground.target.psql("postgres", "checkpoint");
    assert_eq!(files_with_secrets(&ground.target), Vec::<PathBuf>::new(), "nor is any in the files");

    let of_person = "select count(*), count(distinct email), count(distinct phone), count(distinct card), count(distinct tag),
                            count(remark), bool_and(length(email) = 64), bool_and(length(phone) = 40), bool_and(mood = 'calm'),
                            bool_and(age % 10 = 0), min(shown) from person";
    assert_eq!(ground.target.psql("li", of_person), "500|500|500|1|500|250|t|t|t|t|<even>");
    let hash = "select encode(sha256(convert_to('s3cr3t-4711-7@example.org', 'UTF8')), 'hex') in (select email::text from person)";
    assert_eq!(ground.target.psql("li", hash), "t", "the hash is the one that is documented");
    assert_eq!(ground.target.psql("li", "select count(*), count(said) from log"), "400|0");
    assert_eq!(
        ground.target.psql("li", "select count(distinct said) from big"),
        "30000",
        "in several pieces"
    );
    assert_eq!(
        ground.target.psql("li", "select (select count(*) from token), (select count(*) from trace)"),
        "0|0"
    );
    assert_eq!(ground.target.psql("li", "select count(remark) from remarks"), "250");
    // The keys of an emptied table are there; what other tables said of its rows cannot hold.
    assert_eq!(
        ground.target.psql("li", "select count(*) from pg_constraint where conname = 'token_pkey'"),
        "1"
    );
    let left_out = told["left_out"].to_string();
    assert!(left_out.contains("used_token_id_fkey"), "{left_out}");
    assert_eq!(ground.target.psql("li", "select count(*) from used"), "2");

    // Emptied tables have not lost what they had, and counts are content too.
    let pgdiode = ground.pgdiode(REDACTION);
    sync(&pgdiode).success();
    sync(&ground.pgdiode("")).success();
    sync(&pgdiode).success();
    assert_eq!(ground.target.psql("li", "select count(*) from token"), "0");
}

/// The comparison looks at what the source computes, not at what it holds, nor at nothing.
#[test]
fn a_masked_value_that_is_not_the_sources_is_found() {
    let ground = ground();
    let pgdiode = ground.pgdiode(
        "[pipeline.li.snapshot]\nverify = \"full\"\n[pipeline.li.snapshot.mask]\n\
         \"public.item.v\" = \"sql:pg_catalog.pg_backend_pid()::text\"",
    );
    let said = sync(&pgdiode).failure(4);
    assert!(said.contains("table public.item is not what it is at the source"), "{said}");
    let pgdiode =
        ground.pgdiode("[pipeline.li.snapshot]\nempty = [\"public.item\"]\nchecks = [\"select false\"]");
    assert!(sync(&pgdiode).failure(4).contains("a check is not content"));
}

#[test]
fn what_could_leak_by_a_slip_is_refused() {
    let ground = ground();
    ground.source.psql("app", "create view people as select * from person");
    for (keys, status, what, hint) in [
        ("empty = [\"public.tokn\"]", 3, "no table that fits public.tokn", "Did you mean public.token?"),
        ("empty = [\"pubic.*\"]", 3, "no table that fits pubic.*", "Correct the name"),
        ("empty = [\"token\"]", 2, "the schema is missing", "write schema.table"),
        ("mask.\"public.persn.email\" = \"null\"", 3, "no table public.persn", "Did you mean public.person?"),
        ("mask.\"public.person.emial\" = \"null\"", 3, "no column \"emial\"", "Did you mean \"email\"?"),
        ("mask.\"public.people.email\" = \"hash\"", 3, "is no table", "mask the columns of those"),
        ("mask.\"public.person.email\" = \"null\"", 3, "public.person.email may not be null", "\"hash\""),
        (
            "mask.\"public.person.age\" = \"hash\"",
            3,
            "of type integer, which no hash fits in",
            "texts, bytea",
        ),
        ("mask.\"public.person.shown\" = \"null\"", 3, "is generated", "generated from"),
        ("mask.\"public.person.mood\" = \"constant:sad\"", 3, "cannot compute", "It must be of type"),
        ("mask.\"public.person.phone\" = \"sql:nothing(phone)\"", 3, "cannot compute", "with their schema"),
        ("mask.\"public.person.phone\" = \"nul\"", 2, "is not understood", "\"constant:TEXT\""),
        ("mask.\"public.person\" = \"null\"", 2, "too few parts", "schema.table.column"),
        ("mask.\"public.person.phone\" = 1", 2, "must be a table of names", "\"hash\""),
        ("preset = \"synapse\"", 2, "preset must be", "known: synapse-li"),
    ] {
        let pgdiode = ground.pgdiode(&format!("[pipeline.li.snapshot]\n{keys}"));
        let said = sync(&pgdiode).failure(status);
        assert!(said.contains(what) && said.contains(hint), "{keys}: {said}");
        let checked = pgdiode.run(&["check"]);
        assert_eq!(checked.status.code(), Some(status), "{keys}");
    }
    assert_eq!(ground.databases(), "", "nothing was written");
    let streams = ground.pgdiode(REDACTION);
    let config = std::fs::read_to_string(streams.config_path()).unwrap();
    std::fs::write(streams.config_path(), config.replace("mode = \"snapshot\"", "mode = \"stream\""))
        .unwrap();
    for verb in ["start", "setup", "check"] {
        let said = streams.run(&[verb]).failure(2);
        assert!(said.contains("carries rows as they are"), "{verb}: {said}");
    }
    // What is not carried may be named.
    let pgdiode = ground.pgdiode(
        "tables = [\"!public.person\"]\n[pipeline.li.snapshot]\nmask.\"public.person.email\" = \"hash\"",
    );
    sync(&pgdiode).success();
    assert_eq!(ground.target.psql("li", "select to_regclass('person') is null"), "t");
}

/// The server's message on a value that a mask cannot take would show the value.
#[test]
fn a_mask_that_fails_for_a_row_does_not_tell_its_value() {
    let ground = ground();
    let pgdiode =
        ground.pgdiode("[pipeline.li.snapshot]\nmask.\"public.person.phone\" = \"sql:phone::int::text\"");
    let said = sync(&pgdiode).failure(1);
    assert!(said.contains("SQLSTATE 22P02") && !said.contains(SECRET), "{said}");
    assert_eq!(ground.control("select count(*) from pgdiode.run r where r::text like '%s3cr3t%'"), "0");
}

#[test]
fn the_preset_for_synapse_leaves_no_credentials() {
    let ground = Ground::new();
    ground.source.psql(
        "app",
        "create table users (name text unique, password_hash text, admin smallint default 0 not null);
         create table access_tokens (id bigint primary key, user_id text not null, token text not null unique);
         create table refresh_tokens (id bigint primary key, token text not null);
         create table event_txn_id (event_id text, token_id bigint not null references access_tokens on delete cascade);
         create table user_ips (user_id text not null, access_token text not null, ip text not null);
         create unique index on user_ips (user_id, access_token, ip);
         create table pushers (id bigint primary key, pushkey text not null);
         create table _temp_populate_user_directory_rooms (room_id text);
         create unlogged table worker_read_write_locks_mode (name text primary key);
         create unlogged table worker_read_write_locks (name text references worker_read_write_locks_mode);
         insert into users values ('@a:x', 's3cr3t-4711', 1), ('@b:x', 's3cr3t-4711', 0);
         insert into access_tokens select n, '@a:x', 's3cr3t-4711-' || n from generate_series(1, 50) n;
         insert into refresh_tokens values (1, 's3cr3t-4711');
         insert into event_txn_id values ('$1', 1);
         insert into user_ips select '@a:x', 's3cr3t-4711-' || n, '10.0.0.1' from generate_series(1, 50) n;
         insert into pushers values (1, 's3cr3t-4711');
         insert into worker_read_write_locks_mode values ('a'); insert into worker_read_write_locks values ('a')",
    );
    let text = PgdiodeRun::new("").run(&["init", "--preset", "synapse-li"]).success();
    assert!(text.contains("\"public.access_tokens\",                # each signs in"), "{text}");

    let pgdiode = ground.pgdiode("[pipeline.li.snapshot]\npreset = \"synapse-li\"\nverify = \"full\"");
    let told: serde_json::Value = serde_json::from_str(&pgdiode.run(&["sync", "--json"]).success()).unwrap();
    assert_eq!(told["left_out"].as_array().map(Vec::len), Some(0), "{told}");
    assert_eq!(secrets_in(&ground, "li"), 0);
    let counts = "select (select count(*) from access_tokens), (select count(*) from event_txn_id),
                         (select count(distinct access_token) from user_ips), (select count(*) from pushers),
                         (select string_agg(name || admin || coalesce(password_hash, '-'), ' ' order by name) from users),
                         to_regclass('_temp_populate_user_directory_rooms') is null";
    assert_eq!(ground.target.psql("li", counts), "0|0|50|0|@a:x0- @b:x0-|t");

    let pgdiode = ground.pgdiode(
        "[pipeline.li.snapshot]\npreset = \"synapse-li\"\nempty = [\"!public.pushers\", \"public.stamp\"]\n\
         mask.\"public.users.admin\" = \"keep\"",
    );
    pgdiode.run(&["sync", "--accept-losses"]).success();
    let counts =
        "select (select count(*) from pushers), (select sum(admin) from users), (select count(*) from stamp)";
    assert_eq!(ground.target.psql("li", counts), "1|1|0");
}
