//! What somebody is to hear of a run who has not yet: that it goes well again, and that it was killed. Nobody else tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::said::{CLAIM, Hearer, claim};
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
    /// When somebody began to tell it, who has not said that he has, or could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Timestamp>,
    /// How often somebody could not be told.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failed: u32,
}

fn is_none(n: &u32) -> bool {
    *n == 0
}

/// So often it is tried again at once.
const AT_ONCE: u32 = 3;
/// The longest pause between two attempts to tell it, in seconds.
const LONGEST: i64 = 6 * 60 * 60;

impl Unheard {
    fn new(at: Timestamp, why: Failure, whom: Vec<Hearer>) -> Self {
        Self { at, why, whom, claimed: None, failed: 0 }
    }

    /// Whether nobody else is about to tell it, and it is time: who could not be told three times is tried again after two minutes, four, and so on.
    pub fn claim(&mut self, now: Timestamp) -> bool {
        let pause = CLAIM << self.failed.saturating_sub(AT_ONCE).min(16);
        claim(&mut self.claimed, now, pause.min(LONGEST))
    }

    /// Whoever was about to tell it has told these.
    pub fn was_heard(&mut self, by: &[Hearer]) {
        self.whom.retain(|whom| !by.contains(whom));
        self.failed = self.failed.saturating_add(u32::from(!self.whom.is_empty()));
        // The next one may try it at once.
        self.claimed.take_if(|_| self.failed < AT_ONCE);
    }
}

impl JobRecord {
    /// The run that was over at `at` went well, and the one before had not, which is why. These are to hear of it.
    pub fn is_well_again(&mut self, at: Timestamp, why: Failure, whom: Vec<Hearer>) {
        self.over = Some(Unheard::new(at, why, whom)).filter(|over| !over.whom.is_empty());
    }

    /// A run went well, which is pinged: what is pinged is not to hear later that one before was killed.
    pub fn has_no_ping_left(&mut self) {
        self.killed.iter_mut().for_each(|killed| killed.whom.retain(|&whom| whom != Hearer::Ping));
        self.again.iter_mut().for_each(|again| again.heard.push(Hearer::Ping));
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

    /// The hook was called, and failed: it is called of the next failure, whatever that is.
    pub fn was_not_called(&mut self) {
        self.called = None;
    }

    /// The run that has begun and is not over was killed, and has left nothing to be started: these are to hear of it, but for people who have heard that of one
    /// before, as of whatever fails again. Of one that has left something, whoever starts that tells.
    pub fn was_killed(&mut self, mut whom: Vec<Hearer>) {
        let Some(running) = self.untold() else { return };
        let (at, why) = (running.since, killed(running.pid));
        whom.retain(|whom| whom.channel().is_none_or(|channel| self.is_news(channel, at, Some(&why))));
        self.killed = Some(Unheard::new(at, why, whom));
    }

    /// The run that has begun, unless somebody was told, or is to be, that it was killed.
    pub fn untold(&self) -> Option<&Running> {
        let running = self.running.as_ref()?;
        let is_told = self.killed.as_ref().is_some_and(|killed| killed.at == running.since);
        let is_of_it = |again: &Again| again.of.map_or(again.at >= running.since, |of| of == running.since);
        let has_left = |again: &Again| again.is_of_killed() && is_of_it(again);
        (!is_told && !self.again.as_ref().is_some_and(has_left)).then_some(running)
    }

    /// These have heard that the run which had begun at `at` was killed.
    pub fn was_heard_killed(&mut self, at: Timestamp, by: &[Hearer]) {
        let Some(killed) = self.killed.as_mut().filter(|killed| killed.at == at) else { return };
        let heard = by.iter().filter(|whom| killed.whom.contains(whom));
        let people: Vec<Channel> = heard.filter_map(|whom| whom.channel()).collect();
        let why = killed.why.clone();
        killed.was_heard(by);
        people.into_iter().for_each(|channel| self.was_told(channel, at, Some(&why)));
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
    fn a_run_that_was_killed_is_told_once_unless_whoever_starts_what_it_has_left_tells_it_or_people_know() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let mut record = JobRecord::new("node", at(0));
        record.was_killed(vec![Hearer::Mail]);
        assert_eq!(record.killed, None);
        for began in [1, 5] {
            record.begin(at(began), 7);
            assert!(record.untold().is_some());
            record.was_killed(vec![Hearer::Mail, Hearer::Ping]);
            assert_eq!(record.untold(), None);
            let mail = record.killed.as_ref().map(|killed| killed.whom.contains(&Hearer::Mail));
            assert_eq!(mail, Some(began == 1), "people hear it once a day");
            record.was_heard_killed(at(began + 1), &Hearer::ALL);
            record.was_heard_killed(at(began), &[Hearer::Mail]);
            let killed = record.killed.clone().expect("it is known");
            assert_eq!((killed.at, killed.whom), (at(began), vec![Hearer::Ping]));
            record.has_no_ping_left();
            assert!(
                record.killed.as_ref().is_some_and(|killed| killed.whom.is_empty()),
                "it went well since"
            );
            assert!(
                killed.why.class == UNENDED && killed.why.text.contains("process 7 "),
                "{:?}",
                killed.why
            );
        }
        let day = 20 * 60 * 60;
        for (began, goes_well, hears) in [(day, false, false), (day + 1, false, true), (day + 2, true, true)]
        {
            if goes_well {
                record.was_told(Channel::Mail, at(began), None);
            }
            record.begin(at(began), 7);
            record.was_killed(vec![Hearer::Mail]);
            assert_eq!(record.killed.as_ref().map(|killed| !killed.whom.is_empty()), Some(hears), "{began}");
            record.was_heard_killed(at(began), &[Hearer::Mail]);
        }
        let at = |second| at(2 * day + second);
        record.begin(at(9), 8);
        assert!(record.untold().is_some());
        record.recovered(at(10), &["a.service".to_owned()], None, None);
        assert_eq!(record.untold(), None);
        // The next run starts what that one had left, and is killed itself.
        record.begin(at(11), 9);
        record.recovered(at(12), &["a.service".to_owned()], None, Some(at(11)));
        assert!(record.again.as_ref().is_some_and(|again| again.is_of_killed() && again.of == Some(at(9))));
        assert_eq!(record.untold().map(|running| running.pid), Some(9));
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
        let mut claims = |second| record.over.as_mut().is_some_and(|over| over.claim(at(second)));
        assert!(claims(5), "it can be told again");
        for _ in 1..AT_ONCE {
            record.was_heard_over(at(2), &[]);
            record
                .over
                .iter_mut()
                .filter(|over| over.failed < AT_ONCE)
                .for_each(|over| assert!(over.claim(at(5))));
        }
        let mut claims = |second| record.over.as_mut().is_some_and(|over| over.claim(at(second)));
        assert_eq!([6, 4 + CLAIM, 5 + CLAIM].map(&mut claims), [false, false, true]);
        // Each time later, and never more than that.
        for n in 1..30 {
            record.was_heard_over(at(2), &[]);
            let claimed = record.over.as_ref().and_then(|over| over.claimed).expect("it is").as_second();
            let pause = (CLAIM << n.min(16)).min(LONGEST);
            let mut claims = |second| record.over.as_mut().is_some_and(|over| over.claim(at(second)));
            assert_eq!([claimed + pause - 1, claimed + pause].map(&mut claims), [false, true], "{n}");
        }
        record.was_heard_over(at(2), &[Hearer::Command]);
        assert_eq!(record.over, None);
    }
}
