//! Services that are down: since when, and how long they may be.

use jiff::{SignedDuration, Timestamp};

use super::{About, Facts, Found, State, roughly};
use crate::model::run::{Op, Subject};

/// What is known of the time that services are down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Down {
    /// Since when those are that are stopped now.
    pub since: Option<Timestamp>,
    /// How long a run may take until they run again, as it has limits for each step of that.
    pub patience: Option<SignedDuration>,
    /// How long the job says that they may be down.
    pub max: Option<SignedDuration>,
}

impl Down {
    /// How bad it is that they are down for so long while a run is at work.
    fn state(&self, age: SignedDuration) -> State {
        let is_past = |limit: Option<SignedDuration>| limit.is_some_and(|limit| age > limit);
        match self.patience.map(|patience| self.max.map_or(patience, |max| max.max(patience))) {
            limit if is_past(limit) => State::Critical,
            _ if is_past(self.max) => State::Warning,
            _ => State::Ok,
        }
    }
}

impl Found<'_> {
    /// A run that is at work is to start them; one that hangs does not.
    pub(super) fn of_services(&mut self, facts: &Facts, now: Timestamp) {
        let services = match &facts.stopped {
            Err(why) => {
                let what = format!("what is stopped can not be read: {why}");
                return self.add(State::Unknown, About::Unseen, what);
            }
            Ok(services) if services.is_empty() => return,
            Ok(services) => services.join(", "),
        };
        if !facts.is_at_work {
            let what = format!("{services} was stopped and not started again: cowsnap job recover");
            return self.add(State::Critical, About::Failed, what);
        }
        let Some(age) = facts.down.since.map(|since| now.duration_since(since)) else { return };
        let state = facts.down.state(age);
        if state != State::Ok {
            let what = format!("{services} is stopped for {} by a run that is at work still", roughly(age));
            self.add(state, About::Failed, what);
        }
    }

    /// The last time that they were down is over, and was too long: nothing failed, and somebody was kept waiting.
    pub(super) fn of_downtime(&mut self, facts: &Facts) {
        let Some((last, max)) = downtime(facts).zip(facts.down.max) else { return };
        if last > max {
            let (last, max) = (exactly(last), exactly(max));
            let what = format!("services were down for {last} the last time, and max_downtime is {max}");
            self.add(State::Warning, About::Downtime, what);
        }
    }

    pub(super) fn of_units(&mut self, facts: &Facts) {
        for (unit, has_failed) in &facts.units {
            match has_failed {
                Ok(false) => {}
                Ok(true) => self.add(State::Critical, About::Failed, format!("{unit} has failed")),
                Err(why) => {
                    let what = format!("whether {unit} has failed can not be asked: {why}");
                    self.add(State::Unknown, About::Unseen, what);
                }
            }
        }
    }
}

/// How long services were down the last time.
pub fn downtime(facts: &Facts) -> Option<SignedDuration> {
    let record = facts.record.as_ref().ok()?.as_ref()?;
    let ms = record.tally(&Subject::of_job(Op::Quiesce))?.last_downtime_ms?;
    Some(SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
}

/// `320 ms`, `12 s`, `3 min`: what is short is told as it is.
pub fn exactly(time: SignedDuration) -> String {
    match time.as_millis() {
        ms @ 0..10_000 => format!("{ms} ms"),
        _ => roughly(time),
    }
}
