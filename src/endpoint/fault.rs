//! A backend that fails: the n-th operation, before its effect or after it. What stands above must converge either way.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use crate::endpoint::fake::Fake;
use crate::endpoint::{
    Backend, Details, Dying, Endpoint, Error, History, Outgoing, Prunable, ReceiveRequest, Result,
    RollbackRequest, RolledBack, SendRequest, SnapshotRequest, SnapshotSet, Wait,
};
use crate::model::{HoldTag, Inventory, SnapshotName, Version, VersionRef};

/// On which side of its effect the operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing happened.
    Before,
    /// It happened, and the caller is not told.
    After,
}

/// Counts operations, and says which one fails. Copies count together.
#[derive(Debug, Clone, Default)]
pub struct Faults(Rc<Counter>);

#[derive(Debug, Default)]
struct Counter {
    done: Cell<usize>,
    fail: Cell<Option<(usize, When)>>,
}

impl Faults {
    /// Lets the `nth` operation from now on fail; the first is 1.
    pub fn fail(&self, nth: usize, when: When) {
        self.0.done.set(0);
        self.0.fail.set(Some((nth, when)));
    }

    /// Lets nothing fail.
    pub fn heal(&self) {
        self.0.fail.set(None);
    }

    /// How many operations there were since [`Faults::fail`].
    pub fn count(&self) -> usize {
        self.0.done.get()
    }

    fn run<T>(&self, op: &'static str, effect: impl FnOnce() -> Result<T>) -> Result<T> {
        self.0.done.set(self.0.done.get() + 1);
        let fails = |when| self.0.fail.get() == Some((self.0.done.get(), when));
        let injected = || Error::Io {
            op,
            subject: "what a fault was put into".into(),
            source: io::Error::other("injected"),
        };
        if fails(When::Before) {
            return Err(injected());
        }
        let done = effect()?;
        if fails(When::After) { Err(injected()) } else { Ok(done) }
    }
}

/// A backend whose operations fail when its [`Faults`] say so.
#[derive(Debug, Clone)]
pub struct Faulty<B> {
    inner: B,
    faults: Faults,
}

impl<B> Faulty<B> {
    /// `inner`, failing when `faults` says so.
    pub fn new(inner: B, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }

    /// What is inside, which does not fail.
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

impl Faulty<Fake> {
    /// As [`Fake::mark`].
    ///
    /// # Errors
    /// What that says, and what was put into it.
    pub fn mark(&self, version: &VersionRef, name: &SnapshotName) -> Result<()> {
        self.faults.run("bookmark", || self.inner.mark(version, name))
    }
}

impl<B: fmt::Display> fmt::Display for Faulty<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<B: History> History for Faulty<B> {
    fn inventory(&self) -> Result<Inventory> {
        self.faults.run("list", || self.inner.inventory())
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.faults.run("hold", || self.inner.hold(version, tag))
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.faults.run("release", || self.inner.release(version, tag))
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        self.faults.run("destroy", || self.inner.destroy(version))
    }
}

impl<B: Endpoint> Endpoint for Faulty<B> {
    fn send(&self, request: &SendRequest) -> Result<Outgoing> {
        self.faults.run("send", || self.inner.send(request))
    }

    fn receive(&self, request: &ReceiveRequest, stream: &mut dyn Read) -> Result<Version> {
        self.faults.run("receive", || self.inner.receive(request, stream))
    }
}

impl<B: Prunable> Prunable for Faulty<B> {
    fn described(&self) -> Result<Vec<Details>> {
        self.faults.run("list", || self.inner.described())
    }

    fn has_dependent_clones(&self) -> bool {
        self.inner.has_dependent_clones()
    }

    fn would_free(&self, versions: &[VersionRef], thorough: bool) -> Result<Option<u64>> {
        self.faults.run("foresee", || self.inner.would_free(versions, thorough))
    }

    fn free_bytes(&self) -> Result<u64> {
        self.faults.run("look at space", || self.inner.free_bytes())
    }

    fn most_free_bytes(&self) -> Result<u64> {
        self.inner.most_free_bytes()
    }

    fn shares_space_with(&self, other: &Self) -> bool {
        self.inner.shares_space_with(&other.inner)
    }

    fn destroy_snapshot(&self, version: &VersionRef) -> Result<Dying> {
        self.faults.run("destroy", || self.inner.destroy_snapshot(version))
    }

    fn wait_for_space(&self, dying: &Dying, wait: Wait) -> Result<()> {
        self.faults.run("wait for space", || self.inner.wait_for_space(dying, wait))
    }
}

impl<B: Backend + Clone> Backend for Faulty<B> {
    type Mount = B::Mount;

    fn snapshot(set: &[Self], request: &SnapshotRequest) -> Result<SnapshotSet> {
        let inner: Vec<_> = set.iter().map(|faulty| faulty.inner.clone()).collect();
        let snapshot = || B::snapshot(&inner, request);
        set.first().map_or_else(snapshot, |first| first.faults.run("snapshot", snapshot))
    }

    fn clone_at(&self, version: &VersionRef, to: &Self) -> Result<()> {
        self.faults.run("clone", || self.inner.clone_at(version, &to.inner))
    }

    fn mount(&self, version: &VersionRef, dir: &Path) -> Result<B::Mount> {
        self.faults.run("mount", || self.inner.mount(version, dir))
    }

    fn rollback(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        self.faults.run("rollback", || self.inner.rollback(version, request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::fake::{Fake, FakeStore};
    use crate::model::SnapshotName;

    /// Takes `s`, holds it, and lets nobody else have it: done again from what is there, whatever failed before.
    fn converge(dataset: &Faulty<Fake>) -> Result<()> {
        let name: SnapshotName = "s".parse().expect("a name");
        let tag: HoldTag = "t".parse().expect("a tag");
        let found = dataset.inventory()?.by_name(&name).cloned();
        let version = match found {
            Some(version) => version,
            None => {
                let set = std::slice::from_ref(dataset);
                Backend::snapshot(set, &SnapshotRequest::named(name))?.versions.remove(0)
            }
        };
        dataset.hold(&version.id, &tag)
    }

    #[test]
    fn a_workload_that_looks_first_converges_after_a_fault_at_each_operation() {
        let mut failed = 0;
        for nth in 1..=4 {
            for when in [When::Before, When::After] {
                let faults = Faults::default();
                let inner = FakeStore::default().dataset("d");
                inner.create().expect("created");
                let dataset = Faulty::new(inner, &faults);
                faults.fail(nth, when);
                failed += usize::from(converge(&dataset).is_err());
                faults.heal();
                converge(&dataset).expect("nothing fails now");
                let inventory = dataset.inner().inventory().expect("there");
                assert_eq!((inventory.versions().len(), inventory.holds().len()), (1, 1), "{nth} {when:?}");
            }
        }
        assert_eq!(
            failed, 6,
            "three operations fail, each before and after its effect; a fourth there is not"
        );
    }
}
