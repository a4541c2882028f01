//! From when on `cowsnap check` finds a job not well.

use std::cmp::Ordering;
use std::ops::Range;

use jiff::Span;
use jiff::civil::date;
use serde::Deserialize;
use toml::Spanned;

use super::{Reader, Text};
use crate::config::value;
use crate::plan::health::{Limits, Pair, Thresholds};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    warn_age: Option<Text>,
    crit_age: Option<Text>,
    warn_replica_age: Option<Text>,
    crit_replica_age: Option<Text>,
    warn_drill_age: Option<Text>,
    crit_drill_age: Option<Text>,
    warn_verify_age: Option<Text>,
    crit_verify_age: Option<Text>,
    warn_base_days: Option<Spanned<u32>>,
    crit_base_days: Option<Spanned<u32>>,
    warn_chain: Option<Spanned<u64>>,
    crit_chain: Option<Spanned<u64>>,
    warn_restore: Option<Text>,
    crit_restore: Option<Text>,
    warn_free: Option<Spanned<Percent>>,
    crit_free: Option<Spanned<Percent>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged, expecting = "a number of 0 to 100 is needed")]
enum Percent {
    Whole(u8),
    Part(f64),
}

impl Percent {
    fn number(self) -> f64 {
        match self {
            Self::Whole(number) => number.into(),
            Self::Part(number) => number,
        }
    }
}

