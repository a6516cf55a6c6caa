//! Who comes from syncdata: its file, its variables, its verbs and its control tables, with an archive over SFTP.

use std::fs;
use std::process::Command;

use super::origin::Origin;
use crate::harness::{Cluster, PgdiodeRun, SshServer, Version};

const TABLES: &str = "create table users (id int primary key, name text);
    create table orders (id int primary key, user_id int);
    create table products (id int primary key, title text)";

/// The three machines.
struct Ground {
    origin: Origin,
    backup: SshServer,
    local: Cluster,
    pgdiode: PgdiodeRun,
}

impl Ground {
    fn start(sections: &str) -> Ground {
        let origin = Origin::start(TABLES);
        let backup = SshServer::start();
        let local = Cluster::start(Version::V15, &[]);
        local.psql("postgres", TABLES);
        let config = format!(
            "archive_host = \"127.0.0.1\"\narchive_user = \"{}\"\narchive_dir = \"{}\"\narchive_port = {}\n\
             pg_port = {}\npg_user = \"postgres\"\ndata_sync_freq = 600\nmetric_freq = 24\n{sections}",
            backup.user(),
            backup.archive().display(),
            backup.port(),
            local.port()
        );
        let mut pgdiode = PgdiodeRun::new(&config);
        pgdiode.set("PG_PASSWORD", "unused");
        pgdiode.set("PG_DB_NAME", "postgres");
        let ssh = pgdiode.directory().join(".ssh");
        fs::create_dir(&ssh).unwrap();
        fs::copy(backup.identity(), ssh.join("id_ed25519")).unwrap();
        fs::copy(backup.known_hosts(), ssh.join("known_hosts")).unwrap();
        let ground = Ground { origin, backup, local, pgdiode };
        ground.send();
        ground
    }

    /// What production does with what it has written.
    fn send(&self) {
        let copied = Command::new("cp")
            .arg("-rf")
            .arg(format!("{}/.", self.origin.path().display()))
            .arg(self.backup.archive())
            .status()
            .unwrap();
        assert!(copied.success());
    }

    fn produce(&mut self, sql: &str) {
        self.origin.psql(sql);
        self.origin.seal(1);
        self.send();
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.pgdiode.run(arguments).success()
    }

    fn once(&self) {
        self.run(&["start", "--once-caught-up"]);
    }

    fn psql(&self, sql: &str) -> String {
        self.local.psql("postgres", sql)
    }

    fn assert_alike(&self, table: &str) {
        let sql = format!("select json_agg(t order by id) from {table} t");
        assert_eq!(self.psql(&sql), self.origin.psql(&sql), "{table}");
    }

    /// Every row of the log, oldest first, without its time.
    fn logs(&self, schema: &str) -> String {
        self.psql(&format!(
            "select string_agg(concat_ws(' ', table_name, status, rows_synced, archive_ref), ', ' order by archive_ref, table_name)
               from {schema}.data_sync_logs where archive_ref like '%.json'"
        ))
    }
}

#[test]
fn a_user_of_syncdata_finds_everything_again() {
    let mut ground = Ground::start("");
    let said = ground.pgdiode.run(&["start", "--once-caught-up"]).failure(3);
    assert!(said.contains("No tables in whitelist") && said.contains("pgdiode add-tables users"), "{said}");
    ground.produce("insert into users select n, 'user ' || n from generate_series(1, 5) n");
    ground.produce("insert into orders values (1, 1); insert into products values (1, 'not listed')");
    ground.run(&["add-tables", "users", "orders"]);
    let said = ground.pgdiode.run(&["add-tables", "missing"]).failure(3);
    assert!(
        said.contains("Table not found locally: missing") && said.contains("same schema as production"),
        "{said}"
    );
    assert_eq!(
        ground
            .psql("select string_agg(table_name, ',' order by id), min(creator) from public.tables_to_sync"),
        "users,orders|postgres"
    );
    let status = ground.run(&["status"]);
    assert!(status.starts_with("status: inactive\nsync frequency: 600 seconds\nstart time: never\nlast sync: never\nrecords synced: 0\nerrors: 0\n\nsynced tables (2):\n  - users\n  - orders\n"), "{status}");

    ground.once();
    for table in ["users", "orders"] {
        ground.assert_alike(table);
    }
    assert_eq!(ground.psql("select count(*) from products"), "0", "it is not listed");
    assert_eq!(ground.logs("public"), "users SUCCESS 5 0000000001.json, orders SUCCESS 1 0000000003.json");
    let status = ground.run(&["status"]);
    assert!(status.contains("\nrecords synced: 6\nerrors: 0\n"), "{status}");
    let status: serde_json::Value = serde_json::from_str(&ground.run(&["status", "--json"])).unwrap();
    assert_eq!(status["name"], "syncdata");

    // Once more: nothing is logged twice.
    ground.produce("update users set name = 'changed' where id < 3; delete from users where id = 5");
    ground.once();
    ground.once();
    ground.assert_alike("users");
    assert!(
        ground.logs("public").ends_with(", users SUCCESS 2 0000000006.json, users SUCCESS 1 0000000007.json"),
        "{}",
        ground.logs("public")
    );

    let listing = ground.run(&["list-tables", "--json"]);
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let names: Vec<&str> =
        listing.as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["public.orders", "public.users"]);

    ground.run(&["remove-tables", "orders"]);
    ground.produce("insert into orders values (2, 2)");
    ground.once();
    assert_eq!(ground.psql("select count(*) from orders"), "1", "it is not followed, and keeps its rows");
    let said = ground.pgdiode.run(&["remove-tables", "user"]).failure(2);
    assert!(said.contains("did you mean public.users?"), "{said}");
}

