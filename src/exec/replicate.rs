//! Brings targets up to their source: reads all of them, plans, does the steps.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;

use crate::endpoint::{self, History};
use crate::error::Behind;
use crate::exec::cursor::{Left, cursor, former, identity};
pub use crate::exec::cursor::{mark_for, mark_for_peer};
use crate::exec::fan::{alike, fan, told};
use crate::exec::sent::note_moved;
use crate::exec::transfer::{Moved, Options, Place, Transfer};
use crate::exec::{Event, Observe};
use crate::model::{Inventory, Partial, SnapshotName, VersionRef};
use crate::plan::fan::{Turn, turns};
use crate::plan::replicate::{Conflict, Plan, Policy, Step, expect_alike, held_instead, replicate as plan};
use crate::stream::container::{Backend, ZfsFlags};
use crate::{Class, Error, Result};

mod foretell;

pub use foretell::{Foretold, LetGo, ToSend, foretell};

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
    /// What else is known before, if nothing was done yet.
    #[serde(flatten)]
    pub foretold: Option<Foretold>,
}

/// A source, as it was looked at.
struct Source<'a> {
    place: &'a Place,
    inventory: Inventory,
    backend: Backend,
}

impl<'a> Source<'a> {
    fn look(place: &'a Place, wanted: &Wanted) -> Result<Self> {
        let (mut inventory, backend) = place.look()?;
        // What is encrypted goes out raw, and so encrypted, unless somebody says otherwise.
        inventory.caps.encrypted = goes_encrypted(inventory.caps.encrypted, wanted.options.zfs_flags);
        if let Place::Here(dataset) = place
            && inventory.versions().is_empty()
        {
            dataset.expect_live()?;
        }
        match backend {
            Some(backend) => Ok(Self { place, inventory, backend }),
            None => {
                Err(endpoint::Error::NotFound { what: "dataset", subject: place.to_string(), hint: None }
                    .into())
            }
        }
    }

