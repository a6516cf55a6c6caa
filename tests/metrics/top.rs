//! `pgdiode top`: what it shows of a made-up fleet, on terminals of every size, and how it leaves a real one.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pgdiode::cli::top::{Answer, Screen, picture};
use pgdiode::status::TableState;
use pgdiode::status::fleet::Fleet;
use pgdiode::status::text::Paint;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::fleet::{fleet, instance, streaming, table};
use super::golden;
use crate::harness::{PgdiodeRun, wait_for};

fn drawn(screen: &mut Screen, fleet: &Fleet, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame, fleet)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

fn press(screen: &mut Screen, fleet: &Fleet, keys: &[KeyCode]) -> Answer {
    let answers = keys.iter().map(|key| screen.press(KeyEvent::new(*key, KeyModifiers::NONE), fleet));
    answers.last().expect("a key")
}

/// The screen's text after these keys.
fn after(keys: &[KeyCode]) -> String {
    let (fleet, mut screen) = (fleet(), Screen::new(Paint::Plain));
    press(&mut screen, &fleet, keys);
    text(&drawn(&mut screen, &fleet, 80, 24))
}

fn typed(keys: &str) -> Vec<KeyCode> {
    keys.chars().map(KeyCode::Char).collect()
}

#[test]
fn screens_are_these() {
    let mut screen = Screen::new(Paint::Plain);
    golden("top/80x24.txt", &text(&drawn(&mut screen, &fleet(), 80, 24)));
    golden("top/120x40.txt", &text(&drawn(&mut screen, &fleet(), 120, 40)));
    let opened = |name: &str| {
        let mut keys = typed(&format!("/{name}"));
        keys.extend([KeyCode::Enter, KeyCode::Enter]);
        let (fleet, mut screen) = (fleet(), Screen::new(Paint::Plain));
        press(&mut screen, &fleet, &keys);
        text(&drawn(&mut screen, &fleet, 120, 40))
    };
    for name in ["main", "li", "orders"] {
        golden(&format!("top/{name}.txt"), &opened(name));
    }
    golden("top/keys.txt", &after(&typed("?")));
}

#[test]
fn a_picture_is_this() {
    golden("top/picture.txt", &picture(&fleet(), Paint::Plain));
    let coloured = picture(&fleet(), Paint::Coloured);
    assert!(coloured.contains("\x1b[31m✗ failed"), "{coloured}");
}

/// The line that is chosen begins with a mark.
fn chosen(screen: &str) -> &str {
    let line = screen.lines().find(|line| line.starts_with('▸')).expect("one is chosen");
    line.split_whitespace().nth(3).expect("its name")
}

#[test]
fn keys_do_what_they_say() {
    assert_eq!(chosen(&after(&[KeyCode::Null])), "broken", "the worst is first");
    assert_eq!(chosen(&after(&[KeyCode::Down])), "li");
    assert_eq!(chosen(&after(&[KeyCode::Down, KeyCode::Up, KeyCode::Up])), "broken");
    assert_eq!(chosen(&after(&typed("jjk"))), "li");
    assert_eq!(chosen(&after(&[KeyCode::End, KeyCode::Down])), "main");
    assert_eq!(chosen(&after(&[KeyCode::End, KeyCode::Home])), "broken");
    let by_name = after(&typed("s"));
    assert!(
        by_name.contains("s sort: name") && by_name.lines().nth(2).unwrap().contains("analytics"),
        "{by_name}"
    );
    // Whatever the order is: the chosen one stays chosen.
    assert_eq!(chosen(&after(&[KeyCode::Down, KeyCode::Char('s')])), "li");
    assert!(after(&typed("ss")).contains("s sort: behind"));
    assert!(after(&typed("sss")).contains("s sort: rate"));
    let filtered = after(&typed("/RDE"));
    assert!(
        filtered.contains("/RDE▏") && chosen(&filtered) == "orders" && !filtered.contains("chat"),
        "{filtered}"
    );
    let mut keys = typed("/rdex");
    keys.push(KeyCode::Backspace);
    assert_eq!(chosen(&after(&keys)), "orders");
    keys.push(KeyCode::Esc);
    assert_eq!(chosen(&after(&keys)), "broken");
    assert!(after(&typed("/nobody")).contains("No name has \"nobody\" in it"));
    assert!(after(&typed("??")).contains("q quit"), "any key closes the help");
    let opened = after(&[KeyCode::Enter]);
    assert!(!opened.contains("VERDICT") && opened.contains("connection refused"), "{opened}");
    assert_eq!(after(&[KeyCode::Enter, KeyCode::Esc]), after(&[KeyCode::Null]));
}

#[test]
fn it_ends_when_it_is_told_to() {
    let (fleet, mut screen) = (fleet(), Screen::new(Paint::Plain));
    assert_eq!(press(&mut screen, &fleet, &typed("q")), Answer::Quit);
    assert_eq!(press(&mut screen, &fleet, &typed("/q")), Answer::Stay, "that is a letter of the filter");
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.press(control, &fleet), Answer::Quit, "even then");
}

#[test]
fn any_size_will_do() {
    let many = (0..300).map(|number| {
        let tables = vec![table("t", TableState::Ready, number)];
        Arc::new(streaming(&format!("pipeline-with-a-name-that-is-long-{number}"), tables))
    });
    let many = Fleet { instance: instance(), pipelines: many.collect() };
    let none = Fleet { instance: instance(), pipelines: Vec::new() };
    for fleet in [fleet(), many, none] {
        for keys in ["", "?", "/x", "/e\n\n", "jjjj"] {
            let mut screen = Screen::new(Paint::Coloured);
            let keys = keys.chars().map(|key| if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) });
            for key in keys.chain([KeyCode::End, KeyCode::PageDown, KeyCode::Right]) {
                press(&mut screen, &fleet, &[key]);
            }
            for (width, height) in
                [(200, 60), (80, 24), (40, 10), (20, 5), (7, 3), (3, 2), (1, 1), (80, 1), (1, 24)]
            {
                drawn(&mut screen, &fleet, width, height);
            }
        }
    }
}

