//! Whatever happens to an archive is found and named: a bit of any object, a file that is lost, moved, cut, doubled, or
//! another's.

use pgdiode::archive::names::{self, Stored};
use pgdiode::custody::{Archive, VerifyOptions};
use pgdiode::status::archive::{ArchiveProgress, ArchiveVerification, Finding};
use tokio::sync::watch;

use super::built::Built;

fn verify_with(built: &Built, options: &VerifyOptions) -> ArchiveVerification {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let archive = Archive::at(built.root()).await.unwrap();
        archive.verify(options, &watch::Sender::new(ArchiveProgress::default())).await.unwrap()
    })
}

fn verify(built: &Built) -> ArchiveVerification {
    verify_with(built, &VerifyOptions::default())
}

/// The findings, as people see them.
fn findings(built: &Built) -> Vec<String> {
    let report = verify(built);
    assert_eq!(report.intact, report.findings.is_empty());
    report.findings.iter().map(Finding::text).collect()
}

fn notes(built: &Built) -> Vec<String> {
    let report = verify(built);
    assert!(report.intact, "{:#?}", report.findings);
    report.notes.iter().map(Finding::text).collect()
}

/// There is exactly one finding, which says so.
fn one(built: &Built, expected: &str) {
    let found = findings(built);
    assert!(found.len() == 1 && found[0].contains(expected), "wanted {expected:?}, found {found:#?}");
}

#[test]
fn an_untouched_archive_is_intact() {
    let built = Built::small();
    let report = verify(&built);
    assert_eq!(report.findings, []);
    assert_eq!(report.notes, []);
    assert!(report.intact);
    assert_eq!((report.files, report.bases, report.objects), (3, 1, 6));
    assert_eq!((report.records, report.transactions), (27, 6));
    let newest = &built.sealed[2];
    assert_eq!(report.head, Some(format!("3:{}", newest.content_sha256)));
    let quick = verify_with(&built, &VerifyOptions { quick: true, ..VerifyOptions::default() });
    assert!(quick.intact && quick.objects == 0);
    let late = verify_with(&built, &VerifyOptions { from: 3, ..VerifyOptions::default() });
    assert!(late.intact && late.files == 1);
}

/// In every region of every object a bit is flipped: that object is named, and no other.
#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let built = Built::small();
    built.base(2, 2);
    built.pruned(1);
    built.remove("0000000001.json");
    built.remove("meta/files/0000000001.json");
    let mut flipped = 0;
    for name in built.objects() {
        let whole = built.read(&name);
        // Every byte of the small ones, every fourth of the others.
        let stride = if whole.len() > 900 { 4 } else { 1 };
        for at in (0..whole.len()).step_by(stride) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at / stride % 8);
            built.put(&name, &damaged);
            let report = verify(&built);
            let named: Vec<&str> = report.findings.iter().map(|finding| finding.object.as_str()).collect();
            let is_named = !named.is_empty() && named.iter().all(|object| *object == name);
            assert!(is_named, "{name}, byte {at} of {}: {:#?}", whole.len(), report.findings);
            flipped += 1;
        }
        built.put(&name, &whole);
    }
    assert!(flipped > 3000, "{flipped} bits");
    assert!(verify(&built).intact, "it is whole again");
}

