//! From when on it is bad: what a job or a command line says, and what counts where neither does.

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use super::State;

/// What somebody has set, each of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Thresholds {
    /// A newest snapshot that is older.
    pub age: Pair<Span>,
    /// What a target has that is older.
    pub replica_age: Pair<Span>,
    /// A last rehearsal that went well that is older.
    pub drill_age: Pair<Span>,
    /// A last comparison of a target that found nothing that is older.
    pub verify_age: Pair<Span>,
    /// Fewer days until retention lets go what a target's next increment builds upon.
    pub base_days: Pair<u32>,
    /// More containers that bringing an archive's newest version back takes.
    pub chain: Pair<u64>,
    /// More bytes of them.
    pub restore: Pair<u64>,
    /// Less of a filesystem or pool that is free, of 100.
    pub free: Pair<f64>,
}

/// From when on it is a warning, and from when on critical.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pair<T> {
    /// A warning.
    pub warn: Option<T>,
    /// Critical.
    pub crit: Option<T>,
}

impl<T: Copy> Pair<T> {
    /// Whether it says anything.
    pub fn is_set(&self) -> bool {
        self.warn.is_some() || self.crit.is_some()
    }

    fn or(self, other: Self) -> Self {
        Self { warn: self.warn.or(other.warn), crit: self.crit.or(other.crit) }
    }

    fn if_set(self) -> Option<Self> {
        self.is_set().then_some(self)
    }
}

/// From when on it is bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// A newest snapshot that is older; if nothing is set what is promised decides.
    pub age: Pair<SignedDuration>,
    /// The same of targets.
    pub replica_age: Pair<SignedDuration>,
    /// A last restore that went well that is older.
    pub drill_age: Pair<SignedDuration>,
    /// A last comparison of a target that found nothing that is older.
    pub verify_age: Pair<SignedDuration>,
    /// More containers that bringing an archive's newest version back takes.
    pub chain: Pair<u64>,
    /// More bytes of them.
    pub restore: Pair<u64>,
    /// Days that the base of a target should be there still.
    pub warn_base_days: u32,
    /// The same, worse.
    pub crit_base_days: u32,
    /// Percent of a filesystem or pool that should be free.
    pub warn_free: f64,
    /// The same, worse.
    pub crit_free: f64,
}

impl Default for Limits {
    fn default() -> Self {
        let nothing = Pair { warn: None, crit: None };
        Self {
            age: nothing,
            replica_age: nothing,
            drill_age: Pair { warn: Some(DRILL), crit: None },
            verify_age: nothing,
            chain: Pair::default(),
            restore: Pair::default(),
            warn_base_days: 7,
            crit_base_days: 1,
            warn_free: 20.0,
            crit_free: 10.0,
        }
    }
}

impl Limits {
    /// How bad it is that a base goes in so many days.
    pub fn of_base(&self, days: i64) -> State {
        match days {
            days if days < self.crit_base_days.into() => State::Critical,
            days if days < self.warn_base_days.into() => State::Warning,
            _ => State::Ok,
        }
    }
}

/// How old the last restore that went well may be.
const DRILL: SignedDuration = SignedDuration::from_hours(35 * 24);

impl Thresholds {
    /// Whether anything is set.
    pub fn is_set(&self) -> bool {
        let ages = [self.age, self.replica_age, self.drill_age, self.verify_age];
        let takes = self.chain.is_set() || self.restore.is_set();
        ages.iter().any(Pair::is_set) || self.base_days.is_set() || takes || self.free.is_set()
    }

