//! When a job is due: a pattern of cron, by the wall clock of a named zone, or a time after its last run.
//!
//! **Where the clock is put forward**, a run at a time that is skipped comes as soon as the skipped hour is over. **Where it is put back**, a run at
//! a time that comes twice comes the first time; a pattern for every hour or minute comes in both hours.
//! `@every` knows no clock that is put anywhere.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit, Zoned};

mod calendar;

/// What of cron's patterns is known.
pub const VALID: &str = "five fields (minute, hour, day, month, weekday) such as \"0 2 * * *\", \"*/15 * * * *\" or \"30 4 * * SUN\", or one of @hourly, @daily, @weekly, @monthly, @yearly, or \"@every 15m\"";

/// When something is to be done, for ever.
#[derive(Debug, Clone)]
pub struct Schedule {
    times: Times,
    text: String,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Times {
    Cron(Box<Cron>),
    Every(SignedDuration),
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
    /// No time between two runs.
    #[error(
        "{text:?} is no schedule: @every is followed by hours and minutes, of 1m to 8784h, a year, such as 15m or 1h30m"
    )]
    Every {
        /// What was read.
        text: String,
    },
    /// A day that is in no year.
    #[error("{text:?} never comes: no year has such a day")]
    Never {
        /// What was read.
        text: String,
    },
}