/// Where the JSON shows it, the line is named.
#[test]
fn damage_is_narrowed_to_its_line() {
    let built = Built::small();
    let name = "0000000002.json";
    let whole = String::from_utf8(built.read(name)).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for (at, line) in lines.iter().enumerate() {
        // The first quote: the beginning of a key.
        let mut damaged: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        damaged[at] = line.replacen('"', "#", 1);
        built.put(name, damaged.concat().as_bytes());
        let found = findings(&built);
        let expected = format!("0000000002.json, line {}: ", at + 1);
        assert!(found.len() == 1 && found[0].starts_with(&expected), "line {}: {found:#?}", at + 1);
    }
    // Two lines of one file, and one of another: it goes on.
    let mut damaged: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    for at in [3, 6] {
        damaged[at] = damaged[at].replacen('{', "[", 1);
    }
    built.put(name, damaged.concat().as_bytes());
    let first = String::from_utf8(built.read("0000000001.json")).unwrap();
    built.put("0000000001.json", first.replacen("\"op\":\"COMMIT\"", "\"op\":\"COMMIS\"", 1).as_bytes());
    let found = findings(&built);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("0000000001.json, line 11: "), "{found:#?}");
    assert!(found[1].starts_with("0000000002.json, line 4: "), "{found:#?}");
    assert!(found[2].starts_with("0000000002.json, line 7: "), "{found:#?}");
}

#[test]
fn a_value_that_became_another_is_found_by_the_hash() {
    let built = Built::small();
    let text = String::from_utf8(built.read("0000000001.json")).unwrap();
    built.put("0000000001.json", text.replacen("ada", "eva", 1).as_bytes());
    one(&built, "0000000001.json: it does not hold what was sealed, and no line shows where");
}

