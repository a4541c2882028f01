//! The same on places in memory: the planner, its steps, and retention, each of their calls failing before or after its effect.

use std::collections::HashMap;
use std::io::{self, Read};

use cowsnap::endpoint::fake::{Content, Fake, FakeStore};
use cowsnap::endpoint::fault::{Faults, Faulty, When};
use cowsnap::endpoint::{
    Backend, Endpoint, Error, History, ReceiveRequest, Result, SendRequest, SnapshotRequest, btrfs, zfs,
};
use cowsnap::exec::prune::{Seen, prune};
use cowsnap::exec::replicate::keep;
use cowsnap::model::{Guid, HoldTag, Inventory, Version, VersionKind, VersionRef};
use cowsnap::plan::replicate::{Policy, Step, held_instead, replicate, simulate};
use cowsnap::plan::retain::Retention;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::dice::{Dice, Said, operations};

type Place = Faulty<Fake>;

/// By what a source knows what its target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// A hold, as on btrfs.
    Hold,
    /// A bookmark, as on ZFS.
    Bookmark,
    /// A hold, where a bookmark is wanted and denied.
    Denied,
}

impl Cursor {
    const ALL: [Self; 3] = [Self::Hold, Self::Bookmark, Self::Denied];
}

/// Two places, each of which may fail at any of its operations.
struct World {
    dice: Dice,
    policy: Policy,
    source: Place,
    target: Place,
    faults: [Faults; 2],
    cursor: Cursor,
    target_store: FakeStore,
    truth: HashMap<Guid, Content>,
    made: usize,
    /// Runs that were broken off, and those that ended well.
    runs: [usize; 2],
}

/// A stream that breaks off.
struct Cut<R>(R, u64);

impl<R: Read> Read for Cut<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let most = into.len().min(self.1 as usize);
        let len = self.0.read(&mut into[..most])?;
        self.1 -= len as u64;
        Ok(len)
    }
}

fn tag(text: &str) -> HoldTag {
    text.parse().expect("a tag")
}

impl World {
    fn new(dice: Dice, intermediates: bool, linear: bool, cursor: Cursor) -> Self {
        let (here, there) = (tag("cowsnap:to:x"), tag("cowsnap:from:x"));
        let marks = cursor != Cursor::Hold;
        let policy = Policy { intermediates, last: None, full_again: false, linear, here, marks, there };
        let (source_store, target_store) = (FakeStore::default(), FakeStore::default());
        source_store.deny_bookmarks(cursor == Cursor::Denied);
        let (source, target) = (source_store.dataset("data"), target_store.dataset("copy"));
        source.create().expect("created");
        let faults = [Faults::default(), Faults::default()];
        let [one, other] = &faults;
        let (source, target) = (Faulty::new(source, one), Faulty::new(target, other));
        let (truth, made, runs) = (HashMap::new(), 0, [0, 0]);
        Self { dice, policy, source, target, faults, cursor, target_store, truth, made, runs }
    }

    fn operate(&mut self) {
        match self.dice.below(100) {
            0..25 => self.write(),
            25..45 => self.snapshot(),
            45..55 => self.replicate_well(),
            55..80 => self.replicate_badly(),
            80..92 => self.prune(),
            92..96 => self.hold(),
            _ => self.destroy(),
        }
    }

    fn write(&mut self) {
        let file = format!("f{}", self.dice.below(12));
        match self.dice.percent(25) {
            true => self.source.inner().remove(&file),
            false => self.source.inner().write(&file, &self.dice.roll().to_le_bytes()),
        }
        .expect("written");
    }

    fn snapshot(&mut self) {
        self.made += 1;
        let request = SnapshotRequest::named(format!("s{}", self.made).parse().expect("a name"));
        let set = [self.source.inner().clone()];
        let taken = Backend::snapshot(&set, &request).expect("taken").versions.remove(0);
        self.truth.insert(taken.id.guid, set[0].content().expect("there"));
    }

    fn inventories(&self) -> (Inventory, Inventory) {
        let target = self.target.inner().inventory();
        let target = target.unwrap_or_else(|error| match error {
            Error::NotFound { .. } => Inventory::default(),
            error => panic!("{error}"),
        });
        (self.source.inner().inventory().expect("there"), target)
    }

    /// Plans and does it; the stream may break off after so many bytes.
    fn replicate(&mut self, cut: Option<u64>) -> Result<()> {
        let (source, target) = self.inventories();
        let plan = replicate(&source, &target, &self.policy).expect("nobody has to decide anything");
        let has_some = !target.versions().is_empty();
        assert_eq!(plan.base.is_some(), has_some, "an increment, once there was one");
        let mut steps = plan.steps;
        let done = self.carry_out(&mut steps, &source, cut);
        if done.is_ok() {
            let (mut source, mut target) = (source, target);
            steps.iter().for_each(|step| simulate(step, &self.policy, &mut source, &mut target));
            let seen = self.inventories();
            assert_eq!(told(&seen.0), told(&source), "what was foretold of the source");
            assert_eq!(told(&seen.1), told(&target), "what was foretold of the target");
        }
        self.runs[usize::from(done.is_ok())] += 1;
        done
    }

