//! As much reading of `PromQL` as is needed to know which metrics an expression names, with which labels, and what is done
//! with each. That the expression is valid, promtool says.

use std::iter::Peekable;
use std::str::CharIndices;

use pgdiode::http::metrics::{Family, Kind, families};

/// A metric in an expression.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    pub name: String,
    /// Of its matchers.
    pub labels: Vec<String>,
    /// What is called with it, such as `rate`; empty for none.
    pub function: String,
}

/// These precede a list of labels in parentheses, or are words between expressions.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 8] = ["and", "or", "unless", "offset", "bool", "atan2", "inf", "nan"];
/// Prometheus' own.
const FOREIGN: [&str; 1] = ["up"];
/// A target's labels, which Prometheus adds.
const ADDED_LABELS: [&str; 2] = ["job", "instance"];

const FOR_COUNTERS: [&str; 4] = ["rate", "irate", "increase", "resets"];
const FOR_GAUGES: [&str; 6] =
    ["deriv", "delta", "idelta", "predict_linear", "avg_over_time", "max_over_time"];

/// The metrics of an expression.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut found: Vec<Selector> = Vec::new();
    let mut letters = expression.char_indices().peekable();
    // The function of each parenthesis that is open.
    let mut open: Vec<String> = Vec::new();
    let mut last_word = String::new();
    // Where its labels come first, an aggregation stands apart from its parenthesis.
    let mut aggregation = None;
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' | '\'' | '`' => skip_text(&mut letters, letter),
            '#' => while letters.next_if(|(_, letter)| *letter != '\n').is_some() {},
            '[' => while letters.next().is_some_and(|(_, letter)| letter != ']') {},
            '{' => {
                let labels = matchers(&mut letters);
                if let Some(selector) = found.last_mut() {
                    selector.labels = labels;
                }
            }
            '(' if BEFORE_LABELS.contains(&last_word.as_str()) => {
                while letters.next().is_some_and(|(_, letter)| letter != ')') {}
            }
            '(' => open.push(aggregation.take().unwrap_or_else(|| last_word.clone())),
            ')' => drop(open.pop()),
            _ if letter.is_ascii_digit() => drop(word(expression, at, &mut letters)),
            _ if letter.is_ascii_alphabetic() || letter == '_' => {
                last_word = word(expression, at, &mut letters);
                while letters.next_if(|(_, letter)| letter.is_whitespace()).is_some() {}
                let is_called = letters.peek().is_some_and(|(_, letter)| *letter == '(');
                let is_word = |words: &[&str]| words.contains(&last_word.to_lowercase().as_str());
                let rest = expression[at + last_word.len()..].trim_start();
                let is_aggregated = rest.starts_with("by (") || rest.starts_with("without (");
                if is_aggregated {
                    aggregation = Some(last_word.clone());
                }
                if is_word(&WORDS) {
                    last_word.clear();
                } else if !is_called && !is_aggregated && !is_word(&BEFORE_LABELS) {
                    let function = open.last().cloned().unwrap_or_default();
                    found.push(Selector { name: last_word.clone(), labels: Vec::new(), function });
                }
                continue;
            }
            _ => {}
        }
        if !letter.is_whitespace() {
            last_word.clear();
        }
    }
    found
}

type Letters<'a> = Peekable<CharIndices<'a>>;

fn word(text: &str, at: usize, letters: &mut Letters<'_>) -> String {
    let mut end = at + 1;
    while let Some((at, letter)) =
        letters.next_if(|(_, letter)| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':' | '.'))
    {
        end = at + letter.len_utf8();
    }
    text[at..end].to_owned()
}

fn skip_text(letters: &mut Letters<'_>, quote: char) {
    while let Some((_, letter)) = letters.next() {
        match letter {
            '\\' if quote != '`' => drop(letters.next()),
            letter if letter == quote => return,
            _ => {}
        }
    }
}