impl Schedule {
    /// The times that look like `text` on the clocks of `zone`; or every so often, whatever clocks show.
    ///
    /// # Errors
    /// No pattern, or one that never comes.
    pub fn new(text: &str, zone: TimeZone) -> Result<Self, BadSchedule> {
        let times = match text.trim().strip_prefix("@every") {
            Some(time) => Times::Every(every(time).ok_or_else(|| BadSchedule::Every { text: text.into() })?),
            None => Times::Cron(Box::new(cron(text)?)),
        };
        let schedule = Self { times, text: text.trim().into(), zone };
        match schedule.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(BadSchedule::Never { text: text.into() }),
        }
    }

    /// The first time after `time`, which for `@every` is that of the last run; `None` only where no calendar goes.
    pub fn next_after(&self, time: Timestamp) -> Option<Zoned> {
        let cron = match &self.times {
            Times::Cron(cron) => cron,
            Times::Every(time_between) => return self.after(time, *time_between),
        };
        cron.find_next_occurrence(&time.to_zoned(self.zone.clone()), false).ok()
    }

    /// Counted from the minute in which `time` is: who is called every minute takes a snapshot some seconds into it, and would be a minute late each
    /// time.
    fn after(&self, time: Timestamp, time_between: SignedDuration) -> Option<Zoned> {
        let minute = time.round(TimestampRound::new().smallest(Unit::Minute).mode(RoundMode::Floor)).ok()?;
        Some(minute.checked_add(time_between).ok()?.to_zoned(self.zone.clone()))
    }

    /// How long after the last run it is due; `None` if clocks say when.
    pub fn every(&self) -> Option<SignedDuration> {
        match self.times {
            Times::Every(time) => Some(time),
            Times::Cron(_) => None,
        }
    }

    /// The first `n` times after `time`; none of `@every`, where the last run says when.
    pub fn upcoming(&self, time: Timestamp, n: usize) -> Vec<Zoned> {
        let first = self.next_after(time).filter(|_| self.every().is_none());
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
        match &self.times {
            Times::Cron(cron) => cron.describe(),
            Times::Every(time) => format!("{time:#} after the last snapshot"),
        }
    }

    /// The same times as `OnCalendar=` of systemd has them, each line some of them; `None` where it has no words for them: `W`, `#` and `L` of a weekday,
    /// and `@every`.
    pub fn on_calendar(&self) -> Option<Vec<String>> {
        let Times::Cron(cron) = &self.times else { return None };
        calendar::lines(cron, &self.text, self.zone.iana_name())
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

fn cron(text: &str) -> Result<Cron, BadSchedule> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let why = |error: croner::errors::CronError| BadSchedule::Pattern {
        text: text.into(),
        why: error.to_string().trim_end_matches('.').to_owned(),
    };
    parser.parse(text).map_err(why)
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

fn every(text: &str) -> Option<SignedDuration> {
    let is_apart = text.starts_with(char::is_whitespace);
    let time = text.trim().parse::<SignedDuration>().ok().filter(|_| is_apart)?;
    let is_whole = time.as_secs() % 60 == 0 && time.subsec_nanos() == 0;
    (is_whole && (MINUTE..=YEAR).contains(&time)).then_some(time)
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
    fn every_so_often_is_counted_from_the_minute_of_the_last_run() {
        let due = |text: &str, last: &str, now: &str| {
            schedule(text).due(Some(at(last)), at(now)).map(|time| time.strftime("%H:%M:%S %Z").to_string())
        };
        let table = [
            ("@every 15m", "10:00:03", "10:14:59", None),
            ("@every 15m", "10:00:03", "10:15:00", Some("10:15:00 CET")),
            ("@every 15m", "10:00:59", "10:15:00", Some("10:15:00 CET")),
            ("@every 15m", "10:00:00", "13:00:00", Some("10:15:00 CET")),
            ("@every 1m", "10:00:59", "10:01:00", Some("10:01:00 CET")),
            ("@every 1m", "10:00:00", "10:00:59", None),
            (" @every  1h30m ", "10:00:30", "11:29:59", None),
            (" @every  1h30m ", "10:00:30", "11:30:00", Some("11:30:00 CET")),
        ];
        for (text, last, now, wanted) in table {
            let of_day = |time: &str| format!("2026-11-21T{time}[Europe/Berlin]");
            assert_eq!(due(text, &of_day(last), &of_day(now)).as_deref(), wanted, "{text} {last} {now}");
        }
        // Neither edge of summer time is an hour longer or shorter.
        let edge = |last: &str, next: &str| {
            let found = schedule("@every 4h").next_after(at(last)).expect("a time");
            assert_eq!(found.timestamp(), at(next));
        };
        edge("2027-03-28T00:30:07[Europe/Berlin]", "2027-03-28T05:30[Europe/Berlin]");
        edge("2026-10-25T00:30:07[Europe/Berlin]", "2026-10-25T03:30[Europe/Berlin]");
        let every = schedule("@every 15m");
        assert_eq!(every.due(None, at("2026-11-21T10:00[UTC]")).map(|time| time.to_string()), {
            Some("2026-11-21T11:00:00+01:00[Europe/Berlin]".to_owned())
        });
        assert!(every.upcoming(Timestamp::UNIX_EPOCH, 3).is_empty() && every.on_calendar().is_none());
        assert_eq!((every.describe().as_str(), every.to_string().as_str()), {
            ("15m after the last snapshot", "@every 15m")
        });
        for wrong in [
            "@every",
            "@every15m",
            "@every 15",
            "@every 30s",
            "@every 90s",
            "@every 0m",
            "@every -15m",
            "@every 1d",
            "@every 9000h",
            "@every 15m 0 2 * * *",
            "@every 999999999999999999h",
        ] {
            let error = Schedule::new(wrong, TimeZone::UTC).expect_err(wrong);
            assert!(error.to_string().contains("is followed by hours and minutes"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn who_is_called_every_minute_runs_every_so_often_and_no_later(
            minutes in 1_i64..5000, delays in proptest::collection::vec(0_i64..60, 2..20),
        ) {
            let every = schedule(&format!("@every {minutes}m"));
            let start = at("2026-10-24T22:00[UTC]");
            let mut last = start.checked_add(SignedDuration::from_secs(delays[0])).expect("in range");
            for (nth, delay) in (1..).zip(&delays[1..]) {
                // The first call at which it is due.
                let call = start + SignedDuration::from_mins(nth * minutes);
                proptest::prop_assert!(every.due(Some(last), call - SignedDuration::from_secs(1)).is_none());
                proptest::prop_assert!(every.due(Some(last), call).is_some());
                last = call + SignedDuration::from_secs(*delay);
            }
        }
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
