//! Small archives, made as a writer makes them, into a temporary directory.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use pgdiode::archive::draft::{Draft, Press};
use pgdiode::archive::line::{Header, Origin};
use pgdiode::archive::manifest::{
    self, Base, BaseTable, Claim, Identity, Manifest, Piece, Pruned, ReaderNote, TableShape,
};
use pgdiode::archive::names::{self, Stored};
use pgdiode::archive::{FORMAT, encode::TypeNames};
use pgdiode::change::{Change, Column, Old, Relation, ReplicaIdentity, Transaction, Tuple, Value};
use pgdiode::position::Lsn;
use tempfile::TempDir;

pub const NOW: &str = "2026-02-05T10:30:00Z";

/// Exit status, standard output, standard error.
pub fn pgdiode(arguments: &[&str]) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pgdiode"))
        .args(arguments)
        .current_dir(directory.path())
        .env_clear()
        .env("HOME", directory.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

pub struct Built {
    directory: TempDir,
    pub archive: String,
    pub sealed: Vec<Manifest>,
    /// Makes what is written differ from another's.
    pub flavour: u32,
    /// How many more rows a file has.
    pub rows: u32,
}

impl Built {
    /// An archive with a writer and no files.
    pub fn new(archive: &str) -> Built {
        let directory = tempfile::tempdir().unwrap();
        let built = Built { directory, archive: archive.to_owned(), sealed: Vec::new(), flavour: 1, rows: 0 };
        let identity = Identity { format: FORMAT, archive: archive.to_owned(), created: NOW.to_owned() };
        built.put(names::IDENTITY, &manifest::text(&identity));
        built.claim(1);
        built
    }

    /// Two plain files, a compressed one, a base of all before them, and a reader.
    pub fn small() -> Built {
        let mut built = Built::new("8a5fb2c6-7d0c-4f0e-9f3e-6c1b1d0f3a21");
        built.base(1, 1);
        built.file(Stored::Plain);
        built.file(Stored::Plain);
        built.file(Stored::Zstd);
        built.reader("laptop", 2);
        built
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn root(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// The names of all objects.
    pub fn objects(&self) -> Vec<String> {
        fn walk(directory: &std::path::Path, below: &str, names: &mut Vec<String>) {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let name = format!("{below}{}", entry.file_name().to_str().unwrap());
                if entry.path().is_dir() {
                    walk(&entry.path(), &format!("{name}/"), names);
                } else {
                    names.push(name);
                }
            }
        }
        let mut names = Vec::new();
        walk(self.directory.path(), "", &mut names);
        names.sort();
        names
    }

    pub fn claim(&self, epoch: u64) {
        let claim = Claim {
            archive: self.archive.clone(),
            epoch,
            host: "db1".into(),
            process: 4711,
            pipeline: "changes".into(),
            slot: "pgdiode_changes".into(),
            since: NOW.into(),
        };
        self.put(&names::epoch(epoch), &manifest::text(&claim));
    }

    pub fn reader(&self, name: &str, file: u64) {
        let note = ReaderNote {
            format: FORMAT,
            archive: self.archive.clone(),
            name: name.to_owned(),
            file,
            position: Lsn(file * 0x1000),
            updated: NOW.into(),
        };
        self.put(&names::reader(name), &manifest::text(&note));
    }

    /// The next file, sealed.
    pub fn file(&mut self, stored: Stored) -> Manifest {
        self.file_of(&self.transactions(), stored)
    }

    /// The next file, and the manifest that it lacks.
    pub fn unsealed(&self, stored: Stored) -> Manifest {
        let (bytes, manifest) = self.drafted(&self.transactions(), stored);
        self.put(&manifest.name, &bytes);
        manifest
    }

    /// Two transactions: every kind of change there is.
    fn transactions(&self) -> [Vec<Change>; 2] {
        let mut first = rows(self.flavour);
        let more = users();
        first.extend((0..self.rows).map(|row| {
            let id = (1000 + row).to_string();
            let new = tuple(&[Some(&id), Some(&id.repeat(row as usize % 50)), Some("1")]);
            Change::Insert { relation: Arc::clone(&more), new }
        }));
        [first, emptied()]
    }

    /// The next file, sealed, with these transactions.
    pub fn file_of(&mut self, transactions: &[Vec<Change>], stored: Stored) -> Manifest {
        let (bytes, manifest) = self.drafted(transactions, stored);
        self.put(&manifest.name, &bytes);
        self.put(&names::manifest(manifest.number), &manifest::text(&manifest));
        self.sealed.push(manifest.clone());
        manifest
    }

    fn drafted(&self, transactions: &[Vec<Change>], stored: Stored) -> (Vec<u8>, Manifest) {
        let number = self.sealed.last().map_or(1, |last| last.number + 1);
        let from = self.sealed.last().map_or(Lsn(0x1000), |last| last.to);
        let header = Header {
            format: FORMAT,
            archive: self.archive.clone(),
            number,
            epoch: 1,
            previous: self.sealed.last().map(|last| last.content_sha256.clone()),
            from,
            lineage: lineage(),
            created: NOW.into(),
            writer: "pgdiode 0.1.0".into(),
            salt: None,
        };
        let mut draft = Draft::begin(&header, Arc::new(type_names()));
        for (at, changes) in transactions.iter().enumerate() {
            let commit_lsn = Lsn(from.0 + 0x100 * (at as u64 + 1));
            let xid = 741 + u32::try_from(at).unwrap();
            draft.transaction(Transaction { xid, commit_lsn, committed_at_us: 823_602_600_123_456 });
            for change in changes {
                draft.change(change);
            }
            draft.commit(Lsn(commit_lsn.0 + 0x30));
        }
        let to = Lsn(from.0 + 0x1000);
        let (bytes, counted) = draft.end(to);
        let mut press = Press::new(Vec::new(), stored, 0).unwrap();
        press.write(&bytes).unwrap();
        let (bytes, sums) = press.finish().unwrap();
        let name = names::change_file(number, stored);
        (bytes, Manifest::of(&header, name, to, counted, sums, NOW.into()))
    }

    /// Every table before the file `next_file`.
    pub fn base(&self, number: u64, next_file: u64) -> Base {
        let piece = |name: &str, content: &str, stored: Stored| {
            let mut press = Press::new(Vec::new(), stored, 0).unwrap();
            press.write(content.as_bytes()).unwrap();
            let (bytes, sums) = press.finish().unwrap();
            let name = format!("{}/{name}", names::base(number));
            self.put(&name, &bytes);
            Piece::of(name, sums)
        };
        let schema = piece("schema.sql", "create table public.users (id int primary key);\n", Stored::Plain);
        let pieces = vec![
            piece("tables/1.copy", "1\tada\t1.50\n2\t\\N\tNaN\n", Stored::Plain),
            piece("tables/2.copy.zst", "3\tgrace\\thopper\t0\n", Stored::Zstd),
        ];
        let columns = ["id", "name", "score"].map(str::to_owned).into();
        let base = Base {
            format: FORMAT,
            archive: self.archive.clone(),
            number,
            epoch: 1,
            lineage: lineage(),
            at: Lsn(next_file * 0x1000),
            next_file,
            schema,
            tables: vec![BaseTable {
                schema: "public".into(),
                table: "users".into(),
                shape: Some(TableShape { oid: 16385, types: vec![(23, -1), (25, -1), (1700, -1)] }),
                columns,
                rows: 3,
                pieces,
            }],
            sealed: NOW.into(),
        };
        self.put(&names::base_manifest(number), &manifest::text(&base));
        base
    }

    /// Says that files up to this one were removed; they stay.
    pub fn pruned(&self, number: u64) {
        let last = self.sealed.iter().find(|manifest| manifest.number == number).unwrap().clone();
        let pruned = Pruned {
            format: FORMAT,
            archive: self.archive.clone(),
            number,
            last,
            host: "db1".into(),
            pruned: NOW.into(),
        };
        self.put(&names::pruned(number), &manifest::text(&pruned));
    }
}

fn lineage() -> Origin {
    Origin {
        system_identifier: 7_301_940_230_218_650_211,
        timeline: 1,
        database: "app".into(),
        slot: "pgdiode_changes".into(),
        consistent_point: Lsn(0xF00),
    }
}

fn type_names() -> TypeNames {
    [(23, "integer"), (25, "text"), (1700, "numeric(10,2)"), (17, "bytea")]
        .into_iter()
        .map(|(oid, name)| (oid, name.to_owned()))
        .collect()
}

fn relation(id: u32, name: &str, identity: ReplicaIdentity, columns: &[(&str, u32, bool)]) -> Arc<Relation> {
    let columns = columns.iter().map(|(name, type_id, key)| Column {
        name: (*name).to_owned(),
        type_id: *type_id,
        type_modifier: -1,
        key: *key,
    });
    Arc::new(Relation {
        id,
        schema: "public".into(),
        name: name.into(),
        identity,
        columns: columns.collect(),
    })
}

pub fn users() -> Arc<Relation> {
    relation(
        16_385,
        "users",
        ReplicaIdentity::Default,
        &[("id", 23, true), ("name", 25, false), ("score", 1700, false)],
    )
}

fn orders() -> Arc<Relation> {
    relation(16_390, "orders", ReplicaIdentity::Full, &[("id", 23, true), ("picture", 17, false)])
}

pub fn tuple(values: &[Option<&str>]) -> Tuple {
    values.iter().map(|value| value.map_or(Value::Null, |text| Value::Text(text.as_bytes()))).collect()
}

fn rows(flavour: u32) -> Vec<Change> {
    let (users, orders) = (users(), orders());
    let id = flavour.to_string();
    let unchanged: Tuple =
        [Value::Text(id.as_bytes()), Value::Unchanged, Value::Text(b"12345678901234567.89")]
            .into_iter()
            .collect();
    vec![
        Change::Insert {
            relation: Arc::clone(&users),
            new: tuple(&[Some(&id), Some("ada \"the\" first"), Some("1.50")]),
        },
        Change::Insert { relation: Arc::clone(&users), new: tuple(&[Some("900"), None, Some("NaN")]) },
        Change::Update { relation: Arc::clone(&users), old: None, new: unchanged },
        Change::Update {
            relation: Arc::clone(&users),
            old: Some(Old::Key(tuple(&[Some("900"), None, None]))),
            new: tuple(&[Some("901"), Some("grace"), None]),
        },
        Change::Insert { relation: Arc::clone(&orders), new: tuple(&[Some("1"), Some("\\x00ff")]) },
        Change::Delete { relation: orders, old: Old::Full(tuple(&[Some("1"), Some("\\x00ff")])) },
        Change::Delete { relation: users, old: Old::Key(tuple(&[Some("901"), None, None])) },
    ]
}

fn emptied() -> Vec<Change> {
    vec![
        Change::Truncate { relations: vec![users(), orders()], cascade: true, restart_identity: false },
        Change::Insert { relation: users(), new: tuple(&[Some("7"), Some("zoë"), Some("0")]) },
    ]
}
