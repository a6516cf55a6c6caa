use super::*;
use std::os::unix::fs::PermissionsExt;

const ENDS: &str = "source = \"host=a\"\ntarget = \"host=b\"\n";

fn parse(text: &str) -> Result<Config> {
    Config::parse(Path::new("/etc/p.toml"), text)
}

/// One pipeline with both ends and `keys`, which begin on line 4.
fn main_with(keys: &str) -> Result<Config> {
    parse(&format!("[pipeline.main]\n{ENDS}{keys}"))
}

fn refused(config: Result<Config>) -> (String, String) {
    let error = config.expect_err("the configuration is wrong");
    assert_eq!(error.kind(), crate::error::Kind::Config);
    (error.what().to_owned(), error.hint_text().expect("every error has a hint").to_owned())
}

#[test]
fn defaults() {
    let config = main_with("").unwrap();
    assert_eq!(config.file.as_deref(), Some(Path::new("/etc/p.toml")));
    let [main] = config.pipelines.as_slice() else { panic!("one pipeline") };
    assert_eq!((main.name.as_str(), main.mode), ("main", Mode::Stream));
    assert_eq!((main.publication.as_str(), main.slot.as_str()), ("pgdiode_main", "pgdiode_main"));
    assert_eq!(main.tables.to_string(), "*.*");
    assert_eq!((main.copy.jobs, main.copy.split_mb, main.copy.format), (0, 256, Format::Auto));
    assert!((2..=8).contains(&main.copy.jobs()));
    assert_eq!((main.stream.batch_mb, main.stream.batch_ms_max), (16, 500));
    assert_eq!((main.stream.schema_drift, main.stream.on_conflict), (SchemaDrift::Follow, OnConflict::Apply));
    assert_eq!((main.limits.wal_budget_mb, main.limits.memory_mb), (10_240, 192));
    assert_eq!((main.retry.first_ms, main.retry.max_ms), (500, 30_000));
    assert_eq!(config.log.level, Level::Info);
}

#[test]
fn what_is_set_is_read() {
    let config = parse(
        r#"
            pg_dump = "bin/pg_dump"
            [log]
            format = "json"
            level = "debug"
            [pipeline.orders_2]
            mode = "subscription"
            tables = ["shop.*", "!shop.tmp_?"]
            publication = "Pub"
            slot = "s"
            [pipeline.orders_2.source]
            hosts = ["db1:5432", "db2"]
            user = "repl"
            sslmode = "verify-full"
            password_file = "secret"
            [pipeline.orders_2.target]
            url = "postgresql://db3/app"
            port = 5433
            [pipeline.orders_2.copy]
            jobs = 3
            format = "binary"
            [pipeline.orders_2.stream]
            new_tables = false
            binary = "off"
            spool_dir = "spool"
            schema_drift = "quarantine"
        "#,
    )
    .unwrap();
    let pipeline = config.pipeline(None).unwrap();
    assert_eq!(
        (pipeline.mode, pipeline.publication.as_str(), pipeline.slot.as_str()),
        (Mode::Subscription, "Pub", "s")
    );
    assert_eq!(pipeline.tables.to_string(), "shop.*, !shop.tmp_?");
    assert_eq!((pipeline.copy.jobs(), pipeline.copy.format), (3, Format::Binary));
    assert_eq!((pipeline.stream.new_tables, pipeline.stream.binary), (false, Binary::Off));
    assert_eq!(
        pipeline.stream.spool_dir(),
        Path::new("/etc/spool"),
        "relative paths count from the file's directory"
    );
    assert_eq!(pipeline.pg_dump.as_deref(), Some(Path::new("/etc/bin/pg_dump")));
    assert!(format!("{:?}", pipeline.source).contains("\"/etc/secret\""));
    let target = pipeline.target.conninfo().unwrap();
    assert_eq!(target.text.unwrap().reveal(), "postgresql://db3/app");
    assert_eq!(target.parameters["port"].reveal(), "5433");
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, Level::Debug));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    for (keys, what, hint) in [
        (
            "tabels = []",
            "/etc/p.toml:4: unknown key \"tabels\" in [pipeline.main]",
            "did you mean \"tables\"?",
        ),
        (
            "\n[pipeline.main.copy]\njbos = 3",
            "/etc/p.toml:6: unknown key \"jbos\" in [pipeline.main.copy]",
            "did you mean \"jobs\"?",
        ),
        (
            "copy = { split = 1 }",
            "/etc/p.toml:4: unknown key \"split\" in [pipeline.main.copy]",
            "known here: jobs, ",
        ),
        ("[pipelines.b]", "/etc/p.toml:4: unknown key \"pipelines\"", "did you mean \"pipeline\"?"),
        (
            "[log]\nformat = \"text\"\nLevel = \"info\"",
            "/etc/p.toml:6: unknown key \"Level\" in [log]",
            "did you mean \"level\"?",
        ),
        (
            "colour = 1",
            "/etc/p.toml:4: unknown key \"colour\" in [pipeline.main]",
            "known here: mode, source, target",
        ),
    ] {
        let (found, hinted) = refused(main_with(keys));
        assert_eq!(found, what);
        assert!(hinted.starts_with(hint), "{hinted}");
    }
    let (what, hint) =
        refused(parse("[pipeline.main]\ntarget = \"host=b\"\n[pipeline.main.source]\nusr = \"x\""));
    assert_eq!(what, "/etc/p.toml:4: unknown key \"usr\" in [pipeline.main.source]");
    assert_eq!(hint, "did you mean \"user\"?");
}