    /// As [`cowsnap::exec::replicate::replicate`] does them; `steps` are those that were done, where a bookmark could not be made.
    fn carry_out(&self, steps: &mut Vec<Step>, seen: &Inventory, cut: Option<u64>) -> Result<()> {
        let (places, mut at) = ((&self.source, &self.target), 0);
        while let Some(step) = steps.get(at) {
            match step {
                Step::Transfer { version, base, .. } => bring(places, version, base.as_ref(), cut)?,
                Step::MarkHere { version, name } => match self.source.mark(version, name) {
                    Err(Error::Denied { .. }) => {
                        held_instead(steps, at, seen, &self.policy);
                        continue;
                    }
                    done => done?,
                },
                step => drop(keep(step, &self.policy, places)?),
            }
            at += 1;
        }
        Ok(())
    }

    /// What the source knows of what its target has: what is held for it, and what is marked.
    fn cursors(&self, source: &Inventory) -> [Vec<Guid>; 2] {
        let prefix = format!("{}:", self.policy.here);
        let marks = source.versions().iter().filter(|version| version.id.name.as_str().starts_with(&prefix));
        [held_by(source, &self.policy.here), marks.map(|version| version.id.guid).collect()]
    }

    fn replicate_well(&mut self) {
        if snapshots(&self.inventories().0).next().is_none() {
            return;
        }
        self.replicate(None).expect("nothing fails");
        let (source, target) = self.inventories();
        let newest = snapshots(&source).last().expect("there is one").id.guid;
        let wanted = match self.cursor {
            Cursor::Bookmark => [vec![], vec![newest]],
            Cursor::Hold | Cursor::Denied => [vec![newest], vec![]],
        };
        assert_eq!(self.cursors(&source), wanted);
        assert_eq!(held_by(&target, &self.policy.there), [newest]);
        let mut again = replicate(&source, &target, &self.policy).expect("no conflict").steps;
        // Each time it is tried anew.
        if self.cursor == Cursor::Denied {
            assert!(matches!(again[..], [Step::MarkHere { .. }, Step::ReleaseHere { .. }]), "{again:?}");
            held_instead(&mut again, 0, &source, &self.policy);
        }
        assert_eq!(again, [], "planning again after success");
    }

    fn replicate_badly(&mut self) {
        if snapshots(&self.inventories().0).next().is_none() {
            return;
        }
        let cut = match self.dice.below(4) {
            0 => Some(self.dice.below(300)),
            1 => {
                self.target_store.set_capacity(self.dice.below(400));
                None
            }
            which => {
                let when = if self.dice.percent(50) { When::Before } else { When::After };
                self.faults[which as usize - 2].fail(1 + self.dice.below(8) as usize, when);
                None
            }
        };
        // It may be so late that nothing fails.
        let _ = self.replicate(cut);
        self.faults.iter().for_each(Faults::heal);
        self.target_store.set_capacity(u64::MAX);
    }

    fn prune(&mut self) {
        let at = self.dice.below(2) as usize;
        let place = [&self.source, &self.target][at];
        let before = match place.inner().inventory() {
            Ok(inventory) => inventory,
            Err(_) => return,
        };
        let policy = Retention { last: 1 + self.dice.below(4) as usize, ..Retention::default() };
        let now = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        if self.dice.percent(40) {
            let when = if self.dice.percent(50) { When::Before } else { When::After };
            self.faults[at].fail(1 + self.dice.below(5) as usize, when);
        }
        if let Ok(seen) = Seen::of(place) {
            prune(place, &seen.going(&policy, &now));
        }
        self.faults[at].heal();
        let after = place.inner().inventory().expect("there");
        assert_eq!(after.holds(), before.holds(), "what is held stays");
        assert_eq!(after.newest(), before.newest(), "so does the newest");
    }

    fn any(&mut self, inventory: &Inventory) -> Option<VersionRef> {
        let all: Vec<_> = snapshots(inventory).collect();
        self.dice.one_of(&all).map(|version| version.id.clone())
    }

    fn hold(&mut self) {
        let source = self.inventories().0;
        let Some(version) = self.any(&source) else { return };
        let audit = tag("audit");
        let held = source.holds_of(&version).any(|held| *held == audit);
        match held {
            true => self.source.inner().release(&version, &audit),
            false => self.source.inner().hold(&version, &audit),
        }
        .expect("done");
    }

    fn destroy(&mut self) {
        let (source, target) = self.inventories();
        let (place, inventory) = match self.dice.percent(50) {
            true => (self.source.inner().clone(), source),
            false => (self.target.inner().clone(), target),
        };
        let Some(version) = self.any(&inventory) else { return };
        let is_held = inventory.holds_of(&version).count() > 0;
        match place.destroy(&version) {
            Ok(()) => assert!(!is_held),
            Err(error) => assert!(is_held && matches!(error, Error::Held { .. }), "{error}"),
        }
    }

