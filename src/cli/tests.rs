use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::*;

/// Compares with a committed file; `UPDATE_GOLDEN=1` renews it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/help").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, text, "help/{name}.txt differs: UPDATE_GOLDEN=1 renews it");
}

/// The help as a wide terminal shows it, whatever the one that runs the tests.
fn command() -> clap::Command {
    Cli::command().term_width(100)
}

fn verbs() -> Vec<String> {
    Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}

fn help_of(verb: &str) -> String {
    command().try_get_matches_from(["pgdiode", verb, "--help"]).unwrap_err().render().to_string()
}

#[test]
fn help_teaches() {
    golden(
        "pgdiode",
        &command().try_get_matches_from(["pgdiode", "--help"]).unwrap_err().render().to_string(),
    );
    golden("pgdiode.short", &command().render_help().to_string());
    for (verb, help) in every_help() {
        golden(&verb, &help);
    }
}

#[test]
fn every_help_says_what_changes_with_an_example_and_the_exit_statuses() {
    for (verb, help) in every_help() {
        for part in
            ["\nChanges: ", "\nExamples:\n  pgdiode ", "\nExit statuses:\n    0  done\n", "  143  terminated"]
        {
            assert!(help.contains(part), "{verb} --help lacks {part:?}");
        }
        let long = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None, "{verb} --help is wider than its terminal");
    }
}

/// A verb's help, and that of the verbs of `archive`.
fn every_help() -> Vec<(String, String)> {
    let of_archive = ["list", "show", "verify", "prune", "compact"].map(|verb| {
        let asked = command().try_get_matches_from(["pgdiode", "archive", verb, "--help"]);
        (format!("archive-{verb}"), asked.unwrap_err().render().to_string())
    });
    let verbs = verbs().into_iter().map(|verb| {
        let help = help_of(&verb);
        (verb, help)
    });
    verbs.chain(of_archive).collect()
}

/// An example that does not parse teaches nothing.
#[test]
fn every_example_parses() {
    for (_, help) in every_help() {
        let examples =
            help.lines().skip_while(|line| *line != "Examples:").skip(1).take_while(|line| !line.is_empty());
        for example in examples {
            let command = example.trim().split(['|', '>']).next().unwrap();
            // Words after two spaces explain.
            let typed = command.split("  ").next().unwrap();
            let parsed = Cli::try_parse_from(typed.split_whitespace());
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }
}

/// The statuses in the help are those of the code.
#[test]
fn exit_statuses_are_complete() {
    use crate::error::Kind;
    for kind in [
        Kind::Unexpected,
        Kind::Config,
        Kind::Refused,
        Kind::Difference,
        Kind::Locked,
        Kind::SourceUnreachable,
        Kind::TargetUnreachable,
        Kind::Capacity,
        Kind::Audit,
    ] {
        assert!(exit_statuses!().contains(&format!("\n{:>5}  ", kind.exit_status())), "{kind:?}");
    }
    for signal in [Signal::Interrupt, Signal::Terminate] {
        assert!(exit_statuses!().contains(&format!("\n{:>5}  ", signal.exit_status())), "{signal:?}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for typed in [
        &["pgdiode", "unknown"][..],
        &["pgdiode", "resync", "public.a", "--key", "a"],
        &["pgdiode", "resync", "--database", "1"],
        &["pgdiode", "resync", "public.a.b"],
        &["pgdiode", "resync", "public.*"],
        &["pgdiode", "start", "--until-lsn", "x"],
        &["pgdiode", "start", "--until-lsn", "0/1", "--once-caught-up"],
        &["pgdiode", "start", "--log-file", "x"],
        &["pgdiode", "status", "--watch=0"],
        &["pgdiode", "status", "-v", "-q"],
    ] {
        let error = Cli::try_parse_from(typed).unwrap_err();
        assert_eq!((error.exit_code(), error.use_stderr()), (2, true), "{typed:?}");
    }
}

#[test]
fn tables_are_named_with_their_schema() {
    assert_eq!(table_name("public.users"), Ok(TableName::new("public", "users")));
    assert_eq!(table_name(r#""a.b"."C d""#), Ok(TableName::new("a.b", "C d")));
    assert!(table_name("users").unwrap_err().contains("the schema is missing"));
    assert!(table_name("public.*").unwrap_err().contains("one table"));
}

#[test]
fn the_command_line_moves_the_log_level() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgdiode.toml");
    let file = "[log]\nlevel = \"warn\"\nformat = \"json\"\n[pipeline.main]\nsource = \"host=a\"\ntarget = \"host=b\"\n";
    std::fs::write(&path, file).unwrap();
    for (typed, expected) in [
        (&[][..], Level::Warn),
        (&["-v"], Level::Info),
        (&["-vvv"], Level::Trace),
        (&["-vvvvvvvvv"], Level::Trace),
        (&["-q"], Level::Error),
        (&["-qqqq"], Level::Error),
    ] {
        let mut arguments = vec!["pgdiode", "status", "--config", path.to_str().unwrap()];
        arguments.extend(typed);
        let log = Cli::try_parse_from(arguments).unwrap().global.log();
        assert_eq!((log.level, log.format), (expected, LogFormat::Json), "{typed:?}");
    }
    let typed = ["pgdiode", "status", "--log-format", "text", "--config", path.to_str().unwrap()];
    assert_eq!(Cli::try_parse_from(typed).unwrap().global.log().format, LogFormat::Text);
}

#[test]
fn completions_are_generated() {
    for (shell, part) in
        [(Shell::Bash, "complete -F"), (Shell::Zsh, "#compdef pgdiode"), (Shell::Fish, "complete -c pgdiode")]
    {
        let script = completions::script(shell).unwrap();
        assert!(script.contains(part), "{shell}");
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell} does not complete {verb}");
        }
    }
}

#[test]
fn manual_pages_are_written() {
    let directory = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), directory.path()).unwrap();
    let page = std::fs::read_to_string(directory.path().join("pgdiode-start.1")).unwrap();
    for part in [".TH pgdiode-start", "Exit statuses:", "\\-\\-once\\-caught\\-up"] {
        assert!(page.contains(part), "pgdiode-start.1 lacks {part}");
    }
    for verb in verbs() {
        assert!(directory.path().join(format!("pgdiode-{verb}.1")).exists(), "{verb}");
    }
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}
