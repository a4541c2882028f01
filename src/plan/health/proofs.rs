//! How long ago it was proven that what is there is good: by a rehearsed restore, and by comparing.

use jiff::{SignedDuration, Timestamp};

use super::{AHEAD, About, Facts, Found, State, Target, past, roughly};
use crate::model::JobRecord;
use crate::model::run::{Op, Subject, Tally};

impl Found<'_> {
    /// One that failed is told by its tally.
    pub(super) fn of_drill(&mut self, facts: &Facts, now: Timestamp) {
        let Ok(record) = &facts.record else { return };
        let tally = record.as_ref().and_then(|record| record.tally(&Subject::of_job(Op::Drill)));
        let last = tally.and_then(|tally| tally.last_success);
        let limits = facts.limits.drill_age;
        let from = tally.and_then(|tally| tally.from.as_ref());
        let from = from.map_or_else(String::new, |from| format!(" from {from}"));
        let old = tally.and_then(age_of_drilled);
        let (state, what) = match last.map(|last| now.duration_since(last)) {
            _ if !facts.has_drill => return,
            // A clock that was ahead has told nothing.
            Some(age) if age < -AHEAD => {
                let what = "the last rehearsal of its restore is from the future: see to the clock";
                (State::Warning, what.into())
            }
            // What was good that long before says nothing of what is taken now.
            Some(age) if old.is_some_and(|old| old > age && past(limits, old) != State::Ok) => {
                let old = old.unwrap_or(age);
                let (age, what) = (roughly(old), "the last rehearsal of its restore");
                (
                    past(limits, old),
                    format!("{what}{from} that went well was of a snapshot that was {age} old"),
                )
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

/// How old the snapshot was of the last rehearsal that went well.
fn age_of_drilled(tally: &Tally) -> Option<SignedDuration> {
    Some(tally.last_success?.duration_since(tally.up_to?))
}

/// How long ago a restore was proven: when it was rehearsed, or as old as the snapshot was then if that is more.
pub fn drilled(facts: &Facts, now: Timestamp) -> Option<SignedDuration> {
    let tally = facts.record.as_ref().ok()?.as_ref()?.tally(&Subject::of_job(Op::Drill))?;
    let age = now.duration_since(tally.last_success?);
    Some(age_of_drilled(tally).map_or(age, |old| old.max(age)))
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