#[test]
fn resync_and_clear_bring_every_change_again() {
    let mut ground = Ground::start("[archive]\ncontrol_schema = \"pgdiode\"\n");
    ground.run(&["add-tables", "users", "orders"]);
    ground.produce("insert into users values (1, 'one'), (2, 'two'); insert into orders values (1, 1)");
    ground.produce("update users set name = 'new' where id = 1");
    ground.once();
    ground.psql("update users set name = 'by hand'; insert into users values (77, 'by hand')");
    ground.run(&["resync", "users"]);
    ground.once();
    ground.assert_alike("users");

    let said = ground.pgdiode.run(&["clear"]).failure(2);
    assert!(said.contains("--yes"), "{said}");
    ground.psql("insert into orders values (99, 99)");
    let ran = ground.run(&["clear", "--yes"]);
    assert!(ran.contains(r#"truncate "public"."orders", "public"."users""#), "{ran}");
    assert_eq!(ground.psql("select (select count(*) from users) + (select count(*) from orders)"), "0");
    ground.produce("insert into users values (3, 'three')");
    ground.once();
    for table in ["users", "orders"] {
        ground.assert_alike(table);
    }
    let audit = ground.psql(
        "select string_agg(distinct action, ',') from pgdiode.audit where action in ('clear', 'resync')",
    );
    assert_eq!(audit, "clear,resync");
    assert_eq!(ground.psql("select to_regclass('public.data_sync_logs') is null and to_regclass('pgdiode.data_sync_logs') is not null"), "t");
}

#[test]
fn a_running_pipeline_follows_the_list() {
    let mut ground = Ground::start("");
    ground.produce("insert into users values (1, 'one'); insert into products values (1, 'thing')");
    ground.run(&["add-tables", "users"]);
    let mut running = ground.pgdiode.spawn(&["start"]);
    let filled = |table: &str| format!("select exists (select from {table})");
    ground.local.wait_until("postgres", &filled("users"), "the first table");
    let status = ground.run(&["status"]);
    assert!(status.starts_with("status: active\n") && !status.contains("start time: never"), "{status}");
    let said = ground.pgdiode.run(&["clear", "--yes"]).failure(5);
    assert!(said.contains("is running"), "{said}");
    ground.psql("insert into public.tables_to_sync (table_name) values ('products'), ('no such * name')");
    ground.local.wait_until("postgres", &filled("products"), "the table that was listed by hand");
    ground.psql("delete from public.tables_to_sync where table_name = 'users'");
    let forgotten = "select not exists (select from pgdiode.relation where table_name = 'users')";
    ground.local.wait_until("postgres", forgotten, "the table that left the list");
    ground.run(&["stop"]);
    assert!(running.wait().success(), "{}", running.stderr());
    assert!(ground.run(&["status"]).starts_with("status: inactive\n"));
}

#[test]
fn failures_are_in_the_log() {
    let mut ground = Ground::start("");
    ground.run(&["add-tables", "users", "orders"]);
    ground.produce("insert into users values (1, 'one')");
    ground.once();
    ground.psql("alter table users add check (id < 100)");
    ground.produce("insert into users values (100, 'too many'); insert into orders values (1, 1)");
    ground.once();
    ground.assert_alike("orders");
    let failed = "select count(*), min(table_name), min(error_detail) like '%users_id_check%' from public.data_sync_logs where status = 'FAILED'";
    assert_eq!(ground.psql(failed), "1|users|t");
    ground.once();
    assert_eq!(ground.psql(failed), "1|users|t", "once");
    assert!(ground.run(&["status"]).contains("\nerrors: 1\n"));

    ground.produce("insert into orders values (2, 2)");
    let last = ground.backup.archive().join(format!("{:010}.json", ground.origin.files() - 1));
    let text = fs::read_to_string(&last).unwrap();
    fs::write(&last, text.replacen("INSERT", "INSERU", 1)).unwrap();
    let said = ground.pgdiode.run(&["start", "--once-caught-up"]).failure(4);
    assert!(said.contains(".json"), "{said}");
    let refused = "select count(*) from public.data_sync_logs where status = 'FAILED' and table_name = '*' and error_detail like '%.json%'";
    assert_eq!(ground.psql(refused), "1");
    // Put back, it goes on.
    ground.send();
    ground.once();
    ground.assert_alike("orders");
}

#[test]
fn the_control_tables_are_syncdatas() {
    let ground = Ground::start("");
    ground.run(&["add-tables", "users"]);
    let columns = ground.psql(
        "select string_agg(table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
                           || coalesce(regexp_replace(column_default, 'nextval.*', 'serial'), '-'), E'\\n' order by table_name, ordinal_position)
           from information_schema.columns where table_schema = 'public' and (table_name like 'data_sync%' or table_name = 'tables_to_sync')",
    );
    let expected = "data_sync_logs.id uuid NO gen_random_uuid()
data_sync_logs.table_name text NO -
data_sync_logs.status text NO -
data_sync_logs.rows_synced integer YES 0
data_sync_logs.archive_ref text YES -
data_sync_logs.error_detail text YES -
data_sync_logs.sync_time timestamp with time zone YES now()
data_sync_metrics.id integer NO serial
data_sync_metrics.table_name text NO -
data_sync_metrics.period_start timestamp with time zone NO -
data_sync_metrics.period_end timestamp with time zone NO -
data_sync_metrics.period_type text NO -
data_sync_metrics.records_added bigint YES 0
data_sync_metrics.records_updated bigint YES 0
data_sync_metrics.records_deleted bigint YES 0
tables_to_sync.id integer NO serial
tables_to_sync.table_name text NO -
tables_to_sync.creator text YES -
tables_to_sync.created_at timestamp with time zone YES now()";
    assert_eq!(columns, expected);
    let keys = ground.psql(
        "select string_agg(conrelid::regclass || ' ' || pg_get_constraintdef(oid), ', ' order by conrelid::regclass::text, contype)
           from pg_constraint where conrelid::regclass::text ~ '^(data_sync|tables_to)'",
    );
    assert_eq!(
        keys,
        "data_sync_logs PRIMARY KEY (id), data_sync_metrics PRIMARY KEY (id), \
         data_sync_metrics UNIQUE (table_name, period_start, period_type), \
         tables_to_sync PRIMARY KEY (id), tables_to_sync UNIQUE (table_name)"
    );
}

/// Counted in the window of now, and by week and month once it is time; across restarts, and once.
#[test]
fn metrics_add_up_across_restarts() {
    let mut ground = Ground::start("[archive]\nmetrics_time_zone = \"Europe/Berlin\"\n");
    ground.run(&["add-tables", "users", "orders"]);
    ground.produce(
        "insert into users select n, 'new' from generate_series(1, 10) n; insert into orders values (1, 1)",
    );
    ground.once();
    ground.produce("update users set name = 'changed' where id <= 4");
    ground.once();
    ground.produce("delete from users where id > 7");
    ground.once();
    let sums = |kind: &str| {
        format!(
            "select string_agg(concat_ws(' ', table_name, added, updated, deleted), ', ' order by table_name)
               from (select table_name, sum(records_added) as added, sum(records_updated) as updated, sum(records_deleted) as deleted
                       from public.data_sync_metrics where period_type = '{kind}' group by 1) s"
        )
    };
    let expected = "orders 1 0 0, users 10 4 3";
    assert_eq!(ground.psql(&sums("FREQ")), expected);
    let windows = "select bool_and(extract(epoch from period_start)::int8 % 600 = 0
                                   and period_end - period_start = interval '600 seconds'
                                   and period_start <= now()) from public.data_sync_metrics where period_type = 'FREQ'";
    assert_eq!(ground.psql(windows), "t");
    assert_eq!(ground.psql(&sums("WEEK")), "", "it is not time yet");

    let is_time = "update pgdiode.metric_summed set at = at - interval '24 hours'";
    ground.psql(is_time);
    ground.once();
    assert_eq!(ground.psql(&sums("WEEK")), expected);
    assert_eq!(ground.psql(&sums("MONTH")), expected);
    let begins = "select bool_and(extract(hour from period_start at time zone 'Europe/Berlin') = 0
                                  and case period_type when 'WEEK' then extract(isodow from period_start at time zone 'Europe/Berlin')
                                                       else extract(day from period_start at time zone 'Europe/Berlin') end = 1)
                    from public.data_sync_metrics where period_type <> 'FREQ'";
    assert_eq!(ground.psql(begins), "t");
    // What comes later is added; what was summed up is not added again.
    ground.produce("insert into orders values (2, 2)");
    ground.once();
    ground.psql(is_time);
    ground.once();
    ground.psql(is_time);
    ground.once();
    for kind in ["FREQ", "WEEK", "MONTH"] {
        assert_eq!(ground.psql(&sums(kind)), "orders 2 0 0, users 10 4 3", "{kind}");
    }
}

