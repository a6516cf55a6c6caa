//! Archives that are not what they should be: nothing is applied that is not proven, and the error names the file.

use std::fs;

use pgdiode::archive::line::Origin as Lines;
use pgdiode::archive::manifest::{self, Base, Manifest, Pruned};
use pgdiode::archive::names::{self, Stored};

use super::origin::{Laptop, Origin};
use super::replay::{ITEMS_ONLY, items};

/// One transaction a file.
fn write_files(origin: &mut Origin, from: u32, count: u32) {
    for number in from..from + count {
        origin.psql(&format!("insert into items values ({}, 'file')", 100 + number));
    }
    origin.seal(1);
}

fn ids(laptop: &Laptop) -> String {
    laptop.psql("select string_agg(id::text, ' ' order by id) from items where id > 100")
}

fn file(number: u64) -> String {
    names::change_file(number, Stored::Plain)
}

type Change = fn(&mut Lines);

/// Rewrites a manifest.
fn edit(origin: &Origin, number: u64, change: impl FnOnce(&mut Manifest)) {
    let name = names::manifest(number);
    let bytes = fs::read(origin.object(&name)).unwrap();
    let mut read: Manifest = manifest::parse(&name, &bytes).unwrap();
    change(&mut read);
    origin.put(&name, &manifest::text(&read));
}

/// What is before the damage is applied, the damaged file not in part; and once it is mended, it goes on.
fn stops_at(origin: &Origin, damaged: &[String], parts: &[&str], damage: impl FnOnce(&Origin)) {
    let laptop = Laptop::start(origin, ITEMS_ONLY, "");
    let before: Vec<_> = damaged.iter().map(|name| (name, fs::read(origin.object(name)).unwrap())).collect();
    damage(origin);
    let said = laptop.refused(4);
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(said.contains("hint:"), "{said}");
    assert_eq!(ids(&laptop), "101 102", "files 1 and 2 alone: {said}");
    let status = laptop.pgdiode.run(&["status"]).success();
    assert!(status.contains("failed") && status.contains(parts[0]), "{status}");
    for (name, content) in before {
        origin.put(name, &content);
    }
    laptop.once();
    laptop.assert_alike(origin, &["items"]);
}

fn five_files() -> Origin {
    let mut origin = items();
    write_files(&mut origin, 1, 5);
    origin
}

#[test]
fn a_gap_stops_the_reader() {
    let origin = five_files();
    let lost = [names::manifest(3), file(3)];
    stops_at(&origin, &lost, &["file 3 is missing"], |origin| {
        for name in [names::manifest(3), file(3)] {
            fs::remove_file(origin.object(&name)).unwrap();
        }
    });
    stops_at(&origin, &[file(3)], &["0000000003.json is missing"], |origin| {
        fs::remove_file(origin.object(&file(3))).unwrap();
    });
}

#[test]
fn a_tampered_file_is_not_applied_in_part() {
    let origin = five_files();
    // As long as it was, and still a file of rows: one value is another.
    stops_at(&origin, &[file(3)], &["0000000003.json", "other content"], |origin| {
        let text = fs::read_to_string(origin.object(&file(3))).unwrap();
        let tampered = text.replacen("\"v\":\"file\"", "\"v\":\"FILE\"", 1);
        assert_ne!(text, tampered, "there is such a value");
        origin.put(&file(3), tampered.as_bytes());
    });
    stops_at(&origin, &[file(3)], &["0000000003.json", "bytes"], |origin| {
        let text = fs::read(origin.object(&file(3))).unwrap();
        origin.put(&file(3), &text[..text.len() - 10]);
    });
    // Its manifest agrees with it: then the next file was written after another one.
    let both = [file(3), names::manifest(3)];
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    let before: Vec<_> = both.iter().map(|name| fs::read(origin.object(name)).unwrap()).collect();
    let tampered =
        String::from_utf8(before[0].clone()).unwrap().replacen("\"v\":\"file\"", "\"v\":\"FILE\"", 1);
    origin.put(&file(3), tampered.as_bytes());
    edit(&origin, 3, |manifest| {
        manifest.content_sha256 = pgdiode::digest::sha256(tampered.as_bytes());
        manifest.stored_sha256 = manifest.content_sha256.clone();
    });
    let said = laptop.refused(4);
    assert!(said.contains("0000000004.json: it was written after another 0000000003.json"), "{said}");
}

