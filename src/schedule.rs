//! When something is due: a cron expression read in a time zone, and what has come due since somebody last looked.
//!
//! Nothing here reads a clock: every moment is a parameter. [`Schedule`] is arithmetic, [`Timetable`] remembers what it
//! has handed out, and [`keeping`] turns both into work.
//!
//! A time that a change of the clocks leaves out comes at the first moment after the gap, one that comes twice counts
//! once; expressions that repeat within the hour or by the hour (`*`, `*/2`) go by elapsed time there, as cron has it.

pub mod keeping;

use std::collections::VecDeque;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::nearest::nearest;

/// Due times that are remembered, so that a clock which is set back does not bring them again: a day of minutes.
const REMEMBERED_MAX: usize = 1440;

/// Due times that are counted one by one.
const COUNTED_MAX: usize = 1000;

/// Times to come that are looked at for the longest between two: a week of workdays, and its end.
const INTERVALS_LOOKED_AT: usize = 8;

/// A cron expression of five fields, in a time zone; a due time may be put off by a jitter.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    jitter: Option<Jitter>,
}

/// How long each due time is put off: by whose it is and the time alone, so that every process says the same.
#[derive(Debug, Clone)]
struct Jitter {
    whose: String,
    seconds_max: i64,
}

impl Jitter {
    fn put_off(&self, at: Timestamp) -> SignedDuration {
        let hash = sha256(format!("{} {}", self.whose, at.as_second()).as_bytes());
        let number = u64::from_str_radix(&hash[..15], 16).unwrap_or_default();
        let span = self.seconds_max.unsigned_abs() + 1;
        SignedDuration::from_secs(i64::try_from(number % span).unwrap_or_default())
    }
}

impl Schedule {
    /// `zone` is an IANA name. Where the machine has no such zone in its database, the one that is built in answers.
    pub fn parse(expression: &str, zone: &str) -> Result<Schedule> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| {
            Error::config(format!("\"{expression}\" is not a cron expression"))
                .hint("five fields: minute hour day-of-month month day-of-week, such as \"0 */6 * * *\"")
                .because(error)
        })?;
        let schedule = Schedule { cron, zone: find_zone(zone)?, jitter: None };
        // A leap year begins here, so that every day there is comes within the search.
        let start = Timestamp::constant(1_704_067_200, 0);
        if schedule.next_after(start).is_none() {
            return Err(Error::config(format!("\"{expression}\" never comes"))
                .hint("no month has such a day: fields are minute hour day-of-month month day-of-week"));
        }
        Ok(schedule)
    }

    /// Puts each due time off by up to so much, though never to the next one: so that what is due at one moment does not
    /// all begin at it. `whose` tells those apart.
    #[must_use]
    pub fn put_off(self, whose: &str, minutes_max: u64) -> Schedule {
        let seconds_max = i64::try_from(minutes_max * 60).unwrap_or(i64::MAX);
        let jitter = (minutes_max > 0).then(|| Jitter { whose: whose.to_owned(), seconds_max });
        Schedule { jitter, ..self }
    }

    /// The first due time after this moment.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let at = whole_second(at);
        // One that has come by the expression may have been put off until later.
        let pending = self.jitter.as_ref().and_then(|_| self.before(at, true));
        let pending = pending.map(|time| self.due(time)).filter(|due| *due > at);
        pending.or_else(|| self.after(at).map(|time| self.due(time)))
    }

    /// The last due time up to this moment.
    pub fn last_until(&self, at: Timestamp) -> Option<Timestamp> {
        let at = whole_second(at);
        let time = self.before(at, true)?;
        let due = Some(self.due(time)).filter(|due| *due <= at);
        due.or_else(|| self.before(time, false).map(|time| self.due(time)))
    }

    /// The longest time between two of those that are next, in seconds.
    pub fn longest_interval(&self, from: Timestamp) -> Option<i64> {
        let following = std::iter::successors(self.next_after(from), |due| self.next_after(*due));
        let dues: Vec<Timestamp> = following.take(INTERVALS_LOOKED_AT).collect();
        dues.windows(2).map(|pair| pair[1].as_second() - pair[0].as_second()).max()
    }

    /// When what is due at a time of the expression really is.
    fn due(&self, time: Timestamp) -> Timestamp {
        let Some(jitter) = &self.jitter else { return time };
        let put_off = time.checked_add(jitter.put_off(time)).unwrap_or(time);
        let next = self.after(time).and_then(|next| next.checked_sub(SignedDuration::from_secs(1)).ok());
        next.map_or(put_off, |latest| put_off.min(latest))
    }

    fn after(&self, at: Timestamp) -> Option<Timestamp> {
        let at = at.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&at, false).ok().map(|time| time.timestamp())
    }

    fn before(&self, at: Timestamp, is_inclusive: bool) -> Option<Timestamp> {
        let at = at.to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&at, is_inclusive).ok().map(|time| time.timestamp())
    }

    /// RFC 3339 in the schedule's zone, with its offset.
    pub fn local(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }
}

