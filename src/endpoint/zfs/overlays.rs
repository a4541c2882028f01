//! Writable clones that are no datasets of anybody's: what overlays show (docs/FORMAT-overlay.md). They lie in a filesystem of their own,
//! `POOL/cowsnap-overlays`, are mounted by overlays alone, and no listing shows them.
//!
//! **Invariant:** nothing is destroyed but what has its mark set on itself, and is still what was made, by its guid as far as that is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::dataset::{self, Dataset};
use crate::endpoint::zfs::error::{failed, lzc};
use crate::endpoint::zfs::{known, list, program, props};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{MountSource, OverlayName};
use crate::model::{Guid, VersionRef, quoted};
use crate::stream::container::ZfsKind;
use crate::sys::lzc::{Errno, Kind, Prop};
use crate::sys::mount::{self, Detached, Restrict};

/// The filesystem of a pool that holds the clones.
const FOLDER: &str = "cowsnap-overlays";
/// What the snapshots are called that were taken for overlays, up to digits that are nobody else's.
const SNAPSHOT: &str = "cowsnap-overlay:";
/// The property that says what is an overlay's: on the folder, on each clone, on each snapshot that was taken for one.
const MARK: &str = "cowsnap:overlay";
/// What it says on the folder.
const IS_FOLDER: &str = "folder";
/// `canmount=noauto`
const NOAUTO: u64 = 2;

/// How a clone keeps its files: not its origin's, but of what it lies in, unless it is said.
const KEPT_AS: [&str; 10] = [
    "acltype",
    "xattr",
    "atime",
    "relatime",
    "recordsize",
    "compression",
    "dnodesize",
    "sync",
    "logbias",
    "primarycache",
];

/// How often, and after what pause, a clone is destroyed again that is busy: whoever has just let go of it may not be done.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// What clones are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `DATASET@NAME`
    snapshot: String,
    /// Its guid; `None` while it is to be taken.
    guid: Option<Guid>,
    /// What it is marked with if it was taken for an overlay, and goes with it.
    mark: Option<String>,
    /// How its dataset keeps files.
    kept_as: BTreeMap<String, String>,
}

impl Origin {
    /// The snapshot `version` of `dataset`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`].
    pub fn of_snapshot(dataset: &Dataset, version: &VersionRef) -> Result<Self> {
        let snapshot = dataset.expect_snapshot(version, "clone")?;
        Ok(Self { snapshot, guid: Some(version.guid), mark: None, kept_as: kept_as(dataset)? })
    }

    /// A snapshot of `dataset` that is to be taken, and marked so. `random` is in its name.
    ///
    /// # Errors
    /// A dataset that can not be read.
    pub fn to_be_taken(dataset: &Dataset, mark: String, random: u64) -> Result<Self> {
        let snapshot = format!("{}@{SNAPSHOT}{random:016x}", dataset.name());
        Ok(Self { snapshot, guid: None, mark: Some(mark), kept_as: kept_as(dataset)? })
    }

