//! Everything that is hard to move, copied and then worked on.

use super::{Ends, Pair, stop};
use crate::harness::{Rng, Version, load_fixtures, work};

/// All ordinary tables of the fixtures, partitions by their roots.
const PUBLISH_ALL: &str = "
    select 'create publication pgdiode_main for table ' || string_agg(format('only %I.%I', n.nspname, c.relname), ', ')
        || ' with (publish_via_partition_root = ROOT)'
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence = 'p' and not c.relispartition
       and n.nspname !~ '^(pg_|information_schema)' \\gexec";

fn copied_and_worked_on(ends: Ends, via_root: bool, steps: u32) {
    let mut rng = Rng::from_environment_or(1);
    let pair = Pair::start(ends);
    load_fixtures(&pair.source, "postgres");
    // A root's own identity counts when changes are published as the root's.
    pair.at_source("alter table odd.by_expression replica identity full");
    pair.at_source(&PUBLISH_ALL.replace("ROOT", if via_root { "true" } else { "false" }));
    let running = pair.begin_and_copy();
    pair.assert_alike();
    work(&pair.source, "postgres", &mut rng, steps);
    pair.assert_alike();
    let conflicts = pair.at_target(
        "select coalesce(sum(conflicts + missing + skipped), 0) from pgdiode.relation_count;
         select * from pgdiode.note where kind <> 'schema-left-out';
         select * from pgdiode.relation where state <> 'ready'",
    );
    assert_eq!(conflicts, "0", "an untouched target has no conflicts");
    stop(running);
}

#[test]
fn the_fixtures_arrive_and_stay_alike() {
    copied_and_worked_on(Ends::default(), false, 150);
}

#[test]
fn the_fixtures_arrive_through_their_roots() {
    let ends = Ends { stream: "batch_mb = 1", ..Ends::default() };
    copied_and_worked_on(ends, true, 100);
}

#[test]
fn the_fixtures_go_from_any_version_to_the_next() {
    for versions in [(Version::V14, Version::V16), (Version::V16, Version::V17), (Version::V17, Version::V18)]
    {
        copied_and_worked_on(Ends { versions, ..Ends::default() }, versions.0 == Version::V16, 40);
    }
}

/// In-progress transactions are streamed in pieces and spooled; the work is the same.
#[test]
fn the_fixtures_arrive_streamed_in_progress() {
    let ends = Ends {
        versions: (Version::V18, Version::V18),
        source_settings: &[("logical_decoding_work_mem", "64kB")],
        stream: "batch_mb = 1\nspool_mb = 1",
        ..Ends::default()
    };
    copied_and_worked_on(ends, false, 60);
}
