//! Single versions: found, held, released, renamed, destroyed. Whoever acts on one says which identity is meant.

use std::time::Duration;

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::inventory::version;
use crate::endpoint::zfs::list::{number, rows};
use crate::endpoint::zfs::{hidden, mounted, program};
use crate::endpoint::{Error, History, Result};
use crate::model::{HoldTag, Inventory, SnapshotName, Version, VersionKind, VersionRef, quoted};
use crate::sys::lzc::{Errno, Failed};

/// The longest argument that the kernel hands to a program (MAX_ARG_STRLEN), less a page.
const MAX_ARGUMENT: usize = 31 * 4096;
/// The longest name of a dataset, a snapshot or a bookmark in bytes, all of it.
const MAX_NAME_LEN: usize = 255;

/// What `zfs destroy -nvp` says would come back; `None` if it does not.
fn reclaimed(text: &[u8]) -> Result<Option<u64>> {
    let text = String::from_utf8_lossy(text);
    text.lines().find_map(|line| line.strip_prefix("reclaim\t")).map(number).transpose()
}

/// What a quota says; `None` if it is none, or a volume, which has none.
fn limit_of(text: &str) -> Result<Option<u64>> {
    match text {
        "0" | "-" | "none" | "" => Ok(None),
        _ => number(text).map(Some),
    }
}

impl History for Dataset {
    fn inventory(&self) -> Result<Inventory> {
        self.read_inventory()
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        let look = || self.expect_snapshot(version, "hold");
        let hold = |snapshot: &str| match self.lzc()?.hold(&[(snapshot.to_owned(), tag.to_string())], None) {
            Ok(()) => Ok(true),
            Err(failed) if failed.errno == Errno::Exists => Ok(false),
            Err(failed) if failed.errno == Errno::NotFound => Err(self.no_such(&version.name)),
            Err(failed) => Err(self.failed_on(version, "hold", "hold")(failed)),
        };
        let release = |snapshot: &str| {
            let released = self.lzc()?.release(&[(snapshot.to_owned(), tag.to_string())]);
            released.map_err(self.failed_on(version, "release", "release"))
        };
        hold_what_is_meant(look, hold, release)
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        let snapshot = self.expect_snapshot(version, "release")?;
        self.lzc()?.release(&[(snapshot, tag.to_string())]).map_err(|failed| match failed.errno {
            Errno::NotOfThisDataset | Errno::NotFound => Error::NotFound {
                what: "hold",
                subject: format!("{tag} of {}", self.at_name(&version.name)),
                hint: Some(format!("cowsnap holds {}", quoted(self.at_name(&version.name)))),
            },
            _ => self.failed_on(version, "release", "release")(failed),
        })
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        let found = self.expect(version)?;
        match found.kind {
            VersionKind::Snapshot => self.destroy_snapshot(version),
            VersionKind::Bookmark => self
                .lzc()?
                .destroy_bookmarks(&[format!("{}#{}", self.name(), version.name)])
                .map_err(self.failed_on(version, "destroy", "destroy")),
        }
    }
}

/// Holds by name what `look` says is meant. If the name means another once it is held, that is released again, unless the
/// hold was there before: `hold` says whether it is new.
fn hold_what_is_meant(
    look: impl Fn() -> Result<String>,
    hold: impl FnOnce(&str) -> Result<bool>,
    release: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let snapshot = look()?;
    let is_new = hold(&snapshot)?;
    // What is held keeps its identity. Its name may have been given to another in between.
    let Err(error) = look() else { return Ok(()) };
    if is_new && let Err(also) = release(&snapshot) {
        tracing::warn!("{snapshot} is held, which was not meant: {also}");
    }
    Err(error)
}

