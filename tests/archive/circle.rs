//! The whole way: a production server, the writer, the archive wherever it may be, the reader, a laptop's server. What the
//! laptop holds is what production has, whatever was killed in between.

use std::fs;
use std::path::Path;

use super::origin::assert_table_alike;
use crate::harness::{
    Cluster, PgdiodeRun, Rng, Running, S3Server, SshServer, Version, ground, load_fixtures, wait_for, work,
};

/// The fixtures' ordinary tables, partitions through their roots.
const CARRIED: &str = "
    select format('%I.%I', n.nspname, c.relname)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence = 'p' and not c.relispartition
       and n.nspname !~ '^(pg_|information_schema)' order by 1";

pub(super) struct Circle {
    source: Cluster,
    target: Cluster,
    pub writer: PgdiodeRun,
    pub reader: PgdiodeRun,
}

impl Circle {
    /// `end` is the archive's table of connection keys.
    fn new(end: &str, variables: &[(&str, &str)]) -> Circle {
        Circle::with_lines(end, variables, ["", ""])
    }

    /// The same with lines of its own for each pipeline: the writer's, the reader's.
    pub fn with_lines(end: &str, variables: &[(&str, &str)], lines: [&str; 2]) -> Circle {
        let [of_writer, of_reader] = lines;
        let source = Cluster::start(Version::V15, &[]);
        let target = Cluster::start(Version::V15, &[]);
        load_fixtures(&source, "postgres");
        source.psql("postgres", "alter table odd.by_expression replica identity full");
        let roots = source.psql("postgres", CARRIED).replace('\n', ", only ");
        source.psql(
            "postgres",
            &format!(
                "create publication pgdiode_out for table only {roots} with (publish_via_partition_root)"
            ),
        );
        // What the reader's server must have before: roles that own things.
        let roles = source.psql(
            "postgres",
            "select string_agg(format('create role %I', rolname), ';') from pg_roles where rolname !~ '^pg_' and rolname <> 'postgres'",
        );
        target.psql("postgres", &roles);
        let retry = "retry.first_ms = 50\nretry.max_ms = 300";
        let writer = format!(
            "[pipeline.out]\nsource = \"{}\"\narchive.file_seconds = 0\narchive.file_mb = 1\narchive.compression = \"zstd\"\n{retry}\n{of_writer}\n[pipeline.out.target]\n{end}",
            source.conninfo("postgres")
        );
        let reader = format!(
            "[pipeline.laptop]\ntarget = \"{}\"\narchive.poll_seconds = 1\n{retry}\n{of_reader}\n[pipeline.laptop.source]\n{end}",
            target.conninfo("postgres")
        );
        let (mut writer, mut reader) = (PgdiodeRun::new(&writer), PgdiodeRun::new(&reader));
        for (name, value) in variables {
            writer.set(name, value);
            reader.set(name, value);
        }
        Circle { source, target, writer, reader }
    }

    pub fn work(&self, rng: &mut Rng, steps: u32) {
        work(&self.source, "postgres", rng, steps);
    }

    pub fn through(&self) {
        self.writer.run(&["start", "--once-caught-up"]).success();
        self.reader.run(&["start", "--once-caught-up"]).success();
    }

    pub fn assert_alike(&self) {
        let odd = self.target.psql(
            "postgres",
            "select coalesce(sum(conflicts + missing + skipped), 0) from pgdiode.relation_count;
             select schema_name, table_name, state, reason from pgdiode.relation where state <> 'ready'",
        );
        assert_eq!(odd, "0", "an untouched target has no conflicts");
        let tables = self.source.psql("postgres", CARRIED);
        let rows: usize =
            tables.lines().map(|table| assert_table_alike(&self.target, &self.source, table)).sum();
        assert!(rows > 100, "the oracle sees {rows} rows");
    }
}

fn directory() -> String {
    directory_of(&ground::fresh_directory("archive"))
}

/// The end of a pipeline that is an archive there.
pub(super) fn directory_of(path: &Path) -> String {
    format!("archive = \"{}\"", path.display())
}

