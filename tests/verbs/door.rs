//! `pgdiode check` reads what `[server]` names, whatever else is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::PgdiodeRun;

#[test]
fn a_check_finds_what_the_door_would_refuse() {
    let config = "[server]\nusers_file = \"users\"\ntokens_file = \"tokens\"\n[pipeline.main]\n\
                  source = \"postgresql://u@127.0.0.1:9/a\"\ntarget = \"postgresql://u@127.0.0.1:9/b\"\n";
    let pgdiode = PgdiodeRun::new(config);
    let tokens = pgdiode.directory().join("tokens");
    fs::write(&tokens, format!("ci:{}:viewer:never:mian\n", "0".repeat(64))).unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    let output = pgdiode.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", output.stderr);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let finds = |level: &str, what: &str| {
        let is =
            |one: &serde_json::Value| one["level"] == level && one["what"].as_str().unwrap().contains(what);
        assert!(findings.iter().any(is), "{level} {what}: {report}");
    };
    finds("refused", "cannot read users_file");
    finds("warning", "token \"ci\" is for pipeline \"mian\", which is not configured");
    finds("ok", "tokens_file");
    finds("refused", "127.0.0.1:9");
    // The door alone is no reason to end with 6 or 7, and neither is it hidden by an end that is away.
    fs::write(pgdiode.directory().join("users"), "").unwrap();
    let ended = pgdiode.run(&["check"]).status.code();
    assert!(matches!(ended, Some(6 | 7)), "{ended:?}");
}
