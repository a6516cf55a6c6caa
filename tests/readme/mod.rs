//! The commands of `README.md`, run in their order between two servers: each must succeed, and print what the README
//! says it prints, but for numbers, sizes, positions and times.
//!
//! Read from the README between its two marks: a `toml` block is written into `pgdiode.toml`, with the servers'
//! addresses in place of `db1:5432` and `db2:5432`; in a `console` block a line `$ pgdiode VERB` is a command, what
//! follows is its output, and a line `...` stands for any lines.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::harness::{Cluster, PgdiodeRun, Version, wait_for};

const OPENING_MARK: &str = "<!-- tests/readme runs what follows, up to the closing mark -->";
const CLOSING_MARK: &str = "<!-- closing mark -->";

/// What the README calls the machine, and the home, that pgdiode runs in.
const README_HOST: &str = "mirror1";
const README_HOME: &str = "/home/ops";

const SCHEMA: &str = "
    create table customer (
        id bigint generated always as identity primary key,
        name text not null,
        balance numeric not null default 0
    );
    create table purchase (
        id bigint generated always as identity primary key,
        customer_id bigint not null references customer,
        placed_at timestamptz not null default now(),
        note jsonb
    );
    create index on purchase (customer_id);
    insert into customer (name, balance) select 'customer ' || n, n from generate_series(1, 1000) as n;
    insert into purchase (customer_id, note) select 1 + n % 1000, '{\"n\": 1}' from generate_series(1, 5000) as n;";

/// What the application does while pgdiode works.
const APPLICATION: &str = "insert into customer (name) values ('another')";

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Write(String),
    Run { command: String, output: String },
}

#[test]
fn the_readme_says_what_happens() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let steps = steps(&readme.expect("the README can be read"));
    assert!(steps.len() > 5, "the README shows only {steps:?}");
    let scene = Scene::set();
    for step in &steps {
        match step {
            Step::Write(config) => scene.write(config),
            Step::Run { command, output } => scene.run(command, output),
        }
    }
}

/// Two servers and a machine between them.
struct Scene {
    source: Cluster,
    target: Cluster,
    pgdiode: PgdiodeRun,
}

impl Scene {
    fn set() -> Scene {
        let source = Cluster::start(Version::V15, &[("max_slot_wal_keep_size", "20GB")]);
        let target = Cluster::start(Version::V15, &[]);
        for cluster in [&source, &target] {
            cluster.psql("postgres", "create role pgdiode login superuser; create database shop");
        }
        source.psql("shop", SCHEMA);
        let mut pgdiode = PgdiodeRun::new("");
        // The README begins by writing it.
        fs::remove_file(pgdiode.config_path()).expect("the empty configuration can go");
        let pg_dump = source.tools().path("pg_dump");
        pgdiode.set("PGDIODE_PG_DUMP", &pg_dump.display().to_string());
        Scene { source, target, pgdiode }
    }

    fn write(&self, config: &str) {
        let places = self.places();
        let config = places.iter().fold(config.to_owned(), |text, (real, shown)| text.replace(shown, real));
        fs::write(self.pgdiode.config_path(), config).expect("the configuration can be written");
    }

    /// Runs a command until it prints what is expected: a pipeline that has just begun is not there at once.
    fn run(&self, command: &str, expected: &str) {
        let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
        let mut last = String::new();
        let met = wait_for(|| {
            let output = self.pgdiode.run(&arguments);
            last = self.as_in_the_readme(&(output.stderr + &output.stdout));
            self.source.psql("shop", APPLICATION);
            let met = output.status.success() && matches(expected, &last);
            // Whatever changes something is run once; the others can be asked again.
            let may_repeat = matches!(arguments[0], "status" | "verify");
            (met || !may_repeat).then_some(met)
        });
        assert!(met == Some(true), "$ {command}\n--- the README\n{expected}\n--- pgdiode\n{last}");
    }

