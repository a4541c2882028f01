//! What became of a job's runs: what its snapshots can not tell ([FORMAT-runs](../../docs/FORMAT-runs.md)).
//!
//! **Invariant:** of bounded size whatever happens, and nothing about snapshots is decided by it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Guid;
use crate::model::notify::{Channel, is_new};

mod again;
mod said;
mod unheard;

pub use again::Again;
pub use said::{Hearer, Said};
pub use unheard::Unheard;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// How many characters are kept of what went wrong.
pub const MAX_TEXT: usize = 600;

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// All of it.
    Run,
    /// Services are stopped, and started again.
    Quiesce,
    /// A snapshot of a dataset.
    Snapshot,
    /// A dataset is brought to a target.
    Replicate,
    /// Snapshots of a dataset go that no rule keeps.
    Prune,
    /// A restore is rehearsed, beside the runs.
    Drill,
    /// A target is compared with its dataset by what was written down of streams, beside the runs.
    Verify,
    /// The same, with what is in the files of both.
    #[serde(rename = "verify-content")]
    VerifyContent,
    /// What a run had left stopped is started by somebody else.
    Recover,
    /// Whether it is due is looked at: its datasets and requests.
    Due,
    /// Likewise, what its trigger asks: a number, and what was written.
    Trigger,
}

impl Op {
    /// Whether it is done beside the runs, by whoever calls it.
    pub fn is_beside(self) -> bool {
        !matches!(self, Self::Run | Self::Quiesce | Self::Snapshot | Self::Replicate | Self::Prune)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Quiesce => "quiesce",
            Self::Snapshot => "snapshot",
            Self::Replicate => "replicate",
            Self::Prune => "prune",
            Self::Drill => "drill",
            Self::Verify => "verify",
            Self::VerifyContent => "verify-content",
            Self::Recover => "recover",
            Self::Due => "due",
            Self::Trigger => "trigger",
        }
    }
}

/// What is done of what, to where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// What is done.
    pub op: Op,
    /// Of which dataset, as the configuration calls it; of the whole job without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// To which target, as the configuration calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Subject {
    /// Of the whole job.
    pub fn of_job(op: Op) -> Self {
        Self { op, dataset: None, target: None }
    }

    /// Of one dataset.
    pub fn of_dataset(op: Op, dataset: &str) -> Self {
        Self { op, dataset: Some(dataset.into()), target: None }
    }

    /// Of one dataset to one target.
    pub fn to_target(dataset: &str, target: &str) -> Self {
        Self::of_target(Op::Replicate, dataset, target)
    }

    /// Of one dataset and one target.
    pub fn of_target(op: Op, dataset: &str, target: &str) -> Self {
        Self { op, dataset: Some(dataset.into()), target: Some(target.into()) }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class of the error, as the exit codes have it.
    pub class: String,
    /// What is said of it: up to [`MAX_TEXT`] characters.
    pub text: String,
}

impl Failure {
    /// One of that class; what is too long of its text is cut off.
    pub fn new(class: impl Into<String>, text: &str) -> Self {
        Self { class: class.into(), text: bounded(text) }
    }
}

/// The first [`MAX_TEXT`] characters.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// What became of one thing that a run did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Of what.
    pub subject: Subject,
    /// When it was over.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// How many bytes travelled.
    pub bytes: u64,
    /// How long services were down for it.
    pub downtime: Option<Duration>,
    /// Of a target: when the snapshot was taken up to which it was brought. Of a rehearsal: when that one was taken.
    pub up_to: Option<Timestamp>,
    /// Of a rehearsal: the target that it was of, if it was of one.
    pub from: Option<String>,
    /// Of an archive: what bringing that back would take.
    pub chain: Option<Chain>,
    /// Of an archive: where that is.
    pub there: Option<There>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// One that went well and moved nothing.
    pub fn done(subject: Subject, at: Timestamp, took: Duration) -> Self {
        Self {
            subject,
            at,
            took,
            bytes: 0,
            downtime: None,
            up_to: None,
            from: None,
            chain: None,
            there: None,
            failure: None,
        }
    }
}

/// What it takes to bring the newest version of an archive back, where nothing of it is yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// How many containers: the length of the chain.
    pub containers: u64,
    /// How many bytes of them are fetched.
    pub bytes: u64,
    /// How many objects are read: parts, and a manifest for each container.
    pub requests: u64,
}

/// Where in an archive a version is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct There {
    /// What tells the archive from all others.
    pub archive: Guid,
    /// The key of the version's manifest.
    pub manifest: String,
}

/// A failure, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// When it was over.
    pub at: Timestamp,
    /// Why.
    #[serde(flatten)]
    pub failure: Failure,
}