    /// Takes the snapshot, unless it is there already.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn take(&mut self) -> Result<()> {
        let (Some(mark), None) = (&self.mark, self.guid) else { return Ok(()) };
        let said = BTreeMap::from([(MARK.to_owned(), mark.clone())]);
        let taken = lzc(&self.snapshot)?.snapshot(std::slice::from_ref(&self.snapshot), &said);
        taken.map_err(failed("take the snapshot", &self.snapshot, &[]))?;
        self.guid = guid(&self.snapshot)?;
        Ok(())
    }

    /// What the snapshot is called now; `None` if it is gone. Who renames its dataset, or takes that back to an earlier version, renames it.
    fn present_name(&self) -> Result<Option<String>> {
        let Some(meant) = self.guid else {
            return Ok(lzc(&self.snapshot)?.exists(&self.snapshot).then(|| self.snapshot.clone()));
        };
        if guid(&self.snapshot)? == Some(meant) {
            return Ok(Some(self.snapshot.clone()));
        }
        let args = ["list", "-Hp", "-t", "snapshot", "-r", "-o", "name,guid", self.pool()];
        let text = program::zfs(&args).map_err(|failure| failure.into_error("list", self.pool()))?;
        let has_guid = |guid: &str| list::number(guid).is_ok_and(|guid| Guid::of_zfs(guid) == meant);
        for [name, _] in list::rows::<2>(&text)?.into_iter().filter(|[_, guid]| has_guid(guid)) {
            // A replica in the same pool has the guid, and not the mark.
            if self.mark.is_none() || props::set_here(name, MARK)? == self.mark {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Destroys the snapshot if it was taken for an overlay; at once, or with the last clone of it.
    ///
    /// # Errors
    /// What ZFS says; a pool that is not there.
    pub fn destroy(&self) -> Result<()> {
        let Some(mark) = &self.mark else { return Ok(()) };
        let lzc = with_pool(&self.snapshot)?;
        let Some(name) = self.present_name()? else { return Ok(()) };
        if !is_made_by_us(&name, mark, self.guid)? {
            return Ok(());
        }
        lzc.destroy_snapshots(std::slice::from_ref(&name), true).map_err(failed("destroy", &name, &[]))
    }

    /// The pool that it is in.
    pub fn pool(&self) -> &str {
        pool_of(&self.snapshot)
    }

    /// It, by what the snapshot is called now. One program is started for it, and another one if that is not what it was called.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone.
    pub fn checked(self) -> Result<Self> {
        match self.present_name()? {
            Some(snapshot) => Ok(Self { snapshot, ..self }),
            None => Err(Error::NotFound {
                what: "snapshot",
                subject: self.snapshot,
                hint: Some("cowsnap overlay destroy …, and make it anew".into()),
            }),
        }
    }

    /// What a clone of it is made with.
    fn props(&self, mark: &str) -> Vec<(String, Prop)> {
        let known = self.kept_as.iter().filter_map(|(name, value)| {
            Some((name.clone(), known::to_call(name, value, ZfsKind::Filesystem).ok()?))
        });
        let own = [
            (MARK.to_owned(), Prop::Text(mark.to_owned())),
            ("canmount".to_owned(), Prop::Number(NOAUTO)),
            ("readonly".to_owned(), Prop::Number(0)),
        ];
        own.into_iter().chain(known).collect()
    }
}

/// The clones of one pool.
#[derive(Debug)]
pub struct Clones {
    folder: String,
}

impl Clones {
    /// Those of the pool `pool`, whether it is there or not.
    pub fn of_pool(pool: &str) -> Self {
        Self { folder: format!("{pool}/{FOLDER}") }
    }

    /// Makes the folder, unless there is one.
    ///
    /// # Errors
    /// [`Error::Refused`] if somebody's dataset has its name.
    pub fn prepare(&self) -> Result<()> {
        let lzc = with_pool(&self.folder)?;
        if !lzc.exists(&self.folder) {
            let props = [
                (MARK.to_owned(), Prop::Text(IS_FOLDER.to_owned())),
                ("canmount".to_owned(), Prop::Number(0)),
                ("mountpoint".to_owned(), Prop::Text("none".to_owned())),
            ];
            match lzc.create(&self.folder, Kind::Filesystem, &props) {
                Err(why) if why.errno == Errno::Exists => {} // Somebody else made it meanwhile.
                other => other.map_err(failed("make", &self.folder, &[]))?,
            }
        }
        match self.is_somebodys()? {
            false => Ok(()),
            true => Err(Error::Refused {
                op: "keep clones in",
                subject: self.folder.clone(),
                why: "it is somebody's dataset".into(),
                hint: Some(format!("zfs rename {} NEW", quoted(&self.folder))),
            }),
        }
    }

    /// Whether a dataset of somebody's has the folder's name, be it one that came with its properties from another pool.
    pub(super) fn is_somebodys(&self) -> Result<bool> {
        let is_there = lzc(&self.folder)?.exists(&self.folder);
        Ok(is_there && props::set_here(&self.folder, MARK)?.as_deref() != Some(IS_FOLDER))
    }

    /// The filesystem that they lie in.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// What the clones are called, and what else lies in the folder.
    ///
    /// # Errors
    /// What `zfs` says; a pool that is not there.
    pub fn names(&self) -> Result<Vec<String>> {
        if !with_pool(&self.folder)?.exists(&self.folder) {
            return Ok(Vec::new());
        }
        let found = listed(&["-t", "filesystem", "-d", "1"], &self.folder)?;
        let inside = format!("{}/", self.folder);
        Ok(found.iter().filter_map(|name| name.strip_prefix(&inside)).map(str::to_owned).collect())
    }

    /// Makes the clone `name` of `origin`, which was [checked](Origin::checked). It is there as a whole, with its mark, or not at all.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn make(&self, name: &str, origin: &Origin) -> Result<()> {
        let props = origin.props(&mark_of(name));
        let made = lzc(name)?.clone_snapshot(&self.full(name), &origin.snapshot, &props);
        made.map_err(|why| match why.errno {
            // Room is made for it.
            Errno::NoSpace => {
                Error::io("clone", &origin.snapshot)(io::Error::from(io::ErrorKind::StorageFull))
            }
            Errno::QuotaExceeded => {
                Error::io("clone", &origin.snapshot)(io::Error::from(io::ErrorKind::QuotaExceeded))
            }
            _ => failed("clone", &origin.snapshot, &[])(why),
        })
    }

    /// By what the clone `name` is known whatever it is called; `None` if there is none.
    ///
    /// # Errors
    /// What `zfs` says.
    pub fn guid(&self, name: &str) -> Result<Option<Guid>> {
        guid(&self.full(name))
    }

    /// Mounts the clone `name` where nobody sees it; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self, name: &str) -> Result<Option<Detached>> {
        let full = self.full(name);
        if !with_pool(&full)?.exists(&full) {
            return Ok(None);
        }
        let mounted = mount::detached_as("zfs", Path::new(&full), &[], Restrict::default());
        mounted.map(Some).map_err(|error| match error.raw_os_error() {
            Some(libc::EACCES) => Error::Refused {
                op: "mount",
                subject: full.clone(),
                why: "the key of its encryption is not loaded".into(),
                hint: Some(format!("zfs load-key -r {}", quoted(pool_of(&full)))),
            },
            _ => crate::endpoint::mounted::not_allowed(error, "mount", &full),
        })
    }

    /// Gives the clone `name` another one; false if there is none.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn rename(&self, name: &str, new: &str) -> Result<bool> {
        match lzc(name)?.rename(&self.full(name), &self.full(new)) {
            Err(why) if why.errno == Errno::NotFound => Ok(false),
            other => other.map(|()| true).map_err(failed("rename", self.full(name), &[])),
        }
    }

    /// Destroys the clone `name` with what was made in it; one that is not there is gone. False: it is another one by its mark or guid, and stays.
    ///
    /// # Errors
    /// [`Error::Refused`] while it is mounted anywhere, and if it was promoted; a pool that is not there.
    pub fn destroy(&self, name: &str, guid: Option<Guid>) -> Result<bool> {
        let full = self.full(name);
        let lzc = with_pool(&full)?;
        if !lzc.exists(&full) {
            return Ok(true);
        }
        if !is_made_by_us(&full, &mark_of(name), guid)? {
            return Ok(false);
        }
        for attempt in 1.. {
            let why = match lzc.destroy(&full) {
                Err(why) if why.errno != Errno::NotFound => why,
                _ => return Ok(true),
            };
            if attempt == TRIES || !matches!(why.errno, Errno::Busy | Errno::Exists) {
                return Err(failed("destroy", &full, &[])(why));
            }
            if attempt == 1 {
                destroy_inside(&full)?;
            }
            std::thread::sleep(PAUSE);
        }
        unreachable!("the attempts end")
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// Destroys the snapshots and datasets that were made in a clone, as far as that can be done: what is in use stays, and so does the clone.
///
/// What is older than the clone was not made in it: a promoted one has the history of what it was cloned from.
fn destroy_inside(clone: &str) -> Result<()> {
    let args = ["list", "-Hp", "-o", "name,createtxg", "-t", "filesystem,volume,snapshot", "-r", clone];
    let text = program::zfs(&args).map_err(|failure| failure.into_error("list", clone))?;
    let made = made_in(clone, &list::rows::<2>(&text)?)?;
    let lzc = lzc(clone)?;
    for inside in made.iter().rev() {
        let gone = match inside.contains('@') {
            true => lzc.destroy_snapshots(std::slice::from_ref(inside), false),
            false => lzc.destroy(inside),
        };
        if let Err(why) = gone {
            tracing::warn!("{inside} stays: {why}");
        }
    }
    Ok(())
}

/// Of names with their transactions, what was made in `clone`.
///
/// # Errors
/// [`Error::Refused`] if something older is in it.
fn made_in(clone: &str, rows: &[[&str; 2]]) -> Result<Vec<String>> {
    let own = rows.iter().find(|[name, _]| *name == clone).map(|[_, txg]| list::number(txg)).transpose()?;
    let mut made = Vec::new();
    for [name, txg] in rows.iter().filter(|[name, _]| *name != clone) {
        let txg = list::number(txg)?;
        if own.is_none_or(|own| txg <= own) {
            return Err(Error::Refused {
                op: "destroy",
                subject: clone.to_owned(),
                why: format!("it was promoted, or something was moved into it: {name} is older than it is"),
                hint: Some("zfs promote DATASET gives the history back to what it was cloned from".into()),
            });
        }
        made.push((*name).to_owned());
    }
    Ok(made)
}

/// Whether what is called so has this mark set on itself, and is what was made.
fn is_made_by_us(full: &str, mark: &str, made: Option<Guid>) -> Result<bool> {
    let args = ["get", "-Hp", "-o", "property,value,source", &format!("guid,{MARK}"), full];
    let text = program::zfs(&args).map_err(|failure| failure.into_error("read", full))?;
    let is_ours = is_as_made(&text, mark, made);
    if !is_ours {
        tracing::warn!("{full} is not what was made under this name, and stays");
    }
    Ok(is_ours)
}

/// What `zfs get` says of guid and mark. A mark that is a text of several lines or columns is none of ours.
fn is_as_made(text: &[u8], mark: &str, made: Option<Guid>) -> bool {
    let Ok(rows) = list::rows::<3>(text) else { return false };
    let [["guid", guid, _], [MARK, found, "local"]] = rows[..] else { return false };
    let is_it = made.is_none_or(|made| list::number(guid).is_ok_and(|guid| Guid::of_zfs(guid) == made));
    found == mark && is_it
}

fn guid(full: &str) -> Result<Option<Guid>> {
    if !lzc(full)?.exists(full) {
        return Ok(None);
    }
    let text = dataset::get(full, "guid").map_err(|failure| failure.into_error("read", full))?;
    Ok(Some(Guid::of_zfs(list::number(&text)?)))
}

fn kept_as(dataset: &Dataset) -> Result<BTreeMap<String, String>> {
    let name = dataset.name().as_str();
    let text = program::zfs(&["get", "-Hp", "-o", "property,value", &KEPT_AS.join(","), name])
        .map_err(|failure| failure.into_error("read", dataset))?;
    let rows = list::rows::<2>(&text)?.into_iter();
    Ok(rows.map(|[property, value]| (property.to_owned(), value.to_owned())).collect())
}

fn listed(which: &[&str], name: &str) -> Result<Vec<String>> {
    let args = [&["list", "-Hp", "-o", "name"], which, &[name]].concat();
    let text = program::zfs(&args).map_err(|failure| failure.into_error("list", name))?;
    Ok(list::rows::<1>(&text)?.iter().map(|[name]| (*name).to_owned()).collect())
}

/// The library, once the pool of `name` is there: what is in one that is not imported is not gone.
fn with_pool(name: &str) -> Result<&'static crate::sys::lzc::Lzc> {
    let lzc = lzc(name)?;
    match lzc.exists(pool_of(name)) {
        true => Ok(lzc),
        false => Err(Error::NotFound {
            what: "pool",
            subject: pool_of(name).to_owned(),
            hint: Some("zpool import; zpool list".into()),
        }),
    }
}

