//! What every backend promises, as a suite that each of them passes: `contract::check(&ground)`.
//!
//! It panics with the broken promise. It is public so that a backend outside this crate can be held to it.

use crate::endpoint::{
    Backend, Endpoint, Error, History, ReceiveRequest, RollbackRequest, SendRequest, SnapshotRequest,
};
use crate::model::{HoldTag, Inventory, SnapshotName, Version};

/// What the suite needs to stand on: fresh datasets and a way to look at their content.
pub trait Ground {
    /// What is tested.
    type Backend: Backend;

    /// Makes a new, empty dataset; each name is used once.
    fn create(&self, name: &str) -> Self::Backend;
    /// A dataset that is not there, at a place where it can be made.
    fn absent(&self, name: &str) -> Self::Backend;
    /// Writes a file into the live dataset.
    fn write(&self, dataset: &Self::Backend, file: &str, bytes: &[u8]);
    /// Reads a file of the live dataset; `None` if it is not there.
    fn read(&self, dataset: &Self::Backend, file: &str) -> Option<Vec<u8>>;
    /// Reads a file of a version; `None` if it is not there.
    fn read_version(&self, dataset: &Self::Backend, version: &Version, file: &str) -> Option<Vec<u8>>;
    /// The dataset that going back set aside: what [`RolledBack::aside`](crate::endpoint::RolledBack::aside) calls `name`.
    fn aside(&self, name: &str) -> Self::Backend;
}

/// Runs the whole suite.
///
/// # Panics
/// On the first promise that is broken.
pub fn check<G: Ground>(ground: &G) {
    a_version_never_changes(ground);
    versions_are_in_the_order_in_which_they_were_made(ground);
    a_taken_name_changes_nothing(ground);
    a_set_is_taken_as_a_whole_or_not_at_all(ground);
    a_hold_keeps_a_version(ground);
    a_reference_acts_on_identity_and_not_on_a_name(ground);
    a_clone_goes_its_own_way(ground);
    going_back_loses_nothing(ground);
}

/// Runs the suite of those that send and receive.
///
/// # Panics
/// On the first promise that is broken.
pub fn check_replica<G: Ground>(ground: &G)
where
    G::Backend: Endpoint,
{
    a_replica_is_as_old_as_its_source(ground);
}

fn a_replica_is_as_old_as_its_source<G: Ground>(ground: &G)
where
    G::Backend: Endpoint,
{
    let (source, target) = (ground.create("as-old"), ground.absent("replica"));
    ground.write(&source, "f", b"one");
    let versions = [take(&source, "one"), take(&source, "two")];
    // Until the clock of the coarsest filesystem says something else.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut base = None;
    for version in &versions {
        let sent = SendRequest {
            version: version.id.clone(),
            base,
            clone_sources: Vec::new(),
            stream_version: 0,
            compressed: false,
            zfs: Default::default(),
        };
        let mut out = source.send(&sent).expect("sent");
        let request = ReceiveRequest {
            guid: Some(version.id.guid),
            base: sent.base.map(|base| base.guid),
            properties: out.properties,
            stream: out.zfs,
            created: Some(version.created),
            ..ReceiveRequest::named(version.id.name.clone())
        };
        let received = target.receive(&request, &mut out.stream).expect("received");
        assert_eq!(received.created, version.created, "what was answered");
        base = Some(version.id.clone());
    }
    let created = |versions: &[Version]| versions.iter().map(|version| version.created).collect::<Vec<_>>();
    assert_eq!(created(inventory(&target).versions()), created(&versions), "what is listed");
}

fn name(text: &str) -> SnapshotName {
    text.parse().expect("a name")
}

fn tag(text: &str) -> HoldTag {
    text.parse().expect("a tag")
}

fn take<B: Backend>(dataset: &B, text: &str) -> Version {
    let set = std::slice::from_ref(dataset);
    let taken = B::snapshot(set, &SnapshotRequest::named(name(text))).expect("a free name is taken");
    taken.versions.into_iter().next().expect("one version for one dataset")
}

fn inventory<B: Backend>(dataset: &B) -> Inventory {
    dataset.inventory().expect("a dataset that is there has an inventory")
}

fn names<B: Backend>(dataset: &B) -> Vec<String> {
    inventory(dataset).versions().iter().map(|version| version.id.name.to_string()).collect()
}

fn a_version_never_changes<G: Ground>(ground: &G) {
    let dataset = ground.create("never-changes");
    assert!(inventory(&dataset).versions().is_empty(), "a new dataset has no versions");
    ground.write(&dataset, "f", b"one");
    let version = take(&dataset, "s");
    ground.write(&dataset, "f", b"two");
    ground.write(&dataset, "g", b"new");
    assert_eq!(ground.read_version(&dataset, &version, "f").as_deref(), Some(&b"one"[..]));
    assert_eq!(ground.read_version(&dataset, &version, "g"), None);
    assert_eq!(ground.read(&dataset, "f").as_deref(), Some(&b"two"[..]));
    assert_eq!(inventory(&dataset).versions(), [version], "what was answered is what is listed");
}

fn versions_are_in_the_order_in_which_they_were_made<G: Ground>(ground: &G) {
    let dataset = ground.create("order");
    for text in ["c", "a", "b"] {
        take(&dataset, text);
    }
    assert_eq!(names(&dataset), ["c", "a", "b"]);
}

fn a_taken_name_changes_nothing<G: Ground>(ground: &G) {
    let dataset = ground.create("taken");
    let version = take(&dataset, "s");
    let again = G::Backend::snapshot(std::slice::from_ref(&dataset), &SnapshotRequest::named(name("s")));
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    assert_eq!(inventory(&dataset).versions(), [version]);
}