impl Failed {
    /// Whether bytes were not what they were.
    pub fn is_corrupt(&self) -> bool {
        self.failure.class == "corrupt"
    }
}

/// A difference between a target and its dataset, or a restore that was rehearsed and was not good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// When, and what is said of it.
    #[serde(flatten)]
    pub failed: Failed,
    /// It, or one before that nothing has proven away, may be of a dataset inside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inside: bool,
    /// Of a rehearsal: when the snapshot was taken that was not good. That an older one is says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Timestamp>,
}

/// What became of all runs of one kind, of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Of what.
    #[serde(flatten)]
    pub subject: Subject,
    /// How often it went well.
    pub done: u64,
    /// How often it failed.
    pub failed: u64,
    /// How often it failed as bytes were not what they were; these are among [`Self::failed`].
    #[serde(default)]
    pub corrupt: u64,
    /// How often it failed since it went well last, whatever clocks say; not known of records from before this was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_a_row: Option<u64>,
    /// When it went well last.
    pub last_success: Option<Timestamp>,
    /// When it failed last, and why.
    pub last_failure: Option<Failed>,
    /// Of a comparison or a rehearsal: what was found last that was not good, whatever became of those since, until one that would find it again goes well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// How long it took last time.
    pub last_ms: u64,
    /// How long it took in all.
    pub total_ms: u64,
    /// How many bytes travelled last time.
    pub last_bytes: u64,
    /// How many bytes travelled in all.
    pub total_bytes: u64,
    /// How long services were down last time that they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_downtime_ms: Option<u64>,
    /// How long they were down in all.
    #[serde(default)]
    pub total_downtime_ms: u64,
    /// Of a target: when the snapshot was taken up to which it was brought last. Of an archive that was verified: when the newest one there was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<Timestamp>,
    /// Of a rehearsal: the target that the last one was of, if it was of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Of an archive: what bringing back what was put there last would take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// Of an archive: where what was put there last is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there: Option<There>,
    /// Of what is no run: who was told that it fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
    /// Likewise, when somebody began to tell how it is, who has not said that he has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Timestamp>,
}

impl Tally {
    /// Nothing has happened.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            done: 0,
            failed: 0,
            corrupt: 0,
            in_a_row: Some(0),
            last_success: None,
            last_failure: None,
            found: None,
            last_ms: 0,
            total_ms: 0,
            last_bytes: 0,
            total_bytes: 0,
            last_downtime_ms: None,
            total_downtime_ms: 0,
            up_to: None,
            from: None,
            chain: None,
            there: None,
            said: Vec::new(),
            claimed: None,
        }
    }

    /// Whether it failed last, or before that in a way that nothing has proven away. Of what was written before that was counted, the times say so.
    pub fn is_failing(&self) -> bool {
        if self.found.is_some() {
            return true;
        }
        let is_later = |failed: &Failed| self.last_success.is_none_or(|success| success <= failed.at);
        match self.in_a_row {
            Some(n) => n > 0,
            None => self.last_failure.as_ref().is_some_and(is_later),
        }
    }

    fn was_down(&mut self, time: Duration) {
        let ms = milliseconds(time);
        self.last_downtime_ms = Some(ms);
        self.total_downtime_ms = self.total_downtime_ms.saturating_add(ms);
    }

    fn add(&mut self, outcome: Outcome) {
        let ms = milliseconds(outcome.took);
        self.last_ms = ms;
        self.total_ms = self.total_ms.saturating_add(ms);
        self.last_bytes = outcome.bytes;
        self.total_bytes = self.total_bytes.saturating_add(outcome.bytes);
        self.from = outcome.from;
        outcome.downtime.into_iter().for_each(|downtime| self.was_down(downtime));
        match outcome.failure {
            None => {
                self.done = self.done.saturating_add(1);
                self.in_a_row = Some(0);
                self.last_success = Some(outcome.at);
                let is_older =
                    |found: &Found| found.taken.zip(outcome.up_to).is_some_and(|(of, good)| good < of);
                self.found.take_if(|found| !is_older(found));
                self.up_to = outcome.up_to.or(self.up_to);
                self.chain = outcome.chain.or(self.chain);
                self.there = outcome.there.or(self.there.take());
            }
            Some(failure) => {
                self.failed = self.failed.saturating_add(1);
                self.in_a_row = Some(self.in_a_row.unwrap_or(0).saturating_add(1));
                self.corrupt = self.corrupt.saturating_add(u64::from(failure.class == "corrupt"));
                let failed = Failed { at: outcome.at, failure };
                if self.subject.op == Op::Drill && failed.is_corrupt() {
                    // That an older one is not good, too, says nothing of the newer one.
                    let before = self.found.as_ref().and_then(|found| found.taken);
                    let taken = before.max(outcome.up_to);
                    self.found = Some(Found { failed: failed.clone(), inside: false, taken });
                }
                self.last_failure = Some(failed);
            }
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How thoroughly a target was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// What is in the files of both, too.
    pub content: bool,
    /// All of it was read, whatever was read before.
    pub all: bool,
    /// With the datasets inside.
    pub inside: bool,
}

/// A run that has begun and has not said that it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Since when.
    pub since: Timestamp,
    /// Its process.
    pub pid: u32,
}

