//! Readers and a writer beside `pgdiode archive compact`: what is applied is the same, whatever lies in packs by then.

use std::fs;

use pgdiode::archive::manifest::{self, Claim};
use pgdiode::archive::names;

use super::circle::{Circle, directory_of};
use super::origin::{Laptop, Origin};
use crate::harness::{PgdiodeRun, Rng, ground};

const TABLES: &str = "create table entry (id bigserial primary key, v text);
    insert into entry (v) select 'old' || n from generate_series(1, 20) n;";

fn write_files(origin: &mut Origin, count: u32) {
    for file in 0..count {
        origin.psql(&format!(
            "insert into entry (v) values ('new {file}'); update entry set v = v || '.' where id % 5 = 0"
        ));
        origin.seal(8);
    }
}

fn compact(place: &str, arguments: &[&str]) -> String {
    PgdiodeRun::new("").run(&[&["archive", "compact", place], arguments].concat()).success()
}

#[test]
fn readers_begin_and_go_on_in_packs() {
    let mut origin = Origin::start(TABLES);
    origin.base(&["public.entry"]);
    write_files(&mut origin, 3);
    let tables = "tables = [\"public.entry\"]";
    let laptop = Laptop::start(&origin, tables, "");
    laptop.once();
    laptop.assert_alike(&origin, &["entry"]);
    write_files(&mut origin, 6);
    let claim = Claim {
        archive: origin.archive.clone(),
        epoch: 1,
        host: "db1".into(),
        process: 1,
        pipeline: "changes".into(),
        slot: "archive".into(),
        since: "2026-02-05T10:30:00Z".into(),
    };
    origin.put(&names::epoch(1), &manifest::text(&claim));
    let place = origin.path().to_str().unwrap().to_owned();
    let newest = origin.files();
    let said = compact(&place, &["--keep-last", "1"]);
    assert!(said.contains(&format!("files 1 to {} into packs/", newest - 1)), "{said}");
    // One stands in the middle of the pack, the other at its beginning.
    let young = Laptop::start(&origin, tables, "");
    for reader in [&laptop, &young] {
        reader.once();
        reader.assert_alike(&origin, &["entry"]);
        let status = reader.pgdiode.run(&["status"]).success();
        assert!(status.contains("0 behind"), "{status}");
    }
    write_files(&mut origin, 2);
    laptop.once();
    laptop.assert_alike(&origin, &["entry"]);

    // A bit in the pack stops who reads that file, by its name.
    let name = format!("packs/0000000001-{:010}.pack", newest - 1);
    let whole = fs::read(origin.object(&name)).unwrap();
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    origin.put(&name, &damaged);
    let said = Laptop::start(&origin, tables, "").refused(4);
    assert!(said.contains("0000000001.json has other content than its manifest says"), "{said}");
    origin.put(&name, &whole);
    // Who does not know packs, or cannot see them, passes over nothing.
    fs::rename(origin.object("meta/packs"), origin.object("meta/unknown")).unwrap();
    let said = Laptop::start(&origin, tables, "").refused(4);
    assert!(said.contains("files before it are missing or were pruned"), "{said}");
}

/// All three at once, and compactions that are killed.
#[test]
fn a_writer_and_a_reader_go_on_while_files_are_packed() {
    let place = ground::fresh_directory("archive");
    let circle = Circle::with_lines(&directory_of(&place), &[], ["", ""]);
    let mut rng = Rng::from_environment_or(5);
    circle.through();
    let writer = circle.writer.spawn(&["start"]);
    let mut reader = circle.reader.spawn(&["start"]);
    let place = place.to_str().unwrap();
    for round in 0..10_u64 {
        circle.work(&mut rng, 10);
        let packing = PgdiodeRun::new("");
        let mut packing = packing.spawn(&["archive", "compact", place, "--keep-last", "2"]);
        if round % 3 == 1 {
            std::thread::sleep(std::time::Duration::from_millis(rng.u64(1..60)));
            packing.kill9();
        } else {
            assert!(packing.wait().success(), "{}", packing.stderr());
        }
        if round % 4 == 3 {
            reader.kill9();
            circle.work(&mut rng, 5);
            reader = circle.reader.spawn(&["start"]);
        }
    }
    drop((writer, reader));
    circle.through();
    circle.assert_alike();
    compact(place, &["--keep-last", "2"]);
    let verified = circle.writer.run(&["archive", "verify"]).success();
    assert!(verified.contains("intact") && !verified.contains("note"), "{verified}");
    let packs = fs::read_dir(format!("{place}/packs")).unwrap().count();
    assert!(packs > 3, "{packs} packs");
    let late = circle.reader.run(&["archive", "list", "--json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&late).unwrap();
    assert!(listed["files"].as_array().unwrap().len() > packs * 2, "{listed}");
}
