//! From when on `cowsnap check` finds a job not well, in words.

use jiff::Span;

use crate::plan::health::{Pair, Thresholds};
use crate::pool::size::human;

/// What differs from what is usual.
pub(super) fn check(set: &Thresholds) -> String {
    let span = |span: Span| format!("{span:#}");
    let mut all = Vec::new();
    let mut older = |what: &str, pair: Pair<Span>| {
        let said = said(pair, "after", span);
        all.extend(said.map(|said| format!("{what} {said}")));
    };
    older("a newest snapshot", set.age);
    older("what a target has", set.replica_age);
    older("a rehearsal that went well", set.drill_age);
    older("a comparison that found nothing", set.verify_age);
    let days = said(set.base_days, "below", |days| format!("{days} days"));
    all.extend(days.map(|said| format!("a base that is there {said}")));
    let chain = said(set.chain, "above", |most| format!("{most} containers"));
    all.extend(chain.map(|said| format!("an archive's chain {said}")));
    let restore = said(set.restore, "above", human);
    all.extend(restore.map(|said| format!("what a restore from an archive takes {said}")));
    let free = said(set.free, "below", |percent| format!("{percent} %"));
    all.extend(free.map(|said| format!("free space {said}")));
    format!("is not well, says cowsnap check, by: {}", all.join("; "))
}

/// `a warning after 26h, critical after 50h`
fn said<T>(pair: Pair<T>, word: &str, text: impl Fn(T) -> String) -> Option<String> {
    let one = |name: &str, limit: Option<T>| limit.map(|limit| format!("{name} {word} {}", text(limit)));
    let both: Vec<_> =
        [one("a warning", pair.warn), one("critical", pair.crit)].into_iter().flatten().collect();
    (!both.is_empty()).then(|| both.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_said_and_nothing_else() {
        let span = |text: &str| text.parse().ok();
        let set = Thresholds {
            age: Pair { warn: span("26h"), crit: span("2d") },
            drill_age: Pair { warn: None, crit: span("3mo") },
            verify_age: Pair { warn: span("8d"), crit: None },
            base_days: Pair { warn: Some(5), crit: None },
            chain: Pair { warn: Some(30), crit: Some(60) },
            restore: Pair { warn: Some(2 << 30), crit: None },
            free: Pair { warn: Some(12.5), crit: None },
            ..Thresholds::default()
        };
        assert_eq!(
            check(&set),
            "is not well, says cowsnap check, by: a newest snapshot a warning after 26h, critical after 2d; \
             a rehearsal that went well critical after 3mo; a comparison that found nothing a warning after 8d; \
             a base that is there a warning below 5 days; an archive's chain a warning above 30 containers, critical above 60 containers; \
             what a restore from an archive takes a warning above 2.0 GiB; free space a warning below 12.5 %"
        );
    }
}