impl Dataset {
    /// The version called `name`: the snapshot, or the bookmark if there is no such snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn version(&self, name: &SnapshotName) -> Result<Version> {
        let lzc = self.settled()?;
        if lzc.exists(&self.full_name(name)) {
            return self.snapshots(std::slice::from_ref(name))?.pop().ok_or_else(|| self.no_such(name));
        }
        self.bookmark(name)?.ok_or_else(|| self.no_such(name))
    }

    /// The bookmark called `name`.
    fn bookmark(&self, name: &SnapshotName) -> Result<Option<Version>> {
        let found = match self.lzc()?.bookmarks(self.name().as_str()) {
            Ok(bookmarks) => bookmarks.into_iter().find(|bookmark| bookmark.name == name.as_str()),
            Err(failed) if failed.errno == Errno::NotFound => None,
            Err(failed) => return Err(self.failed("list the bookmarks of", &[])(failed)),
        };
        Ok(found.map(|b| version(VersionKind::Bookmark, name.clone(), b.guid, b.createtxg, b.creation)))
    }

    /// Whether a bookmark's name of `len` bytes fits behind the dataset's.
    pub fn can_name(&self, len: usize) -> bool {
        self.name().as_str().len() + 1 + len <= MAX_NAME_LEN
    }

    /// Makes a bookmark called `name` of the snapshot that is meant by `version`, or of the bookmark, which OpenZFS can from 2.0 on. If there
    /// is one of it already, that is it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`]; [`Error::Exists`] if another has the name.
    pub fn mark(&self, version: &VersionRef, name: &SnapshotName) -> Result<()> {
        let of = match self.expect(version)?.kind {
            VersionKind::Snapshot => self.full_name(&version.name),
            VersionKind::Bookmark => format!("{}#{}", self.name(), version.name),
        };
        let Err(failed) = self.lzc()?.bookmark(&[(format!("{}#{name}", self.name()), of)]) else {
            return Ok(());
        };
        match self.bookmark(name)? {
            Some(there) if there.id.guid == version.guid => Ok(()),
            Some(_) => Err(Error::Exists { what: "bookmark", subject: format!("{self}#{name}"), hint: None }),
            None => Err(self.failed_on(version, "bookmark", "bookmark")(failed)),
        }
    }

    /// The snapshots of these names, which are there, in that order.
    fn snapshots(&self, names: &[SnapshotName]) -> Result<Vec<Version>> {
        let names: Vec<_> = names.iter().map(|name| (self, name)).collect();
        read_snapshots(&names)
    }

    /// The version that is meant by `version`, if its name still means it. A snapshot goes before a bookmark of the same
    /// name.
    pub(super) fn expect(&self, version: &VersionRef) -> Result<Version> {
        let found = self.version(&version.name)?;
        if found.id.guid == version.guid {
            return Ok(found);
        }
        match self.bookmark(&version.name)? {
            Some(bookmark) if bookmark.id.guid == version.guid => Ok(bookmark),
            _ => Err(Error::Reused {
                subject: self.at_name(&version.name),
                expected: version.guid,
                found: found.id.guid,
            }),
        }
    }

    /// The full name of the snapshot that is meant by `version`.
    ///
    /// # Errors
    /// As [`Dataset::expect`]; [`Error::Refused`] for a bookmark, to which `op` can not be done.
    pub(super) fn expect_snapshot(&self, version: &VersionRef, op: &'static str) -> Result<String> {
        self.snapshot(&self.expect(version)?, op)
    }

    /// As [`Dataset::expect_snapshot`], of a version that was just read.
    pub(super) fn snapshot(&self, version: &Version, op: &'static str) -> Result<String> {
        match version.kind {
            VersionKind::Snapshot => Ok(self.full_name(&version.id.name)),
            VersionKind::Bookmark => Err(Error::Refused {
                op,
                subject: self.at_name(&version.id.name),
                why: "it is a bookmark, a base for increments without content".into(),
                hint: Some(format!("cowsnap list {}", quoted(self))),
            }),
        }
    }

    fn destroy_snapshot(&self, version: &VersionRef) -> Result<()> {
        let snapshot = self.full_name(&version.name);
        let Err(failed) = self.lzc()?.destroy_snapshots(std::slice::from_ref(&snapshot), false) else {
            return Ok(());
        };
        Err(match failed.errno {
            Errno::Busy => self.why_busy(version)?,
            Errno::Exists => self.why_cloned(version)?,
            _ => self.failed_on(version, "destroy", "destroy,mount")(failed),
        })
    }

    fn why_busy(&self, version: &VersionRef) -> Result<Error> {
        let subject = self.at_name(&version.name);
        let tags: Vec<_> = self.holds_of(&version.name)?.keys().map(ToString::to_string).collect();
        if !tags.is_empty() {
            return Ok(Error::Held { subject, tags });
        }
        if self.clones_of(version)?.iter().any(|clone| hidden::overlay_of(clone).is_some()) {
            // Whoever lies on it has it mounted, too.
            return self.why_cloned(version);
        }
        let mounts = mounted::mounts_of(&self.full_name(&version.name))?;
        let (why, hint) = match mounts.first() {
            Some(mount) => {
                let hint = format!("cowsnap unmount {}", quoted(mount.dir.display()));
                (format!("it is mounted at {}", mount.dir.display()), hint)
            }
            None => {
                let why = "the kernel keeps it: it is being sent, or a stream is being received upon it";
                (why.into(), format!("wait for that to end; cowsnap list {}", quoted(self)))
            }
        };
        Ok(Error::Refused { op: "destroy", subject, why, hint: Some(hint) })
    }

    fn why_cloned(&self, version: &VersionRef) -> Result<Error> {
        let clones = self.clones_of(version)?;
        let (of_overlays, others): (Vec<_>, Vec<_>) =
            clones.iter().map(String::as_str).partition(|clone| hidden::overlay_of(clone).is_some());
        let mut why: Vec<_> = hidden::told(of_overlays.into_iter())
            .iter()
            .map(|overlay| format!("{overlay} lies on it"))
            .collect();
        if !others.is_empty() {
            why.push(format!("datasets were cloned from it: {}", others.join(", ")));
        }
        let (why, hint) = (why.join("; "), clones.first().map(|clone| hidden::how_to_destroy(clone)));
        Ok(Error::Refused { op: "destroy", subject: self.at_name(&version.name), why, hint })
    }

    /// The datasets that were cloned from `version`, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`].
    pub fn clones_of(&self, version: &VersionRef) -> Result<Vec<String>> {
        if self.expect(version)?.kind == VersionKind::Bookmark {
            return Ok(Vec::new());
        }
        let clones = super::dataset::get(&self.full_name(&version.name), "clones")
            .map_err(|failure| failure.into_error("read", self.at_name(&version.name)))?;
        let named = clones.split(',').filter(|name| !name.is_empty() && *name != "-");
        Ok(named.map(str::to_owned).collect())
    }

    /// Destroys `version` and waits until the space of its pool that is being freed has come back, no longer than `patience` while none does.
    ///
    /// # Errors
    /// As [`History::destroy`]; as [`Dataset::wait_for_space_of`].
    pub fn destroy_and_wait(&self, version: &VersionRef, patience: Duration) -> Result<()> {
        self.destroy(version)?;
        self.wait_for_space_of(&self.at_name(&version.name), patience)
    }

    /// Waits until the space of its pool that is being freed has come back, for the sake of `subject`; no longer than `patience` while none
    /// does.
    ///
    /// # Errors
    /// What `zpool` says; an interruption; [`Error::Io`] with `TimedOut` if nothing comes back.
    pub fn wait_for_space_of(&self, subject: &str, patience: Duration) -> Result<()> {
        let op = crate::endpoint::WAIT_FOR_SPACE;
        let args = ["wait", "-t", "free", self.pool()];
        let left = ["get", "-Hp", "-o", "value", "freeing", self.pool()];
        program::zpool_while_it_gets_on(&args, (op, subject), patience, &left)
    }

    /// Destroys the snapshot `version`, and never the bookmark that has the same name and identity.
    ///
    /// # Errors
    /// As [`History::destroy`]; [`Error::NotFound`] if there is but the bookmark.
    pub fn destroy_but_no_bookmark(&self, version: &VersionRef) -> Result<()> {
        match self.expect(version)?.kind {
            VersionKind::Snapshot => self.destroy_snapshot(version),
            VersionKind::Bookmark => Err(self.no_such(&version.name)),
        }
    }

    /// How many bytes would come back if these snapshots, and no others, were destroyed; `None` if they are more than can be
    /// asked about at once.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what `zfs` says.
    pub fn would_free(&self, versions: &[VersionRef]) -> Result<Option<u64>> {
        let names: Vec<_> = versions.iter().map(|version| version.name.as_str()).collect();
        let all = format!("{}@{}", self.name(), names.join(","));
        match (versions.is_empty(), all.len() < MAX_ARGUMENT) {
            (true, _) => Ok(Some(0)),
            (_, false) => Ok(None),
            (false, true) => {
                let said = program::zfs(&["destroy", "-nvp", &all]);
                reclaimed(&said.map_err(|failure| failure.into_error("foresee the space of", self))?)
            }
        }
    }

    /// How many bytes its pool and its quotas leave it room for.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn free_bytes(&self) -> Result<u64> {
        number(&self.get("available")?)
    }

    /// How many bytes can be written there, and of how many in all: of its pool.
    pub(in crate::endpoint) fn space(&self) -> Result<(u64, u64)> {
        let pool = self.name().pool();
        let get = |property: &str| {
            let text = super::dataset::get(pool, property);
            number(&text.map_err(|failure| failure.into_error("read the free space of", pool))?)
        };
        let free = get("available")?;
        Ok((free, get("used")?.saturating_add(free)))
    }

    /// How many bytes its quotas, and those of the datasets that it is in, leave it room for at best, whatever snapshots are destroyed:
    /// snapshots do not count towards its `refquota`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn most_free_bytes(&self) -> Result<u64> {
        let limit = |property: &str| Ok::<_, Error>(limit_of(&self.get(property)?)?.unwrap_or(u64::MAX));
        let (mut quota, refquota) = (limit("quota")?, limit("refquota")?);
        let name = self.name().as_str();
        for (end, _) in name.match_indices('/') {
            let above = super::dataset::get(&name[..end], "quota");
            let above = above.map_err(|failure| failure.into_error("read the quota of", &name[..end]))?;
            quota = quota.min(limit_of(&above)?.unwrap_or(u64::MAX));
        }
        match refquota {
            u64::MAX => Ok(quota),
            _ => Ok(quota.min(refquota.saturating_sub(number(&self.get("referenced")?)?))),
        }
    }

    /// Gives `version` another name.
    ///
    /// # Errors
    /// [`Error::Exists`] if it is taken; [`Error::Reused`], [`Error::NotFound`]; [`Error::Refused`] for a bookmark.
    pub fn rename_version(&self, version: &VersionRef, new: &SnapshotName) -> Result<VersionRef> {
        let snapshot = self.expect_snapshot(version, "rename")?;
        let renamed = self.lzc()?.rename(&snapshot, &self.full_name(new));
        renamed.map_err(|failed| match failed.errno {
            Errno::Exists => self.taken(new),
            Errno::NotFound => self.no_such(&version.name),
            _ => {
                let rights = [("rename,mount,create", self.name().as_str())];
                super::error::failed("rename", self.at_name(&version.name), &rights)(failed)
            }
        })?;
        Ok(VersionRef { guid: version.guid, name: new.clone() })
    }

    /// What a call on `version` failed with, for which an ordinary user needs `rights` on the dataset.
    pub(super) fn failed_on(
        &self,
        version: &VersionRef,
        op: &'static str,
        rights: &'static str,
    ) -> impl Fn(Failed) -> Error {
        let (subject, name) = (self.at_name(&version.name), self.name().clone());
        move |failed| match failed.errno {
            Errno::NotFound => Error::NotFound { what: "snapshot", subject: subject.clone(), hint: None },
            _ => super::error::failed(op, &subject, &[(rights, name.as_str())])(failed),
        }
    }

    /// That a snapshot is not there.
    pub(super) fn no_such(&self, name: &SnapshotName) -> Error {
        Error::NotFound {
            what: "snapshot",
            subject: self.at_name(name),
            hint: Some(format!("cowsnap list {}", quoted(self))),
        }
    }

    /// That a snapshot is there already.
    pub(super) fn taken(&self, name: &SnapshotName) -> Error {
        Error::Exists {
            what: "snapshot",
            subject: self.at_name(name),
            hint: Some(format!("cowsnap list {}", quoted(self))),
        }
    }
}