fn a_set_is_taken_as_a_whole_or_not_at_all<G: Ground>(ground: &G) {
    let set = [ground.create("set-1"), ground.create("set-2")];
    let request = SnapshotRequest { holds: vec![tag("t")], ..SnapshotRequest::named(name("s")) };
    let taken = G::Backend::snapshot(&set, &request).expect("free names are taken");
    for (dataset, version) in set.iter().zip(&taken.versions) {
        assert_eq!(inventory(dataset).versions(), std::slice::from_ref(version), "in the order asked");
        assert_eq!(inventory(dataset).holds_of(&version.id).count(), 1, "held from the start");
    }
    take(&set[1], "t");
    let clash = G::Backend::snapshot(&set, &SnapshotRequest::named(name("t")));
    assert!(matches!(clash, Err(Error::Exists { .. })), "{clash:?}");
    assert_eq!(names(&set[0]), ["s"]);
    let gap = [ground.create("set-3"), ground.absent("set-4")];
    let missing = G::Backend::snapshot(&gap, &SnapshotRequest::named(name("s")));
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    assert!(names(&gap[0]).is_empty());
}

fn a_hold_keeps_a_version<G: Ground>(ground: &G) {
    let dataset = ground.create("holds");
    let id = take(&dataset, "s").id;
    dataset.hold(&id, &tag("t")).expect("held");
    dataset.hold(&id, &tag("t")).expect("holding twice is holding once");
    let held = dataset.destroy(&id);
    assert!(matches!(&held, Err(Error::Held { tags, .. }) if *tags == ["t"]), "{held:?}");
    dataset.release(&id, &tag("t")).expect("released");
    let none = dataset.release(&id, &tag("t"));
    assert!(matches!(none, Err(Error::NotFound { .. })), "{none:?}");
    dataset.destroy(&id).expect("destroyed");
    assert!(names(&dataset).is_empty());
}

fn a_reference_acts_on_identity_and_not_on_a_name<G: Ground>(ground: &G) {
    let dataset = ground.create("identity");
    let old = take(&dataset, "s").id;
    dataset.hold(&old, &tag("t")).expect("held");
    dataset.release(&old, &tag("t")).expect("released");
    dataset.destroy(&old).expect("destroyed");
    let gone = dataset.destroy(&old);
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    let new = take(&dataset, "s").id;
    assert_ne!(old.guid, new.guid);
    for refused in [dataset.destroy(&old), dataset.hold(&old, &tag("t")), dataset.release(&old, &tag("t"))] {
        assert!(matches!(refused, Err(Error::Reused { .. })), "{refused:?}");
    }
    dataset.destroy(&new).expect("destroyed");
}

fn a_clone_goes_its_own_way<G: Ground>(ground: &G) {
    let dataset = ground.create("origin");
    ground.write(&dataset, "f", b"one");
    let version = take(&dataset, "s");
    let clone = ground.absent("clone");
    dataset.clone_at(&version.id, &clone).expect("cloned");
    ground.write(&clone, "f", b"two");
    assert_eq!(ground.read(&dataset, "f").as_deref(), Some(&b"one"[..]));
    assert_eq!(ground.read_version(&dataset, &version, "f").as_deref(), Some(&b"one"[..]));
    assert_eq!(ground.read(&clone, "f").as_deref(), Some(&b"two"[..]));
    assert_ne!(take(&clone, "s").id.guid, version.id.guid, "what changed is another version");
    let again = dataset.clone_at(&version.id, &clone);
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
}

fn going_back_loses_nothing<G: Ground>(ground: &G) {
    let dataset = ground.create("rollback");
    ground.write(&dataset, "f", b"one");
    let first = take(&dataset, "first");
    ground.write(&dataset, "f", b"two");
    let second = take(&dataset, "second");
    ground.write(&dataset, "f", b"three");
    let request = RollbackRequest { keep_as: Some(name("kept")), ..RollbackRequest::default() };
    let done = dataset.rollback(&first.id, &request).expect("rolled back");
    assert_eq!(ground.read(&dataset, "f").as_deref(), Some(&b"one"[..]));
    let aside = done.aside.as_ref().map(|aside| ground.aside(aside));
    let newer = aside.as_ref().unwrap_or(&dataset);
    assert_eq!(done.kept.iter().map(|v| v.id.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(ground.read_version(newer, &done.kept[0], "f").as_deref(), Some(&b"three"[..]));
    assert_eq!(ground.read_version(newer, &second, "f").as_deref(), Some(&b"two"[..]));
    match &aside {
        None => {
            assert_eq!(names(&dataset), ["first", "second", "kept"], "nothing newer is destroyed");
            let again = dataset.rollback(&first.id, &request);
            assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
        }
        Some(aside) => {
            assert_eq!(names(&dataset), ["first"], "a history in a line ends with its last version");
            assert_eq!(names(aside), ["second", "kept"], "nothing newer is destroyed");
            assert_eq!(
                inventory(aside).versions(),
                [second, done.kept[0].clone()],
                "nor is any of it another"
            );
            assert_eq!(ground.read(aside, "f").as_deref(), Some(&b"three"[..]), "what was live is so still");
        }
    }
    assert_eq!(inventory(&dataset).versions()[0], first);
    ground.write(&dataset, "f", b"four");
    assert_eq!(ground.read_version(&dataset, &first, "f").as_deref(), Some(&b"one"[..]));
}
