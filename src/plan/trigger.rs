//! Whether a job is due: its schedule, what was written, what a number is, how old its snapshot is, what was asked for, as one policy.
//!
//! **Invariant:** what is not known makes nothing due, and keeps nothing that is known from doing so.

use std::fmt;

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit, Zoned};

use crate::plan::retain::Retention;
use crate::plan::schedule::Schedule;

/// What makes a job due besides its schedule, or together with it.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Any of them.
    pub thresholds: Thresholds,
    /// What gives the number that thresholds are for.
    pub number: Option<Source>,
    /// How thresholds and schedule go together, where there are both.
    pub combined: Combined,
    /// So long after its last snapshot no threshold makes it due.
    pub at_most_every: SignedDuration,
    /// What is not to wait.
    pub emergency: Option<Emergency>,
}

/// How thresholds and a schedule go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combined {
    /// Each makes the job due by itself.
    Either,
    /// Once its time has come, and a threshold is reached; for so long after that time, or until there is a snapshot.
    Both(Option<SignedDuration>),
}

/// What is enough for a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Bytes that were written since the last one.
    pub written: Option<u64>,
    /// The time since then.
    pub age: Option<SignedDuration>,
    /// What the number is, at least.
    pub number: Option<i64>,
}

/// Thresholds that make the job due whatever the schedule says.
#[derive(Debug, Clone)]
pub struct Emergency {
    /// Any of them.
    pub thresholds: Thresholds,
    /// So long after its last snapshot there is no other one.
    pub at_most_every: SignedDuration,
    /// What is kept after such a snapshot, instead of what the job keeps else.
    pub retention: Option<Retention>,
}

/// Who says a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// How it is asked.
    pub ask: Ask,
    /// How long the answer may take.
    pub within: std::time::Duration,
}

/// How a number is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A command that prints it.
    Command(Vec<String>),
    /// A GET whose answer is JSON.
    Http {
        /// `HOST:PORT`.
        address: String,
        /// From the first `/` on.
        path: String,
        /// Where the number is in it: a JSON pointer.
        pointer: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ask {
            Ask::Command(words) => write!(f, "the number that {} prints", words.join(" ")),
            Ask::Http { address, path, pointer } if pointer.is_empty() => {
                write!(f, "the number at http://{address}{path}")
            }
            Ask::Http { address, path, pointer } => {
                write!(f, "{} at http://{address}{path}", pointer.trim_start_matches('/').replace('/', "."))
            }
        }
    }
}

/// When a job is due by itself.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// By the clock.
    pub schedule: Option<&'a Schedule>,
    /// By what has become of things.
    pub trigger: Option<&'a Trigger>,
}

/// What has to be found out for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// How much was written: more than this need not be counted.
    pub written: Option<u64>,
    /// The number.
    pub number: bool,
}

/// What was found out; `None` is what was not asked for, or nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Bytes since the last snapshot.
    pub written: Option<u64>,
    /// The number.
    pub number: Option<i64>,
}

/// One of the things that make a job due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Somebody wants it.
    Requested,
    /// There is no snapshot yet, or it is of a time to come.
    First,
    /// A time of its schedule has come.
    Time(Zoned),
    /// That much was written, at least.
    Written(u64),
    /// So long ago is the last one.
    Age(SignedDuration),
    /// The number is this.
    Number(i64),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => write!(f, "it was asked for"),
            Self::First => write!(f, "there is no snapshot of it yet"),
            Self::Time(time) => write!(f, "its time was {}", time.strftime("%Y-%m-%d %H:%M %:z")),
            Self::Written(bytes) => write!(f, "{bytes} bytes or more were written"),
            Self::Age(age) => write!(f, "its last snapshot is {age:#} old"),
            Self::Number(number) => write!(f, "the number is {number}"),
        }
    }
}

/// That a job is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Why: at least one.
    pub reasons: Vec<Reason>,
    /// It is not to wait.
    pub is_emergency: bool,
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<_> = self.reasons.iter().map(ToString::to_string).collect();
        let emergency = if self.is_emergency { "an emergency: " } else { "" };
        write!(f, "{emergency}{}", reasons.join(", and "))
    }
}