    /// What each place has is what was taken; and what was replicated goes on as an increment.
    fn look(&self) {
        let (source, target) = self.inventories();
        for (place, inventory) in [(&self.source, &source), (&self.target, &target)] {
            for version in snapshots(inventory) {
                let content = place.inner().content_of(&version.id).expect("there");
                assert!(Some(&content) == self.truth.get(&version.id.guid), "{}", version.id);
            }
        }
    }
}

fn bring(
    (from, to): (&Place, &Place),
    version: &VersionRef,
    base: Option<&VersionRef>,
    cut: Option<u64>,
) -> Result<()> {
    let request = SendRequest {
        version: version.clone(),
        base: base.cloned(),
        clone_sources: Vec::new(),
        stream_version: 0,
        compressed: false,
        zfs: zfs::SendOptions::default(),
    };
    let mut stream = Cut(from.send(&request)?.stream, cut.unwrap_or(u64::MAX));
    let keep = Some(btrfs::Keeping { marks: Default::default(), every: 1 });
    let request = ReceiveRequest {
        guid: Some(version.guid),
        base: base.map(|base| base.guid),
        keep,
        ..ReceiveRequest::named(version.name.clone())
    };
    to.receive(&request, &mut stream).map(drop)
}

fn snapshots(inventory: &Inventory) -> impl Iterator<Item = &Version> {
    inventory.versions().iter().filter(|version| version.kind == VersionKind::Snapshot)
}

fn held_by(inventory: &Inventory, tag: &HoldTag) -> Vec<Guid> {
    inventory.holds().iter().filter(|(_, by)| by == tag).map(|(version, _)| version.guid).collect()
}

/// The linear ones are as ZFS is: there alone are bookmarks.
fn policies() -> impl Iterator<Item = (bool, bool, Cursor)> {
    let of = |cursor| {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(all, linear)| (all, linear, cursor))
    };
    Cursor::ALL.into_iter().flat_map(of).filter(|(_, linear, cursor)| *linear || *cursor == Cursor::Hold)
}

/// What an inventory says, without the order of transactions, which nobody foretells.
fn told(inventory: &Inventory) -> String {
    let versions: Vec<_> = inventory.versions().iter().map(|version| version.id.to_string()).collect();
    let holds: Vec<_> = inventory.holds().iter().map(|(id, tag)| format!("{id} {tag}")).collect();
    format!("{versions:?} {holds:?} {:?}", inventory.partials)
}

#[test]
fn in_memory_too_nothing_is_wrong_and_the_next_increment_has_its_base() {
    let n = operations(600);
    let said = Said::new("soak::fake", n);
    let mut runs = [0, 0];
    for (intermediates, linear, cursor) in policies() {
        let mut world = World::new(said.dice(), intermediates, linear, cursor);
        for nth in 1..=n {
            said.at(nth);
            world.operate();
            world.look();
        }
        world.snapshot();
        world.replicate_well();
        world.look();
        runs = [runs[0] + world.runs[0], runs[1] + world.runs[1]];
    }
    eprintln!("{} runs were broken off, {} ended well", runs[0], runs[1]);
    assert!(runs[0] > 0 && runs[1] > runs[0] / 4, "{runs:?}");
}

/// A run is ended at each of its operations on either side, before the effect of that or after it: what the next run, which nothing befalls,
/// leaves is what one alone would have left, with no hold but those on the newest.
#[test]
fn wherever_a_run_is_ended_the_next_one_gets_there_and_leaks_no_hold() {
    let said = Said::new("soak::ended", 1);
    let begun = |intermediates, linear, cursor| {
        let mut world = World::new(said.dice(), intermediates, linear, cursor);
        world.write();
        world.snapshot();
        world.replicate_well();
        for _ in 0..3 {
            world.write();
            world.snapshot();
        }
        world
    };
    for (intermediates, linear, cursor) in policies() {
        let mut alone = begun(intermediates, linear, cursor);
        alone.replicate_well();
        let (source, target) = alone.inventories();
        let wanted =
            (told(&source), target.holds().to_vec(), target.newest().map(|newest| newest.id.clone()));
        for (side, when) in [(0, When::Before), (0, When::After), (1, When::Before), (1, When::After)] {
            let mut ended = 0;
            for nth in 1.. {
                let mut world = begun(intermediates, linear, cursor);
                world.faults[side].fail(nth, when);
                let done = world.replicate(None);
                let n_operations = world.faults[side].count();
                world.faults[side].heal();
                if n_operations < nth {
                    done.expect("nothing has failed");
                    break;
                }
                // A bookmark that is denied has no effect that could be the last thing before the end.
                let is_denied = (cursor, when, side) == (Cursor::Denied, When::After, 0);
                assert!(done.is_err() || is_denied, "{nth} of side {side}, {when:?}, {cursor:?}");
                ended += 1;
                world.replicate_well();
                world.look();
                let (source, target) = world.inventories();
                let newest = target.newest().map(|newest| newest.id.clone());
                let left = (told(&source), target.holds().to_vec(), newest);
                assert_eq!(left, wanted, "{nth} of side {side}, {when:?}, {cursor:?}");
                assert!(target.partials.is_empty(), "{nth} of side {side}, {when:?}");
            }
            assert!(ended >= if intermediates { 6 } else { 3 }, "{ended} operations of side {side}");
        }
    }
}
