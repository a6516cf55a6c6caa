//! Commit times: microseconds since 2000-01-01 UTC on the wire, RFC 3339 in a file.

use jiff::Timestamp;

/// 2000-01-01 in microseconds since 1970-01-01.
const EPOCH_US: i64 = 946_684_800_000_000;

/// `2026-02-05T10:30:00.123456Z`; as many decimals as there are.
pub fn text(us: i64) -> String {
    let time = us.checked_add(EPOCH_US).and_then(|us| Timestamp::from_microsecond(us).ok());
    time.unwrap_or(if us < 0 { Timestamp::MIN } else { Timestamp::MAX }).to_string()
}

/// `None` for what is no time. Any zone will do, as will a space for the `T`, which is how PostgreSQL prints times.
pub fn parse(text: &str) -> Option<i64> {
    let time: Timestamp = text.parse().ok()?;
    time.as_microsecond().checked_sub(EPOCH_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        assert_eq!(text(0), "2000-01-01T00:00:00Z");
        for us in [0, 1, -1, 823_602_600_123_456] {
            assert_eq!(parse(&text(us)), Some(us), "{}", text(us));
        }
        assert_eq!(parse("2026-02-05T10:30:00Z"), Some(823_602_600_000_000));
        assert_eq!(parse("2026-02-05 11:30:00+01"), Some(823_602_600_000_000));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(text(i64::MAX), text(i64::MAX - 1), "what no calendar has is cut to its end");
    }
}
