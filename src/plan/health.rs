//! Whether a job is well: judged by what was seen of its datasets and written down of its runs.
//!
//! What could not be looked at is unknown, never well.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::model::JobRecord;
use crate::model::run::{Failed, Failure, LastRun, Op, Subject, Tally, UNENDED};
use crate::plan::schedule::Schedule;

mod archive;
pub mod expiry;
mod limits;

pub use archive::Archive;
pub use limits::{Limits, Pair, Thresholds};

mod down;
mod proofs;

pub use down::{Down, downtime, exactly};
pub use proofs::drilled;

/// What was seen of a job.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its name.
    pub job: String,
    /// When it is due.
    pub promise: Promise,
    /// What was seen of its datasets, or why nothing was.
    pub datasets: Vec<(String, Result<Seen, String>)>,
    /// Likewise, of those inside that it takes along.
    pub nested: Vec<(String, Result<Seen, String>)>,
    /// Its targets.
    pub targets: Vec<Target>,
    /// What was written down of its runs; `None` if nothing was ever, or why it can not be read.
    pub record: Result<Option<JobRecord>, String>,
    /// Whether a run is at work.
    pub is_at_work: bool,
    /// Whether its restore is to be rehearsed.
    pub has_drill: bool,
    /// From when on it is bad.
    pub limits: Limits,
    /// Services that a run has left stopped, or why nobody knows.
    pub stopped: Result<Vec<String>, String>,
    /// Since when, and how long that may be.
    pub down: Down,
    /// Directories here that its archives are in.
    pub stores: Vec<Directory>,
    /// Units of systemd that it stops and starts.
    pub units: Vec<Unit>,
}

/// A directory that an archive is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Which of the job's datasets.
    pub dataset: String,
    /// The archive, as the configuration calls it.
    pub to: String,
    /// Bytes that can be written there, and the size of that.
    pub space: Option<(u64, u64)>,
}

/// A unit of systemd, and whether it has failed, or why nobody can say.
pub type Unit = (String, Result<bool, String>);

/// When there is to be a snapshot. Without either, nobody said so, and none is late.
#[derive(Debug, Clone, Default)]
pub struct Promise {
    /// At each of its times.
    pub schedule: Option<Schedule>,
    /// Before the last one is older.
    pub age: Option<SignedDuration>,
}

/// What was seen of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Seen {
    /// When its newest snapshot of this job was taken.
    pub newest: Option<Timestamp>,
    /// How many snapshots this job has taken that are there.
    pub snapshots: usize,
    /// The names of receives into it that nobody works on.
    pub stuck: Vec<String>,
    /// How many receives into it are being done.
    pub live: usize,
    /// Bytes that can be written where it is, and the size of that.
    pub space: Option<(u64, u64)>,
    /// The image that is to grow for that, if what that lies on has room for less than the image itself: that is what can be written.
    pub scarce: Option<String>,
    /// Bytes that its newest snapshot refers to, and that would come back if any single one were destroyed, where that was asked for.
    pub usage: Option<(u64, u64)>,
}

/// A target, as it was seen or as it was written down.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which of the job's datasets.
    pub dataset: String,
    /// Where it is brought.
    pub to: String,
    /// Of one that is here: what is there; else it is on another machine.
    pub seen: Option<Result<Seen, String>>,
    /// Of one on another machine, and of an archive: whether it was asked, and why that could not be.
    pub asked: Option<Asked>,
    /// When the newest snapshot was taken that it has in common with its source, or why nobody knows; of one that is not here, and was not asked, as it was written down.
    pub up_to: Result<Option<Timestamp>, String>,
    /// What has become of what the next increment builds upon; `None` where there has been nothing yet, or nobody knows.
    pub base: Option<Base>,
    /// In how many days retention lets that go, here or there, if nothing is replicated any more; `None` if nothing that is known does.
    pub base_days: Option<i64>,
    /// Of an archive: what is known of it.
    pub archive: Option<Archive>,
}

/// That somebody elsewhere was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// When.
    pub at: Timestamp,
    /// Why there was no answer, if there was none.
    pub answer: Result<(), String>,
}

impl Target {
    /// When the newest snapshot was taken that it has, as far as that is known.
    pub fn known_up_to(&self) -> Option<Timestamp> {
        self.up_to.as_ref().ok().copied().flatten()
    }

    /// Whether what is known of it is what it has now.
    pub fn is_looked_at(&self) -> bool {
        self.seen.is_some() || matches!(self.asked, Some(Asked { answer: Ok(()), .. }))
    }
}

