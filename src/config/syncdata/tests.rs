use super::*;
use crate::error::Side;

/// The sample that syncdata's users have.
const SAMPLE: &str = r#"# Archive source (backup machine)
archive_host = "backup.example.com"
archive_user = "backupuser"
archive_dir = "/backups/postgresql/changes"
archive_port = 22

# Local PostgreSQL
pg_host = "127.0.0.1"
pg_port = 5432
pg_user = "admin"
# pg_password can be set via PG_PASSWORD env var
# pg_database can be set via PG_DB_NAME env var

# Sync settings
data_sync_freq = 600   # Poll every 10 minutes
metric_freq = 24       # Aggregate metrics every 24 hours
"#;

/// What has no default, and nothing else.
const LEAST: &str = "archive_host = \"b\"\narchive_user = \"u\"\narchive_dir = \"/d\"\npg_password = \"p w\"\npg_database = \"app\"\n";

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    Config::load(None, &|name| {
        let named = [("DATA_SYNC_CONFIG", path.as_str())];
        let mut all = named.iter().chain(variables);
        all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

/// What is wrong, without the directory, and the hint.
fn refused(text: &str, variables: &[(&str, &str)]) -> (String, String) {
    let error = load(text, variables).expect_err("it is wrong");
    assert_eq!(error.kind(), crate::error::Kind::Config);
    let what = error.what();
    let what = what.find("config.toml").map_or(what, |at| &what[at..]);
    (what.to_owned(), error.hint_text().expect("every error has a hint").to_owned())
}

fn location(config: &Config) -> String {
    config.pipelines[0].source.archive(Side::Source).unwrap().unwrap().0.to_string()
}

fn shown(config: &Config) -> String {
    format!("{:?}", config.pipelines[0].target)
}

#[test]
fn the_sample_with_its_variables_is_a_pipeline() {
    let variables = [("PG_PASSWORD", "geheim"), ("PG_DB_NAME", "app")];
    let config = load(SAMPLE, &variables).unwrap();
    let pipeline = config.pipeline(None).unwrap();
    assert_eq!((pipeline.name.as_str(), pipeline.mode.as_str()), ("syncdata", "stream"));
    assert!(pipeline.is_whitelisted && !pipeline.stream.new_tables);
    assert_eq!(location(&config), "sftp://backupuser@backup.example.com/backups/postgresql/changes");
    assert_eq!((pipeline.archive.poll_seconds, pipeline.archive.metrics_hours), (600, 24));
    let target = shown(&config);
    for part in [r#""host": "127.0.0.1""#, r#""port": "5432""#, r#""user": "admin""#, r#""dbname": "app""#] {
        assert!(target.contains(part), "{part} in {target}");
    }
    assert!(target.contains(r#""password_env": "PG_PASSWORD""#) && !target.contains("geheim"), "{target}");
}

#[test]
fn what_is_left_out_has_the_tables_defaults() {
    let config = load(LEAST, &[]).unwrap();
    let pipeline = &config.pipelines[0];
    assert_eq!(location(&config), "sftp://u@b/d");
    assert_eq!((pipeline.archive.poll_seconds, pipeline.archive.metrics_hours), (600, 24));
    let target = shown(&config);
    assert!(
        target.contains(r#""host": "127.0.0.1", "password": ***, "port": "5432", "user": "admin""#),
        "{target}"
    );
    assert_eq!(pipeline.target.conninfo().unwrap().parameters["password"].reveal(), "p w");
    assert!(!format!("{config:?}").contains("p w"));
}

#[test]
fn variables_override_the_file() {
    let variables = [
        ("PG_PASSWORD", "x"),
        ("PG_DB_NAME", "other"),
        ("PG_USER_NAME", "me"),
        ("PG_HOST", "db"),
        ("PG_PORT", "5433"),
        ("DATA_SYNC_FREQ", "60"),
        ("METRIC_FREQ", "1"),
    ];
    let config = load(LEAST, &variables).unwrap();
    let (target, archive) = (shown(&config), &config.pipelines[0].archive);
    let expected =
        r#"{"dbname": "other", "host": "db", "port": "5433", "user": "me", "password_env": "PG_PASSWORD"}"#;
    assert_eq!(target, expected);
    assert_eq!((archive.poll_seconds, archive.metrics_hours), (60, 1));
}

#[test]
fn variables_are_for_such_a_file_alone() {
    let text = "[pipeline.main]\nsource = \"/archive\"\ntarget = \"host=a\"\n";
    let config = load(text, &[("PG_HOST", "db"), ("DATA_SYNC_FREQ", "7")]).unwrap();
    assert_eq!((shown(&config).as_str(), config.pipelines[0].archive.poll_seconds), (r#"{"url": ***}"#, 0));
    assert!(!config.pipelines[0].is_whitelisted);
}

#[test]
fn what_is_missing_is_named() {
    for (key, hint) in [
        ("archive_host", "set archive_host = \"backup.example.com\""),
        ("archive_user", "set archive_user = \"backupuser\""),
        ("archive_dir", "set archive_dir = \"/backups/postgresql/changes\""),
        ("pg_database", "set pg_database = \"app\", or the variable PG_DB_NAME"),
        ("pg_password", "set the variable PG_PASSWORD, or the key pg_password"),
    ] {
        let text: String = LEAST.split_inclusive('\n').filter(|line| !line.starts_with(key)).collect();
        assert_eq!(refused(&text, &[]), (format!("config.toml: {key} is missing"), hint.to_owned()));
    }
}

#[test]
fn wrong_values_are_refused_with_their_line() {
    for (line, what) in [
        ("data_sync_freq = 59", "data_sync_freq must be a whole number from 60 to 31536000, not 59"),
        ("metric_freq = 0", "metric_freq must be a whole number from 1 to 8760, not 0"),
        ("archive_port = 65536", "archive_port must be a whole number from 1 to 65535, not 65536"),
        ("pg_port = \"x y\"", "pg_port must be a whole number from 1 to 65535, not a string"),
        ("archive_prot = 22", "unknown key \"archive_prot\""),
        ("[archive]\ncontrol_schema = \"a b\"", ""),
    ] {
        let (said, hint) = refused(&format!("{LEAST}{line}\n"), &[]);
        let expected = if what.is_empty() {
            "config.toml:7: \"a b\" cannot name a schema of control tables".to_owned()
        } else {
            format!("config.toml:6: {what}")
        };
        assert_eq!(said, expected);
        assert!(!hint.is_empty());
    }
    assert_eq!(refused(&format!("{LEAST}archive_prot = 22\n"), &[]).1, "did you mean \"archive_port\"?");
    for (from, to, what) in [
        ("\"/d\"", "\"d\"", "config.toml:3: archive_dir must begin with a slash"),
        ("\"b\"", "\"u@b\"", "config.toml:1: \"u@b\" is no host name"),
        ("\"u\"", "\" \"", "config.toml:2: archive_user is missing"),
    ] {
        assert_eq!(refused(&LEAST.replace(from, to), &[]).0, what);
    }
    let (what, _) = refused(LEAST, &[("DATA_SYNC_FREQ", "30")]);
    assert_eq!(what, "the variable DATA_SYNC_FREQ must be a whole number from 60 to 31536000, not \"30\"");
}

#[test]
fn both_kinds_of_keys_in_one_file_are_refused() {
    let text = format!("{LEAST}\n[pipeline.main]\nsource = \"host=a\"\ntarget = \"host=b\"\n");
    let (what, hint) = refused(&text, &[]);
    assert_eq!(what, "config.toml:7: [pipeline] stands beside the key \"archive_host\" of a syncdata file");
    assert!(hint.contains("a file of their own"), "{hint}");
}

#[test]
fn odd_names_keep_their_meaning() {
    let text =
        LEAST.replace("\"u\"", "\"u@corp\"").replace("\"/d\"", "\"/a b/100%/ü\"").replace("\"b\"", "\"::1\"");
    let config = load(&text, &[]).unwrap();
    let (location, _) = config.pipelines[0].source.archive(Side::Source).unwrap().unwrap();
    let crate::store::Location::Sftp { user, host, port, path } = location else { panic!("{location}") };
    assert_eq!((user.as_str(), host.as_str(), port, path.as_str()), ("u@corp", "::1", 22, "/a b/100%/ü"));
}

#[test]
fn a_home_in_the_path_is_found() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.toml"), LEAST).unwrap();
    let home = home.path().display().to_string();
    let config = Config::load(None, &|name| match name {
        "DATA_SYNC_CONFIG" => Some("~/config.toml".to_owned()),
        "HOME" => Some(home.clone()),
        _ => None,
    });
    assert_eq!(config.unwrap().pipelines[0].name, "syncdata");
}
