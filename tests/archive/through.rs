//! From one database through an archive into another, with the built program at both ends.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{
    BUCKET, Cluster, PgdiodeRun, Proxy, Rng, S3Server, SshServer, Version, ground, load_fixtures, work,
};

struct Both {
    origin: Cluster,
    laptop: Cluster,
    writer: PgdiodeRun,
    reader: PgdiodeRun,
}

impl Both {
    fn start(origin: Cluster, tables: &str, archive: &str) -> Both {
        let directory: PathBuf = ground::fresh_directory("archive");
        Both::start_at(&format!("\"{}\"", directory.display()), origin, tables, archive)
    }

    /// `place`: the archive, as an endpoint in TOML.
    fn start_at(place: &str, origin: Cluster, tables: &str, archive: &str) -> Both {
        let laptop = Cluster::start(Version::V15, &[]);
        let retry = "[pipeline.main.retry]\nfirst_ms = 50\nmax_ms = 500";
        let mut writer = PgdiodeRun::new(&format!(
            "[pipeline.main]\nsource = \"{}\"\ntarget = {place}\n{tables}\n{retry}\n[pipeline.main.archive]\n{archive}\n",
            origin.conninfo("postgres"),
        ));
        writer.set("PGDIODE_PG_DUMP", &origin.tools().path("pg_dump").display().to_string());
        let mut reader = PgdiodeRun::new(&format!(
            "[pipeline.main]\nsource = {place}\ntarget = \"{}\"\n{tables}\n{retry}\n[pipeline.main.archive]\npoll_seconds = 1\n",
            laptop.conninfo("postgres"),
        ));
        for end in [&mut writer, &mut reader] {
            end.set("AWS_ACCESS_KEY_ID", "test");
            end.set("AWS_SECRET_ACCESS_KEY", "hunter2");
        }
        writer.run(&["setup", "--yes"]).success();
        Both { origin, laptop, writer, reader }
    }

    fn catch_up(&self) {
        for end in [&self.writer, &self.reader] {
            end.run(&["start", "--once-caught-up"]).success();
        }
    }

    /// The laptop has caught up, holds the same, and has met nothing twice.
    fn assert_exact(&self) {
        self.catch_up();
        self.assert_alike();
        assert_eq!(
            self.laptop.psql("postgres", "select count(*) from pgdiode.note"),
            "0",
            "nothing was met twice"
        );
    }

    /// Every published table, as psql prints it.
    fn assert_alike(&self) {
        let published = self.origin.psql(
            "postgres",
            "select format('%I.%I', schemaname, tablename) from pg_publication_tables where pubname = 'pgdiode_main' order by 1",
        );
        assert!(!published.is_empty(), "the oracle sees no table");
        for table in published.lines() {
            let sql = format!(
                "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3;
                 set lc_monetary = 'C'; set row_security = off;
                 select count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' order by t::text collate \"C\")), '') from {table} as t"
            );
            let here = self.laptop.try_psql("postgres", &sql);
            let state = || {
                self.laptop.psql(
                    "postgres",
                    "select string_agg(table_name || ': ' || reason, E'\\n') from pgdiode.relation",
                )
            };
            assert_eq!(here, Ok(self.origin.psql("postgres", &sql)), "{table}\n{}", state());
        }
    }
}

#[test]
fn everything_that_is_hard_to_move_arrives() {
    let origin = Cluster::start(Version::V15, &[]);
    load_fixtures(&origin, "postgres");
    origin.psql(
        "postgres",
        "alter table odd.append_only replica identity full; alter table odd.no_columns replica identity full;
         alter table odd.identity_nothing replica identity default",
    );
    let mut rng = Rng::from_environment_or(5);
    let both = Both::start(origin, "tables = [\"odd.*\"]", "compression = \"zstd\"\n");
    both.catch_up();
    both.assert_alike();
    for _ in 0..3 {
        work(&both.origin, "postgres", &mut rng, 60);
        both.catch_up();
        both.assert_alike();
    }
    // A newcomer begins at the old base and comes to the same.
    both.reader.run(&["reset", "--yes"]).success();
    both.catch_up();
    both.assert_alike();
}