#[test]
fn a_file_of_another_archive_or_history_stops_the_reader() {
    let origin = five_files();
    let other = five_files();
    let both = [names::manifest(3), file(3)];
    stops_at(&origin, &both, &["meta/files/0000000003.json belongs to archive"], |origin| {
        for name in &both {
            origin.put(name, &fs::read(other.object(name)).unwrap());
        }
    });
    let lineage: [(&str, Change); 3] = [
        ("system", |lines| lines.system_identifier += 1),
        ("slot", |lines| lines.slot.push('x')),
        ("timeline", |lines| lines.timeline = 0),
    ];
    for (what, change) in lineage {
        stops_at(&origin, &[names::manifest(3)], &["0000000003.json holds the history of", what], |origin| {
            edit(origin, 3, |manifest| change(&mut manifest.lineage));
        });
    }
    let manifests = [3, 4, 5].map(names::manifest);
    stops_at(&origin, &manifests, &["0000000003.json begins otherwise than its manifest says"], |origin| {
        for number in 3..=5 {
            edit(origin, number, |manifest| manifest.epoch = 2);
        }
    });
}

/// Two writers went on from the same file: whose file 3 was applied, must not go on with the other's.
#[test]
fn a_fork_stops_the_reader() {
    let mut origin = items();
    write_files(&mut origin, 1, 2);
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    let files = origin.files();
    // The last file that was applied is another one now, with all that follows it.
    let name = names::manifest(files);
    let bytes = fs::read(origin.object(&name)).unwrap();
    edit(&origin, files, |manifest| manifest.content_sha256 = "0".repeat(64));
    let said = laptop.refused(4);
    assert!(
        said.contains(&file(files)) && said.contains("another file than the one that was applied"),
        "{said}"
    );
    origin.put(&name, &bytes);
    // The next one goes on from another one than is there.
    write_files(&mut origin, 3, 1);
    edit(&origin, files + 1, |manifest| manifest.previous = Some("0".repeat(64)));
    let said = laptop.refused(4);
    assert!(said.contains("it was written after another"), "{said}");
    assert_eq!(ids(&laptop), "101 102");
}

/// The file that was applied last is gone on purpose: the record of that has what the next one must go on from.
#[test]
fn what_is_left_after_a_prune_follows_what_is_gone() {
    let mut origin = items();
    write_files(&mut origin, 1, 2);
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    let gone = origin.files();
    write_files(&mut origin, 3, 1);
    let name = names::manifest(gone);
    let last: Manifest = manifest::parse(&name, &fs::read(origin.object(&name)).unwrap()).unwrap();
    let record = Pruned {
        format: 1,
        archive: origin.archive.clone(),
        number: gone,
        last,
        host: "db1".into(),
        pruned: "2026-02-05T10:30:00Z".into(),
    };
    origin.put(&names::pruned(gone), &manifest::text(&record));
    for number in 1..=gone {
        fs::remove_file(origin.object(&file(number))).unwrap();
        fs::remove_file(origin.object(&names::manifest(number))).unwrap();
    }
    let name = names::manifest(gone + 1);
    let bytes = fs::read(origin.object(&name)).unwrap();
    edit(&origin, gone + 1, |manifest| manifest.previous = Some("0".repeat(64)));
    let said = laptop.refused(4);
    assert!(said.contains("it was written after another"), "{said}");
    assert_eq!(ids(&laptop), "101 102");
    origin.put(&name, &bytes);
    // Who has not applied what is gone cannot go on, whatever the record says.
    let young = Laptop::start(&origin, ITEMS_ONLY, "");
    let said = young.refused(4);
    assert!(said.contains("files before it are missing or were pruned"), "{said}");
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
}

/// An archive that was restored from an older copy lacks what the target has.
#[test]
fn a_target_ahead_of_its_archive_stops() {
    let mut origin = items();
    write_files(&mut origin, 1, 2);
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    let older = origin.files();
    write_files(&mut origin, 3, 2);
    laptop.once();
    let newer: Vec<_> = (older + 1..=origin.files())
        .flat_map(|number| [names::manifest(number), file(number)])
        .map(|name| (origin.object(&name), fs::read(origin.object(&name)).unwrap()))
        .collect();
    for (path, _) in &newer {
        fs::remove_file(path).unwrap();
    }
    let said = laptop.refused(4);
    assert!(said.contains("restored from an older copy") && said.contains("hint:"), "{said}");
    // Whatever was noted of files, the position alone tells too.
    laptop.psql("update pgdiode.replay set file = null, file_sha256 = null, file_to = null");
    let said = laptop.refused(4);
    assert!(said.contains("the archive ends at") && said.contains("it lacks what was applied"), "{said}");
    for (path, content) in newer {
        fs::write(path, content).unwrap();
    }
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
}

