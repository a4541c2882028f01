//! What somebody is to hear of a run who has not yet: that it goes well again. Nobody else tells it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::said::{Hearer, claim};
use super::{Failure, JobRecord};

/// That.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    /// When it was.
    pub at: Timestamp,
    /// What had failed.
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

    /// These have heard that the run which was over at `at` went well.
    pub fn was_heard_over(&mut self, at: Timestamp, by: &[Hearer]) {
        let Some(over) = self.over.as_mut().filter(|over| over.at == at) else { return };
        over.was_heard(by);
        self.over.take_if(|over| over.whom.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
