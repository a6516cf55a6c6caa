//! The alert rules: promtool takes them, each fires when it should and is silent when not, names only what is exported,
//! and leads to what an operator can do.

use std::collections::BTreeSet;
use std::fs;

use super::promql::complaints;
use super::{promtool, repository, said};

const RULES: &str = "deploy/prometheus/rules.yml";

struct Alert {
    name: String,
    expression: String,
    /// The lines below its expression.
    rest: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rules, read by how this file is laid out; promtool, which knows YAML, must count as many.
fn alerts() -> Vec<Alert> {
    let text = read(RULES);
    let alerts: Vec<Alert> = text
        .split("\n      - alert: ")
        .skip(1)
        .map(|rule| {
            let (name, rule) = rule.split_once("\n        expr: |\n").expect("a name, then the expression");
            let lines: Vec<&str> = rule.lines().collect();
            let end = lines
                .iter()
                .position(|line| !line.starts_with("          "))
                .expect("more than an expression");
            let (expression, rest) = lines.split_at(end);
            Alert { name: name.to_owned(), expression: expression.join("\n"), rest: rest.join("\n") }
        })
        .collect();
    let checked = promtool(&["check", "rules", RULES], "");
    let counted = format!("SUCCESS: {} rules found", alerts.len());
    assert!(checked.status.success() && said(&checked).contains(&counted), "{counted}? {}", said(&checked));
    alerts
}

#[test]
fn rules_name_only_what_is_exported() {
    for alert in alerts() {
        let complaints = complaints(&alert.expression);
        assert!(complaints.is_empty(), "{}: {}", alert.name, complaints.join(", "));
    }
}

#[test]
fn each_alert_says_how_bad_it_is_and_what_to_do() {
    let guide = read("docs/operating.md");
    let (_, section) = guide.split_once("\n## Watching with Prometheus\n").expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let headings: BTreeSet<&str> = section.lines().filter_map(|line| line.strip_prefix("#### ")).collect();
    let mut names = BTreeSet::new();
    let alerts = alerts();
    for Alert { name, rest, .. } in &alerts {
        let key = |key: &str| {
            let line = rest.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("{name} lacks {key}"))
        };
        assert!(["warning", "critical", "page"].contains(&key("severity")), "{name}: {}", key("severity"));
        assert!(key("summary").len() > 20 && key("description").len() > 20, "{name}");
        // How headings become anchors.
        let runbook = format!("/docs/operating.md#{}", name.to_lowercase());
        assert!(key("runbook_url").ends_with(&runbook), "{name}: {}", key("runbook_url"));
        assert!(names.insert(name.as_str()), "{name} is there twice");
    }
    assert_eq!(headings, names, "the headings of the guide, and the alerts");
}

fn test_rules(rules: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("rules.yml"), rules).unwrap();
    let tests = directory.path().join("rules_test.yml");
    fs::write(&tests, read("deploy/prometheus/rules_test.yml")).unwrap();
    let tested = promtool(&["test", "rules", tests.to_str().unwrap()], "");
    (tested.status.success(), said(&tested))
}

#[test]
fn alerts_fire_when_they_should() {
    let (success, said) = test_rules(&read(RULES));
    assert!(success, "{said}");
}

/// An alert that never fires and one that always does are both found out by the tests, each of them.
#[test]
fn every_alert_is_tested_both_ways() {
    let (text, alerts) = (read(RULES), alerts());
    for (instead, failure) in [("vector(0) > 1", "got:[]"), ("vector(1)", "exp:[]")] {
        let mut rules = text.clone();
        for Alert { expression, rest, .. } in &alerts {
            let before = format!("{expression}\n{rest}");
            assert!(rules.contains(&before), "{before}");
            rules = rules.replacen(&before, &format!("          {instead}\n{rest}"), 1);
        }
        let (success, said) = test_rules(&rules);
        assert!(!success);
        for Alert { name, .. } in &alerts {
            let of_test = format!("{name}, ");
            let noticed =
                said.split("alertname: ").any(|test| test.starts_with(&of_test) && test.contains(failure));
            assert!(noticed, "no test of {name} notices that it is {instead}: {said}");
        }
    }
}
