//! The periods that metrics are summed up by: the multiples of the sync frequency since the epoch, ISO weeks, and months.
//! Weeks and months begin at the first moment of their first day in a time zone, so that some have an hour more or less.
//!
//! Nothing here reads a clock.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::error::{Error, Result};

/// From its start up to its end, which belongs to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// As `data_sync_metrics.period_type` has it.
    pub kind: &'static str,
    pub start: Timestamp,
    pub end: Timestamp,
}

/// The three periods that `at` is in.
pub fn of(at: Timestamp, frequency_seconds: u64, zone: &TimeZone) -> Result<[Period; 3]> {
    periods(at, frequency_seconds, zone)
        .map_err(|error| Error::unexpected(format!("{at} is in no period")).because(error))
}

fn periods(at: Timestamp, frequency_seconds: u64, zone: &TimeZone) -> Result<[Period; 3], jiff::Error> {
    let frequency = i64::try_from(frequency_seconds).unwrap_or(i64::MAX).max(1);
    // A moment before the epoch has a part of a second more than its whole ones.
    let seconds = i64::try_from(at.as_nanosecond().div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
    let start = seconds - seconds.rem_euclid(frequency);
    let window = Period {
        kind: "FREQ",
        start: Timestamp::from_second(start)?,
        end: Timestamp::from_second(start.saturating_add(frequency))?,
    };
    let today = at.to_zoned(zone.clone()).date();
    let monday = today.checked_sub(i64::from(today.weekday().to_monday_zero_offset()).days())?;
    let first = today.first_of_month();
    let begins = |day: Date| -> Result<Timestamp, jiff::Error> {
        Ok(day.to_zoned(zone.clone())?.start_of_day()?.timestamp())
    };
    let between = |kind, from: Date, to: Date| -> Result<Period, jiff::Error> {
        Ok(Period { kind, start: begins(from)?, end: begins(to)? })
    };
    Ok([
        window,
        between("WEEK", monday, monday.checked_add(7.days())?)?,
        between("MONTH", first, first.checked_add(1.month())?)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Week and month, as local times.
    fn local(text: &str, zone: &str) -> [String; 4] {
        let zone = crate::schedule::find_zone(zone).unwrap();
        let [_, week, month] = of(at(text), 600, &zone).unwrap();
        [week.start, week.end, month.start, month.end]
            .map(|moment| moment.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M%:z").to_string())
    }

    fn hours(text: &str, zone: &str) -> [i64; 2] {
        let zone = crate::schedule::find_zone(zone).unwrap();
        let [_, week, month] = of(at(text), 600, &zone).unwrap();
        [week, month].map(|period| (period.end.as_second() - period.start.as_second()) / 3600)
    }

    #[test]
    fn windows_are_multiples_of_the_frequency() {
        for (moment, frequency, start, end) in [
            ("2026-02-05T10:30:00Z", 600, "2026-02-05T10:30:00Z", "2026-02-05T10:40:00Z"),
            ("2026-02-05T10:39:59.999999999Z", 600, "2026-02-05T10:30:00Z", "2026-02-05T10:40:00Z"),
            ("2026-02-05T10:40:00Z", 600, "2026-02-05T10:40:00Z", "2026-02-05T10:50:00Z"),
            ("1970-01-01T00:00:00Z", 420, "1970-01-01T00:00:00Z", "1970-01-01T00:07:00Z"),
            ("1969-12-31T23:59:59.5Z", 60, "1969-12-31T23:59:00Z", "1970-01-01T00:00:00Z"),
            ("2026-12-31T23:59:59Z", 86_400, "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let [window, ..] = of(at(moment), frequency, &TimeZone::UTC).unwrap();
            assert_eq!((window.kind, window.start, window.end), ("FREQ", at(start), at(end)), "{moment}");
        }
    }

    #[test]
    fn years_end_within_weeks() {
        for (moment, week, month) in [
            ("2026-12-31T23:59:59Z", ["2026-12-28", "2027-01-04"], ["2026-12-01", "2027-01-01"]),
            ("2027-01-01T00:00:00Z", ["2026-12-28", "2027-01-04"], ["2027-01-01", "2027-02-01"]),
            ("2027-01-03T23:59:59Z", ["2026-12-28", "2027-01-04"], ["2027-01-01", "2027-02-01"]),
            ("2027-01-04T00:00:00Z", ["2027-01-04", "2027-01-11"], ["2027-01-01", "2027-02-01"]),
            ("2028-02-29T12:00:00Z", ["2028-02-28", "2028-03-06"], ["2028-02-01", "2028-03-01"]),
        ] {
            let expected = [week[0], week[1], month[0], month[1]].map(|day| format!("{day}T00:00+00:00"));
            assert_eq!(local(moment, "UTC"), expected, "{moment}");
        }
    }

    #[test]
    fn a_change_of_the_clocks_makes_a_week_longer_or_shorter() {
        // 31 days of 24 hours are 744 hours.
        assert_eq!(hours("2026-03-25T12:00:00Z", "Europe/Berlin"), [167, 743]);
        assert_eq!(hours("2026-10-21T12:00:00Z", "Europe/Berlin"), [169, 745]);
        assert_eq!(hours("2026-06-10T12:00:00Z", "Europe/Berlin"), [168, 720]);
        let spring = local("2026-03-29T21:59:59Z", "Europe/Berlin");
        let expected = [
            "2026-03-23T00:00+01:00",
            "2026-03-30T00:00+02:00",
            "2026-03-01T00:00+01:00",
            "2026-04-01T00:00+02:00",
        ];
        assert_eq!(spring, expected);
        // A second later it is Monday there, and in UTC still Sunday.
        assert_eq!(local("2026-03-29T22:00:00Z", "Europe/Berlin")[0], "2026-03-30T00:00+02:00");
        assert_eq!(local("2026-03-29T22:00:00Z", "UTC")[0], "2026-03-23T00:00+00:00");
    }

    /// In Beirut the clocks went from 0:00 to 1:00 on Sunday, 31 March 2024.
    #[test]
    fn a_day_without_a_midnight_begins_later() {
        let [_, _, month_start, _] = local("2024-03-31T12:00:00Z", "Asia/Beirut");
        assert_eq!(month_start, "2024-03-01T00:00+02:00");
        // In Asunción that was the first of October 2017.
        assert_eq!(local("2017-10-01T12:00:00Z", "America/Asuncion")[2], "2017-10-01T01:00-03:00");
        assert_eq!(local("2017-10-01T03:59:59Z", "America/Asuncion")[3], "2017-10-01T01:00-03:00");
    }

    /// Every moment is in exactly one period of each kind, and the next begins where it ends.
    #[test]
    fn periods_leave_no_gap() {
        for zone in ["UTC", "Europe/Berlin", "America/Asuncion", "Australia/Lord_Howe", "Pacific/Apia"] {
            let zone = crate::schedule::find_zone(zone).unwrap();
            let mut moment = at("2009-12-25T00:00:00Z");
            while moment < at("2012-02-01T00:00:00Z") {
                for (index, period) in of(moment, 25_200, &zone).unwrap().into_iter().enumerate() {
                    assert!(period.start <= moment && moment < period.end, "{moment} {period:?}");
                    assert_eq!(of(period.start, 25_200, &zone).unwrap()[index], period);
                    let next = of(period.end, 25_200, &zone).unwrap()[index];
                    assert_eq!(next.start, period.end, "{moment}");
                }
                moment += jiff::SignedDuration::from_mins(331);
            }
        }
    }
}
