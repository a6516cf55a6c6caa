//! A database whose changes go into an archive when a test says so, with pgdiode's own parts: its source, its files.
//!
//! ```text
//! let mut origin = Origin::start("create table t (id int primary key, v text)");
//! origin.base(&["public.t"]);                         // everything as of now
//! origin.psql("insert into t values (1, 'one')");
//! origin.seal(1);                                     // a file for each transaction
//! let laptop = Laptop::start(&origin, "tables = [\"public.t\"]", "");
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgdiode::archive::FORMAT;
use pgdiode::archive::draft::{Draft, Press};
use pgdiode::archive::line::{Header, Origin as Lines};
use pgdiode::archive::manifest::{self, Base, BaseTable, Identity, Manifest, Piece, TableShape};
use pgdiode::archive::names::{self, Stored};
use pgdiode::change::Event;
use pgdiode::pg::conninfo::{ConnInfo, Environment};
use pgdiode::pg::session::Session;
use pgdiode::position::{Lineage, Lsn};
use pgdiode::source::Source as _;
use pgdiode::source::postgres::slot;
use pgdiode::source::postgres::stream::{Format, Plugin, PostgresSource, StreamOptions};

use crate::harness::{Cluster, PgdiodeRun, Running, Version, wait_for};

pub struct Origin {
    pub cluster: Cluster,
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    pub archive: String,
    lineage: Lineage,
    /// The number and the hash of the last file, and where it ends.
    last: (u64, Option<String>),
    pub to: Lsn,
    bases: u64,
    pub stored: Stored,
}

const SLOT: &str = "archive";

impl Origin {
    /// `sql` makes the tables; every change from then on can be sealed.
    pub fn start(sql: &str) -> Origin {
        let cluster = Cluster::start(Version::V15, &[]);
        Origin::of(cluster, sql)
    }

