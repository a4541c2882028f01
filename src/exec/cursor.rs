//! The tags by which replication keeps what both sides have: one for each place, however it is named.

use std::path::Path;

use crate::endpoint::{self, Dataset, History};
use crate::exec::replicate::gone_is_released;
use crate::exec::transfer::Place;
use crate::exec::{Event, Observe};
use crate::model::{HoldTag, Inventory, PeerAddress, VersionRef};

/// The tag by which the last version is kept that both sides have: readable, and another one for each place.
pub fn cursor(way: &str, place: &Place) -> HoldTag {
    match lasting(place) {
        // Other machines have datasets of the same name.
        Some((readable, id)) => tag(way, &readable, &id, &machine()),
        None => tag(way, &place.to_string(), &place.to_string(), ""),
    }
}

/// The tag that `place` had as long as it was told by how it is named; `None` if that is the same.
pub fn former(way: &str, place: &Place) -> Option<HoldTag> {
    lasting(place)?;
    let named = place.to_string();
    Some(tag(way, &named, &named, &machine())).filter(|tag| *tag != cursor(way, place))
}

/// The tag with which the names of the bookmarks begin that mark what `target`, on this machine, has of a source.
pub fn mark_for(target: &Dataset) -> HoldTag {
    cursor("to", &Place::Here(target.clone()))
}

/// The tag by which a source keeps what the target at `address`, on another machine, has of it; the names of its bookmarks begin with it.
pub fn mark_for_peer(address: &PeerAddress) -> HoldTag {
    tag("to", &address.to_string(), &address.to_string(), "")
}

/// What tells `place` from every other one, in any process: by that, who replicates to it locks.
pub fn identity(place: &Place) -> String {
    lasting(place).map_or_else(|| place.to_string(), |(_, id)| id)
}

/// What a place on this machine is called and told by.
fn lasting(place: &Place) -> Option<(String, String)> {
    match place {
        Place::Here(dataset) => Some(dataset.lasting_name()),
        Place::There(peer) if peer.address().is_aside() => {
            Some(peer.lasting_name().unwrap_or_else(|| (place.to_string(), place.to_string())))
        }
        Place::There(_) => None,
    }
}

/// What tells this machine from others.
fn machine() -> String {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(path)).ok().filter(|text| !text.trim().is_empty());
    read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/hostname")).unwrap_or_default()
}

fn tag(way: &str, readable: &str, id: &str, machine: &str) -> HoldTag {
    const SHOWN: usize = 40;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let readable: String =
        readable.trim_start_matches("ssh://").chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let end = readable.len().saturating_sub(SHOWN);
    let hash = blake3::hash(format!("{machine}\0{id}").as_bytes()).to_hex();
    let tag = format!("cowsnap:{way}:{}-{}", &readable[end..], &hash[..12]);
    tag.parse().expect("its characters are allowed and it is short")
}

/// Versions that a place keeps by a tag of which nothing will let go any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    held: Vec<VersionRef>,
    by: HoldTag,
}

impl Left {
    /// What `inventory` keeps by the tag, if that is one.
    pub fn of(inventory: &Inventory, by: Option<HoldTag>) -> Option<Self> {
        let by = by?;
        let holds = inventory.holds().iter().filter(|(_, tag)| *tag == by);
        let held: Vec<_> = holds.map(|(version, _)| version.clone()).collect();
        (!held.is_empty()).then_some(Self { held, by })
    }

    /// What is kept, and by which tag.
    pub fn held(&self) -> (&[VersionRef], &HoldTag) {
        (&self.held, &self.by)
    }

    /// The inventory as it is once `new` keeps all of it.
    pub fn renamed(&self, inventory: &Inventory, new: &HoldTag) -> Inventory {
        let named = |(version, tag): &(VersionRef, HoldTag)| {
            (version.clone(), if *tag == self.by { new.clone() } else { tag.clone() })
        };
        let holds = inventory.holds().iter().map(named).collect();
        let mut after = Inventory::new(inventory.dataset.clone(), inventory.versions().to_vec(), holds);
        (after.partials, after.caps) = (inventory.partials.clone(), inventory.caps);
        after
    }

    /// Has `new` keep it instead.
    ///
    /// # Errors
    /// What the place says.
    pub fn rename(&self, place: &impl History, new: &HoldTag) -> endpoint::Result<()> {
        self.held.iter().try_for_each(|version| place.hold(version, new))?;
        self.release(place)
    }

    /// Keeps it no longer.
    ///
    /// # Errors
    /// What the place says.
    pub fn release(&self, place: &impl History) -> endpoint::Result<()> {
        self.held.iter().try_for_each(|version| gone_is_released(place.release(version, &self.by)))
    }

    /// As [`Left::release`]; where it can not be, that is said, and no more.
    pub fn let_go(&self, place: &Place, observe: &dyn Observe) {
        if let Err(error) = self.release(place) {
            let text =
                format!("{place}: what {} keeps from before the direction turned stays: {error}", self.by);
            observe.observe(Event::Warning { text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::fake::FakeStore;
    use crate::endpoint::{Backend, SnapshotRequest};

    #[test]
    fn a_cursor_is_a_tag_whatever_the_place_is_called() {
        let long = format!("ssh://me@host:22//srv/{}", "x y/é".repeat(60));
        let tags = ["tank/a", "tank-a", "ssh://h/tank/a", &long].map(|place| tag("to", place, place, "m"));
        for (n, tag) in tags.iter().enumerate() {
            assert!(tag.as_str().starts_with("cowsnap:to:"), "{tag}");
            assert!(tags[n + 1..].iter().all(|other| other != tag), "{tag}");
        }
        assert!(tags[2].as_str().contains("h-tank-a-"), "{}", tags[2]);
        let on = |machine| tag("to", "tank/a", "tank/a", machine);
        assert_ne!(on("one machine"), on("another"));
    }

    #[test]
    fn what_is_kept_by_a_tag_of_before_is_kept_by_the_new_one_before_that_goes() {
        let dataset = FakeStore::default().dataset("a");
        dataset.create().unwrap();
        let tags = ["cowsnap:to:old", "cowsnap:to:new", "mine"].map(|text| text.parse::<HoldTag>().unwrap());
        let request =
            SnapshotRequest { holds: vec![tags[0].clone()], ..SnapshotRequest::named("s".parse().unwrap()) };
        Backend::snapshot(std::slice::from_ref(&dataset), &request).unwrap();
        let before = dataset.inventory().unwrap();
        assert_eq!(Left::of(&before, None), None);
        assert_eq!(Left::of(&before, Some(tags[2].clone())), None);
        let left = Left::of(&before, Some(tags[0].clone())).expect("it is held");
        let foretold = left.renamed(&before, &tags[1]);
        left.rename(&dataset, &tags[1]).unwrap();
        assert_eq!(dataset.inventory().unwrap(), foretold);
        assert_eq!(foretold.holds().len(), 1);
        // Twice is once, and what is gone is not held.
        left.release(&dataset).unwrap();
        Left::of(&foretold, Some(tags[1].clone())).expect("it is held").release(&dataset).unwrap();
        assert!(dataset.inventory().unwrap().holds().is_empty());
    }
}