/// What has become of the version that the next increment to a target builds upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// A hold or a bookmark keeps it at the source: it does not expire.
    Held,
    /// It is there, and nothing keeps it.
    Unheld,
    /// It is gone.
    Lost,
}

/// How bad something is. The later ones outweigh the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// All is well.
    Ok,
    /// Somebody should look at it.
    Warning,
    /// It could not be looked at.
    Unknown,
    /// Somebody has to.
    Critical,
}

impl State {
    /// The exit code that Nagios knows it by.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Unknown => "UNKNOWN",
            Self::Critical => "CRITICAL",
        })
    }
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// A snapshot or a replication that should be there by now.
    Late,
    /// Something that went wrong.
    Failed,
    /// What could not be looked at.
    Unseen,
    /// Space on a disk.
    Space,
    /// A receive that was begun and not finished.
    Partial,
    /// What the next increment to a target builds upon.
    Base,
    /// A restore that should have been rehearsed by now.
    Drill,
    /// A target that should have been compared with its dataset by now.
    Verify,
    /// What bringing an archive's newest version back takes.
    Chain,
    /// Services that were down for longer than they may be.
    Downtime,
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub state: State,
    /// Of what kind.
    pub about: About,
    /// Of which job.
    pub job: String,
    /// What it is.
    pub what: String,
}

/// A job in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It did what it was to do.
    Ok,
    /// It did not fail, and should have been done by now.
    Late,
    /// Something of it failed and was not made up for.
    Failed,
    /// Nobody can say.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Late => "LATE",
            Self::Failed => "FAILED",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// How long after its time a run may come without a word: a minute's cron, and a service that takes its time to stop.
const GRACE: SignedDuration = SignedDuration::from_mins(15);

/// How far ahead a clock may be.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// All that is not well of a job.
pub fn findings(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let limits = &facts.limits;
    let mut found = Found { job: &facts.job, all: Vec::new() };
    found.of_services(facts, now);
    found.of_downtime(facts);
    found.of_units(facts);
    found.of_record(facts);
    found.of_drill(facts, now);
    for (name, seen) in &facts.datasets {
        match seen {
            Err(why) => found.add(State::Unknown, About::Unseen, format!("{name}: {why}")),
            Ok(seen) => {
                found.of_age(name, seen.newest, &facts.promise, limits.age, now);
                found.of_receives(name, seen);
                found.of_space(name, seen, limits);
            }
        }
    }
    for (name, seen) in &facts.nested {
        found.of_nested(name, seen.as_ref(), facts, now);
    }
    for target in &facts.targets {
        found.of_target(target, facts, now);
        found.of_verify(target, facts, now);
    }
    for Directory { to, space, .. } in &facts.stores {
        found.of_space(to, &Seen { space: *space, ..Seen::default() }, limits);
    }
    found.all.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    found.all
}

/// The worst of them.
pub fn worst<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> State {
    findings.into_iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
}

/// A job in one word, and why. Disks and receives are not the job's own doing; a base that is gone fails the next replication.
pub fn verdict(findings: &[Finding]) -> (Verdict, Option<&str>) {
    let of = |about| move |finding: &&Finding| finding.about == about;
    let is_lost = |finding: &&Finding| finding.about == About::Base && finding.state == State::Critical;
    let first = |is_meant: &dyn Fn(&&Finding) -> bool| findings.iter().find(is_meant);
    let order = [
        (first(&of(About::Failed)), Verdict::Failed),
        (first(&is_lost), Verdict::Failed),
        (first(&of(About::Late)), Verdict::Late),
        (first(&of(About::Unseen)), Verdict::Unknown),
    ];
    let decided = order.into_iter().find_map(|(found, verdict)| Some((verdict, found?)));
    match decided {
        Some((verdict, finding)) => (verdict, Some(&finding.what)),
        None => (Verdict::Ok, None),
    }
}

/// When it is due next: at once if a run was missed; `None` where nothing is promised.
pub fn next_run(facts: &Facts, now: Timestamp) -> Option<Timestamp> {
    let Promise { schedule, age } = &facts.promise;
    let newest = oldest_of_newest(facts);
    let by_schedule = schedule.as_ref().and_then(|schedule| match schedule.due(newest, now) {
        Some(due) => Some(due.timestamp().max(now)),
        None => schedule.next_after(newest.unwrap_or(now)).map(|next| next.timestamp()),
    });
    let due = |age: &SignedDuration| newest.filter(|&last| last <= now)?.checked_add(*age).ok();
    let by_age = age.as_ref().map(|age| due(age).map_or(now, |due| due.max(now)));
    by_schedule.into_iter().chain(by_age).min()
}

