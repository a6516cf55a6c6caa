//! The code's own rules, read from the code: which floor may see which, and what no module does.
//!
//! The floors are those of `src/lib.rs`; arrows only point down. Test modules are free of all this: they are
//! blanked out first, like comments and texts, so that only code is looked at.

mod code;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use code::{Code, Mention};

const FUNCTION_LINES_MAX: usize = 100;

/// A file shorter than this has nothing to explain.
const DOCUMENTED_FROM_LINES: usize = 5;

const BANNED_TYPE_WORDS: &[&str] = &["Manager", "Helper", "Utils"];
const BANNED_MODULE_NAMES: &[&str] = &["manager", "helper", "helpers", "util", "utils"];

/// Each floor's rooms, lowest floor first; `may_see` says what a room may name besides itself.
const FLOORS: &[(Floor, &[&str])] = &[
    (Floor::Words, &["change", "position", "error", "secret", "digest", "keyspace", "nearest"]),
    (Floor::Cellar, &["wire"]),
    (Floor::Wires, &["pg", "store", "archive", "redis"]),
    (Floor::Ends, &["source", "target"]),
    (Floor::Heart, &["plan", "pump"]),
    (
        Floor::House,
        &[
            "config",
            "pipeline",
            "snapshot",
            "verify",
            "schedule",
            "status",
            "audit",
            "lock",
            "checkpoint",
            "custody",
            "credentials",
            "daemon",
            "demo",
            "subscription",
            "control",
            "preflight",
            "init",
        ],
    ),
    (Floor::Doors, &["cli", "http", "keyvault"]),
];

/// The rooms of the house in which a source meets a target.
const MEETING_ROOMS: &[&str] = &["pipeline", "snapshot", "verify", "preflight"];

/// The one door that another one opens: `pgdiode start --listen`.
const OPENS: (&str, &str) = ("cli", "http");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    Words,
    /// What wires have in common.
    Cellar,
    Wires,
    Ends,
    Heart,
    House,
    Doors,
    /// `lib.rs` and `main.rs`.
    Roof,
}

impl Floor {
    fn may_see(self, other: Floor) -> bool {
        match self {
            Floor::Words | Floor::Cellar => other == Floor::Words,
            Floor::Wires => matches!(other, Floor::Words | Floor::Cellar),
            Floor::Ends => matches!(other, Floor::Words | Floor::Wires),
            // Of the ends, the traits only: `meets_ends` looks closer.
            Floor::Heart => matches!(other, Floor::Words | Floor::Ends | Floor::Heart),
            Floor::House => other != Floor::Doors,
            Floor::Doors => matches!(other, Floor::Words | Floor::House),
            Floor::Roof => true,
        }
    }

    fn rule(self) -> &'static str {
        match self {
            Floor::Words => "words name words only",
            Floor::Cellar => "what wires have in common names words only",
            Floor::Wires => "wires name words and what they have in common only",
            Floor::Ends => "ends name words and wires only, never each other",
            Floor::Heart => "the heart names words and the two traits only",
            Floor::House => "the house names no door",
            Floor::Doors => "doors name the house and words only",
            Floor::Roof => "",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file.display(), self.line, self.rule)
    }
}

/// A file's path below `src/`, and its text.
type Files = Vec<(PathBuf, String)>;

#[test]
fn the_code_keeps_its_rules() {
    // Another tree's code can be looked at too.
    let root = std::env::var_os("PGDIODE_TIDY_SRC")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), PathBuf::from);
    let files = read(&root);
    assert!(files.iter().any(|(path, _)| path == Path::new("lib.rs")), "no code in {}", root.display());
    let violations = violations(&files);
    let list: Vec<String> = violations.iter().map(|violation| format!("src/{violation}")).collect();
    assert!(list.is_empty(), "{} rules broken:\n{}", list.len(), list.join("\n"));
}

fn read(root: &Path) -> Files {
    fn walk(root: &Path, directory: &Path, files: &mut Files) {
        for entry in fs::read_dir(directory).expect("a directory of code").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).expect("it was found there").to_owned();
                files.push((below, fs::read_to_string(&path).expect("code is UTF-8")));
            }
        }
    }
    let mut files = Files::new();
    walk(root, root, &mut files);
    files.sort();
    files
}

