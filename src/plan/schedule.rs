//! When a job is due: a pattern of cron, by the wall clock of a named zone.
//!
//! **Where the clock is put forward**, a run at a time that is skipped comes as soon as the skipped hour is over. **Where it is put back**, a run at
//! a time that comes twice comes the first time; a pattern for every hour or minute comes in both hours.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// What of cron's patterns is known.
pub const VALID: &str = "five fields (minute, hour, day, month, weekday) such as \"0 2 * * *\", \"*/15 * * * *\" or \"30 4 * * SUN\", or one of @hourly, @daily, @weekly, @monthly, @yearly";

/// When something is to be done, for ever.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    text: String,
    zone: TimeZone,
}

/// A text that says no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// No pattern.
    #[error("{text:?} is no schedule ({why}); valid are {VALID}")]
    Pattern {
        /// What was read.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A day that is in no year.
    #[error("{text:?} never comes: no year has such a day")]
    Never {
        /// What was read.
        text: String,
    },
}

impl Schedule {
    /// The times that look like `text` on the clocks of `zone`.
    ///
    /// # Errors
    /// No pattern, or one that never comes.
    pub fn new(text: &str, zone: TimeZone) -> Result<Self, BadSchedule> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let why = |error: croner::errors::CronError| BadSchedule::Pattern {
            text: text.into(),
            why: error.to_string().trim_end_matches('.').to_owned(),
        };
        let cron = parser.parse(text).map_err(why)?;
        let schedule = Self { cron, text: text.trim().into(), zone };
        match schedule.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(BadSchedule::Never { text: text.into() }),
        }
    }

    /// The first time after `time`; `None` only where no calendar goes.
    pub fn next_after(&self, time: Timestamp) -> Option<Zoned> {
        self.cron.find_next_occurrence(&time.to_zoned(self.zone.clone()), false).ok()
    }

    /// The first `n` times after `time`.
    pub fn upcoming(&self, time: Timestamp, n: usize) -> Vec<Zoned> {
        let first = self.next_after(time);
        std::iter::successors(first, |last| self.next_after(last.timestamp())).take(n).collect()
    }

    /// The time for which a run is due at `now`, if it was last done at `last`. Of several that were missed it is the first one: they are made up for
    /// by one run. What was never done, or is said to have been done after `now`, is due at once.
    pub fn due(&self, last: Option<Timestamp>, now: Timestamp) -> Option<Zoned> {
        match last {
            Some(last) if last <= now => self.next_after(last).filter(|next| next.timestamp() <= now),
            _ => Some(now.to_zoned(self.zone.clone())),
        }
    }

    /// In words: `At 02:00.`
    pub fn describe(&self) -> String {
        self.cron.describe()
    }

    /// The zone whose clocks are meant.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn schedule(text: &str) -> Schedule {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        Schedule::new(text, zone).expect("a schedule")
    }

    fn at(time: &str) -> Timestamp {
        time.parse::<Zoned>().expect("a time").timestamp()
    }

    fn check(text: &str, from: &str, expected: Expect) {
        let times = schedule(text).upcoming(at(from), 4);
        let shown: Vec<_> = times.iter().map(|time| time.strftime("%m-%d %H:%M %Z").to_string()).collect();
        expected.assert_eq(&shown.join(", "));
    }

    #[test]
    fn a_run_in_the_hour_that_is_skipped_comes_when_it_is_over_and_only_once() {
        check(
            "30 2 * * *",
            "2027-03-27T00:00[Europe/Berlin]",
            expect!["03-27 02:30 CET, 03-28 03:00 CEST, 03-29 02:30 CEST, 03-30 02:30 CEST"],
        );
        check(
            "0 * * * *",
            "2027-03-28T00:30[Europe/Berlin]",
            expect!["03-28 01:00 CET, 03-28 03:00 CEST, 03-28 04:00 CEST, 03-28 05:00 CEST"],
        );
    }

    #[test]
    fn a_run_in_the_hour_that_comes_twice_comes_the_first_time_but_every_hour_is_every_hour() {
        check(
            "30 2 * * *",
            "2026-10-24T12:00[Europe/Berlin]",
            expect!["10-25 02:30 CEST, 10-26 02:30 CET, 10-27 02:30 CET, 10-28 02:30 CET"],
        );
        check(
            "0 * * * *",
            "2026-10-25T00:30[Europe/Berlin]",
            expect!["10-25 01:00 CEST, 10-25 02:00 CEST, 10-25 02:00 CET, 10-25 03:00 CET"],
        );
        check(
            "*/30 * * * *",
            "2026-10-25T02:15+02:00[Europe/Berlin]",
            expect!["10-25 02:30 CEST, 10-25 02:00 CET, 10-25 02:30 CET, 10-25 03:00 CET"],
        );
    }

    #[test]
    fn leap_days_month_ends_and_names_are_known() {
        check(
            "0 0 29 2 *",
            "2026-01-01T00:00[Europe/Berlin]",
            expect!["02-29 00:00 CET, 02-29 00:00 CET, 02-29 00:00 CET, 02-29 00:00 CET"],
        );
        check(
            "0 4 L * *",
            "2026-01-01T00:00[Europe/Berlin]",
            expect!["01-31 04:00 CET, 02-28 04:00 CET, 03-31 04:00 CEST, 04-30 04:00 CEST"],
        );
        check(
            "@weekly",
            "2026-01-01T00:00[Europe/Berlin]",
            expect!["01-04 00:00 CET, 01-11 00:00 CET, 01-18 00:00 CET, 01-25 00:00 CET"],
        );
    }

    #[test]
    fn missed_runs_are_made_up_for_by_one_and_a_run_counts_for_its_time() {
        let nightly = schedule("0 2 * * *");
        let due = |last: &str, now: &str| nightly.due(Some(at(last)), at(now)).map(|time| time.to_string());
        let first = "2026-11-20T02:00:00+01:00[Europe/Berlin]";
        assert_eq!(due(first, "2026-11-21T01:59:59[Europe/Berlin]"), None);
        let next = Some("2026-11-21T02:00:00+01:00[Europe/Berlin]".to_owned());
        assert_eq!(due(first, "2026-11-21T02:00[Europe/Berlin]"), next);
        assert_eq!(due(first, "2026-11-27T13:00[Europe/Berlin]"), next);
        assert_eq!(due("2026-11-27T13:00:01[Europe/Berlin]", "2026-11-27T13:01[Europe/Berlin]"), None);
        let now = at("2026-11-21T01:00[Europe/Berlin]");
        assert_eq!(nightly.due(None, now).map(|time| time.timestamp()), Some(now));
        let future = Some(at("2036-11-21T01:00[Europe/Berlin]"));
        assert_eq!(nightly.due(future, now).map(|time| time.timestamp()), Some(now));
    }

    #[test]
    fn a_run_in_the_first_of_two_equal_hours_is_not_due_again_in_the_second() {
        let nightly = schedule("30 2 * * *");
        let last = Some(at("2026-10-25T02:30:04+02:00[Europe/Berlin]"));
        assert_eq!(nightly.due(last, at("2026-10-25T02:45+01:00[Europe/Berlin]")), None);
        assert!(nightly.due(last, at("2026-10-26T02:30[Europe/Berlin]")).is_some());
    }

    #[test]
    fn what_is_no_schedule_is_told_what_one_is() {
        for wrong in
            ["", "soon", "0 2 * *", "0 0 2 * * *", "60 * * * *", "0 25 * * *", "0 2 * * FOO", "@noon"]
        {
            let error = Schedule::new(wrong, TimeZone::UTC).expect_err(wrong);
            assert!(error.to_string().contains("valid are five fields"), "{error}");
        }
        let never = Schedule::new("0 0 30 2 *", TimeZone::UTC).expect_err("no such day");
        assert_eq!(never.to_string(), r#""0 0 30 2 *" never comes: no year has such a day"#);
        let daily = Schedule::new(" 0 2 * * * ", TimeZone::UTC).expect("a schedule");
        assert_eq!((daily.to_string().as_str(), daily.describe().as_str()), ("0 2 * * *", "At 02:00."));
        assert_eq!(daily.zone(), &TimeZone::UTC);
    }
}
