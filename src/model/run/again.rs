//! That services run again which a run had left stopped: nobody else tells whoever is to know.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::said::{CLAIM, Hearer, claim};
use super::unheard::killed;
use super::{Failure, JobRecord, Op, Outcome, Subject, UNENDED, bounded, milliseconds};

/// That they do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Since when.
    pub at: Timestamp,
    /// Which.
    pub services: String,
    /// How long they were down, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_ms: Option<u64>,
    /// Why its run did not do it.
    pub why: Failure,
    /// When that had begun, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Timestamp>,
    /// Who has heard of it.
    #[serde(default)]
    pub heard: Vec<Hearer>,
    /// When somebody began to tell it, who has not said that he has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Timestamp>,
}

impl Again {
    /// Whether their run was killed, of which nobody was told yet.
    pub fn is_of_killed(&self) -> bool {
        self.why.class == UNENDED
    }

    /// Whether nobody else is about to tell it.
    pub fn claim(&mut self, now: Timestamp) -> bool {
        claim(&mut self.claimed, now, CLAIM)
    }
}

impl JobRecord {
    /// Nothing is left to be started: it was given up, or a run has found all as it should be. That it failed is over, and the next time is another one.
    pub fn nothing_is_left(&mut self) {
        let subject = Subject::of_job(Op::Recover);
        let Some(tally) = self.tallies.iter_mut().find(|tally| tally.subject == subject) else { return };
        tally.in_a_row = Some(0);
        tally.said.iter_mut().for_each(|said| said.is_over = true);
    }