    /// Looks at the target, and decides.
    fn plan(&self, to: &'a Place, wanted: &Wanted) -> Result<Prepared<'a>> {
        let (from, (target, receives)) = (self.place, look_patiently(to)?);
        let conflict = |source: Conflict| Error::Replicate {
            from: from.to_string(),
            to: to.to_string(),
            source: source.into(),
        };
        if let Some(receives) = receives {
            expect_alike(&self.backend.to_string(), &receives.to_string()).map_err(conflict)?;
        }
        let policy = Policy {
            intermediates: wanted.intermediates,
            last: wanted.last.clone(),
            full_again: wanted.full_again,
            linear: self.backend == Backend::Zfs,
            marks: from.can_mark(&cursor("to", to)),
            here: cursor("to", to),
            there: cursor("from", from),
        };
        let kept = Kept {
            here: Left::of(&self.inventory, former("to", to)),
            there: Left::of(&target, former("from", from)),
            turned_here: Left::of(&self.inventory, Some(cursor("from", to))),
            turned_there: Left::of(&target, Some(cursor("to", from))),
        };
        let renamed = kept.here.as_ref().map(|left| left.renamed(&self.inventory, &policy.here));
        let target =
            kept.there.as_ref().map_or_else(|| target.clone(), |left| left.renamed(&target, &policy.there));
        let plan = plan(renamed.as_ref().unwrap_or(&self.inventory), &target, &policy).map_err(conflict)?;
        Ok(Prepared { to, policy, partials: target.partials, plan, kept })
    }

    /// Which streams do all of `prepared`. Behind what a target has of it, ZFS makes another stream, by its token; a peer's beginning can be
    /// left out for one target alone.
    fn turns(&self, prepared: &[&Prepared<'_>]) -> Vec<Turn> {
        let plans: Vec<_> = prepared.iter().map(|prepared| &prepared.plan).collect();
        turns(&self.inventory, &plans, self.backend == Backend::Zfs)
    }
}

/// Whether what travels is encrypted, if its source is: what is not does not become so by being sent raw.
fn goes_encrypted(is_encrypted: Option<bool>, asked: Option<ZfsFlags>) -> Option<bool> {
    is_encrypted.map(|is_encrypted| is_encrypted && asked.is_none_or(|flags| flags.raw))
}

/// What is there, once who was killed a moment ago is gone: what they received in part is nobody's then.
fn look_patiently(place: &Place) -> Result<(Inventory, Option<Backend>)> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    loop {
        let looked = place.look()?;
        if !is_being_received(&looked.0) || begun.elapsed() > PATIENCE {
            return Ok(looked);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether somebody receives a version there; what is staged to be compared is nobody's.
fn is_being_received(there: &Inventory) -> bool {
    there.partials.iter().any(|partial| partial.live && !partial.guid.is_nil())
}

/// What a target is to get; nothing done yet.
struct Prepared<'a> {
    to: &'a Place,
    policy: Policy,
    partials: Vec<Partial>,
    plan: Plan,
    kept: Kept,
}

/// What is kept by tags that the plan knows nothing of.
struct Kept {
    /// At the source, by how the target was named.
    here: Option<Left>,
    /// At the target, by how the source was named.
    there: Option<Left>,
    /// At the source, from when it was the target.
    turned_here: Option<Left>,
    /// At the target, from when it was the source.
    turned_there: Option<Left>,
}

impl Prepared<'_> {
    /// Keeps at the source by the tags of today what is kept by those of before.
    fn rename_here(&self, from: &Place) -> endpoint::Result<()> {
        self.kept.here.iter().try_for_each(|left| left.rename(from, &self.policy.here))
    }

    /// The same at the target.
    fn rename_there(&self) -> endpoint::Result<()> {
        self.kept.there.iter().try_for_each(|left| left.rename(self.to, &self.policy.there))
    }

    /// Both sides keep what both have: what they kept for the other direction, before it turned, may go.
    fn settle_turned(&self, from: &Place, observe: &dyn Observe) {
        self.kept.turned_here.iter().for_each(|left| left.let_go(from, observe));
        self.kept.turned_there.iter().for_each(|left| left.let_go(self.to, observe));
    }

    /// By what a transfer of `version` goes on. That is ZFS's; on btrfs the target says by itself what it has.
    fn token(&self, version: &VersionRef) -> Option<String> {
        let partial = self.partial(version).filter(|_| self.policy.linear);
        partial.map(|partial| partial.token.clone())
    }

    fn partial(&self, version: &VersionRef) -> Option<&Partial> {
        self.partials.iter().find(|partial| partial.guid == version.guid)
    }
}

fn replicated(from: &Place, prepared: Prepared<'_>, moved: Vec<Moved>) -> Replicated {
    let (source, target) = (from.to_string(), prepared.to.to_string());
    Replicated { source, target, plan: prepared.plan, moved, foretold: None }
}

/// What two runs at once do.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    /// Where locks are.
    pub state_dir: &'a Path,
    /// Whether to wait for another run that does the same.
    pub wait: bool,
}

/// Brings each of `to` up to `from`; answers for each in turn, with [`Error::Behind`] for one that got some of it. What several are to get is sent once. One that fails does not stop the others;
/// one that another run is at work on is waited for when the others are done. Broken off anywhere, the next plan goes on.
pub fn replicate(
    from: &Place,
    to: &[Place],
    wanted: &Wanted,
    guard: Guard<'_>,
    observe: &dyn Observe,
) -> Vec<Result<Replicated>> {
    let mut done: Vec<Option<Result<Replicated>>> = to.iter().map(|_| None).collect();
    let (mut free, mut locks, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for (number, to) in to.iter().enumerate() {
        match Lock::attempt(guard.state_dir, from, to) {
            Ok(Some(lock)) => {
                free.push(number);
                locks.push(lock);
            }
            Ok(None) => busy.push(number),
            Err(error) => done[number] = Some(Err(error)),
        }
    }
    let places: Vec<_> = free.iter().map(|&number| &to[number]).collect();
    for (number, outcome) in free.into_iter().zip(together(from, &places, wanted, observe)) {
        done[number] = Some(outcome);
    }
    drop(locks);
    for number in busy {
        let lock = Lock::take(guard, from, &to[number], observe);
        let outcome = lock.and_then(|_lock| {
            let mut outcome = together(&from.again()?, &[&to[number]], wanted, observe);
            outcome.pop().expect("one for each")
        });
        done[number] = Some(outcome);
    }
    done.into_iter().map(|outcome| outcome.expect("each is free, busy or failed")).collect()
}

/// The targets that nobody else is at work on.
fn together(from: &Place, to: &[&Place], wanted: &Wanted, observe: &dyn Observe) -> Vec<Result<Replicated>> {
    if to.is_empty() {
        return Vec::new();
    }
    let source = match Source::look(from, wanted) {
        Ok(source) => source,
        Err(error) => {
            let others: Vec<_> = to[1..].iter().map(|_| Err(alike(&error, &from.to_string()))).collect();
            return [Err(error)].into_iter().chain(others).collect();
        }
    };
    let mut lanes: Vec<_> = to.iter().map(|to| source.plan(to, wanted).map(Lane::new)).collect();
    let mut going: Vec<&mut Lane<'_>> = lanes.iter_mut().filter_map(|lane| lane.as_mut().ok()).collect();
    let turns = source.turns(&going.iter().map(|lane| &lane.prepared).collect::<Vec<_>>());
    let connection = Mutex::new(Connection { from, place: from.clone(), is_broken: false, times: 0 });
    let at = At { source: &source.inventory, observe };
    // Before anything that is done for one target takes away what another builds upon.
    going.iter_mut().for_each(|lane| lane.rename(&connection));
    going.iter_mut().for_each(|lane| lane.mark(&connection, at));
    advance(going.iter_mut().map(|lane| &mut **lane), &connection, at);
    for turn in turns {
        let alive = |lane: &usize| going[*lane].failed.is_none();
        let numbers: Vec<_> = turn.lanes.into_iter().filter(alive).collect();
        let Some(&first) = numbers.first() else { continue };
        let connected = match alone(&connection).sound().cloned() {
            Ok(connected) => connected,
            Err(error) => {
                for lane in numbers {
                    going[lane].failed = Some(alike(&error, &from.to_string()));
                }
                continue;
            }
        };
        let token = going[first].prepared.token(&turn.version).filter(|_| numbers.len() == 1);
        let base = going[first].base().cloned();
        let what = Transfer { version: turn.version, base, token };
        let places: Vec<_> = numbers.iter().map(|&lane| going[lane].prepared.to).collect();
        let outcomes = fan(&connected, &places, &what, &wanted.options, observe);
        alone(&connection).is_broken |= outcomes.iter().any(Result::is_err);
        for (&lane, outcome) in numbers.iter().zip(outcomes) {
            if let Ok(moved) = &outcome {
                note_moved(from, moved, &going[lane].prepared.policy.here, observe);
            }
            going[lane].arrived(outcome);
        }
        let arrived = going.iter_mut().enumerate().filter(|(number, _)| numbers.contains(number));
        advance(arrived.map(|(_, lane)| &mut **lane), &connection, at);
    }
    let done = going.iter().filter(|lane| lane.failed.is_none());
    for lane in done {
        if let Ok(from) = alone(&connection).sound() {
            lane.prepared.settle_turned(from, observe);
        }
    }
    lanes.into_iter().map(|lane| lane.and_then(|lane| lane.outcome(from))).collect()
}

/// Has each of `lanes` do its steps up to its next transfer, all at once: one whose disk is slow keeps no other waiting.
fn advance<'a: 'b, 'b>(
    lanes: impl Iterator<Item = &'b mut Lane<'a>>,
    from: &Mutex<Connection<'_>>,
    at: At<'_>,
) {
    // Without one, each lane says so.
    let _ = alone(from).sound();
    let before = alone(from).times;
    std::thread::scope(|scope| {
        for lane in lanes {
            scope.spawn(move || lane.advance(from, at));
        }
    });
    // What one of these threads has connected may end with it.
    let mut from = alone(from);
    from.is_broken |= from.times != before;
}

/// The source's connection for the caller alone: on it, one thing is said after another.
fn alone<'a, 'b>(connection: &'a Mutex<Connection<'b>>) -> MutexGuard<'a, Connection<'b>> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the source something. An answer that did not come to its end may come yet: before anybody else has the connection, it is known to be broken. A refusal is an answer.
fn at_source<T>(
    connection: &Mutex<Connection<'_>>,
    ask: impl FnOnce(&Place) -> endpoint::Result<T>,
) -> Result<T> {
    let mut connection = alone(connection);
    let asked = ask(connection.sound()?);
    let is_answer =
        |error: &endpoint::Error| matches!(error, endpoint::Error::Remote { class: Class::Denied, .. });
    connection.is_broken |= asked.as_ref().is_err_and(|error| !is_answer(error));
    Ok(asked?)
}

/// The source of a run. What ends a peer's stream before its end leaves the rest of it in the connection, and so does whoever no longer
/// waits for an answer: then there is another one for what comes next.
struct Connection<'a> {
    from: &'a Place,
    place: Place,
    is_broken: bool,
    times: u32, // That it was made again.
}

