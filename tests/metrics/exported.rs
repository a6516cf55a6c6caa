//! The text of the metrics: golden, valid in both formats, bounded, and to promtool's liking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgdiode::http::metrics::{Format, Kind, TABLES_MAX, families, render};
use pgdiode::status::TableState;
use pgdiode::status::fleet::Fleet;

use super::fleet::{fleet, instance, streaming, table};
use super::{golden, promtool, said};

#[test]
fn metrics_are_these() {
    golden("metrics/fleet.prom", &render(&fleet(), Format::Prometheus));
    golden("metrics/fleet.openmetrics", &render(&fleet(), Format::OpenMetrics));
}

/// Days are no base unit; that is what the metric is for, and who reads it wants no seconds.
pub const EXCUSED: &str = "percent use base unit \"seconds\" instead of \"days\"";

#[test]
fn promtool_takes_the_metrics() {
    let checked = promtool(&["check", "metrics"], &render(&fleet(), Format::Prometheus));
    let said = said(&checked);
    let complaints: Vec<&str> = said.lines().filter(|line| !line.ends_with(EXCUSED)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert_eq!(said.lines().count(), 3, "70, 85 and 95 % are excused, nothing else: {said}");
}

#[test]
fn promtool_would_complain() {
    let checked = promtool(&["check", "metrics"], "# TYPE pgdiode_rows counter\npgdiode_rows 1\n");
    assert!(!checked.status.success());
    assert!(said(&checked).contains("counter metrics should have \"_total\" suffix"), "{}", said(&checked));
}

/// Each line as `OpenMetrics` 1.0.0 has it: metadata of a family before its samples, which stay together.
#[test]
fn the_open_metrics_are_valid() {
    let text = render(&fleet(), Format::OpenMetrics);
    assert!(text.ends_with("\n# EOF\n"), "the end is missing");
    let (mut family, mut kind, mut seen, mut series) = ("", "", BTreeSet::new(), BTreeSet::new());
    for line in text.trim_end_matches("# EOF\n").lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let parts: Vec<&str> = metadata.splitn(3, ' ').collect();
            match parts[0] {
                "HELP" => {
                    assert!(seen.insert(parts[1]), "{} is there twice", parts[1]);
                    family = parts[1];
                }
                "TYPE" => kind = parts[2],
                "UNIT" => assert!(parts[1].ends_with(&format!("_{}", parts[2])), "{line}"),
                other => panic!("{other} is no metadata"),
            }
            assert_eq!(parts[1], family, "{line}");
            continue;
        }
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            "gauge" => "",
            other => panic!("{other} is no kind"),
        };
        let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
        assert_eq!(name.split('{').next(), Some(&*format!("{family}{suffix}")), "{line}");
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        assert!(series.insert(name), "{name} is there twice");
    }
}

/// Every family has a sample in the made-up fleet, with the labels that are documented and no others.
#[test]
fn every_family_is_exported_as_documented() {
    let text = render(&fleet(), Format::Prometheus);
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a sample has a value"));
        let of_name = labels.entry(name).or_default();
        let names = rest.split("=\"").map(|part| part.rsplit(['{', ',']).next().unwrap_or_default());
        let count = rest.matches("=\"").count();
        of_name.extend(names.take(count));
    }
    for family in families() {
        let found = labels.remove(family.name).unwrap_or_else(|| panic!("{} has no sample", family.name));
        let of_daemon = !found.contains("pipeline");
        let expected = family.labels.iter().copied().chain((!of_daemon).then_some("pipeline"));
        assert_eq!(found, expected.collect(), "{}", family.name);
    }
    assert!(labels.is_empty(), "not in the table of families: {labels:?}");
}

#[test]
fn an_empty_fleet_has_no_pipelines_and_no_empty_families() {
    let text = render(&Fleet { instance: instance(), pipelines: Vec::new() }, Format::Prometheus);
    assert!(text.contains("pgdiode_build_info{version=\"0.1.0\"} 1\n"), "{text}");
    assert!(!text.contains("pipeline"), "{text}");
}

#[test]
fn what_is_not_known_is_not_zero() {
    let text = render(&fleet(), Format::Prometheus);
    let of_broken: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.contains("pipeline=\"broken\""))
        .filter_map(|line| line.split('{').next())
        .collect();
    let known = [
        "pgdiode_pipeline_info",
        "pgdiode_pipeline_health",
        "pgdiode_pipeline_health_timestamp_seconds",
        "pgdiode_pipeline_duty",
        "pgdiode_pipeline_paused",
        "pgdiode_problem",
    ];
    assert_eq!(of_broken, BTreeSet::from(known), "of a pipeline that could never be asked");
}

/// However many tables there are, no row is missing from the sum.
#[test]
fn tables_are_bounded_and_add_up() {
    let all = 10_000;
    let tables = (0..all).map(|number| table(&format!("t{number:05}"), TableState::Ready, 10)).collect();
    let one = Fleet { instance: instance(), pipelines: vec![Arc::new(streaming("many", tables))] };
    let text = render(&one, Format::Prometheus);
    let inserts: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("pgdiode_rows_total") && line.contains("kind=\"insert\""))
        .collect();
    assert_eq!(inserts.len(), TABLES_MAX + 1);
    let rows = |line: &&str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
    assert_eq!(inserts.iter().map(rows).sum::<u64>(), all * 10);
    let rest =
        format!("{{pipeline=\"many\",table=\"other\",kind=\"insert\"}} {}", (all - TABLES_MAX as u64) * 10);
    assert!(inserts.last().is_some_and(|line| line.ends_with(&rest)), "{:?}", inserts.last());
    let counters =
        families().filter(|family| family.kind == Kind::Counter && family.labels.contains(&"table"));
    assert_eq!(counters.count(), 1, "another family by table wants a look here");
}
