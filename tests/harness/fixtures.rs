//! A database of everything that is hard to move (`tests/data/`), and random work on it.

use super::{Cluster, Rng};

const FIXTURES: [(&str, &str); 5] = [
    ("fixtures.sql", include_str!("../data/fixtures.sql")),
    ("fixtures_types.sql", include_str!("../data/fixtures_types.sql")),
    ("fixtures_tables.sql", include_str!("../data/fixtures_tables.sql")),
    ("fixtures_objects.sql", include_str!("../data/fixtures_objects.sql")),
    ("fixtures_workload.sql", include_str!("../data/fixtures_workload.sql")),
];

/// Fills `database`, which must exist, with the fixtures.
pub fn load_fixtures(cluster: &Cluster, database: &str) {
    for (name, sql) in FIXTURES {
        if let Err(error) = cluster.try_psql(database, sql) {
            panic!("{name} does not load into {}: {error}", cluster.version());
        }
    }
}

/// Does `steps` random transactions of `fixtures_workload.sql`; the same seed does the same.
pub fn work(cluster: &Cluster, database: &str, rng: &mut Rng, steps: u32) {
    let seed = rng.i32(0..i32::MAX);
    cluster.psql(database, &format!("call workload.run({seed}, {steps})"));
}