impl Connection<'_> {
    fn sound(&mut self) -> Result<&Place> {
        if self.is_broken {
            self.place = self.from.again()?;
            self.times += 1;
            self.is_broken = false;
        }
        Ok(&self.place)
    }
}

/// What the source was when the plans were made, and who hears of what happens.
#[derive(Clone, Copy)]
struct At<'a> {
    source: &'a Inventory,
    observe: &'a dyn Observe,
}

/// A target on its way.
struct Lane<'a> {
    prepared: Prepared<'a>,
    next: usize,
    moved: Vec<Moved>,
    failed: Option<Error>,
    warned: [bool; 2], // Of a bookmark that could not be made, and of one that could not be destroyed.
}

impl<'a> Lane<'a> {
    fn new(prepared: Prepared<'a>) -> Self {
        Self { prepared, next: 0, moved: Vec::new(), failed: None, warned: [false; 2] }
    }

    /// Keeps by the tags of today what is kept by those of before.
    fn rename(&mut self, from: &Mutex<Connection<'_>>) {
        let renamed = at_source(from, |from| self.prepared.rename_here(from));
        self.failed = renamed.and_then(|()| Ok(self.prepared.rename_there()?)).err();
    }

    /// Makes the bookmarks that it begins with.
    fn mark(&mut self, from: &Mutex<Connection<'_>>, at: At<'_>) {
        self.go_on(from, at, |step| matches!(step, Step::MarkHere { .. }));
    }