/// The labels between braces.
fn matchers(letters: &mut Letters<'_>) -> Vec<String> {
    let (mut labels, mut label) = (Vec::new(), String::new());
    while let Some((_, letter)) = letters.next() {
        match letter {
            '}' => break,
            '"' | '\'' | '`' => skip_text(letters, letter),
            '=' | '!' if !label.is_empty() => labels.push(std::mem::take(&mut label)),
            letter if letter.is_ascii_alphanumeric() || letter == '_' => label.push(letter),
            _ => {}
        }
    }
    labels
}

/// What is wrong with an expression: a metric or a label that is not exported, or one that is taken for what it is not.
pub fn complaints(expression: &str) -> Vec<String> {
    let found = selectors(expression);
    if found.is_empty() {
        return vec![format!("no metric is in {expression}")];
    }
    found.iter().flat_map(complaints_about).collect()
}

fn complaints_about(selector: &Selector) -> Vec<String> {
    let Selector { name, labels, function } = selector;
    if FOREIGN.contains(&name.as_str()) {
        return Vec::new();
    }
    let Some(Family { kind, labels: exported, .. }) = families().find(|family| family.name == name) else {
        return vec![format!("{name} is not exported")];
    };
    let mut complaints: Vec<String> = labels
        .iter()
        .filter(|label| *label != "pipeline" && !ADDED_LABELS.contains(&label.as_str()))
        .filter(|label| !exported.contains(&label.as_str()))
        .map(|label| format!("{name} has no label {label}"))
        .collect();
    let is_counter = *kind == Kind::Counter;
    if FOR_COUNTERS.contains(&function.as_str()) && !is_counter {
        complaints.push(format!("{function}() takes {name}, which is no counter, for one"));
    }
    if FOR_GAUGES.contains(&function.as_str()) && is_counter {
        complaints.push(format!("{function}() takes {name}, which is a counter, for none"));
    }
    complaints
}

#[test]
fn metrics_are_found_in_expressions() {
    let names = |expression: &str| {
        let found = selectors(expression);
        found.into_iter().map(|one| (one.name, one.labels.join(" "), one.function)).collect::<Vec<_>>()
    };
    let one =
        |name: &str, labels: &str, function: &str| (name.to_owned(), labels.to_owned(), function.to_owned());
    for (expression, expected) in [
        ("a", vec![one("a", "", "")]),
        ("up{job=~\"pgdiode.*\"} == 0", vec![one("up", "job", "")]),
        ("max by (job, pipeline) (a{x=\"b{c}\", y!~'d\\'e'}) / 2", vec![one("a", "x y", "max")]),
        ("sum(rate(a_total[5m:1m] offset 1h)) by (kind)", vec![one("a_total", "", "rate")]),
        ("time() - max by (p) (a) > 1e3 and on (p) b or (c unless ignoring (d) e)", {
            vec![one("a", "", "max"), one("b", "", ""), one("c", "", ""), one("e", "", "")]
        }),
        ("0.5 * a # b\n+ c", vec![one("a", "", ""), one("c", "", "")]),
        ("a * on (x) group_left (y) b", vec![one("a", "", ""), one("b", "", "")]),
        ("topk(10, sum by (t) (max without (i) (rate(a{b=\"$c\"}[$__rate_interval]))))", {
            vec![one("a", "b", "rate")]
        }),
        ("a == bool 1 unless NaN", vec![one("a", "", "")]),
    ] {
        assert_eq!(names(expression), expected, "{expression}");
    }
}

/// What would not fail proves nothing.
#[test]
fn what_is_not_exported_is_complained_about() {
    for (expression, expected) in [
        ("max(pgdiode_lag) > 1", "pgdiode_lag is not exported"),
        ("pgdiode_retries{table=\"a\"} > 1", "pgdiode_retries has no label table"),
        ("rate(pgdiode_database_bytes[1d]) > 1", "is no counter, for one"),
        ("sum by (pipeline) (deriv(pgdiode_changes_total[1d]))", "is a counter, for none"),
        ("vector(1)", "no metric is in vector(1)"),
    ] {
        let complaints = complaints(expression);
        assert!(complaints.len() == 1 && complaints[0].contains(expected), "{expression}: {complaints:?}");
    }
    assert_eq!(complaints("sum(rate(pgdiode_rows_total{job=\"a\",kind=\"insert\"}[5m]))"), [""; 0]);
}
