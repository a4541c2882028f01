//! What somebody is to hear of a run who has not yet: that it goes well again, and that it was killed. Nobody else tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::said::{Hearer, claim};
use super::{Again, Failure, JobRecord, Running, Told, UNENDED};
use crate::model::notify::{Channel, is_new};

/// That.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    /// When it was.
    pub at: Timestamp,
    /// What had failed, or that it was killed.
    pub why: Failure,
    /// Who has not heard it.
    pub whom: Vec<Hearer>,
    /// When somebody began to tell it, who has not said that he has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Timestamp>,
}

impl Unheard {
    /// Whether nobody else is about to tell it.
    pub fn claim(&mut self, now: Timestamp) -> bool {
        claim(&mut self.claimed, now)
    }

    /// Whoever was about to tell it has told these.
    pub fn was_heard(&mut self, by: &[Hearer]) {
        self.whom.retain(|whom| !by.contains(whom));
        self.claimed = None;
    }
}

impl JobRecord {
    /// The run that was over at `at` went well, and the one before had not, which is why. These are to hear of it.
    pub fn is_well_again(&mut self, at: Timestamp, why: Failure, whom: Vec<Hearer>) {
        self.over = Some(Unheard { at, why, whom, claimed: None }).filter(|over| !over.whom.is_empty());
    }

    /// `whom` was about to be told of the failure of that time, and was not.
    pub fn was_not_told(&mut self, whom: Channel, at: Timestamp) {
        let told = match whom {
            Channel::Command => &mut self.told,
            Channel::Mail => &mut self.mailed,
        };
        told.take_if(|told| told.at == at);
    }

    /// Whether the hook `on_failure` is to be called of this now, which is written down. What only `repeats` what failed a minute ago is no news, as to people.
    pub fn is_to_call(&mut self, now: Timestamp, failure: &Failure, repeats: bool) -> bool {
        let called = self.called.as_ref().map(|called| (called.class.as_str(), called.at.as_second()));
        let is_to_call = !repeats || is_new(called, &failure.class, now.as_second());
        if is_to_call {
            self.called = Some(Told { at: now, class: failure.class.clone() });
        }
        is_to_call
    }

    /// The run that has begun and is not over was killed, and has left nothing to be started: these are to hear of it. Of one that has, whoever starts that tells.
    pub fn was_killed(&mut self, whom: Vec<Hearer>) {
        let Some(running) = self.untold() else { return };
        let (at, why) = (running.since, killed(running.pid));
        self.killed = Some(Unheard { at, why, whom, claimed: None });
    }

    /// The run that has begun, unless somebody was told, or is to be, that it was killed.
    pub fn untold(&self) -> Option<&Running> {
        let running = self.running.as_ref()?;
        let is_told = self.killed.as_ref().is_some_and(|killed| killed.at == running.since);
        let has_left = |again: &Again| again.is_of_killed() && again.at >= running.since;
        (!is_told && !self.again.as_ref().is_some_and(has_left)).then_some(running)
    }

    /// These have heard that the run which had begun at `at` was killed.
    pub fn was_heard_killed(&mut self, at: Timestamp, by: &[Hearer]) {
        self.killed.iter_mut().filter(|killed| killed.at == at).for_each(|killed| killed.was_heard(by));
    }

    /// These have heard that the run which was over at `at` went well.
    pub fn was_heard_over(&mut self, at: Timestamp, by: &[Hearer]) {
        let Some(over) = self.over.as_mut().filter(|over| over.at == at) else { return };
        over.was_heard(by);
        self.over.take_if(|over| over.whom.is_empty());
    }
}

/// Why a run has failed whose process did not come to its end.
pub(super) fn killed(pid: u32) -> Failure {
    let text = format!("process {pid} did not come to its end: it was killed, or the machine went down");
    Failure::new(UNENDED, &text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::run::{Op, Outcome, Subject};

    #[test]
    fn each_run_that_was_killed_is_told_once_unless_whoever_starts_what_it_has_left_tells_it() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let mut record = JobRecord::new("node", at(0));
        record.was_killed(vec![Hearer::Mail]);
        assert_eq!(record.killed, None);
        for began in [1, 5] {
            record.begin(at(began), 7);
            assert!(record.untold().is_some());
            record.was_killed(vec![Hearer::Mail, Hearer::Ping]);
            assert_eq!(record.untold(), None);
            record.was_heard_killed(at(began + 1), &Hearer::ALL);
            record.was_heard_killed(at(began), &[Hearer::Mail]);
            let killed = record.killed.clone().expect("it is known");
            assert_eq!((killed.at, killed.whom), (at(began), vec![Hearer::Ping]));
            assert!(
                killed.why.class == UNENDED && killed.why.text.contains("process 7 "),
                "{:?}",
                killed.why
            );
        }
        record.begin(at(9), 8);
        assert!(record.untold().is_some());
        record.recovered(at(10), &["a.service".to_owned()], None, None);
        assert_eq!(record.untold(), None);
    }

    #[test]
    fn a_hook_is_called_of_each_failure_but_of_one_that_is_repeated_once_a_day_until_it_is_another() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let mut record = JobRecord::new("node", at(0));
        let mut calls =
            |second, class, repeats| record.is_to_call(at(second), &Failure::new(class, "it fails"), repeats);
        assert!(calls(1, "usage", false) && calls(60, "usage", false));
        assert!(!calls(120, "usage", true) && !calls(180, "usage", true));
        assert!(calls(240, "internal", true) && !calls(300, "internal", true));
        assert!(calls(300 + 20 * 60 * 60, "internal", true));
        let run = Outcome::done(Subject::of_job(Op::Run), at(1), Duration::ZERO);
        record.end(at(1), vec![run], |_| true);
        assert!(record.is_to_call(at(400 + 20 * 60 * 60), &Failure::new("internal", "it fails"), true));
    }

    #[test]
    fn that_it_is_well_again_is_known_until_all_have_heard_it() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let mut record = JobRecord::new("node", at(0));
        let why = Failure::new("unreachable", "no route");
        record.is_well_again(at(1), why.clone(), Vec::new());
        assert_eq!(record.over, None);
        record.is_well_again(at(2), why, vec![Hearer::Command, Hearer::Mail]);
        let claims = [3, 4].map(|second| record.over.as_mut().is_some_and(|over| over.claim(at(second))));
        assert_eq!(claims, [true, false]);
        record.was_heard_over(at(2), &[Hearer::Mail]);
        record.was_heard_over(at(1), &[Hearer::Command]);
        assert_eq!(record.over.as_ref().map(|over| over.whom.clone()), Some(vec![Hearer::Command]));
        assert!(record.over.as_mut().is_some_and(|over| over.claim(at(5))), "it can be told again");
        record.was_heard_over(at(2), &[Hearer::Command]);
        assert_eq!(record.over, None);
    }
}