    /// Services that a run had left stopped run again, after so long: it could not say that itself. `run` is that which says so, by when it
    /// began, if it is one: in a container each has the same number of a process.
    pub fn recovered(
        &mut self,
        now: Timestamp,
        services: &[String],
        down: Option<Duration>,
        run: Option<Timestamp>,
    ) {
        down.into_iter().for_each(|down| self.was_down(down));
        let subject = Subject::of_job(Op::Recover);
        self.note(Outcome::done(subject.clone(), now, Duration::ZERO));
        self.was_said_over(&subject, &Hearer::ALL);
        // The next time that they are down is another one, whoever has heard of this.
        (self.told, self.mailed) = (None, None);
        let other = self.running.as_ref().filter(|running| Some(running.since) != run);
        let (of, why) = match (other, &self.last_run) {
            (Some(other), _) => (Some(other.since), killed(other.pid)),
            (None, Some(last)) => {
                (Some(last.began), last.failure.clone().unwrap_or_else(|| Failure::new("", "")))
            }
            (None, None) => (None, Failure::new(UNENDED, "it was killed, or the machine went down")),
        };
        self.again = Some(Again {
            at: now,
            services: bounded(&services.join(", ")),
            down_ms: down.map(milliseconds),
            why,
            of,
            heard: Vec::new(),
            claimed: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::notify::Channel;
    use crate::model::run::Tally;

    #[test]
    fn a_run_that_was_killed_is_told_from_one_that_has_said_why_it_failed() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let services = ["a.service".to_owned()];
        let mut record = JobRecord::new("node", at(0));
        record.begin(at(1), 7);
        record.recovered(at(9), &services, Some(Duration::from_secs(2)), None);
        let again = record.again.clone().expect("it is told");
        assert!(again.is_of_killed() && again.why.text.contains("process 7"), "{again:?}");
        assert_eq!((again.services.as_str(), again.down_ms), ("a.service", Some(2000)));
        let tally = record.tally(&Subject::of_job(Op::Recover)).expect("it is counted");
        assert_eq!((tally.done, tally.failed, tally.last_success), (1, 0, Some(at(9))));
        assert_eq!(
            record.tally(&Subject::of_job(Op::Quiesce)).and_then(|tally| tally.last_downtime_ms),
            Some(2000)
        );
        // As the next run does, before anything else.
        record.begin(at(10), 9);
        record.recovered(at(11), &services, None, Some(at(10)));
        assert!(record.again.as_ref().is_some_and(Again::is_of_killed));
        let failure = Some(Failure::new("unreachable", "it did not stop in time"));
        let run = Outcome { failure, ..Outcome::done(Subject::of_job(Op::Run), at(12), Duration::ZERO) };
        record.end(at(10), vec![run], |_| true);
        record.recovered(at(13), &services, None, None);
        let again = record.again.clone().expect("it is told");
        assert!(!again.is_of_killed() && again.why.text == "it did not stop in time", "{again:?}");
        assert!(!record.tally(&Subject::of_job(Op::Recover)).is_some_and(Tally::is_failing));
    }

    #[test]
    fn a_run_that_was_killed_is_told_from_one_that_has_its_process_s_number() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let services = ["a.service".to_owned()];
        let mut record = JobRecord::new("node", at(0));
        let run = Outcome::done(Subject::of_job(Op::Run), at(2), Duration::ZERO);
        record.begin(at(1), 1);
        record.end(at(1), vec![run], |_| true);
        record.begin(at(3), 1);
        for run in [None, Some(at(4))] {
            record.recovered(at(5), &services, None, run);
            assert!(record.again.as_ref().is_some_and(Again::is_of_killed), "{:?}", record.again);
        }
        record.recovered(at(5), &services, None, Some(at(3)));
        assert!(!record.again.as_ref().is_some_and(Again::is_of_killed), "{:?}", record.again);
    }

    #[test]
    fn that_services_could_not_be_started_is_over_once_a_run_goes_well_or_they_are_given_up() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let subject = Subject::of_job(Op::Recover);
        let failed = |second, op| {
            let failure = Some(Failure::new("internal", "it IS DOWN"));
            Outcome { failure, ..Outcome::done(Subject::of_job(op), at(second), Duration::ZERO) }
        };
        let mut record = JobRecord::new("node", at(0));
        let is_failing = |record: &JobRecord| record.tally(&subject).is_some_and(Tally::is_failing);
        record.nothing_is_left();
        assert_eq!(record, JobRecord::new("node", at(0)));
        record.note(failed(1, Op::Recover));
        record.was_said(&subject, Hearer::Mail, "internal", at(1));
        record.begin(at(2), 7);
        record.end(at(2), vec![failed(3, Op::Run)], |_| true);
        assert!(is_failing(&record), "one that fails proves nothing");
        record.begin(at(4), 7);
        record.end(at(4), vec![Outcome::done(Subject::of_job(Op::Run), at(5), Duration::ZERO)], |_| true);
        assert!(!is_failing(&record));
        let tally = record.tally(&subject).expect("it is counted still");
        assert_eq!((tally.done, tally.failed, tally.who_believes()), (0, 1, Vec::new()));
        record.note(failed(6, Op::Recover));
        assert!(is_failing(&record));
        record.nothing_is_left();
        assert!(!is_failing(&record));
    }

    #[test]
    fn who_was_told_that_services_are_down_is_told_of_the_next_time_once_they_have_run_again() {
        let at = |second| Timestamp::from_second(second).expect("as it was made");
        let failure = Failure::new("internal", "it IS DOWN");
        let mut record = JobRecord::new("node", at(0));
        let is_news = |record: &JobRecord, second| {
            Channel::ALL.map(|whom| record.is_news(whom, at(second), Some(&failure)))
        };
        let tell = |record: &mut JobRecord, second| {
            Channel::ALL.into_iter().for_each(|whom| record.was_told(whom, at(second), Some(&failure)));
        };
        tell(&mut record, 10);
        assert_eq!(is_news(&record, 20), [false; 2]);
        record.recovered(at(30), &["a.service".to_owned()], None, None);
        assert_eq!(is_news(&record, 40), [true; 2]);
        // Who takes his time to hear of the first one has not heard of the next one.
        tell(&mut record, 10);
        assert_eq!(is_news(&record, 40), [true; 2]);
        tell(&mut record, 40);
        assert_eq!(is_news(&record, 50), [false; 2]);
    }
}
