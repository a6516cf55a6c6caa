//! Whatever is killed and whenever: whole transactions, exactly once.

use std::time::Duration;

use super::origin::{Laptop, Origin, wait_or_end};
use crate::harness::Rng;

/// Rows without any key would be doubled by a change applied twice; counters would be off by one lost. The two tables say
/// the same sum after each transaction.
const TABLES: &str = "
    create table keyless (n int, v text); alter table keyless replica identity full;
    create table counter (id int primary key, n int not null); insert into counter select n, 0 from generate_series(1, 5) n;
    create table ballast (id int primary key, v text); insert into ballast select n, repeat('b', 300) from generate_series(1, 3000) n;
    create procedure work(steps int) language plpgsql as $$ begin
      for step in 1 .. steps loop
        insert into keyless select step % 10, 'w' from generate_series(1, 3);
        update counter set n = n + 3 where id = 1 + step % 5;
        update ballast set v = repeat('x', 100 + step) where id = step % 3000;
        commit;
      end loop; end $$;";

const ALL: [&str; 3] = ["keyless", "counter", "ballast"];

fn working(steps: u32, files_of: usize) -> Origin {
    let mut origin = Origin::start(TABLES);
    origin.base(&["public.keyless", "public.counter", "public.ballast"]);
    origin.psql(&format!("call work({steps})"));
    origin.seal(files_of);
    origin
}

/// Of whole transactions the sums agree at every moment at which the tables are in step.
fn assert_whole(laptop: &Laptop) {
    let sql = "select (select count(*) from keyless) = (select sum(n) from counter)
          or exists (select from pgdiode.relation where state <> 'ready')";
    if let Ok(is_whole) = laptop.cluster.try_psql("postgres", sql) {
        assert_eq!(is_whole, "t", "a part of a transaction is to be seen");
    }
}

#[test]
fn a_reader_killed_at_any_moment_applies_all_once() {
    let mut rng = Rng::from_environment_or(7);
    let mut origin = working(400, 3);
    let laptop = Laptop::start(&origin, "tables = [\"public.*\", \"!public.pulse\"]", "");
    for round in 0..14 {
        let mut running = laptop.begin();
        // Not slept to test anything: the moment is what is random.
        std::thread::sleep(Duration::from_millis(rng.u64(20..500)));
        running.kill9();
        assert_whole(&laptop);
        if round % 4 == 1 {
            origin.psql("call work(40)");
            origin.seal(2);
        }
    }
    laptop.once();
    laptop.assert_alike(&origin, &ALL);
    assert_eq!(laptop.psql("select count(*) from pgdiode.note"), "0", "nothing was met twice");
    assert_eq!(laptop.psql("select count(*) from pg_indexes where tablename in ('counter', 'ballast')"), "2");
}

#[test]
fn a_target_killed_at_any_moment_has_all_once() {
    let mut rng = Rng::from_environment_or(11);
    let mut origin = working(300, 3);
    let laptop = Laptop::start(&origin, "tables = [\"public.*\", \"!public.pulse\"]", "");
    let mut running = laptop.begin();
    laptop.wait_until("select to_regclass('pgdiode.position') is not null", "the control schema");
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(rng.u64(20..400)));
        laptop.cluster.kill9();
        laptop.cluster.start_again();
        assert_whole(&laptop);
        // Killed before it has worked at all, the run takes that for a wrong address.
        if !running.is_running() {
            running = laptop.begin();
        }
        if round % 2 == 1 {
            origin.psql("call work(40)");
            origin.seal(2);
        }
    }
    let is_through = wait_or_end(&mut running, || {
        let sql = format!("select lsn >= '{}' from pgdiode.position where pipeline = 'main'", origin.to);
        laptop.cluster.try_psql("postgres", &sql).is_ok_and(|answer| answer == "t")
    });
    assert!(is_through, "{}", running.stderr());
    laptop.assert_alike(&origin, &ALL);
    assert_eq!(laptop.psql("select count(*) from pgdiode.note"), "0", "nothing was met twice");
}

/// A pass has a position of its own: cut off, it goes on, and what was in step stays so.
#[test]
fn a_pass_killed_at_any_moment_goes_on() {
    let mut rng = Rng::from_environment_or(13);
    let mut origin = working(600, 2);
    let laptop = Laptop::start(&origin, "tables = [\"public.*\", \"!public.pulse\"]", "");
    laptop.once();
    let mut was_in_pass = false;
    for round in 0..12 {
        if round % 3 == 0 {
            laptop.pgdiode.run(&["resync", "public.keyless", "public.ballast"]).success();
            origin.psql("call work(20)");
            origin.seal(2);
        }
        let mut running = laptop.begin();
        laptop.wait_until(
            "select count(*) > 1 or not exists (select from pgdiode.relation where state <> 'ready') from pgdiode.position",
            "a pass",
        );
        std::thread::sleep(Duration::from_millis(rng.u64(0..120)));
        running.kill9();
        was_in_pass |= laptop.psql("select count(*) > 1 from pgdiode.position") == "t";
        assert_whole(&laptop);
    }
    assert!(was_in_pass, "no kill met a pass; other moments are needed");
    laptop.once();
    laptop.assert_alike(&origin, &ALL);
    assert_eq!(laptop.psql("select count(*) from pgdiode.note"), "0", "nothing was met twice");
    assert_eq!(laptop.psql("select count(*) from pgdiode.position"), "1");
}