    /// What is called otherwise here than in the README.
    fn places(&self) -> [(String, &'static str); 2] {
        let address = |cluster: &Cluster| format!("127.0.0.1:{}", cluster.port());
        [(address(&self.source), "db1:5432"), (address(&self.target), "db2:5432")]
    }

    fn as_in_the_readme(&self, output: &str) -> String {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the kernel knows its name");
        let home = self.pgdiode.directory().display().to_string();
        let named =
            self.places().iter().fold(output.to_owned(), |text, (real, shown)| text.replace(real, shown));
        named
            .replace(&home, README_HOME)
            .replace(&format!("runs on     {},", host.trim()), &format!("runs on     {README_HOST},"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // It runs in the background, and nobody else knows of it.
        let stopped = self.pgdiode.run(&["stop"]);
        if !stopped.status.success() {
            eprintln!("pgdiode stop: {}", stopped.stderr);
        }
    }
}

fn steps(readme: &str) -> Vec<Step> {
    let (_, rest) = readme.split_once(OPENING_MARK).expect("the README has the opening mark");
    let (marked, _) = rest.split_once(CLOSING_MARK).expect("the README has the closing mark");
    let mut steps = Vec::new();
    for block in marked.split("```\n").filter_map(|text| text.split_once("```")) {
        match block.1.split_once('\n') {
            Some(("toml", text)) => steps.push(Step::Write(text.to_owned())),
            Some(("console", text)) => steps.extend(console(text)),
            other => panic!("the README shows a block that is neither toml nor console: {other:?}"),
        }
    }
    steps
}

fn console(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            assert!(command.starts_with("pgdiode "), "the README runs {command}");
            steps.push(Step::Run { command: command.to_owned(), output: String::new() });
        } else {
            let Some(Step::Run { output, .. }) = steps.last_mut() else {
                panic!("output without a command: {line}")
            };
            writeln!(output, "{line}").expect("a text can be written");
        }
    }
    steps
}

/// Whether two outputs have the same shape.
fn matches(expected: &str, printed: &str) -> bool {
    let shapes = |text: &str| -> Vec<String> { text.lines().map(shape).collect() };
    let (expected, printed) = (shapes(expected), shapes(printed));
    let mut lines = printed.iter();
    let mut skips = false;
    for wanted in &expected {
        if wanted == "..." {
            skips = true;
        } else {
            let found = if skips { lines.any(|line| line == wanted) } else { lines.next() == Some(wanted) };
            if !found {
                return false;
            }
            skips = false;
        }
    }
    skips || lines.next().is_none()
}

/// A line without what differs from run to run: numbers become `0`, whatever a build says of itself goes, and so does
/// the width of columns.
fn shape(line: &str) -> String {
    let line = match line.split_once("is PostgreSQL ") {
        Some((before, version)) => {
            format!("{before}is PostgreSQL {}", version.split_whitespace().next().unwrap_or_default())
        }
        None => line.to_owned(),
    };
    let words: Vec<String> = line.split_whitespace().map(word_shape).collect();
    let mut shaped = words.join(" ");
    for unit in ["B", "kB", "MB", "GB"] {
        shaped = shaped.replace(&format!("0 {unit}"), "0 bytes");
    }
    shaped
}

fn word_shape(word: &str) -> String {
    let is_position = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bare = word.trim_end_matches([':', ',']);
    if bare.split_once('/').is_some_and(|(high, low)| is_position(high) && is_position(low)) {
        return format!("POSITION{}", &word[bare.len()..]);
    }
    let mut shape = String::new();
    for character in word.chars() {
        let is_number = character.is_ascii_digit() || ",.".contains(character) && shape.ends_with('0');
        if !is_number {
            shape.push(character);
        } else if !shape.ends_with('0') {
            shape.push('0');
        }
    }
    shape
}

#[test]
fn blocks_become_steps() {
    let readme = format!(
        "a\n{OPENING_MARK}\n```console\n$ pgdiode init\nwrote\n$ pgdiode check\n```\nx\n```toml\na = 1\n```\n{CLOSING_MARK}"
    );
    let run = |command: &str, output: &str| Step::Run { command: command.into(), output: output.into() };
    let expected = [run("pgdiode init", "wrote\n"), run("pgdiode check", ""), Step::Write("a = 1\n".into())];
    assert_eq!(steps(&readme), expected);
}

#[test]
fn shapes_differ_where_words_do() {
    for (left, right, alike) in [
        ("lag 56 B, 0.00 s", "lag  1.9 kB, 12.5 s", true),
        ("lag 56 B, 0.00 s", "lag 56 B", false),
        ("identical at 0/1AD4890: 2 tables", "identical at 16/B374D848: 12,345 tables", true),
        ("identical", "different", false),
        ("since 2026-11-21T10:57:10Z", "since 2027-01-02T03:04:05Z", true),
        ("x is PostgreSQL 15.18", "x is PostgreSQL 15.2 (Debian 15.2-1)", true),
        ("a\n...\nc", "a\nb\nb\nc", true),
        ("a\n...", "a", true),
        ("a\n...\nc", "a\nb", false),
        ("a", "a\nb", false),
        ("a\nb", "a", false),
    ] {
        assert_eq!(matches(left, right), alike, "{left:?} {right:?}");
    }
}
