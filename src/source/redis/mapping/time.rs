//! Times as applications write them, into what PostgreSQL reads as `timestamptz`.

use std::io::Write;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::written::Conversion;

/// A number above this is milliseconds: as seconds it would be the year 5138, as milliseconds 1973.
const SECONDS_MAX: i64 = 100_000_000_000;

/// Appends the time; `None` where `text` is none.
pub(super) fn put(text: &str, conversion: Conversion, out: &mut Vec<u8>) -> Option<()> {
    let text = text.trim();
    let time = match (conversion, decimal(text)) {
        (Conversion::EpochMilliseconds, Some((whole, nanoseconds))) => milliseconds(whole, nanoseconds)?,
        (Conversion::Timestamp, Some((whole, nanoseconds))) if whole.abs() >= SECONDS_MAX => {
            milliseconds(whole, nanoseconds)?
        }
        (Conversion::EpochSeconds | Conversion::Timestamp, Some((whole, nanoseconds))) => {
            Timestamp::new(whole, nanoseconds).ok()?
        }
        (Conversion::Timestamp, None) => calendar(text)?,
        _ => return None,
    };
    put_time(time, out)
}

/// Appends a time of milliseconds since 1970.
pub(super) fn put_milliseconds(milliseconds: i64, out: &mut Vec<u8>) -> Option<()> {
    put_time(Timestamp::from_millisecond(milliseconds).ok()?, out)
}

fn put_time(time: Timestamp, out: &mut Vec<u8>) -> Option<()> {
    // PostgreSQL has another way to write years before our era. It rounds to microseconds.
    let is_common_era = time >= Timestamp::new(-62_135_596_800, 0).ok()?;
    if is_common_era { write!(out, "{time}").ok() } else { None }
}

fn milliseconds(whole: i64, nanoseconds: i32) -> Option<Timestamp> {
    let below = i32::try_from(whole % 1000).ok()? * 1_000_000 + nanoseconds / 1000;
    Timestamp::new(whole / 1000, below).ok()
}

/// A decimal number's whole part and billionths, both with its sign; further digits are cut off.
fn decimal(text: &str) -> Option<(i64, i32)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let sign = if digits.len() < text.len() { -1 } else { 1 };
    let billionths = format!("{fraction:0<9.9}").parse::<i32>().ok()?;
    Some((i64::from(sign) * whole.parse::<i64>().ok()?, sign * billionths))
}

fn calendar(text: &str) -> Option<Timestamp> {
    let zoned: Result<Timestamp, _> = text.parse();
    zoned.ok().or_else(|| {
        let time: DateTime = text.parse().ok()?;
        TimeZone::UTC.to_timestamp(time).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str, conversion: Conversion) -> Option<String> {
        let mut out = Vec::new();
        put(text, conversion, &mut out)?;
        String::from_utf8(out).ok()
    }

    #[test]
    fn times_are_read_as_applications_write_them() {
        for (text, conversion, expected) in [
            ("1763775068", Conversion::EpochSeconds, Some("2025-11-22T01:31:08Z")),
            ("1763775068.25", Conversion::EpochSeconds, Some("2025-11-22T01:31:08.25Z")),
            ("-1.5", Conversion::EpochSeconds, Some("1969-12-31T23:59:58.5Z")),
            ("1763775068123", Conversion::EpochMilliseconds, Some("2025-11-22T01:31:08.123Z")),
            ("-1", Conversion::EpochMilliseconds, Some("1969-12-31T23:59:59.999Z")),
            ("1763775068123", Conversion::Timestamp, Some("2025-11-22T01:31:08.123Z")),
            ("1763775068", Conversion::Timestamp, Some("2025-11-22T01:31:08Z")),
            ("2025-11-22T01:31:08.123456", Conversion::Timestamp, Some("2025-11-22T01:31:08.123456Z")),
            ("2025-11-22 02:31:08+01:00", Conversion::Timestamp, Some("2025-11-22T01:31:08Z")),
            ("2025-11-22", Conversion::Timestamp, Some("2025-11-22T00:00:00Z")),
            ("2025-11-22", Conversion::EpochSeconds, None),
            ("yesterday", Conversion::Timestamp, None),
            ("", Conversion::Timestamp, None),
            ("1e9", Conversion::EpochSeconds, None),
            ("99999999999999999999", Conversion::EpochSeconds, None),
            ("-99999999999", Conversion::EpochSeconds, None),
        ] {
            assert_eq!(time(text, conversion).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_deadline_is_milliseconds() {
        let mut out = Vec::new();
        put_milliseconds(1_763_775_068_001, &mut out).unwrap();
        assert_eq!(out, b"2025-11-22T01:31:08.001Z");
        assert_eq!(put_milliseconds(i64::MAX, &mut out), None);
    }
}