fn pool_of(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

/// What says on a clone whose it is, whichever generation it becomes: its home, its overlay, and digits of its own.
fn mark_of(name: &str) -> String {
    let digits = name.rsplit(':').next().unwrap_or_default();
    MountSource::parse_file_name(name)
        .map_or_else(|| name.to_owned(), |source| format!("{}:{}:{digits}", source.home, source.name))
}

/// The overlay whose clone is called `name`, if that is what such a one is called.
pub(super) fn overlay_of(name: &str) -> Option<OverlayName> {
    let last = name.strip_prefix(folder_of(name)?)?.strip_prefix('/')?;
    MountSource::parse_file_name(last).map(|source| source.name)
}

/// What depends on a snapshot, as people know it: a clone that an overlay shows by the name of that.
pub(super) fn told<'a>(clones: impl Iterator<Item = &'a str>) -> Vec<String> {
    let told =
        |clone: &str| overlay_of(clone).map_or_else(|| clone.to_owned(), |name| format!("overlay {name}"));
    clones.map(told).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What would take away what depends on a snapshot.
pub(super) fn how_to_destroy(clone: &str) -> String {
    match overlay_of(clone) {
        Some(name) => format!("cowsnap overlay destroy {}", quoted(&name)),
        None => format!("cowsnap destroy {}", quoted(clone)),
    }
}

/// The folder that `name` is, or is in, if it is called as such a one.
fn folder_of(name: &str) -> Option<&str> {
    let (pool, rest) = name.split_once('/')?;
    let is_folder = rest.split(['/', '@', '#']).next() == Some(FOLDER);
    is_folder.then(|| &name[..pool.len() + 1 + FOLDER.len()])
}

fn is_called_as_a_base(name: &str) -> bool {
    name.split_once('@').is_some_and(|(_, last)| last.starts_with(SNAPSHOT))
}

/// What no listing shows: what overlays made for themselves.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    names: HashSet<String>,
}