/// The last run that came to its end, or was seen not to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began.
    pub began: Timestamp,
    /// When it was over; not known of one that was killed.
    pub ended: Option<Timestamp>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Runs that were not begun, as something else was at work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Skips {
    /// How many.
    pub n: u64,
    /// The last one, and why.
    pub last: Option<Skip>,
}

/// A failure that somebody was told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// Of which class it was.
    pub class: String,
}

/// A run that was not begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// When it would have.
    pub at: Timestamp,
    /// Why not.
    pub why: String,
}

/// All that is known of a job's runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    version: u32, // Invariant: VERSION.
    /// Whose.
    pub job: String,
    /// Since when is counted.
    pub since: Timestamp,
    /// The run that has begun; it is at work if it holds its lock, and was killed if it does not.
    pub running: Option<Running>,
    /// The last one before it.
    pub last_run: Option<LastRun>,
    /// How many runs did not come to their end.
    pub unended: u64,
    /// What was not begun.
    pub skipped: Skips,
    /// The failure that the command was told of last, until it goes well again; in records from before each had its own, also the mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// Likewise, the one that was last in a mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailed: Option<Told>,
    /// The failure that the hook `on_failure` was called of last, until it goes well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<Told>,
    /// Services that run again which a run had left stopped, the last time that this was so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
    /// That the last run went well and the one before had not, as long as somebody has not heard it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Unheard>,
    /// The last run that was killed and has left nothing to be started, and who has not heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed: Option<Unheard>,
    /// What became of each thing, once.
    pub tallies: Vec<Tally>,
}

/// The class of a run that did not say how it ended.
pub const UNENDED: &str = "unended";