#[test]
fn unfit_values_are_refused_with_what_fits() {
    for (keys, what, hint) in [
        (
            "mode = \"mirror\"",
            "mode must be \"stream\" or \"subscription\" or \"snapshot\", not \"mirror\"",
            "known: stream, subscription, snapshot",
        ),
        (
            "mode = \"steam\"",
            "mode must be \"stream\" or \"subscription\" or \"snapshot\", not \"steam\"",
            "did you mean \"stream\"?",
        ),
        (
            "mode = 1",
            "mode must be \"stream\" or \"subscription\" or \"snapshot\", not 1",
            "for example mode = \"stream\"",
        ),
        (
            "slot = 5",
            "slot must be a text in quotation marks, not an integer",
            "for example slot = \"pgdiode_main\"",
        ),
        (
            "tables = \"a.b\"",
            "tables must be a list of texts, not a string",
            "for example tables = [\"public.*\"",
        ),
        ("tables = [1]", "tables must be a list of texts, not an array", "for example tables"),
        (
            "copy = 1",
            "copy must be a section, not an integer",
            "`pgdiode init` writes a sample with every key",
        ),
        ("copy.jobs = 65", "jobs must be a whole number from 0 to 64, not 65", "for example jobs = 0"),
        ("copy.jobs = -1", "jobs must be a whole number from 0 to 64, not -1", "for example jobs = 0"),
        (
            "copy.jobs = \"four\"",
            "jobs must be a whole number from 0 to 64, not \"four\"",
            "for example jobs = 0",
        ),
        ("copy.jobs = 1.5", "jobs must be a whole number from 0 to 64, not a float", "for example jobs = 0"),
        (
            "copy.jobs = 99999999999999999999",
            "jobs must be a whole number from 0 to 64, not 99999999999999999999",
            "for example",
        ),
        (
            "stream.new_tables = \"yes\"",
            "new_tables must be true or false, not \"yes\"",
            "for example new_tables = true",
        ),
        (
            "stream.spool_dir = 1",
            "spool_dir must be a path in quotation marks, not an integer",
            "for example spool_dir = \"/var",
        ),
    ] {
        let (found, hinted) = refused(main_with(keys));
        assert_eq!(found, format!("/etc/p.toml:4: {what}"));
        assert!(hinted.starts_with(hint), "{hinted}");
    }
    let (what, _) = refused(parse("[pipeline.main]\nsource = true\n"));
    assert_eq!(
        what,
        "/etc/p.toml:2: source must be a connection text or a table of connection parameters, not a boolean"
    );
    let (what, hint) = refused(parse("[pipeline]\nmain = 1"));
    assert_eq!(what, "/etc/p.toml:2: \"main\" stands in [pipeline], which holds named sections only");
    assert_eq!(hint, "begin a section such as [pipeline.main]");
}

#[test]
fn malformed_files_are_refused_with_their_line() {
    for (text, line) in [("[pipeline.main\n", 1), ("\n\na = ", 3), ("a = 1\na = 2", 2), ("a = \"x\nb = 1", 1)]
    {
        let (what, hint) = refused(parse(text));
        assert!(what.starts_with(&format!("/etc/p.toml:{line}: ")), "{text:?}: {what}");
        assert!(hint.starts_with("the file is TOML"));
    }
}