/// So many names are asked for in one call: they must fit into what a program can be given.
const NAMES_AT_ONCE: usize = 1000;

/// These snapshots, all of which are there, in the order asked.
pub(super) fn read_snapshots(wanted: &[(&Dataset, &SnapshotName)]) -> Result<Vec<Version>> {
    let mut found = Vec::new();
    for chunk in wanted.chunks(NAMES_AT_ONCE) {
        let names: Vec<_> = chunk.iter().map(|(dataset, name)| dataset.full_name(name)).collect();
        let mut args = vec!["list", "-Hp", "-t", "snapshot", "-o", "name,guid,createtxg,creation"];
        args.extend(names.iter().map(String::as_str));
        let text = program::zfs(&args).map_err(|failure| of_snapshots(failure, chunk))?;
        let rows = rows::<4>(&text)?;
        for ((dataset, name), full) in chunk.iter().zip(&names) {
            let row = rows.iter().find(|row| row[0] == full).ok_or_else(|| dataset.no_such(name))?;
            let [guid, createtxg, creation] = [number(row[1])?, number(row[2])?, number(row[3])?];
            found.push(version(VersionKind::Snapshot, (*name).clone(), guid, createtxg, creation));
        }
    }
    Ok(found)
}

fn of_snapshots(failure: program::Failure, wanted: &[(&Dataset, &SnapshotName)]) -> Error {
    let (dataset, name) = wanted[0];
    match failure.into_error("read", dataset.at_name(name)) {
        Error::NotFound { .. } => dataset.no_such(name),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::model::Guid;

    #[test]
    fn what_would_come_back_is_what_zfs_says_and_unknown_if_it_says_nothing() {
        let said = b"destroy\ttank/a@reclaim\ndestroy\ttank/a@s 2\nreclaim\t24576\n";
        assert_eq!(reclaimed(said).expect("a number"), Some(24_576));
        assert_eq!(reclaimed(b"destroy\ttank/a@s\n").expect("nothing"), None);
        assert!(reclaimed(b"reclaim\t24K\n").is_err());
    }

    #[test]
    fn a_quota_is_a_number_or_none() {
        for none in ["0", "-", "none", ""] {
            assert_eq!(limit_of(none).expect("none"), None);
        }
        assert_eq!(limit_of("1048576").expect("a number"), Some(1 << 20));
        assert!(limit_of("1M").is_err());
    }

    /// What is done if the name means the guids of `named`, one look after the other, and `is_new` is the hold.
    fn hold(named: [u64; 2], is_new: bool) -> (Vec<&'static str>, Result<()>) {
        let done = RefCell::new(Vec::new());
        let held = hold_what_is_meant(
            || {
                let looks = done.borrow().iter().filter(|step| **step == "look").count();
                done.borrow_mut().push("look");
                match named[looks] {
                    7 => Ok("tank/a@s".into()),
                    other => Err(Error::Reused {
                        subject: "tank/a@s".into(),
                        expected: Guid::of_zfs(7),
                        found: Guid::of_zfs(other),
                    }),
                }
            },
            |_| {
                done.borrow_mut().push("hold");
                Ok(is_new)
            },
            |_| {
                done.borrow_mut().push("release");
                Ok(())
            },
        );
        (done.into_inner(), held)
    }

    #[test]
    fn a_name_that_was_given_to_another_as_it_was_held_is_released_again() {
        let (done, held) = hold([7, 7], true);
        assert!(held.is_ok() && done == ["look", "hold", "look"], "{done:?}");
        let (done, held) = hold([7, 8], true);
        assert_eq!(done, ["look", "hold", "look", "release"]);
        assert!(matches!(held, Err(Error::Reused { found, .. }) if found == Guid::of_zfs(8)));
        let (done, held) = hold([7, 8], false);
        assert!(held.is_err() && done == ["look", "hold", "look"], "another's hold stays: {done:?}");
        let (done, held) = hold([8, 7], true);
        assert!(held.is_err() && done == ["look"], "{done:?}");
    }
}
