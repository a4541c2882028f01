//! Other machines, and archives, are asked what they have of what jobs bring to them: what was written down here may not be so any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::cli::Context;
use crate::cli::archive::opened_within;
use crate::cli::doctor::with_causes;
use crate::cli::facts::{Which, days_left, opened, within};
use crate::cli::peer::Way;
use crate::config::{Archive, Job, Replica};
use crate::endpoint::History;
use crate::exec::archive::asked::{Answer as OfArchive, Noted, ask};
use crate::exec::record::Records;
use crate::exec::replicate::mark_for_peer;
use crate::exec::transfer;
use crate::model::run::Subject;
use crate::model::{self, PeerAddress, VersionKind};
use crate::plan::common::kept;
use crate::plan::health::{Asked, Base, Facts};
use crate::{Error, Result};

/// Who is being asked, each machine and each archive in a thread of its own: one that hangs keeps no other from its answer.
pub struct Asking {
    all: Vec<Machine>,
    archives: Vec<Place>,
    begun: Timestamp,
    until: Instant,
    seconds: u64,
}

/// Targets of one machine, and what it answers of each, in the same order. A machine lets only so many connections begin at once: one after the other asks.
struct Machine {
    targets: Vec<Wanted>,
    answers: Receiver<Result<Answer, String>>,
}

/// An archive of a job, and what it answers in time.
struct Place {
    job: String,
    dataset: String,
    to: String,
    answer: Box<dyn FnOnce() -> Option<Result<OfArchive, String>>>,
}

/// A dataset, and where the configuration has it brought.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    dataset: String,
    to: String,
}

/// What one answers.
struct Answer {
    /// When the newest snapshot was taken that both have, and whether its source keeps it.
    common: Option<(Timestamp, bool)>,
    /// Whether it has any at all.
    has_any: bool,
    /// In how many days what both have goes from its source.
    days: Option<i64>,
}

impl Asking {
    /// Asks all targets on other machines, and all archives, of the jobs that are meant. Of a configuration that can not be used somebody else tells.
    pub fn begin(which: &Which, context: &Context) -> Self {
        let seconds = which.timeout();
        let until = Instant::now() + Duration::from_secs(seconds);
        let begun = Timestamp::now();
        let Ok(config) = which.config() else {
            return Self { all: Vec::new(), archives: Vec::new(), begun, until, seconds };
        };
        let chosen = config.chosen(which.names()).unwrap_or_default();
        let jobs: Arc<Vec<Job>> = Arc::new(chosen.into_iter().cloned().collect());
        let archives = jobs.iter().flat_map(|job| job.archives.iter().map(move |it| (&job.name, it)));
        let archives = archives.map(|(job, it)| Place::ask(job, it, until, context)).collect();
        let targets = jobs.iter().flat_map(|job| &job.targets);
        let wanted = targets.map(|target| Wanted { dataset: target.dataset.clone(), to: target.to.clone() });
        let ask = |targets: Vec<Wanted>| {
            let (sender, answers) = channel();
            let (all, there, jobs) = (targets.clone(), context.clone(), Arc::clone(&jobs));
            // What it started to reach the machine ends with this thread.
            std::thread::spawn(move || {
                for one in all {
                    let left = until.saturating_duration_since(Instant::now());
                    let is_its = |target: &Replica| target.dataset == one.dataset && target.to == one.to;
                    let job = jobs.iter().find(|job| job.targets.iter().any(is_its));
                    let answer = asked(&one, job, left, &there).map_err(|error| with_causes(&error));
                    if left.is_zero() || sender.send(answer).is_err() {
                        return;
                    }
                }
            });
            Machine { targets, answers }
        };
        let all = by_machine(wanted).into_values().map(ask).collect();
        Self { all, archives, begun, until, seconds }
    }

    /// What they have answered is what counts of them.
    pub fn tell(self, facts: &mut [Facts]) {
        let Self { all, archives, begun, until, seconds } = self;
        let late = || format!("it did not answer within {seconds} s");
        let all = all.into_iter().flat_map(|machine| {
            let Machine { targets, answers } = machine;
            targets.into_iter().map(move |one| {
                let left = until.saturating_duration_since(Instant::now());
                (one, answers.recv_timeout(left))
            })
        });
        for (Wanted { dataset, to }, answer) in all {
            let answer = answer.unwrap_or_else(|_| Err(late()));
            let targets = facts.iter_mut().flat_map(|facts| &mut facts.targets);
            for target in targets.filter(|target| target.dataset == dataset && target.to == to) {
                target.asked =
                    Some(Asked { at: begun, answer: answer.as_ref().map(drop).map_err(Clone::clone) });
                let Ok(answer) = &answer else { continue };
                let was_brought = target.known_up_to().is_some();
                target.up_to = Ok(answer.common.map(|(taken, _)| taken));
                target.base = answer.base(was_brought);
                target.base_days = answer.days;
            }
        }
        for place in archives {
            place.tell(facts, begun, late());
        }
    }
}

impl Place {
    fn ask(job: &str, it: &Archive, until: Instant, context: &Context) -> Self {
        let (name, archive, there) = (job.to_owned(), it.clone(), context.clone());
        let work = move || {
            let left = until.saturating_duration_since(Instant::now());
            asked_of(&name, &archive, left, &there).map_err(|error| with_causes(&error))
        };
        let answer = Box::new(within(until, work));
        Self { job: job.to_owned(), dataset: it.dataset.clone(), to: it.to.clone(), answer }
    }

