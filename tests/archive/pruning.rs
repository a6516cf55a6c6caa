//! `pgdiode archive prune` removes what nobody needs, says what holds the rest, and may be killed anywhere.

use std::fs;

use pgdiode::archive::names::Stored;
use serde_json::{Value, json};

use super::built::{Built, pgdiode};

/// Six files, a base before each of 1, 3 and 5, and what is left of a fourth that failed before the last.
fn grown() -> Built {
    let mut built = Built::new("a");
    for number in 1..=6 {
        built.file(if number % 2 == 0 { Stored::Zstd } else { Stored::Plain });
    }
    built.base(1, 1);
    built.base(2, 3);
    built.put("bases/0000000003/tables/1.copy", b"1\n");
    built.base(4, 5);
    built
}

fn prune(built: &Built, arguments: &[&str]) -> Value {
    let (status, out, err) = pgdiode(&[&["archive", "prune", "--json", built.root()], arguments].concat());
    assert_eq!(status, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Whether it is intact, and how many notes there are.
fn verified(built: &Built) -> (bool, usize) {
    let (status, out, err) = pgdiode(&["archive", "verify", "--json", built.root()]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {err}"));
    assert_eq!(status == 0, report["intact"] == true, "{out}");
    (status == 0, report["notes"].as_array().unwrap().len())
}

#[test]
fn what_nobody_needs_goes_and_the_rest_is_whole() {
    let built = grown();
    let before = built.objects();
    let plan = prune(&built, &[]);
    assert_eq!(plan["files"], json!([1, 2, 3, 4]));
    assert_eq!(plan["bases"], json!([1, 2, 3]));
    assert_eq!(plan["kept_for"], json!(["base 4, the newest, goes on with file 5"]));
    assert_eq!(built.objects(), before, "without --yes it is a plan");
    let done = prune(&built, &["--yes"]);
    assert_eq!((&done["done"], &done["objects"]), (&true.into(), &plan["objects"]));
    assert_eq!(
        built.objects(),
        [
            "0000000005.json",
            "0000000006.json.zst",
            "bases/0000000004/manifest.json",
            "bases/0000000004/schema.sql",
            "bases/0000000004/tables/1.copy",
            "bases/0000000004/tables/2.copy.zst",
            "meta/archive.json",
            "meta/epochs/0000000001.json",
            "meta/files/0000000005.json",
            "meta/files/0000000006.json",
            "meta/pruned/0000000004.json",
        ]
    );
    assert_eq!(verified(&built), (true, 0));
    assert_eq!(prune(&built, &["--yes"])["objects"], json!([]), "once is enough");
    // The next ones go on from there.
    built.base(5, 6);
    assert_eq!(prune(&built, &["--yes"])["files"], json!([5]));
    assert_eq!(verified(&built), (true, 0));
}

#[test]
fn a_reader_holds_what_it_needs_until_it_is_forgotten() {
    let built = grown();
    built.reader("slow", 2);
    built.reader("fast", 7);
    let plan = prune(&built, &["--yes"]);
    assert_eq!((&plan["files"], &plan["first_kept"]), (&json!([1]), &json!(2)));
    assert_eq!(plan["kept_for"][0], "reader \"slow\", last heard of at 2026-02-05T10:30:00Z, needs file 2");
    assert!(verified(&built).0);
    let plan = prune(&built, &["--forget-reader", "slow", "--yes"]);
    assert_eq!(plan["files"], json!([2, 3, 4]));
    assert!(!built.path("meta/readers/slow.json").exists() && built.path("meta/readers/fast.json").exists());
    assert_eq!(verified(&built), (true, 0));
    let (status, _, err) = pgdiode(&["archive", "prune", built.root(), "--forget-reader", "nobody"]);
    assert_eq!(status, 2);
    assert!(err.contains("has no reader \"nobody\""), "{err}");
}

#[test]
fn without_a_base_nothing_goes() {
    let mut built = Built::new("a");
    (0..3).for_each(|_| drop(built.file(Stored::Plain)));
    let plan = prune(&built, &["--yes"]);
    assert_eq!(plan["objects"], json!([]));
    assert_eq!(plan["kept_for"], json!(["there is no base: whoever begins needs every file"]));
}

/// The writer goes on from it.
#[test]
fn the_newest_file_stays() {
    let built = grown();
    built.base(5, 7);
    let plan = prune(&built, &["--yes"]);
    assert_eq!(plan["files"], json!([1, 2, 3, 4, 5]));
    assert_eq!(plan["kept_for"], json!(["file 6 is the newest"]));
    assert_eq!(verified(&built), (true, 0));
}

#[test]
fn what_is_recent_stays() {
    let built = grown();
    let plan = prune(&built, &["--keep-days", "36500"]);
    assert_eq!(plan["objects"], json!(["bases/0000000003/tables/1.copy"]), "all that is of no time");
    assert_eq!(prune(&built, &["--keep-days", "1"])["files"], json!([1, 2, 3, 4]));
}

#[test]
fn a_damaged_archive_is_left_alone() {
    let built = grown();
    built.remove("0000000003.json");
    let before = built.objects();
    let (status, _, err) = pgdiode(&["archive", "prune", built.root(), "--yes"]);
    assert_eq!(status, 4);
    assert!(err.contains("nothing is removed: 0000000003.json: it is missing"), "{err}");
    assert_eq!(built.objects(), before);
}

/// Killed after any of its steps, it leaves a valid archive, and the next one ends what was begun.
#[test]
fn a_prune_that_was_killed_is_ended_by_the_next() {
    let whole = grown();
    let plan = prune(&whole, &["--yes"]);
    let record = whole.read("meta/pruned/0000000004.json");
    let objects: Vec<&str> =
        plan["objects"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(objects.len(), 17);
    for done in 0..=objects.len() {
        let built = grown();
        built.put("meta/pruned/0000000004.json", &record);
        objects[..done].iter().for_each(|name| built.remove(name));
        let (intact, notes) = verified(&built);
        assert!(intact && (notes > 0 || done == objects.len()), "killed after {done}: {notes} notes");
        let rest = prune(&built, &["--yes"]);
        assert_eq!(rest["objects"].as_array().unwrap().len(), objects.len() - done);
        assert_eq!(built.objects(), whole.objects(), "killed after {done}");
        assert_eq!(verified(&built), (true, 0));
    }
    assert_eq!(fs::read(whole.path("meta/pruned/0000000004.json")).unwrap(), record);
}
