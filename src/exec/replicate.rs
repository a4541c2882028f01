//! Brings a target up to its source: reads both, plans, does the steps.

use std::fmt;
use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;

use crate::endpoint::{self, History};
use crate::exec::transfer::{Moved, Options, Place, Transfer, transfer};
use crate::exec::{Event, Observe};
use crate::model::{HoldTag, Partial, SnapshotName};
use crate::plan::replicate::{Plan, Policy, Step, replicate as plan};
use crate::stream::container::Backend;
use crate::{Error, Result};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Every version between, or only the last one.
    pub intermediates: bool,
    /// The version to end with; the newest if none is named.
    pub last: Option<SnapshotName>,
    /// Send in full if there is nothing to build upon.
    pub full_again: bool,
    /// How streams travel.
    pub options: Options,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replicated {
    /// From where.
    pub source: String,
    /// To where.
    pub target: String,
    /// What was decided.
    #[serde(flatten)]
    pub plan: Plan,
    /// What was brought.
    pub moved: Vec<Moved>,
}

/// From where to where; read and decided, nothing done yet.
pub struct Prepared<'a> {
    from: &'a Place,
    to: &'a Place,
    policy: Policy,
    partials: Vec<Partial>,
    /// What is to be done.
    pub plan: Plan,
}

impl<'a> Prepared<'a> {
    /// Reads both places and decides.
    ///
    /// # Errors
    /// What the places say; [`Error::Replicate`] for what somebody has to decide.
    pub fn new(from: &'a Place, to: &'a Place, wanted: &Wanted) -> Result<Self> {
        let ((source, sends), (target, receives)) = (from.look()?, to.look()?);
        if let Place::Here(dataset) = from
            && source.versions().is_empty()
        {
            dataset.expect_live()?;
        }
        let Some(_) = sends else {
            return Err(
                endpoint::Error::NotFound { what: "dataset", subject: from.to_string(), hint: None }.into()
            );
        };
        if let (Some(sends), Some(receives)) = (sends, receives)
            && sends != receives
        {
            return Err(endpoint::Error::Foreign {
                subject: to.to_string(),
                wanted: "target of the same filesystem",
                why: format!("{from} is on {sends}, and this is on {receives}"),
                hint: None,
            }
            .into());
        }
        let policy = Policy {
            intermediates: wanted.intermediates,
            last: wanted.last.clone(),
            full_again: wanted.full_again,
            linear: sends == Some(Backend::Zfs),
            here: cursor("to", to),
            there: cursor("from", from),
        };
        let plan = plan(&source, &target, &policy).map_err(|source| Error::Replicate {
            from: from.to_string(),
            to: to.to_string(),
            source: source.into(),
        })?;
        // A token is ZFS's; on btrfs the target says by itself what it has.
        let partials = if policy.linear { target.partials } else { Vec::new() };
        Ok(Self { from, to, policy, partials, plan })
    }

    /// Does it. Broken off anywhere, the next plan goes on.
    ///
    /// # Errors
    /// The first step that fails.
    pub fn run(self, wanted: &Wanted, observe: &dyn Observe) -> Result<Replicated> {
        let mut moved = Vec::new();
        for step in &self.plan.steps {
            match step {
                Step::HoldHere { version } => self.from.hold(version, &self.policy.here)?,
                Step::HoldThere { version } => self.to.hold(version, &self.policy.there)?,
                Step::ReleaseHere { version } => {
                    gone_is_released(self.from.release(version, &self.policy.here))?
                }
                Step::ReleaseThere { version } => {
                    gone_is_released(self.to.release(version, &self.policy.there))?
                }
                Step::Transfer { version, base, .. } => {
                    let partial = self.partials.iter().find(|partial| partial.guid == version.guid);
                    let token = partial.map(|partial| partial.token.clone());
                    let what = Transfer { version: version.clone(), base: base.clone(), token };
                    moved.push(transfer(self.from, self.to, &what, &wanted.options, observe)?);
                }
            }
        }
        Ok(Replicated { source: self.from.to_string(), target: self.to.to_string(), plan: self.plan, moved })
    }
}

/// What was destroyed, or let go by somebody else, is kept no longer.
fn gone_is_released(released: endpoint::Result<()>) -> endpoint::Result<()> {
    match released {
        Err(endpoint::Error::NotFound { .. }) => Ok(()),
        Err(endpoint::Error::Remote { class: crate::Class::Usage, .. }) => Ok(()),
        other => other,
    }
}

/// The tag by which the last version is kept that both sides have: readable, and another one for each place.
fn cursor(way: &str, place: &Place) -> HoldTag {
    match place {
        Place::There(peer) => tag(way, &peer.address().to_string(), ""),
        // Other machines have datasets of the same name.
        Place::Here(dataset) => tag(way, &dataset.to_string(), &machine()),
    }
}

/// What tells this machine from others.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).ok().filter(|text| !text.trim().is_empty());
    read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/hostname")).unwrap_or_default()
}

fn tag(way: &str, place: &str, machine: &str) -> HoldTag {
    const SHOWN: usize = 40;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let readable: String =
        place.trim_start_matches("ssh://").chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let end = readable.len().saturating_sub(SHOWN);
    let hash = blake3::hash(format!("{machine}\0{place}").as_bytes()).to_hex();
    let tag = format!("cowsnap:{way}:{}-{}", &readable[end..], &hash[..12]);
    tag.parse().expect("its characters are allowed and it is short")
}

/// Held while one source is replicated to one target: a second run waits, or leaves.
pub struct Lock(#[expect(dead_code, reason = "held, never read")] File);

/// What a run waits for.
struct Pair<'a>(&'a Place, &'a Place);

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.0, self.1)
    }
}

impl Lock {
    /// Takes it below `state_dir`; `wait` for as long as somebody else has it.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody has it and it is not to be waited for; a directory that can not be written to; a signal.
    pub fn take(
        state_dir: &Path,
        from: &Place,
        to: &Place,
        wait: bool,
        observe: &dyn Observe,
    ) -> Result<Self> {
        let pair = Pair(from, to).to_string();
        let dir = state_dir.join("locks");
        std::fs::create_dir_all(&dir).map_err(Error::io("make", dir.display()))?;
        let path = dir.join(format!("replicate-{}", &blake3::hash(pair.as_bytes()).to_hex()[..32]));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io("open", path.display()))?;
        let mut told = false;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK) if !wait => {
                    return Err(Error::Busy { what: format!("replicate {pair}") });
                }
                Err(Errno::WOULDBLOCK) => {
                    if !std::mem::replace(&mut told, true) {
                        let text = format!("another run replicates {pair}: waiting for it");
                        observe.observe(Event::Warning { text });
                    }
                    crate::sys::interrupt::check().map_err(Error::io("wait for", path.display()))?;
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(error) => return Err(Error::io("lock", path.display())(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_tag_whatever_the_place_is_called() {
        let long = format!("ssh://me@host:22//srv/{}", "x y/é".repeat(60));
        let tags = ["tank/a", "tank-a", "ssh://h/tank/a", &long].map(|place| tag("to", place, "m"));
        for (n, tag) in tags.iter().enumerate() {
            assert!(tag.as_str().starts_with("cowsnap:to:"), "{tag}");
            assert!(tags[n + 1..].iter().all(|other| other != tag), "{tag}");
        }
        assert!(tags[2].as_str().contains("h-tank-a-"), "{}", tags[2]);
        assert_ne!(tag("to", "tank/a", "one machine"), tag("to", "tank/a", "another"));
    }
}
