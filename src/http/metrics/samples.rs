//! Families and samples as lines of text: names, labels and values as both formats want them.

use std::fmt::Write;

use super::{Family, Format, Kind};

/// A number, if it is known.
pub(super) enum Value {
    Whole(i128),
    Number(f64),
    Unknown,
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Whole(number.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Whole(number.into())
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Value {
        Value::Whole(is.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        if number.is_finite() { Value::Number(number) } else { Value::Unknown }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Unknown, Into::into)
    }
}

/// Where a reader of one family puts what it finds.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    name: &'a str,
    /// Of the pipeline, escaped.
    label: Option<&'a str>,
}

impl<'a> Samples<'a> {
    pub(super) fn new(text: &'a mut String, name: &'a str, label: Option<&'a str>) -> Samples<'a> {
        Samples { text, name, label }
    }

    pub(super) fn value(&mut self, value: impl Into<Value>) {
        self.labelled(&[], value);
    }

    pub(super) fn labelled(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let value = value.into();
        if matches!(value, Value::Unknown) {
            return;
        }
        self.text.push_str(self.name);
        let mut separator = '{';
        if let Some(pipeline) = self.label {
            let _ = write!(self.text, "{separator}pipeline=\"{pipeline}\"");
            separator = ',';
        }
        for (name, value) in labels {
            let _ = write!(self.text, "{separator}{name}=\"");
            escape(self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Whole(number) => writeln!(self.text, " {number}"),
            Value::Number(number) => writeln!(self.text, " {number}"),
            Value::Unknown => Ok(()),
        };
    }

    /// A sample for each of the states, 1 for the one that it is.
    pub(super) fn states<'word, T: Copy + PartialEq>(
        &mut self,
        label: &str,
        all: &[T],
        word: impl Fn(T) -> &'word str,
        is: T,
    ) {
        for state in all {
            self.labelled(&[(label, word(*state))], *state == is);
        }
    }
}

/// A value of a label, between its quotes.
pub(super) fn escape(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
}

/// What precedes a family's samples. A family of `OpenMetrics` lacks the suffix that says of which kind it is.
pub(super) fn heading(text: &mut String, family: &Family, format: Format) {
    let Family { name, kind, unit, help, .. } = family;
    let (name, kind) = match (format, kind) {
        (_, Kind::Gauge) | (Format::Prometheus, Kind::Info) => (*name, "gauge"),
        (Format::Prometheus, Kind::Counter) => (*name, "counter"),
        (Format::OpenMetrics, Kind::Counter) => (name.trim_end_matches("_total"), "counter"),
        (Format::OpenMetrics, Kind::Info) => (name.trim_end_matches("_info"), "info"),
    };
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    if format == Format::OpenMetrics && !unit.is_empty() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Samples<'_>)) -> String {
        let mut text = String::new();
        write(&mut Samples::new(&mut text, "name", None));
        text
    }

    #[test]
    fn labels_may_hold_anything() {
        let line = written(|samples| samples.labelled(&[("table", "a\"b\\c\nd{}é")], 1_u64));
        assert_eq!(line, "name{table=\"a\\\"b\\\\c\\nd{}é\"} 1\n");
    }

    #[test]
    fn what_is_unknown_is_not_there() {
        assert_eq!(written(|samples| samples.value(None::<u64>)), "");
        assert_eq!(written(|samples| samples.value(f64::NAN)), "");
        assert_eq!(written(|samples| samples.value(f64::INFINITY)), "");
        assert_eq!(written(|samples| samples.value(0_u64)), "name 0\n");
    }

    #[test]
    fn numbers_are_exact() {
        assert_eq!(written(|samples| samples.value(u64::MAX)), "name 18446744073709551615\n");
        assert_eq!(written(|samples| samples.value(-1_i64)), "name -1\n");
        assert_eq!(written(|samples| samples.value(0.25)), "name 0.25\n");
        assert_eq!(written(|samples| samples.value(true)), "name 1\n");
    }
}