    /// These, and where they say nothing `other`.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            age: self.age.or(other.age),
            replica_age: self.replica_age.or(other.replica_age),
            drill_age: self.drill_age.or(other.drill_age),
            verify_age: self.verify_age.or(other.verify_age),
            base_days: self.base_days.or(other.base_days),
            chain: self.chain.or(other.chain),
            restore: self.restore.or(other.restore),
            free: self.free.or(other.free),
        }
    }

    /// What counts, of months and years as they are before `now`. Who says how old a snapshot may be, and not how old what a target has, means both.
    pub fn limits(&self, now: Timestamp) -> Limits {
        let ages = |pair: Pair<Span>| Pair {
            warn: pair.warn.and_then(|span| duration(span, now)),
            crit: pair.crit.and_then(|span| duration(span, now)),
        };
        let usual = Limits::default();
        let age = ages(self.age);
        Limits {
            age,
            replica_age: ages(self.replica_age).if_set().unwrap_or(age),
            drill_age: ages(self.drill_age).if_set().unwrap_or(usual.drill_age),
            verify_age: ages(self.verify_age),
            chain: self.chain,
            restore: self.restore,
            warn_base_days: self.base_days.warn.unwrap_or(usual.warn_base_days),
            crit_base_days: self.base_days.crit.unwrap_or(usual.crit_base_days),
            // Who sets one of them past what is usual of the other leaves no room for that.
            warn_free: self.free.warn.unwrap_or(usual.warn_free),
            crit_free: self.free.crit.unwrap_or(usual.crit_free),
        }
    }
}

/// Days of 24 hours.
fn duration(span: Span, now: Timestamp) -> Option<SignedDuration> {
    let now = now.to_zoned(jiff::tz::TimeZone::UTC);
    let before = now.checked_sub(span).ok()?;
    before.until(&now).ok()?.to_duration(SpanRelativeTo::from(&before)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().expect("a time")
    }

    fn span(text: &str) -> Option<Span> {
        Some(text.parse().expect("a span"))
    }

    const fn hours(hours: i64) -> Option<SignedDuration> {
        Some(SignedDuration::from_hours(hours))
    }

    #[test]
    fn what_is_set_counts_and_else_what_is_usual() {
        assert_eq!(Thresholds::default().limits(now()), Limits::default());
        assert_eq!(Limits::default().drill_age, Pair { warn: hours(35 * 24), crit: None });
        let age = Pair { warn: span("26h"), crit: span("2d") };
        let set = Thresholds { age, ..Thresholds::default() }.limits(now());
        assert_eq!((set.age, set.replica_age), (Pair { warn: hours(26), crit: hours(48) }, set.age));
        let apart = Thresholds {
            age,
            replica_age: Pair { warn: None, crit: span("1mo") },
            drill_age: Pair { warn: None, crit: span("90d") },
            verify_age: Pair { warn: span("8d"), crit: None },
            base_days: Pair { warn: None, crit: Some(3) },
            chain: Pair { warn: Some(30), crit: None },
            restore: Pair { warn: None, crit: Some(1 << 30) },
            free: Pair { warn: Some(5.0), crit: Some(2.5) },
        };
        let set = apart.limits(now());
        // February had 28 days.
        assert_eq!(set.replica_age, Pair { warn: None, crit: hours(28 * 24) });
        assert_eq!(set.drill_age, Pair { warn: None, crit: hours(90 * 24) });
        assert_eq!(set.verify_age, Pair { warn: hours(8 * 24), crit: None });
        assert_eq!((set.chain.warn, set.restore.crit), (Some(30), Some(1 << 30)));
        assert_eq!((set.warn_base_days, set.crit_base_days), (7, 3));
        assert_eq!([9, 7, 6, 3, 2].map(|days| set.of_base(days)), {
            use State::{Critical, Ok, Warning};
            [Ok, Ok, Warning, Warning, Critical]
        });
        assert_eq!((set.warn_free, set.crit_free), (5.0, 2.5));
    }

    #[test]
    fn one_said_over_another_leaves_what_it_does_not_name() {
        let job = Thresholds {
            age: Pair { warn: span("26h"), crit: span("50h") },
            free: Pair { warn: Some(5.0), crit: None },
            ..Thresholds::default()
        };
        let line = Thresholds { age: Pair { warn: span("1h"), crit: None }, ..Thresholds::default() };
        let set = line.or(&job).limits(now());
        assert_eq!(set.age, Pair { warn: hours(1), crit: hours(50) });
        assert_eq!((set.warn_free, set.crit_free), (5.0, 10.0));
    }
}