#[test]
fn what_does_not_make_sense_is_refused() {
    for (text, what, hint) in [
        ("", "/etc/p.toml: no pipeline is described", "add a section such as [pipeline.main]"),
        (
            "[pipeline.Main]",
            "/etc/p.toml:1: \"Main\" cannot name a pipeline",
            "use lower-case letters, digits and _",
        ),
        ("[pipeline.a-b]", "/etc/p.toml:1: \"a-b\" cannot name a pipeline", "use lower-case"),
        (
            "[pipeline.main]\ntarget = \"host=b\"",
            "/etc/p.toml:1: the pipeline has no source",
            "set source = ",
        ),
        (
            "[pipeline.main]\nsource = \"host=b\"",
            "/etc/p.toml:1: the pipeline has no target",
            "set target = ",
        ),
        ("[pipeline.main]\nsource = \" \"", "/etc/p.toml:2: the pipeline has no source", "set source = "),
        (
            "[pipeline.main]\nsource = \"host=a\"\ntarget = \"host=a\"",
            "/etc/p.toml:3: the target is the source itself",
            "a pipeline writes its target",
        ),
    ] {
        let (found, hinted) = refused(parse(text));
        assert_eq!(found, what);
        assert!(hinted.starts_with(hint), "{hinted}");
    }
    for (keys, what, hint) in [
        ("publication = \"\"", "a publication's name has 1 to 63 bytes", "leave the key out"),
        ("slot = \"Main\"", "\"Main\" cannot name a replication slot", "use lower-case letters"),
        ("slot = \"\"", "\"\" cannot name a replication slot", "use lower-case letters"),
        ("tables = []", "the list is empty", "leave the key out to carry every table"),
        (
            "tables = [\"users\"]",
            "\"users\" is not a table pattern: the schema is missing",
            "write schema.table",
        ),
        ("retry.first_ms = 40000", "first_ms = 40000 is more than max_ms = 30000", "pauses grow"),
        (
            "limits.memory_mb = 63",
            "memory_mb = 63 does not hold twice batch_mb and spool_mb, together 64",
            "raise memory_mb",
        ),
    ] {
        let (found, hinted) = refused(main_with(keys));
        assert_eq!(found, format!("/etc/p.toml:4: {what}"));
        assert!(hinted.starts_with(hint), "{hinted}");
    }
    let long = "p".repeat(41);
    assert!(refused(parse(&format!("[pipeline.{long}]"))).0.ends_with("cannot name a pipeline"));
}

#[test]
fn only_a_stream_between_databases_spills_and_only_where_it_can_be_read_again() {
    let spill = "[pipeline.main.spill]\narchive = \"/srv/spill\"\n";
    let main = main_with(spill).unwrap().pipelines.remove(0);
    assert!(main.spill.archive.is_some_and(|archive| archive.is_archive()));
    assert_eq!(main.spill.after_mb, 2048);
    for (keys, expected) in [
        (format!("mode = \"subscription\"\n{spill}"), "only a stream from one database into another"),
        ("[pipeline.main.spill]\narchive = \"host=c\"\n".to_owned(), "no place for an archive"),
        (
            format!("{spill}[pipeline.main.archive]\nrecipients_file = \"/etc/recipients\"\n"),
            "what is spilled is encrypted",
        ),
    ] {
        let (what, _) = refused(main_with(&keys));
        assert!(what.starts_with("/etc/p.toml:") && what.contains(expected), "{what}");
    }
}

#[test]
fn a_slot_serves_one_pipeline() {
    let two = |slot: &str, source: &str| {
        parse(&format!(
            "[pipeline.a]\n{ENDS}slot = \"s\"\n[pipeline.b]\nsource = \"{source}\"\ntarget = \"host=c\"\nslot = \"{slot}\""
        ))
    };
    assert!(two("t", "host=a").is_ok());
    assert!(two("s", "host=other").is_ok());
    let (what, _) = refused(two("s", "host=a"));
    assert_eq!(what, "/etc/p.toml:8: slot \"s\" already belongs to pipeline \"a\"");
}

#[test]
fn a_pipeline_is_chosen_by_name() {
    let config = parse(&format!("[pipeline.orders]\n{ENDS}[pipeline.users]\n{ENDS}")).unwrap();
    assert_eq!(config.pipeline(Some("users")).unwrap().name, "users");
    let hint = |name| config.pipeline(name).unwrap_err().hint_text().unwrap().to_owned();
    assert_eq!(hint(None), "choose one with --pipeline: orders, users");
    assert_eq!(hint(Some("order")), "did you mean \"orders\"?");
    assert_eq!(hint(Some("x")), "configured: orders, users");
}

fn environment<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