impl JobRecord {
    /// Nothing is known, from `now` on.
    pub fn new(job: &str, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            job: job.into(),
            since: now,
            running: None,
            last_run: None,
            unended: 0,
            skipped: Skips::default(),
            told: None,
            mailed: None,
            called: None,
            again: None,
            over: None,
            killed: None,
            tallies: vec![Tally::new(Subject::of_job(Op::Run))],
        }
    }

    /// Whether it is what this version writes, of that job.
    pub fn is_of(&self, job: &str) -> bool {
        self.version == VERSION && self.job == job
    }

    /// The tally of `subject`, if there is one.
    pub fn tally(&self, subject: &Subject) -> Option<&Tally> {
        self.tallies.iter().find(|tally| tally.subject == *subject)
    }

    /// A run begins. If another one is said to be at work, it was killed: there is but one at a time.
    pub fn begin(&mut self, now: Timestamp, pid: u32) {
        self.note_killed();
        self.running = Some(Running { since: now, pid });
    }

    fn note_killed(&mut self) {
        let Some(killed) = self.running.take() else { return };
        self.unended = self.unended.saturating_add(1);
        let failure = Some(unheard::killed(killed.pid));
        self.last_run = Some(LastRun { began: killed.since, ended: None, failure });
    }

    /// The target of the outcome's subject was compared with its dataset, beside any run. What reading has found is well again by reading all of it, and not by what was read before, nor by a
    /// comparison that came to nothing; what was found with the datasets inside, with these.
    pub fn verified(&mut self, depth: Depth, outcome: &Outcome) {
        let of = |op| Subject { op, ..outcome.subject.clone() };
        let Some(failure) = &outcome.failure else {
            let ops = [Op::Verify, Op::VerifyContent].map(of).into_iter();
            let proven: Vec<_> = ops.filter(|subject| self.is_proven_by(depth, subject)).collect();
            return proven.into_iter().for_each(|subject| self.note(Outcome { subject, ..outcome.clone() }));
        };
        let subject = of(if depth.content { Op::VerifyContent } else { Op::Verify });
        self.note(Outcome { subject: subject.clone(), ..outcome.clone() });
        if failure.class == "corrupt" {
            let failed = Failed { at: outcome.at, failure: failure.clone() };
            let found = &mut self.tally_mut(&subject).found;
            let inside = depth.inside || found.as_ref().is_some_and(|found| found.inside);
            *found = Some(Found { failed, inside, taken: None });
        }
    }

    /// Whether a comparison that found nothing says that nothing of that kind is there.
    fn is_proven_by(&self, depth: Depth, subject: &Subject) -> bool {
        let found = self.tally(subject).and_then(|tally| tally.found.as_ref());
        let reaches = depth.inside || found.is_none_or(|found| !found.inside);
        match subject.op {
            Op::VerifyContent => depth.content && reaches && (depth.all || found.is_none()),
            _ => reaches,
        }
    }

    /// What was taken at `up_to` was put into an archive, or was there, beside any run: that is what bringing back the newest there takes.
    pub fn was_pushed(
        &mut self,
        subject: &Subject,
        up_to: Timestamp,
        chain: Option<Chain>,
        there: Option<There>,
    ) {
        let tally = self.tally_mut(subject);
        tally.up_to = Some(up_to);
        tally.chain = chain.or(tally.chain);
        tally.there = there.or(tally.there.take());
    }

    /// Something was done that belongs to no run.
    pub fn note(&mut self, outcome: Outcome) {
        self.tally_mut(&outcome.subject).add(outcome);
        self.tallies.sort_by(|a, b| a.subject.cmp(&b.subject));
    }

    /// Services were down for so long, which no run could say.
    pub fn was_down(&mut self, time: Duration) {
        self.tally_mut(&Subject::of_job(Op::Quiesce)).was_down(time);
        self.tallies.sort_by(|a, b| a.subject.cmp(&b.subject));
    }

    /// The run that began at `began` is over. What is not `known` any more is forgotten, so that this does not grow.
    pub fn end(&mut self, began: Timestamp, outcomes: Vec<Outcome>, known: impl Fn(&Subject) -> bool) {
        self.forget(began);
        for outcome in outcomes {
            if outcome.subject.op == Op::Run {
                if outcome.failure.is_none() {
                    self.nothing_is_left();
                    self.called = None;
                }
                self.last_run =
                    Some(LastRun { began, ended: Some(outcome.at), failure: outcome.failure.clone() });
            }
            self.tally_mut(&outcome.subject).add(outcome);
        }
        self.tallies.retain(|tally| tally.subject.op == Op::Run || known(&tally.subject));
        self.tallies.sort_by(|a, b| a.subject.cmp(&b.subject));
    }

    /// The run that began at `began` is at work no more; another one may be.
    pub fn forget(&mut self, began: Timestamp) {
        self.running.take_if(|running| running.since == began);
    }

    /// Whether the last run said that its snapshot failed, or what it stopped for that.
    pub fn has_no_snapshot(&self) -> bool {
        let failure = self.last_run.as_ref().and_then(|last| last.failure.as_ref());
        let is_part = |tally: &&Tally| matches!(tally.subject.op, Op::Quiesce | Op::Snapshot);
        failure.is_some_and(|failure| failure.class != UNENDED)
            && self.tallies.iter().filter(is_part).any(Tally::is_failing)
    }

    /// A run was not begun.
    pub fn skip(&mut self, now: Timestamp, why: &str) {
        self.skipped.n = self.skipped.n.saturating_add(1);
        self.skipped.last = Some(Skip { at: now, why: bounded(why) });
    }

    /// Whether `whom` is to be told of this end of a run now: of a failure once a day, and when it is another one.
    pub fn is_news(&self, whom: Channel, now: Timestamp, failure: Option<&Failure>) -> bool {
        let told = match whom {
            Channel::Command => &self.told,
            Channel::Mail => &self.mailed,
        };
        let told = told.as_ref().map(|told| (told.class.as_str(), told.at.as_second()));
        failure.is_none_or(|failure| is_new(told, &failure.class, now.as_second()))
    }

    /// `whom` was told of the failure of the run that was over at `now`, or that went well: of the next failure it is told then. Who is told late, when a later run
    /// is over, has it say what counts; and when services run again that it had left stopped, the next failure is another one.
    pub fn was_told(&mut self, whom: Channel, now: Timestamp, failure: Option<&Failure>) {
        let last = self.last_run.as_ref().and_then(|last| last.ended);
        if last.is_some_and(|ended| ended > now) {
            return;
        }
        // What it had left down runs since.
        if failure.is_some() && self.again.as_ref().is_some_and(|again| again.at > now) {
            return;
        }
        let told = failure.map(|failure| Told { at: now, class: failure.class.clone() });
        match whom {
            Channel::Command => self.told = told,
            Channel::Mail => self.mailed = told,
        }
    }

    fn tally_mut(&mut self, subject: &Subject) -> &mut Tally {
        let at = self.tallies.iter().position(|tally| tally.subject == *subject).unwrap_or_else(|| {
            self.tallies.push(Tally::new(subject.clone()));
            self.tallies.len() - 1
        });
        &mut self.tallies[at]
    }
}

#[cfg(test)]
mod tests;
