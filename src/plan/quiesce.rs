//! What comes next while services are stopped for a snapshot: whatever fails wherever, they are started again.
//!
//! **Invariant:** there is no [`Step::Snapshot`] unless [`Step::Verify`] was done, none that is kept unless [`Step::Confirm`] was, and no [`Step::Stop`] unless the lease and the guard are there.

/// How often a service is started before it is given up.
pub const TRIES: usize = 3;

/// One thing to be done. Numbers are those of services, in the order in which they are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Find out which services run.
    Look,
    /// Ask the probe: what does not answer is not stopped.
    Probe,
    /// Write down which services are to be started again.
    Lease,
    /// Have another process do that if this one dies.
    Guard,
    /// Stop it, and wait until it is.
    Stop(usize),
    /// Make sure that nobody writes.
    Verify,
    /// Take the snapshot.
    Snapshot,
    /// Make sure that nobody did meanwhile.
    Confirm,
    /// Start it, which does nothing if it runs.
    Start(usize),
    /// Wait until the probe answers.
    Answer,
    /// See that they run a moment later, too.
    Settle,
    /// Take back what was written down.
    Unlease,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// It did not.
    Failed,
    /// Of [`Step::Answer`]: the services run, but the probe does not answer.
    Silent,
}

/// Where a transaction is.
#[derive(Debug, Clone)]
pub struct Machine {
    step: Option<Step>,
    running: Vec<usize>, // In the order in which they are stopped.
    n_tries: usize,
    n_rounds: usize,
    given_up: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::at(Some(Step::Look), Vec::new())
    }
}

impl Machine {
    fn at(step: Option<Step>, running: Vec<usize>) -> Self {
        Self { step, running, n_tries: 0, n_rounds: 0, given_up: false }
    }

    /// One that only starts what a lease says, and takes the lease back.
    pub fn recovering(running: Vec<usize>) -> Self {
        let mut machine = Self::at(None, running);
        machine.step = machine.first_start().or(Some(Step::Unlease));
        machine
    }

    /// What is to be done now; `None` once it is over.
    pub fn step(&self) -> Option<Step> {
        self.step
    }

    /// The services that ran before, and are to run again.
    pub fn running(&self) -> &[usize] {
        &self.running
    }

    /// [`Step::Look`] is done: these services run.
    pub fn looked(&mut self, running: Vec<usize>) {
        self.running = running;
        self.did(Outcome::Done);
    }

    /// The step has ended so.
    pub fn did(&mut self, outcome: Outcome) {
        let Some(step) = self.step else { return };
        let is_done = outcome == Outcome::Done;
        self.step = match step {
            Step::Look if !is_done => None,
            Step::Look if self.running.is_empty() => Some(Step::Verify),
            Step::Look => Some(Step::Probe),
            Step::Probe => is_done.then_some(Step::Lease),
            Step::Lease if is_done => Some(Step::Guard),
            Step::Guard if is_done => self.running.first().map(|&first| Step::Stop(first)),
            Step::Lease | Step::Guard => Some(Step::Unlease), // Nothing was stopped yet.
            Step::Stop(nth) if is_done => Some(self.after(nth).map_or(Step::Verify, Step::Stop)),
            Step::Verify if is_done => Some(Step::Snapshot),
            Step::Snapshot if is_done => Some(Step::Confirm),
            Step::Stop(_) | Step::Verify | Step::Snapshot | Step::Confirm => self.first_start(),
            Step::Start(nth) => self.started(nth, is_done),
            Step::Answer => match outcome {
                Outcome::Done => Some(Step::Settle),
                Outcome::Silent => Some(Step::Unlease),
                Outcome::Failed => self.another_round(),
            },
            Step::Settle if is_done => Some(Step::Unlease),
            Step::Settle => self.another_round(),
            Step::Unlease => None,
        };
    }

    /// The last one stopped is the first to be started.
    fn first_start(&self) -> Option<Step> {
        self.running.last().map(|&last| Step::Start(last))
    }

    fn after(&self, nth: usize) -> Option<usize> {
        self.running.iter().copied().find(|&other| other > nth)
    }

    fn started(&mut self, nth: usize, is_done: bool) -> Option<Step> {
        self.n_tries += 1;
        if !is_done && self.n_tries < TRIES {
            return Some(Step::Start(nth));
        }
        self.n_tries = 0;
        self.given_up |= !is_done;
        let before = self.running.iter().rev().copied().find(|&other| other < nth);
        match before {
            Some(before) => Some(Step::Start(before)), // Even if the other one does not come up.
            None if self.given_up => None,             // The lease stays: what it says is still to be done.
            None => Some(Step::Answer),
        }
    }

