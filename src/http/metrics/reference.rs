//! `docs/metrics.md`, made from the table of families.

use std::fmt::Write;

use super::families::{Section, sections};
use super::{Kind, TABLES_MAX};

/// The whole page.
pub fn markdown() -> String {
    let mut text = format!(
        "# Metrics\n\n\
         Generated from the code; `UPDATE_DOCS=1 cargo test --lib reference` renews it.\n\n\
         What `GET /metrics` answers, as Prometheus' text or as OpenMetrics, whichever is asked for. Every family but those of\n\
         the daemon has the label `pipeline`. A value that is not known has no sample: it is never 0 instead, and `absent()`\n\
         finds it. Of a pipeline's tables the first {TABLES_MAX} by name have samples of their own; the rest is summed under\n\
         `table=\"other\"`. Where several daemons look after the same pipelines, each exports what it knows: aggregate with\n\
         `max by (pipeline)`. [Watching with Prometheus](operating.md#watching-with-prometheus) has the alert rules and the\n\
         dashboard.\n"
    );
    for Section { title, families } in sections() {
        let _ = write!(text, "\n## {title}\n\n| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n");
        for family in *families {
            let kind = match family.kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
                Kind::Info => "info",
            };
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
            let _ = writeln!(text, "| `{}` | {kind} | {labels} | {} |", family.name, family.help);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::markdown;
    use crate::config::reference::tests::golden;

    #[test]
    fn the_reference_of_metrics_is_fresh() {
        golden("metrics.md", &markdown());
    }
}