#[test]
fn another_archive_in_the_same_place_is_refused() {
    let origin = five_files();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    let other = five_files();
    fs::remove_dir_all(origin.path()).unwrap();
    fs::rename(other.path(), origin.path()).unwrap();
    let said = laptop.refused(4);
    assert!(said.contains(&origin.archive) && said.contains(&other.archive), "{said}");
    fs::remove_file(origin.object(names::IDENTITY)).unwrap();
    let said = laptop.refused(3);
    assert!(said.contains("this is no archive"), "{said}");
}

#[test]
fn bases_that_are_not_whole() {
    let mut origin = items();
    origin.psql("insert into items values (11, 'between')");
    origin.seal(1);
    origin.base(&["public.items"]);
    // Without a manifest it is not there: the older one is taken.
    let newest = names::base_manifest(2);
    let kept = fs::read(origin.object(&newest)).unwrap();
    fs::remove_file(origin.object(&newest)).unwrap();
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
    assert_eq!(laptop.psql("select rows_copied from pgdiode.relation"), "10");
    // With one, all of it must be there.
    origin.put(&newest, &kept);
    let base: Base = manifest::parse(&newest, &kept).unwrap();
    let piece = base.tables[0].pieces[1].clone();
    let content = fs::read(origin.object(&piece.name)).unwrap();
    for damage in [None, Some(content.to_ascii_uppercase()), Some(content[1..].to_vec())] {
        match damage {
            Some(damage) => origin.put(&piece.name, &damage),
            None => fs::remove_file(origin.object(&piece.name)).unwrap(),
        }
        let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
        let said = laptop.refused(4);
        assert!(said.contains(&piece.name), "{said}");
        assert_eq!(laptop.psql("select count(*) from items"), "0", "no part of it");
        origin.put(&piece.name, &content);
        laptop.once();
        laptop.assert_alike(&origin, &["items"]);
    }
    // A piece that is whole and not all: its rows are counted.
    let mut fewer = base.clone();
    fewer.tables[0].pieces.pop();
    origin.put(&newest, &manifest::text(&fewer));
    let said = Laptop::start(&origin, ITEMS_ONLY, "").refused(4);
    assert!(said.contains("9 rows of public.items"), "{said}");
    // Files that a base needs are gone.
    origin.put(&newest, &kept);
    origin.psql("insert into items values (12, 'after')");
    origin.seal(1);
    let next = base.next_file;
    edit(&origin, next, |manifest| manifest.from.0 = base.at.0 + 1);
    let said = Laptop::start(&origin, ITEMS_ONLY, "").refused(4);
    assert!(said.contains(&format!("{} begins at", file(next))), "{said}");
}

#[test]
fn tables_that_are_not_in_the_archive_or_hold_foreign_rows() {
    let origin = items();
    let laptop = Laptop::start(&origin, "tables = [\"public.itms\"]", "");
    let said = laptop.refused(2);
    assert!(
        said.contains("base 1 has no table public.itms") && said.contains("did you mean public.items?"),
        "{said}"
    );
    let laptop = Laptop::start(&origin, "tables = [\"private.*\"]", "");
    assert!(laptop.refused(2).contains("no table of base 1 matches private.*"));
    let laptop = Laptop::start(&origin, ITEMS_ONLY, "");
    laptop.psql("create table items (id int primary key, v text); insert into items values (1, 'mine')");
    let said = laptop.refused(3);
    assert!(said.contains("the target has rows already in public.items"), "{said}");
    laptop.psql("delete from items");
    laptop.once();
    laptop.assert_alike(&origin, &["items"]);
    let said = laptop.pgdiode.run(&["add-tables", "public.nowhere"]).failure(2);
    assert!(said.contains("has no table public.nowhere"), "{said}");
    laptop.psql("create table other (id int primary key, v text); insert into other values (9, 'mine')");
    let said = laptop.pgdiode.run(&["add-tables", "public.other"]).failure(3);
    assert!(said.contains("has rows already in public.other"), "{said}");
}
