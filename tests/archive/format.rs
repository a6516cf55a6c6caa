//! `docs/archive-format.md` shows what this program writes: each block under a `made:` mark is made here and compared;
//! `UPDATE_DOCS=1` renews them. Its commands are run, too.

use std::path::Path;
use std::process::Command;

use pgdiode::archive::names::Stored;
use pgdiode::change::{Change, Old, Tuple, Value};

use super::built::{Built, pgdiode, tuple, users};

/// Two files of the history that the document tells.
fn begun() -> Built {
    let mut built = Built::new("8a5fb2c6-7d0c-4f0e-9f3e-6c1b1d0f3a21");
    let unchanged: Tuple = [Value::Text(b"1"), Value::Unchanged, Value::Text(b"2.50")].into_iter().collect();
    let transactions = [
        vec![
            Change::Insert { relation: users(), new: tuple(&[Some("1"), Some("John"), Some("1.50")]) },
            Change::Insert { relation: users(), new: tuple(&[Some("2"), None, Some("NaN")]) },
        ],
        vec![
            Change::Update { relation: users(), old: None, new: unchanged },
            Change::Update {
                relation: users(),
                old: Some(Old::Key(tuple(&[Some("2"), None, None]))),
                new: tuple(&[Some("3"), Some("Jane"), None]),
            },
            Change::Delete { relation: users(), old: Old::Key(tuple(&[Some("1"), None, None])) },
        ],
        vec![Change::Truncate { relations: vec![users()], cascade: false, restart_identity: true }],
    ];
    built.file_of(&transactions, Stored::Plain);
    built.file(Stored::Zstd);
    built
}

/// The same with all that stands beside them.
fn told() -> Built {
    let built = begun();
    built.base(1, 1);
    built.reader("laptop", 2);
    built.pruned(1);
    built
}

/// The same in a pack, and one more.
fn packed() -> Built {
    let mut built = begun();
    built.file(Stored::Plain);
    let (status, _, err) = pgdiode(&["archive", "compact", built.root(), "--keep-last", "1"]);
    assert_eq!(status, 0, "{err}");
    built
}

/// What a mark stands for.
fn made(built: &Built, mark: &str, old: &str) -> String {
    let text = |name: &str| String::from_utf8(built.read(name)).unwrap();
    match mark {
        "file" => text("0000000001.json"),
        "identity" => text("meta/archive.json"),
        "claim" => text("meta/epochs/0000000001.json"),
        "manifest" => text("meta/files/0000000001.json"),
        "base" => text("bases/0000000001/manifest.json"),
        "rows" => text("bases/0000000001/tables/1.copy"),
        "reader" => text("meta/readers/laptop.json"),
        "commands" => commands(built, old),
        "packs" => commands(&packed(), old),
        other => panic!("what is {other}?"),
    }
}

/// Each line that begins with `$ ` and what it prints. Needs `jq` and `zstd`: `scripts/install` has them.
fn commands(built: &Built, old: &str) -> String {
    let mut text = String::new();
    for command in old.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let output = Command::new("sh").args(["-c", command]).current_dir(built.root()).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        text.push_str(&format!("$ {command}\n{}", String::from_utf8(output.stdout).unwrap()));
    }
    text
}

#[test]
fn the_document_shows_what_is_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/archive-format.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let built = told();
    let mut parts = document.split("<!-- made: ");
    let mut renewed = parts.next().unwrap().to_owned();
    let mut marks = Vec::new();
    for part in parts {
        let (mark, rest) = part.split_once(" -->\n").unwrap();
        let (fence, rest) = rest.split_once('\n').unwrap();
        let (old, rest) = rest.split_once("```").unwrap();
        assert!(fence.starts_with("```"), "{mark} has no block");
        let new = made(&built, mark, old);
        renewed.push_str(&format!("<!-- made: {mark} -->\n{fence}\n{new}```{rest}"));
        marks.push(mark);
    }
    assert_eq!(marks.len(), 9, "{marks:?}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, &renewed).unwrap();
    }
    assert!(
        renewed == document,
        "docs/archive-format.md is stale: UPDATE_DOCS=1 cargo test --test it archive::format"
    );
}
