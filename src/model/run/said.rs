//! What somebody was told of that may fail each minute, and is no run: once, again when a day is over, and that it is over.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JobRecord, Op, Subject, Tally};
use crate::model::notify::Channel;

/// Who hears of what is no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hearer {
    /// Who reads what the command says.
    Command,
    /// Who reads mail.
    Mail,
    /// What is pinged.
    Ping,
    /// The hook `on_failure`.
    Hook,
}

impl Hearer {
    /// All.
    pub const ALL: [Self; 4] = [Self::Command, Self::Mail, Self::Ping, Self::Hook];

    /// By what people hear it; `None` for what is no person.
    pub fn channel(self) -> Option<Channel> {
        match self {
            Self::Command => Some(Channel::Command),
            Self::Mail => Some(Channel::Mail),
            Self::Ping | Self::Hook => None,
        }
    }
}

/// That somebody was told of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who.
    pub whom: Hearer,
    /// When.
    pub at: Timestamp,
    /// Of which class it was.
    pub class: String,
    /// And that it is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_over: bool,
}

/// How long whoever tells something may be at that.
pub(super) const CLAIM: i64 = 2 * 60;

/// Whether nobody else is about to tell it: a guard, and whoever waited for it, would both.
pub(super) fn claim(claimed: &mut Option<Timestamp>, now: Timestamp, pause: i64) -> bool {
    let gone = claimed.map(|claimed| now.as_second() - claimed.as_second());
    let is_free = gone.is_none_or(|gone| !(0..pause).contains(&gone));
    if is_free {
        *claimed = Some(now);
    }
    is_free
}

/// What fails still is told again after so long: as of runs.
const DAY: i64 = 20 * 60 * 60;
/// What comes and goes is told no more often.
const PAUSE: i64 = 60 * 60;

impl Tally {
    fn is_to_hear(&self, whom: Hearer, class: &str, now: Timestamp) -> bool {
        let Some(said) = self.said.iter().find(|said| said.whom == whom) else { return true };
        // Services that are down once more are no trigger that comes and goes.
        if said.is_over && self.subject.op == Op::Recover {
            return true;
        }
        let pause = if said.is_over || said.class != class { PAUSE } else { DAY };
        // A clock that was ahead keeps nobody in the dark.
        !(0..pause).contains(&(now.as_second() - said.at.as_second()))
    }

    /// Who believes that it fails.
    pub fn who_believes(&self) -> Vec<Hearer> {
        self.said.iter().filter(|said| !said.is_over).map(|said| said.whom).collect()
    }
}

impl JobRecord {
    /// Who is to hear now that it fails.
    pub fn who_is_to_hear(&self, subject: &Subject, class: &str, now: Timestamp) -> Vec<Hearer> {
        let tally = self.tally(subject);
        let is_to_hear = |whom: &Hearer| tally.is_none_or(|tally| tally.is_to_hear(*whom, class, now));
        Hearer::ALL.into_iter().filter(is_to_hear).collect()
    }

    /// Whether nobody else is about to tell how it is.
    pub fn claim(&mut self, subject: &Subject, now: Timestamp) -> bool {
        claim(&mut self.tally_mut(subject).claimed, now, CLAIM)
    }

    /// Whoever was about to tell how it is has done so, or could not.
    pub fn release(&mut self, subject: &Subject) {
        self.tally_mut(subject).claimed = None;
    }

    /// `whom` has heard that it fails.
    pub fn was_said(&mut self, subject: &Subject, whom: Hearer, class: &str, at: Timestamp) {
        let said = &mut self.tally_mut(subject).said;
        said.retain(|said| said.whom != whom);
        said.push(Said { whom, at, class: class.into(), is_over: false });
    }

    /// These have heard that it is over, or need not.
    pub fn was_said_over(&mut self, subject: &Subject, to: &[Hearer]) {
        let said = self.tally_mut(subject).said.iter_mut();
        said.filter(|said| to.contains(&said.whom)).for_each(|said| said.is_over = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("as it was made")
    }

    #[test]
    fn services_that_are_down_once_more_are_told_at_once() {
        let subject = Subject::of_job(Op::Recover);
        let mut record = JobRecord::new("node", at(0));
        record.was_said(&subject, Hearer::Mail, "internal", at(1000));
        let hears = |record: &JobRecord, second| {
            record.who_is_to_hear(&subject, "internal", at(second)).contains(&Hearer::Mail)
        };
        assert!(!hears(&record, 1060) && !hears(&record, 1000 + PAUSE));
        record.was_said_over(&subject, &[Hearer::Mail]);
        assert!(hears(&record, 1060));
        record.was_said(&subject, Hearer::Mail, "internal", at(1060));
        assert!(!hears(&record, 1120));
    }

    #[test]
    fn who_is_about_to_tell_keeps_others_from_it_until_he_has_or_is_late() {
        let subject = Subject::of_job(Op::Recover);
        let mut record = JobRecord::new("node", at(0));
        let claims = [20, 21, 20 + CLAIM, 21].map(|second| record.claim(&subject, at(second)));
        assert_eq!(
            claims,
            [true, false, true, true],
            "one who died, or whose clock was ahead, keeps nobody from it"
        );
        record.release(&subject);
        assert!(record.claim(&subject, at(22)));
    }

    #[test]
    fn what_fails_each_minute_is_told_once_a_day_and_what_comes_and_goes_once_an_hour() {
        let subject = Subject::of_job(Op::Trigger);
        let mut record = JobRecord::new("node", at(0));
        let hears = |record: &JobRecord, class, second| {
            record.who_is_to_hear(&subject, class, at(second)).contains(&Hearer::Mail)
        };
        assert_eq!(record.who_is_to_hear(&subject, "usage", at(0)), Hearer::ALL);
        record.was_said(&subject, Hearer::Mail, "usage", at(1000));
        let told: Vec<_> =
            (1..30 * 60).filter(|minute| hears(&record, "usage", 1000 + minute * 60)).collect();
        assert_eq!(told.first(), Some(&(20 * 60)));
        // Another failure is told, but not each minute in turn with the first.
        assert!(!hears(&record, "unreachable", 1060) && hears(&record, "unreachable", 1000 + PAUSE));
        assert!(hears(&record, "usage", 500), "the clock was ahead");
        // Nobody else was told.
        assert!(record.who_is_to_hear(&subject, "usage", at(1060)).contains(&Hearer::Hook));
        assert_eq!(record.tally(&subject).expect("there is one").who_believes(), [Hearer::Mail]);
        record.was_said_over(&subject, &Hearer::ALL);
        assert!(record.tally(&subject).expect("there is one").who_believes().is_empty());
        assert!(!hears(&record, "usage", 1000 + PAUSE - 60) && hears(&record, "usage", 1000 + PAUSE));
    }
}