    /// Does its steps up to the next transfer.
    fn advance(&mut self, from: &Mutex<Connection<'_>>, at: At<'_>) {
        self.go_on(from, at, |step| !matches!(step, Step::Transfer { .. }));
    }

    /// Does its steps, as long as they are `wanted`.
    fn go_on(&mut self, from: &Mutex<Connection<'_>>, at: At<'_>, wanted: impl Fn(&Step) -> bool) {
        while self.failed.is_none() && self.prepared.plan.steps.get(self.next).is_some_and(&wanted) {
            match self.step(from) {
                Ok(()) => self.next += 1,
                Err(error) if self.goes_without(&error, at) => {}
                Err(error) => self.failed = Some(error),
            }
        }
    }

    /// Does the next step, which is no transfer. At the target, no other lane is waited for.
    fn step(&self, from: &Mutex<Connection<'_>>) -> Result<()> {
        let Prepared { to, policy, plan, .. } = &self.prepared;
        match &plan.steps[self.next] {
            Step::MarkHere { version, name } => at_source(from, |from| from.mark(version, name)),
            // Nothing of it is the source's.
            step @ (Step::HoldThere { .. } | Step::ReleaseThere { .. }) => {
                Ok(keep(step, policy, (*to, *to)).map(drop)?)
            }
            step => at_source(from, |from| keep(step, policy, (from, *to)).map(drop)),
        }
    }