/// A backup machine that gets its files from a script, or from wal2json: nothing but the seed's own three lines.
#[test]
fn files_of_other_writers_apply_over_sftp() {
    let ground = Ground::start("[archive]\nsettle_seconds = 0\n");
    let directory = ground.backup.archive();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    let put = |name: &str, lines: &str| fs::write(directory.join(name), lines).unwrap();
    put(
        "changes_001.json",
        r#"{"table": "users", "op": "INSERT", "data": {"id": 1, "name": "John"}, "lsn": "0/16B3D40", "ts": "2026-02-05T10:30:00Z"}
{"table": "users", "op": "UPDATE", "data": {"id": 1, "name": "Jane"}, "old_keys": {"id": 1}, "lsn": "0/16B3D50", "ts": "2026-02-05T10:31:00Z"}
{"table": "users", "op": "INSERT", "data": {"id": 2, "name": "Jack"}}
{"table": "products", "op": "INSERT", "data": {"id": 1, "title": "not listed"}}
"#,
    );
    put("changes_002.json", "{\"table\": \"users\", \"op\": \"DELETE\", \"old_keys\": {\"id\": 1}}\n");
    put(
        "changes_003.json",
        r#"{"action":"B"}
{"action":"I","schema":"public","table":"orders","columns":[{"name":"id","type":"integer","value":1},{"name":"user_id","type":"integer","value":2}]}
{"action":"I","schema":"public","table":"users","columns":[{"name":"id","type":"integer","value":3},{"name":"name","type":"text","value":"Jill"}]}
{"action":"C"}
"#,
    );
    let checked = ground.pgdiode.run(&["check"]);
    assert!(checked.stdout.contains("3 change files of another writer's"), "{checked:?}");
    assert!(checked.stdout.contains("no table is on the list tables_to_sync"), "{checked:?}");
    ground.run(&["add-tables", "users", "orders"]);
    ground.run(&["check"]);
    ground.once();
    let users = "select json_agg(t order by id) from users t";
    assert_eq!(
        ground.psql(users),
        r#"[{"id":2,"name":"Jack"}, {"id":3,"name":"Jill"}]"#.replace("}, {", "}, \n {")
    );
    assert_eq!(ground.psql("select count(*) from products"), "0", "it is not listed");
    let logged = "users SUCCESS 3 changes_001.json, users SUCCESS 1 changes_002.json, orders SUCCESS 1 changes_003.json, users SUCCESS 1 changes_003.json";
    assert_eq!(ground.logs("public"), logged);
    let status = ground.run(&["status"]);
    assert!(status.contains("\nrecords synced: 6\nerrors: 0\n"), "{status}");
    // What comes later is logged once; nothing of before is logged again.
    put("changes_004.json", "{\"table\": \"orders\", \"op\": \"DELETE\", \"old_keys\": {\"id\": 1}}\n");
    ground.once();
    ground.once();
    assert_eq!(ground.logs("public"), format!("{logged}, orders SUCCESS 1 changes_004.json"));
    // One that cannot be read is named, and logged.
    put("changes_005.json", "{\"table\": \"orders\", \"op\": \"DROP\"}\n");
    let said = ground.pgdiode.run(&["start", "--once-caught-up"]).failure(4);
    assert!(said.contains("changes_005.json, line 1"), "{said}");
    assert_eq!(
        ground
            .psql("select count(*) from public.data_sync_logs where status = 'FAILED' and table_name = '*'"),
        "1"
    );
}