impl Hidden {
    /// What of these is an overlay's, by its name and its own mark. Starts a program only if something is called so.
    ///
    /// # Errors
    /// What `zfs` says.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self> {
        let asked: BTreeSet<_> = names.flat_map(asked_for).collect();
        if asked.is_empty() {
            return Ok(Self::default());
        }
        let wanted = format!("{MARK},origin");
        let mut args = vec!["get", "-Hp", "-s", "local,none", "-o", "name,property,value", &wanted];
        args.extend(&asked);
        match program::zfs(&args) {
            Ok(text) => Ok(Self::read(&String::from_utf8_lossy(&text))),
            // One of them went meanwhile.
            Err(program::Failure::Said(_)) => {
                let said = |name: &&str| {
                    let mark = props::set_here(name, MARK).ok()??;
                    let origin = dataset::get(name, "origin").ok()?;
                    Some(format!("{name}\t{MARK}\t{mark}\n{name}\torigin\t{origin}\n"))
                };
                Ok(Self::read(&asked.iter().filter_map(said).collect::<String>()))
            }
            Err(failure) => Err(failure.into_error("read", FOLDER)),
        }
    }

    /// Of lines of a name, a property and its value, what is marked as what it is called. What was promoted is no clone any more: it has
    /// the history of what it was cloned from, and is shown.
    fn read(text: &str) -> Self {
        let row = |line: &'_ str| {
            let (name, rest) = line.split_once('\t')?;
            let (property, value) = rest.split_once('\t')?;
            Some([name, property, value].map(str::to_owned))
        };
        let rows: Vec<_> = text.lines().filter_map(row).collect();
        let was_promoted =
            |name: &str| clone_of(name) == Some(name) && rows.iter().any(|row| *row == [name, "origin", "-"]);
        let is_hidden = |[name, property, value]: &&[String; 3]| {
            property == MARK && is_marked_as_called(name, value) && !was_promoted(name)
        };
        Self { names: rows.iter().filter(is_hidden).map(|[name, ..]| name.clone()).collect() }
    }

    /// Whether `name` is one of these, or is in one.
    pub(super) fn has(&self, name: &str) -> bool {
        let own = clone_of(name).or_else(|| folder_of(name)).unwrap_or(name);
        self.names.contains(own)
    }
}