    /// Whether the work goes on without the next step, which failed: bookmarks are not everybody's to make and to destroy, and no pool's of
    /// old. A hold keeps the version then.
    fn goes_without(&mut self, error: &Error, at: At<'_>) -> bool {
        let Prepared { to, policy, plan, .. } = &mut self.prepared;
        let is_denied = error.class() == Class::Denied;
        let (said, text) = match &plan.steps[self.next] {
            Step::MarkHere { version, .. } if is_denied || at.source.snapshot_of(version.guid).is_none() => {
                held_instead(&mut plan.steps, self.next, at.source, policy);
                (&mut self.warned[0], "what it has is kept here by a hold instead of a bookmark")
            }
            Step::UnmarkHere { .. } if is_denied => {
                self.next += 1;
                (&mut self.warned[1], "a bookmark that it no longer needs stays here")
            }
            _ => return false,
        };
        if !std::mem::replace(said, true) {
            let text = format!("{to}: {text}: {}", told(error));
            at.observe.observe(Event::Warning { text });
        }
        true
    }

    /// What the transfer that it stands before builds upon.
    fn base(&self) -> Option<&VersionRef> {
        match self.prepared.plan.steps.get(self.next) {
            Some(Step::Transfer { base, .. }) => base.as_ref(),
            _ => None,
        }
    }

    /// Takes note of the transfer that it stands before.
    fn arrived(&mut self, outcome: Result<Moved>) {
        match outcome {
            Ok(moved) => {
                self.moved.push(moved);
                self.next += 1;
            }
            Err(error) => self.failed = Some(error),
        }
    }

    fn outcome(self, from: &Place) -> Result<Replicated> {
        match self.failed {
            Some(error) if self.moved.is_empty() => Err(error),
            Some(error) => Err(Error::Behind(Behind { moved: self.moved, error: error.into() })),
            None => Ok(replicated(from, self.prepared, self.moved)),
        }
    }
}

/// Does a step of a plan that holds, releases or destroys a bookmark; `false` if it is a transfer or makes a bookmark, of which nothing is done.
///
/// # Errors
/// What the places say.
pub fn keep(
    step: &Step,
    policy: &Policy,
    (from, to): (&impl History, &impl History),
) -> endpoint::Result<bool> {
    match step {
        Step::HoldHere { version } => from.hold(version, &policy.here)?,
        Step::HoldThere { version } => to.hold(version, &policy.there)?,
        Step::ReleaseHere { version } => gone_is_released(from.release(version, &policy.here))?,
        Step::ReleaseThere { version } => gone_is_released(to.release(version, &policy.there))?,
        Step::UnmarkHere { bookmark } => gone_is_released(from.destroy(bookmark))?,
        Step::Transfer { .. } | Step::MarkHere { .. } => return Ok(false),
    }
    Ok(true)
}

/// What was destroyed, or let go by somebody else, is kept no longer.
pub(super) fn gone_is_released(released: endpoint::Result<()>) -> endpoint::Result<()> {
    match released {
        Err(endpoint::Error::NotFound { .. }) => Ok(()),
        Err(endpoint::Error::Remote { class: crate::Class::Usage, .. }) => Ok(()),
        other => other,
    }
}