/// What a line says of its transaction, and how it is written, can only be so.
#[test]
fn a_line_that_was_not_written_so_is_named() {
    for stored in [Stored::Plain, Stored::Zstd] {
        for (line, from, to) in [
            (1, "\"writer\":", "\"wryter\":"),
            (1, "\"op\":\"ARCHIVE\",", "\"op\":\"ARCHIVE\", "),
            (3, "\"ts\":\"2026", "\"ts\":\"2027"),
            (4, "\"ts\":\"2026", "\"ts\":\"2027"),
            (4, "\"xid\":741", "\"xid\":740"),
            (5, "\"lsn\":\"0/1100\"", "\"lsn\":\"0/1101\""),
            (5, "\"unchanged\":", "\"unchanged\" :"),
            (6, "\"lsn\":", "\"lso\":"),
            (9, "{\"id\":1,", "{\"id\":01,"),
            (12, "\"tables\":", "\"tablet\":"),
            (11, "\"ts\":\"2026", "\"ts\":\"2027"),
            (15, "\"op\":\"END\",", "\"op\":\"END\" ,"),
        ] {
            let mut built = Built::new("a");
            let mut manifest = built.file(stored);
            let raw = built.read(&manifest.name);
            let text = match stored {
                Stored::Plain => raw,
                _ => zstd::decode_all(&raw[..]).unwrap(),
            };
            let mut lines: Vec<String> =
                String::from_utf8(text).unwrap().split_inclusive('\n').map(str::to_owned).collect();
            assert!(lines[line - 1].contains(from), "{line}: {}", lines[line - 1]);
            lines[line - 1] = lines[line - 1].replacen(from, to, 1);
            let changed = match stored {
                Stored::Plain => lines.concat().into_bytes(),
                _ => zstd::encode_all(lines.concat().as_bytes(), 0).unwrap(),
            };
            // Of whatever size it is now: that is not what tells.
            manifest.stored_bytes = changed.len() as u64;
            built.put(&manifest.name, &changed);
            built.put("meta/files/0000000001.json", &pgdiode::archive::manifest::text(&manifest));
            let found = findings(&built);
            let expected = format!("{}, line {line}: ", manifest.name);
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{from} in line {line}: {found:#?}");
        }
    }
}

#[test]
fn cuts_are_found() {
    let built = Built::small();
    for name in ["0000000002.json", "0000000003.json.zst", "bases/0000000001/tables/1.copy"] {
        let whole = built.read(name);
        for end in [0, 1, whole.len() / 2, whole.len() - 1] {
            built.put(name, &whole[..end]);
            let found = findings(&built);
            assert!(
                found.iter().any(|one| one.contains(&format!("{name}: it has {end} bytes"))),
                "{found:#?}"
            );
            assert!(found.iter().all(|one| one.starts_with(name)), "{found:#?}");
        }
        built.put(name, &whole);
    }
}

#[test]
fn what_is_missing_is_found() {
    for (name, expected) in [
        ("meta/archive.json", "meta/archive.json: it is missing"),
        ("meta/epochs/0000000001.json", "meta/epochs/0000000001.json: it is missing, and this writer wrote"),
        ("0000000002.json", "0000000002.json: it is missing, and its manifest is there"),
        ("meta/files/0000000002.json", "0000000002.json: its manifest is missing, and files follow it"),
        ("bases/0000000001/schema.sql", "bases/0000000001/schema.sql: it is missing"),
    ] {
        let built = Built::small();
        built.remove(name);
        one(&built, expected);
    }
}

#[test]
fn a_gap_is_found() {
    let built = Built::small();
    built.remove("0000000002.json");
    built.remove("meta/files/0000000002.json");
    one(&built, "0000000002.json: it is missing");
    let built = Built::small();
    for number in [1, 2] {
        built.remove(&names::change_file(number, Stored::Plain));
        built.remove(&names::manifest(number));
    }
    one(&built, "0000000001.json: files 1 to 2 are missing, and no prune has been recorded");
}

/// The end has nothing behind it that would miss it, but readers and bases.
#[test]
fn an_end_that_was_cut_off_is_found_by_who_knew_more() {
    let built = Built::small();
    let known = verify(&built).head;
    let with_head =
        VerifyOptions { head: Some(known.as_ref().unwrap().parse().unwrap()), ..VerifyOptions::default() };
    assert!(verify_with(&built, &with_head).intact);
    built.remove("0000000003.json.zst");
    built.remove("meta/files/0000000003.json");
    assert_ne!(verify(&built).head, known);
    let found = verify_with(&built, &with_head).findings;
    assert_eq!(found[0].text(), "0000000003.json: it was there, and is no more");
    built.reader("laptop", 4);
    one(&built, "meta/readers/laptop.json: it has read all before file 4, and the newest is 2");
    built.reader("laptop", 3);
    assert_eq!(findings(&built), [""; 0]);
    built.base(2, 4);
    one(&built, "bases/0000000002/manifest.json: it goes on with file 4, and the newest is 2");
}

#[test]
fn files_that_changed_places_are_found() {
    let built = Built::small();
    let (first, second) = (built.read("0000000001.json"), built.read("0000000002.json"));
    built.put("0000000001.json", &second);
    built.put("0000000002.json", &first);
    let found = findings(&built);
    for name in ["0000000001.json", "0000000002.json"] {
        let expected = format!("{name}, line 1: its number is ");
        assert!(found.iter().any(|one| one.starts_with(&expected)), "{found:#?}");
    }
}

#[test]
fn another_with_the_same_number_is_found() {
    let built = Built::small();
    built.put("0000000002.json.zst", b"another");
    one(
        &built,
        "0000000002.json.zst: it has the number of 0000000002.json, which is the one that was sealed",
    );
}

/// By somebody who can write there: every hash agrees with every other.
#[test]
fn an_archive_that_was_made_anew_is_found_by_its_head() {
    let (mut ours, mut theirs) = (Built::new("a"), Built::new("a"));
    theirs.flavour = 2;
    for built in [&mut ours, &mut theirs] {
        (0..3).for_each(|_| drop(built.file(Stored::Plain)));
    }
    let head = ours.sealed[1].content_sha256.clone();
    let known = |hash: &str| VerifyOptions {
        head: Some(format!("2:{hash}").parse().unwrap()),
        ..VerifyOptions::default()
    };
    assert!(verify_with(&ours, &known(&head)).intact, "it went on since");
    assert!(verify(&theirs).intact);
    let found = verify_with(&theirs, &known(&head)).findings;
    assert_eq!(
        found[0].text(),
        "0000000002.json: it is another than the one of this number and hash that was there"
    );
    ours.pruned(2);
    assert!(verify_with(&ours, &known(&head)).intact, "it is the last that was pruned");
    assert!(!verify_with(&ours, &known(&theirs.sealed[1].content_sha256)).intact);
}

/// A copy of the archive went on by itself, and files of both were put together.
#[test]
fn a_fork_is_found() {
    let (mut ours, mut theirs) = (Built::new("a"), Built::new("a"));
    ours.file(Stored::Plain);
    theirs.flavour = 2;
    theirs.file(Stored::Plain);
    theirs.file(Stored::Plain);
    for name in ["0000000002.json", "meta/files/0000000002.json"] {
        ours.put(name, &theirs.read(name));
    }
    one(&ours, "0000000002.json: it was written after another 0000000001.json than the one that is there");
}

#[test]
fn files_of_another_archive_are_found() {
    let (mut ours, mut theirs) = (Built::new("a"), Built::new("b"));
    for built in [&mut ours, &mut theirs] {
        (0..3).for_each(|_| drop(built.file(Stored::Plain)));
    }
    for name in ["0000000002.json", "meta/files/0000000002.json"] {
        ours.put(name, &theirs.read(name));
    }
    one(&ours, "meta/files/0000000002.json: it belongs to archive b, and this is a");
}

/// What its writer is at, what a prune or a base left unfinished and what is not pgdiode's is no damage.
#[test]
fn what_need_not_be_is_noted() {
    let built = Built::small();
    built.unsealed(Stored::Plain);
    built.put("README.txt", b"ours");
    built.put("lost+found/x", b"");
    built.put("meta/files/notes.txt", b"");
    built.put("bases/0000000002/tables/1.copy", b"1\n");
    assert_eq!(
        notes(&built),
        [
            "0000000004.json: it is not sealed yet",
            "README.txt: it is none of an archive's objects",
            "bases/0000000002: this base is not finished",
            "lost+found: it is none of an archive's objects",
            "meta/files/notes.txt: it is none of an archive's objects",
        ]
    );
}

#[test]
fn a_pruned_beginning_is_no_loss() {
    let built = Built::small();
    built.base(2, 3);
    built.pruned(1);
    assert_eq!(
        notes(&built),
        [
            "bases/0000000001/manifest.json: it goes on with file 1, which was pruned",
            "meta/pruned/0000000001.json: 1 file up to this one is still there: prune again",
        ]
    );
    built.remove("0000000001.json");
    built.remove("meta/files/0000000001.json");
    assert_eq!(notes(&built).len(), 1);
    // The first that is left is still tied to the last that is gone.
    let mut other = Built::new(&built.archive);
    other.flavour = 2;
    other.file(Stored::Plain);
    other.pruned(1);
    built.put("meta/pruned/0000000001.json", &other.read("meta/pruned/0000000001.json"));
    one(&built, "0000000002.json: it was written after another 0000000001.json");
    // More is gone than was pruned.
    let built = Built::small();
    built.base(2, 3);
    built.pruned(1);
    for number in [1, 2] {
        built.remove(&names::change_file(number, Stored::Plain));
        built.remove(&names::manifest(number));
    }
    one(&built, "0000000002.json: it is missing");
}

#[test]
fn rows_that_a_base_lacks_are_found() {
    let built = Built::small();
    let mut base = built.base(1, 1);
    base.tables[0].rows = 4;
    built.put("bases/0000000001/manifest.json", &pgdiode::archive::manifest::text(&base));
    one(&built, "bases/0000000001/manifest.json: public.users has 3 rows, and 4 are written here");
    built.put("bases/0000000001/tables/1.copy", b"1\tada\t1.50\n2\t\\N NaN\n");
    let found = findings(&built);
    assert_eq!(
        found,
        ["bases/0000000001/tables/1.copy, line 2: the row has 2 values, and the table 3 columns"]
    );
}