    /// Of one that is there, what was written down counts, if anything was.
    fn tell(self, facts: &mut [Facts], begun: Timestamp, late: String) {
        let Self { job, dataset, to, answer } = self;
        let answer = answer().unwrap_or(Err(late));
        let its = facts.iter_mut().filter(|facts| facts.job == job).flat_map(|facts| &mut facts.targets);
        let its = its.filter(|target| target.dataset == dataset && target.to == to);
        for target in its.filter(|target| target.archive.is_some()) {
            target.asked = Some(Asked { at: begun, answer: answer.as_ref().map(drop).map_err(Clone::clone) });
            match &answer {
                Ok(OfArchive::There(up_to)) if target.known_up_to().is_none() => target.up_to = Ok(*up_to),
                Ok(OfArchive::There(_)) | Err(_) => {}
                Ok(OfArchive::Gone(why)) => {
                    target.archive.iter_mut().for_each(|archive| archive.gone = Some(why.clone()));
                    (target.up_to, target.base, target.base_days) = (Ok(None), Some(Base::Lost), None);
                }
            }
        }
    }
}

/// Those on other machines, by who is called there.
fn by_machine(wanted: impl Iterator<Item = Wanted>) -> BTreeMap<(String, Option<u16>), Vec<Wanted>> {
    let mut all: BTreeMap<_, Vec<Wanted>> = BTreeMap::new();
    for one in wanted {
        let Ok(model::Target::Remote(address)) = model::Target::parse(one.to.as_ref()) else { continue };
        let address = address.parse::<PeerAddress>();
        // Of one that is none, that is the answer.
        let whom = address.map_or((one.to.clone(), None), |it| (it.whom().to_owned(), it.port()));
        all.entry(whom).or_default().push(one);
    }
    all
}

impl Answer {
    /// Who `was_brought` something, has something, and has nothing in common, has lost it.
    fn base(&self, was_brought: bool) -> Option<Base> {
        match self.common {
            Some((_, true)) => Some(Base::Held),
            Some((_, false)) => Some(Base::Unheld),
            None => Some(Base::Lost).filter(|_| was_brought && self.has_any),
        }
    }
}

fn asked(wanted: &Wanted, job: Option<&Job>, left: Duration, context: &Context) -> Result<Answer> {
    /// Nobody waits for it that long.
    const STALL: u64 = 600;
    let ssh = std::env::var("COWSNAP_SSH").unwrap_or_else(|_| "ssh".into());
    let way = Way { stall: STALL, ssh: &ssh, remote: "cowsnap serve", unattended: Some(left) };
    let to = model::Target::parse(wanted.to.as_ref())?;
    let transfer::Place::There(peer) = way.to(&to, context)? else {
        return Err(Error::Usage { what: format!("{to:?} is no other machine's"), hint: None });
    };
    let Some((there, _)) = peer.said()? else {
        return Ok(Answer { common: None, has_any: false, days: None });
    };
    let source = opened(&wanted.dataset, context)?;
    let here = source.inventory()?;
    let address: &PeerAddress = peer.address();
    let common = here.versions().iter().rev().find(|version| there.snapshot_of(version.id.guid).is_some());
    let is_kept = |guid| kept(&here, &mark_for_peer(address)).any(|kept| kept == guid);
    let unkept = common.map(|version| version.id.guid).filter(|&guid| !is_kept(guid));
    let days = unkept.zip(job).map_or(Ok(None), |(guid, job)| days_left(&source, guid, job))?;
    Ok(Answer {
        days,
        common: common.map(|version| (version.created, is_kept(version.id.guid))),
        has_any: there.versions().iter().any(|version| version.kind == VersionKind::Snapshot),
    })
}

fn asked_of(job: &str, it: &Archive, left: Duration, context: &Context) -> Result<OfArchive> {
    let record = Records::of(context.state_dir()).read(job)?.record;
    let pushed = Subject::to_target(&it.dataset, &it.to);
    let tally = record.as_ref().and_then(|record| record.tally(&pushed));
    let noted = tally.map(|tally| Noted { up_to: tally.up_to, there: tally.there.clone() });
    let here = || Ok(opened(&it.dataset, context)?.inventory()?);
    ask(opened_within(it, left), &noted.unwrap_or_default(), here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_in_common_has_lost_it_if_it_was_ever_brought() {
        let base = |common, has_any, was_brought| Answer { common, has_any, days: None }.base(was_brought);
        let taken = Timestamp::UNIX_EPOCH;
        assert_eq!(base(Some((taken, true)), true, true), Some(Base::Held));
        assert_eq!(base(Some((taken, false)), true, true), Some(Base::Unheld));
        assert_eq!(base(None, true, true), Some(Base::Lost));
        assert_eq!((base(None, true, false), base(None, false, true)), (None, None));
    }

    #[test]
    fn a_machine_is_asked_of_one_target_after_the_other() {
        let wanted = ["ssh://b/v/x", "/here", "ssh://c/v", "ssh://b/v/y", "ssh://b:22/v", "ssh://me@b/v"]
            .map(|to| Wanted { dataset: "tank".into(), to: to.into() });
        let all = by_machine(wanted.into_iter());
        let names = all.values().map(|all| all.iter().map(|one| one.to.as_str()).collect::<Vec<_>>());
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                vec!["ssh://b/v/x", "ssh://b/v/y"],
                vec!["ssh://b:22/v"],
                vec!["ssh://c/v"],
                vec!["ssh://me@b/v"]
            ]
        );
    }
}