#[test]
fn variables_describe_a_pipeline() {
    let ends = [("PGDIODE_SOURCE", "host=a"), ("PGDIODE_TARGET", "host=b"), ("XDG_CONFIG_HOME", "/nowhere")];
    let load = |more: &[(&str, &str)]| Config::load(None, &environment(&[more, &ends].concat()));
    let config = load(&[]).unwrap();
    assert_eq!(config.file, None);
    assert_eq!(config.pipelines[0].slot, "pgdiode_main");
    let config = load(&[("PGDIODE_NAME", "orders"), ("PGDIODE_TABLES", "shop.*, !shop.tmp")]).unwrap();
    assert_eq!(config.pipelines[0].name, "orders");
    assert_eq!(config.pipelines[0].tables.to_string(), "shop.*, !shop.tmp");
    assert_eq!(refused(load(&[("PGDIODE_NAME", "A")])).0, "PGDIODE_NAME: \"A\" cannot name a pipeline");
    assert!(
        refused(load(&[("PGDIODE_TABLES", "x")]))
            .0
            .starts_with("PGDIODE_TABLES: \"x\" is not a table pattern")
    );
    assert_eq!(refused(load(&[("PGDIODE_TARGET", " ")])).0, "PGDIODE_TARGET: the pipeline has no target");
    assert_eq!(
        refused(load(&[("PGDIODE_TARGET", "host=a")])).0,
        "PGDIODE_TARGET: the target is the source itself"
    );
}

