//! The dashboard for Grafana: valid, every panel explained, and made of what is exported.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use serde_json::Value;

use super::promql::complaints;
use super::{promtool, repository, said};

pub fn dashboard() -> Value {
    let text = fs::read_to_string(repository("deploy/grafana/pgdiode.json")).unwrap();
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels: Vec<&Value> = dashboard["panels"].as_array().expect("panels").iter().collect();
    assert!(panels.len() > 20, "there are {} panels", panels.len());
    panels
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Each expression of panels and annotations, with where it stands.
pub fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((text(panel, "title").to_owned(), text(target, "expr").to_owned()));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
        found.extend(
            annotation["expr"].as_str().map(|expr| (text(annotation, "name").to_owned(), expr.to_owned())),
        );
    }
    found
}

#[test]
fn panels_show_only_what_is_exported() {
    for (title, expression) in expressions(&dashboard()) {
        let complaints = complaints(&expression);
        assert!(complaints.is_empty(), "{title}: {}", complaints.join(", "));
    }
}

/// As recording rules, with Grafana's variables filled in.
#[test]
fn promtool_takes_every_expression() {
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    let expressions = expressions(&dashboard());
    for (number, (_, expression)) in expressions.iter().enumerate() {
        let filled = expression
            .replace("$__rate_interval", "5m")
            .replace("$pipeline", ".*")
            .replace("$job", ".*")
            .replace('\n', " ");
        assert!(!filled.contains('$'), "a variable that nobody fills in: {expression}");
        let _ = write!(rules, "      - record: panel:{number}\n        expr: {}\n", Value::from(filled));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("panels.yml");
    fs::write(&path, rules).unwrap();
    let checked = promtool(&["check", "rules", path.to_str().unwrap()], "");
    let counted = format!("SUCCESS: {} rules found", expressions.len());
    assert!(checked.status.success() && said(&checked).contains(&counted), "{}", said(&checked));
}

#[test]
fn the_dashboard_is_well_made() {
    let dashboard = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title} has another one's id");
        let place =
            |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title} has no {key}"));
        assert!(place("w") > 0 && place("x") + place("w") <= 24, "{title} is beyond the edge");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies on another one");
            }
        }
        if text(panel, "type") == "row" {
            continue;
        }
        assert!(text(panel, "description").ends_with('.'), "{title} is not explained");
        assert_eq!(text(&panel["datasource"], "uid"), "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        let letters: BTreeSet<&str> = targets.iter().map(|target| text(target, "refId")).collect();
        assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}: {letters:?}");
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(names, ["datasource", "job", "pipeline"]);
    for variable in &variables[1..] {
        let query = text(variable, "definition");
        let asked = query.strip_prefix("label_values(").and_then(|query| query.rsplit_once(", "));
        let (selector, label) = asked.unwrap_or_else(|| panic!("{query} asks for no label's values"));
        assert_eq!(complaints(selector), [""; 0], "{query}");
        assert_eq!(label, format!("{})", text(variable, "name")));
    }
}
