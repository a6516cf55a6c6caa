//! Back to an earlier copy, and forward again.

use super::*;

#[test]
fn a_rollback_goes_back_and_forward() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("snapshot.keep = 2");
    pgdiode.run(&["rollback"]).failure(3);
    assert_eq!(ground.databases(), "", "looking for a generation makes nothing");
    for generation in 1..=3 {
        ground.source.psql("app", &format!("update stamp set generation = {generation}"));
        sync(&pgdiode).success();
    }
    assert_eq!(ground.databases(), "li li_gen_1 li_gen_2 li_pgdiode");
    let reader = ground.target.spawn_psql("li", "begin; select * from item limit 1; select pg_sleep(600)");
    ground.target.wait_until(
        "postgres",
        "select exists (select from pg_stat_activity where datname = 'li' and query like '%600%')",
        "the reader",
    );
    pgdiode.run(&["rollback", "--reason", "bad import"]).success();
    assert!(reader.wait().unwrap_err().contains("terminating connection"));
    assert_eq!(ground.stamp(), "2");
    pgdiode.run(&["rollback", "--to", "3"]).success();
    assert_eq!(ground.stamp(), "3");
    let said = pgdiode.run(&["rollback", "--to", "3"]).failure(3);
    assert!(said.contains("serves already"), "{said}");
    pgdiode.run(&["rollback", "--to", "9"]).failure(3);
    pgdiode.run(&["rollback", "--to", "1"]).success();
    assert_eq!(ground.stamp(), "1");
    let said = pgdiode.run(&["rollback"]).failure(3);
    assert!(said.contains("no older generation"), "{said}");
    let listed = pgdiode.run(&["generations"]).success();
    let states: Vec<(&str, &str)> = listed
        .lines()
        .skip(1)
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect();
    assert_eq!(states, [("1", "serving"), ("3", "kept"), ("2", "kept")]);

    // The next one replaces what serves, and keeps the two that served last.
    ground.source.psql("app", "update stamp set generation = 4");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "4");
    assert_eq!(ground.databases(), "li li_gen_1 li_gen_3 li_pgdiode");
    assert_eq!(
        ground.control("select count(*) from pgdiode.run where verb = 'rollback' and verdict = 'done'"),
        "3"
    );

    // Somebody has put another database in a generation's place.
    ground.target.psql("postgres", "drop database li_gen_1");
    ground.target.psql("postgres", "create database li_gen_1");
    let said = pgdiode.run(&["rollback", "--to", "1"]).failure(3);
    assert!(said.contains("is not generation 1 any more"), "{said}");
}