#[test]
fn a_file_is_found_in_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, name: &str| {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("[pipeline.{name}]\n{ENDS}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    write("home/.config/pgdiode/pgdiode.toml", "in_home");
    write("xdg/pgdiode/pgdiode.toml", "in_xdg");
    let by_variable = write("variable.toml", "by_variable");
    let by_option = write("option.toml", "by_option");
    let home = directory.path().join("home");
    let xdg = directory.path().join("xdg");
    let (home, xdg) = (("HOME", home.to_str().unwrap()), ("XDG_CONFIG_HOME", xdg.to_str().unwrap()));
    let variable = ("PGDIODE_CONFIG", by_variable.as_str());
    let source = ("PGDIODE_SOURCE", "host=a");
    let name = |named: Option<&str>, variables: &[(&str, &str)]| {
        Config::load(named.map(Path::new), &environment(variables))
            .map(|config| config.pipelines[0].name.clone())
    };
    assert_eq!(name(None, &[home]).unwrap(), "in_home");
    assert_eq!(name(None, &[home, xdg]).unwrap(), "in_xdg");
    assert_eq!(name(None, &[home, xdg, variable, source]).unwrap(), "by_variable");
    assert_eq!(name(None, &[home, ("PGDIODE_CONFIG", "")]).unwrap(), "in_home");
    assert_eq!(name(Some(&by_option), &[home, xdg, variable, source]).unwrap(), "by_option");
    let both = name(None, &[xdg, source]).unwrap_err();
    assert!(both.what().ends_with("and PGDIODE_SOURCE or PGDIODE_TARGET describe what to do"), "{both:?}");
    let none = name(None, &[("HOME", "/nowhere")]).unwrap_err();
    assert_eq!(none.what(), "no configuration found");
    assert!(
        none.hint_text()
            .unwrap()
            .contains("/nowhere/.config/pgdiode/pgdiode.toml, /etc/pgdiode/pgdiode.toml")
    );
    let missing = name(Some("/nowhere/p.toml"), &[]).unwrap_err();
    assert_eq!(missing.what(), "cannot read /nowhere/p.toml");
}

#[test]
fn a_literal_password_that_others_can_read_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgdiode.toml");
    let warned = |source: &str, mode: u32| {
        std::fs::write(&path, format!("[pipeline.main]\nsource = {source}\ntarget = \"host=b\"\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Config::read(&path, &|_| None).unwrap().warnings()
    };
    assert!(warned("\"postgresql://u:p@h/d\"", 0o600).is_empty());
    assert!(warned("\"postgresql://u@h/d\"", 0o644).is_empty());
    assert!(warned("{ host = \"a\", password_env = \"P\" }", 0o644).is_empty());
    for source in ["\"postgresql://u:p@h/d\"", "{ host = \"a\", password = \"p\" }"] {
        let warnings = warned(source, 0o640);
        let [(what, hint)] = warnings.as_slice() else { panic!("{source}: one warning") };
        assert!(
            what.ends_with("can be read by other users and holds the source's password of pipeline \"main\"")
        );
        assert!(hint.starts_with("run `chmod 600 "));
    }
}

/// Every way in which a secret can be written, and every way in which it could be shown.
#[test]
fn nothing_secret_is_in_debug_or_errors() {
    const SECRET: &str = "hunter2";
    let ways = |host: &str| {
        [
            format!("\"postgresql://u:{SECRET}@{host}/d\""),
            format!("\"host={host} password={SECRET}\""),
            format!("{{ url = \"postgresql://u:{SECRET}@{host}/d\" }}"),
            format!("{{ host = \"{host}\", password = \"{SECRET}\" }}"),
            format!("{{ host = \"{host}\", options = \"-c x.y={SECRET}\" }}"),
        ]
    };
    for (source, target) in ways("a").iter().zip(ways("b")) {
        let text = format!("[pipeline.main]\nsource = {source}\ntarget = {target}\n");
        let config = parse(&text).unwrap_or_else(|error| panic!("{source}: {error:?}"));
        let conninfo = config.pipelines[0].source.conninfo().unwrap();
        for shown in [format!("{config:?}"), format!("{config:#?}"), format!("{conninfo:?}")] {
            assert!(!shown.contains(SECRET), "{shown}");
        }
        // The target is missing, the target is the source, a key is unknown.
        for wrong in [
            format!("[pipeline.main]\nsource = {source}"),
            format!("[pipeline.main]\nsource = {source}\ntarget = {source}"),
            format!("[pipeline.main]\nsource = {source}\nx = 1"),
            format!("[pipeline.main]\nsource = {source} junk"),
            format!("[pipeline.main]\nsource = [{source}]"),
            format!("[pipeline.main]\nmode = {source}"),
        ] {
            let error = parse(&wrong).expect_err("the configuration is wrong");
            assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
        }
    }
    let number = parse("[pipeline.main]\nsource = { password = 123456 }").unwrap_err();
    assert!(!format!("{number:?}").contains("123456"));
}

/// The variables of the first deployments are one snapshot pipeline; a file, or `PGDIODE_SOURCE`, goes before them.
#[test]
fn the_ends_of_a_sync_come_from_the_environment() {
    let of = |set: &[(&str, &str)]| {
        let set: Vec<(String, String)> =
            set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(None, &move |name| {
            // No file of whoever runs this is found.
            let home = ["HOME", "XDG_CONFIG_HOME"].contains(&name).then(|| "/nowhere".to_owned());
            set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).or(home)
        })
    };
    let mut set = vec![
        ("MAIN_DB_HOST", "db1"),
        ("MAIN_DB_NAME", "app"),
        ("MAIN_DB_USER", "reader"),
        ("MAIN_DB_PASSWORD", "s3cret"),
        ("LI_DB_HOST", "db2"),
        ("LI_DB_PORT", "5433"),
        ("LI_DB_NAME", "li"),
        ("LI_DB_USER", "li"),
    ];
    let config = of(&set).unwrap();
    let li = config.pipeline(None).unwrap();
    assert_eq!((li.name.as_str(), li.mode), ("li", Mode::Snapshot));
    let shown = format!("{:?} {:?}", li.source, li.target);
    assert!(shown.contains("\"db1\"") && shown.contains("\"5433\"") && !shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("MAIN_DB_PASSWORD") && !shown.contains("LI_DB_PASSWORD"), "{shown}");
    assert_eq!(li.audit.audit_prefix, "LI:");
    if !Path::new(STATE_OF_A_SYNC).exists() {
        assert_eq!((&li.snapshot.lock_file, &li.snapshot.checkpoint_file), (&None, &None));
    }
    set.extend([("PGDIODE_LOCK_FILE", "/run/li.lock"), ("PGDIODE_CHECKPOINT_FILE", "/run/li.json")]);
    let config = of(&set).unwrap();
    let snapshot = &config.pipeline(None).unwrap().snapshot;
    assert_eq!(snapshot.lock_file.as_deref(), Some(Path::new("/run/li.lock")));
    assert_eq!(snapshot.checkpoint_file.as_deref(), Some(Path::new("/run/li.json")));
    for index in [0, 1, 2, 4, 6, 7] {
        let (name, _) = set.remove(index);
        let (what, hint) = refused(of(&set));
        assert_eq!(what, format!("the variable {name} is not set"));
        assert!(hint.contains("HOST, NAME and USER"), "{hint}");
        set.insert(index, (name, "x"));
    }
    set.extend([("PGDIODE_SOURCE", "host=a"), ("PGDIODE_TARGET", "host=b")]);
    assert_eq!(of(&set).unwrap().pipeline(None).unwrap().name, "main");
}
