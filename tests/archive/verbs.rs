//! `pgdiode archive`, through the built binary: exit statuses, texts and JSON.

use std::io::Read as _;
use std::process::{Command, Stdio};

use pgdiode::archive::names::Stored;

use super::built::{Built, pgdiode};

#[test]
fn verify_says_intact_or_what_is_damaged() {
    let built = Built::small();
    let (status, out, err) = pgdiode(&["archive", "verify", built.root()]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("intact     3 change files, 6 transactions, 27 rows, 1 base, "), "{out}");
    assert!(out.contains("\nhead       3:"), "{out}");

    let text = String::from_utf8(built.read("0000000002.json")).unwrap();
    built.put("0000000002.json", text.replacen("\"op\":\"INSERT\"", "\"op\":\"INSERU\"", 1).as_bytes());
    let (status, out, err) = pgdiode(&["archive", "verify", built.root()]);
    assert_eq!(status, 4);
    assert!(
        out.contains(
            "damaged    0000000002.json, line 3: it is no row: \"INSERU\" is no operation on a row\n"
        ),
        "{out}"
    );
    assert!(err.contains("is damaged: 0000000002.json, line 3") && err.contains("hint: "), "{err}");
    let (status, out, _) = pgdiode(&["archive", "verify", "--json", built.root()]);
    assert_eq!(status, 4);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["intact"], &report["findings"][0]["line"]), (&false.into(), &3.into()));
    assert_eq!(report["findings"][0]["object"], "0000000002.json");
    let (status, ..) = pgdiode(&["archive", "verify", "--quick", built.root()]);
    assert_eq!(status, 0, "of the same size");
    let (status, ..) = pgdiode(&["archive", "verify", "--from", "3", built.root()]);
    assert_eq!(status, 0, "the damage is before");
}

#[test]
fn the_configured_archive_is_found() {
    let built = Built::small();
    let file = built.path("pgdiode.toml");
    let pipeline = format!(
        "[pipeline.changes]\nsource = \"postgresql://repl@db1/app\"\ntarget = \"{}\"\ntables = [\"public.*\"]\n",
        built.root()
    );
    std::fs::write(&file, pipeline).unwrap();
    let (status, out, err) = pgdiode(&["archive", "list", "--json", "--config", file.to_str().unwrap()]);
    assert_eq!(status, 0, "{err}");
    let listing: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listing["archive"], built.archive.as_str());
}

#[test]
fn what_is_no_archive_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let (status, out, _) = pgdiode(&["archive", "verify", path]);
    assert_eq!(status, 4);
    assert!(out.contains("meta/archive.json: it is missing: is this an archive of pgdiode?"), "{out}");
    let (status, _, err) = pgdiode(&["archive", "verify", &format!("{path}/nothing")]);
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("there is no directory") && err.contains("hint: "), "{err}");
    let (status, _, err) = pgdiode(&["archive", "verify", "ftp://host/a"]);
    assert_eq!(status, 2, "{err}");
}

#[test]
fn list_shows_files_bases_and_readers() {
    let built = Built::small();
    let (status, out, err) = pgdiode(&["archive", "list", built.root()]);
    assert_eq!((status, err.as_str()), (0, ""));
    for line in [
        "0000000001.json      2026-02-05T10:30:00Z  0/1000  0/2000      1 ",
        "0000000003.json.zst  2026-02-05T10:30:00Z  0/3000  0/4000      1 ",
        "laptop  2026-02-05T10:30:00Z  0/2000            2  2 files",
        "3 files, 6 transactions, 27 rows, ",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
}

#[test]
fn show_prints_a_file_or_a_part_of_it() {
    let built = Built::small();
    let root = built.root();
    let plain = String::from_utf8(built.read("0000000002.json")).unwrap();
    for arguments in [
        &["2", root][..],
        &["0000000002", root],
        &["0000000002.json", root],
        &[&format!("{root}/0000000002.json")],
    ] {
        let (status, out, err) = pgdiode(&[&["archive", "show"], arguments].concat());
        assert_eq!((status, &out), (0, &plain), "{err}");
    }
    let (_, compressed, _) = pgdiode(&["archive", "show", "3", root]);
    assert_eq!(compressed.lines().count(), plain.lines().count());
    assert!(compressed.starts_with("{\"op\":\"ARCHIVE\",\"format\":1,"), "{compressed}");
    let (_, first, _) = pgdiode(&["archive", "show", "3", root, "--limit", "2"]);
    assert_eq!(first.lines().collect::<Vec<_>>(), compressed.lines().take(2).collect::<Vec<_>>());

    let (_, orders, _) = pgdiode(&["archive", "show", "2", root, "--table", "public.orders"]);
    let op = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["op"].as_str().unwrap().to_owned()
    };
    assert_eq!(orders.lines().map(op).collect::<Vec<_>>(), ["INSERT", "DELETE", "TRUNCATE"]);

    let (_, header, _) = pgdiode(&["archive", "show", "3", root, "--header"]);
    let header: serde_json::Value = serde_json::from_str(&header).unwrap();
    assert_eq!((&header["header"]["number"], &header["manifest"]["number"]), (&3.into(), &3.into()));
    for (file, expected) in
        [("9", "has no file 9"), ("users", "names no change file"), ("0", "names no change file")]
    {
        let (status, _, err) = pgdiode(&["archive", "show", file, root]);
        assert!(status == 2 && err.contains(expected), "{file}: {err}");
    }
    built.put("0000000003.json.zst", &built.read("0000000003.json.zst")[..400]);
    let (status, _, err) = pgdiode(&["archive", "show", "3", root]);
    assert!(status == 4 && err.contains("0000000003.json.zst, line "), "{status} {err}");
}

/// `pgdiode archive show 1 | head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut built = Built::new("a");
    built.rows = 20_000;
    built.file(Stored::Zstd);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pgdiode"))
        .args(["archive", "show", "1", built.root()])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}