fn is_marked_as_called(name: &str, mark: &str) -> bool {
    match folder_of(name) {
        Some(folder) if folder == name => mark == IS_FOLDER,
        Some(_) => overlay_of(name).is_some() && mark == mark_of(name.rsplit('/').next().unwrap_or_default()),
        None => is_called_as_a_base(name) && mark.rsplit(':').next() == name.rsplit(':').next(),
    }
}

/// What has to be asked for its mark, to know of `name`.
fn asked_for(name: &str) -> Option<&str> {
    clone_of(name).or_else(|| folder_of(name)).or_else(|| is_called_as_a_base(name).then_some(name))
}

/// What directly in a folder `name` is, or is in.
fn clone_of(name: &str) -> Option<&str> {
    let folder = folder_of(name)?;
    let rest = name[folder.len()..].strip_prefix('/')?;
    let len = rest.find(['/', '@', '#']).unwrap_or(rest.len());
    Some(&name[..folder.len() + 1 + len])
}

impl Dataset {
    /// What was cloned from snapshots of it that were taken for overlays: no listing shows these.
    pub(super) fn clones_of_hidden(&self) -> Result<Vec<String>> {
        let name = self.name().as_str();
        let args = ["list", "-Hp", "-t", "snapshot", "-d", "1", "-o", "name,clones", name];
        let text = program::zfs(&args).map_err(|failure| failure.into_error("list", self))?;
        let rows = list::rows::<2>(&text)?;
        let hidden = Hidden::of(rows.iter().map(|[name, _]| *name).filter(|name| is_called_as_a_base(name)))?;
        let clones =
            rows.iter().filter(|[name, _]| hidden.has(name)).flat_map(|[_, clones]| clones.split(','));
        Ok(clones.filter(|clone| !clone.is_empty() && *clone != "-").map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLONE: &str = "tank/cowsnap-overlays/cowsnap:0123456789abcdef:ci:1:7:00000000000000ff";

    #[test]
    fn a_clone_says_by_its_name_which_overlay_shows_it() {
        let name = |text| overlay_of(text).map(|name| name.to_string());
        assert_eq!(name(CLONE).as_deref(), Some("ci"));
        let deep = CLONE.replace("tank/", "tank/x/");
        for other in
            ["tank", "tank/cowsnap-overlays", "tank/cowsnap-overlays/x", &deep, "tank/cowsnap-overlaysx/y"]
        {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(how_to_destroy(CLONE), "cowsnap overlay destroy 'ci'");
        assert_eq!(how_to_destroy("tank/b"), "cowsnap destroy 'tank/b'");
    }

    #[test]
    fn many_copies_are_one_overlay_that_depends_on_a_snapshot() {
        let second = CLONE.replace(":1:7:", ":2:9:");
        assert_eq!(told([CLONE, "tank/b", &second].into_iter()), ["overlay ci", "tank/b"]);
    }

    #[test]
    fn what_is_marked_as_it_is_called_is_hidden_and_nothing_else() {
        let base = "tank/a b@cowsnap-overlay:00000000000000ff";
        let theirs = "tank/cowsnap-overlays/theirs";
        let stolen = CLONE.replace(":7:00000000000000ff", ":7:00000000000000aa");
        let promoted = CLONE.replace(":ci:", ":gone:");
        let marks = [
            ("tank/cowsnap-overlays", "folder"),
            (CLONE, "0123456789abcdef:ci:00000000000000ff"),
            (&promoted, "0123456789abcdef:gone:00000000000000ff"),
            (base, "x:ci:00000000000000ff"),
            (theirs, "folder"),
            (&stolen, "0123456789abcdef:ci:00000000000000ff"),
            ("other/cowsnap-overlays", "mine"),
        ];
        let lines = marks.map(|(name, mark)| {
            let origin = if name == CLONE { "tank/a@s" } else { "-" };
            format!("{name}\tcowsnap:overlay\t{mark}\n{name}\torigin\t{origin}\n")
        });
        let text = lines.concat() + "no line\n";
        let hidden = Hidden::read(&text);
        let inside = format!("{CLONE}@theirs");
        for name in ["tank/cowsnap-overlays", CLONE, &inside, base] {
            assert!(hidden.has(name), "{name}");
        }
        for name in [
            "tank",
            "tank/a b",
            "other/cowsnap-overlays",
            "tank/b@cowsnap-overlay:01",
            "tank/cowsnap-overlays2",
            theirs,
            &stolen,
            &promoted,
            &format!("{promoted}@s"),
        ] {
            assert!(!hidden.has(name), "{name}");
        }
        assert!(!Hidden::default().has(CLONE), "nobody marked it");
        assert_eq!(asked_for(&inside), Some(CLONE));
        assert_eq!((asked_for("tank/a"), asked_for(base)), (None, Some(base)));
    }

    #[test]
    fn the_mark_of_a_clone_is_the_same_whichever_generation_it_becomes() {
        let name = |generation| format!("cowsnap:0123456789abcdef:ci:1:{generation}:00000000000000ff");
        assert_eq!(mark_of(&name(0)), "0123456789abcdef:ci:00000000000000ff");
        assert_eq!(mark_of(&name(0)), mark_of(&name(7)));
    }

    #[test]
    fn what_is_older_than_a_clone_was_not_made_in_it() {
        let (snapshot, child) = (format!("{CLONE}@theirs"), format!("{CLONE}/theirs"));
        let rows = [[CLONE, "100"], [&snapshot, "101"], [&child, "102"]];
        assert_eq!(made_in(CLONE, &rows).expect("all newer"), [snapshot.clone(), child.clone()]);
        for older in ["100", "99", "?"] {
            assert!(
                made_in(CLONE, &[[CLONE, "100"], [&child, "102"], [&snapshot, older]]).is_err(),
                "{older}"
            );
        }
        assert!(made_in(CLONE, &[[&snapshot, "101"]]).is_err(), "its own is not known");
    }

    #[test]
    fn only_what_has_the_mark_on_itself_and_the_guid_is_what_was_made() {
        let (guid, text) = (Some(Guid::of_zfs(7)), "guid\t7\t-\ncowsnap:overlay\tm\tlocal\n");
        assert!(is_as_made(text.as_bytes(), "m", guid) && is_as_made(text.as_bytes(), "m", None));
        assert!(
            !is_as_made(text.as_bytes(), "n", guid)
                && !is_as_made(text.as_bytes(), "m", Some(Guid::of_zfs(8)))
        );
        for other in [
            "guid\t7\t-\ncowsnap:overlay\tm\tinherited from tank\n",
            "guid\t7\t-\ncowsnap:overlay\tm\treceived\n",
            "guid\t7\t-\ncowsnap:overlay\t-\t-\n",
            "guid\t7\t-\ncowsnap:overlay\tx\tlocal\ncowsnap:overlay\tm\tlocal\n",
            "",
        ] {
            assert!(!is_as_made(other.as_bytes(), "m", guid), "{other}");
        }
    }

    #[test]
    fn a_clone_keeps_files_as_its_base_does_and_is_marked_from_its_first_moment() {
        let kept = [("acltype", "posix"), ("recordsize", "16384"), ("xattr", "on"), ("atime", "off")];
        let origin = Origin {
            snapshot: "tank/a@s".into(),
            guid: None,
            mark: None,
            kept_as: kept.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        let props: BTreeMap<_, _> = origin.props("m").into_iter().collect();
        let number = |name: &str| props.get(name).cloned();
        assert_eq!(number("cowsnap:overlay"), Some(Prop::Text("m".into())));
        assert_eq!(number("acltype"), Some(Prop::Number(1)));
        assert_eq!(number("recordsize"), Some(Prop::Number(16384)));
        assert_eq!((number("canmount"), number("readonly")), (Some(Prop::Number(2)), Some(Prop::Number(0))));
        // The word means another thing in another version, and what is not said is the version's own.
        assert_eq!(number("xattr"), None);
        assert_eq!(origin.pool(), "tank");
    }
}