/// When the job was done last for all of its datasets.
pub fn oldest_of_newest(facts: &Facts) -> Option<Timestamp> {
    let newest = facts.datasets.iter().map(|(_, seen)| seen.as_ref().ok().and_then(|seen| seen.newest));
    newest.min().flatten()
}

/// How far a target is behind its source; nothing is known of one that was never reached.
pub fn lag(target: &Target, facts: &Facts) -> Option<SignedDuration> {
    let (_, seen) = facts.datasets.iter().find(|(name, _)| *name == target.dataset)?;
    let newest = seen.as_ref().ok()?.newest?;
    Some(newest.duration_since(target.known_up_to()?).max(SignedDuration::ZERO))
}

/// `3 h`, `26 h`, `4 d`: as coarse as a person says it.
pub fn roughly(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

struct Found<'a> {
    job: &'a str,
    all: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, state: State, about: About, what: String) {
        self.all.push(Finding { state, about, job: self.job.into(), what });
    }

    fn of_record(&mut self, facts: &Facts) {
        let record = match &facts.record {
            Err(why) => {
                return self.add(State::Unknown, About::Unseen, format!("the record of its runs: {why}"));
            }
            Ok(None) => return,
            Ok(Some(record)) => record,
        };
        if let Some(running) = record.running.as_ref().filter(|_| !facts.is_at_work) {
            self.add(State::Warning, About::Failed, format!("the run of {:.0} was killed", running.since));
        }
        let of_run = |tally: &&Tally| tally.subject.op != Op::Run && tally.is_failing();
        record.tallies.iter().filter(of_run).for_each(|tally| self.of_tally(tally));
        if let Some(last) = &record.last_run
            && let Some(failure) = last.failure.as_ref().filter(|failure| !is_told(record, last, failure))
        {
            let what = format!("the last run failed: {}", failure.text);
            // That a machine was out of reach is told by what was to be brought there.
            self.add(state_of(&Subject::of_job(Op::Run), &failure.class), About::Failed, what);
        }
    }

    /// A difference that nothing has proven away, whatever failed since; else, and beside it, what failed last.
    fn of_tally(&mut self, tally: &Tally) {
        let found = tally.found.as_ref().map(|found| &found.failed);
        let is_last = tally.in_a_row != Some(0);
        let last =
            tally.last_failure.as_ref().filter(|last| found.is_none_or(|_| is_last && !last.is_corrupt()));
        found.into_iter().chain(last).for_each(|failed| self.of_failed(&tally.subject, failed));
    }

    fn of_failed(&mut self, subject: &Subject, failed: &Failed) {
        let of = subject.dataset.as_deref().map(|dataset| format!(" of {dataset}")).unwrap_or_default();
        let is_verified = matches!(subject.op, Op::Verify | Op::VerifyContent);
        let to = if is_verified { " against" } else { " to" };
        let to = subject.target.as_deref().map(|target| format!("{to} {target}")).unwrap_or_default();
        let (at, text) = (failed.at, &failed.failure.text);
        let what = match subject.op {
            Op::Due | Op::Trigger => format!("whether it is due could not be seen at {at:.0}: {text}"),
            op => format!("{}{of}{to} failed at {at:.0}: {text}", op.name()),
        };
        let state = match failed.failure.class.as_str() {
            // Nothing differs, and something is not proven.
            "partial" if is_verified => State::Warning,
            class => state_of(subject, class),
        };
        self.add(state, About::Failed, what);
    }

    /// By the limits if they are set, else by what is promised.
    fn of_age(
        &mut self,
        name: &str,
        newest: Option<Timestamp>,
        promise: &Promise,
        limits: Pair<SignedDuration>,
        now: Timestamp,
    ) {
        let Some(newest) = newest else {
            return self.add(State::Critical, About::Late, format!("{name} has no snapshot of this job"));
        };
        if self.is_ahead(&format!("the newest snapshot of {name}"), newest, now) {
            return;
        }
        let age = now.duration_since(newest);
        let what = format!("the last snapshot of {name} is {} old", roughly(age));
        match age_state(newest, promise, limits, 1, now) {
            State::Ok => {}
            state => self.add(state, About::Late, what),
        }
    }

    fn is_ahead(&mut self, whose: &str, time: Timestamp, now: Timestamp) -> bool {
        let is_ahead = time > now + AHEAD;
        if is_ahead {
            let what = format!("{whose} is from the future, {time:.0}: see to the clock");
            self.add(State::Warning, About::Late, what);
        }
        is_ahead
    }

    /// What was made since the last run is in the next one. The space is that of what it is inside of.
    fn of_nested(&mut self, name: &str, seen: Result<&Seen, &String>, facts: &Facts, now: Timestamp) {
        match seen {
            Err(why) => self.add(State::Unknown, About::Unseen, format!("{name}: {why}")),
            Ok(Seen { newest: None, .. }) => {
                let what = format!("{name}, which is taken along, has no snapshot of this job yet");
                self.add(State::Warning, About::Late, what);
            }
            Ok(seen) => {
                self.of_age(name, seen.newest, &facts.promise, facts.limits.age, now);
                self.of_receives(name, seen);
            }
        }
    }

    fn of_receives(&mut self, name: &str, seen: &Seen) {
        if !seen.stuck.is_empty() {
            let what = format!("{name} has a receive that nobody works on: {}", seen.stuck.join(", "));
            self.add(State::Warning, About::Partial, what);
        }
    }

    fn of_space(&mut self, name: &str, seen: &Seen, limits: &Limits) {
        match seen.space.and_then(percent_free) {
            None => {
                let what = format!("{name}: nobody can say how much space is free");
                self.add(State::Unknown, About::Unseen, what);
            }
            Some(percent) if percent < limits.warn_free.max(limits.crit_free) => {
                let state = if percent < limits.crit_free { State::Critical } else { State::Warning };
                let image = seen.scarce.as_ref();
                let why = image.map(|image| format!(": the disk below {image} has no more for it to grow"));
                let what = format!("{percent:.0} % is free where {name} is{}", why.unwrap_or_default());
                self.add(state, About::Space, what);
            }
            Some(_) => {}
        }
    }

    fn of_target(&mut self, target: &Target, facts: &Facts, now: Timestamp) {
        let Target { dataset, to, seen, asked, up_to, base, base_days, archive } = target;
        match seen {
            Some(Err(why)) => return self.add(State::Unknown, About::Unseen, format!("{to}: {why}")),
            Some(Ok(seen)) => {
                self.of_receives(to, seen);
                self.of_space(to, seen, &facts.limits);
            }
            None => {}
        }
        if let Some(Asked { answer: Err(why), .. }) = asked {
            let what = format!(
                "{to} can not be asked whether it has what the next increment of {dataset} builds upon: {why}"
            );
            self.add(State::Unknown, About::Unseen, what);
        }
        if let Some(what) = archive.as_ref().and_then(|archive| archive.gone.clone()) {
            self.add(State::Critical, About::Base, what);
        // A run that is at work may be about to hold it.
        } else if !facts.is_at_work {
            self.of_base(dataset, to, *base, *base_days, &facts.limits);
        }
        self.of_chain(dataset, to, archive.as_ref().and_then(|archive| archive.chain), &facts.limits);
        let has_run = oldest_of_newest(facts).is_some();
        let is_brought = facts.is_at_work || matches!(seen, Some(Ok(Seen { live: 1.., .. })));
        match up_to {
            Err(why) => {
                let what = format!("what {to} has of {dataset} can not be looked at: {why}");
                self.add(State::Unknown, About::Unseen, what);
            }
            // That there is no snapshot is said already, and so is that the base is gone; the first one may be on its way.
            Ok(None) if !has_run || *base == Some(Base::Lost) || is_brought => {}
            Ok(None) if target.is_looked_at() => {
                let what = format!("{to} has nothing of {dataset}");
                self.add(State::Critical, About::Late, what);
            }
            Ok(None) => {
                let what = format!("it is not known that {dataset} was ever brought to {to}");
                self.add(State::Unknown, About::Unseen, what);
            }
            Ok(Some(up_to)) if self.is_ahead(&format!("what {to} has of {dataset}"), *up_to, now) => {}
            Ok(Some(up_to)) => {
                let state = age_state(*up_to, &facts.promise, facts.limits.replica_age, 2, now);
                // One that has all that there is is not late: its source is.
                let is_behind = lag(target, facts).is_none_or(|lag| !lag.is_zero());
                if state != State::Ok && is_behind {
                    let age = roughly(now.duration_since(*up_to));
                    self.add(state, About::Late, format!("{to} has {dataset} as it was {age} ago"));
                }
            }
        }
    }

    fn of_base(&mut self, dataset: &str, to: &str, base: Option<Base>, days: Option<i64>, limits: &Limits) {
        let by_days = days.map_or(State::Ok, |days| limits.of_base(days));
        let goes = days.map(|days| format!("retention lets it go {}", in_days(days)));
        match base {
            None => {}
            // Kept at the source, and not there.
            Some(Base::Held) if by_days == State::Ok => {}
            Some(Base::Held) => {
                let what = format!(
                    "what the next increment of {dataset} to {to} builds upon does not stay there: {}",
                    goes.unwrap_or_default()
                );
                self.add(by_days, About::Base, what);
            }
            Some(Base::Unheld) => {
                let goes = goes.map(|goes| format!(", and {goes}")).unwrap_or_default();
                let what = format!(
                    "nothing keeps what the next increment of {dataset} to {to} builds upon{goes}: the next replication does"
                );
                self.add(State::Warning.max(by_days), About::Base, what);
            }
            Some(Base::Lost) => {
                let what =
                    format!("base lost: {dataset} has nothing more that an increment to {to} can build upon");
                self.add(State::Critical, About::Base, what);
            }
        }
    }
}

