use std::path::Path;

use super::*;
use crate::error::Kind;

fn parse(keys: &str) -> Result<Config> {
    Config::parse(Path::new("/etc/p.toml"), &format!("[pipeline.p]\n{keys}"))
}

const ENDS: &str = "source = \"rediss://pgdiode@cache:6380\"\ntarget = \"host=b\"\n";
const PRESET: &str = "[pipeline.p.redis]\npreset = \"chat-sessions\"\n";

#[test]
fn a_redis_server_is_told_by_its_location() {
    for source in [
        "source = \"redis://h\"",
        "source = \"rediss://u:p@h:1/0\"",
        "source = \"redis+unix:///run/redis.sock\"",
        "source = { redis = \"redis://h\", user = \"u\", password_env = \"PW\" }",
    ] {
        let config = parse(&format!("{source}\ntarget = \"host=b\"\n{PRESET}")).unwrap();
        let pipeline = &config.pipelines[0];
        assert_eq!(pipeline.way(), Way::FromRedis, "{source}");
        assert_eq!(pipeline.mapper.as_ref().unwrap().layout().tables.len(), 4);
        assert_eq!(
            (pipeline.redis.live, pipeline.redis.batch_keys, &pipeline.redis.databases),
            (Live::Auto, 5000, &vec![0])
        );
    }
    let other = parse("source = \"host=a\"\ntarget = \"host=b\"").unwrap();
    assert!(other.pipelines[0].mapper.is_none() && other.pipelines[0].way() == Way::Direct);
}

#[test]
fn what_does_not_go_with_a_redis_server_is_refused() {
    for (keys, what) in [
        (
            format!("{ENDS}mode = \"snapshot\"\n{PRESET}"),
            "/etc/p.toml:4: a Redis server has no mode = \"snapshot\"",
        ),
        (format!("{ENDS}slot = \"s\"\n{PRESET}"), "/etc/p.toml:4: a Redis server has no slot"),
        (format!("{ENDS}publication = \"s\"\n{PRESET}"), "/etc/p.toml:4: a Redis server has no publication"),
        (
            format!("{ENDS}plugin = \"wal2json\"\n{PRESET}"),
            "/etc/p.toml:4: a Redis server has no output plugin",
        ),
        (
            format!("{ENDS}spill = {{ archive = \"/s\" }}\n{PRESET}"),
            "/etc/p.toml:4: nothing of a Redis server has to be spilled",
        ),
        (
            format!("source = \"redis://h\"\ntarget = \"/archive\"\n{PRESET}"),
            "/etc/p.toml:3: keys become rows of a database, not of an archive",
        ),
        ("source = \"host=a\"\ntarget = \"redis://h\"".into(), "/etc/p.toml:3: a Redis server is only read"),
        (ENDS.into(), "/etc/p.toml:1: nothing says which keys become which rows"),
        (
            format!("{ENDS}redis = {{ databases = [], preset = \"chat-sessions\" }}"),
            "/etc/p.toml:4: no database is mapped",
        ),
        (
            format!("{ENDS}redis = {{ databases = [0, 70000] }}"),
            "/etc/p.toml:4: databases must be a list of whole numbers from 0 to 65535, not an array",
        ),
        (
            format!("{ENDS}redis = {{ key = [3] }}"),
            "/etc/p.toml:4: key must be a list of sections, not an integer",
        ),
        (
            format!("source = {{ redis = \"redis://h\", dbname = \"x\" }}\ntarget = \"host=b\"\n{PRESET}"),
            "/etc/p.toml:2: dbname is a database's key, and this is a Redis server",
        ),
    ] {
        let error = parse(&keys).expect_err(what);
        assert_eq!((error.kind(), error.what()), (Kind::Config, what));
        assert!(error.hint_text().is_some(), "{what}");
    }
}

#[test]
fn own_mappings_join_a_preset_or_take_its_place() {
    let own = |pattern: &str| {
        parse(&format!(
            "{ENDS}{PRESET}[[pipeline.p.redis.key]]\npattern = \"{pattern}\"\ntype = \"hash\"\n\
             [[pipeline.p.redis.key.table]]\ntable = \"mine\"\nkey = [\"k\"]\ncolumn = [{{ name = \"k\", from = \"{{session_id}}\" }}]\n"
        ))
    };
    let tables = |config: Config| config.pipelines[0].mapper.as_ref().unwrap().layout().tables.len();
    assert_eq!(tables(own("session:{session_id}").unwrap()), 1);
    assert_eq!(tables(own("hash:{session_id}").unwrap()), 5);
    let error = own("hash:{session}").unwrap_err();
    assert!(error.what().starts_with("/etc/p.toml:12: {session_id} is not known here"), "{error:?}");
}

fn of_environment(set: &[(&str, &str)]) -> Result<Config> {
    let set: Vec<(String, String)> =
        set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Config::load(None, &move |name| {
        // No file of whoever runs this is found.
        let home = ["HOME", "XDG_CONFIG_HOME"].contains(&name).then(|| "/nowhere".to_owned());
        set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).or(home)
    })
}

/// The variables of the first deployments.
#[test]
fn the_environment_describes_a_pipeline_of_chat_sessions() {
    let mut set = vec![
        ("REDIS_HOST", "cache"),
        ("REDIS_PORT", "6380"),
        ("REDIS_USERNAME", "reader"),
        ("REDIS_PASSWORD", "s3cret"),
        ("REDIS_SESSION_TTL_HOURS", "24"),
        ("DATABASE_URL", "postgresql://u:pw@db/app"),
    ];
    let config = of_environment(&set).unwrap();
    let chat = config.pipeline(None).unwrap();
    assert_eq!((chat.name.as_str(), chat.mode, chat.way()), ("chat", Mode::Stream, Way::FromRedis));
    assert_eq!(chat.mapper.as_ref().unwrap().layout().tables[2].name.to_string(), "public.sessions");
    let shown = format!("{:?} {:?}", chat.source, chat.target);
    assert!(
        shown.contains("REDIS_PASSWORD") && !shown.contains("s3cret") && !shown.contains("pw"),
        "{shown}"
    );
    for (name, wrong) in [("REDIS_HOST", "a/b"), ("REDIS_PORT", "0"), ("REDIS_SESSION_TTL_HOURS", "a day")] {
        let index = set.iter().position(|(key, _)| *key == name).unwrap();
        let right = std::mem::replace(&mut set[index].1, wrong);
        let error = of_environment(&set).unwrap_err();
        assert!(
            error.what().starts_with(&format!("the variable {name} must be")) && error.hint_text().is_some()
        );
        set[index].1 = right;
    }
    let least = of_environment(&[("REDIS_HOST", "::1"), ("DATABASE_URL", "postgresql://db/app")]).unwrap();
    assert_eq!(least.pipelines[0].source.redis().unwrap().unwrap().text.reveal(), "redis://[::1]:6379");
    assert!(of_environment(&set[..5]).is_err(), "without DATABASE_URL there is no pipeline");
    set.extend([("PGDIODE_SOURCE", "host=a"), ("PGDIODE_TARGET", "host=b")]);
    assert_eq!(of_environment(&set).unwrap().pipelines[0].name, "main");
}
