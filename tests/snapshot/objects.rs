//! Everything that a database may hold arrives: what `pg_dump` says of both sides is the same.

use super::*;

/// What `pg_dump` prints of a database, rows and large objects too, in an order of its own making.
fn dumped(cluster: &Cluster, database: &str) -> Vec<String> {
    let output = cluster
        .tools()
        .command("pg_dump")
        .args(["--no-owner", "--no-publications", "--no-subscriptions", "--inserts", "--rows-per-insert=1"])
        .arg(cluster.conninfo(database))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Newer versions of pg_dump bracket their output with a random word.
    text.lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_pg_dump_says_of_both_sides_is_the_same() {
    let ground = Ground::new();
    ground.with_all_objects(
        "create unlogged table scratch (id int); insert into scratch values (1), (2);
         select lo_from_bytea(4711, decode(repeat('ab', 1500000), 'hex')); select lo_create(4712);",
    );
    sync(&ground.pgdiode("snapshot.verify = \"full\"")).success();
    let (source, replica) = (dumped(&ground.source, "app"), dumped(&ground.target, "li"));
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        let other: std::collections::HashSet<&String> = other.iter().collect();
        one.iter().filter(|line| !other.contains(line)).take(20).cloned().collect()
    };
    assert!(source.len() > 500);
    assert_eq!((only(&source, &replica), only(&replica, &source)), (Vec::new(), Vec::new()));
    assert_eq!(source.len(), replica.len());
    let filled = "select string_agg(relname || relispopulated, ' ' order by relname) from pg_class where relkind = 'm'";
    assert_eq!(ground.target.psql("li", filled), ground.source.psql("app", filled));
    assert_eq!(
        ground.target.psql("li", "select length(lo_get(4711)), (select more from a_through)"),
        "1500000|1001"
    );
}

/// Tables that are done early have them while others are still copied; in the end all have.
#[test]
fn a_copy_comes_with_statistics() {
    let ground = Ground::new();
    ground.source.psql(
        "app",
        "create table large (id int primary key, a int, b int, v text);
         insert into large select n, n % 10, n % 10, repeat('v', 100) from generate_series(1, 70000) n;
         create index large_sum on large ((a + b)); create statistics together on a, b from large;
         create table parent (id int); create table child () inherits (parent); insert into child values (1), (2);
         create table wide (id int) partition by range (id); create table wide_1 partition of wide default;
         insert into wide values (1), (2)",
    );
    let mut running = ground.held_sync(&ground.pgdiode(""));
    let shadow =
        ground.target.psql("postgres", "select datname from pg_database where datname like 'li_shadow%'");
    let early =
        "select count(*) = 2 from pg_statistic where starelid in ('large_sum'::regclass, 'large'::regclass)
                  and staattnum = 1";
    ground.target.wait_until(&shadow, early, "statistics beside the copy");
    let told = ground.control("select phase from pgdiode.run where verdict = 'running'");
    assert_eq!(told, "copying");
    ground.let_copy_go();
    assert!(running.wait().success(), "{}", running.stderr());
    let without = "select string_agg(relname, ' ' order by relname) from pg_class c
                    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'm')
                      and not exists (select from pg_statistic where starelid = c.oid)";
    assert_eq!(ground.target.psql("li", without), "");
    assert_eq!(ground.target.psql("li", "select count(*) from pg_statistic_ext_data"), "1");
}