#[test]
fn everything_arrives_through_a_directory() {
    let circle = Circle::new(&directory(), &[]);
    let mut rng = Rng::from_environment_or(1);
    circle.work(&mut rng, 20);
    circle.through();
    circle.assert_alike();
    circle.work(&mut rng, 150);
    circle.through();
    circle.assert_alike();
}

#[test]
fn everything_arrives_through_an_ssh_server_that_is_killed() {
    let ssh = SshServer::start();
    let end = format!(
        "archive = \"{}\"\nidentity_file = \"{}\"\nknown_hosts = \"{}\"",
        ssh.location(),
        ssh.identity().display(),
        ssh.known_hosts().display()
    );
    let circle = Circle::new(&end, &[]);
    let mut rng = Rng::from_environment_or(1);
    circle.through();
    let mut writer = circle.writer.spawn(&["start"]);
    let mut reader = circle.reader.spawn(&["start"]);
    circle.target.wait_until(
        "postgres",
        "select phase = 'streaming' from pgdiode.pipeline",
        "the reader follows",
    );
    let sealed = || listed(&ssh.archive().join("meta/files"));
    let before = sealed();
    circle.work(&mut rng, 5);
    assert!(
        wait_for(|| (sealed() > before).then_some(())).is_some(),
        "nothing is sealed: {}",
        writer.stderr()
    );
    for _ in 0..4 {
        circle.work(&mut rng, 30);
        ssh.kill();
        circle.work(&mut rng, 10);
        ssh.start_again();
    }
    end_of(&mut writer);
    end_of(&mut reader);
    circle.through();
    circle.assert_alike();
}

#[test]
fn everything_arrives_through_s3() {
    let s3 = S3Server::start();
    let end = format!(
        "archive = \"{}\"\naccess_key_id = \"tester\"\nsecret_access_key_env = \"S3_SECRET\"",
        s3.location()
    );
    let circle = Circle::new(&end, &[("S3_SECRET", "s3cret")]);
    let mut rng = Rng::from_environment_or(1);
    circle.through();
    circle.work(&mut rng, 80);
    circle.through();
    circle.assert_alike();
}

fn listed(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// SIGTERM loses nothing, and it ends in time.
fn end_of(running: &mut Running) {
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
}

/// The property of the two ends together: writer, reader and both servers killed at random moments.
#[test]
fn whatever_is_killed_nothing_is_lost_and_nothing_applied_twice() {
    let circle = Circle::new(&directory(), &[]);
    let mut rng = Rng::from_environment_or(1);
    circle.through();
    let (mut writer, mut reader) = (circle.writer.spawn(&["start"]), circle.reader.spawn(&["start"]));
    for _ in 0..12 {
        circle.work(&mut rng, 12);
        match rng.i32(0..4) {
            0 => {
                writer.kill9();
                writer = circle.writer.spawn(&["start"]);
            }
            1 => {
                reader.kill9();
                reader = circle.reader.spawn(&["start"]);
            }
            2 => {
                circle.source.kill9();
                circle.source.start_again();
            }
            _ => {
                circle.target.kill9();
                circle.target.start_again();
            }
        }
    }
    writer.kill9();
    reader.kill9();
    circle.through();
    circle.assert_alike();
}

/// What `--help` and the status of both sides say is of use: names, numbers, and no secret.
#[test]
fn both_sides_say_how_far_they_are() {
    let place = ground::fresh_directory("archive");
    let circle = Circle::new(&format!("archive = \"{}\"", place.display()), &[]);
    circle.through();
    let writer = circle.writer.run(&["status"]).success();
    assert!(writer.contains("the last change file is") || writer.contains("new"), "{writer}");
    let reader = circle.reader.run(&["status"]).success();
    assert!(reader.contains("0 behind"), "{reader}");
    let listed = circle.reader.run(&["archive", "list"]).success();
    assert!(listed.contains("laptop"), "the reader is registered: {listed}");
    assert!(fs::read_dir(&place).unwrap().count() > 1);
}