/// Rows without any key would be doubled by a change applied twice; counters would be off by one lost.
fn counting() -> Cluster {
    let origin = Cluster::start(Version::V15, &[]);
    origin.psql(
        "postgres",
        "create table keyless (n int, v text); alter table keyless replica identity full;
         create table counter (id int primary key, n int not null); insert into counter select n, 0 from generate_series(1, 5) n;
         create procedure work(steps int) language plpgsql as $$ begin
           for step in 1 .. steps loop
             insert into keyless select step % 10, 'w' from generate_series(1, 3);
             update counter set n = n + 3 where id = 1 + step % 5;
             commit;
           end loop; end $$;",
    );
    origin
}

/// Both ends at work while the way between them breaks and heals.
fn while_it_breaks(both: &Both, mut breaks: impl FnMut(), mut heals: impl FnMut()) {
    both.writer.run(&["start", "--once-caught-up"]).success();
    let (writer, reader) = (both.writer.spawn(&["start", "-v"]), both.reader.spawn(&["start", "-v"]));
    let goes_on = |what: &str| {
        both.origin.psql("postgres", "call work(30)");
        let total = both.origin.psql("postgres", "select sum(n) from counter");
        both.laptop.wait_until("postgres", &format!("select sum(n) >= {total} from counter"), what);
    };
    goes_on("the first changes");
    for _ in 0..2 {
        breaks();
        both.origin.psql("postgres", "call work(30)");
        both.laptop.wait_until(
            "postgres",
            "select phase = 'retrying' from pgdiode.pipeline",
            "another attempt",
        );
        heals();
        goes_on("changes after a break");
    }
    drop((writer, reader));
    both.assert_exact();
}

#[test]
fn an_archive_over_sftp_whose_server_goes_and_comes_back() {
    let server = SshServer::start();
    let place = format!(
        "{{ archive = \"{}\", identity_file = \"{}\", known_hosts = \"{}\" }}",
        server.location(),
        server.identity().display(),
        server.known_hosts().display()
    );
    let both = Both::start_at(&place, counting(), "tables = [\"public.*\"]", "file_seconds = 0\n");
    while_it_breaks(&both, || server.kill(), || server.start_again());
    let note = fs::read_dir(server.archive().join("meta/readers")).unwrap().count();
    assert_eq!(note, 1);
}

#[test]
fn an_archive_in_s3_behind_a_network_that_breaks() {
    let server = S3Server::start();
    let proxy = Proxy::start(server.port());
    let place = format!("\"{}\"", S3Server::location_at(proxy.port(), BUCKET));
    let both = Both::start_at(
        &place,
        counting(),
        "tables = [\"public.*\"]",
        "compression = \"zstd\"\nfile_seconds = 0\n",
    );
    while_it_breaks(&both, || proxy.cut(), || proxy.heal());
}

#[test]
fn whatever_dies_on_the_way_all_arrives_once() {
    let origin = counting();
    let mut rng = Rng::from_environment_or(17);
    let both = Both::start(origin, "tables = [\"public.*\"]", "file_seconds = 0\n");
    // A reader needs an archive to begin with.
    both.writer.run(&["start", "--once-caught-up"]).success();
    let begin = |end: &PgdiodeRun| end.spawn(&["start", "-v"]);
    let (mut writer, mut reader) = (begin(&both.writer), begin(&both.reader));
    for _ in 0..10 {
        both.origin.psql("postgres", "call work(60)");
        std::thread::sleep(Duration::from_millis(rng.u64(10..600)));
        if rng.bool() {
            writer.kill9();
            writer = begin(&both.writer);
        } else {
            reader.kill9();
            reader = begin(&both.reader);
        }
    }
    writer.kill9();
    reader.kill9();
    both.assert_exact();
}