/// A list that is longer than the screen is scrolled to what is chosen.
#[test]
fn the_chosen_one_is_visible() {
    let many = (0..300).map(|number| Arc::new(streaming(&format!("p{number:03}"), Vec::new())));
    let many = Fleet { instance: instance(), pipelines: many.collect() };
    let mut screen = Screen::new(Paint::Plain);
    for (key, expected) in [(KeyCode::End, "p299"), (KeyCode::Up, "p298"), (KeyCode::Home, "p000")] {
        press(&mut screen, &many, &[key]);
        let shown = text(&drawn(&mut screen, &many, 80, 24));
        assert_eq!(chosen(&shown), expected, "{shown}");
    }
}

#[test]
fn colours_come_on_top() {
    let colours = |paint| {
        let buffer = drawn(&mut Screen::new(paint), &fleet(), 120, 40);
        let colours = buffer.content.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        (colours.count(), text(&buffer), buffer)
    };
    let (plain, text, buffer) = colours(Paint::Plain);
    assert_eq!(plain, 0, "no colour where none is wanted");
    assert!(
        buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)),
        "the chosen line shows"
    );
    let (coloured, same, _) = colours(Paint::Coloured);
    assert!(coloured > 50 && same == text, "what it says is the same");
    for word in ["✗ failed", "! attention", "‖ paused", "↻ working", "✓ healthy"] {
        assert!(text.contains(word), "{word} is not there: {text}");
    }
}

/// Names may hold anything, and none of it steers the terminal.
#[test]
fn names_cannot_steer_the_terminal() {
    let evil = Fleet {
        instance: instance(),
        pipelines: vec![Arc::new(streaming("a\x1b[2Jb", vec![table("\x1b]0;t\x07", TableState::Ready, 1)]))],
    };
    let shown = text(&drawn(&mut Screen::new(Paint::Plain), &evil, 120, 40));
    assert!(shown.contains("a\\u{1b}[2Jb") && !shown.contains(['\x1b', '\x07']), "{shown}");
    assert!(!picture(&evil, Paint::Plain).contains(['\x1b', '\x07']));
}

/// Nobody answers for its ends.
const CONFIG: &str =
    "[pipeline.main]\nsource = \"host=127.0.0.1 port=1\"\ntarget = \"host=127.0.0.1 port=2\"\n";

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";

/// pgdiode on a terminal of its own, made by `script`.
struct OnATerminal {
    script: Child,
    directory: tempfile::TempDir,
}

impl OnATerminal {
    fn start() -> OnATerminal {
        let directory = tempfile::tempdir().unwrap();
        let config =
            "[pipeline.main]\nsource = \"host=127.0.0.1 port=1\"\ntarget = \"host=127.0.0.1 port=2\"\n";
        fs::write(directory.path().join("pgdiode.toml"), config).unwrap();
        let shell = format!(
            "stty rows 24 cols 80; echo $$ > pid; exec {} top --config pgdiode.toml",
            env!("CARGO_BIN_EXE_pgdiode")
        );
        let script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &shell, "seen"])
            .current_dir(directory.path())
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn();
        OnATerminal { script: script.expect("script, of util-linux, can be started"), directory }
    }

    fn seen(&self) -> String {
        let seen = fs::read(self.directory.path().join("seen")).unwrap_or_default();
        String::from_utf8_lossy(&seen).into_owned()
    }

    fn wait_until_shown(&self) {
        let shown = wait_for(|| Some(()).filter(|()| self.seen().contains("problem")));
        shown.unwrap_or_else(|| panic!("it was never shown: {}", self.seen()));
    }

    /// Waits for its end; the exit status of pgdiode.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = self.script.wait().expect("script ends").code();
        (status, self.seen())
    }
}

#[test]
fn the_terminal_is_given_back() {
    let quits = OnATerminal::start();
    quits.wait_until_shown();
    let mut keys = quits.script.stdin.as_ref().expect("it was asked for");
    std::io::Write::write_all(&mut keys, b"q").unwrap();
    let (status, seen) = quits.ended();
    assert_eq!(status, Some(0), "{seen}");
    assert!(seen.contains(ENTERED) && seen.contains(LEFT), "{seen}");

    let ended = OnATerminal::start();
    ended.wait_until_shown();
    let id = fs::read_to_string(ended.directory.path().join("pid")).unwrap();
    assert!(Command::new("kill").arg("-TERM").arg(id.trim()).status().unwrap().success());
    let (status, seen) = ended.ended();
    assert_eq!(status, Some(143), "{seen}");
    assert!(seen.rfind(LEFT) > seen.rfind(ENTERED), "{seen}");
}

#[test]
fn a_pipe_gets_one_picture() {
    let pgdiode = PgdiodeRun::new(CONFIG);
    let shown = pgdiode.run(&["top"]).success();
    assert!(shown.contains("1 pipeline: 1 ") && shown.contains("\n    problem: "), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
    let fleet: serde_json::Value = serde_json::from_str(&pgdiode.run(&["top", "--json"]).success()).unwrap();
    assert_eq!(fleet["pipelines"][0]["name"], "main");
}