/// RFC 3339 in UTC.
pub fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// By its IANA name.
pub fn find_zone(name: &str) -> Result<TimeZone> {
    let bundled = TimeZoneDatabase::bundled();
    let found = TimeZone::get(name).or_else(|_| bundled.get(name));
    found.map_err(|error| {
        let known: Vec<String> = bundled.available().map(|zone| zone.as_str().to_owned()).collect();
        Error::config(format!("there is no time zone \"{name}\""))
            .hint(match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "an IANA name is meant, such as \"Europe/Berlin\" or \"UTC\"".into(),
            })
            .because(error)
    })
}

/// Due times are whole seconds, and so is all that they are compared with.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_nanosecond().div_euclid(1_000_000_000).try_into().unwrap_or(at.as_second()))
        .unwrap_or(at)
}

/// What of a schedule has come and gone, by whatever the wall clock says.
#[derive(Debug)]
pub struct Timetable {
    schedule: Schedule,
    /// Up to here all was looked at. Goes back with the clock.
    seen: Timestamp,
    /// The due times that were handed out last.
    handed_out: VecDeque<Timestamp>,
}

impl Timetable {
    /// Begins now; what comes later is due.
    pub fn from(schedule: Schedule, now: Timestamp) -> Timetable {
        Timetable { schedule, seen: whole_second(now), handed_out: VecDeque::new() }
    }

    /// Begins just before the last due time, which is due at once.
    pub fn from_the_last(schedule: Schedule, now: Timestamp) -> Timetable {
        let last = schedule.last_until(now);
        let seen = last.and_then(|last| last.checked_sub(SignedDuration::from_secs(1)).ok()).unwrap_or(now);
        Timetable::from(schedule, seen)
    }

    /// The latest time that has come due since the last look. Where several have, as after a sleep of the machine, it
    /// stands for all of them; one that was handed out never is again.
    pub fn due(&mut self, now: Timestamp) -> Option<Timestamp> {
        let now = whole_second(now);
        let since = std::mem::replace(&mut self.seen, now);
        let due =
            self.schedule.last_until(now).filter(|due| *due > since && !self.handed_out.contains(due))?;
        if self.handed_out.len() == REMEMBERED_MAX {
            self.handed_out.pop_front();
        }
        self.handed_out.push_back(due);
        Some(due)
    }

    /// Lets pass what has come due since the last look; how many times that were.
    pub fn skip(&mut self, now: Timestamp) -> usize {
        let now = whole_second(now);
        let since = std::mem::replace(&mut self.seen, now);
        let following =
            std::iter::successors(self.schedule.next_after(since), |due| self.schedule.next_after(*due));
        following
            .take_while(|due| *due <= now)
            .filter(|due| !self.handed_out.contains(due))
            .take(COUNTED_MAX)
            .count()
    }