impl Policy<'_> {
    /// What [`Policy::decide`] can not do without at `now`, if the last snapshot is of `last`.
    pub fn needs(&self, last: Option<Timestamp>, now: Timestamp) -> Needs {
        let (Some(trigger), Some(last)) = (self.trigger, past(last, now)) else { return Needs::default() };
        let mut asked: Vec<&Thresholds> = Vec::new();
        asked.extend(trigger.emergency(last, now).map(|emergency| &emergency.thresholds));
        asked.extend(self.opened(trigger, last, now).map(|_| &trigger.thresholds));
        Needs {
            written: asked.iter().filter_map(|thresholds| thresholds.written).max(),
            number: asked.iter().any(|thresholds| thresholds.number.is_some()),
        }
    }

    /// Whether the job is due at `now`, and why. What was never done, or is said to have been done after `now`, is due at once.
    pub fn decide(&self, last: Option<Timestamp>, now: Timestamp, facts: &Facts) -> Option<Due> {
        let due = |reasons, is_emergency| Some(Due { reasons, is_emergency });
        if self.schedule.is_none() && self.trigger.is_none() {
            return None;
        }
        let Some(last) = past(last, now) else { return due(vec![Reason::First], false) };
        if let Some(emergency) = self.trigger.and_then(|trigger| trigger.emergency(last, now)) {
            let reached = emergency.thresholds.reached(last, now, facts);
            if !reached.is_empty() {
                return due(reached, true);
            }
        }
        let time = self.schedule.and_then(|schedule| schedule.due(Some(last), now));
        let Some(trigger) = self.trigger else { return due(vec![Reason::Time(time?)], false) };
        if let (Combined::Either, Some(time)) = (trigger.combined, time) {
            return due(vec![Reason::Time(time)], false);
        }
        let opened = self.opened(trigger, last, now)?;
        let reached = trigger.thresholds.reached(last, now, facts);
        let reasons = opened.into_iter().map(Reason::Time).chain(reached.iter().cloned());
        due(reasons.collect(), false).filter(|_| !reached.is_empty())
    }

    /// Whether thresholds count now; `Some(Some(_))` if that is since a time of the schedule.
    fn opened(&self, trigger: &Trigger, last: Timestamp, now: Timestamp) -> Option<Option<Zoned>> {
        if since(last, now) < trigger.at_most_every {
            return None;
        }
        let (Some(schedule), Combined::Both(window)) = (self.schedule, trigger.combined) else {
            return Some(None);
        };
        // The window's end is not in it, or a time would be of it that is a whole window ago.
        let from = window.and_then(|window| now.checked_sub(window).ok()).map_or(last, |from| from.max(last));
        schedule.next_after(from).filter(|time| time.timestamp() <= now).map(Some)
    }
}

impl Trigger {
    /// How old the last snapshot gets at most before the job is due; `None` where that alone never makes it due. With a schedule, and both
    /// wanted, only an emergency does.
    pub fn most_age(&self, has_schedule: bool) -> Option<SignedDuration> {
        let counts = !has_schedule || self.combined == Combined::Either;
        let usual = self.thresholds.age.filter(|_| counts).map(|age| age.max(self.at_most_every));
        let emergency = self.emergency.as_ref();
        let emergency = emergency.and_then(|it| it.thresholds.age.map(|age| age.max(it.at_most_every)));
        [usual, emergency].into_iter().flatten().min()
    }

    /// Its emergency, where that may be one now.
    fn emergency(&self, last: Timestamp, now: Timestamp) -> Option<&Emergency> {
        self.emergency.as_ref().filter(|emergency| since(last, now) >= emergency.at_most_every)
    }
}