    /// What was started is gone again.
    fn another_round(&mut self) -> Option<Step> {
        self.n_rounds += 1;
        self.given_up = self.n_rounds >= TRIES;
        if self.given_up { None } else { self.first_start() }
    }
}

#[cfg(test)]
mod tests {
    use Outcome::{Done, Failed, Silent};

    use super::*;

    /// The steps of a transaction of which these fail, each as often as it is named.
    fn steps(running: &[usize], mut fails: Vec<(Step, Outcome)>) -> String {
        let mut machine = Machine::default();
        let mut all = Vec::new();
        while let Some(step) = machine.step() {
            all.push(format!("{step:?}"));
            match fails.iter().position(|(failing, _)| *failing == step) {
                Some(nth) => machine.did(fails.remove(nth).1),
                None if step == Step::Look => machine.looked(running.to_vec()),
                None => machine.did(Done),
            }
        }
        machine.did(Done);
        assert_eq!(machine.step(), None);
        all.join(" ")
    }

    #[test]
    fn services_are_stopped_in_order_and_started_in_reverse() {
        assert_eq!(
            steps(&[0, 2], vec![]),
            "Look Probe Lease Guard Stop(0) Stop(2) Verify Snapshot Confirm Start(2) Start(0) Answer Settle Unlease"
        );
        assert_eq!(steps(&[], vec![]), "Look Verify Snapshot Confirm", "what is down stays down");
    }

    #[test]
    fn what_fails_before_a_stop_stops_nothing_and_what_fails_after_it_starts_all() {
        let one = |step| steps(&[0, 1], vec![(step, Failed)]);
        assert_eq!(one(Step::Look), "Look");
        assert_eq!(one(Step::Probe), "Look Probe");
        assert_eq!(one(Step::Lease), "Look Probe Lease Unlease");
        assert_eq!(one(Step::Guard), "Look Probe Lease Guard Unlease");
        let whole = "Start(1) Start(0) Answer Settle Unlease";
        assert_eq!(one(Step::Stop(0)), format!("Look Probe Lease Guard Stop(0) {whole}"));
        assert_eq!(one(Step::Verify), format!("Look Probe Lease Guard Stop(0) Stop(1) Verify {whole}"));
        assert!(one(Step::Snapshot).ends_with(&format!("Snapshot {whole}")));
        assert!(one(Step::Confirm).ends_with(&format!("Snapshot Confirm {whole}")));
        assert_eq!(steps(&[], vec![(Step::Verify, Failed)]), "Look Verify");
    }

    #[test]
    fn a_start_is_tried_again_and_a_lease_that_is_not_fulfilled_stays() {
        let start = |n| vec![(Step::Start(1), Failed); n];
        assert!(
            steps(&[0, 1], start(2)).ends_with("Start(1) Start(1) Start(1) Start(0) Answer Settle Unlease")
        );
        assert!(steps(&[0, 1], start(3)).ends_with("Start(1) Start(1) Start(1) Start(0)"));
        assert!(steps(&[0], vec![(Step::Answer, Silent)]).ends_with("Start(0) Answer Unlease"));
        let dies = |n| steps(&[0], vec![(Step::Answer, Failed); n]);
        assert!(dies(1).ends_with("Start(0) Answer Start(0) Answer Settle Unlease"), "{}", dies(1));
        let later = |n| steps(&[0], vec![(Step::Settle, Failed); n]);
        assert!(later(1).ends_with("Answer Settle Start(0) Answer Settle Unlease"), "{}", later(1));
        assert!(later(3).ends_with("Start(0) Answer Settle"), "{}", later(3));
        assert!(dies(3).ends_with("Start(0) Answer Start(0) Answer Start(0) Answer"), "{}", dies(3));
    }

    #[test]
    fn a_recovery_starts_and_takes_the_lease_back() {
        let mut machine = Machine::recovering(vec![0, 1]);
        let mut all = Vec::new();
        while let Some(step) = machine.step() {
            all.push(step);
            machine.did(Done);
        }
        assert_eq!(all, [Step::Start(1), Step::Start(0), Step::Answer, Step::Settle, Step::Unlease]);
        assert_eq!(machine.running(), [0, 1]);
        assert_eq!(Machine::recovering(vec![]).step(), Some(Step::Unlease));
    }
}
