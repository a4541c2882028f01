//! How long ago it was proven that what is there is good: by a rehearsed restore, and by comparing.

use jiff::Timestamp;

use super::{AHEAD, About, Facts, Found, State, Target, past, roughly};
use crate::model::JobRecord;
use crate::model::run::{Op, Subject};

impl Found<'_> {
    /// One that failed is told by its tally.
    pub(super) fn of_drill(&mut self, facts: &Facts, now: Timestamp) {
        let Ok(record) = &facts.record else { return };
        let tally = record.as_ref().and_then(|record| record.tally(&Subject::of_job(Op::Drill)));
        let last = tally.and_then(|tally| tally.last_success);
        let limits = facts.limits.drill_age;
        let from = tally.and_then(|tally| tally.from.as_ref());
        let from = from.map_or_else(String::new, |from| format!(" from {from}"));
        let (state, what) = match last.map(|last| now.duration_since(last)) {
            _ if !facts.has_drill => return,
            // A clock that was ahead has told nothing.
            Some(age) if age < -AHEAD => {
                let what = "the last rehearsal of its restore is from the future: see to the clock";
                (State::Warning, what.into())
            }
            Some(age) => match past(limits, age) {
                State::Ok => return,
                state => {
                    let age = roughly(age);
                    (state, format!("the last rehearsal of its restore{from} that went well is {age} old"))
                }
            },
            None => {
                let since = record.as_ref().map_or(now, |record| record.since);
                let state = past(limits, now.duration_since(since)).max(State::Warning);
                (state, "its restore was never rehearsed: cowsnap drill".into())
            }
        };
        self.add(state, About::Drill, what);
    }

    /// One that found something is told by its tally. Nobody has to compare anything unless there is a limit.
    pub(super) fn of_verify(&mut self, target: &Target, facts: &Facts, now: Timestamp) {
        let limits = facts.limits.verify_age;
        let (Ok(record), true) = (&facts.record, limits.is_set()) else { return };
        let Target { dataset, to, .. } = target;
        let last = record.as_ref().and_then(|record| last_verified(record, dataset, to));
        let (state, what) = match last.map(|last| now.duration_since(last)) {
            Some(age) if age < -AHEAD => {
                let what =
                    format!("the last verify of {dataset} against {to} is from the future: see to the clock");
                (State::Warning, what)
            }
            Some(age) => {
                let what = format!(
                    "the last verify of {dataset} against {to} that found nothing is {} old",
                    roughly(age)
                );
                (past(limits, age), what)
            }
            None => {
                let since = record.as_ref().map_or(now, |record| record.since);
                let state = past(limits, now.duration_since(since)).max(State::Warning);
                (state, format!("{dataset} was never compared with {to}: {}", verify(dataset, to)))
            }
        };
        if state != State::Ok {
            self.add(state, About::Verify, what);
        }
    }
}

/// When a target was compared last and nothing was found, however thoroughly.
fn last_verified(record: &JobRecord, dataset: &str, to: &str) -> Option<Timestamp> {
    let last = |op| record.tally(&Subject::of_target(op, dataset, to))?.last_success;
    [Op::Verify, Op::VerifyContent].into_iter().filter_map(last).max()
}

/// The command that compares.
fn verify(dataset: &str, to: &str) -> String {
    match to.contains("://") && !to.starts_with("ssh://") {
        true => format!("cowsnap archive verify {to}"),
        false => format!("cowsnap verify {dataset} --against {to}"),
    }
}
