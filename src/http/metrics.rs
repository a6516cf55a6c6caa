//! What Prometheus scrapes: a [`Fleet`] as text, in Prometheus' own format or in `OpenMetrics`.
//!
//! Everything follows from one table of families ([`families`]): what is exported, what `docs/metrics.md` says, and what
//! alert rules and panels may name. A value that is not known has no sample; it is never 0 instead. What a pipeline adds
//! is bounded: of its tables the first [`TABLES_MAX`] have samples of their own, the rest one together.

mod families;
pub mod reference;
mod samples;

use crate::status::fleet::Fleet;

pub use families::{Family, Kind, TABLES_MAX, families};

use families::{Read, View};
use samples::Samples;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything reads.
    Prometheus,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper wants: `OpenMetrics` where it names that, in a version that is written here, and wants nothing
    /// more.
    pub fn accepted(accept_header: Option<&str>) -> Format {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept_header.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f64, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open = weight.max(open);
                }
                "text/plain" => plain = weight.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All that is known of a daemon and its pipelines. A family without any sample is left out.
pub fn render(fleet: &Fleet, format: Format) -> String {
    let views: Vec<View<'_>> = fleet.pipelines.iter().map(|one| View::new(&fleet.instance, one)).collect();
    let mut text = String::new();
    for family in families() {
        let before = text.len();
        samples::heading(&mut text, family, format);
        let after_heading = text.len();
        match family.read {
            Read::Instance(read) => {
                read(&fleet.instance, &mut Samples::new(&mut text, family.name, None));
            }
            Read::Value(read) => {
                for view in &views {
                    Samples::new(&mut text, family.name, Some(&view.label)).value(read(view));
                }
            }
            Read::Pipeline(read) => {
                for view in &views {
                    read(view, &mut Samples::new(&mut text, family.name, Some(&view.label)));
                }
            }
        }
        if text.len() == after_heading {
            text.truncate(before);
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_what_it_asks_for() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (None, Format::Prometheus),
            (Some(""), Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/html, application/xhtml+xml, */*;q=0.8"), Format::Prometheus),
            (Some(prometheus_2), Format::OpenMetrics),
            (Some(prometheus_3), Format::OpenMetrics),
            (Some("Application/OpenMetrics-Text; Version=\"1.0.0\""), Format::OpenMetrics),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text;version=0.0.1"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0.3,text/plain;q=0.9"), Format::Prometheus),
            (Some("application/openmetrics-text;q=nonsense"), Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn each_format_names_itself() {
        for format in [Format::Prometheus, Format::OpenMetrics] {
            assert_eq!(Format::accepted(Some(format.content_type())), format);
        }
    }

    #[test]
    fn the_families_keep_the_rules_of_names() {
        for family in families() {
            let Family { name, kind, unit, help, labels, .. } = family;
            assert!(name.starts_with("pgdiode_") || *name == "pg_replication_lag", "{name}");
            assert!(
                name.chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter == '_' || letter.is_ascii_digit())
            );
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), *kind == Kind::Info, "{name}");
            let base = name.trim_end_matches("_total");
            let named = base
                .rsplit('_')
                .next()
                .filter(|last| ["bytes", "seconds"].contains(last))
                .unwrap_or_default();
            assert!(
                unit.ends_with(named) && (unit.is_empty() || base.ends_with(&format!("_{unit}"))),
                "{name}: {unit}"
            );
            assert!(help.ends_with('.') && !help.contains(['\n', '"', '\\', '|']), "{name}: {help}");
            assert!(!labels.contains(&"pipeline"), "{name} has that label anyway");
        }
        let mut names: Vec<_> = families().map(|family| family.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "a family is there twice");
    }
}