fn in_days(days: i64) -> String {
    match days {
        0 => "today".into(),
        1 => "tomorrow".into(),
        days => format!("in {days} days"),
    }
}

/// Whether failures of its parts tell why the `last` run failed: one of the same class, or several of one that failed of several.
fn is_told(record: &JobRecord, last: &LastRun, failure: &Failure) -> bool {
    let is_part =
        |tally: &&Tally| tally.subject.op != Op::Run && !tally.subject.op.is_beside() && tally.is_failing();
    let parts = record.tallies.iter().filter(is_part).filter_map(|tally| tally.last_failure.as_ref());
    let of_it: Vec<_> = parts.filter(|failed| failed.at >= last.began).collect();
    of_it.iter().any(|failed| failed.failure.class == failure.class)
        || failure.class == "partial" && of_it.len() > 1
}

/// What a person has to decide is worse than what the next run may put right: another machine that was out of reach, and a run that was killed. The same class is
/// that of a service that did not stop in time, a probe that is silent, and a hook that fails.
fn state_of(subject: &Subject, class: &str) -> State {
    let reaches_out = match subject.op {
        Op::Replicate | Op::Verify | Op::VerifyContent => true,
        Op::Prune => subject.target.is_some(),
        _ => false,
    };
    match class {
        "unreachable" if reaches_out => State::Warning,
        UNENDED => State::Warning,
        _ => State::Critical,
    }
}

