//! A sealed set on its way to its names: every member gets the same one, whatever happens meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::endpoint::Result;
use crate::endpoint::btrfs::home::Home;
use crate::endpoint::btrfs::meta::{self, Meta};
use crate::endpoint::btrfs::roots::Root;
use crate::endpoint::btrfs::staging::{Entry, Intent};
use crate::endpoint::btrfs::store::{Store, rename_new, write_at};
use crate::model::SnapshotName;
use crate::sys::btrfs;

/// A snapshot of the set, and its dataset's directories. A dataset that is gone by now has none.
struct Member {
    home: Home,
    entry: Entry,
}

impl Member {
    fn name(&self) -> &OsStr {
        OsStr::new(self.entry.name.as_str())
    }
}

/// Locks the datasets of a set without waiting, for as long as the answer lives; `None` if somebody else has one.
pub(super) fn try_lock(store: &Store, entries: &[Entry]) -> Result<Option<Vec<Home>>> {
    let mut homes = Vec::new();
    for entry in entries {
        let Some(home) = Home::open(store, &entry.key)? else { continue };
        if !home.try_lock().map_err(store.io("lock", &entry.key))? {
            return Ok(None);
        }
        homes.push(home);
    }
    Ok(Some(homes))
}

/// Gives every staged snapshot its name. One that has it already is done. If the name of one was taken since the set
/// was sealed, all of them get one that is free in each of the datasets: none of them was reported as made yet.
///
/// The caller has the datasets locked.
pub(super) fn roll_forward(
    store: &Arc<Store>,
    staging: BorrowedFd<'_>,
    staged: &OsStr,
    entries: Vec<Entry>,
) -> Result<()> {
    let mut members = Vec::new();
    for entry in entries {
        members.extend(Home::open(store, &entry.key)?.map(|home| Member { home, entry }));
    }
    if is_a_name_taken(&members, staged)? {
        take_another_name(store, staging, staged, &mut members)?;
    }
    for member in &members {
        give_name(store, staged, member)?;
    }
    btrfs::sync(store.top()).map_err(store.io("commit", "snapshots"))
}

fn is_a_name_taken(members: &[Member], staged: &OsStr) -> Result<bool> {
    for Member { home, entry } in members {
        if home.snapshot(staged)?.is_some() && home.snapshot(OsStr::new(entry.name.as_str()))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn give_name(store: &Store, staged: &OsStr, member: &Member) -> Result<()> {
    let Member { home, entry } = member;
    let Some(snapshot) = home.snapshot(staged)? else { return Ok(()) };
    // What is said about it goes first: a snapshot that should be held is never there without its hold.
    if let Some(meta) = &entry.meta {
        let info = btrfs::get_subvol_info(snapshot.as_fd()).map_err(store.io("read", "a snapshot"))?;
        meta::write(home.meta(), &entry.name, &Meta { guid: Root::from(info).guid(), ..meta.clone() })?;
    }
    rename_new((home.snap(), staged), (home.snap(), member.name()))
        .map_err(store.io("name the snapshot", &entry.name))
}

/// Chooses it and writes it into the intent. Interrupted anywhere and begun again, it gets there: what was said meanwhile
/// of members that have their name already is in the intent before they lose it.
fn take_another_name(
    store: &Store,
    staging: BorrowedFd<'_>,
    staged: &OsStr,
    members: &mut [Member],
) -> Result<()> {
    for member in members.iter_mut() {
        if let Some(said) = said_since(store, staged, member)? {
            member.entry.meta = Some(said);
        }
    }
    declare(store, staging, members)?;
    for member in members.iter() {
        take_name_back(store, staged, member)?;
    }
    let name = free_name(members)?;
    for member in members.iter_mut() {
        tracing::warn!(dataset = member.entry.key, taken = %member.entry.name, %name, "a set gets another name");
        member.entry.name = name.clone();
    }
    declare(store, staging, members)
}

/// What is said of a member that has its name already.
fn said_since(store: &Store, staged: &OsStr, member: &Member) -> Result<Option<Meta>> {
    let Member { home, entry } = member;
    if home.snapshot(staged)?.is_some() {
        return Ok(None);
    }
    let Some(named) = home.snapshot(member.name())? else { return Ok(None) };
    let info = btrfs::get_subvol_info(named.as_fd()).map_err(store.io("read", "a snapshot"))?;
    meta::read(home.meta(), &entry.name, &info.into()).map(Some)
}

fn take_name_back(store: &Store, staged: &OsStr, member: &Member) -> Result<()> {
    let Member { home, entry } = member;
    if home.snapshot(staged)?.is_some() || home.snapshot(member.name())?.is_none() {
        return Ok(());
    }
    rename_new((home.snap(), member.name()), (home.snap(), staged))
        .map_err(store.io("rename the snapshot", &entry.name))?;
    meta::remove(home.meta(), &entry.name)
}

fn free_name(members: &[Member]) -> Result<SnapshotName> {
    let [first, ..] = members else { unreachable!("a name is taken in one of them") };
    for nth in 2.. {
        let name = first.entry.name.numbered(nth);
        let mut is_free = true;
        for member in members {
            is_free &= member.home.snapshot(OsStr::new(name.as_str()))?.is_none();
        }
        if is_free {
            return Ok(name);
        }
    }
    unreachable!("the numbers do not end")
}

fn declare(store: &Store, staging: BorrowedFd<'_>, members: &[Member]) -> Result<()> {
    let intent = Intent::Set { entries: members.iter().map(|member| member.entry.clone()).collect() };
    write_at(staging, OsStr::new("intent"), &intent.to_json()).map_err(store.io("write", "an intent"))
}