fn violations(files: &Files) -> Vec<Violation> {
    let modules: BTreeSet<Vec<String>> = files.iter().map(|(path, _)| module_path(path)).collect();
    let mut violations = Vec::new();
    for (path, text) in files {
        let module = module_path(path);
        if module.iter().any(|name| name == "tests") {
            continue;
        }
        let code = Code::new(text);
        let mut add =
            |line: usize, rule: String| violations.push(Violation { file: path.clone(), line, rule });
        check_doc(text, &mut add);
        check_names(&module, &code, &mut add);
        check_layers(&module, &code.mentions(&module), &modules, &mut add);
        for line in code.lines_with(".unwrap()") {
            add(
                line,
                "no unwrap() outside tests: return an error, or expect() with the reason it holds".to_owned(),
            );
        }
        for function in code.functions() {
            if function.lines > FUNCTION_LINES_MAX {
                let rule =
                    format!("fn {} has {} lines, above {FUNCTION_LINES_MAX}", function.name, function.lines);
                add(function.line, rule);
            }
        }
    }
    violations
}

/// `source/postgres/mod.rs` is `["source", "postgres"]`; the roots have an empty path.
fn module_path(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|name| name == "mod") || module == ["lib"] || module == ["main"] {
        module.pop();
    }
    module
}

fn floor(module: &[String]) -> Option<Floor> {
    let Some(room) = module.first() else { return Some(Floor::Roof) };
    FLOORS.iter().find(|(_, rooms)| rooms.contains(&room.as_str())).map(|(floor, _)| *floor)
}

fn check_doc(text: &str, add: &mut impl FnMut(usize, String)) {
    if text.lines().count() >= DOCUMENTED_FROM_LINES && !text.starts_with("//!") {
        add(1, "a module opens with a //! doc".to_owned());
    }
}

fn check_names(module: &[String], code: &Code, add: &mut impl FnMut(usize, String)) {
    if let Some(name) = module.last().filter(|name| BANNED_MODULE_NAMES.contains(&name.as_str())) {
        add(1, format!("module {name}: the name says nothing"));
    }
    for (name, line) in code.names_after(&["struct", "enum", "trait", "type", "union"]) {
        if BANNED_TYPE_WORDS.iter().any(|word| name.contains(word)) {
            add(line, format!("type {name}: the name says nothing"));
        }
    }
    for (name, line) in code.names_after(&["mod"]) {
        if BANNED_MODULE_NAMES.contains(&name.as_str()) {
            add(line, format!("module {name}: the name says nothing"));
        }
    }
}

fn check_layers(
    module: &[String],
    mentions: &[Mention],
    modules: &BTreeSet<Vec<String>>,
    add: &mut impl FnMut(usize, String),
) {
    let Some(own_floor) = floor(module) else {
        return add(1, format!("module {} is on no floor: give it one in tests/tidy.rs", module[0]));
    };
    let is_room = |mention: &&Mention| modules.iter().any(|known| known.first() == mention.path.first());
    for mention in mentions.iter().filter(is_room) {
        let room = &mention.path[0];
        let is_opened = (module[0].as_str(), room.as_str()) == OPENS;
        if own_floor == Floor::Roof || module.first() == Some(room) || is_opened {
            continue;
        }
        // A room on no floor is reported once, in its own file.
        let Some(other) = floor(&mention.path) else { continue };
        let allowed =
            own_floor.may_see(other) && !(own_floor == Floor::Heart && is_inside_an_end(mention, modules));
        if !allowed {
            add(
                mention.line,
                format!("{} names crate::{}: {}", module[0], mention.path.join("::"), own_floor.rule()),
            );
        }
    }
    if own_floor == Floor::House && !MEETING_ROOMS.contains(&module[0].as_str()) {
        check_meeting(mentions, add);
    }
}

fn is_inside_an_end(mention: &Mention, modules: &BTreeSet<Vec<String>>) -> bool {
    floor(&mention.path) == Some(Floor::Ends)
        && mention.path.len() > 1
        && modules.contains(&mention.path[..2])
}

fn check_meeting(mentions: &[Mention], add: &mut impl FnMut(usize, String)) {
    let first =
        |room: &str| mentions.iter().find(|mention| mention.path[0] == room).map(|mention| mention.line);
    if let (Some(source), Some(target)) = (first("source"), first("target")) {
        add(
            source.max(target),
            format!("names a source and a target: only {} may", MEETING_ROOMS.join(", ")),
        );
    }
}