impl Thresholds {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn reached(&self, last: Timestamp, now: Timestamp, facts: &Facts) -> Vec<Reason> {
        let age = since(last, now);
        let written = self.written.filter(|&enough| facts.written.is_some_and(|written| written >= enough));
        let aged = self.age.filter(|&most| age >= most);
        let number = facts.number.filter(|&number| self.number.is_some_and(|least| number >= least));
        [written.map(Reason::Written), aged.map(|_| Reason::Age(age)), number.map(Reason::Number)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// A clock that was ahead has told nothing.
fn past(last: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    last.filter(|&last| last <= now)
}

/// From the minute of the one, as [`Schedule::next_after`] counts: who is called every minute would be a minute late each time.
fn since(last: Timestamp, now: Timestamp) -> SignedDuration {
    let minute = last.round(TimestampRound::new().smallest(Unit::Minute).mode(RoundMode::Floor));
    now.duration_since(minute.unwrap_or(last))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    const LAST: &str = "2026-11-20T02:00:04Z";

    fn at(time: &str) -> Timestamp {
        time.parse().expect("a time")
    }

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    fn trigger(combined: Combined) -> Trigger {
        Trigger {
            thresholds: Thresholds { written: Some(10), age: Some(hours(48)), number: Some(5000) },
            number: Some(Source {
                ask: Ask::Command(vec!["/n".into()]),
                within: std::time::Duration::from_secs(1),
            }),
            combined,
            at_most_every: hours(1),
            emergency: Some(Emergency {
                thresholds: Thresholds { written: Some(100), age: None, number: Some(20000) },
                at_most_every: SignedDuration::from_mins(10),
                retention: None,
            }),
        }
    }

    fn nightly() -> Schedule {
        Schedule::new("0 2 * * *", TimeZone::UTC).expect("a schedule")
    }

    /// What is decided at `now` with these numbers, and what was asked for it.
    fn told(policy: Policy<'_>, now: &str, written: u64, number: i64) -> String {
        let (last, now) = (Some(at(LAST)), at(now));
        let needs = policy.needs(last, now);
        // Whoever asks for no more than is needed decides the same.
        let all = Facts { written: Some(written), number: Some(number) };
        let few = Facts { written: needs.written.map(|_| written), number: needs.number.then_some(number) };
        let due = policy.decide(last, now, &few);
        assert_eq!(due, policy.decide(last, now, &all), "{needs:?}");
        due.map_or("no".into(), |due| due.to_string())
    }

    #[test]
    fn thresholds_alone_are_any_of_them_and_not_too_often() {
        let trigger = trigger(Combined::Either);
        let policy = Policy { schedule: None, trigger: Some(&trigger) };
        let table = [
            ("2026-11-20T03:00:00Z", 9, 4999, "no"),
            ("2026-11-20T03:00:00Z", 10, 0, "10 bytes or more were written"),
            ("2026-11-20T02:59:59Z", 10, 5000, "no"),
            ("2026-11-20T03:00:00Z", 10, 5000, "10 bytes or more were written, and the number is 5000"),
            ("2026-11-22T02:00:00Z", 0, -5, "its last snapshot is 48h old"),
            ("2026-11-22T01:59:59Z", 0, 0, "no"),
            ("2026-11-20T02:10:00Z", 0, 20000, "an emergency: the number is 20000"),
            ("2026-11-20T02:09:59Z", 100, 20000, "no"),
            ("2026-11-20T02:10:00Z", 100, 0, "an emergency: 100 bytes or more were written"),
        ];
        for (now, written, number, wanted) in table {
            assert_eq!(told(policy, now, written, number), wanted, "{now} {written} {number}");
        }
    }

    #[test]
    fn time_and_thresholds_are_either_or_both() {
        let schedule = nightly();
        let [either, both, window] =
            [Combined::Either, Combined::Both(None), Combined::Both(Some(hours(2)))].map(trigger);
        let of = |trigger| Policy { schedule: Some(&schedule), trigger: Some(trigger) };
        let time = "its time was 2026-11-21 02:00 +00:00";
        let number = format!("{time}, and the number is 6000");
        let table = [
            (&either, "2026-11-20T12:00:00Z", 0, "no"),
            (&either, "2026-11-20T12:00:00Z", 6000, "the number is 6000"),
            (&either, "2026-11-21T02:00:00Z", 0, time),
            (&both, "2026-11-20T12:00:00Z", 6000, "no"),
            (&both, "2026-11-21T02:00:00Z", 4000, "no"),
            (&both, "2026-11-21T02:00:00Z", 6000, &number),
            (&both, "2026-11-21T12:00:00Z", 6000, &number),
            (&both, "2026-11-20T12:00:00Z", 20001, "an emergency: the number is 20001"),
            (&window, "2026-11-21T03:59:59Z", 6000, &number),
            (&window, "2026-11-21T04:00:00Z", 6000, "no"),
            (&window, "2026-11-21T01:59:59Z", 6000, "no"),
            (&window, "2026-11-21T04:00:00Z", 20000, "an emergency: the number is 20000"),
        ];
        for (trigger, now, value, wanted) in table {
            assert_eq!(told(of(trigger), now, 0, value), wanted, "{:?} {now} {value}", trigger.combined);
        }
        // The window opens again the next night, though nothing was done in the first.
        assert!(
            told(of(&window), "2026-11-22T02:30:00Z", 0, 6000).starts_with("its time was 2026-11-22 02:00")
        );
    }

    #[test]
    fn what_is_not_known_makes_nothing_due_and_keeps_nothing_else_from_it() {
        let (trigger, schedule) = (trigger(Combined::Either), nightly());
        let policy = Policy { schedule: Some(&schedule), trigger: Some(&trigger) };
        let decide =
            |now: &str, facts| policy.decide(Some(at(LAST)), at(now), &facts).map(|due| due.to_string());
        assert_eq!(decide("2026-11-20T12:00:00Z", Facts::default()), None);
        let written = Facts { written: Some(50), number: None };
        assert_eq!(decide("2026-11-20T12:00:00Z", written).as_deref(), Some("10 bytes or more were written"));
        assert!(decide("2026-11-21T02:00:00Z", Facts::default()).is_some());
    }

    #[test]
    fn what_was_never_done_is_due_and_asks_for_nothing() {
        let (trigger, schedule) = (trigger(Combined::Both(None)), nightly());
        let now = at("2026-11-20T12:00:00Z");
        for last in [None, Some(at("2036-11-20T12:00:00Z"))] {
            let policy = Policy { schedule: Some(&schedule), trigger: Some(&trigger) };
            assert_eq!(policy.needs(last, now), Needs::default());
            let due = policy.decide(last, now, &Facts::default()).expect("due");
            assert_eq!(due.to_string(), "there is no snapshot of it yet");
            assert!(Policy { schedule: None, trigger: None }.decide(last, now, &Facts::default()).is_none());
        }
        let policy = Policy { schedule: Some(&schedule), trigger: Some(&trigger) };
        // Outside of its time, it is asked what an emergency needs, and no more is counted than that.
        assert_eq!(policy.needs(Some(at(LAST)), now), Needs { written: Some(100), number: true });
        assert_eq!(policy.needs(Some(at(LAST)), at("2026-11-20T02:05:00Z")), Needs::default());
    }

    #[test]
    fn who_says_the_number_is_called_by_how_it_is_asked() {
        let http = |pointer: &str| Ask::Http {
            address: "127.0.0.1:20443".into(),
            path: "/v2/info".into(),
            pointer: pointer.into(),
        };
        let command = Ask::Command(vec!["/usr/bin/height".into(), "-q".into()]);
        let told = [command, http(""), http("/chain/height")].map(|ask| {
            let source = Source { ask, within: std::time::Duration::from_secs(1) };
            source.to_string()
        });
        let expected = [
            "the number that /usr/bin/height -q prints",
            "the number at http://127.0.0.1:20443/v2/info",
            "chain.height at http://127.0.0.1:20443/v2/info",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_was_asked_for_is_a_reason_in_words_too() {
        let due = Due { reasons: vec![Reason::Requested], is_emergency: false };
        assert_eq!(due.to_string(), "it was asked for");
    }

    #[test]
    fn thresholds_are_none_only_if_nothing_is_enough() {
        assert!(Thresholds::default().is_empty());
        for thresholds in [
            Thresholds { written: Some(0), ..Thresholds::default() },
            Thresholds { age: Some(SignedDuration::ZERO), ..Thresholds::default() },
            Thresholds { number: Some(0), ..Thresholds::default() },
        ] {
            assert!(!thresholds.is_empty(), "{thresholds:?}");
        }
    }

    #[test]
    fn an_age_is_promised_where_it_alone_is_enough() {
        let most = |combined, usual, emergency: Option<i64>, has_schedule| {
            let mut trigger = trigger(combined);
            trigger.thresholds.age = usual;
            trigger.emergency.as_mut().expect("as it was made").thresholds.age = emergency.map(hours);
            trigger.most_age(has_schedule)
        };
        let both = Combined::Both(None);
        assert_eq!(most(Combined::Either, Some(hours(48)), None, true), Some(hours(48)));
        assert_eq!(most(both, Some(hours(48)), None, true), None);
        assert_eq!(most(both, Some(hours(48)), None, false), Some(hours(48)));
        assert_eq!(most(both, Some(hours(48)), Some(96), true), Some(hours(96)));
        assert_eq!(most(Combined::Either, Some(hours(48)), Some(24), false), Some(hours(24)));
        // There is none more often than that.
        let minute = Some(SignedDuration::from_mins(1));
        assert_eq!(most(Combined::Either, minute, None, false), Some(hours(1)));
        assert_eq!(most(Combined::Either, None, None, false), None);
    }
}