    pub fn of(cluster: Cluster, sql: &str) -> Origin {
        let directory = tempfile::tempdir().expect("a directory can be made");
        cluster.psql("postgres", "create table public.pulse (id int primary key, beat int not null); insert into public.pulse values (1, 0)");
        cluster.psql("postgres", sql);
        cluster.psql("postgres", "create publication archive for all tables");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        let conninfo = conninfo(&cluster);
        let lineage = runtime.block_on(async {
            let mut replication = Session::connect_replication(&conninfo).await.unwrap();
            slot::create(&mut replication, "pgoutput", SLOT, "postgres").await.unwrap()
        });
        let to = lineage.consistent_point;
        let archive = format!("archive-{:016x}", fastrand::u64(..));
        let origin = Origin {
            cluster,
            directory,
            runtime,
            archive,
            lineage,
            last: (0, None),
            to,
            bases: 0,
            stored: Stored::Plain,
        };
        let identity = Identity { format: FORMAT, archive: origin.archive.clone(), created: now() };
        origin.put(names::IDENTITY, &manifest::text(&identity));
        origin
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn object(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn put(&self, name: &str, content: &[u8]) {
        let path = self.object(name);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("a folder can be made");
        fs::write(path, content).expect("an object can be written");
    }

    pub fn psql(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql)
    }

    pub fn files(&self) -> u64 {
        self.last.0
    }

    /// Seals everything that is committed by now, in files of so many transactions.
    pub fn seal(&mut self, transactions: usize) {
        let beat: String = self.psql("update public.pulse set beat = beat + 1 returning beat");
        let options = StreamOptions {
            slot: SLOT.into(),
            plugin: Plugin::Pgoutput { publication: "archive".into() },
            from: self.to,
            format: Format::Text,
            spool_memory_max: 64 << 20,
            spool_directory: std::env::temp_dir(),
        };
        let conninfo = conninfo(&self.cluster);
        let waiting = self.transactions_until(&conninfo, options, &beat);
        for chunk in waiting.chunks(transactions) {
            self.write(chunk);
        }
    }

    /// Whole transactions from the stream, up to the pulse's.
    fn transactions_until(&self, conninfo: &ConnInfo, options: StreamOptions, beat: &str) -> Vec<Vec<Event>> {
        let from = options.from;
        self.runtime.block_on(async {
            let mut source = PostgresSource::start(conninfo, options).await.expect("the slot can be read");
            let (mut all, mut current, mut is_pulse) = (Vec::new(), Vec::new(), false);
            loop {
                let event = source.next().await.expect("the stream goes on");
                let pulse = format!("\"{beat}\"");
                match &event {
                    Event::Idle { .. } => continue,
                    Event::Change(change) => {
                        let text = format!("{change:?}");
                        is_pulse |= text.contains("name: \"pulse\"") && text.contains(&pulse);
                    }
                    Event::Begin(_) | Event::Commit(_) => {}
                }
                let end = if let Event::Commit(end) = event { Some(end) } else { None };
                current.push(event);
                let Some(end) = end else { continue };
                let transaction: Vec<Event> = std::mem::take(&mut current);
                // The slot sends again what it has not been told of.
                if end > from {
                    all.push(transaction);
                }
                if is_pulse {
                    return all;
                }
            }
        })
    }

    /// Appends a file.
    pub fn write(&mut self, transactions: &[Vec<Event>]) {
        let (before, previous) = self.last.clone();
        let number = before + 1;
        let header = Header {
            format: FORMAT,
            archive: self.archive.clone(),
            number,
            epoch: 1,
            previous,
            from: self.to,
            lineage: self.lines(),
            created: now(),
            writer: "a test".into(),
            salt: None,
        };
        let mut draft = Draft::begin(&header, Arc::default());
        for event in transactions.iter().flatten() {
            match event {
                Event::Begin(transaction) => draft.transaction(*transaction),
                Event::Change(change) => draft.change(change),
                Event::Commit(end) => {
                    draft.commit(*end);
                    self.to = *end;
                }
                Event::Idle { .. } => {}
            }
        }
        let (bytes, counted) = draft.end(self.to);
        let (stored, sums) = self.pressed(&bytes);
        self.last = (number, Some(sums.content_sha256.clone()));
        let name = names::change_file(number, self.stored);
        self.put(&name, &stored);
        let manifest = Manifest::of(&header, name, self.to, counted, sums, now());
        self.put(&names::manifest(number), &manifest::text(&manifest));
    }

    fn pressed(&self, bytes: &[u8]) -> (Vec<u8>, pgdiode::archive::draft::Sums) {
        let mut press = Press::new(Vec::new(), self.stored, 0).unwrap();
        press.write(bytes).unwrap();
        press.finish().unwrap()
    }

    pub fn lines(&self) -> Lines {
        Lines::from(&self.lineage)
    }

    /// A base of these tables, in pieces of a few rows each.
    pub fn base(&mut self, tables: &[&str]) {
        self.bases += 1;
        let folder = names::base(self.bases);
        let conninfo = conninfo(&self.cluster);
        let (mut replication, created) = self.runtime.block_on(async {
            let mut replication = Session::connect_replication(&conninfo).await.unwrap();
            let life = pgdiode::pg::replication::SlotLife::Temporary;
            let name = format!("base_{:08x}", fastrand::u32(..));
            let created = replication.create_slot(&name, life).await.unwrap();
            (replication, created)
        });
        let snapshot = created.snapshot.expect("a snapshot is exported");
        let dumped = self
            .cluster
            .tools()
            .command("pg_dump")
            .args([
                "--schema-only",
                "--no-owner",
                "--snapshot",
                &snapshot,
                &self.cluster.conninfo("postgres"),
            ])
            .output()
            .expect("pg_dump runs");
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        let schema = self.piece(&format!("{folder}/schema.sql"), &dumped.stdout);
        let tables: Vec<BaseTable> = tables
            .iter()
            .enumerate()
            .map(|(index, table)| self.base_table(&folder, index, table, &snapshot))
            .collect();
        // The snapshot lives until here.
        self.runtime.block_on(async { replication.identify_system().await.unwrap() });
        let base = Base {
            format: FORMAT,
            archive: self.archive.clone(),
            number: self.bases,
            epoch: 1,
            lineage: self.lines(),
            at: created.consistent_point,
            next_file: self.last.0 + 1,
            schema,
            tables,
            sealed: now(),
        };
        self.put(&names::base_manifest(self.bases), &manifest::text(&base));
    }

    fn base_table(&self, folder: &str, index: usize, table: &str, snapshot: &str) -> BaseTable {
        let (schema, name) = table.split_once('.').expect("schema.table");
        let columns = self.psql(&format!(
            "select attname from pg_attribute where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped
              and attgenerated = '' order by attnum"
        ));
        let columns: Vec<String> = columns.lines().map(str::to_owned).collect();
        let list: Vec<String> =
            columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
        let rows = self.cluster.psql(
            "postgres",
            &format!(
                "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3;
                 set bytea_output = 'hex'; set lc_monetary = 'C'; set xmloption = content; set search_path = '';
                 begin isolation level repeatable read; set transaction snapshot '{snapshot}';
                 copy {table} ({}) to stdout",
                list.join(", ")
            ),
        );
        let lines: Vec<&str> = rows.lines().collect();
        let pieces = lines.chunks(3).enumerate().map(|(number, lines)| {
            let text = format!("{}\n", lines.join("\n"));
            self.piece(&format!("{folder}/tables/{index}-{number}.copy"), text.as_bytes())
        });
        BaseTable {
            schema: schema.to_owned(),
            table: name.to_owned(),
            shape: Some(self.shape(table)),
            columns,
            rows: lines.len() as u64,
            pieces: pieces.collect(),
        }
    }

    fn shape(&self, table: &str) -> TableShape {
        let types = self.psql(&format!(
            "select atttypid::int8 || ' ' || atttypmod from pg_attribute
              where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum"
        ));
        let types = types.lines().map(|line| {
            let (oid, modifier) = line.split_once(' ').expect("two numbers");
            (oid.parse().unwrap(), modifier.parse().unwrap())
        });
        let oid = self.psql(&format!("select '{table}'::regclass::oid")).parse().unwrap();
        TableShape { oid, types: types.collect() }
    }

    fn piece(&self, name: &str, content: &[u8]) -> Piece {
        let (stored, sums) = self.pressed(content);
        let name = if self.stored == Stored::Zstd { format!("{name}.zst") } else { name.to_owned() };
        self.put(&name, &stored);
        Piece::of(name, sums)
    }
}

fn conninfo(cluster: &Cluster) -> ConnInfo {
    ConnInfo::parse(&cluster.conninfo("postgres"), &Environment::of_process()).expect("a conninfo of ours")
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A database that an archive is replayed into.
pub struct Laptop {
    pub cluster: Cluster,
    pub pgdiode: PgdiodeRun,
}

impl Laptop {
    /// `pipeline`: lines of `[pipeline.main]`; `sections`: whole sections after it.
    pub fn start(origin: &Origin, pipeline: &str, sections: &str) -> Laptop {
        let cluster = Cluster::start(Version::V15, &[]);
        let config = format!(
            "[pipeline.main]\nsource = \"{}\"\ntarget = \"{}\"\n{pipeline}\n[pipeline.main.retry]\nfirst_ms = 50\nmax_ms = 500\n{sections}",
            origin.path().display(),
            cluster.conninfo("postgres")
        );
        Laptop { pgdiode: PgdiodeRun::new(&config), cluster }
    }

    pub fn psql(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql)
    }

    /// Applies what is sealed, and ends.
    pub fn once(&self) {
        self.pgdiode.run(&["start", "--once-caught-up"]).success();
    }

    /// The same of a run that must fail; what it said.
    pub fn refused(&self, status: i32) -> String {
        self.pgdiode.run(&["start", "--once-caught-up"]).failure(status)
    }

    pub fn begin(&self) -> Running {
        self.pgdiode.spawn(&["start", "-v"])
    }

    pub fn wait_until(&self, sql: &str, what: &str) {
        self.cluster.wait_until("postgres", sql, what);
    }

    /// `state`, with its reason.
    pub fn state_of(&self, table: &str) -> String {
        self.psql(&format!(
            "select state || coalesce(': ' || reason, '') from pgdiode.relation where schema_name || '.' || table_name = '{table}'"
        ))
    }

    pub fn count_of(&self, table: &str, counter: &str) -> String {
        self.psql(&format!(
            "select coalesce(sum({counter}), 0) from pgdiode.relation_count where schema_name || '.' || table_name = '{table}'"
        ))
    }

    /// Waits until a run has applied every file of the origin's.
    pub fn catch_up(&self, origin: &Origin) {
        let sql = format!(
            "select lsn >= '{}' and not exists (select from pgdiode.relation where state in ('pending', 'copying', 'copied'))
               from pgdiode.position where pipeline = 'main'",
            origin.to
        );
        self.wait_until(&sql, "the last file");
    }

    /// Both sides must print the same rows of these tables.
    pub fn assert_alike(&self, origin: &Origin, tables: &[&str]) {
        for table in tables {
            let rows = assert_table_alike(&self.cluster, &origin.cluster, table);
            assert!(rows > 0, "the oracle sees no rows of {table}");
        }
    }
}

/// Rows as text, sorted; how many there are.
pub fn assert_table_alike(here: &Cluster, there: &Cluster, table: &str) -> usize {
    let rows = |cluster: &Cluster| cluster.psql("postgres", &format!("{PINNED}{}", rows_sql(table)));
    let (here, there) = (rows(here), rows(there));
    assert!(here == there, "{table} differs\n  here: {}\n  there: {}", ends(&here), ends(&there));
    there.lines().count()
}

const PINNED: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 3; \
     set bytea_output = 'hex'; set lc_monetary = 'C';\n";

fn rows_sql(table: &str) -> String {
    format!("select t::text from {table} as t order by t::text collate \"C\"")
}

fn ends(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown: Vec<String> =
        lines.iter().rev().take(10).map(|line| line.chars().take(200).collect()).collect();
    format!("{} lines, the last: {shown:#?}", lines.len())
}

/// Waits until a process has ended or something holds; whether it holds.
pub fn wait_or_end(running: &mut Running, mut holds: impl FnMut() -> bool) -> bool {
    wait_for(|| if holds() { Some(true) } else { (!running.is_running()).then_some(false) }).unwrap_or(false)
}