    /// The first time after this moment that is yet to be handed out.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let mut next = self.schedule.next_after(now);
        while let Some(due) = next.filter(|due| self.handed_out.contains(due)) {
            next = self.schedule.next_after(due);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(expression: &str, zone: &str) -> Schedule {
        Schedule::parse(expression, zone).unwrap()
    }

    /// The due times of a span, in UTC.
    fn between(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
        let following = std::iter::successors(schedule.next_after(at(from)), |due| schedule.next_after(*due));
        following.take_while(|due| *due <= at(to)).map(utc).collect()
    }

    #[test]
    fn a_schedule_counts_in_its_zone() {
        let six = schedule("0 */6 * * *", "Europe/Berlin");
        assert_eq!(
            between(&six, "2026-11-21T00:00:00Z", "2026-11-21T23:59:59Z"),
            ["2026-11-21T05:00:00Z", "2026-11-21T11:00:00Z", "2026-11-21T17:00:00Z", "2026-11-21T23:00:00Z"]
        );
        assert_eq!(six.local(at("2026-11-21T05:00:00Z")), "2026-11-21T06:00:00+01:00");
        let workdays = schedule("30 7 * * mon-fri", "UTC");
        assert_eq!(
            between(&workdays, "2026-11-20T00:00:00Z", "2026-11-24T00:00:00Z"),
            ["2026-11-20T07:30:00Z", "2026-11-23T07:30:00Z"]
        );
        assert_eq!(
            utc(schedule("@daily", "UTC").next_after(at("2026-11-21T00:00:00Z")).unwrap()),
            "2026-11-22T00:00:00Z"
        );
    }

    /// In Berlin 02:00 to 03:00 is left out on 2026-03-29 and comes twice on 2026-10-25.
    #[test]
    fn a_daily_time_is_neither_lost_nor_doubled_when_the_clocks_change() {
        let nightly = schedule("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            between(&nightly, "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z"),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            between(&nightly, "2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z"),
            ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        let hourly = schedule("0 * * * *", "Europe/Berlin");
        for day in ["2026-03-29", "2026-10-25"] {
            let (from, to) = (format!("{day}T00:00:00Z"), format!("{day}T04:00:00Z"));
            assert_eq!(between(&hourly, &from, &to).len(), 4, "each hour that passes: {day}");
        }
    }

    /// What looking back finds is what looking ahead had found: around each change of the clocks, minute by minute.
    #[test]
    fn looking_back_agrees_with_looking_ahead() {
        let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "UTC"];
        for zone in zones {
            for expression in ["30 2 * * *", "0 0 * * *", "0 */6 * * *", "15 1,2,3 * * *", "*/20 * * * *"] {
                let schedule = schedule(expression, zone);
                for (from, to) in [
                    ("2026-03-07T20:00:00Z", "2026-03-09T00:00:00Z"),
                    ("2026-03-28T20:00:00Z", "2026-03-30T00:00:00Z"),
                    ("2026-04-04T10:00:00Z", "2026-04-06T00:00:00Z"),
                    ("2026-09-05T20:00:00Z", "2026-09-07T00:00:00Z"),
                    ("2026-10-03T10:00:00Z", "2026-10-05T00:00:00Z"),
                    ("2026-10-24T20:00:00Z", "2026-10-26T00:00:00Z"),
                    ("2026-10-31T20:00:00Z", "2026-11-02T00:00:00Z"),
                ] {
                    let ahead: Vec<Timestamp> =
                        between(&schedule, from, to).iter().map(|due| at(due)).collect();
                    let mut now = at(from);
                    while now < at(to) {
                        let expected = ahead.iter().rfind(|due| **due <= now);
                        let found = schedule.last_until(now).filter(|due| *due > at(from));
                        assert_eq!(found, expected.copied(), "{expression} {zone} at {now}");
                        now += SignedDuration::from_mins(10);
                    }
                }
            }
        }
    }

    /// Spread over the minutes, the same for whoever asks, in order, and never beyond the next time.
    #[test]
    fn a_due_time_is_put_off_by_whose_it_is_and_when() {
        let (from, to) = ("2026-01-01T00:00:00Z", "2026-01-11T00:00:00Z");
        let put_off = |whose: &str, minutes| schedule("0 */6 * * *", "UTC").put_off(whose, minutes);
        let plain = between(&put_off("main", 0), from, to);
        assert_eq!(plain, between(&schedule("0 */6 * * *", "UTC"), from, to));
        let mut all = Vec::new();
        for whose in ["main", "orders"] {
            let dues = between(&put_off(whose, 30), from, to);
            assert_eq!(dues, between(&put_off(whose, 30), from, to));
            assert_eq!(dues.len(), 40, "one for each time, the last of which is put off beyond the end");
            let times = std::iter::once(utc(at(from))).chain(plain.clone());
            for (due, time) in dues.iter().zip(times) {
                let by = at(due).as_second() - at(&time).as_second();
                assert!((0..=30 * 60).contains(&by), "{due} for {time}");
                all.push(by);
            }
        }
        let distinct: std::collections::BTreeSet<i64> = all.iter().copied().collect();
        assert!(distinct.len() > 60, "they are spread: {distinct:?}");
        assert!(all[..40] != all[40..], "two pipelines do not begin together");

        // A minute is too short for ten of jitter: each time still comes once, before the next.
        let minutely = schedule("* * * * *", "UTC").put_off("main", 10);
        let dues = between(&minutely, "2026-01-01T00:00:30Z", "2026-01-01T01:00:00Z");
        let minutes: std::collections::BTreeSet<&str> = dues.iter().map(|due| &due[..16]).collect();
        assert_eq!((dues.len(), minutes.len()), (60, 60), "{dues:?}");
    }

    #[test]
    fn looking_back_agrees_with_looking_ahead_by_jitter_too() {
        let schedule = schedule("*/20 * * * *", "Europe/Berlin").put_off("main", 15);
        let (from, to) = ("2026-03-28T23:00:00Z", "2026-03-29T03:00:00Z");
        let ahead: Vec<Timestamp> = between(&schedule, from, to).iter().map(|due| at(due)).collect();
        let mut now = at(from);
        while now < at(to) {
            let expected = ahead.iter().rfind(|due| **due <= now);
            assert_eq!(schedule.last_until(now).filter(|due| *due > at(from)), expected.copied(), "at {now}");
            assert_eq!(
                schedule.next_after(now),
                ahead.iter().find(|due| **due > now).copied().or_else(|| schedule.next_after(now))
            );
            now += SignedDuration::from_secs(59);
        }
    }

    #[test]
    fn each_time_that_was_put_off_is_handed_out_once() {
        let six = schedule("0 */6 * * *", "UTC").put_off("main", 30);
        let due = six.next_after(at("2026-01-01T05:59:59Z")).unwrap();
        assert!(due > at("2026-01-01T06:00:00Z"), "{due}: another name tells more");
        let before = due - SignedDuration::from_secs(1);
        let mut table = Timetable::from(six.clone(), at("2026-01-01T05:00:00Z"));
        assert_eq!((table.due(before), table.next(before)), (None, Some(due)));
        assert_eq!((table.due(due), table.due(due + SignedDuration::from_secs(60))), (Some(due), None));
        // A restart between the time and its due moment does not take the time for missed.
        let mut table = Timetable::from_the_last(six.clone(), before);
        assert_eq!(table.due(before), six.last_until(at("2026-01-01T05:00:00Z")));
        assert_eq!(table.due(due), Some(due));
    }

    #[test]
    fn the_longest_interval_is_that_over_a_weekend() {
        let workdays = schedule("0 9 * * mon-fri", "UTC");
        for day in 17..24 {
            let from = at(&format!("2026-11-{day}T10:00:00Z"));
            assert_eq!(workdays.longest_interval(from), Some(3 * 86_400), "{from}");
        }
    }

    #[test]
    fn what_no_schedule_is_says_so() {
        for (expression, zone, what, hint) in [
            ("0 */6 * *", "UTC", "is not a cron expression", "five fields"),
            ("0 0 * * * *", "UTC", "is not a cron expression", "five fields"),
            ("61 * * * *", "UTC", "is not a cron expression", "five fields"),
            ("", "UTC", "is not a cron expression", "five fields"),
            ("0 0 30 2 *", "UTC", "never comes", "no month"),
            ("0 0 * * *", "Europe/Berlni", "there is no time zone", "\"Europe/Berlin\""),
            ("0 0 * * *", "", "there is no time zone", "an IANA name"),
            ("0 0 * * *", "../../etc/passwd", "there is no time zone", "an IANA name"),
        ] {
            let error = Schedule::parse(expression, zone).unwrap_err();
            assert!(error.what().contains(what), "{expression} {zone}: {error:?}");
            assert!(error.hint_text().unwrap().contains(hint), "{expression} {zone}: {error:?}");
        }
    }

    #[test]
    fn the_built_in_zones_suffice() {
        let berlin = TimeZoneDatabase::bundled().get("Europe/Berlin").unwrap();
        assert_eq!(berlin.to_offset(at("2026-07-01T00:00:00Z")), jiff::tz::offset(2));
    }

    #[test]
    fn each_due_time_is_handed_out_once() {
        let mut table = Timetable::from(schedule("0 */6 * * *", "UTC"), at("2026-01-01T00:00:00Z"));
        assert_eq!(table.due(at("2026-01-01T05:59:59.9Z")), None);
        assert_eq!(table.next(at("2026-01-01T05:59:59.9Z")), Some(at("2026-01-01T06:00:00Z")));
        assert_eq!(table.due(at("2026-01-01T06:00:00.1Z")), Some(at("2026-01-01T06:00:00Z")));
        assert_eq!(table.due(at("2026-01-01T06:00:00.9Z")), None);
        assert_eq!(table.due(at("2026-01-01T11:00:00Z")), None);
        assert_eq!(table.skip(at("2026-01-02T00:30:00Z")), 3);
        assert_eq!(table.due(at("2026-01-02T00:31:00Z")), None);
    }

    #[test]
    fn a_clock_that_jumps_ahead_brings_one_run() {
        let mut table = Timetable::from(schedule("0 */6 * * *", "UTC"), at("2026-01-01T01:00:00Z"));
        assert_eq!(table.due(at("2026-01-03T19:00:00Z")), Some(at("2026-01-03T18:00:00Z")));
        assert_eq!(table.due(at("2026-01-03T19:01:00Z")), None);
    }

    #[test]
    fn a_clock_that_is_set_back_brings_no_run_again_and_loses_none() {
        let mut table = Timetable::from(schedule("0 */6 * * *", "UTC"), at("2026-01-01T01:00:00Z"));
        assert!(table.due(at("2026-01-01T06:00:00Z")).is_some());
        assert!(table.due(at("2026-01-01T12:00:00Z")).is_some());
        // Back by half a second, then by seven hours: both due times come again and are not due.
        assert_eq!(table.due(at("2026-01-01T11:59:59.5Z")), None);
        assert_eq!(table.due(at("2026-01-01T12:00:00Z")), None);
        assert_eq!(table.due(at("2026-01-01T05:00:00Z")), None);
        assert_eq!(table.next(at("2026-01-01T05:00:00Z")), Some(at("2026-01-01T18:00:00Z")));
        assert_eq!(table.due(at("2026-01-01T06:00:00Z")), None);
        assert_eq!(table.due(at("2026-01-01T12:00:01Z")), None);
        assert_eq!(table.due(at("2026-01-01T18:00:00Z")), Some(at("2026-01-01T18:00:00Z")));
        // It had been a year ahead: what is due now is not waited for until then.
        assert!(table.due(at("2027-01-01T00:00:00Z")).is_some());
        assert_eq!(table.due(at("2026-01-01T23:00:00Z")), None);
        assert_eq!(table.due(at("2026-01-02T00:00:00Z")), Some(at("2026-01-02T00:00:00Z")));
    }

    #[test]
    fn the_last_due_time_can_be_caught_up_with() {
        let six = schedule("0 */6 * * *", "UTC");
        let mut table = Timetable::from_the_last(six.clone(), at("2026-01-01T07:00:00Z"));
        assert_eq!(table.due(at("2026-01-01T07:00:00Z")), Some(at("2026-01-01T06:00:00Z")));
        assert_eq!(table.due(at("2026-01-01T07:00:01Z")), None);
        let mut table = Timetable::from(six, at("2026-01-01T07:00:00Z"));
        assert_eq!(table.due(at("2026-01-01T07:00:01Z")), None);
    }
}