impl Reader<'_> {
    /// `has` targets, archives among them, and a drill.
    pub(super) fn check(
        &mut self,
        raw: Spanned<RawCheck>,
        (has_targets, has_archives, has_drill): (bool, bool, bool),
    ) -> Thresholds {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("check".into());
        let n_problems = self.problems.len();
        let replica =
            [("warn_replica_age", raw.warn_replica_age), ("crit_replica_age", raw.crit_replica_age)];
        let drill = [("warn_drill_age", raw.warn_drill_age), ("crit_drill_age", raw.crit_drill_age)];
        let verify = [("warn_verify_age", raw.warn_verify_age), ("crit_verify_age", raw.crit_verify_age)];
        let days = [("warn_base_days", raw.warn_base_days), ("crit_base_days", raw.crit_base_days)];
        let chain = [("warn_chain", raw.warn_chain), ("crit_chain", raw.crit_chain)];
        let restore = [("warn_restore", raw.warn_restore), ("crit_restore", raw.crit_restore)];
        if !has_archives {
            self.says_nothing(&restore, "an archive");
            for (key, number) in &chain {
                if let Some(number) = number {
                    self.problem(number.span(), key, "says nothing without an archive");
                }
            }
        }
        if !has_targets {
            self.says_nothing(&replica, "a target");
            self.says_nothing(&verify, "a target");
            for (key, number) in &days {
                if let Some(number) = number {
                    self.problem(number.span(), key, "says nothing without a target");
                }
            }
        }
        if !has_drill {
            self.says_nothing(&drill, "a drill");
        }
        let found = Thresholds {
            age: self.ages([("warn_age", raw.warn_age), ("crit_age", raw.crit_age)]),
            replica_age: self.ages(replica),
            drill_age: self.ages(drill),
            verify_age: self.ages(verify),
            base_days: self.days(days),
            chain: self.chain(chain),
            restore: self.restore(restore),
            free: self.free(raw.warn_free, raw.crit_free),
        };
        if !found.is_set() && self.problems.len() == n_problems {
            let what = "says nothing: at least one of warn_age, crit_age, warn_replica_age, crit_replica_age, warn_drill_age, crit_drill_age, \
                        warn_verify_age, crit_verify_age, warn_base_days, crit_base_days, warn_chain, crit_chain, warn_restore, crit_restore, \
                        warn_free, crit_free";
            self.problem(span, "", what);
        }
        self.key.pop();
        found
    }

    fn says_nothing(&mut self, keys: &[(&str, Option<Text>)], without: &str) {
        for (key, text) in keys {
            if let Some(text) = text {
                self.problem(text.span(), key, format!("says nothing without {without}"));
            }
        }
    }

    /// As on the command line; what is critical is older than what is warned of.
    fn ages(&mut self, [warn, crit]: [(&str, Option<Text>); 2]) -> Pair<Span> {
        let span = |text: &Option<Text>| text.as_ref().map(Text::span);
        let (at, keys) = (span(&crit.1), [warn.0, crit.0]);
        let mut read = |(key, text): (&str, Option<Text>)| self.parsed(key, text?, value::span);
        let found = Pair { warn: read(warn), crit: read(crit) };
        if let (Some(warn), Some(crit), Some(at)) = (found.warn, found.crit, at)
            && !is_longer(crit, warn)
        {
            self.problem(
                at,
                keys[1],
                format!("is not longer than {}, which is never warned of then", keys[0]),
            );
        }
        found
    }

    /// What is critical is fewer than what is warned of.
    fn days(&mut self, [warn, crit]: [(&str, Option<Spanned<u32>>); 2]) -> Pair<u32> {
        let number = |number: &Option<Spanned<u32>>| number.as_ref().map(|number| *number.get_ref());
        let found = Pair { warn: number(&warn.1), crit: number(&crit.1) };
        let usual = Limits::default();
        let least = found.warn.unwrap_or(usual.warn_base_days);
        let worst = found.crit.unwrap_or(usual.crit_base_days);
        if worst > least
            && let Some((key, Some(at))) = [crit, warn].into_iter().find(|(_, number)| number.is_some())
        {
            let what = format!(
                "critical below {worst} days, and a warning below {least}: the second one has to be the larger one"
            );
            self.problem(at.span(), key, what);
        }
        found
    }

    /// What is critical is more than what is warned of.
    fn chain(&mut self, [warn, crit]: [(&str, Option<Spanned<u64>>); 2]) -> Pair<u64> {
        let number = |number: &Option<Spanned<u64>>| number.as_ref().map(|number| *number.get_ref());
        for (key, number) in [&warn, &crit] {
            if let Some(none) = number.as_ref().filter(|number| *number.get_ref() == 0) {
                self.problem(none.span(), key, value::NO_LIMIT);
            }
        }
        let found = Pair { warn: number(&warn.1), crit: number(&crit.1) };
        self.more(found, (crit.0, crit.1.as_ref().map(Spanned::span)), warn.0);
        found
    }

    fn restore(&mut self, [warn, crit]: [(&str, Option<Text>); 2]) -> Pair<u64> {
        let (at, keys) = (crit.1.as_ref().map(Text::span), [warn.0, crit.0]);
        let mut read = |(key, text): (&str, Option<Text>)| self.parsed(key, text?, value::most_bytes);
        let found = Pair { warn: read(warn), crit: read(crit) };
        self.more(found, (keys[1], at), keys[0]);
        found
    }

    fn more(&mut self, found: Pair<u64>, (key, at): (&str, Option<Range<usize>>), warn: &str) {
        if let (Pair { warn: Some(least), crit: Some(worst) }, Some(at)) = (found, at)
            && worst <= least
        {
            self.problem(at, key, format!("is not more than {warn}, which is never warned of then"));
        }
    }

    fn free(&mut self, warn: Option<Spanned<Percent>>, crit: Option<Spanned<Percent>>) -> Pair<f64> {
        let at: Option<Range<usize>> = crit.as_ref().or(warn.as_ref()).map(Spanned::span);
        let key = if crit.is_some() { "crit_free" } else { "warn_free" };
        let mut read = |key: &str, number: Option<Spanned<Percent>>| {
            let number = number?;
            let valid = value::percent(&number.get_ref().number().to_string());
            valid.map_err(|why| self.problem(number.span(), key, why)).ok()
        };
        let found = Pair { warn: read("warn_free", warn), crit: read("crit_free", crit) };
        let usual = Limits::default();
        let [warn, crit] = [found.warn.unwrap_or(usual.warn_free), found.crit.unwrap_or(usual.crit_free)];
        if let Some(at) = at
            && crit > warn
        {
            let what = format!(
                "critical below {crit} %, and a warning below {warn} %: the second one has to be the larger one"
            );
            self.problem(at, key, what);
        }
        found
    }
}

/// Months and years as they are from a day on that is as good as any other.
fn is_longer(one: Span, other: Span) -> bool {
    one.compare((other, date(2026, 1, 1))).is_ok_and(|order| order == Ordering::Greater)
}