/// Late by a quarter of the time between two runs is a warning, by a whole one critical; `patience` times as much, and never within [`GRACE`].
fn age_state(
    last: Timestamp,
    promise: &Promise,
    limits: Pair<SignedDuration>,
    patience: i32,
    now: Timestamp,
) -> State {
    if limits.is_set() {
        return past(limits, now.duration_since(last));
    }
    match lateness(last, promise, patience) {
        Some((_, critical)) if now > critical => State::Critical,
        Some((warning, _)) if now > warning => State::Warning,
        _ => State::Ok,
    }
}

/// Which of the limits an age is past.
fn past(limits: Pair<SignedDuration>, age: SignedDuration) -> State {
    match limits {
        Pair { crit: Some(limit), .. } if age > limit => State::Critical,
        Pair { warn: Some(limit), .. } if age > limit => State::Warning,
        _ => State::Ok,
    }
}

/// From when on a next run would be late, and from when on far too late: by the schedule or the age, whichever is first.
pub fn lateness(last: Timestamp, promise: &Promise, patience: i32) -> Option<(Timestamp, Timestamp)> {
    let by_schedule = promise.schedule.as_ref().and_then(|schedule| {
        let due = schedule.next_after(last)?.timestamp();
        Some((due, schedule.next_after(due)?.timestamp().duration_since(due)))
    });
    let by_age = promise.age.and_then(|age| Some((last.checked_add(age).ok()?, age)));
    let late = |(due, period): (Timestamp, SignedDuration)| {
        let after = |time: SignedDuration| due.checked_add(time.max(GRACE) * patience).ok();
        Some((after(period / 4)?, after(period.max(GRACE * 2))?))
    };
    let all = || [by_schedule, by_age].into_iter().flatten().filter_map(late);
    Some((all().map(|(warning, _)| warning).min()?, all().map(|(_, critical)| critical).min()?))
}

/// How much of a size is free, of 100.
pub fn percent_free((free, size): (u64, u64)) -> Option<f64> {
    (size > 0).then(|| free as f64 * 100.0 / size as f64)
}

#[cfg(test)]
mod tests;