/// Held while one source is replicated to one target: a second run waits, or leaves.
struct Lock(#[expect(dead_code, reason = "held, never read")] File);

/// What a run waits for.
struct Pair<'a>(&'a Place, &'a Place);

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.0, self.1)
    }
}

impl Lock {
    /// Takes it below `state_dir`; `None` if somebody has it.
    fn attempt(state_dir: &Path, from: &Place, to: &Place) -> Result<Option<Self>> {
        let dir = state_dir.join("locks");
        std::fs::create_dir_all(&dir).map_err(Error::io("make", dir.display()))?;
        // Who names a place in another way meets the same lock.
        let pair = format!("{}\0{}", identity(from), identity(to));
        let path = dir.join(format!("replicate-{}", &blake3::hash(pair.as_bytes()).to_hex()[..32]));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io("open", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::io("lock", path.display())(error.into())),
        }
    }

    /// Takes it; waits for as long as somebody else has it, or not at all.
    fn take(guard: Guard<'_>, from: &Place, to: &Place, observe: &dyn Observe) -> Result<Self> {
        let pair = Pair(from, to);
        if !guard.wait {
            let hint = "wait until it is done, or leave out --no-wait";
            return Err(Error::Busy { what: format!("replicate {pair}"), hint });
        }
        let text = format!("another run replicates {pair}: waiting for it");
        observe.observe(Event::Warning { text });
        loop {
            if let Some(lock) = Self::attempt(guard.state_dir, from, to)? {
                return Ok(lock);
            }
            crate::sys::interrupt::check().map_err(Error::io("wait for", &pair))?;
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Guid;

    #[test]
    fn only_what_is_encrypted_goes_out_encrypted() {
        let flags = |text: &str| Some(text.parse::<ZfsFlags>().expect("flags"));
        for (is_encrypted, asked, goes) in [
            (Some(true), None, Some(true)),
            (Some(true), flags("raw"), Some(true)),
            (Some(true), flags("plain"), Some(false)),
            (Some(false), flags("raw"), Some(false)),
            (Some(false), None, Some(false)),
            (None, flags("raw"), None),
        ] {
            assert_eq!(goes_encrypted(is_encrypted, asked), goes, "{is_encrypted:?} {asked:?}");
        }
    }

    #[test]
    fn what_is_staged_to_be_compared_is_not_waited_for() {
        let there = |partials: &[(Guid, bool)]| {
            let mut there = Inventory::default();
            there.partials = partials.iter().map(|&(guid, live)| partial(guid, live)).collect();
            is_being_received(&there)
        };
        let guid = Guid::of_zfs(7);
        assert!(!there(&[]) && !there(&[(Guid::NIL, true)]) && !there(&[(guid, false)]));
        assert!(there(&[(Guid::NIL, true), (guid, true)]));
    }

    #[test]
    fn whoever_comes_next_finds_a_connection_that_broke_marked() {
        let place = Place::Here(endpoint::Dataset::Zfs(endpoint::zfs::Dataset::by_name(
            "tank/node".parse().expect("a name"),
        )));
        let error =
            |class| endpoint::Error::Remote { place: "b".into(), what: "so".into(), class, hint: None };
        for (class, breaks) in [(Class::Unreachable, true), (Class::Usage, true), (Class::Denied, false)] {
            let connection =
                Mutex::new(Connection { from: &place, place: place.clone(), is_broken: false, times: 0 });
            let asked: Result<()> = at_source(&connection, |_| {
                assert!(connection.try_lock().is_err(), "somebody else can have it, too");
                Err(error(class))
            });
            assert_eq!(asked.expect_err("it failed").class(), class);
            assert_eq!(alone(&connection).is_broken, breaks, "{class:?}");
        }
    }

    fn partial(guid: Guid, live: bool) -> Partial {
        let name = "a".parse().expect("a name");
        Partial { name, guid, token: String::new(), live, since: None, bytes: None, base: None }
    }
}
