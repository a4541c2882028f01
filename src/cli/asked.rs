//! Other machines are asked what they have of what jobs bring to them: what was written down here may not be so any more.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::cli::Context;
use crate::cli::doctor::with_causes;
use crate::cli::facts::{Which, opened, within};
use crate::cli::peer::Way;
use crate::endpoint::History;
use crate::exec::replicate::mark_for_peer;
use crate::exec::transfer::Place;
use crate::model::{self, PeerAddress, VersionKind};
use crate::plan::common::kept;
use crate::plan::health::{Base, Facts};
use crate::{Error, Result};

/// Targets that are being asked, each in a thread of its own: one that hangs keeps no other from its answer.
pub struct Asking {
    all: Vec<(String, String, Waiting)>,
    seconds: u64,
}

/// Waits for an answer, or why there is none; `None` if it takes too long.
type Waiting = Box<dyn FnOnce() -> Option<Result<Answer, String>>>;

/// What one answers.
struct Answer {
    /// When the newest snapshot was taken that both have, and whether its source keeps it.
    common: Option<(Timestamp, bool)>,
    /// Whether it has any at all.
    has_any: bool,
}

impl Asking {
    /// Asks all targets on other machines of the jobs that are meant. Of a configuration that can not be used somebody else tells.
    pub fn begin(which: &Which, context: &Context) -> Self {
        let seconds = which.timeout();
        let until = Instant::now() + Duration::from_secs(seconds);
        let Ok(config) = which.config() else { return Self { all: Vec::new(), seconds } };
        let targets =
            config.chosen(which.names()).unwrap_or_default().into_iter().flat_map(|job| &job.targets);
        let elsewhere = targets.filter_map(|target| {
            let to = model::Target::parse(target.to.as_ref()).ok()?;
            matches!(to, model::Target::Remote(_)).then(|| (target.dataset.clone(), target.to.clone(), to))
        });
        let ask = |(dataset, name, to): (String, String, model::Target)| {
            let (of, there) = (dataset.clone(), context.clone());
            let answer = within(until, move || asked(&of, &to, &there).map_err(|error| with_causes(&error)));
            (dataset, name, Box::new(answer) as Waiting)
        };
        Self { all: elsewhere.map(ask).collect(), seconds }
    }

    /// What they have answered is what counts of them.
    pub fn tell(self, facts: &mut [Facts]) {
        for (dataset, to, answer) in self.all {
            let late = || Err(format!("it did not answer within {} s", self.seconds));
            let answer = answer().unwrap_or_else(late);
            let targets = facts.iter_mut().flat_map(|facts| &mut facts.targets);
            for target in targets.filter(|target| target.dataset == dataset && target.to == to) {
                target.asked = Some(answer.as_ref().map(drop).map_err(Clone::clone));
                let Ok(answer) = &answer else { continue };
                let was_brought = target.known_up_to().is_some();
                target.up_to = Ok(answer.common.map(|(taken, _)| taken));
                target.base = answer.base(was_brought);
            }
        }
    }
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

fn asked(dataset: &str, to: &model::Target, context: &Context) -> Result<Answer> {
    /// Nobody waits for it that long.
    const STALL: u64 = 600;
    let ssh = std::env::var("COWSNAP_SSH").unwrap_or_else(|_| "ssh".into());
    let way = Way { stall: STALL, ssh: &ssh, remote: "cowsnap serve" };
    let Place::There(peer) = way.to(to, context)? else {
        return Err(Error::Usage { what: format!("{to:?} is no other machine's"), hint: None });
    };
    let Some((there, _)) = peer.said()? else { return Ok(Answer { common: None, has_any: false }) };
    let here = opened(dataset, context)?.inventory()?;
    let address: &PeerAddress = peer.address();
    let common = here.versions().iter().rev().find(|version| there.snapshot_of(version.id.guid).is_some());
    let is_kept = |guid| kept(&here, &mark_for_peer(address)).any(|kept| kept == guid);
    Ok(Answer {
        common: common.map(|version| (version.created, is_kept(version.id.guid))),
        has_any: there.versions().iter().any(|version| version.kind == VersionKind::Snapshot),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_in_common_has_lost_it_if_it_was_ever_brought() {
        let base = |common, has_any, was_brought| Answer { common, has_any }.base(was_brought);
        let taken = Timestamp::UNIX_EPOCH;
        assert_eq!(base(Some((taken, true)), true, true), Some(Base::Held));
        assert_eq!(base(Some((taken, false)), true, true), Some(Base::Unheld));
        assert_eq!(base(None, true, true), Some(Base::Lost));
        assert_eq!((base(None, true, false), base(None, false, true)), (None, None));
    }
}