mod planted {
    //! Violations planted on purpose: a rule that finds nothing is no rule.

    use super::*;

    fn rules_broken(files: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![("lib.rs".into(), String::new()), ("error.rs".into(), String::new())];
        all.extend(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())));
        violations(&all).iter().map(ToString::to_string).collect()
    }

    fn one_broken(files: &[(&str, &str)], expected: &str) {
        let found = rules_broken(files);
        assert!(found.len() == 1 && found[0].contains(expected), "expected {expected:?}, found {found:?}");
    }

    const EMPTY: &str = "";

    #[test]
    fn a_source_that_names_a_target_is_found_however_it_says_it() {
        let target = ("target/mod.rs", EMPTY);
        let expected = "source/postgres/mod.rs:2: source names crate::target";
        for text in [
            "\nuse crate::target::Target;",
            "\nuse crate::{error::Error, target::{self, Target}};",
            "\nfn f() { crate::target::load() }",
            "\nuse super::super::target::Target;",
            "\nuse crate :: target;",
        ] {
            let found = rules_broken(&[target, ("source/postgres/mod.rs", text)]);
            assert!(
                !found.is_empty() && found.iter().all(|one| one.starts_with(expected)),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_no_code_is_not_read() {
        let text = "\n// crate::target\n/* crate::target /* */ .unwrap() */\nconst A: &str = r#\"crate::target \" \"#;\n\
            const B: char = '\"'; const C: &str = \"\\\"crate::target\"; fn f<'a>(_: &'a str) {}\n\
            #[cfg(test)]\nmod tests {\n use crate::target::Target;\n fn f() { g().unwrap() }\n}\n";
        let text = format!("//! Doc naming [`crate::target`].{text}");
        let found = rules_broken(&[("target.rs", EMPTY), ("source.rs", &text)]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn each_floor_is_held() {
        let files = |path, text| {
            [
                ("source/mod.rs", EMPTY),
                ("source/postgres.rs", EMPTY),
                ("target/mod.rs", EMPTY),
                ("pg/mod.rs", EMPTY),
                ("cli.rs", EMPTY),
                (path, text),
            ]
        };
        one_broken(&files("change.rs", "use crate::pg::Session;"), "words name words only");
        one_broken(
            &files("store/mod.rs", "use crate::pg::Session;"),
            "wires name words and what they have in common only",
        );
        one_broken(&files("pump.rs", "use crate::source::postgres::Slot;"), "the two traits only");
        one_broken(&files("pump.rs", "use crate::pg::Session;"), "the two traits only");
        one_broken(&files("status.rs", "use crate::cli::Output;"), "the house names no door");
        one_broken(&files("http/api.rs", "use crate::pg::Session;"), "doors name the house");
        one_broken(
            &files("status.rs", "use crate::source::A;\nuse crate::target::B;"),
            "status.rs:2: names a source and",
        );
        one_broken(&files("cellar.rs", EMPTY), "on no floor");
        let pump = "use crate::{error::Error, source::Source, target::{Target, Held}};";
        assert_eq!(rules_broken(&files("pump.rs", pump)), [""; 0]);
        assert_eq!(
            rules_broken(&files("pipeline.rs", "use crate::{source::postgres, target, pg};")),
            [""; 0]
        );
    }

    #[test]
    fn the_other_rules_are_held() {
        one_broken(&[("pg/mod.rs", "//! D\n\nfn f() {\n    g().unwrap();\n}\n")], "pg/mod.rs:4: no unwrap()");
        one_broken(&[("pg/mod.rs", "use a::b;\n\n\n\n\n")], "opens with a //! doc");
        one_broken(&[("pg/mod.rs", "pub struct SlotManager<T>(T);")], "type SlotManager");
        one_broken(&[("pg/utils.rs", EMPTY)], "module utils");
        one_broken(&[("pg/mod.rs", "mod helpers { }")], "module helpers");
        let long = format!("//! D\nfn long() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
        one_broken(&[("pg/mod.rs", &long)], "pg/mod.rs:2: fn long has 102 lines");
        let fits = format!("//! D\nfn fits() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX - 2));
        assert_eq!(rules_broken(&[("pg/mod.rs", &fits)]), [""; 0]);
    }
}
