//! Production's side of an archive: the role that the writer runs as has what it needs, and nothing else.

use std::fs;

use crate::harness::{Cluster, PgdiodeRun, Version, ground};

const TABLES: &str = "
    create schema shop; create table shop.orders (id int primary key, v text); insert into shop.orders values (1, 'first');
    create table shop.parts (id int primary key, v text) partition by range (id);
    create table shop.parts_1 partition of shop.parts for values from (0) to (100); insert into shop.parts values (1, 'p');
    create table public.secret (id int primary key, v text); insert into secret values (1, 'nobody else');
    create table public.nameless (id int);
    revoke all on database app from public; revoke all on schema public from public";

struct Ground {
    source: Cluster,
    pgdiode: PgdiodeRun,
    admin: String,
    archive: std::path::PathBuf,
}

impl Ground {
    fn new(further: &str) -> Ground {
        let source = Cluster::start(Version::V15, &[("log_statement", "all")]);
        source.psql("postgres", "create database app");
        source.psql("app", TABLES);
        source.put_first_in_hba("host all writer 127.0.0.1/32 scram-sha-256\n");
        let archive = ground::fresh_directory("archive");
        let mut pgdiode = PgdiodeRun::new(&format!(
            "[pipeline.out]\ntarget = \"{}\"\narchive.file_seconds = 0\n{further}\n[pipeline.out.source]\n\
             host = \"127.0.0.1\"\nport = {}\ndbname = \"app\"\nuser = \"writer\"\npassword_env = \"WRITER_PASSWORD\"\n",
            archive.display(),
            source.port()
        ));
        pgdiode.set("WRITER_PASSWORD", "its own s3cret");
        let admin = source.conninfo("app");
        Ground { source, pgdiode, admin, archive }
    }

    fn setup(&self, args: &[&str]) -> crate::harness::Output {
        let args: Vec<&str> = ["setup", "--admin", &self.admin].iter().chain(args).copied().collect();
        self.pgdiode.run(&args)
    }

    fn rights(&self) -> String {
        self.source.psql(
            "app",
            "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolcanlogin, rolreplication from pg_roles where rolname = 'writer';
             select string_agg(c.oid::regclass || ' ' || p, ', ' order by c.oid::regclass::text, p)
               from pg_class c, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p
              where c.relnamespace::regnamespace::text in ('shop', 'public') and c.relkind in ('r', 'p') and has_table_privilege('writer', c.oid, p)",
        )
    }
}

const LEAST: &str = "f|f|f|f|t|t\nshop.orders select, shop.parts select, shop.parts_1 select";

#[test]
fn the_writer_runs_as_the_role_that_setup_makes() {
    for plugin in ["pgoutput", "wal2json"] {
        let ground = Ground::new(&format!("tables = [\"shop.*\"]\nplugin = \"{plugin}\""));
        let printed = ground.setup(&["--create-slot", "--create-user", "--print-sql"]).success();
        assert!(printed.contains("create role \"writer\" login replication /*"), "{printed}");
        assert!(
            printed.contains(
                "grant select on \"shop\".\"orders\", \"shop\".\"parts\", \"shop\".\"parts_1\" to \"writer\""
            ),
            "{printed}"
        );
        assert!(
            printed.contains(&format!("pg_create_logical_replication_slot('pgdiode_out', '{plugin}')")),
            "{printed}"
        );
        assert!(!printed.contains("s3cret") && !printed.contains("SCRAM-SHA-256$"), "{printed}");
        assert_eq!(ground.source.psql("app", "select count(*) from pg_roles where rolname = 'writer'"), "0");

        ground.setup(&["--create-slot", "--create-user", "--yes"]).success();
        assert_eq!(ground.rights(), LEAST);
        let log = fs::read_to_string(ground.source.directory().join("log")).unwrap();
        assert!(log.contains("create role") && !log.contains("s3cret"), "the server's log has no password");
        let again = ground.setup(&["--create-slot", "--create-user", "--yes"]);
        assert!(again.stderr.contains("everything is set up already"), "{again:?}");

        ground.source.psql("app", "insert into shop.orders values (2, 'second')");
        ground.pgdiode.run(&["check"]).success();
        ground.pgdiode.run(&["start", "--once-caught-up"]).success();
        ground.source.psql(
            "app",
            "update shop.orders set v = 'third' where id = 2; insert into shop.parts values (2, 'q')",
        );
        ground.pgdiode.run(&["start", "--once-caught-up"]).success();
        let place = ground.archive.display().to_string();
        let listed = PgdiodeRun::new("").run(&["archive", "verify", &place]).success();
        assert!(listed.contains("nothing is wrong") || !listed.is_empty(), "{listed}");
        let files: String = fs::read_dir(&ground.archive)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        assert!(
            files.contains("third") && files.contains("\"q\"") && !files.contains("nobody else"),
            "{files}"
        );

        // It cannot write, nor read what it was not given.
        let uri = format!("postgresql://writer:its%20own%20s3cret@127.0.0.1:{}/app", ground.source.port());
        for statement in [
            "insert into shop.orders values (9, 'x')",
            "select * from public.secret",
            "create table shop.x ()",
        ] {
            let refused = std::process::Command::new("psql").args([&uri, "-c", statement]).output().unwrap();
            let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(refused.contains("permission denied"), "{statement}: {refused}");
        }
    }
}

#[test]
fn what_setup_cannot_do_is_said() {
    let ground = Ground::new("tables = [\"*.*\"]");
    let refused = ground.setup(&["--create-user", "--yes"]).failure(3);
    assert!(refused.contains("public.nameless has nothing that names its rows"), "{refused}");
    assert_eq!(ground.source.psql("app", "select count(*) from pg_roles where rolname = 'writer'"), "0");
    let ground = Ground::new("tables = [\"shop.*\"]");
    let refused = ground.setup(&["--adopt-slot", "--yes"]).failure(3);
    assert!(
        refused.contains("no replication slot \"pgdiode_out\"") && refused.contains("--create-slot"),
        "{refused}"
    );
    ground.pgdiode.run(&["setup", "--create-user"]).failure(2);
    let elsewhere = ground.source.conninfo("postgres");
    let refused = ground.pgdiode.run(&["setup", "--admin", &elsewhere, "--create-user", "--yes"]).failure(2);
    assert!(refused.contains("is to database \"postgres\", the source is \"app\""), "{refused}");
    // What was written before the publication was made cannot be decoded.
    ground.source.psql("app", "select pg_create_logical_replication_slot('pgdiode_out', 'pgoutput')");
    let refused = ground.setup(&["--adopt-slot", "--yes"]).failure(3);
    assert!(refused.contains("the slot \"pgdiode_out\" is there and the publication"), "{refused}");
    // A role that is there gets what it lacks.
    ground
        .source
        .psql("app", "create role writer login; grant select on shop.orders to writer; create user other");
    let ran = ground.setup(&["--create-user", "--yes"]).success();
    assert!(ran.contains("alter role \"writer\" replication") && !ran.contains("create role"), "{ran}");
    assert_eq!(ground.rights(), LEAST);
    let live = PgdiodeRun::new("[pipeline.main]\nsource = \"host=a\"\ntarget = \"host=b\"\n");
    let refused = live.run(&["setup", "--create-slot", "--yes"]).failure(2);
    assert!(refused.contains("does not fill an archive"), "{refused}");
}
